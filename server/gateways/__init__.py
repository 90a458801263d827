"""The services outside: each behind one protocol, each with a deadline, none of them waited for by a request."""
