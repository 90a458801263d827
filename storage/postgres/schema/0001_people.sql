-- Who there is: users, how they sign in, and the sessions of their devices.

-- One random value for the life of this database: a part of the epoch, beside the cluster's own identity, so that a
-- database that was dropped and made anew in the same cluster is not mistaken for the old one.
create table server_identity (
    only_row boolean primary key default true check (only_row),
    value text not null
);
insert into server_identity (value) values (substr(replace(gen_random_uuid()::text, '-', ''), 1, 12));

create type user_role as enum ('MEMBER', 'CREATOR', 'MODERATOR', 'ADMIN');
create type subscription_tier as enum ('FREE', 'PREMIUM_MONTHLY', 'PREMIUM_YEARLY', 'CREATOR_PRO');
create type auth_provider as enum ('EMAIL', 'GOOGLE', 'APPLE');

create table users (
    id uuid primary key default gen_random_uuid(),
    role user_role not null default 'MEMBER',
    tier subscription_tier not null default 'FREE',
    name text not null check (length(name) between 1 and 80),
    avatar text,
    bio text,
    banned_at timestamptz,
    created_at timestamptz not null default now(),
    last_active_at timestamptz not null default now()
);

-- An account is found by provider, issuer and subject, never by an e-mail address alone. For EMAIL the issuer is empty
-- and the subject is the address in lower case.
create table identities (
    user_id uuid not null references users on delete cascade,
    provider auth_provider not null,
    issuer text not null default '',
    subject text not null,
    password_hash text,
    created_at timestamptz not null default now(),
    primary key (provider, issuer, subject),
    check ((provider = 'EMAIL') = (password_hash is not null))
);
create index identities_of_user on identities (user_id);

-- A session is one sign-in on one device. It ends by `ended_at` alone; what lives of it is decided by this row.
create table sessions (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references users on delete cascade,
    device text not null default '',
    created_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    ended_at timestamptz,
    ended_because text
);
create index sessions_of_user on sessions (user_id) where ended_at is null;

-- Refresh tokens are kept as their SHA-256 only. All of one session are a family: one that was replaced and comes again
-- after its grace ends the session. The successor within the grace is derived from the token itself, so it need not be kept.
create table refresh_tokens (
    hash bytea primary key check (length(hash) = 32),
    session_id uuid not null references sessions on delete cascade,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    replaced_at timestamptz,
    replaced_by bytea
);
create index refresh_tokens_of_session on refresh_tokens (session_id);
