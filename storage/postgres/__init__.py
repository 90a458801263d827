"""Postgres: the one system of record. Its pool, its schema and the embedded server of the default run."""
