"""When a failed request is repeated, and after how long."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import numpy as np

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that say "later", not "never"."""


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter: the k-th wait is uniform on (0, min(cap_s, base_s x 2^k)).

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog (2015).

    Parameters
    ----------
    attempts : int
        Requests in all before a read has failed.
    base_s, cap_s : float
        Seconds.
    retry_after_cap_s : float
        A server's Retry-After is honoured up to this.
    timeout_s, connect_timeout_s : float
        Of one request, body included, and of its connection.
    signings : int
        How often a link that was refused (403) is signed again.
    decodes : int
        How often a block that does not decode is fetched again.
    seed : int
        Of the jitter.
    """

    attempts: int = 6
    base_s: float = 0.5
    cap_s: float = 30.0
    retry_after_cap_s: float = 120.0
    timeout_s: float = 120.0
    connect_timeout_s: float = 15.0
    signings: int = 2
    decodes: int = 2
    seed: int = 0

    def wait_s(self, attempt: int, retry_after_s: float | None, rng: np.random.Generator) -> float:
        """Seconds before attempt ``attempt`` + 1 (the first is 1), never less than the server asked for, capped."""
        jitter = float(rng.uniform(0.0, min(self.cap_s, self.base_s * 2.0 ** (attempt - 1))))
        return jitter if retry_after_s is None else min(retry_after_s, self.retry_after_cap_s) + jitter

    def describe_end(self, reason: str, attempts: int, retry_after_s: float | None) -> str:
        """What to say of a request that is given up."""
        text = f"{reason}, in {attempts} attempts"
        if retry_after_s is None or retry_after_s <= self.retry_after_cap_s:
            return text
        return (
            f"{text}; the server asks to wait {retry_after_s:,.0f} s, of which at most {self.retry_after_cap_s:g} are "
            "waited each time: run again later"
        )


def parse_retry_after(value: str | None, now: dt.datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (a number, or an HTTP date); None when it is absent or nonsense."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value.strip()[:9])
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=dt.UTC)
    return max(0.0, (when - (now or dt.datetime.now(dt.UTC))).total_seconds())
