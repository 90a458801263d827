"""Redis or Valkey: the nerve. Its pool, the broker between nodes and the embedded server of the default run."""
