-- What goes with a vybe, or with a person, is forgotten all together and not row by row: a vybe has many comments.

drop trigger vybes_are_forgotten on vybes;
drop trigger comments_are_forgotten on comments;
drop function vybe_gone();
drop function comment_gone();
drop function forget_reactions(uuid);

create function vybes_gone() returns trigger language plpgsql as $$
begin
    delete from reactions r using gone where r.target_id = gone.id;
    delete from reaction_totals t using gone where t.target_id = gone.id;
    update vybe_positions p set shares = p.shares - less.n
    from (select of_id, count(*) as n from gone where of_id is not null group by of_id) less
    where p.vybe_id = less.of_id;
    return null;
end
$$;
create trigger vybes_are_forgotten after delete on vybes
    referencing old table as gone for each statement execute function vybes_gone();

create function comments_gone() returns trigger language plpgsql as $$
begin
    if exists (select from gone) then
        delete from reactions r using gone where r.target_id = gone.id;
        delete from reaction_totals t using gone where t.target_id = gone.id;
        update vybe_positions p set comments = p.comments - less.n
        from (select vybe_id, count(*) as n from gone group by vybe_id) less
        where p.vybe_id = less.vybe_id;
    end if;
    return null;
end
$$;
create trigger comments_are_forgotten after delete on comments
    referencing old table as gone for each statement execute function comments_gone();
