-- How many cents of a payout's transfer were taken back at the provider: they are the creator's again in the ledger, or their debt is
-- less.
alter table payouts add column reversed_cents bigint not null default 0;
