"""Sealed fields: what opens, what does not, and what is found."""

from __future__ import annotations

import base64
import os
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.postgres.pool import Pool
from storage.sealing import BrokenSeal, Sealer, key_id, open_sealer
from tests.stores import database_url, pool, postgres

__all__ = ["database_url", "pool", "postgres"]  # fixtures

COLUMN = "identities.sealed_address"
ROW = uuid4()


def new_key(kid: str) -> str:
    """Make a key as it stands in the settings."""
    return f"{kid}:{base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip('=')}"


OLD, NEW = new_key("old"), new_key("a-newer.one")
INDEX_KEY = os.urandom(32)


@given(st.text())
def test_what_is_sealed_opens(text: str) -> None:
    """Any text opens to itself in its place, and costs its length and a few bytes more."""
    sealer = Sealer((OLD,), INDEX_KEY)
    sealed = sealer.seal(COLUMN, ROW, text)
    assert sealer.open(COLUMN, ROW, sealed) == text
    assert len(sealed) == len(text.encode()) + 2 + len("old") + 12 + 16
    assert key_id(sealed) == "old"


def test_twice_is_not_the_same() -> None:
    """A nonce is drawn anew each time, so equal texts can't be told from others."""
    sealer = Sealer((OLD,), INDEX_KEY)
    assert len({sealer.seal(COLUMN, ROW, "ada@example.org") for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("column", "row"),
    [
        pytest.param("identities.sealed_name", ROW, id="another column"),
        pytest.param(COLUMN, uuid4(), id="another row"),
        pytest.param(f"{COLUMN}\0{ROW}", "", id="the two run into each other"),
    ],
)
def test_a_seal_is_bound_to_its_place(column: str, row: object) -> None:
    """What was moved to another place does not open."""
    sealer = Sealer((OLD,), INDEX_KEY)
    sealed = sealer.seal(COLUMN, ROW, "ada@example.org")
    with pytest.raises(BrokenSeal, match="is not what was sealed there"):
        sealer.open(column, str(row), sealed)


def test_every_bit_counts() -> None:
    """With any one bit changed, a sealed field does not open, and nothing else is raised."""
    sealer = Sealer((OLD,), INDEX_KEY)
    sealed = sealer.seal(COLUMN, ROW, "ada@example.org")
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BrokenSeal):
            sealer.open(COLUMN, ROW, bytes(changed))
    for length in range(len(sealed)):
        with pytest.raises(BrokenSeal):
            sealer.open(COLUMN, ROW, sealed[:length])


def test_a_key_id_is_bound() -> None:
    """Two ids with one and the same key do not open each other's fields."""
    secret = OLD.partition(":")[2]
    sealed = Sealer((f"one:{secret}",), INDEX_KEY).seal(COLUMN, ROW, "ada@example.org")
    swapped = sealed.replace(b"one", b"two", 1)
    with pytest.raises(BrokenSeal):
        Sealer((f"two:{secret}",), INDEX_KEY).open(COLUMN, ROW, swapped)


def test_keys_rotate() -> None:
    """The first key seals and all open; what is under another than the first is stale; a key that is gone is named."""
    before, during, after = (Sealer(keys, INDEX_KEY) for keys in ((OLD,), (NEW, OLD), (NEW,)))
    old = before.seal(COLUMN, ROW, "ada@example.org")
    new = during.seal(COLUMN, ROW, during.open(COLUMN, ROW, old))
    assert new.startswith(during.header)
    assert not old.startswith(during.header)
    assert after.open(COLUMN, ROW, new) == "ada@example.org"
    with pytest.raises(BrokenSeal, match="'old', which is not in the settings"):
        after.open(COLUMN, ROW, old)


def test_the_index_does_not_rotate() -> None:
    """A text has one index per purpose, under whatever key, and another in another database."""
    one, rotated = Sealer((OLD,), INDEX_KEY), Sealer((NEW, OLD), INDEX_KEY)
    index = one.index("address", "ada@example.org")
    assert len(index) == 32
    assert rotated.index("address", "ada@example.org") == index
    assert one.index("invitation", "ada@example.org") != index
    assert Sealer((OLD,), os.urandom(32)).index("address", "ada@example.org") != index


def test_no_key() -> None:
    """Without a key nothing is sealed with nothing."""
    with pytest.raises(ValueError, match="no key"):
        Sealer((), INDEX_KEY)


async def test_a_database_keeps_its_index_key(pool: Pool) -> None:
    """Every node finds the same index key, and it is nowhere in the database as it is."""
    first = await open_sealer(pool, (OLD,))
    second = await open_sealer(pool, (NEW, OLD))
    index = first.index("address", "ada@example.org")
    assert second.index("address", "ada@example.org") == index
    assert await pool.fetchval("select count(*) from server_secrets") == 1


async def test_a_database_under_other_keys(pool: Pool) -> None:
    """A node that has other keys than the database says so, and makes no index key of its own."""
    await open_sealer(pool, (OLD,))
    with pytest.raises(BrokenSeal, match="'old', which is not in the settings"):
        await open_sealer(pool, (NEW,))
    with pytest.raises(BrokenSeal, match="is not what was sealed there"):
        await open_sealer(pool, (new_key("old"),))
