"""`clip doctor --clean`: what platforms of this user left on this machine when they were killed."""

from __future__ import annotations

from clipper_platform.backends.process.temporary import sweep_roots

__all__ = ["sweep"]


def sweep() -> list[str]:
    """Remove it, as every start of a platform does. Returns the directories that are gone now. Never raises OSError."""
    return [str(path) for path in sweep_roots()]
