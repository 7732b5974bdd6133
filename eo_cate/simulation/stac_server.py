"""A real STAC API on this machine: the server of the package rustac, for tests and trials of a pipeline.

It knows bbox, datetime, intersects, ids, collections and paging; no QUERY or FILTER: clouds are filtered by who asks.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eo_cate.errors import EoCateError

_TRIES = 3
_HOST = "127.0.0.1"


@contextmanager
def serve_items(items: Mapping[str, Any], *, timeout_s: float = 30.0) -> Iterator[str]:
    """Run ``rustac serve`` on a free loopback port until the context ends.

    Parameters
    ----------
    items : mapping
        An item collection as JSON has it (``ItemCollection.to_dict()``); each collection that its items name is made.
    timeout_s : float
        How long to wait until it answers.

    Yields
    ------
    str
        The API's address.

    Raises
    ------
    EoCateError
        When rustac is not installed, or does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="eo-cate-stac-") as folder:
        path, log = Path(folder) / "items.json", Path(folder) / "rustac.log"
        path.write_text(json.dumps(dict(items)), encoding="utf-8")
        process, address = _start(path, log, timeout_s)
        try:
            yield address
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(path: Path, log: Path, timeout_s: float) -> tuple[subprocess.Popen[bytes], str]:
    """The port is free when it is chosen and may be taken when the server binds it: then another is tried."""
    for _ in range(_TRIES):
        address = f"http://{_HOST}:{_free_port()}"
        command = [_executable(), "serve", "--create-collections", "--use-duckdb", "false", "-a", address]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*command, "-b", address.removeprefix("http://"), str(path)], stdout=stream, stderr=stream
            )
        if _wait(process, address, timeout_s):
            return process, address
        process.kill()
        process.wait()
    told = log.read_text(encoding="utf-8", errors="replace")[-500:]
    raise EoCateError(f"rustac serve did not answer at {_HOST} ({_TRIES} tries): {told}")


def _executable() -> str:
    beside = Path(sys.executable).parent / "rustac"
    found = str(beside) if beside.is_file() else shutil.which("rustac")
    if found is None:
        raise EoCateError("the program rustac is not installed: pip install 'eo-cate[dev]'")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], address: str, timeout_s: float) -> bool:
    until = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(address, timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            time.sleep(0.02)
    return False
