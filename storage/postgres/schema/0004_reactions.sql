-- Reactions: one of a kind per person and target, and the totals in the same commit.

create type reaction_kind as enum ('HEART', 'CLAP', 'FIRE', 'PEACE', 'INSPIRE', 'STRENGTH', 'GRATITUDE', 'MINDFUL');
create type target_kind as enum ('looproom', 'vybe', 'comment');

create table reactions (
    target_id uuid not null,
    user_id uuid not null references users on delete cascade,
    kind reaction_kind not null,
    target_kind target_kind not null,
    created_at timestamptz not null default now(),
    primary key (target_id, user_id, kind)
);

-- `revision` counts the changes of a total: of two totals that reach a node in the wrong order, the higher revision wins.
-- Revision 0 is never kept: it is what an upsert proposes that takes away, whose row is checked before it meets the one there.
create table reaction_totals (
    target_id uuid not null,
    kind reaction_kind not null,
    target_kind target_kind not null,
    total bigint not null,
    revision bigint not null,
    primary key (target_id, kind),
    check (total >= 0 or revision = 0)
) with (fillfactor = 50);
