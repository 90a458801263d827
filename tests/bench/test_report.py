"""The page: whole, self-contained, and honest about what changed."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from bench.report import page, unique_names, write_page
from bench.result import Curve, Figure, Plot, Result, Table, new_result, write
from bench.roomlog import Unexpected


class _Question(msgspec.Struct):
    members: int = 3


def _result(scenario: str = "fanout", *, deliveries: float = 100.0, p99: float = 10.0) -> Result:
    result = new_result(scenario, "Fan-out: how <many>?", 'a "title" & more', _Question(), {"server": "one"})
    result.figures = [
        Figure("deliveries", deliveries, "/s", "more"),
        Figure("latency p99", p99, "ms", "less"),
        Figure("sent late p99", p99, "ms", "less"),
        Figure("missing", 0),
    ]
    result.curves = [Curve("latency", 1000, [(50.0, 1.0), (99.0, p99)])]
    result.plots = [
        Plot("over <time>", "s", "%", {"server": [(0, 1), (1, 2)]}),
        Plot("bars", "", "/s", {"LOOPROOMS": [(0, 5)]}, bars=True),
    ]
    result.tables = [Table("a table", ["peer", "ratio"], [["ws", "2 x"]], note="a note")]
    return result


def _tree(text: str) -> ET.Element:
    doctype, _, rest = text.partition("\n")
    assert doctype == "<!DOCTYPE html>"
    return ET.fromstring(rest)


def _text(element: ET.Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def test_one_run_has_its_question_its_figures_and_its_plots() -> None:
    """Whatever its texts are made of, the page is well-formed; nothing in it comes from elsewhere."""
    html = page({"one": _result()})
    tree = _tree(html)
    text = _text(tree)
    for said in (
        "How <many>?",
        'a "title" & more',
        "deliveries 100 /s",
        "a table",
        "2 x",
        "a note",
        "over <time>",
    ):
        assert said in text
    assert len(list(tree.iter("{http://www.w3.org/2000/svg}svg"))) == 3
    assert re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?(?!#)', html.replace('<a href="#', "")) == []
    assert "<script" not in html


def test_runs_of_one_question_are_compared() -> None:
    """A column each, and the change from the first to the last, said to be good or bad by the figure's own direction."""
    results = {"before": _result(), "after": _result(deliveries=150.0, p99=12.0)}
    tree = _tree(page(results))
    rows = {row[0].text: row for row in tree.iter("tr") if len(row) == 4}
    assert [cell.text for cell in rows["deliveries"]] == ["deliveries", "100 /s", "150 /s", "+50.0%"]
    assert rows["deliveries"][3].attrib["class"] == "good"
    assert [cell.text for cell in rows["latency p99"]] == ["latency p99", "10 ms", "12 ms", "+20.0%"]
    assert rows["latency p99"][3].attrib["class"] == "bad"
    assert rows["missing"][3].text is None
    assert "sent late p99" not in rows
    assert "before" in _text(tree)


def test_questions_have_a_section_each() -> None:
    """Two scenarios do not share a table."""
    tree = _tree(page({"a": _result("fanout"), "b": _result("storm")}))
    assert [section.attrib["id"] for section in tree.iter("section")] == ["fanout", "storm"]


def test_a_caution_is_not_overlooked() -> None:
    """It stands before the figures."""
    result = _result()
    result.cautions = ["a tester was busy"]
    html = page({"one": result})
    assert html.index("a tester was busy") < html.index('class="heroes"')


def test_files_become_a_page(tmp_path: Path) -> None:
    """Files of one name in two folders are told apart; what is no result is one sentence."""
    files = [tmp_path / "monday" / "fanout.json", tmp_path / "friday" / "fanout.json"]
    for file in files:
        write(file, _result())
    assert unique_names(files) == ["monday/fanout", "friday/fanout"]
    assert unique_names([Path("a/b.json"), Path("a/c.json")]) == ["b", "c"]
    write_page(files, tmp_path / "pages" / "page.html")
    assert "monday/fanout" in (tmp_path / "pages" / "page.html").read_text("utf-8")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(Unexpected, match="is not a result"):
        write_page([tmp_path / "other.json"], tmp_path / "page.html")
