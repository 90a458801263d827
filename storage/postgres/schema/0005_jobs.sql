-- Durable jobs: what a transaction leaves to be done after its commit, by whichever node is free.

-- `run_at` is when a job may be taken: at once or later, after a failure, or when the lease of a node that took it has ended.
-- `attempts` counts how often it was taken, and tells the present lease from an earlier one. A job is deleted when it is
-- done. One that never will be stays with `died_at` and the reason, which holds nothing personal.
create table jobs (
    id bigint generated always as identity primary key,
    kind text not null,
    payload jsonb not null,
    key text,
    run_at timestamptz not null,
    attempts integer not null default 0,
    running boolean not null default false,
    again boolean not null default false,
    reason text,
    created_at timestamptz not null default now(),
    died_at timestamptz
) with (fillfactor = 80);
create index jobs_due on jobs (kind, run_at) where died_at is null;
create unique index jobs_by_key on jobs (kind, key) where key is not null and died_at is null;
create index jobs_dead on jobs (died_at) where died_at is not null;

-- What runs once a period: when the next one begins. Whoever moves it enqueues the job, in the same transaction.
create table job_periods (
    kind text primary key,
    next_at timestamptz not null
);
