-- The events of one line: asked for when it is removed a second time, and followed when it goes with its room. Without this
-- each would read the events of all rooms.
create index room_events_of_line on room_events (line_id);
