"""Shards on disk: a sparse Zarr v3 group per zone, files renamed into place, a manifest line last."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from pyproj import CRS
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from eo_cate.errors import StoreError
from eo_cate.imagery.pixel_store.composite import NOT_ASKED, Composite
from eo_cate.imagery.pixel_store.zones import SHARD_PX, PixelGrid, hilbert_order
from eo_cate.store import file_digest, write_atomic
from eo_cate.types import BoolArray, Grid

CHUNK_PX = 128
_LEVEL = 3
_DTYPES = {
    "pixels": "float32",
    "clear_count": "uint16",
    "observation_count": "uint16",
    "state": "uint8",
    "warped": "uint8",
}
Line = Mapping[str, Any]
Manifest = dict[tuple[int, int], Line]


@contextmanager
def lock_store(root: Path) -> Iterator[None]:
    """Hold the folder for one writer, and remove what a killed one left half written.

    Raises
    ------
    StoreError
        When another process writes to it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(f"{root}: another process is fetching into it; wait for it to end") from error
        for path in root.rglob(".*.tmp"):
            path.unlink()
        yield


def write_description(root: Path, grid: PixelGrid, bands: Sequence[str], units: str) -> None:
    """Say once, for all periods, what the pixels of this source are."""
    content = {
        "bands": list(bands),
        "units": units,
        "resolution": grid.resolution,
        "phase": [grid.phase_x, grid.phase_y],
    }
    write_atomic(root / "source.json", (json.dumps(content, indent=2) + "\n").encode())


def read_description(root: Path) -> tuple[PixelGrid, tuple[str, ...]] | None:
    """The source's grid and bands, None before anything was fetched."""
    path = root / "source.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return PixelGrid(content["resolution"], *content["phase"]), tuple(content["bands"])


def create_group(folder: Path, grid: Grid, *, bands: Sequence[str], units: str, period: str, source: str) -> None:
    """Write the metadata of a zone's group where they are not there yet: the same bytes, whoever writes them."""
    for name, content in _metadata(grid, tuple(bands), units, period, source).items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            write_atomic(path, content)


def _metadata(grid: Grid, bands: tuple[str, ...], units: str, period: str, source: str) -> dict[str, bytes]:
    crs = CRS.from_user_input(grid.crs)
    a, b, c, d, e, f = grid.transform
    rows, columns = grid.shape
    attributes = {
        "bands": list(bands),
        "units": units,
        "period": period,
        "source": source,
        "proj:code": grid.crs,
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": [a, b, c, d, e, f],
        "spatial:shape": [rows, columns],
        "states": {"not asked for": 0, "valid": 1, "nodata": 2, "failed": 3},
    }
    store = MemoryStore()
    zarr.create_group(store, attributes=attributes)
    for name in _DTYPES:
        array = _create_array(store, name, len(bands), grid.shape)
        array.attrs.update({"grid_mapping": "spatial_ref"})
    reference = zarr.create_array(store, name="spatial_ref", shape=(), dtype="int32", compressors=None)
    reference.attrs.update({"crs_wkt": crs.to_wkt(), "GeoTransform": " ".join(map(repr, (c, a, b, f, d, e)))})
    return _contents(store)


def _create_array(store: MemoryStore, name: str, bands: int, shape: tuple[int, int]) -> Any:
    first: tuple[int, ...] = (bands,) if name == "pixels" else ()
    return zarr.create_array(
        store,
        name=name,
        shape=(*first, *shape),
        dtype=_DTYPES[name],
        chunks=(*first, CHUNK_PX, CHUNK_PX),
        shards=(*first, SHARD_PX, SHARD_PX),
        compressors=ZstdCodec(level=_LEVEL, checksum=False),
        fill_value=math.nan if name == "pixels" else 0,
        dimension_names=("band", "y", "x") if name == "pixels" else ("y", "x"),
    )


def _contents(store: MemoryStore) -> dict[str, bytes]:
    return {key: value.to_bytes() for key, value in store._store_dict.items()}


def shard_file(folder: Path, name: str, row: int, col: int) -> Path:
    """The file of an array's shard."""
    return folder / name / "c" / ("0" if name == "pixels" else "") / str(row) / str(col)


