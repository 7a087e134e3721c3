"""Bound what strangers cost: rates, and wrong guesses per address."""

from __future__ import annotations

import functools
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

GUESSES = (0.2, 5)
"""Wrong guesses of one address: per second, and at once."""
ADDRESSES = 1024
"""Addresses whose guesses are counted; the one that was quiet longest is forgotten first."""


class Bucket:
    """A rate limit: ``rate`` per second, ``burst`` at once.

    Args:
        rate: Allowed per second.
        burst: Allowed at once after a rest.
        clock: Monotonic [s].
    """

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate = rate
        self.burst = burst
        self.clock = clock
        self._left = float(burst)
        self._at = clock()

    def take(self) -> bool:
        """Return whether one more is allowed now."""
        now = self.clock()
        self._left = min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@functools.lru_cache(maxsize=4096)
def group(address: str) -> str:
    """Return the sender of an address: an IPv4 address, or its /64 network of IPv6."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address) and not ip.is_loopback:
        return str(ip.ipv4_mapped or ipaddress.ip_network((int(ip) >> 64 << 64, 64)))
    return str(ip)


class Guesses:
    """Count of wrong guesses per address; right ones are not counted.

    Args:
        say: Receives a line when an address has used up its guesses.
        clock: Monotonic [s].
    """

    def __init__(
        self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wrong(self, address: str) -> bool:
        """Count one; return whether the address is still within its limit."""
        sender = group(address)
        bucket = self._buckets.get(sender) or Bucket(*GUESSES, self._clock)
        self._buckets[sender] = bucket
        self._buckets.move_to_end(sender)
        if len(self._buckets) > ADDRESSES:
            self._buckets.popitem(last=False)

        within = bucket.take()
        if not within:
            self._say(f"wrong logins from {sender}")
        return within
