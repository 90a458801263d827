"""Peers: the same question put to others, by the same client, in one run, taking turns.

The question is fan-out of what is passing: N people in one room, R events a second, everyone must get every one. Each peer is
a server file of ours, as short as its own documents have it, in ``servers/``; it checks no token, keeps no offset, stores
nothing and knows no presence. Ours does all of that meanwhile, and is asked a second time with durable lines.

Everything that peers need is installed into a folder of its own, never into the project's environment. What cannot be had
on this machine is listed as not measured.
"""
