-- A free member's preview of a premium room lasts the room's `preview_seconds`, of which only those count that the person was
-- there. A stretch of presence is counted when it ends and every few seconds while it lasts, by every node on its own: what
-- lies before `counted_until` has been counted already, so that a person on two nodes is one. Up to `present_until` the
-- person is taken to be there still; a node that dies leaves no more than that behind.
alter table previews
    add column used_seconds double precision not null default 0 check (used_seconds >= 0),
    add column counted_until timestamptz not null default '-infinity',
    add column present_until timestamptz not null default '-infinity';
update previews p set used_seconds = greatest(0, least(extract(epoch from now() - p.opened_at), r.preview_seconds))
from rooms r where r.id = p.room_id;
alter table previews drop column opened_at;
