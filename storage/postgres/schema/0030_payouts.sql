-- Creators are paid: to an account at the payment provider, once for each month.

-- `payable`: the provider knows all that it must, and takes money for the account.
alter table creators
    add column account text unique,
    add column payable boolean not null default false;

-- One payout for a creator and a month. While it is `begun` its money is set aside in the ledger, and a transfer may be under way;
-- one that was declined can be begun again, which is another `attempt`.
create table payouts (
    payee_id uuid not null references creators,
    period text not null,
    attempt integer not null default 1,
    cents bigint not null check (cents > 0),
    account text not null,
    state text not null check (state in ('begun', 'paid', 'declined')),
    transfer text unique,
    begun_at timestamptz not null default now(),
    primary key (payee_id, period)
);
