"""The hub: connections, rooms, and the machine that carries an event to everyone in its room.

The one idea
    A hop (socket write, Redis publish, Postgres commit) never queues items one by one behind each other: while it is busy,
    whatever arrives is gathered, and the next turn carries all of it. A quiet system answers at once; a busy one gets
    cheaper per item; no timer decides. `fanout`, `outbox`, `storage.postgres.gather` and `storage.redis.broker` are
    this idea at four hops.

A turn of the loop
    Sockets that have bytes are read and their commands begin; commits that are done give their events to `replay`, which
    puts them in order; `fanout` joins the frames of everything that became due in each room, once per dialect, and
    writes the same bytes to each socket.

What may never enter the loop over sockets
    Encoding, framing, awaiting, a task, a log line, an object per receiver. A test counts.

The files
    `connection` alone knows a transport; `handshake` says who gets one, `identity` who they are. `fanout`, `outbox`, `backlog`,
    `intake`, `replay`, `pulse`, `limits`, `wheel` and `members` are plain synchronous objects. `dispatch` runs commands,
    `gathered` those that need no task; `subscriptions` keeps the node's rooms whole, `drain` stops a node. No file here knows a
    domain; domains plug in through `hub.Hub` and `dispatch.handles`.

Figures: ``python -m bench fanout`` prints deliveries per second and the server's CPU per delivery on this machine.
"""
