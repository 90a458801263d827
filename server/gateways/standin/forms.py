"""Bodies as Stripe takes them: forms with brackets, where everything is text.

``line_items[0][price]=price_1&metadata[user]=7`` is ``{"line_items": [{"price": "price_1"}], "metadata": {"user": "7"}}``.
What each operation takes is said by a `Shape`; whatever else is sent is refused, as Stripe does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from server.gateways.standin.problems import StripeProblem

Shape = Mapping[str, Any]
"""What may be sent: a name and `str`, `int` or `bool`, another shape, a list of one of these, or `Map` for free names."""

_PART: Final = re.compile(r"\[([^\[\]]*)\]")
_MOST_FIELDS: Final = 1000


class Map:
    """Names of the sender's choice with texts, as in ``metadata``."""


class Required:
    """What must be there."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind


def parsed(body: str) -> dict[str, Any]:
    """Return a form as the object that its brackets describe, its values still texts. Raises `StripeProblem`."""
    root: dict[str, Any] = {}
    for name, value in parse_qsl(body, keep_blank_values=True, max_num_fields=_MOST_FIELDS):
        head = name.partition("[")[0]
        parts = [head, *_PART.findall(name[len(head) :])]
        if head + "".join(f"[{part}]" for part in parts[1:]) != name or not head or "]" in head:
            raise StripeProblem(400, "parameter_unknown", f"Invalid parameter name: {name}", param=name)
        _put(root, parts, value)
    return {name: _with_lists(value) for name, value in root.items()}


def checked(form: Mapping[str, Any], shape: Shape, path: str = "") -> dict[str, Any]:
    """Return a form with its values in their types. Raises `StripeProblem` for what `shape` does not have."""
    found: dict[str, Any] = {}
    for name, value in form.items():
        where = f"{path}[{name}]" if path else name
        if name not in shape:
            raise StripeProblem(400, "parameter_unknown", f"Received unknown parameter: {where}", param=where)
        found[name] = _typed(value, _bare(shape[name]), where)
    for name, kind in shape.items():
        if isinstance(kind, Required) and name not in found:
            where = f"{path}[{name}]" if path else name
            raise StripeProblem(400, "parameter_missing", f"Missing required param: {where}.", param=where)
    return found


def _bare(kind: Any) -> Any:
    return kind.kind if isinstance(kind, Required) else kind


def _put(place: dict[str, Any], parts: list[str], value: str) -> None:
    for at, part in enumerate(parts):
        key = part or str(len(place))  # `a[]=1&a[]=2` is a list
        if at == len(parts) - 1:
            place[key] = value
        else:
            inner = place.setdefault(key, {})
            if not isinstance(inner, dict):
                raise StripeProblem(400, "parameter_invalid", f"Invalid {parts[0]}", param=parts[0])
            place = inner


def _with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {name: _with_lists(one) for name, one in value.items()}
    if inner and list(inner) == [str(number) for number in range(len(inner))]:
        return list(inner.values())
    return inner


def _typed(value: Any, kind: Any, where: str) -> Any:
    if isinstance(kind, Mapping):
        return checked(_must(value, dict, where), kind, where)
    if isinstance(kind, list):
        return [_typed(one, kind[0], f"{where}[{at}]") for at, one in enumerate(_must(value, list, where))]
    if kind is Map:
        return {name: str(one) for name, one in _must(value, dict, where).items()} if value else {}
    text: str = _must(value, str, where)
    if kind is int:
        if not re.fullmatch(r"-?\d+", text):
            raise StripeProblem(400, "parameter_invalid_integer", f"Invalid integer: {text}", param=where)
        return int(text)
    if kind is bool:
        if text not in ("true", "false"):
            raise StripeProblem(400, "parameter_invalid", f"Invalid boolean: {text}", param=where)
        return text == "true"
    return text


def _must(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind) and not (kind is dict and value == ""):
        raise StripeProblem(400, "parameter_invalid", f"Invalid {where}", param=where)
    return value
