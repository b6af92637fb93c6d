"""`python -P -S -u -m clipper_runtime`: one replica with `--channel fd:N|unix:PATH|tcp:HOST:PORT`, or a zygote, which
forks into replicas, with `--control fd:N`.

With -S the interpreter has not looked at the installed packages yet, whose `.pth` files and `sitecustomize` run as it
does: the process confines itself before that. So nothing outside of the standard library is imported at the top here.

The token that the platform expects, if any, stands in the environment variable CLIP_CHANNEL_TOKEN.
"""

from __future__ import annotations

import ctypes
import faulthandler
import signal
import sys

from clipper_runtime.confinement import confine, take_rules

_PR_SET_PDEATHSIG = 1


def prepare_process() -> None:
    """Settings for the whole life of the process, before any user code runs."""
    # Ctrl-C in a terminal reaches the whole foreground group; the platform handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A crash in C code leaves the Python stacks on descriptor 2.
    faulthandler.enable(file=2)
    if sys.platform == "linux":
        try:
            # The end of the channel is noticed too, but not while C code holds the interpreter lock.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        except (OSError, AttributeError):
            pass


def enable_packages() -> None:
    """What the interpreter does at its start without -S."""
    if sys.flags.no_site:
        import site

        site.main()
        _clear_no_site()


def _clear_no_site() -> None:
    """Let `sys.flags` say what is so by now. `multiprocessing`, loky and others start their children with the flags
    that stand there: with -S the children had no `.pth` files (editable installs), no `sys.prefix` of the environment
    and no `quit`. They need no -S, since they inherit the confinement.

    `sys.flags` cannot be made anew in Python: its type refuses, and a copy as another type loses the fields that are
    no items, such as `thread_inherit_context`.
    """
    index = type(sys.flags).__match_args__.index("no_site")
    cleared = ctypes.py_object(0)
    ctypes.pythonapi.Py_IncRef(cleared)  # the next call takes a reference
    ctypes.pythonapi.PyStructSequence_SetItem(ctypes.py_object(sys.flags), ctypes.c_ssize_t(index), cleared)


def main() -> None:
    """Raises OSError where the process cannot be confined; then user code must not run."""
    prepare_process()
    rules = take_rules()
    if rules is not None:
        confine(rules)
    enable_packages()
    if "--control" in sys.argv:
        from clipper_runtime import zygote

        zygote.main(rules)
    else:
        from clipper_runtime import replica_process

        replica_process.main()


if __name__ == "__main__":
    main()
