"""Functions that yield: each item reaches the caller as soon as it is there."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import clipper


@clipper.function(name="write")
class Write:
    """A Markov chain over the opening of Alice's Adventures in Wonderland: word after word, new nonsense each time."""

    def __init__(self) -> None:
        words = (Path(__file__).parent / "text.txt").read_text(encoding="utf-8").split()
        self.start = (words[0], words[1])
        self.following: dict[tuple[str, str], list[str]] = defaultdict(list)
        for one, two, three in zip(words, words[1:], words[2:], strict=False):
            self.following[one, two].append(three)

    def __call__(self, words: int = 40, seed: int | None = None) -> Iterator[str]:
        """`words` of text; the same `seed`, the same text."""
        if not 1 <= words <= 10_000:
            raise ValueError("words must be from 1 to 10000")
        rng = random.Random(seed)
        pair = self.start
        for _ in range(words):
            yield pair[0] + " "
            # Only the text's last pair has no follower: then it begins anew.
            pair = (pair[1], rng.choice(self.following[pair])) if pair in self.following else self.start


@dataclass
class Tick:
    left: int
    message: str


@clipper.function()
async def countdown(start: int = 5, interval_s: float = 0.2) -> AsyncIterator[Tick]:
    """From `start` to lift-off; many at once on one replica, since an async generator waits without a thread."""
    if not (0 <= start <= 1000 and 0 <= interval_s <= 60):
        raise ValueError("start must be from 0 to 1000, interval_s from 0 to 60")
    for left in range(start, 0, -1):
        yield Tick(left, f"{left}…")
        await asyncio.sleep(interval_s)
    yield Tick(0, "lift-off")
