"""Blocks of a run: each fetched and decoded once, kept while a shard still needs it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eo_cate.errors import ImageryError
from eo_cate.imagery.scenes import Asset, BlockSource, RasterHeader, ReadFailure
from eo_cate.types import IntArray

Extent = tuple[int, int, int, int]
"""First and last (not included) row, first and last column, in a file's pixels."""


@dataclass(frozen=True)
class Part:
    """Pixels (band, y, x) of a block that start ``top`` rows and ``left`` columns inside it."""

    pixels: NDArray[Any]
    top: int = 0
    left: int = 0


@dataclass
class OpenFiles:
    """Headers of a run's files, and a number for every block of them."""

    headers: dict[str, RasterHeader | ReadFailure] = field(default_factory=dict)
    hrefs: list[str] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)
    total: int = 0
    any_failed: bool = False

    async def open(self, source: BlockSource, assets: Sequence[Asset]) -> None:
        """Open the files that are not open yet.

        Raises
        ------
        ImageryError
            When a file has other bands than its catalogue or the configuration says.
        """
        new = [href for href in dict.fromkeys(asset.href for asset in assets) if href not in self.headers]
        for href, header in zip(new, await asyncio.gather(*map(source.open, new)), strict=True):
            self.headers[href] = header
            if isinstance(header, ReadFailure):
                self.any_failed = True
                continue
            self.hrefs.append(href)
            self.starts[href] = self.total
            self.total += header.block_bytes.size
        for asset in assets:
            header = self.headers[asset.href]
            if isinstance(header, RasterHeader):
                _check_band(asset, header.count)

    def number(self, href: str, rows: IntArray, columns: IntArray) -> IntArray:
        """Numbers of some blocks of a file."""
        header = self.headers[href]
        assert isinstance(header, RasterHeader)
        return np.asarray(self.starts[href] + rows * header.block_bytes.shape[1] + columns, dtype=np.int64)

    def by_file(self, numbers: IntArray) -> Mapping[str, list[tuple[int, int]]]:
        """File -> (row, column) of its blocks."""
        starts = np.array([self.starts[href] for href in self.hrefs], dtype=np.int64)
        files: dict[str, list[tuple[int, int]]] = {}
        for file, number in zip(np.searchsorted(starts, numbers, side="right") - 1, numbers, strict=True):
            header = self.headers[self.hrefs[file]]
            assert isinstance(header, RasterHeader)
            row, column = divmod(int(number - starts[file]), header.block_bytes.shape[1])
            files.setdefault(self.hrefs[file], []).append((row, column))
        return files

    def compressed_bytes(self, numbers: IntArray) -> int:
        """What the headers say that blocks take."""
        total = 0
        for href, blocks in self.by_file(numbers).items():
            header = self.headers[href]
            assert isinstance(header, RasterHeader)
            rows, columns = np.array(blocks).T
            total += int(header.block_bytes[rows, columns].sum())
        return total


def _check_band(asset: Asset, found: int) -> None:
    if asset.count == 1 != found:
        raise ImageryError(
            f"{asset.href}: has {found} bands, and was named as one; name its bands in imagery.bands, KEY:1-{found} or "
            "by the names that the catalogue gives them"
        )
    if asset.count not in (0, found) or asset.band > found:
        said = f"its catalogue lists {asset.count}" if asset.count else f"imagery.bands names number {asset.band}"
        raise ImageryError(f"{asset.href}: has {found} bands, and {said}")


