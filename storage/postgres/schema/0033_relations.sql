-- Whom people know, follow, and want to have nothing to do with. Nobody has a relation with themselves.

-- `known_as` is whom the blocker has seen, where that was a pseudonym: they never learn more of whom they blocked.
create table blocks (
    blocker_id uuid not null references users on delete cascade,
    blocked_id uuid not null references users on delete cascade,
    known_as uuid,
    known_as_name text,
    created_at timestamptz not null default now(),
    primary key (blocker_id, blocked_id),
    check (blocker_id <> blocked_id),
    check ((known_as is null) = (known_as_name is null))
);
create index blocks_by_blocked on blocks (blocked_id, blocker_id);

create table mutes (
    muter_id uuid not null references users on delete cascade,
    muted_id uuid not null references users on delete cascade,
    known_as uuid,
    known_as_name text,
    created_at timestamptz not null default now(),
    primary key (muter_id, muted_id),
    check (muter_id <> muted_id),
    check ((known_as is null) = (known_as_name is null))
);
create index mutes_by_muted on mutes (muted_id, muter_id);

-- One row for both: the lesser id first.
create table friendships (
    first_id uuid not null references users on delete cascade,
    second_id uuid not null references users on delete cascade,
    created_at timestamptz not null default now(),
    primary key (first_id, second_id),
    check (first_id < second_id)
);
create index friendships_by_second on friendships (second_id, first_id);

-- Between two people at most one: who asks somebody that has asked them is a friend.
create table friend_requests (
    sender_id uuid not null references users on delete cascade,
    receiver_id uuid not null references users on delete cascade,
    created_at timestamptz not null default now(),
    primary key (sender_id, receiver_id),
    check (sender_id <> receiver_id)
);
create index friend_requests_by_receiver on friend_requests (receiver_id, sender_id);
create unique index friend_requests_of_two on friend_requests
    (least(sender_id, receiver_id), greatest(sender_id, receiver_id));

create table follows (
    follower_id uuid not null references users on delete cascade,
    creator_id uuid not null references users on delete cascade,
    created_at timestamptz not null default now(),
    primary key (follower_id, creator_id),
    check (follower_id <> creator_id)
);
create index follows_by_creator on follows (creator_id, follower_id);

-- Who is not there for whom: a block works both ways, and not where one of the two looks after everyone.
create view hidden_pairs as
select pair.user_id, pair.other_id
from (
    select blocker_id as user_id, blocked_id as other_id from blocks
    union all
    select blocked_id, blocker_id from blocks
) pair
join users one on one.id = pair.user_id and one.role not in ('MODERATOR', 'ADMIN')
join users other on other.id = pair.other_id and other.role not in ('MODERATOR', 'ADMIN');

-- Who is a friend of whom, both ways.
create view friend_pairs as
select first_id as user_id, second_id as friend_id from friendships
union all
select second_id, first_id from friendships;

-- Whoever is anonymous is found by what they said under their pseudonym.
create index chat_lines_by_pseudonym on chat_lines (room_id, pseudonym) where pseudonym is not null;
