-- What members of premium pay is pooled by the month, and shared among creators by the time that members are with them.

-- A pool whose month is `closed` is shared out: nothing comes into it or goes back from it any more.
create table pools (
    period text primary key,
    closed_at timestamptz
);

-- How long a member who pays was in a premium looproom on one day (UTC). What lies before `counted_until` is counted already, so
-- that a person on two nodes is one.
create table engagement (
    day date not null,
    room_id uuid not null references rooms on delete cascade,
    user_id uuid not null references users on delete cascade,
    seconds double precision not null,
    counted_until timestamptz not null,
    primary key (day, room_id, user_id)
);
create index engagement_of_user on engagement (user_id);
