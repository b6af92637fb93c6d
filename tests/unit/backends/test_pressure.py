"""Memory pressure from the kernel's texts."""

from __future__ import annotations

import pytest

from clipper_platform.backends.process.pressure import memory_pressed, memory_total


@pytest.mark.parametrize(
    ("available", "avg10", "pressed"), [(500, "0.00", False), (50, "0.00", True), (500, "25.00", True)]
)
def test_memory_is_short_by_what_is_available_or_by_stalls(available: int, avg10: str, pressed: bool) -> None:
    meminfo = f"MemTotal:     1000 kB\nMemFree: 1 kB\nMemAvailable:  {available} kB\nHugePages_Total: 0\n"
    stalls = f"some avg10={avg10} avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    assert memory_pressed(meminfo, stalls) is pressed
    assert memory_total(meminfo) == 1000 * 1024
    assert memory_pressed("", "") is False
