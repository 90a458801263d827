-- Whoever leaves for good is found in what others were told of how they stand to them.
create index person_events_of_relations on person_events ((body::jsonb #>> '{relation,person,id}'))
where starts_with(body, '{"type":"relation.change"');
