"""Sends answers: Result and Chunk frames within the frame limit, after the log lines that belong before them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Final

from clipper.contract.wire import Chunk, Message, Outcome, Result, encode
from clipper_runtime.channel import Channel, ChannelClosed
from clipper_runtime.logs import Output
from clipper_runtime.outcomes import skipped
from clipper_runtime.work import Answer

__all__ = ["Replies", "max_payload_bytes"]

# An outcome in the header has at most 4 Ki characters of message and 256 of type, of four bytes each, and small fields.
# So 256 outcomes stay under 5 MiB, below the header limit of 8 MiB.
_OUTCOMES_PER_FRAME: Final = 256
_HEADER_ALLOWANCE_BYTES: Final = 64 * 1024


def max_payload_bytes(max_frame_bytes: int) -> int:
    """The largest single payload that fits a frame beside its header."""
    return max(0, max_frame_bytes - _HEADER_ALLOWANCE_BYTES)


class Replies:
    """Sends answers, from any thread. `in_flight`: items that came and are not answered yet.

    `came` counts all items that ever came; the thread that reads the channel adds to it, under the read lock.
    """

    def __init__(self, channel: Channel, output: Output, max_frame_bytes: int) -> None:
        self._channel = channel
        self._output = output
        self._max_body_bytes = max_payload_bytes(max_frame_bytes)
        self._lock = threading.Lock()
        self.came = 0
        self._answered = 0

    @property
    def in_flight(self) -> int:
        # Read in this order, the difference is never negative: an item is answered after it came.
        answered = self._answered
        return self.came - answered

    def send(self, message: Message, body: bytes = b"") -> None:
        self._channel.send([encode(message, len(body)), body])

    def chunk(self, chunk: Chunk, body: bytes) -> None:
        self._channel.send([encode(chunk, len(body)), body], self._output.logs.take)

    def answer(self, batch: int, answer: Answer, *, amid_call: bool = False) -> None:
        """Send one Result, or several where one frame cannot hold it, after the user output of the batch.

        `amid_call`: another call runs meanwhile, and may be in the middle of a line.
        """
        outcomes = answer.outcomes
        if not outcomes:
            return
        if not amid_call:
            self._output.end_lines()
        size = sum(map(len, answer.bodies))
        buffers: list[bytes | memoryview]
        if size <= self._max_body_bytes and len(outcomes) <= _OUTCOMES_PER_FRAME:
            buffers = [encode(Result(batch, outcomes, answer.exec_s, answer.reruns), size), *answer.bodies]
        else:
            buffers = []
            exec_s, reruns = answer.exec_s, answer.reruns
            for part, bodies in self._parts(answer):
                buffers += (encode(Result(batch, part, exec_s, reruns), sum(map(len, bodies))), *bodies)
                exec_s, reruns = 0.0, 0  # the platform adds them up over the Results of a batch
        with self._lock:
            self._answered += len(outcomes)
        self._channel.send(buffers, self._output.logs.take)

    def withdrawn(self, batch: int, items: Sequence[int]) -> None:
        """Answer items that the platform wanted back before they began."""
        answer = Answer()
        for item in items:
            answer.add(skipped(item, "withdrawn before it ran"))
        self.answer(batch, answer, amid_call=True)

    def _parts(self, answer: Answer) -> Iterator[tuple[list[Outcome], list[bytes]]]:
        outcomes: list[Outcome] = []
        bodies: list[bytes] = []
        size = 0
        for outcome, body in zip(answer.outcomes, answer.bodies, strict=True):
            if outcomes and (size + len(body) > self._max_body_bytes or len(outcomes) == _OUTCOMES_PER_FRAME):
                yield outcomes, bodies
                outcomes, bodies, size = [], [], 0
            outcomes.append(outcome)
            bodies.append(body)
            size += len(body)
        yield outcomes, bodies

    def send_logs_now(self) -> None:
        """Send the log lines that wait, from the code that prints; where another frame is being written the watcher
        sends them."""
        try:
            self._channel.send_soon(self._output.logs.take)
        except ChannelClosed:
            pass  # whoever reads the channel sees it too

    def flush_logs(self) -> None:
        """Send the log lines that wait."""
        if self._output.logs.waiting:
            self._channel.send([], self._output.logs.take)
