-- When the provider was last asked to transfer a payout, and what it said no with. Whoever asks notes it before: so it is known
-- until when a transfer may come of it.
alter table payouts
    add column asked_at timestamptz,
    add column reason text;
