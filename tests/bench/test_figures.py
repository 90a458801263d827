"""The bars, and the section of the README that tells them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench import figures, start
from bench.bars import BARS, FLOOR, SOCKET_IO, UWS, table, verdicts
from bench.ground import Ground, Site
from bench.peers.catalogue import PEERS
from bench.peers.compare import OURS, OURS_DURABLE
from bench.result import Figure, Result, Table, as_markdown, new_result, write
from bench.roomlog import Unexpected
from bench.turns import Turns


class _Question(msgspec.Struct):
    members: int = 1000


def _result(scenario: str, **values: float) -> Result:
    result = new_result(scenario, f"{scenario}: what?", scenario, _Question(), {})
    result.figures = [Figure(name.replace("_", " "), value) for name, value in values.items()]
    return result


def _good() -> dict[str, Result]:
    """Results that meet every bar that they are about."""
    peers = _result("peers")
    for name, most, cpu in (
        (OURS, 2e6, 0.5),
        (OURS_DURABLE, 1e6, 0.9),
        (UWS, 1.9e6, 0.5),
        (SOCKET_IO, 7e4, 13),
    ):
        peers.figures += [
            Figure(f"most deliveries, {name}", most),
            Figure(f"CPU per delivery at 400 /s, {name}", cpu),
            Figure(f"CPU per delivery at 2000 /s, {name}", cpu),
        ]
    reactions = _result("reactions", sent=10, acknowledged=10, answer_p99=50)
    reactions.figures += [
        Figure("frames per person at most", 20),
        Figure("people with wrong totals", 0),
    ]
    return {"peers": peers, "reactions": reactions, "chat-400": _result("fanout", latency_p99=99.0)}


def test_what_is_met_is_said_and_what_is_not_measured_is_not() -> None:
    """Nine verdicts of three runs; every other bar waits for its run."""
    found = verdicts(_good())
    assert [one.holds for one in found if one.holds is not None] == [True] * 9
    assert all(one.measured == "not measured" for one in found if one.holds is None)
    rows = table(_good()).rows
    assert ["durable chat, 1,000 in a room", "at 400 lines/s p99 below 100 ms", "99.00 ms", "yes"] in rows


@pytest.mark.parametrize(
    ("run", "name", "value", "bar"),
    [
        ("chat-400", "latency p99", 100.1, "at 400 lines/s p99 below 100 ms"),
        ("reactions", "acknowledged", 9, "all acknowledged"),
        ("reactions", "people with wrong totals", 1, "totals exact"),
        (
            "peers",
            f"most deliveries, {OURS_DURABLE}",
            6.9e5,
            "at saturation 10 x the deliveries of Socket.IO",
        ),
        ("peers", f"CPU per delivery at 400 /s, {OURS}", 0.63, "at 400/s at most 1.25 x its CPU"),
    ],
)
def test_what_is_missed_is_said(run: str, name: str, value: float, bar: str) -> None:
    """Just past the bar is past it."""
    results = _good()
    for figure in results[run].figures:
        if figure.name == name:
            figure.value = value
    assert [one.bar for one in verdicts(results) if one.holds is False] == [bar]


def test_bars_name_peers_and_runs_that_there_are() -> None:
    """A renamed peer or run would be `not measured` for ever."""
    names = {peer.name for peer in PEERS}
    assert {FLOOR, UWS, SOCKET_IO} <= names
    asked: set[str] = set()

    class Runs(dict[str, Result]):
        def __missing__(self, run: str) -> Result:
            asked.add(run)
            raise KeyError(run)

    for bar in BARS:
        bar.judge(Runs())
    assert asked <= set(figures.RUNS)


def test_the_section_has_the_bars_the_peers_and_the_plan() -> None:
    """And says by which command, when, and on what machine."""
    results = _good()
    results["peers"].tables = [Table("On one core", ["", "most"], [["ws on Node", "1"]])]
    planned = _result("capacity")
    planned.tables = [Table("The plan", ["", "10,000 people"], [["nodes", "3"]])]
    text = figures.section(results, planned)
    assert text.startswith("## Figures\n")
    for said in (
        "`python -m bench figures`",
        "| ws on Node | 1 |",
        "| nodes | 3 |",
        "Measured by our own bars",
        "cores, Linux",
    ):
        assert said in text
    assert "### For how many" not in figures.section(results, None)


def test_the_readme_keeps_everything_else() -> None:
    """The section is replaced where it is, or put at the end; once more changes nothing."""
    new = "## Figures\n\nnew\n"
    assert figures.into_readme("# A\n\ntext\n", new) == "# A\n\ntext\n\n## Figures\n\nnew\n"
    within = "# A\n\n## Figures\n\nold\n\n### Of old\n\nmore\n\n## Next\n\nrest\n"
    found = figures.into_readme(within, new)
    assert found == "# A\n\n## Figures\n\nnew\n\n## Next\n\nrest\n"
    assert figures.into_readme(found, new) == found
    last = figures.into_readme("# A\n\n## Figures\n\nold\n", new)
    assert last == "# A\n\n## Figures\n\nnew\n"


def test_runs_are_kept_and_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there stays unless it is asked for by name; one that can't be done is told and does not stop the others."""
    done: list[str] = []

    def run(name: str) -> figures.Run:
        def ask(site: Site, _turns: Turns) -> Result:
            assert site.stores == "testers"
            done.append(name)
            if name == "b":
                raise Unexpected("there is no b here")
            return _result(name)

        return ask

    monkeypatch.setattr(figures, "RUNS", {name: run(name) for name in "abc"})
    write(tmp_path / "a.json", _result("a"))
    told: list[str] = []
    figures.ask((), Site(data=tmp_path), Turns(None), tmp_path, told.append)
    assert done == ["b", "c"]
    assert told == ["b was not measured: there is no b here"]
    figures.ask(("a",), Site(data=tmp_path), Turns(None), tmp_path, told.append)
    assert done == ["b", "c", "a"]
    assert list(figures.kept(tmp_path)) == ["a", "c"]
    with pytest.raises(Unexpected, match="no run 'd'; the runs are a, b, c"):
        figures.ask(("d",), Site(data=tmp_path), Turns(None), tmp_path, told.append)


def test_a_plan_needs_its_runs() -> None:
    """Without them there is none, and no traceback."""
    assert figures.plan(_good()) is None


def test_markdown_has_words_to_the_left_and_figures_to_the_right() -> None:
    """A table as people write it."""
    table_ = Table("Title", ["", "what", "how much"], [["a", "a whole sentence", "1.5 us"]], note="a note")
    assert as_markdown(table_).splitlines() == [
        "**Title**",
        "",
        "|  | what | how much |",
        "| --- | --- | ---: |",
        "| a | a whole sentence | 1.5 us |",
        "",
        "a note",
    ]


def test_a_start_is_timed_to_the_first_welcome(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the server runs already, so that it is the welcome alone."""

    class Opened:
        def __init__(self, site: Site) -> None:
            self.site = site

        def __enter__(self) -> Ground:
            return ground

        def __exit__(self, *_: object) -> None:
            return

    monkeypatch.setattr(start, "opened", Opened)
    found = start.ask(start.Question(rounds=2), Site(data=Path("/nowhere")))
    assert 0 < found.value("first welcome after") < 20
    assert len(found.plots[0].lines["from the command"]) == 2
