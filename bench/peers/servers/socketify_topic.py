"""uWebSockets (C++) through socketify: its own publish to a topic."""

from __future__ import annotations

import os
from typing import Any

from socketify import App, AppListenOptions, OpCode

app = App()


def opened(socket: Any) -> None:
    """Have one hear the topic."""
    socket.subscribe("room")


def said(_socket: Any, text: str, opcode: OpCode) -> None:
    """Pass on what one says, to the one who says it, too."""
    app.publish("room", text, opcode)


app.ws(
    "/ws",
    {
        "compression": 0,
        "max_payload_length": 65536,
        "max_backpressure": 64 * 1024 * 1024,
        "idle_timeout": 120,
        "open": opened,
        "message": said,
    },
)
app.listen(AppListenOptions(port=int(os.environ["PORT"]), host="127.0.0.1"), lambda _: None)
app.run()
