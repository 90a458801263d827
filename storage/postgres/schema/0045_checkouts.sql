-- On which page of the payment provider somebody pays: one at a time for the same thing (`tier`, or `room:` and an id). With each
-- page that has ended the next `turn` begins; of one turn there is one page, whatever the answer was lost of. `wanted` is what the
-- page is for, and `key` is who asked for it.
create table checkouts (
    user_id uuid not null references users on delete cascade,
    thing text not null,
    turn integer not null default 1,
    session text unique,
    wanted text,
    key text,
    opened_at timestamptz,
    primary key (user_id, thing)
);
