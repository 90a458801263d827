-- What leads to a looproom can be found from it, so that taking a looproom away reads no whole table.
create index passes_of_room on passes (room_id);
create index engagement_of_room on engagement (room_id);
