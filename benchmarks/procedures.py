"""Multi-scale procedures on the demo scene, beside the check values of METHODS.md, section 8 -> docs/procedures.md.

Real pixels (cls token at 112 px, scales 16 and 128), known effects: tau = .3 + .35 z(local) + .35 z(context), or .5 z
on one of them alone. 150 or 400 of the 1,042 cells are villages of 5-10 households, half of the villages of each
quadrant treated; Y = tau W + u (sd .25) + e (sd .9). Each figure is a mean over draws of R2 of tau / AUTOC over the
oracle's, on the cells without a village.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from eo_cate.config import load_config
from eo_cate.estimators import CausalForest, RidgeR
from eo_cate.executor import open_executor
from eo_cate.multiscale import AverageEvidence, BlockAverage, ConcatPCA, MeanOf, Residual, Select, Stack
from eo_cate.simulation import prepare_demo
from eo_cate.simulation.clustered import ClusteredDesign, draw_clustered
from eo_cate.simulation.demo_seeds import Landscape, embed_landscape
from eo_cate.simulation.landscape_study import IMAGE, LandscapeDesign, draw_landscape, landscape_features
from eo_cate.simulation.measures import measure_effects
from eo_cate.simulation.pages import replace_part
from eo_cate.stats.site_rows import average_rows, find_rows
from eo_cate.store import Store

REPO = Path(__file__).resolve().parent.parent
PAGE = REPO / "docs" / "procedures.md"
FIRST_SEED = 1000
SIGNALS = ("both", "fine only", "coarse only")
PUBLISHED = {
    (150, "both"): (".21 / .51", ".02 / .37", ".24 / .58", ".27 / .59"),
    (150, "fine only"): (".31 / .61", "-.11 / .03", ".16 / .53", ".29 / .59"),
    (150, "coarse only"): ("-.06 / .20", ".16 / .52", ".07 / .43", ".18 / .51"),
    (400, "both"): (".37 / .58", ".21 / .56", ".46 / .71", ".48 / .71"),
    (400, "fine only"): (".53 / .72", "-.04 / .04", ".40 / .63", ".51 / .71"),
    (400, "coarse only"): (".02 / .27", ".45 / .70", ".40 / .66", ".45 / .71"),
}
SINGLES = {"16 px": [16], "128 px": [128], "concatenated": [16, 128]}


def linear(gamma: str = "df") -> RidgeR:
    return RidgeR(kernel="linear", gamma=gamma)


def forest() -> ConcatPCA:
    return ConcatPCA(CausalForest(num_trees=250, seed=1), components=10)


def build_models(which: str) -> dict[str, tuple[list[int], object]]:
    """Columns of a table: name -> scales that it sees, and the estimator."""
    both = [16, 128]
    if which == "check":
        tables = {"df 10": linear(), "R-risk": linear("r_risk")}
        found = {f"{name}, {rule}": (scales, m) for rule, m in tables.items() for name, scales in SINGLES.items()}
        return found | {"average_evidence": (both, AverageEvidence())}
    if which == "ridge":
        around = {"average": BlockAverage, "stack": Stack, "residual": Residual, "select": Select}
        found = {"concatenated": (both, linear("r_risk"))} | {k: (both, c(linear("r_risk"))) for k, c in around.items()}
        return found | {"average_evidence": (both, AverageEvidence())}
    around = {"average": BlockAverage, "stack": Stack, "residual": Residual, "select": Select}
    found = {"concat_pca": (both, forest())} | {k: (both, c(forest())) for k, c in around.items()}
    found["average_evidence"] = (both, AverageEvidence())
    return found | {"mean_of": (both, MeanOf([forest(), AverageEvidence()]))}


def score_draw(landscape: Landscape, villages: int, signal: str, seed: int, models: dict) -> list[float]:
    """R2 and share of every model in one draw."""
    draw = draw_landscape(landscape, LandscapeDesign(villages, signal), seed)
    vectors, truth, row = draw.vectors, draw.tau[draw.outside], []
    for scales, model in models.values():
        inside, at = landscape_features(landscape, draw, IMAGE, scales, seed=seed)
        model.fit(inside, vectors.Y, vectors.W, propensity=vectors.propensity, groups=vectors.groups)
        found = measure_effects(truth, model.predict(at))
        row += [found["R2"], found["share"]]
    return row


def tabulate(landscape: Landscape, which: str, draws: int) -> pd.DataFrame:
    """R2 and share: one row per number of villages, signal, draw and procedure."""
    models, rows = build_models(which), []
    for villages, signal, draw in itertools.product((150, 400), SIGNALS, range(draws)):
        found = np.reshape(score_draw(landscape, villages, signal, FIRST_SEED + draw, models), (-1, 2))
        rows += [(villages, signal, draw, name, *pair) for name, pair in zip(models, found, strict=True)]
    return pd.DataFrame(rows, columns=["villages", "signal", "draw", "procedure", "R2", "share"])


def format_table(table: pd.DataFrame, *, published: bool) -> str:
    """Markdown: means by cell, over all cells, their Monte-Carlo SE, and gains over the concatenation."""
    names = list(dict.fromkeys(table["procedure"]))
    by = table.groupby(["villages", "signal", "procedure"], sort=False)[["R2", "share"]]
    means = by.mean()
    lines = ["| villages, signal | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for villages, signal in dict.fromkeys(zip(table["villages"], table["signal"], strict=True)):
        cells = [pair(means.loc[(villages, signal, name)]) for name in names]
        if published:
            one, two, joined, ours = PUBLISHED[villages, signal]
            cells = [f"{c} ({p})" for c, p in zip(cells, [*[one, two, joined] * 2, ours], strict=True)]
        lines.append(f"| {villages}, {signal} | " + " | ".join(cells) + " |")
    overall = table.groupby("procedure", sort=False)[["R2", "share"]].mean()
    lines.append("| mean | " + " | ".join(pair(row) for _, row in overall.iterrows()) + " |")
    largest = (by.std() / np.sqrt(table["draw"].nunique())).max()
    lines += ["", f"Monte-Carlo SE of a figure: at most {pair(largest)}.", ""]
    return "\n".join(lines) + "\n" + "\n".join(format_gains(table, names))


def format_gains(table: pd.DataFrame, names: list[str]) -> list[str]:
    """Gain of the last procedure over each concatenation, paired by draw, as mean (Monte-Carlo SE)."""
    wide = table.pivot_table(index=["villages", "draw"], columns="procedure", values=["R2", "share"])
    lines = []
    for name in [n for n in names if n.startswith("concat")]:
        parts = []
        for villages in (150, 400):
            gain = {m: wide.loc[villages][m][names[-1]] - wide.loc[villages][m][name] for m in ("R2", "share")}
            text = [f"{g.mean():+.3f} ({g.std() / np.sqrt(len(g)):.3f})" for g in gain.values()]
            parts.append(f"{villages} villages {' / '.join(text)}")
        lines.append(f"- Gain of {names[-1]} over {name}, mean of the three signals: {'; '.join(parts)}.")
    return lines


def pair(row: pd.Series) -> str:
    return f"{short(row['R2'])} / {short(row['share'])}"


def time_costs() -> str:
    """Seconds of `fit` (estimates out of group included) and of 199 draws of a refit test, by sites and blocks."""
    sizes = ((150, 2), (150, 4), (150, 6), (400, 2))
    lines = ["| sites, scales | fit | 199 draws | RidgeR, fit | RidgeR, 199 draws |", "|---" * 5 + "|"]
    for sites, scales in sizes:
        seconds = [s for model in (AverageEvidence(), linear()) for s in time_model(model, sites, scales)]
        lines.append(f"| {sites}, {scales} | " + " | ".join(f"{s:.2f} s" for s in seconds) + " |")
    return "\n".join(lines)


def time_model(model: AverageEvidence | RidgeR, sites: int, scales: int) -> tuple[float, float]:
    """Seconds of a fit, and of leave-out predictions of 200 pseudo-outcomes (observed and 199 draws)."""
    design = ClusteredDesign(villages=sites, households=10, scales=scales, width=400, mixed=0.0)
    trial = draw_clustered(design, seed=1)
    X, U = trial.blocks(*trial.scales), np.random.default_rng(0).normal(size=(sites, 200))
    rows, flip = average_rows(X, find_rows(X)), np.arange(sites)
    fit = clock(lambda: model.fit(X, trial.Y, trial.W, propensity=0.5, groups=trial.village))
    return fit, clock(lambda: model.leave_out_predictions(rows, U, flip_unit=flip))


def clock(work: Callable[[], object]) -> float:
    """Least seconds of three calls."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def short(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1)


