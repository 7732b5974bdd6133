"""Content-addressed results: what is in the manifest and matches its sha256 is never computed again.

A result is written to a temporary name, fsynced and renamed; its manifest line comes last. A killed run leaves at most
a temporary file behind; a file that does not match its line is moved to quarantine/ and computed again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eo_cate.errors import StoreError

Arrays = Mapping[str, NDArray[Any]]


def digest(*parts: Any) -> str:
    """sha256 (hex) of arrays, bytes, strings and JSON-able values; order and types count."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            head = f"array:{part.dtype.str}:{part.shape}:".encode()
            body = np.ascontiguousarray(part).tobytes() if part.dtype != object else repr(part.tolist()).encode()
        elif isinstance(part, bytes):
            head, body = b"bytes:", part
        else:
            head, body = b"json:", json.dumps(part, sort_keys=True, default=str).encode()
        sha.update(len(head).to_bytes(8, "little") + head + len(body).to_bytes(8, "little") + body)
    return sha.hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"{path}: cannot be written ({error.strerror}); what was stored before is untouched"
        ) from error


class Store:
    """Results of stages under one folder.

    Parameters
    ----------
    root : Path
        Folder, created when absent: ``objects/`` (npz files by key), ``manifest.jsonl``, ``quarantine/``.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.manifest = self.root / "manifest.jsonl"
        (self.root / "objects").mkdir(parents=True, exist_ok=True)
        self._lines = self._read_manifest()

    def _read_manifest(self) -> dict[str, dict[str, Any]]:
        lines: dict[str, dict[str, Any]] = {}
        if not self.manifest.exists():
            return lines
        for text in self.manifest.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue  # the torn last line of a killed run: its object is computed again
            lines[line["key"]] = line
        return lines

    @staticmethod
    def key(stage: str, version: int, *inputs: Any) -> str:
        """The address of a result: stage, its version, and all that determines it."""
        return digest(stage, version, *inputs)

    def load(self, key: str) -> dict[str, NDArray[Any]] | None:
        """The arrays stored under a key, or None when absent or damaged (then quarantined)."""
        line = self._lines.get(key)
        if line is None:
            return None
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            content = b""
        if hashlib.sha256(content).hexdigest() != line["sha256"]:
            self._quarantine(key)
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def save(self, key: str, stage: str, arrays: Arrays) -> None:
        """Store arrays under a key."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **dict(arrays))
        content = buffer.getvalue()
        write_atomic(self._path(key), content)
        line = {
            "key": key,
            "stage": stage,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "time": time.time(),
        }
        self._append(line)
        self._lines[key] = line

    def _append(self, line: Mapping[str, Any]) -> None:
        torn = (
            self.manifest.exists()
            and self.manifest.stat().st_size > 0
            and not self.manifest.read_bytes().endswith(b"\n")
        )
        with self.manifest.open("a", encoding="utf-8") as stream:
            stream.write(("\n" if torn else "") + json.dumps(line) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _path(self, key: str) -> Path:
        return self.root / "objects" / key[:2] / f"{key}.npz"

    def _quarantine(self, key: str) -> None:
        del self._lines[key]
        path = self._path(key)
        if path.exists():
            target = self.root / "quarantine" / path.name
            target.parent.mkdir(exist_ok=True)
            path.replace(target)

    def stages(self) -> dict[str, tuple[int, int]]:
        """Per stage: number of results and their bytes."""
        counts: dict[str, tuple[int, int]] = {}
        for line in self._lines.values():
            number, size = counts.get(line["stage"], (0, 0))
            counts[line["stage"]] = (number + 1, size + line["bytes"])
        return counts
