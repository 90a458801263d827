"""Forms with brackets become objects, in the types that an operation takes, and nothing else is let through."""

from __future__ import annotations

from typing import Any

import pytest

from server.gateways.standin.forms import Map, Required, Shape, checked, parsed
from server.gateways.standin.problems import StripeProblem


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", {}),
        ("a=1&b=", {"a": "1", "b": ""}),
        ("a[b][c]=1&a[b][d]=2", {"a": {"b": {"c": "1", "d": "2"}}}),
        ("a[]=1&a[]=2", {"a": ["1", "2"]}),
        ("a[0][x]=1&a[1][x]=2", {"a": [{"x": "1"}, {"x": "2"}]}),
        ("a[1]=1", {"a": {"1": "1"}}),
        ("a=%C3%A9+%26", {"a": "é &"}),
    ],
)
def test_brackets(body: str, expected: dict[str, Any]) -> None:
    """Names nest, and numbers that count from nothing are lists."""
    assert parsed(body) == expected


@pytest.mark.parametrize("body", ["[a]=1", "a[b=1", "a]=1", "a=1&a[b]=2", "a[b]c=1"])
def test_what_is_no_name(body: str) -> None:
    """Brackets that don't close, and a name that is a text and an object."""
    with pytest.raises(StripeProblem):
        parsed(body)


SHAPE: Shape = {
    "text": Required(str),
    "number": int,
    "yes": bool,
    "names": Map,
    "inner": {"must": Required(int)},
    "list": [{"x": int}],
    "plain": [str],
}


def test_types() -> None:
    """Every value gets its type."""
    form = parsed(
        "text=t&number=-7&yes=true&names[a]=1&inner[must]=2&list[0][x]=3&list[1][x]=4&plain[]=p&plain[]=q"
    )
    assert checked(form, SHAPE) == {
        "text": "t",
        "number": -7,
        "yes": True,
        "names": {"a": "1"},
        "inner": {"must": 2},
        "list": [{"x": 3}, {"x": 4}],
        "plain": ["p", "q"],
    }
    assert checked({"text": "t", "names": ""}, SHAPE)["names"] == {}


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ("number=1", "parameter_missing", "text"),
        ("text=t&other=1", "parameter_unknown", "other"),
        ("text=t&inner[other]=1", "parameter_unknown", "inner[other]"),
        ("text=t&inner[must]=", "parameter_invalid_integer", "inner[must]"),
        ("text=t&list[0][x]=a", "parameter_invalid_integer", "list[0][x]"),
        ("text=t&list=1", "parameter_invalid", "list"),
        ("text=t&number[a]=1", "parameter_invalid", "number"),
        ("text=t&yes=1", "parameter_invalid", "yes"),
        ("text[a]=t", "parameter_invalid", "text"),
    ],
)
def test_what_does_not_fit(body: str, code: str, param: str) -> None:
    """The code and the parameter that Stripe would name."""
    with pytest.raises(StripeProblem) as problem:
        checked(parsed(body), SHAPE)
    assert (problem.value.code, problem.value.param) == (code, param)
