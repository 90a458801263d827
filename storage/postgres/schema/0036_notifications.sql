-- What happened to somebody: kept until it is read, and for a while after.

-- While it is unread the same again to the same thing makes no second row: it counts. `first` and `last` are the places of the
-- first and of the newest event that told of it, among the events of the person. `occasion` names what happens once, where nobody
-- in particular does it: told again it changes nothing, read or not.
create table notifications (
    id uuid primary key,
    user_id uuid not null references users on delete cascade,
    kind text not null,
    thing_kind text not null,
    thing_id uuid not null,
    part_id uuid,
    outcome text not null,
    occasion text not null,
    count integer not null,
    first bigint not null,
    last bigint not null,
    created_at timestamptz not null default now(),
    changed_at timestamptz not null default now(),
    read_at timestamptz
) with (fillfactor = 80);
create unique index notifications_unread on notifications (user_id, kind, thing_id) where read_at is null;
create unique index notifications_of_user on notifications (user_id, last);
create index notifications_by_occasion on notifications (user_id, kind, thing_id, occasion) where occasion <> '';
create index notifications_read on notifications (read_at) where read_at is not null;
create index notifications_old on notifications (changed_at) where read_at is null;

-- Who did it, each once, as whom the person sees them: `face_id` is their id, or the pseudonym that they did it under. The newest is
-- shown. `actor_id` is no reference to Postgres: who leaves goes at once, and what they did is taken back some at a time.
create table notification_actors (
    notification_id uuid not null references notifications on delete cascade,
    face_id uuid not null,
    face_name text,
    actor_id uuid not null,
    nth bigint not null generated always as identity,
    primary key (notification_id, face_id),
    check ((face_id = actor_id) = (face_name is null))
);
create index notification_actors_newest on notification_actors (notification_id, nth);
create index notification_actors_of_user on notification_actors (actor_id);

-- How somebody wants to be told, where it is not as everyone is: the way of each kind, and when nothing is pushed, in minutes of the
-- day in a time zone.
create table notification_settings (
    user_id uuid primary key references users on delete cascade,
    ways jsonb not null,
    quiet_start smallint,
    quiet_end smallint,
    quiet_zone text,
    names boolean not null,
    check (num_nonnulls(quiet_start, quiet_end, quiet_zone) in (0, 3))
);
