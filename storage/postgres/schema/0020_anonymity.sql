-- Whoever is anonymous is seen by others under a pseudonym in each room. What they say keeps it, whatever they are later.
alter table users add column anonymous boolean not null default false;

-- As whom a line was said: the pseudonym of that room, or, without one, its author.
alter table chat_lines
    add column pseudonym uuid,
    add column pseudonym_name text,
    add check ((pseudonym is null) = (pseudonym_name is null));
