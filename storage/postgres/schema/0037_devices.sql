-- Devices that are pushed to, each of one session: what the push service calls it is sealed, and found by its index, because one
-- device is one token, whoever was signed in on it before.

-- `seen` is how far the device has acknowledged the events of its person over its own connection, `pushed` how far they were pushed to
-- it. What is behind neither, and unread, is to be pushed.
create table push_devices (
    session_id uuid primary key references sessions on delete cascade,
    user_id uuid not null references users on delete cascade,
    token_index bytea not null unique check (length(token_index) = 32),
    sealed_token bytea not null,
    seen bigint not null,
    pushed bigint not null,
    registered_at timestamptz not null default now()
);
create index push_devices_of_user on push_devices (user_id);

-- What nobody has read, in the order in which it happened first.
create index notifications_unpushed on notifications (user_id, first) where read_at is null;
