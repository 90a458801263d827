-- Addresses that are only claimed, by their age: those that somebody else has proven are looked for every hour.
create index identities_claims on identities (created_at) where provider = 'EMAIL' and issuer <> '';
