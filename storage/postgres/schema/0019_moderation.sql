-- Roles: who asked for one, who decided, and a record of every decision.

create type application_state as enum ('PENDING', 'APPROVED', 'DECLINED');

-- What somebody writes about themselves, and the reason that they are given, are for them and for moderators: sealed.
create table creator_applications (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references users on delete cascade,
    state application_state not null default 'PENDING',
    sealed_about bytea not null,
    sealed_reason bytea,
    applied_at timestamptz not null default now(),
    decided_at timestamptz,
    decided_by uuid references users on delete set null,
    check ((state = 'PENDING') = (decided_at is null))
);
create unique index creator_applications_pending on creator_applications (user_id) where state = 'PENDING';
create index creator_applications_waiting on creator_applications (applied_at, id) where state = 'PENDING';
create index creator_applications_of_user on creator_applications (user_id, applied_at);
create index creator_applications_by_decider on creator_applications (decided_by);

-- What was done to whom, and by whom: an operator at the command line where nobody is named and `by_operator` is set. Whoever
-- leaves is taken out of it; that it was done stays.
create table decisions (
    id bigint generated always as identity primary key,
    decided_at timestamptz not null default now(),
    decision text not null,
    detail text not null default '',
    by_operator boolean not null default false,
    actor_id uuid references users on delete set null,
    subject_id uuid references users on delete set null
);
create index decisions_by_actor on decisions (actor_id, id);
create index decisions_about on decisions (subject_id, id);
