"""What a table holds of a person. Each domain says it of its own tables, in its `PARTS`; `storage.privacy` gathers them.

A column that refers to people and that no part names fails a test, so that no table is forgotten.
"""

from __future__ import annotations

from typing import Any, Final

import asyncpg
from msgspec import Struct

from storage.sealing import Sealer

BOUND: Final = "bound_to"
"""The name of the selected column that the seals of a row are bound to. It is not shown."""
_SEALED: Final = "sealed_"


class Part(Struct, frozen=True, kw_only=True):
    """What one table holds of a person: what they are given of it, and what is left of it when they have gone.

    `columns` are those that name people (``table.column``). `rows` selects what is theirs, in a steady order; its one
    parameter is the person's id. What it selects as ``sealed_x`` is opened as a field of the sealed column of that name, bound
    to what is selected as ``bound_to``, and given as ``x``. `stays` says what is left when they have gone, and why; empty:
    nothing is.
    """

    name: str
    columns: tuple[str, ...]
    rows: str
    sealed: tuple[str, ...] = ()
    stays: str = ""

    def given(self, sealer: Sealer, row: asyncpg.Record) -> dict[str, Any]:
        """Return a row as it is given to the person."""
        shown = {name: value for name, value in row.items() if name != BOUND and not name.startswith(_SEALED)}
        for place in self.sealed:
            column = place.partition(".")[2]
            if (field := row[column]) is not None:
                shown[column.removeprefix(_SEALED)] = sealer.open(place, row[BOUND], field)
        return shown
