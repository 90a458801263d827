"""What happens: the hub that carries messages, the handlers of each domain, the HTTP side, and the command line."""
