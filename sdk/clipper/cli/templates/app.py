"""Text statistics: counts, the longest word and an estimate of the reading time."""

import re
from dataclasses import dataclass

import clipper

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
WORDS_PER_MINUTE = 230


@dataclass
class Statistics:
    characters: int
    words: int
    sentences: int
    longest_word: str
    reading_time_s: float


# max_batch_size makes this a batched function: the platform gathers invocations that arrive together,
# `text` is the list of their texts, and each caller gets its own entry of the list that is returned.
@clipper.function(max_batch_size=32)
def analyze(text: list[str]) -> list[Statistics]:
    """Statistics of a text."""
    return [statistics(one) for one in text]


def statistics(text: str) -> Statistics:
    words = WORD.findall(text)
    return Statistics(
        characters=len(text),
        words=len(words),
        sentences=len(re.findall(r"[.!?…]+(?:\s|$)", text)) or int(bool(words)),
        longest_word=max(words, key=len, default=""),
        reading_time_s=round(len(words) / WORDS_PER_MINUTE * 60, 2),
    )
