-- What is personal and not shown to others is sealed (storage/sealing.py): columns named `sealed_...` hold envelopes.

-- Of an e-mail identity the subject is the index of the address from here on, in hexadecimal; the address itself is sealed for the
-- person. Rows of before have no sealed address, and the address as their subject: the server seals them in the background.
alter table identities add column sealed_address bytea;
create index identities_unsealed on identities (user_id) where provider = 'EMAIL' and sealed_address is null;

-- The same of devices: `device` is empty where `sealed_device` has taken its place.
alter table sessions add column sealed_device bytea;
create index sessions_unsealed on sessions (id) where device <> '';
