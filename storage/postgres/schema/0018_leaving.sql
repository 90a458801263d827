-- People can take what is theirs with them, and can leave for good. What a table holds of a person goes with their row, or loses
-- its reference to them; what stays, and why, stands in storage/privacy.py.

-- A line outlives its author: it stays as a removed line that nobody has said. The reference is none to Postgres, because the
-- row of the author goes at once and their lines some at a time, each with the event by which others see it go.
alter table chat_lines drop constraint chat_lines_author_id_fkey, alter column author_id drop not null;
create index chat_lines_of_author on chat_lines (author_id);

alter table room_events
    alter column actor_id drop not null,
    drop constraint room_events_actor_id_fkey,
    add constraint room_events_actor_id_fkey foreign key (actor_id) references users on delete set null;
create index room_events_of_actor on room_events (actor_id);

alter table rooms
    alter column host_id drop not null,
    drop constraint rooms_host_id_fkey,
    add constraint rooms_host_id_fkey foreign key (host_id) references users on delete set null;
create index rooms_of_host on rooms (host_id);

create index previews_of_user on previews (user_id);
create index reactions_of_user on reactions (user_id);

-- Reactions of people who have left, without who gave them, until they are taken out of the totals.
create table reactions_left (
    target_id uuid not null,
    kind reaction_kind not null,
    target_kind target_kind not null,
    departure uuid not null
);
create index reactions_left_by_departure on reactions_left (departure, target_id);

-- What somebody asked to be given of all that is theirs, and how far it is. It can be fetched until it expires. `run` tells the
-- job that makes it from one that was believed lost.
create table exports (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references users on delete cascade,
    run uuid,
    rows_done bigint not null default 0,
    rows_in_all bigint,
    finished_at timestamptz,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null
);
create index exports_of_user on exports (user_id, created_at);
create index exports_by_end on exports (expires_at);

-- The document, cut into pieces, each sealed.
create table export_pieces (
    id uuid primary key,
    export_id uuid not null references exports on delete cascade,
    place integer not null,
    sealed_text bytea not null,
    unique (export_id, place)
);
