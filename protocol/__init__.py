"""The contract: every message, how it is encoded, what closes a connection, and a client that speaks it.

A whole session on one screen (JSON; ``>`` is the client)::

    > {"type": "hello", "id": 1, "token": "eyJ..."}
    < {"type": "welcome", "id": 1, "session": "...", "user": {...}, "epoch": "6f...", "heartbeat": 25, ...}
    > {"type": "room.join", "id": 2, "room": "morning-calm"}
    < {"type": "room.joined", "id": 2, "room": {...}, "offset": 41, "online": 2, "members": [...], "recent": [...], ...}
    > {"type": "chat.send", "id": 3, "room": "morning-calm", "text": "hello", "key": "a1"}
    < {"type": "chat.sent", "id": 3, "offset": 42, "line": {...}}
    < {"type": "chat.line", "room": "...", "offset": 42, "line": {...}}
    (the connection breaks; three lines are said; the client returns)
    > {"type": "hello", "id": 1, "token": "eyJ...", "resume": [{"room": "...", "epoch": "6f...", "offset": 42}]}
    < {"type": "welcome", "id": 1, ..., "resumed": [{"room": "...", "recovered": true, "missed": 3, "offset": 45, ...}]}
    < {"type": "chat.line", "room": "...", "offset": 43, "line": {...}}    (and 44, 45)

This package imports nothing else of the project.
"""
