-- What creators sell, who holds a pass to it, and the ledger that says whose the money is.

-- What a looproom costs by itself, in cents: for a month, or once. With either of them it is exclusive.
alter table rooms
    add column month_cents integer check (month_cents > 0),
    add column session_cents integer check (session_cents > 0);

-- Who earns. The ledger knows them by this id alone: when they leave for good nobody knows any more whose it was.
create table creators (
    id uuid primary key default gen_random_uuid(),
    user_id uuid unique references users on delete set null,
    created_at timestamptz not null default now()
);

-- Double entry, in integer cents: debits are positive, credits negative, and each transaction sums to zero. A cause is booked
-- once. Nothing is ever changed or deleted: what was wrong is booked back. Nothing in it is personal.
create table ledger_transactions (
    id bigint generated always as identity primary key,
    cause text not null unique,
    kind text not null,
    room_id uuid,
    happened_at timestamptz not null default now()
);
create table ledger_entries (
    transaction_id bigint not null references ledger_transactions,
    account text not null,
    cents bigint not null check (cents <> 0),
    primary key (transaction_id, account)
);
create index ledger_entries_of_account on ledger_entries (account, transaction_id) include (cents);

create function ledger_must_balance() returns trigger language plpgsql as $$
declare
    checked bigint := case tg_table_name when 'ledger_entries' then (to_jsonb(new) ->> 'transaction_id')::bigint
        else (to_jsonb(new) ->> 'id')::bigint end;
begin
    if (select count(*) < 2 or sum(cents) <> 0 from ledger_entries where transaction_id = checked) then
        raise exception 'ledger transaction % does not balance', checked using errcode = 'check_violation';
    end if;
    return null;
end
$$;
create constraint trigger ledger_transactions_balance after insert on ledger_transactions
    deferrable initially deferred for each row execute function ledger_must_balance();
create constraint trigger ledger_entries_balance after insert on ledger_entries
    deferrable initially deferred for each row execute function ledger_must_balance();

create function ledger_must_stay() returns trigger language plpgsql as $$
begin
    raise exception 'the ledger is only added to' using errcode = 'check_violation';
end
$$;
create trigger ledger_transactions_stay before update or delete or truncate on ledger_transactions
    for each statement execute function ledger_must_stay();
create trigger ledger_entries_stay before update or delete or truncate on ledger_entries
    for each statement execute function ledger_must_stay();

-- Passes to exclusive looprooms, by what pays for them: a payment for one session, or a subscription. One counts while it is
-- `open`: that is as its person was told last. It ends by itself at `ends_at`.
create table passes (
    id text primary key,
    user_id uuid not null references users on delete cascade,
    room_id uuid not null references rooms on delete cascade,
    until timestamptz not null,
    ends_at timestamptz not null,
    renews boolean not null default false,
    taken_back boolean not null default false,
    open boolean not null default false
);
create index passes_of_user on passes (user_id, room_id);
create index passes_due on passes (ends_at) where open;

-- What was paid: an invoice, or a payment of its own. How it was shared out stands in the ledger; what has come back of it is
-- what `payment_returns` say of its payments, and `returned_cents` of it is booked.
create table sales (
    id text primary key,
    kind text not null,
    cents bigint not null check (cents > 0),
    pass_id text,
    returned_cents bigint not null default 0 check (returned_cents between 0 and cents),
    returns integer not null default 0
);
create index sales_of_pass on sales (pass_id) where pass_id is not null;

-- Which payment has paid an invoice. Words about payments and about invoices come in any order.
create table sale_payments (
    payment text primary key,
    sale_id text not null
);
create index sale_payments_of_sale on sale_payments (sale_id);

-- Money that has gone back: refunds of a charge, and a dispute each. `cents` is the newest that was seen, at `seen_at`.
create table payment_returns (
    id text primary key,
    payment text not null,
    cents bigint not null check (cents >= 0),
    final boolean not null,
    seen_at bigint not null
);
create index payment_returns_of_payment on payment_returns (payment);
