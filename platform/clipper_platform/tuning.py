"""Memory settings of the process, set before it serves."""

from __future__ import annotations

import ctypes
import gc
import sys

__all__ = ["tune"]

# glibc's mallopt(3) parameters. By default every read of 256 KiB and every large body is mapped from the kernel and
# unmapped at once, with its page faults: for 10 MB bodies that was three quarters of the gateway's time.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_MiB = 1024 * 1024
_MALLOC = ((_M_MMAP_THRESHOLD, 32 * _MiB), (_M_TRIM_THRESHOLD, 128 * _MiB), (_M_TOP_PAD, 16 * _MiB))

# Objects made per request are freed by their reference counts. The garbage collector runs less often, for the few
# cycles, and never visits the objects from before the first request.
_GC_THRESHOLDS = (20_000, 20, 50)


def tune() -> None:
    """Call once, after the objects that live as long as the process were made."""
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except (AttributeError, OSError):  # another libc, without these parameters
            mallopt = None
        if mallopt is not None:
            for parameter, value in _MALLOC:
                mallopt(parameter, value)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
