"""What a node's process is made of: the port, the stores that are its own, workers, keys, logs, the garbage collector.

`serving` starts all of it and stops it in the other order, `operating` is what an operator does once.
"""
