"""Django Channels on uvicorn: one group, by its layer in memory, or in Redis when REDIS_URL is set."""

from __future__ import annotations

import os

import django
import uvicorn
from django.conf import settings

redis = os.environ.get("REDIS_URL")
layer = (
    {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [redis]}}
    if redis
    else {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 100_000}}
)
settings.configure(CHANNEL_LAYERS={"default": layer}, SECRET_KEY="of no use", ALLOWED_HOSTS=["*"])
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402 - Django must be set up before
from channels.routing import ProtocolTypeRouter  # noqa: E402


class Room(AsyncWebsocketConsumer):
    """One who is there."""

    groups = ["room"]

    async def receive(self, text_data: str, **_: object) -> None:
        """Pass on what one says."""
        await self.channel_layer.group_send("room", {"type": "said", "text": text_data})

    async def said(self, event: dict[str, str]) -> None:
        """Tell one what was said."""
        await self.send(text_data=event["text"])


app = ProtocolTypeRouter({"websocket": Room.as_asgi()})
uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="error")