class BlockCache:
    """Decoded blocks that shards, visited in a known order, still need.

    Parameters
    ----------
    source : BlockSource
    files : OpenFiles
    needs : sequence of (k,) int64
        Numbers of the blocks that each shard needs.
    capacity : int
        Bytes beyond which blocks of later shards are dropped, the one needed latest first, and fetched again; what
        arrives beyond them is kept only as far as the shard at hand reaches.
    extent : callable
        (shard, href) -> the part of a file that the shard can need, None: perhaps all of it.

    Attributes
    ----------
    fetched, fetched_bytes, evicted : int
        Blocks asked of the source, their compressed bytes, blocks dropped before their last shard.
    failures : Counter of str
        Reasons of the blocks that could not be read.
    """

    def __init__(
        self,
        source: BlockSource,
        files: OpenFiles,
        needs: Sequence[IntArray],
        *,
        capacity: int,
        extent: Callable[[int, str], Extent | None],
    ) -> None:
        self.source, self.files, self.needs, self.capacity, self.extent = source, files, needs, capacity, extent
        self.fetched = self.fetched_bytes = self.evicted = self.held_bytes = 0
        self.failures: Counter[str] = Counter()
        self._blocks: dict[int, Part | ReadFailure] = {}
        self._cut: dict[int, dict[int, Part]] = {}
        numbers = np.concatenate([*needs, np.empty(0, dtype=np.int64)])
        shards = np.repeat(np.arange(len(needs)), [len(need) for need in needs])
        order = np.argsort(numbers, kind="stable")
        self._numbers, self._shards = numbers[order], shards[order]

    def get(self, number: int, shard: int) -> Part | ReadFailure | None:
        """What a shard needs of a block, why it failed, or None when no shard at hand needs it."""
        found = self._cut.get(shard, {}).get(number)
        return self._blocks.get(number) if found is None else found

    def reasons(self, shard: int) -> set[str]:
        """Why blocks at hand that a shard needs could not be read."""
        blocks = (self._blocks.get(number) for number in self.needs[shard].tolist())
        return {block.reason for block in blocks if isinstance(block, ReadFailure)}

    def decoded_bytes(self, shard: int) -> int:
        """Bytes that a shard's missing blocks take in memory."""
        total = 0
        for href, blocks in self.files.by_file(self._missing(shard)).items():
            header = self.files.headers[href]
            assert isinstance(header, RasterHeader)
            total += len(blocks) * int(np.prod(header.block_shape)) * header.count * np.dtype(header.dtype).itemsize
        return total

    async def load(self, shard: int) -> None:
        """Fetch the blocks that a shard needs and that are not at hand."""
        missing = self._missing(shard)
        wanted = self.files.by_file(missing)
        await asyncio.gather(*(self._load_file(shard, href, blocks) for href, blocks in wanted.items()))
        self.fetched += len(missing)
        self.fetched_bytes += self.files.compressed_bytes(missing)

    async def _load_file(self, shard: int, href: str, blocks: list[tuple[int, int]]) -> None:
        """Keep each file's blocks as soon as they come, so that what is cut off is never held with the rest."""
        answer = await self.source.read_blocks(href, blocks)
        rows, columns = np.array(blocks, dtype=np.int64).T
        for block, number in zip(blocks, self.files.number(href, rows, columns).tolist(), strict=True):
            self._keep(shard, href, block, number, answer[block])

    def release(self, shard: int, *, pinned: Sequence[int] = ()) -> None:
        """Drop the blocks whose last shard this was, and, beyond the capacity, those that are needed latest.

        ``pinned``: shards that are about to be computed, whose blocks stay.
        """
        for number, part in self._cut.pop(shard, {}).items():
            self.held_bytes -= part.pixels.nbytes
            self.evicted += self._next_use(number, shard) is not None
        next_use = {number: self._next_use(number, shard) for number in self._blocks}
        for number, use in next_use.items():
            if use is None:
                self._drop(number)
        stay = {int(number) for k in pinned for number in self.needs[k]}
        latest = sorted((n for n in self._blocks if n not in stay), key=lambda n: (next_use[n] or 0, n))
        while latest and self.held_bytes > self.capacity:
            self._drop(latest.pop())
            self.evicted += 1

    def _missing(self, shard: int) -> IntArray:
        cut = self._cut.get(shard, {})
        here = (n for n in self.needs[shard].tolist() if n not in self._blocks and n not in cut)
        return np.array(list(here), dtype=np.int64)

    def _next_use(self, number: int, shard: int) -> int | None:
        start, stop = np.searchsorted(self._numbers, [number, number + 1])
        later = start + np.searchsorted(self._shards[start:stop], shard, side="right")
        return int(self._shards[later]) if later < stop else None

    def _keep(
        self, shard: int, href: str, block: tuple[int, int], number: int, content: NDArray[Any] | ReadFailure
    ) -> None:
        if isinstance(content, ReadFailure):
            self.failures[content.reason] += 1
            self._blocks[number] = content
            return
        extent = self.extent(shard, href)
        full = self.held_bytes + content.nbytes > self.capacity
        if extent is not None and (full or self._next_use(number, shard) is None):
            header = self.files.headers[href]
            assert isinstance(header, RasterHeader)
            row, column = block[0] * header.block_shape[0], block[1] * header.block_shape[1]
            top, left = max(extent[0] - row, 0), max(extent[2] - column, 0)
            part = Part(content[:, top : extent[1] - row, left : extent[3] - column].copy(), top, left)
            self._cut.setdefault(shard, {})[number] = part
        else:
            part = Part(content)
            self._blocks[number] = part
        self.held_bytes += part.pixels.nbytes

    def _drop(self, number: int) -> None:
        block = self._blocks.pop(number)
        if isinstance(block, Part):
            self.held_bytes -= block.pixels.nbytes
