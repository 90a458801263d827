-- Secrets that this database needs for its whole life, each sealed under a key that is not in it. See storage/sealing.py.
create table server_secrets (
    name text primary key,
    sealed bytea not null
);
