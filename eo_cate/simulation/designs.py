"""Designs of a simulation study: draws run as stored shards, means with Monte-Carlo errors, gains paired by draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from eo_cate.executor import Executor
from eo_cate.shards import Arrays, compute_stored
from eo_cate.store import Store

Measured = Mapping[tuple[str, str], float]
"""One draw: (procedure, figure) -> value."""

COLUMNS = ("part", "design", "draw", "procedure", "figure", "value")
BLOCK = 5
"""Draws in a shard: what an interrupted study loses at most per worker."""


@dataclass(frozen=True)
class Design:
    """What is drawn again and again.

    Parameters
    ----------
    name : str
    measure : callable (seed) -> Measured
        Deterministic and picklable, such as a `functools.partial` of a module's function.
    draws : int
    inputs : tuple
        All that determines a draw beside its seed, for the key in the store.
    """

    name: str
    measure: Callable[[int], Measured]
    draws: int
    inputs: tuple[Any, ...]


@dataclass(frozen=True)
class _Block:
    measure: Callable[[int], Measured]
    seeds: range


def run_designs(
    part: str,
    designs: Sequence[Design],
    *,
    first_seed: int,
    store: Store,
    executor: Executor,
    stored_only: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Draws of every design, one row per draw, procedure and figure (`COLUMNS`); stored in blocks of draws.

    With ``stored_only`` nothing is computed: the draws that the store holds so far, which may be none.
    """
    planned = [
        (design, range(first_seed + start, first_seed + min(start + BLOCK, design.draws)))
        for start in range(0, max(design.draws for design in designs), BLOCK)
        for design in designs
        if start < design.draws
    ]
    keys = [Store.key("designs", 1, part, design.inputs, seeds.start, seeds.stop) for design, seeds in planned]
    if stored_only:
        kept = [i for i, key in enumerate(keys) if store.load(key) is not None]
        planned, keys = [planned[i] for i in kept], [keys[i] for i in kept]
    found = compute_stored(
        _run_block, [_Block(design.measure, seeds) for design, seeds in planned], keys, "designs",
        store=store, executor=executor, description=f"part {part}", progress=progress,
    )  # fmt: skip
    tables = [
        pd.DataFrame(dict(one)).assign(part=part, design=design.name)
        for (design, _), one in zip(planned, found, strict=True)
    ]
    if not tables:
        return pd.DataFrame(columns=list(COLUMNS))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(draw=table["seed"] - first_seed)[list(COLUMNS)]


def _run_block(block: _Block) -> Arrays:
    rows = [(seed, *name, value) for seed in block.seeds for name, value in block.measure(seed).items()]
    seeds, procedures, figures, values = zip(*rows, strict=True)
    return {
        "seed": np.array(seeds), "procedure": np.array(procedures), "figure": np.array(figures),
        "value": np.array(values, dtype=np.float64),
    }  # fmt: skip


def summarise_designs(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, its Monte-Carlo standard error and the number of draws, by part, design, procedure and figure."""
    by = table.groupby(["part", "design", "procedure", "figure"], sort=False)["value"]
    found = by.agg(mean="mean", sd="std", draws="count").reset_index()
    return found.assign(mc_se=found["sd"] / np.sqrt(found["draws"])).drop(columns="sd")


@dataclass(frozen=True)
class Gain:
    """Mean over designs and draws of a difference paired by draw, its Monte-Carlo SE, and in how many designs > 0."""

    mean: float
    mc_se: float
    better: int
    designs: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.mc_se:.3f})"


def paired_gain(table: pd.DataFrame, procedure: str, against: str, figure: str) -> Gain:
    """Gain of a procedure over another in one figure. Draws of different designs that share a seed are averaged first.

    Designs in which either lacks the figure are left out.
    """
    rows = table[table["figure"] == figure]
    pair = [
        rows[rows["procedure"] == name].set_index(["part", "design", "draw"])["value"] for name in (procedure, against)
    ]
    difference = (pair[0] - pair[1]).dropna()
    by_design, by_draw = (difference.groupby(level).mean() for level in (["part", "design"], "draw"))
    mc_se = float(by_draw.std() / np.sqrt(len(by_draw)))
    return Gain(float(by_design.mean()), mc_se, int((by_design > 0).sum()), len(by_design))


def best_of(summary: pd.DataFrame, procedures: Sequence[str], figure: str) -> str:
    """The procedure with the largest mean of a figure in one design's summary."""
    rows = summary[(summary["figure"] == figure) & summary["procedure"].isin(procedures)]
    return str(rows.set_index("procedure")["mean"].idxmax())
