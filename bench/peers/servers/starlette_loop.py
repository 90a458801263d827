"""Starlette on uvicorn, as tutorials do it: a set of sockets, and a send to each in a loop."""

from __future__ import annotations

import os

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

here: set[WebSocket] = set()


async def room(socket: WebSocket) -> None:
    """Pass on what one says."""
    await socket.accept()
    here.add(socket)
    try:
        while True:
            text = await socket.receive_text()
            for one in list(here):
                await one.send_text(text)
    except (WebSocketDisconnect, RuntimeError):
        pass
    finally:
        here.discard(socket)


app = Starlette(routes=[WebSocketRoute("/ws", room)])
uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="error")
