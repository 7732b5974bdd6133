"""Ranges of bytes over HTTP: bounded, retried, signed when read, from allowed hosts only."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import aiohttp
import numpy as np
from yarl import URL

from eo_cate.errors import ImageryError
from eo_cate.imagery.remote.counts import ReadCounts
from eo_cate.imagery.remote.hosts import CheckedResolver, HostPolicy, describe
from eo_cate.imagery.remote.retry import TRANSIENT_STATUS, RetryPolicy, parse_retry_after
from eo_cate.imagery.remote.signing import Signer

MAX_IN_FLIGHT = 64
MAX_BODY_BYTES = 2**28
"""Most bytes of one response: an uncompressed untiled Sentinel-2 band passes."""
MAX_TOKEN_BYTES = 2**16
MERGE_GAP_BYTES = 8
"""Blocks of a COG lie this close at most (a trailer of 4 bytes and a leader of 4): one request serves them."""
MERGE_BYTES = 2**23
"""Most bytes that are merged into one request, so that a retry repeats little."""
MAX_REDIRECTS = 5

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

Purpose = Literal["header", "block"]


@dataclass(frozen=True)
class RangeReply:
    """Bytes of a file and the file's whole size (None: the server does not say)."""

    data: bytes
    total: int | None


class _TransientError(Exception):
    """A failure that may pass."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class _ForbiddenError(Exception):
    """A 403."""


class RangeClient:
    """An HTTP client for ranges of files; an `async with` block is its life.

    It is also what async-tiff takes as a store (``TIFF.open(href, store=client)``).

    Parameters
    ----------
    policy : HostPolicy
        Checked for every address, every redirect and every resolved name.
    signer : Signer or None
        None: links are used as they are.
    retry : RetryPolicy
        Backoff, timeouts.
    max_in_flight : int
        Requests at one time.
    """

    def __init__(
        self,
        policy: HostPolicy,
        *,
        signer: Signer | None = None,
        retry: RetryPolicy | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> None:
        self.policy = policy
        self.retry = retry or RetryPolicy()
        self._signer = signer
        self._max_in_flight = max_in_flight
        self._rng = np.random.default_rng(self.retry.seed)
        self._etags: dict[str, str] = {}
        self._counts = dict.fromkeys(ReadCounts.__dataclass_fields__, 0)

    async def __aenter__(self) -> Self:
        self._slots = asyncio.Semaphore(self._max_in_flight)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._max_in_flight, resolver=CheckedResolver(self.policy)),
            timeout=aiohttp.ClientTimeout(total=self.retry.timeout_s, sock_connect=self.retry.connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "User-Agent": "eo_cate"},
            auto_decompress=False,
            read_bufsize=2**20,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    @property
    def counts(self) -> ReadCounts:
        """The counters now."""
        return ReadCounts(**self._counts)

    def count(self, **amounts: int) -> None:
        """Add to the counters."""
        for name, amount in amounts.items():
            self._counts[name] += amount

    def etag(self, href: str) -> str:
        """What the server called the file at its first answer; empty when it did not say."""
        return self._etags.get(href, "")

    async def fetch(self, href: str, start: int, end: int, *, purpose: Purpose = "block") -> RangeReply:
        """Bytes ``start`` to ``end`` (excluded) of a file; fewer only where the file ends.

        Raises
        ------
        ImageryError
            When the host is refused, the file is absent, has changed since its first answer, is shorter than ``start``,
            the server knows no ranges, or every attempt failed.
        """
        if not 0 <= start < end or end - start > MAX_BODY_BYTES:
            raise ImageryError(
                f"{describe(href)}: {end - start} bytes from byte {start} were asked for, between 1 and "
                f"{MAX_BODY_BYTES} are read at once; is the file's header damaged?"
            )
        reply = await self._persist(href, (start, end))
        self.count(**{f"{purpose}_bytes": len(reply.data)})
        return reply

    async def get_bytes(self, href: str) -> bytes:
        """A small body, unsigned."""
        return (await self._persist(href, None)).data

    async def get_range_async(
        self, path: str, *, start: int, end: int | None = None, length: int | None = None
    ) -> bytes:
        """One range, as obspec defines it."""
        stop = end if end is not None else start + (length or 0)
        return (await self.fetch(path, start, stop)).data

    async def get_ranges_async(
        self,
        path: str,
        *,
        starts: Sequence[int],
        ends: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> list[memoryview]:
        """Several ranges, as obspec defines it; neighbours share a request."""
        stops = ends if ends is not None else [s + n for s, n in zip(starts, lengths or (), strict=True)]
        ranges = list(zip(starts, stops, strict=True))
        found: dict[int, memoryview] = {}

        async def fetch(group: list[int]) -> None:
            low, high = ranges[group[0]][0], max(ranges[k][1] for k in group)
            data = memoryview((await self.fetch(path, low, high)).data)
            found.update({k: data[ranges[k][0] - low : ranges[k][1] - low] for k in group})

        await asyncio.gather(*(fetch(group) for group in merge_ranges(ranges)))
        return [found[k] for k in range(len(ranges))]

    async def _persist(self, href: str, span: tuple[int, int] | None) -> RangeReply:
        """Repeat a request until it succeeds, is refused for good, or the attempts are used up."""
        self.policy.check(href)
        refused: str | None = None
        attempt = signings = 0
        while True:
            sign = self._signer if span is not None else None
            link = href if sign is None else await sign.sign(href, self.get_bytes, refused=refused)
            refused = None
            try:
                async with self._slots:
                    return await self._request(href, link, span)
            except _ForbiddenError as error:
                signings += 1
                if sign is None or signings > self.retry.signings:
                    again = "" if sign is None else f", although it was signed {signings} times"
                    raise ImageryError(f"{describe(href)}: the server refused the link (403){again}") from error
                refused = link
                self.count(retries=1)
            except (_TransientError, aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError) as error:
                attempt += 1
                retry_after_s = getattr(error, "retry_after_s", None)
                if attempt >= self.retry.attempts or isinstance(error, aiohttp.ClientSSLError | aiohttp.InvalidURL):
                    why = self.retry.describe_end(_reason(error), attempt, retry_after_s)
                    raise ImageryError(f"{describe(href)}: {why}") from None
                self.count(retries=1)
                await asyncio.sleep(self.retry.wait_s(attempt, retry_after_s, self._rng))

    async def _request(self, href: str, link: str, span: tuple[int, int] | None) -> RangeReply:
        """One request and its redirects."""
        headers = {} if span is None else {"Range": f"bytes={span[0]}-{span[1] - 1}"}
        url = self.policy.check(link)
        for _ in range(MAX_REDIRECTS + 1):
            self._counts["requests"] += 1
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await self._receive(href, response, span)
                url = self._follow(href, url, response.headers.get("Location", ""))
        raise ImageryError(f"{describe(href)}: more than {MAX_REDIRECTS} redirects")

    def _follow(self, href: str, url: URL, location: str) -> URL:
        try:
            target = url.join(URL(location, encoded=True))
        except ValueError as error:
            raise ImageryError(f"{describe(href)}: redirected to an address that cannot be parsed") from error
        try:
            return self.policy.check(str(target))
        except ImageryError as error:
            raise ImageryError(f"{describe(href)}: redirected to an address that is refused ({error})") from error

    async def _receive(self, href: str, response: aiohttp.ClientResponse, span: tuple[int, int] | None) -> RangeReply:
        """The body of a final answer, when it is what was asked for."""
        status = response.status
        if status in TRANSIENT_STATUS:
            raise _TransientError(f"status {status}", parse_retry_after(response.headers.get("Retry-After")))
        if status == 403:
            raise _ForbiddenError
        if status == 416:
            raise ImageryError(f"{describe(href)}: is shorter than its header says; fetch or write the file again")
        if status not in (200, 206) or response.headers.get("Content-Encoding", "identity") != "identity":
            raise ImageryError(f"{describe(href)}: the server answered with status {status}, not with the file's bytes")
        if span is None:
            return RangeReply(await _read_at_most(href, response, MAX_TOKEN_BYTES), None)
        size, total = _expect(href, response, span)
        self._check_etag(href, response.headers.get("ETag", ""))
        data = await response.content.readexactly(size)
        return RangeReply(data, total)

    def _check_etag(self, href: str, etag: str) -> None:
        if etag and self._etags.setdefault(href, etag) != etag:
            raise ImageryError(f"{describe(href)}: the file changed on the server while it was read; run again")


def merge_ranges(ranges: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Groups of ranges (their indices, by offset) that one request each serves: nearly no byte between them is fetched.

    Ranges may repeat or overlap. A group spans at most `MERGE_BYTES` unless it is one range.
    """
    groups: list[list[int]] = []
    low = high = -1
    for k in sorted(range(len(ranges)), key=ranges.__getitem__):
        start, end = ranges[k]
        if groups and start <= high + MERGE_GAP_BYTES and max(high, end) - low <= MERGE_BYTES:
            groups[-1].append(k)
            high = max(high, end)
        else:
            groups.append([k])
            low, high = start, end
    return groups


