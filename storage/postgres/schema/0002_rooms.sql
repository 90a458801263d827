-- Looprooms: the catalogue, each room's position, and previews that were used.

create table categories (
    slug text primary key check (slug ~ '^[a-z0-9-]{1,64}$'),
    name text not null,
    description text not null,
    colour text not null,
    icon text not null,
    position integer not null
);

create type content_kind as enum ('VIDEO', 'AUDIO', 'TEXT', 'MIXED');
create type room_status as enum ('DRAFT', 'PUBLISHED', 'ARCHIVED', 'RESTRICTED');

create table rooms (
    id uuid primary key default gen_random_uuid(),
    slug text not null unique check (slug ~ '^[a-z0-9-]{1,64}$'),
    title text not null,
    description text not null,
    category text not null references categories,
    host_id uuid not null references users,
    status room_status not null default 'DRAFT',
    content content_kind not null,
    content_url text,
    thumbnail text,
    duration_seconds integer check (duration_seconds > 0),
    difficulty text,
    premium boolean not null default false,
    preview_seconds integer not null default 0 check (preview_seconds >= 0),
    live boolean not null default false,
    created_at timestamptz not null default now()
);
create index rooms_by_title on rooms (title, id) where status = 'PUBLISHED';

-- The last offset of a room. A table of its own, because this row is the one that every chat line changes: narrow, with
-- room on its page for the new version (HOT), and locked without standing in the way of the catalogue.
create table room_positions (
    room_id uuid primary key references rooms on delete cascade,
    last bigint not null default 0
) with (fillfactor = 50);

create function make_room_position() returns trigger language plpgsql as $$
begin
    insert into room_positions (room_id) values (new.id);
    return null;
end
$$;
create trigger rooms_have_a_position after insert on rooms for each row execute function make_room_position();

-- A free member's preview of a premium room is a window of the room's `preview_seconds` that opens with the first join. It
-- is kept here, so that neither a reconnect nor another node opens it again.
create table previews (
    room_id uuid not null references rooms on delete cascade,
    user_id uuid not null references users on delete cascade,
    opened_at timestamptz not null default now(),
    primary key (room_id, user_id)
);
