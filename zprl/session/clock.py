"""One clock for all processes of a session, for ages that decide whether something still counts."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)


def now() -> float:
    """Return seconds since the machine booted, the same in every process.

    Unlike :func:`time.monotonic` on Linux it goes on while the machine is suspended: what was
    pressed before a laptop was closed is old when it is opened again.
    """
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)
