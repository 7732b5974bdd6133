"""Scenes above a tile reduced to the median of their clear observations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from eo_cate.types import BoolArray

Reduction = Literal["median", "newest"]

NOT_ASKED, VALID, NODATA, FAILED = 0, 1, 2, 3
"""States of a pixel; ``NODATA``: no clear observation (cloudy, or with no observation at all: not covered)."""


@dataclass(frozen=True)
class Observation:
    """A scene above a tile.

    Parameters
    ----------
    values : (band, y, x) float32
        Scaled; NaN where the band has no data.
    observed, clear, failed : (y, x) bool
        Seen at all; seen without cloud; a block that the pixel needs could not be read.
    """

    values: NDArray[np.float32]
    observed: BoolArray
    clear: BoolArray
    failed: BoolArray


@dataclass(frozen=True)
class Composite:
    """What is stored of a tile or shard: pixels (band, y, x) float32, the rest (y, x) integers."""

    pixels: NDArray[np.float32]
    clear_count: NDArray[np.uint16]
    observation_count: NDArray[np.uint16]
    state: NDArray[np.uint8]
    warped: NDArray[np.uint8]


def empty_composite(bands: int, shape: tuple[int, int]) -> Composite:
    """Pixels that nobody asked for."""
    return Composite(
        pixels=np.full((bands, *shape), np.nan, dtype=np.float32),
        clear_count=np.zeros(shape, dtype=np.uint16),
        observation_count=np.zeros(shape, dtype=np.uint16),
        state=np.zeros(shape, dtype=np.uint8),
        warped=np.zeros(shape, dtype=np.uint8),
    )


def reduce_observations(
    observations: list[Observation],
    *,
    asked: BoolArray,
    failed: BoolArray,
    warped: BoolArray,
    bands: int,
    reduction: Reduction = "median",
) -> Composite:
    """The scenes whose pixel is clear and has data in ALL bands, reduced: the same scenes in every band.

    Parameters
    ----------
    observations : list of Observation
        The newest first; the median does not depend on their order.
    asked, failed, warped : (y, x) bool
        Pixels wanted; pixels that failed before any block was read; pixels that are seen from another zone only.

    reduction : {"median", "newest"}
        ``newest``: the first observation's bands, none of them from another. Both return a single observation as it is.

    Notes
    -----
    A pixel that failed in any scene is `FAILED`, with NaN and counts of zero: never a median of the rest.
    """
    result = empty_composite(bands, (asked.shape[0], asked.shape[1]))
    broken = failed.copy()
    for observation in observations:
        broken |= observation.failed
    broken &= asked
    usable = asked & ~broken
    stack = np.empty((len(observations), bands, *asked.shape), dtype=np.float32)
    for scene, observation in enumerate(observations):
        clear = usable & observation.clear & ~np.isnan(observation.values).any(axis=0)
        stack[scene] = np.where(clear, observation.values, np.float32(np.nan))
        result.clear_count[...] += clear
        result.observation_count[...] += usable & observation.observed
    result.pixels[...] = nan_median(stack) if reduction == "median" else first_present(stack)
    result.state[usable] = np.where(result.clear_count[usable] > 0, VALID, NODATA)
    result.state[broken] = FAILED
    result.warped[warped & (result.state == VALID)] = 1
    return result


def nan_median(stack: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median over the first axis without NaN, shape (band, y, x): bit for bit that of `numpy.nanmedian`.

    Parameters
    ----------
    stack : (scene, band, y, x) float32
    """
    result = np.full(stack.shape[1:], np.nan, dtype=np.float32)
    if len(stack):
        _median_rows(np.ascontiguousarray(stack), result)
    return result


def first_present(stack: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first value that is not NaN over the first axis, shape (band, y, x).

    Parameters
    ----------
    stack : (scene, band, y, x) float32
    """
    result = np.full(stack.shape[1:], np.nan, dtype=np.float32)
    for values in stack:
        np.copyto(result, values, where=np.isnan(result))
    return result


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _median_rows(stack: NDArray[np.float32], result: NDArray[np.float32]) -> None:
    scenes, bands, rows, columns = stack.shape
    sorted_values = np.empty((columns, scenes), dtype=np.float32)
    count = np.empty(columns, dtype=np.int64)
    for band in range(bands):
        for y in range(rows):
            count[:] = 0
            for scene in range(scenes):
                for x in range(columns):
                    value = stack[scene, band, y, x]
                    if np.isnan(value):
                        continue
                    place = count[x]
                    while place > 0 and sorted_values[x, place - 1] > value:
                        sorted_values[x, place] = sorted_values[x, place - 1]
                        place -= 1
                    sorted_values[x, place] = value
                    count[x] += 1
            for x in range(columns):
                middle = count[x] // 2
                if count[x] % 2:
                    result[band, y, x] = sorted_values[x, middle]
                elif count[x]:
                    low, high = sorted_values[x, middle - 1], sorted_values[x, middle]
                    result[band, y, x] = (low + high) / np.float32(2)
