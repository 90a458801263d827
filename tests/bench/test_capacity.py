"""What is reckoned: costs from runs, plans from costs, and plans put to the test."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from bench.__main__ import main
from bench.capacity import Load, Plan, Question, ask, cpu_of_nodes, load_of, plan_for, proved
from bench.costs import RUNS, Costs, Spent, apart, costs_from
from bench.report import page
from bench.result import Figure, Result, new_result, write
from bench.roomlog import Unexpected
from bench.simulation import BURST, END, LOSS, MOST_DELAY, Trial, simulate

COSTS = Costs(
    line=Spent(100, 40, 10),
    delivery=Spent(2, 0, 0),
    reaction=Spent(50, 20, 2),
    connect=Spent(node=400),
    resume=Spent(node=300),
    waiting=5,
    memory=10_000,
    line_bytes=300,
)


class _Asked(msgspec.Struct):
    members: int = 0
    event: str = "chat"


def _result(scenario: str, figures: dict[str, float], members: int = 0) -> Result:
    result = new_result(scenario, None, scenario, _Asked(members), {})
    result.figures = [Figure(name, value) for name, value in figures.items()]
    return result


def _fanout(members: int, line: float, delivery: float) -> Result:
    each = {
        f"CPU per delivery, {role}": line / members + delivery for role in ("server", "postgres", "valkey")
    }
    return _result("fanout", each | {"bytes per delivery": 300}, members)


def _results() -> dict[str, Result]:
    return {
        "small": _fanout(10, 100, 2),
        "middle": _fanout(50, 999, 9),
        "large": _fanout(1000, 100, 2),
        "quiet": _result("idle", {"CPU per connection and hour": 18, "memory per connection": 9.5}),
        "in": _result("connects", {"CPU per connect, server": 400}),
        "back": _result("storm", {"CPU per return, server": 300}),
        "react": _result("reactions", {"CPU per reaction, server": 50, "CPU per reaction, postgres": 20}),
    }


def test_a_line_and_its_deliveries_are_told_apart() -> None:
    """From rooms of 10 and of 1,000: a line costs 100 us, a delivery 2, however they were mixed."""
    line, delivery = apart(_fanout(10, 100, 2), _fanout(1000, 100, 2))
    assert line.node == pytest.approx(100)
    assert delivery.node == pytest.approx(2)
    line, delivery = apart(_fanout(10, 0, 2), _fanout(1000, 100, 2))
    assert line.node >= 0
    assert delivery.node >= 0


def test_costs_come_from_the_right_runs() -> None:
    """The smallest and the largest room, and each other scenario; units are seconds and bytes afterwards."""
    costs = costs_from(_results())
    assert costs.source["small room"] == "small"
    assert costs.source["large room"] == "large"
    assert costs.line.postgres == pytest.approx(100)
    assert costs.reaction == Spent(50, 20, 0)
    assert (costs.connect.node, costs.resume.node) == (400, 300)
    assert costs.waiting == pytest.approx(5)
    assert costs.memory == 9.5 * 1024


@pytest.mark.parametrize("missing", ["small", "quiet", "in", "back", "react"])
def test_a_missing_run_is_named_with_its_command(missing: str) -> None:
    """So that one knows what to do."""
    results = {name: result for name, result in _results().items() if name != missing}
    if missing == "small":
        results.pop("middle")
    with pytest.raises(Unexpected, match="python -m bench"):
        costs_from(results)


def test_every_run_of_a_plan_is_a_command() -> None:
    """The commands that are named can be given."""
    for command in RUNS.values():
        done = CliRunner().invoke(main, [*command.split(), "--help"])
        assert done.exit_code == 0, done.output


def test_what_people_do_adds_up() -> None:
    """A thousand in one live room and a thousand in rooms of ten, by hand."""
    question = Question(
        live_share=0.5,
        live_room=1000,
        small_room=10,
        lines_live=0.6,
        lines_small=0.6,
        reactions=0,
        pulses_live=0,
        spread=2,
        live_spread=4,
    )
    load = load_of(question, 2000, 8)
    assert load.lines == pytest.approx(20)
    assert load.line_deliveries == pytest.approx(10 * 1000 + 10 * 10)
    assert load.copies == pytest.approx(10 * 4 + 10 * 2)
    assert load.connects == pytest.approx(2000 * 3 / 3600)
    quiet = msgspec.structs.replace(question, lines_live=0, lines_small=0, connects=0, resumes=0)
    assert cpu_of_nodes(COSTS, load_of(quiet, 2000, 8), 8) == pytest.approx(2000 * 5e-6 + 8 * 1e-3)


def test_rooms_that_are_not_kept_together_are_everywhere() -> None:
    """A thousand people at random are on each of ten nodes; with affinity they are on four."""
    together = load_of(Question(reactions=0, spread=2, live_spread=4), 10_000, 10)
    apart_ = load_of(Question(reactions=0, spread=0, live_spread=0), 10_000, 10)
    assert apart_.copies > 2 * together.copies


def test_a_plan_keeps_within_its_bounds() -> None:
    """CPU and memory of a node, with one to spare; more people never need fewer nodes."""
    question = Question()
    nodes = 0
    for people in (1_000, 10_000, 100_000, 1_000_000):
        plan = plan_for(question, COSTS, people, question.use)
        assert plan.node_share <= question.use
        assert plan.node_memory <= question.memory
        assert plan.nodes >= max(2, nodes)
        nodes = plan.nodes
    heavy = msgspec.structs.replace(COSTS, memory=10 * 2**20)
    assert plan_for(question, heavy, 10_000, 0.4).nodes >= 50


def _trial(**changed: float) -> Trial:
    values = {
        "nodes": 5,
        "people": 10_000,
        "calm": 1.0,
        "live": 1.0,
        "live_rooms": 10,
        "live_spread": 0,
        "burst": 2.0,
        "resume": 0.0003,
        "seed": 7,
    }
    return msgspec.convert(values | changed, Trial)


def test_a_trial_is_the_same_for_the_same_seed() -> None:
    """And another for another one."""
    first, again, other = simulate(_trial()), simulate(_trial()), simulate(_trial(seed=8))
    assert first == again
    assert first.busiest != other.busiest


def test_nodes_with_room_to_spare_hold() -> None:
    """Nobody waits, and those of the lost node are back within the seconds that their pauses take."""
    outcome = simulate(_trial())
    assert outcome.holds, outcome.why
    assert outcome.burst_delay < MOST_DELAY
    assert 0.5 < outcome.back < 5
    assert len(outcome.delays) == END


def test_a_burst_that_is_too_much_does_not_hold() -> None:
    """Queues grow while it lasts, and are gone some time after."""
    outcome = simulate(_trial(burst=8.0))
    assert not outcome.holds
    assert "in a burst" in outcome.why
    delays = dict(outcome.delays)
    assert delays[BURST[1]] > 1_000
    assert delays[BURST[0] - 1] < 100
    assert delays[END] < 100


def test_a_loss_that_is_too_much_does_not_hold() -> None:
    """Two nodes at 70 %: the one that is left has more than it can do."""
    outcome = simulate(_trial(nodes=2, calm=0.7, live=0.7, burst=1.0))
    assert "after a loss" in outcome.why
    assert dict(outcome.delays)[LOSS - 1] < 100


def test_a_crowd_that_comes_back_is_admitted_at_a_rate() -> None:
    """A million people of one node on one other: the last ones are back late, and the plan does not hold."""
    outcome = simulate(_trial(nodes=2, people=400_000, calm=0.2, live=0.0, burst=1.0))
    assert outcome.back > 30
    assert "the last is back" in outcome.why


def test_chance_puts_live_rooms_where_it_hurts() -> None:
    """The same load in rooms that are kept together makes some nodes busier than the even share."""
    even = simulate(_trial(nodes=40, calm=4.0, live=12.0, burst=1.0, live_rooms=60))
    uneven = simulate(_trial(nodes=40, calm=4.0, live=12.0, burst=1.0, live_rooms=60, live_spread=2))
    assert max(share for _, share in uneven.busiest) > 1.3 * max(share for _, share in even.busiest)


def test_a_plan_that_fails_gets_more_nodes() -> None:
    """With a burst that the first plan does not hold, the second has more nodes and holds."""
    question = Question(use=0.8, burst=4.0)
    first = plan_for(question, COSTS, 100_000, question.use)
    plan, outcome = proved(question, COSTS, 100_000)
    assert outcome.holds, outcome.why
    assert plan.nodes > first.nodes


def test_the_answer_is_a_table_with_its_assumptions() -> None:
    """Every option is there with its value and its meaning; what does not hold is a caution."""
    result = ask(Question(people="1000,20000"), COSTS)
    plan, assumed, costs = result.tables
    assert plan.columns == ["", "1,000 people", "20,000 people"]
    assert {row[0] for row in assumed.rows} == set(Question.__struct_fields__)
    assert costs.rows[0][:2] == ["a line, committed and published", "100.00"]
    assert not result.cautions
    assert "The plan" in page({"capacity": result})
    failing = ask(Question(people="100000", burst=1000.0), COSTS)
    assert "does not hold" in failing.cautions[0]


def test_the_command_reads_results(tmp_path: Path) -> None:
    """Files in, a plan out, kept as JSON."""
    for name, one in _results().items():
        write(tmp_path / f"{name}.json", one)
    files = [str(file) for file in tmp_path.glob("*.json")]
    kept = tmp_path / "plan" / "capacity.json"
    done = CliRunner().invoke(main, ["capacity", *files, "--people", "5000", "--json", str(kept)])
    assert done.exit_code == 0, done.output
    assert "5,000 people" in done.output
    assert kept.exists()


def test_a_load_and_a_plan_say_how_much() -> None:
    """Bandwidth and growth are of the lines and pulses that there are."""
    plan: Plan = plan_for(Question(pulses_live=0, reactions=0), COSTS, 10_000, 0.4)
    load: Load = plan.load
    assert plan.bandwidth == pytest.approx(load.line_deliveries * 300 * 8 / 1e9)
    assert plan.rows == load.lines
