-- Media: pictures of people and looprooms, and what looprooms play. The bytes are files with the names of these rows.

create type media_kind as enum ('AVATAR', 'THUMBNAIL', 'CONTENT');

-- `dropped_at` is when nothing showed it any more: the file and then the row go some time after. Of somebody who has left it is at
-- once. `opening_bytes` and `closing_from` are the parts at both ends that a player needs before it can play anything.
create table media (
    id uuid primary key,
    user_id uuid references users on delete set null,
    kind media_kind not null,
    room_id uuid references rooms on delete set null,
    media_type text not null,
    bytes bigint not null check (bytes > 0),
    sha256 bytea not null check (length(sha256) = 32),
    duration_ms bigint,
    opening_bytes bigint not null default 0,
    closing_from bigint,
    made_at timestamptz not null default now(),
    dropped_at timestamptz
);
create index media_of_user on media (user_id);
create index media_of_room on media (room_id);
create index media_dropped on media (dropped_at) where dropped_at is not null;

-- An upload reserves the place of its bytes until it is finished, given up, or silent for too long. One that is finished stays for
-- a while, so that whoever missed its answer can ask what came of it.
create table uploads (
    id uuid primary key,
    user_id uuid not null references users on delete cascade,
    kind media_kind not null,
    room_id uuid references rooms on delete cascade,
    media_type text not null,
    bytes bigint not null check (bytes > 0),
    media_id uuid references media on delete set null,
    finished boolean not null default false,
    begun_at timestamptz not null default now(),
    touched_at timestamptz not null default now(),
    check ((kind = 'AVATAR') = (room_id is null))
);
create index uploads_of_user on uploads (user_id);
create index uploads_of_room on uploads (room_id);
create index uploads_of_media on uploads (media_id);
create index uploads_by_age on uploads (touched_at);
