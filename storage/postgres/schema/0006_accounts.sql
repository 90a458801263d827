-- Whose an address is, what is mailed to prove it, and who waits for a place.

-- An address is proven by whoever opened a link that was mailed to it: then the issuer of the identity is empty, and one person at
-- most has it. Until then it is only claimed, and the issuer is the person's own id: many may claim one address, and none of them
-- stands in the way of the one who proves it.
alter table identities add check (provider <> 'EMAIL' or issuer = '' or issuer = user_id::text);
create unique index identities_one_address on identities (user_id) where provider = 'EMAIL';
create index identities_by_address on identities (subject, created_at) where provider = 'EMAIL';

-- A person's address is about to be another one, or has become it lately. `subject` is the index of the new one; the old one is
-- kept for as long as it can be taken back, if it was proven.
create table email_changes (
    id uuid primary key,
    user_id uuid not null references users on delete cascade,
    subject text not null,
    sealed_new bytea not null,
    sealed_old bytea,
    requested_at timestamptz not null default now(),
    confirmed_at timestamptz
);
create index email_changes_of_user on email_changes (user_id, requested_at);

-- Who would like to have an account. `subject` is an index of the address that matches no other table's.
create table waitlist (
    id uuid primary key,
    subject text not null unique,
    sealed_address bytea not null,
    requested_at timestamptz not null default now(),
    confirmed_at timestamptz,
    invited_at timestamptz
);

-- What was mailed as a link, as its SHA-256 only. A link is good for one purpose and one use; several of a purpose may be good
-- at a time, because a mail may have arrived although its server did not say so.
create type link_purpose as enum ('VERIFY', 'RESET', 'CHANGE', 'UNDO', 'WAITLIST', 'INVITATION');
create table mailed_links (
    hash bytea primary key check (length(hash) = 32),
    purpose link_purpose not null,
    user_id uuid references users on delete cascade,
    change_id uuid references email_changes on delete cascade,
    entry_id uuid references waitlist on delete cascade,
    expires_at timestamptz not null,
    check (num_nonnulls(user_id, change_id, entry_id) = 1)
);
create index mailed_links_of_user on mailed_links (user_id) where user_id is not null;
create index mailed_links_of_change on mailed_links (change_id) where change_id is not null;
create index mailed_links_of_entry on mailed_links (entry_id) where entry_id is not null;
create index mailed_links_expired on mailed_links (expires_at);
