"""Whether the machine is short of memory, by the kernel's figures."""

from __future__ import annotations

from pathlib import Path

__all__ = ["memory_pressed", "memory_total"]

# Below this share of available memory the kernel begins to reclaim what programs use.
_LOW_SHARE = 0.10
# Share of the last ten seconds in which some task waited for memory; a healthy machine shows 0.
_STALLED_PERCENT = 10.0


def memory_total(meminfo: str | None = None) -> int:
    """Bytes; 0 if the kernel does not tell."""
    return _meminfo(meminfo).get("MemTotal", 0)


def memory_pressed(meminfo: str | None = None, pressure: str | None = None) -> bool:
    """Whether available memory is low, or tasks stall on memory where the kernel measures that. The parameters are for
    tests."""
    facts = _meminfo(meminfo)
    if "MemAvailable" in facts and facts["MemAvailable"] < _LOW_SHARE * facts.get("MemTotal", 0):
        return True
    for line in (_read("/proc/pressure/memory") if pressure is None else pressure).splitlines():
        if line.startswith("some "):
            return float(line.partition("avg10=")[2].split()[0]) > _STALLED_PERCENT
    return False


def _meminfo(text: str | None) -> dict[str, int]:
    facts = {}
    for line in (_read("/proc/meminfo") if text is None else text).splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            facts[name] = int(value.split()[0]) * 1024
    return facts


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
