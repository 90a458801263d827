"""The comparison: what is reckoned from its spans, how peers speak, and one real peer that needs no other library."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.crowd import Crowd
from bench.fanout import Question as Fanout
from bench.fanout import measure, plans
from bench.ground import Ground, Site
from bench.peers import catalogue, compare, install
from bench.peers.catalogue import PEERS, Peer, peer_running
from bench.peers.compare import OURS, OURS_DURABLE, Question, Record, Span, markdown, ratios, result, table
from bench.peers.install import SERVERS, Missing, Workshop
from bench.peers.tongues import Centrifugo, Plain, SocketIo
from bench.report import page
from bench.roomlog import Heard, RoomLog, Unexpected
from bench.swarm import Listener
from bench.team import employed
from bench.tongue import Answered, Entering, Other, Seat
from bench.turns import Turns
from protocol.codec import TEXT
from protocol.frames import server_frame

SEAT = Seat("", "room")


def _span(
    deliveries: float, cpu: float, *, p99: float = 10.0, full: bool = False, busy: bool = False
) -> Span:
    return Span(deliveries=deliveries, cpu=cpu, p50=1.0, p99=p99, full=full, busy=busy)


def _records() -> dict[str, Record]:
    return {
        OURS: Record(
            spans={50.0: [_span(50, 10), _span(50, 12), _span(50, 11)], 400.0: [_span(400, 2)]}, idle=[0.01]
        ),
        "ws on Node": Record(spans={50.0: [_span(50, 22)], 400.0: [_span(100, 10, full=True)]}, idle=[0.0]),
        "slow": Record(spans={50.0: [_span(25, 40, full=True)]}, idle=[0.5]),
        "Centrifugo": Record(missing="there is no centrifugo on the PATH"),
    }


def test_figures_are_medians_of_the_rounds() -> None:
    """And a peer that was full at one rate is said to be so at the next; one that is missing is listed."""
    rows = {row[0]: row[1:] for row in table([50.0, 400.0], _records()).rows}
    assert rows[OURS] == ["400", "1.0%", "11.00 us", "10.0 ms", "2.00 us", "10.0 ms"]
    assert rows["slow"] == ["25", "50.0%", "40.00 us", "10.0 ms", "full", "full"]
    assert rows["Centrifugo"][0] == "not measured"


def test_ratios_are_ours_to_theirs() -> None:
    """Four times the deliveries at half the cost; where one was not measured there is no ratio."""
    measured = {name: record for name, record in _records().items() if record.spans}
    rows = {row[0]: row[1:] for row in ratios([50.0, 400.0], measured).rows}
    assert rows["ws on Node"] == ["4.00 x", "0.50 x", "0.20 x"]
    assert rows["slow"] == ["16.00 x", "0.28 x", "-"]
    assert OURS not in rows


def test_the_result_says_what_was_not_measured_and_where_a_tester_was_busy() -> None:
    """Both in the page and in the Markdown."""
    records = _records()
    records["ws on Node"].spans[400.0] = [_span(100, 10, busy=True)]
    found = result(Question(rates="50,400"), [50.0, 400.0], records, {"machine": "a machine"})
    text = markdown(found)
    assert "| ws on Node | 4.00 x | 0.50 x | 0.20 x |" in text
    assert "- Centrifugo was not measured: there is no centrifugo on the PATH" in text
    assert "ws on Node at 400 /s" in found.cautions[0]
    html = page({"peers": found})
    assert 'class="bar ours"' in html
    assert "was not measured" in html


def _enter(steps: Entering, payloads: list[bytes]) -> list[bytes | None]:
    said = [next(steps)]
    for payload in payloads:
        try:
            said.append(steps.send(payload))
        except StopIteration:
            return said
    raise AssertionError("not in yet")


def test_socket_io_is_spoken() -> None:
    """Open, connect, events with their name, and pings that want an answer."""
    tongue = SocketIo()
    answers = [b'0{"sid":"x"}', b'40{"sid":"y"}', b'42["joined"]']
    assert _enter(tongue.enter(SEAT), answers) == [None, b"40", b'42["join","room"]']
    assert tongue.say("room", 7, "7 123 ..", "key") == b'42["say","room","7 123 .."]'
    assert tongue.read(b'42["say","7 123 .."]') == Heard((7, 123))
    assert tongue.read(b"2") == Other("ping", reply=b"3")
    assert tongue.read(b"41") == Other("packet")


def test_centrifugo_is_spoken() -> None:
    """Connect, subscribe, publish with an answer, pushes, and pings that want an answer."""
    tongue = Centrifugo()
    replies = [b'{"id":1,"connect":{}}', b'{"push":{}}', b'{"id":2,"subscribe":{}}']
    said = _enter(tongue.enter(SEAT), replies)
    assert [one is not None and b"subscribe" in one for one in said] == [False, True, False]
    assert (
        tongue.say("room", 7, "7 123 ..", "key")
        == b'{"id":10,"publish":{"channel":"room","data":"7 123 .."}}'
    )
    assert tongue.read(b'{"id":10,"publish":{}}') == Answered(7)
    assert tongue.read(b'{"id":10,"error":{"code":103}}') == Answered(7, "103")
    assert tongue.read(b'{"push":{"channel":"room","pub":{"data":"7 123 .."}}}') == Heard((7, 123))
    assert tongue.read(b"{}") == Other("ping", reply=b"{}")


def test_a_peer_that_lets_nobody_in_is_unexpected() -> None:
    """It is not waited for without end."""
    with pytest.raises(Unexpected, match="did not let one in"):
        _enter(SocketIo().enter(SEAT), [b"41"] * 30)


def test_messages_that_come_in_different_portions_are_the_same() -> None:
    """One is sent three events in one frame, another one by one, a third without the second: two have all, one misses one."""
    lines = [b'{"push":{"channel":"room","pub":{"data":"%d 5 .."}}}' % number for number in range(3)]
    log = RoomLog()
    together, apart, without = (Listener(Centrifugo(), log, sampled=False) for _ in range(3))
    together.data_received(server_frame(TEXT, b"\n".join(lines)))
    for line in lines:
        apart.data_received(server_frame(TEXT, line))
    without.data_received(server_frame(TEXT, lines[0] + b"\n" + lines[2]))
    assert [listener.received for listener in (together, apart, without)] == [3, 3, 2]
    assert len(log) == 3


BROADCAST = Peer("websockets.broadcast", Plain(), lambda _: [sys.executable, str(SERVERS / "broadcast.py")])
"""The one peer whose library is among our own, in our own environment."""


def _lacking(_: Workshop) -> list[str]:
    raise Missing("there is none")


def test_a_real_peer_is_asked_by_the_same_client(tmp_path: Path) -> None:
    """Eight members of a peer hear every event; its process has a cost."""
    peer = BROADCAST
    question = Fanout(members=8, authors=2, rate=50, seconds=0.4, warmup=0.1, sample=1)
    with peer_running(peer, Workshop(tmp_path), None) as (port, pid):
        made = plans(question, peer.tongue, [("127.0.0.1", port)], members=[[SEAT] * 6], authors=[[SEAT] * 2])
        with employed(Crowd, made) as team:
            figures = measure(question, team, [pid])
    assert (figures.said, figures.missing, figures.duplicates) == (25, 0, 0)
    assert figures.cpu_per_delivery["server"] > 0


def test_all_take_their_turn(ground: Ground, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ours twice, and each peer, in each round; one that cannot be had is listed, and the lock is held meanwhile."""
    host, port = ground.addresses[0]
    site = Site(urls=[f"http://{host}:{port}"], pids=ground.pids, data=tmp_path)
    monkeypatch.setattr(compare, "opened", _already(ground))
    monkeypatch.setattr(compare, "PEERS", (BROADCAST, Peer("lacking", Plain(), _lacking)))
    question = Question(members=6, rates="40,80", seconds=0.3, warmup=0.1, authors=2, rounds=1)
    turns = Turns(tmp_path / "lock")
    found = compare.ask(question, site, turns)
    turns.release()
    rows = {row[0]: row for row in found.tables[0].rows}
    assert set(rows) == {OURS, OURS_DURABLE, "websockets.broadcast", "lacking"}
    assert rows["lacking"][1] == "not measured"
    assert all(
        found.value(f"most deliveries, {name}") > 0 for name in (OURS, OURS_DURABLE, "websockets.broadcast")
    )


