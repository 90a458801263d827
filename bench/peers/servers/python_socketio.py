"""python-socketio on uvicorn: whatever one says, everyone is sent, by its own emit to all."""

from __future__ import annotations

import os

import socketio
import uvicorn

server = socketio.AsyncServer(async_mode="asgi", transports=["websocket"])


@server.event
async def say(_sid: str, text: str) -> None:
    """Pass it on."""
    await server.emit("say", text)


uvicorn.run(socketio.ASGIApp(server), host="127.0.0.1", port=int(os.environ["PORT"]), log_level="error")
