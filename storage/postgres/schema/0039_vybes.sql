-- Vybes, what is said about them, and how far the feed has come.
--
-- The id of a vybe and of a comment begins with its moment (UUID version 7): newest first is the order of ids, a page is a range
-- of them, and partitions by date will be ranges of ids.

create type vybe_kind as enum ('REFLECTION', 'MILESTONE', 'INSPIRATION', 'GRATITUDE', 'PROGRESS_UPDATE');
create type vybe_privacy as enum ('PUBLIC', 'FRIENDS_ONLY', 'PRIVATE', 'ANONYMOUS');

-- A vybe that is removed is not there any more: neither are its comments, nor what was shared of it. `pseudonym` is as whom it
-- was posted; without one, as its author.
create table vybes (
    id uuid primary key,
    author_id uuid not null references users on delete cascade,
    kind vybe_kind not null,
    privacy vybe_privacy not null,
    text text not null,
    room_id uuid references rooms on delete set null,
    of_id uuid references vybes on delete cascade,
    pseudonym uuid,
    pseudonym_name text,
    posted_at timestamptz not null default now(),
    edited_at timestamptz,
    check ((pseudonym is null) = (pseudonym_name is null)),
    check (privacy <> 'ANONYMOUS' or pseudonym is not null),
    check (of_id is not null or text <> '')
);
create index vybes_for_all on vybes (id desc) where privacy in ('PUBLIC', 'ANONYMOUS');
create index vybes_for_friends on vybes (author_id, id desc) where privacy = 'FRIENDS_ONLY';
create index vybes_of_author on vybes (author_id, id desc);
create index vybes_shared on vybes (of_id) where of_id is not null;
create index vybes_about_room on vybes (room_id) where room_id is not null;

-- What changes with each comment: the last offset of what happened to a vybe, and how much there is. Narrow, with room on its page
-- for the new version (HOT), and locked without standing in the way of whoever reads the vybe.
create table vybe_positions (
    vybe_id uuid primary key references vybes on delete cascade,
    last bigint not null default 0,
    comments bigint not null default 0,
    shares bigint not null default 0
) with (fillfactor = 50);

-- Like a line of chat a comment outlives its author for a moment: their row goes at once, and the comments some at a time, each with
-- the event by which others see it go. Until then nobody is found who has said them, and so nothing of them.
create table comments (
    vybe_id uuid not null references vybes on delete cascade,
    "offset" bigint not null,
    id uuid not null unique,
    author_id uuid not null,
    text text not null,
    pseudonym uuid,
    pseudonym_name text,
    sent_at timestamptz not null default now(),
    edited_at timestamptz,
    primary key (vybe_id, "offset"),
    check ((pseudonym is null) = (pseudonym_name is null))
);
create index comments_of_author on comments (author_id, id);

-- How many changes there were of what everyone's feed may show.
create table feed_position (
    only_row boolean primary key default true check (only_row),
    last bigint not null default 0
) with (fillfactor = 50);
insert into feed_position default values;

comment on column idempotency_keys.line_id is 'What came of the key: a line of chat, a vybe or a comment.';

-- Whatever goes, by whatever way (removed, or with its author, or with what it is about), takes its reactions with it, and is
-- counted no longer.
create function forget_reactions(target uuid) returns void language sql as $$
    delete from reactions where target_id = target;
    delete from reaction_totals where target_id = target;
$$;

create function vybe_gone() returns trigger language plpgsql as $$
begin
    perform forget_reactions(old.id);
    if old.of_id is not null then
        update vybe_positions set shares = shares - 1 where vybe_id = old.of_id;
    end if;
    return null;
end
$$;
create trigger vybes_are_forgotten after delete on vybes for each row execute function vybe_gone();

create function comment_gone() returns trigger language plpgsql as $$
begin
    perform forget_reactions(old.id);
    update vybe_positions set comments = comments - 1 where vybe_id = old.vybe_id;
    return null;
end
$$;
create trigger comments_are_forgotten after delete on comments for each row execute function comment_gone();
