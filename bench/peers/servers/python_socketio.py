"""python-socketio on uvicorn: whatever one says in a room, everyone there is sent, by its own emit to a room."""

from __future__ import annotations

import os

import socketio
import uvicorn

server = socketio.AsyncServer(async_mode="asgi", transports=["websocket"])


@server.event
async def join(sid: str, room: str) -> None:
    """Let one in."""
    await server.enter_room(sid, room)
    await server.emit("joined", to=sid)


@server.event
async def say(_sid: str, room: str, text: str) -> None:
    """Pass it on."""
    await server.emit("say", text, to=room)


uvicorn.run(socketio.ASGIApp(server), host="127.0.0.1", port=int(os.environ["PORT"]), log_level="error")
