-- Who is known through Google or Apple: found by issuer and subject alone. The address that a provider has verified is sealed
-- like any other, and `address_index` finds it: not to let anybody in, but to tell that there is an account with it already. There is
-- no index for an address that the provider only forwards from, because nobody else can have it.
alter table identities
    add column address_index text,
    add column hides_address boolean not null default false;
create unique index identities_one_of_provider on identities (user_id, provider) where provider <> 'EMAIL';
create index identities_by_verified_address on identities (address_index) where address_index is not null;

-- What an ID token or a sign-in under way has proven counts once: this is the hash of what has been used, until it has expired.
create table spent_proofs (
    hash bytea primary key check (length(hash) = 32),
    expires_at timestamptz not null
);
create index spent_proofs_by_end on spent_proofs (expires_at);

-- What Apple gave, to be revoked when the person leaves or unlinks it: then it is nobody's, and a job revokes it. One for each
-- client id, because to revoke any of its tokens revokes all.
create table provider_tokens (
    id uuid primary key default gen_random_uuid(),
    user_id uuid references users on delete set null,
    provider auth_provider not null,
    client_id text not null,
    sealed_token bytea not null,
    created_at timestamptz not null default now(),
    unique (user_id, provider, client_id)
);
