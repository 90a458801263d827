-- Whoever looks for what refers to a creator, as Postgres does when one goes, finds it without reading all of it.
create index engagement_left_of_payee on engagement_left (payee_id);