def _expect(href: str, response: aiohttp.ClientResponse, span: tuple[int, int]) -> tuple[int, int | None]:
    """Bytes that the body must hold, and the file's size, from an answer's headers."""
    start, end = span
    length = response.content_length
    if response.status == 200:
        if start == 0 and length is not None and length <= end:
            return length, length
        raise ImageryError(
            f"{describe(href)}: the server ignores ranges and would send the whole file; copy the file to a host that "
            "serves ranges"
        )
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != start:
        raise _TransientError("the server sent another range than was asked for")
    total = None if match[3] == "*" else int(match[3])
    size = int(match[2]) + 1 - start
    wanted = end - start if total is None else min(end, total) - start
    if size != wanted or (length is not None and length != size):
        raise _TransientError(f"the server announced {length} bytes, not the {wanted} asked for")
    return size, total


async def _read_at_most(href: str, response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = b""
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise ImageryError(f"{describe(href)}: the answer is longer than the {limit} bytes that are read")
    return body


def _reason(error: BaseException) -> str:
    """What went wrong, without the address that some libraries put in their messages."""
    if isinstance(error, _TransientError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientPayloadError | asyncio.IncompleteReadError):
        return "the body was cut short"
    if isinstance(error, aiohttp.ClientConnectionError):
        return f"the connection failed ({type(error).__name__})"
    return f"the request failed ({type(error).__name__})"