def read_landscape() -> Landscape:
    """Cells and their embeddings, which are computed once."""
    prepare_demo(REPO / "data" / "demo")
    config, store = load_config(REPO / "configs" / "demo.yaml"), Store(REPO / "runs" / "demo_seeds" / "store")
    with open_executor("inline") as executor:
        return embed_landscape(config, REPO / "data" / "demo", store=store, executor=executor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=25)
    parser.add_argument("--table", choices=("check", "ridge", "forest", "cost"), default="check")
    parser.add_argument("--write", action="store_true", help="put the table into docs/procedures.md")
    arguments = parser.parse_args()
    start = time.perf_counter()
    with threadpool_limits(1):
        if arguments.table == "cost":
            text = time_costs()
        else:
            table = tabulate(read_landscape(), arguments.table, arguments.draws)
            text = format_table(table, published=arguments.table == "check")
    print(text)
    print(json.dumps({"name": f"procedures, {arguments.table}", "draws": arguments.draws,
                      "seconds": round(time.perf_counter() - start)}))  # fmt: skip
    if arguments.write:
        write_page(arguments.table, arguments.draws, text)


def write_page(which: str, draws: int, text: str) -> None:
    command, note = f"python benchmarks/procedures.py --table {which}", time.strftime("%Y-%m-%d")
    if which != "cost":
        command, note = f"{command} --draws {draws}", f"{note}, seeds {FIRST_SEED} to {FIRST_SEED + draws - 1}"
    replace_part(PAGE, which, f"    {command} --write     # {note}\n\n{text}")


if __name__ == "__main__":
    main()
