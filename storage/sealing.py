"""Personal fields, sealed: what a thief of the database, or of a backup, can't read.

A sealed field is an envelope: version, key id, a random nonce of 12 bytes, AES-256-GCM ciphertext and tag. Its associated
data bind table, column, row and key id, so that a value moved to another row, column or key does not open.

=========  =======================================================================
1 byte     version, always 1
1 byte     length of the key id
1-32       key id
12         nonce
rest       ciphertext and tag
=========  =======================================================================

What must be found by a sealed value - an account by its address - is found by an index beside it: HMAC-SHA-256 under a key of
its own. That key is random, made once for a database, and kept in it, sealed like everything else; so it outlives the
rotation of the sealing keys, and whoever has the database alone can't test whether an address is in it.

Keys rotate in three steps: add the new one at the end of `sealing_keys` on every node, then put it first, then, once
everything is sealed anew, take the old one out. A key must not seal 2^32 fields: long before, a nonce may come twice.
"""

from __future__ import annotations

import hmac
import os
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from storage.postgres.pool import Pool, answering

_VERSION: Final = 1
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
INDEX_KEY: Final = "server_secrets.sealed"
"""Where the index key of a database is sealed; the row is `_NAME`."""
_NAME: Final = "index key"

FIND_KEY = """
select sealed from server_secrets where name = $1
"""

KEEP_KEY = """
insert into server_secrets (name, sealed) values ($1, $2) on conflict do nothing
"""


class BrokenSeal(Exception):  # noqa: N818 - it says what it found
    """A sealed field does not open: its key is not among ours, or it is not what was sealed in this place."""


class Sealer:
    """Seals and opens personal fields, and finds them. `keys` are of the settings: the first seals, all open.

    `column` is table and column, such as ``identities.sealed_address``; `row` is what identifies the row for its whole life.
    Raises `ValueError` when there is no key.
    """

    def __init__(self, keys: Sequence[str], index_key: bytes) -> None:
        parts = [key.partition(":") for key in keys]
        if not parts:
            raise ValueError("no key to seal personal fields with")
        self._ciphers = {kid: AESGCM(urlsafe_b64decode(secret + "=")) for kid, _, secret in parts}
        self.newest = parts[0][0]
        """The id of the key that seals."""
        self.header = _header(self.newest)
        """How everything begins that is sealed under the newest key."""
        self._index_key = index_key
        self._index_keys: dict[str, bytes] = {}

    def seal(self, column: str, row: UUID | str, text: str) -> bytes:
        """Return `text` as it may be stored in one place: this column of this row."""
        nonce = os.urandom(_NONCE_BYTES)
        bound = _bound(self.header, column, row)
        return self.header + nonce + self._ciphers[self.newest].encrypt(nonce, text.encode(), bound)

    def open(self, column: str, row: UUID | str, sealed: bytes) -> str:
        """Return what was sealed in this place. Raises `BrokenSeal`."""
        kid = key_id(sealed)
        cipher = self._ciphers.get(kid)
        if cipher is None:
            raise BrokenSeal(
                f"{column} of {row} is sealed under the key {kid!r}, which is not in the settings"
            )
        header = _header(kid)
        nonce = sealed[len(header) : len(header) + _NONCE_BYTES]
        try:
            opened = cipher.decrypt(nonce, sealed[len(header) + _NONCE_BYTES :], _bound(header, column, row))
        except (InvalidTag, ValueError):
            raise BrokenSeal(f"{column} of {row} is not what was sealed there") from None
        return opened.decode()

    def index(self, purpose: str, text: str) -> bytes:
        """Return the 32 bytes by which `text` is found among others of its purpose, whatever key seals it.

        Indexes of different purposes can't be matched with each other. The caller brings `text` to its one spelling.
        """
        key = self._index_keys.get(purpose)
        if key is None:
            key = self._index_keys[purpose] = _derived(self._index_key, purpose)
        return hmac.digest(key, text.encode(), "sha256")


async def open_sealer(pool: Pool, keys: Sequence[str]) -> Sealer:
    """Make the sealer of a database; the first one ever makes its index key.

    Raises `BrokenSeal` when the database was sealed under other keys, `ValueError` when there are none, `Refused` (unavailable).
    """
    first = Sealer(keys, b"")
    made = first.seal(INDEX_KEY, _NAME, os.urandom(32).hex())
    async with answering(pool) as connection:
        sealed = await connection.fetchval(FIND_KEY, _NAME)
        if sealed is None:
            await connection.execute(KEEP_KEY, _NAME, made)
            sealed = await connection.fetchval(FIND_KEY, _NAME)  # another node may have been first
    return Sealer(keys, bytes.fromhex(first.open(INDEX_KEY, _NAME, sealed)))


def key_id(sealed: bytes) -> str:
    """Return the id of the key that a field is sealed under. Raises `BrokenSeal` when it is no sealed field."""
    if len(sealed) < 2 or sealed[0] != _VERSION or len(sealed) < 2 + sealed[1] + _NONCE_BYTES + _TAG_BYTES:
        raise BrokenSeal("this is not a sealed field")
    return sealed[2 : 2 + sealed[1]].decode("ascii", "replace")


def _header(kid: str) -> bytes:
    return bytes((_VERSION, len(kid))) + kid.encode("ascii")


def _bound(header: bytes, column: str, row: UUID | str) -> bytes:
    """What a field is bound to. No part can run into the next: the header knows its length, a column has no zero in it."""
    return header + column.encode() + b"\0" + str(row).encode()


def _derived(secret: bytes, purpose: str) -> bytes:
    info = f"looprooms: index of {purpose}, v1".encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)
