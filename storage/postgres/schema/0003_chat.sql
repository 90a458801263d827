-- Chat: lines, the other durable events of a room, and the keys that make creating idempotent.

-- A line is its own event: its offset is its place in the room's history.
create table chat_lines (
    room_id uuid not null references rooms on delete cascade,
    "offset" bigint not null,
    id uuid not null unique default gen_random_uuid(),
    author_id uuid not null references users,
    text text not null,
    sent_at timestamptz not null default now(),
    edited_at timestamptz,
    removed_at timestamptz,
    primary key (room_id, "offset"),
    check (removed_at is null or text = '')
);

create type room_event_kind as enum ('REVISION', 'REMOVAL');

-- What else happened in a room, in the same sequence of offsets. An event points at its line and copies nothing of it, so
-- that a text that was removed is nowhere.
create table room_events (
    room_id uuid not null references rooms on delete cascade,
    "offset" bigint not null,
    kind room_event_kind not null,
    line_id uuid not null references chat_lines (id) on delete cascade,
    actor_id uuid not null references users,
    happened_at timestamptz not null default now(),
    primary key (room_id, "offset")
);

-- A key that a person used, what for (a digest of the command) and what came of it (a reference, never a copy).
create table idempotency_keys (
    user_id uuid not null references users on delete cascade,
    key text not null,
    digest bytea not null,
    line_id uuid,
    created_at timestamptz not null default now(),
    primary key (user_id, key)
);
create index idempotency_keys_by_age on idempotency_keys using brin (created_at);
