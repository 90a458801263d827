"""The HTTP side: sign-in, health, metrics and documents. Everything else goes over the websocket."""
