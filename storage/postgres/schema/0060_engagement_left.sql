-- What counts of members, and for creators, who have left before the month was shared out: how long it was, for whom, and of nobody.
create table engagement_left (
    period text not null,
    payee_id uuid not null references creators,
    seconds double precision not null,
    primary key (period, payee_id)
);
