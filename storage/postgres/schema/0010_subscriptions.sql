-- What happens to persons, and what they have paid for.

-- Events of persons are durable; each has its offset, for all connections of the person and for those who come back.

-- The last offset of a person, moved in the transaction that stores the event. A person to whom nothing happened has no row.
create table person_positions (
    user_id uuid primary key references users on delete cascade,
    last bigint not null
) with (fillfactor = 50);

-- An event as it is on the wire, in JSON. `changes_session`: what the sessions of the person may do is to be read again.
create table person_events (
    user_id uuid not null references users on delete cascade,
    "offset" bigint not null,
    changes_session boolean not null,
    body text not null,
    happened_at timestamptz not null default now(),
    primary key (user_id, "offset")
);

-- For those who look for events that no publication brought, and for forgetting old ones.
create index person_events_by_time on person_events (happened_at);

-- What is paid is seen at the payment provider; amounts and cards are its business.
create type subscription_status as enum ('TRIAL', 'ACTIVE', 'CANCELED', 'EXPIRED');

-- Whose a customer of the provider is. Somebody may have several, when an answer of the provider was lost for long.
create table payment_customers (
    id text primary key,
    user_id uuid not null references users on delete cascade,
    created_at timestamptz not null default now()
);
create index payment_customers_of_user on payment_customers (user_id, created_at);

-- Events of the provider whose effect is committed: the row is written in the transaction of the effect, so that an event has
-- it once, however often it comes.
create table payment_events (
    id text primary key,
    kind text not null,
    taken_at timestamptz not null default now()
);
create index payment_events_by_age on payment_events using brin (taken_at);

-- The newest state of each subscription that was seen at the provider. `seen_at` (seconds since 1970) is when it was so.
create table payment_subscriptions (
    id text primary key,
    user_id uuid not null references users on delete cascade,
    seen_at bigint not null,
    body jsonb not null
);
create index payment_subscriptions_of_user on payment_subscriptions (user_id);

-- What follows from them: how a person's subscription stands. It changes by itself at `changes_at`. `users.tier` is a copy of
-- `tier`, made in the same transaction.
create table subscriptions (
    user_id uuid primary key references users on delete cascade,
    tier subscription_tier not null,
    status subscription_status not null,
    until timestamptz not null,
    renews boolean not null,
    reason text not null,
    changes_at timestamptz
);
create index subscriptions_due on subscriptions (changes_at) where changes_at is not null;
