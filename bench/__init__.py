"""Load testers: each scenario states the question that it answers, and measures the real server from outside.

``python -m bench fanout``     how many deliveries a second does one core carry, how late, at what CPU, and is any lost?
``python -m bench commits``    what does it cost to store a reaction or a line, one by one and by group commit?

The rules of all of them
    The rate is open-loop: each event has its moment, its latency counts from that moment, and what is sent late is
    reported as late. So a server that stalls cannot hide it by making the tester wait (coordinated omission).
    Loss and duplicates are counted for every member, exactly. Latency is taken at a sample of the members, on the
    monotonic clock that all processes of a machine share.
    CPU is the kernel's accounting of the server's process, not wall time. The tester's own CPU is printed beside it: when
    that is near a whole core, the figure is the tester's, not the server's, and the report says so.
"""
