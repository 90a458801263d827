"""Where a scenario is played: the server and what it costs, people with accounts, looprooms, and cores for the testers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.accounts import Accounts, address
from bench.kernel import raise_limit_of_files
from bench.lobby import HOST, Seats, add_rooms, open_rooms, seated
from bench.machine import machine_line
from bench.progress import Progress
from bench.roomlog import Unexpected
from bench.serving import Target, serving

TOKEN_SECONDS = 600.0
"""How long a token must still live: longer than joining and measuring take."""
CORES = {"server": {0}, "testers": {1}}


class Site(msgspec.Struct, kw_only=True):
    """Which server is tested, and how it is run when it is not there yet."""

    urls: list[str] = []
    pids: list[int] = []
    host_account: str = ""
    """E-MAIL:PASSWORD of a host, for a server that runs already."""
    nodes: int = 1
    workers: int = 1
    pin: bool = False
    stores: str = "free"
    encoding: str = "json"
    data: Path
    settings: dict[str, str] = {}


class Ground:
    """What a scenario is given. Made by `opened`."""

    def __init__(self, site: Site, target: Target, progress: Progress) -> None:
        self.url = target.urls[0]
        self.addresses = [address(url) for url in target.urls]
        self.pids = target.pids
        self.subprotocol = f"looprooms.v1+{site.encoding}"
        self.tester_cores = CORES["testers"] if site.pin else None
        self.progress = progress
        self.conditions = _conditions(site, target)
        self._site = site
        self._data = target.data
        self._accounts = Accounts(self.url, site.data / "accounts.json")

    def knows(self, count: int) -> bool:
        """Whether so many people have their accounts already."""
        return self._accounts.count >= count

    def people(self, count: int) -> list[str]:
        """Return access tokens of different people. Raises `Unexpected`."""
        with self.progress.counting("accounts", count) as ready:
            return self._accounts.people(count, TOKEN_SECONDS, ready)

    def host(self) -> str:
        """Return an access token of somebody who hosts looprooms. Raises `Unexpected`."""
        account = self._site.host_account
        if not account and self._data is not None:
            account = f"{HOST}:{(self._data / 'demo.password').read_text('ascii').strip()}"
        email, _, password = account.partition(":")
        if not password:
            raise Unexpected("cues are given by a host: name one with --host-account EMAIL:PASSWORD")
        return self._accounts.sign_in(email, password)

    def rooms(self, count: int, token: str, *, only_own: bool = False) -> list[str]:
        """Return the slugs of looprooms that the person of `token` may enter. Raises `Unexpected`."""
        if self._data is not None:
            return asyncio.run(add_rooms(self._data, count))
        found = asyncio.run(open_rooms(self.url, token, only_own=only_own))
        if len(found) < count:
            raise Unexpected(f"there are {len(found)} looprooms that can be used here, not {count}")
        return found[:count]

    def seats(
        self, *, rooms: int, members: int, authors: int, by_host: bool = False, apart: bool = False
    ) -> Seats:
        """Return seats for `members` in each of `rooms`, of whom `authors` speak. Raises `Unexpected`.

        Every member of a room is another person; the same people are in all rooms. `by_host`: it is the rooms' host who
        speaks, on as many connections. `apart`: each room has one node for itself.
        """
        authors = min(authors, members)
        host = self.host() if by_host else None
        people = self.people(members - authors if by_host else members)
        slugs = self.rooms(rooms, host or people[0], only_own=by_host)
        places = len(self.addresses)
        return seated(slugs, people, authors=authors, places=places, host=host, apart=apart)


@contextmanager
def opened(site: Site) -> Iterator[Ground]:
    """Give the ground for a scenario: start the server if there is none. Raises `Unexpected`."""
    raise_limit_of_files()
    site.data.mkdir(parents=True, exist_ok=True)
    progress = Progress()
    if site.urls:
        yield Ground(site, Target(site.urls, site.pids, {}), progress)
        return
    store_cores: Mapping[str, set[int] | None] = {
        "free": set(range(os.cpu_count() or 1)),
        "server": CORES["server"],
        "testers": CORES["testers"],
    }
    with serving(
        site.data,
        nodes=site.nodes,
        workers=site.workers,
        cores=CORES["server"] if site.pin else None,
        store_cores=store_cores[site.stores] if site.pin else None,
        settings=site.settings,
    ) as target:
        yield Ground(site, target, progress)


def _conditions(site: Site, target: Target) -> dict[str, str]:
    shape = []
    if len(target.urls) > 1:
        shape.append(f"{len(target.urls)} nodes")
    if site.workers > 1:
        shape.append(f"{site.workers} workers")
    if site.pin:
        shape.append(f"server on core {CORES['server']}, testers on {CORES['testers']}, stores {site.stores}")
    else:
        shape.append("not pinned")
    return {
        "server": ", ".join(shape),
        "settings": " ".join(f"{name}={value}" for name, value in target.settings.items()) or "its own",
        "machine": machine_line(),
    }
