"""A static file server with ranges that misbehaves on purpose: what remote reads are tested and timed against."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import mmap
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import numpy as np

FaultKind = Literal["status", "reset", "truncate", "flip", "drip", "redirect", "etag", "ignore_range"]

TOKEN_PATH = "/sas/token"
_MAX_HEAD = 2**16


@dataclass(frozen=True)
class Fault:
    """What to do wrong, and for which requests: the first fault that matches is the one that happens.

    Parameters
    ----------
    kind : str
        ``status`` (answer with ``status``, and Retry-After), ``reset`` (TCP reset in the middle of the body),
        ``truncate`` (half the body, then close), ``flip`` (one bit of the body, at ``at``), ``drip``
        (``bytes_per_s``), ``redirect`` (to ``location``), ``etag`` (another ETag), ``ignore_range`` (200, whole file).
    path : str
        Pattern for the path, without the leading slash.
    nth : tuple of int
        Which of the matching requests, from 1; empty: all of them.
    probability, seed
        Each matching request misbehaves with this probability.
    from_byte : int
        Only requests for ranges that start here or later: 1 spares the header.
    at : float
        Where in the body the bit is flipped, from 0 to 1.
    """

    kind: FaultKind
    path: str = "*"
    nth: tuple[int, ...] = ()
    probability: float = 1.0
    seed: int = 0
    from_byte: int = 0
    status: int = 503
    retry_after: str | None = None
    at: float = 0.5
    bytes_per_s: float = 100.0
    location: str = ""


@dataclass(frozen=True)
class LoggedRequest:
    """A request as it was answered; ``start`` and ``end`` (excluded) are None without a Range. No query is kept."""

    path: str
    start: int | None
    end: int | None
    status: int


class RangeServer:
    """What `serve_folder` gives: the address, and what was asked for so far.

    Parameters
    ----------
    folder : Path
        Files under it are served.
    latency_s : float
        Seconds before each answer.
    faults : sequence of Fault
        See there.
    tokens : bool
        Whether files are served only to links that carry the current token, which ``/sas/token/ACCOUNT/CONTAINER``
        hands out.
    token_lifetime_s : float
        What the endpoint says of a token's life.
    """

    def __init__(
        self,
        folder: Path,
        *,
        latency_s: float = 0.0,
        faults: Sequence[Fault] = (),
        tokens: bool = False,
        token_lifetime_s: float = 2700.0,
    ) -> None:
        self.folder = folder.resolve()
        self.latency_s = latency_s
        self.tokens = tokens
        self.token_lifetime_s = token_lifetime_s
        self.log: list[LoggedRequest] = []
        self.address = ""
        self.most_in_flight = 0
        self.in_flight = 0
        self.open_connections: set[asyncio.Transport] = set()
        self.token_number = 1
        self.tokens_given = 0
        self.set_faults(faults)
        self._files: dict[str, tuple[mmap.mmap | bytes, str]] = {}

    @property
    def token(self) -> str:
        """The query that files ask for now."""
        return f"sig=token{self.token_number}"

    def set_faults(self, faults: Sequence[Fault]) -> None:
        """Misbehave so from now on; requests are counted anew."""
        self.faults = list(faults)
        self._seen: dict[int, int] = {}
        self._rngs = {k: np.random.default_rng(fault.seed) for k, fault in enumerate(self.faults)}

    def rotate_token(self) -> None:
        """Make all tokens given so far worthless."""
        self.token_number += 1

    def href(self, name: str) -> str:
        """Address of a file."""
        return f"{self.address}/{name}"

    def find_fault(self, path: str, start: int) -> Fault | None:
        """The fault of this request; counts it for every rule that matches."""
        found: Fault | None = None
        for k, fault in enumerate(self.faults):
            if not fnmatchcase(path, fault.path) or start < fault.from_byte:
                continue
            self._seen[k] = self._seen.get(k, 0) + 1
            hit = (not fault.nth or self._seen[k] in fault.nth) and self._rngs[k].random() < fault.probability
            found = found or (fault if hit else None)
        return found

    def open_file(self, path: str) -> tuple[mmap.mmap | bytes, str] | None:
        """Bytes and ETag of a file, mapped once; None when there is none under the folder."""
        if path not in self._files:
            file = (self.folder / path).resolve()
            if not file.is_relative_to(self.folder) or not file.is_file():
                return None
            stat = file.stat()
            with file.open("rb") as stream:
                data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if stat.st_size else b""
            self._files[path] = data, f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
        return self._files[path]

    def give_token(self) -> bytes:
        """What the token endpoint answers."""
        self.tokens_given += 1
        expiry = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.token_lifetime_s)
        return json.dumps({"msft:expiry": expiry.isoformat(), "token": self.token}).encode()


class _Connection(asyncio.Protocol):
    """One keep-alive connection: requests are answered one after the other."""

    def __init__(self, server: RangeServer) -> None:
        self._server = server
        self._buffer = b""
        self._busy = False
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.open_connections.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.open_connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > _MAX_HEAD:
            self._transport.abort()
        self._next()

    def _next(self) -> None:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if self._busy or not found or self._transport.is_closing():
            return
        self._busy, self._buffer = True, rest
        self._server.in_flight += 1
        self._server.most_in_flight = max(self._server.most_in_flight, self._server.in_flight)
        if self._server.latency_s:
            self._loop.call_later(self._server.latency_s, self._answer, head)
        else:
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        self._server.in_flight -= 1
        if self._transport.is_closing():
            return
        lines = head.decode("latin-1").split("\r\n")
        method, _, target = lines[0].partition(" ")
        path, _, query = target.rpartition(" ")[0].partition("?")
        span = next((line[6:].strip() for line in lines[1:] if line[:6].lower() == "range:"), "")
        if method not in ("GET", "HEAD"):
            self._send(path, 405, b"", (None, None))
        elif path.startswith(TOKEN_PATH):
            self._send(path, 200, self._server.give_token(), (None, None), {"Content-Type": "application/json"})
        else:
            self._serve(unquote(path).lstrip("/"), query, span, body=method == "GET")

    def _serve(self, path: str, query: str, span: str, *, body: bool) -> None:
        """A file, or a range of it, with what is to go wrong."""
        server = self._server
        file = server.open_file(path)
        size = len(file[0]) if file else 0
        asked = _parse_range(span, size)
        start, end = asked or (0, size)
        fault = server.find_fault(path, start) if body else None
        log = (start, end) if asked else (None, None)
        if server.tokens and server.token not in query.split("&"):
            self._send(path, 403, b"", log)
        elif fault is not None and fault.kind == "status":
            self._send(path, fault.status, b"", log, {"Retry-After": fault.retry_after} if fault.retry_after else {})
        elif fault is not None and fault.kind == "redirect":
            self._send(path, 302, b"", log, {"Location": fault.location})
        elif file is None:
            self._send(path, 404, b"", log)
        elif span and asked is None:
            self._send(path, 416, b"", (None, None), {"Content-Range": f"bytes */{size}"})
        else:
            if fault is not None and fault.kind == "ignore_range":
                asked, start, end, log = None, 0, size, (None, None)
            headers = {"ETag": '"another"' if fault and fault.kind == "etag" else file[1], "Accept-Ranges": "bytes"}
            if asked:
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            self._send(path, 206 if asked else 200, file[0][start:end], log, headers, fault=fault, body=body)

    def _send(
        self,
        path: str,
        status: int,
        data: bytes,
        span: tuple[int | None, int | None],
        headers: dict[str, str] | None = None,
        *,
        fault: Fault | None = None,
        body: bool = True,
    ) -> None:
        self._server.log.append(LoggedRequest(path, span[0], span[1], status))
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        kind = fault.kind if fault else ""
        if fault is not None and kind == "flip" and data:
            changed = bytearray(data)
            changed[min(int(fault.at * len(data)), len(data) - 1)] ^= 8
            data = bytes(changed)
        if kind in ("truncate", "reset"):
            self._transport.write(head + data[: len(data) // 2])
            self._break(reset=kind == "reset")
        elif fault is not None and kind == "drip":
            self._transport.write(head)
            self._drip(data, fault.bytes_per_s)
        else:
            self._transport.write(head + data if body else head)
            self._done()

    def _break(self, *, reset: bool) -> None:
        if reset:  # SO_LINGER of 0 seconds makes the close a TCP reset
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._transport.close()

    def _drip(self, data: bytes, bytes_per_s: float) -> None:
        if self._transport.is_closing():
            return
        if not data:
            self._done()
            return
        self._transport.write(data[:1])
        self._loop.call_later(1.0 / bytes_per_s, self._drip, data[1:], bytes_per_s)

    def _done(self) -> None:
        self._busy = False
        self._next()


@contextmanager
def serve_folder(
    folder: Path,
    *,
    latency_s: float = 0.0,
    faults: Sequence[Fault] = (),
    tokens: bool = False,
    token_lifetime_s: float = 2700.0,
    port: int = 0,
) -> Iterator[RangeServer]:
    """Serve a folder on 127.0.0.1 from a thread of its own while the block runs; parameters as in `RangeServer`."""
    server = RangeServer(folder, latency_s=latency_s, faults=faults, tokens=tokens, token_lifetime_s=token_lifetime_s)
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def run() -> None:
        listener = await loop.create_server(lambda: _Connection(server), "127.0.0.1", port, backlog=512)
        server.address = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        ready.set()
        await stop.wait()
        listener.close()
        for transport in list(server.open_connections):
            transport.abort()

    def main() -> None:
        try:
            loop.run_until_complete(run())
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=main, name="range-server", daemon=True)
    thread.start()
    ready.wait()
    if not server.address:
        thread.join()
        raise OSError(f"port {port} of 127.0.0.1 cannot be listened on")
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def _parse_range(text: str, size: int) -> tuple[int, int] | None:
    """(start, end) of a single range, cut at the file's end; None when there is none that can be served."""
    unit, _, span = text.partition("=")
    first, dash, last = span.partition("-")
    if unit.strip() != "bytes" or not dash or "," in span:
        return None
    if not first:
        return (max(0, size - int(last)), size) if last.isdecimal() and int(last) and size else None
    if not first.isdecimal() or int(first) >= size:
        return None
    end = min(int(last) + 1, size) if last.isdecimal() else size
    return (int(first), end) if end > int(first) else None


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until the process is ended; the first line that is written is the address."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args(argv)
    with serve_folder(options.folder, latency_s=options.latency_ms / 1000.0, port=options.port) as server:
        sys.stdout.write(server.address + "\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