def _already(ground: Ground) -> Any:
    class Opened:
        def __init__(self, site: Site) -> None:
            self.site = site

        def __enter__(self) -> Ground:
            return ground

        def __exit__(self, *_: object) -> None:
            return

    return Opened


def test_what_is_pinned_says_nothing_of_registries() -> None:
    """Hashes and integrity, but no address; and every server that a peer names is there."""
    pins = (install.HERE / "requirements.txt").read_text()
    assert "--hash=sha256:" in pins
    assert "index" not in pins
    assert "resolved" not in (install.HERE / "package-lock.json").read_text()
    names = {peer.name for peer in PEERS}
    assert len(names) == len(PEERS)
    assert {file.suffix for file in SERVERS.iterdir() if file.is_file()} <= {".py", ".mjs", ".c"}


def test_a_program_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no compiler the floor is missing, with its reason; a second call compiles nothing."""
    commands: list[list[str]] = []
    monkeypatch.setattr(install, "_run", lambda command, _: commands.append(list(command)))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    workshop = Workshop(tmp_path)
    assert workshop.program("floor.c") == workshop.program("floor.c") == tmp_path / "floor"
    assert len(commands) == 1
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(Missing, match="no C compiler"):
        workshop.program("floor.c")
    with pytest.raises(Missing, match="no node"):
        workshop.node("ws.mjs")
    with pytest.raises(Missing, match="no centrifugo"):
        next(peer for peer in catalogue.PEERS if peer.name == "Centrifugo").command(workshop)


def test_a_failing_installation_is_a_reason(tmp_path: Path) -> None:
    """Its last line, not a traceback."""
    with pytest.raises(Missing, match=r"^python.* failed: enough$"):
        install._run([sys.executable, "-c", "import sys; sys.exit('enough')"], tmp_path)
