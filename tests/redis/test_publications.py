"""What travels on a channel: records behind a routing header."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from storage.redis.publications import Kind, Packet, pack, sender, unpack

NODE = b"\x00node\xff\x01\x02"
OFFSETS = st.integers(0, 2**63 - 1)
PAYLOADS = st.binary(max_size=40)
PACKETS = st.builds(Packet, st.sampled_from(Kind), OFFSETS, PAYLOADS, PAYLOADS, OFFSETS, PAYLOADS, PAYLOADS)


@given(st.lists(PACKETS, max_size=5))
def test_what_is_packed_is_unpacked(packets: list[Packet]) -> None:
    """A publication gives back its sender and its packets, in order, byte for byte."""
    publication = pack(NODE, packets)
    assert sender(publication) == NODE
    assert packets == list(unpack(publication))


@given(st.lists(PACKETS, min_size=1, max_size=3), st.data())
def test_cut_anywhere(packets: list[Packet], data: st.DataObject) -> None:
    """A publication cut at any byte gives the whole records before the cut, then an error; never a part of one."""
    publication = pack(NODE, packets)
    ends = [len(pack(NODE, packets[:n])) for n in range(len(packets) + 1)]
    cut = data.draw(st.integers(len(NODE), len(publication)))
    whole: list[Packet] = []
    failed = False
    try:
        whole.extend(unpack(publication[:cut]))
    except ValueError:
        failed = True
        whole = _before_the_error(publication[:cut])
    assert failed == (cut not in ends)
    assert packets[: sum(end <= cut for end in ends) - 1] == whole


@given(st.binary(max_size=200))
def test_any_bytes(noise: bytes) -> None:
    """Bytes of no publication end in an error or in packets, never in anything else."""
    try:
        for packet in unpack(NODE + noise):
            assert isinstance(packet, Packet)
    except ValueError:
        pass


def test_unknown_kind() -> None:
    """A record of a kind that this version does not know is an error, not a guess."""
    publication = bytearray(pack(NODE, [Packet(Kind.LINE, 1, b"{}", b"\x80")]))
    publication[len(NODE)] = 99
    assert _before_the_error(bytes(publication)) == []


def _before_the_error(publication: bytes) -> list[Packet]:
    packets = []
    try:
        for packet in unpack(publication):
            packets.append(packet)  # noqa: PERF402 - those before the error are wanted
    except ValueError:
        return packets
    raise AssertionError("there was no error")
