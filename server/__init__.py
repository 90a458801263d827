"""What happens. A module here is a domain, with its handlers and its jobs, or something that several domains share.

The folders are the machine: `hub` carries messages, `http` is what must be HTTP, `gateways` are the services outside, `process`
is what a process needs to run nodes, `terminal` is a client. `node` puts a node together, `cli` is the command line.
"""