def write_shard(folder: Path, row: int, col: int, composite: Composite) -> dict[str, str]:
    """Write a shard's arrays, each renamed into place, and return the sha256 of their files.

    A shard is encoded by Zarr as the only one of a small array: its bytes do not depend on where it lies. Zarr is given
    the chunks around the pixels that were asked for alone: the others are the fill value, which it leaves out.
    """
    hashes = {}
    box = _chunks_around(composite.state != NOT_ASKED)
    for field in fields(composite):
        values = getattr(composite, field.name)
        path = shard_file(folder, field.name, row, col)
        content = None if box is None else _encode_shard(field.name, values, box, len(composite.pixels))
        if content is None:  # all of it is the fill value: Zarr has no file for such a shard
            path.unlink(missing_ok=True)
            continue
        write_atomic(path, content)
        hashes[field.name] = hashlib.sha256(content).hexdigest()
    return hashes


def _encode_shard(name: str, values: NDArray[Any], box: tuple[slice, slice], bands: int) -> bytes | None:
    """A shard's file; None when all of it is the fill value."""
    inside = values[..., box[0], box[1]]
    if np.isnan(inside).all() if name == "pixels" else not inside.any():
        return None
    store = MemoryStore()
    array = _create_array(store, name, bands, (SHARD_PX, SHARD_PX))
    array[..., box[0], box[1]] = inside
    return _contents(store).get(f"{name}/c/{'/'.join('0' * values.ndim)}")


def _chunks_around(mask: BoolArray) -> tuple[slice, slice] | None:
    """The smallest box of whole chunks that holds a mask."""
    edges = []
    for axis in (1, 0):
        found = np.flatnonzero(mask.any(axis=axis)) // CHUNK_PX
        if not len(found):
            return None
        edges.append(slice(int(found[0]) * CHUNK_PX, (int(found[-1]) + 1) * CHUNK_PX))
    return edges[0], edges[1]


@lru_cache(maxsize=256)
def open_array(folder: Path, name: str) -> Any:
    """A zone's array, opened for reading."""
    return zarr.open_array(folder / name, mode="r")


def read_shard(folder: Path, row: int, col: int) -> Composite:
    """The arrays of a stored shard."""
    where = np.s_[..., row * SHARD_PX : (row + 1) * SHARD_PX, col * SHARD_PX : (col + 1) * SHARD_PX]
    arrays: dict[str, NDArray[Any]] = {name: np.asarray(open_array(folder, name)[where]) for name in _DTYPES}
    return Composite(**arrays)


def shard_matches(folder: Path, row: int, col: int, line: Line) -> bool:
    """Whether a shard's files are those of its manifest line."""
    for name in _DTYPES:
        path = shard_file(folder, name, row, col)
        expected = line["files"].get(name)
        if path.exists() != (expected is not None) or (expected and file_digest(path) != expected):
            return False
    return True


def manifest_path(folder: Path) -> Path:
    """The manifest of a zone's group lies beside it: inside, Zarr would warn of a file that is not its own."""
    return folder.with_name(f"{folder.name}.jsonl")


def read_manifest(folder: Path) -> Manifest:
    """The last whole line of each shard; a torn last line is that of a killed run and says nothing."""
    lines: Manifest = {}
    try:
        text = manifest_path(folder).read_text(encoding="utf-8")
    except FileNotFoundError:
        return lines
    for line in text.split("\n")[:-1]:
        content = json.loads(line)
        lines[content["row"], content["col"]] = content
    return lines


def append_line(folder: Path, line: Line) -> None:
    """Add a shard's line, after its files: from here on it is stored.

    Raises
    ------
    StoreError
        When the disk is full; the file is cut back to its whole lines.
    """
    path = manifest_path(folder)
    whole = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as stream:
            stream.write(_encode(line))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        if path.exists():
            os.truncate(path, whole)
        raise StoreError(f"{path}: cannot be written ({error.strerror}); what was stored before stands") from error


def compact_manifest(folder: Path) -> None:
    """One line per shard, along the Hilbert curve: the same bytes however many runs it took."""
    manifest = read_manifest(folder)
    ordered = sorted(manifest, key=lambda shard: hilbert_order((0, *shard)))
    content = b"".join(_encode(manifest[shard]) for shard in ordered)
    path = manifest_path(folder)
    if path.exists() and path.read_bytes() != content:
        write_atomic(path, content)


def _encode(line: Line) -> bytes:
    return json.dumps(line, sort_keys=True).encode() + b"\n"
