-- Of which subscription a sale is, and when it was paid (seconds since 1970): when all of the newest one goes back, it ends.
alter table sales
    add column subscription_id text,
    add column paid_at bigint;
create index sales_of_subscription on sales (subscription_id, paid_at) where subscription_id is not null;
