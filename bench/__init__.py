"""Load testers: each scenario states the question that it answers, and measures the real server from outside.

``fanout``      how many deliveries a second does one core carry, how late, at what CPU, and is any lost?
``chat``        how much conversation do rooms carry before it feels slow?
``reactions``   everyone reacts all the time: are all acknowledged, how fast, and what does each person receive?
``presence``    people come and go, write and feel: what does everyone else receive?
``connects``    how many people a second can come in, from the first packet to the welcome?
``storm``       all connections break at once and all come back: how long, and is anything missed?
``idle``        what does it cost to hold connections on which nothing happens?
``http``        how late are the answers of the HTTP side?
``mix``         people who behave: does everything work for everyone at once, and how does it feel?
``soak``        the same for hours: does anything grow that should not?
``commits``     what does it cost to store a reaction or a line, one by one and by group commit?
``growth``      does a delivery cost the same, and a connection weigh the same, however many there are?
``peers``       the same question to others, by the same client, taking turns
``capacity``    how much of everything do 10 thousand, 100 thousand and a million people need?
``report``      one page of any number of results, and what changed between them

Each is ``python -m bench NAME``, against a server that it starts or, with ``--url``, against one that runs; ``--json`` keeps
what was found.

The rules of all of them
    The rate is open-loop: each event has its moment, its latency counts from that moment, and what is sent late is
    reported as late. So a server that stalls cannot hide it by making the tester wait (coordinated omission).
    Loss and duplicates are counted for every member, exactly. Latency is taken at a sample of the members, on the
    monotonic clock that all processes of a machine share.
    CPU is the kernel's accounting of the server's process, not wall time. The tester's own CPU is printed beside it: when
    that is near a whole core, the figure is the tester's, not the server's, and the report says so.
"""
