"""What statements took in Postgres, as the nodes under test counted it: read from their metrics before and after a span."""

from __future__ import annotations

import http.client
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from bench.roomlog import Unexpected

ASKED = 24
"""Times that an address is asked, each on a connection of its own: of several workers on it the kernel chooses one each time."""

_BUCKET = re.compile(
    rb'^looprooms_statement_seconds_bucket\{le="([^"]+)",node="([^"]+)"\} (\S+)$', re.MULTILINE
)

Counts = Mapping[tuple[str, float], float]
"""How many statements of a node took at most so many seconds."""


def counted(addresses: Iterable[tuple[str, int]]) -> Counts:
    """Read what all nodes have counted so far. Raises `Unexpected`."""
    found: dict[tuple[str, float], float] = {}
    for host, port in addresses:
        for _ in range(ASKED):
            connection = http.client.HTTPConnection(host, port, timeout=10)
            try:
                connection.request("GET", "/metrics", headers={"Connection": "close"})
                text = connection.getresponse().read()
            except (OSError, http.client.HTTPException) as error:
                raise Unexpected(f"http://{host}:{port}/metrics does not answer: {error!r}") from error
            finally:
                connection.close()
            for bound, node, count in _BUCKET.findall(text):
                found[node.decode(), float(bound)] = float(count)
    return found


def between(before: Counts, after: Counts) -> dict[float, float]:
    """Return how many statements of all nodes took at most so many seconds, of those that ended in between."""
    grown: defaultdict[float, float] = defaultdict(float)
    for (node, bound), count in after.items():
        grown[bound] += count - before.get((node, bound), 0)
    return dict(sorted(grown.items()))


def at_most(counts: Mapping[float, float], percent: float) -> float:
    """Return the least bound, in seconds, that so many percent of the statements keep; 0 when there were none."""
    total = max(counts.values(), default=0)
    return next((bound for bound, count in counts.items() if total and count >= total * percent / 100), 0.0)
