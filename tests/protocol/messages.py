"""Messages of the contract by chance and by rule, read off their types: strategies for hypothesis, samples for the wire."""

from __future__ import annotations

import functools
import uuid
from typing import Any

import msgspec.inspect as mi
from hypothesis import strategies as st
from msgspec import Struct

from protocol.contract import ANSWERS, COMMANDS, EVENTS

MESSAGES: tuple[type[Struct], ...] = (*COMMANDS, *ANSWERS, *EVENTS)


@functools.cache
def messages(message: type[Struct]) -> st.SearchStrategy[Any]:
    """Return a strategy of all that a message, or a part of one, can hold."""
    return _strategy(mi.type_info(message))


def sample(message: type[Struct]) -> Any:
    """Return one message with every field filled, always the same."""
    return _sample(mi.type_info(message), "text")


def _strategy(kind: mi.Type) -> st.SearchStrategy[Any]:
    match kind:
        case mi.Metadata(type=described):
            return _strategy(described)
        case mi.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: _field(field) for field in fields})
        case mi.UnionType(types=types):
            return st.one_of(*(_strategy(one) for one in types))
        case mi.ListType(item_type=item, max_length=most):
            return st.lists(_strategy(item), max_size=min(most or 3, 3))
        case mi.DictType(key_type=key, value_type=value):
            return st.dictionaries(_strategy(key), _strategy(value), max_size=3)
        case mi.StrType(pattern=str(pattern)):
            return st.from_regex(pattern, fullmatch=False)
        case mi.StrType(min_length=least, max_length=most):
            return st.text(min_size=least or 0, max_size=min(most or 30, 30))
        case mi.IntType(ge=least, le=most):
            return st.integers(-(2**63) if least is None else least, 2**63 - 1 if most is None else most)
        case mi.EnumType(cls=enum):
            return st.sampled_from(enum)
        case mi.FloatType():
            return st.floats(allow_nan=False, allow_infinity=False)
        case mi.BoolType():
            return st.booleans()
        case mi.UUIDType():
            return st.uuids()
        case mi.NoneType():
            return st.none()
    raise AssertionError(f"a message has a field of a kind that is new here: {kind}")


def _field(field: mi.Field) -> st.SearchStrategy[Any]:
    return _strategy(field.type)


def _sample(kind: mi.Type, name: str) -> Any:
    match kind:
        case mi.Metadata(type=described):
            return _sample(described, name)
        case mi.StructType(cls=cls, fields=fields):
            return cls(**{field.name: _sample(field.type, field.name) for field in fields})
        case mi.UnionType(types=types):
            return _sample(next(one for one in types if not isinstance(one, mi.NoneType)), name)
        case mi.ListType(item_type=item):
            return [_sample(item, name)]
        case mi.DictType(key_type=key, value_type=value):
            return {_sample(key, name): _sample(value, name)}
        case mi.StrType():
            return name.replace("_", "-")
        case mi.IntType(ge=least, le=most):
            return max(least or 0, min(most or 7, 7))
        case mi.EnumType(cls=enum):
            return next(iter(enum))
        case mi.FloatType():
            return 2.5
        case mi.BoolType():
            return True
        case mi.UUIDType():
            return uuid.uuid5(uuid.NAMESPACE_URL, name)
    raise AssertionError(f"a message has a field of a kind that is new here: {kind}")
