-- A mute is of the name that it was given to, so somebody may be muted under several.
alter table mutes drop constraint mutes_pkey;
create unique index mutes_of_names on mutes (muter_id, muted_id, coalesce(known_as, muted_id));
