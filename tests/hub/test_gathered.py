"""What becomes of a batch is what its commands are answered, whatever becomes of it."""

from __future__ import annotations

import asyncio
import logging

from protocol.refusals import ErrorCode, Refused
from protocol.rooms import CueSent, SendCue
from server.hub import dispatch
from server.hub.dispatch import Call, handles
from server.hub.gathered import Gathered
from storage.postgres.gather import Gather
from tests.hub.desk import Desk, Doubling, at_once, cue, handlers, sent

__all__ = ["handlers"]  # a fixture


@at_once
async def test_answered_once() -> None:
    """A command whose time is over is answered then, and not again when its batch is done after all."""
    desk = Desk()
    doubling = Doubling(desk, within=0.05)
    guest = desk.guest()
    guest.say(cue(1))
    await asyncio.sleep(0.09)
    assert [(error.id, error.code) for error in guest.take()] == [(1, "unavailable")]
    await doubling.gather.drain()
    assert guest.take() == []
    doubling.gather = Gather(doubling.run)
    guest.say(cue(2))
    await desk.dispatcher.settle()
    assert guest.take() == sent(2)


@at_once
async def test_gathered_and_refused() -> None:
    """What becomes of a batch is told in words; one whose answer cannot be made is a bug of its own."""
    desk = Desk()
    doubling = Doubling(desk)
    guest = desk.guest()
    doubling.raises = Refused(ErrorCode.UNAVAILABLE, retry_after=1.0)
    guest.say(cue(1), cue(2))
    await desk.dispatcher.settle()
    assert [(error.id, error.code) for error in guest.take()] == [(1, "unavailable"), (2, "unavailable")]
    doubling.raises = None
    del dispatch.HANDLERS[SendCue]

    def cannot(call: Call, command: SendCue) -> Gathered[CueSent]:
        return Gathered(doubling.gather, command.id, lambda doubled: CueSent(id=doubled // 0))

    handles(SendCue)(cannot)
    logging.getLogger("looprooms.dispatch").disabled = True
    try:
        guest.say(cue(3))
        await desk.dispatcher.settle()
    finally:
        logging.getLogger("looprooms.dispatch").disabled = False
    assert [(error.id, error.code) for error in guest.take()] == [(3, "internal_error")]
    assert desk.dispatcher.bugs == 1


@at_once
async def test_stopped_after_the_answer() -> None:
    """When work is cancelled whose command has waited for too long, that is over already: it is not ended twice."""
    desk = Desk()
    doubling = Doubling(desk, within=0.05)
    guest = desk.guest()
    guest.say(cue(1))
    await asyncio.sleep(0.09)
    assert [error.code for error in guest.take()] == ["unavailable"]
    assert doubling.gather._worker is not None
    doubling.gather._worker.cancel()
    await doubling.gather.drain()
    assert desk.connection_of(guest).running == 0
    await desk.dispatcher.settle()


@at_once
async def test_gathered_and_stopped() -> None:
    """When the work itself is cancelled nobody is answered, and nobody is waited for."""
    desk = Desk()
    doubling = Doubling(desk)
    guest = desk.guest()
    guest.say(cue(1))
    await asyncio.sleep(0.05)
    assert doubling.gather._worker is not None
    doubling.gather._worker.cancel()
    await desk.dispatcher.settle()
    assert guest.take() == []
