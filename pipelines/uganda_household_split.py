"""What a household split manufactures on the Uganda trial -> docs/uganda_yop.md: shuffled embeddings that 'predict'."""

from datetime import date
from pathlib import Path

import numpy as np
from cyclopts import run
from uganda_yop import DATA, REPO, replace_block

from eo_cate.config import load_config
from eo_cate.evaluation import sequential_rate
from eo_cate.executor import Executor
from eo_cate.report.format import fmt, fmt_p
from eo_cate.steps.context import FULL, Run
from eo_cate.steps.estimators import build_estimator
from eo_cate.steps.features import build_configurations, embed_places
from eo_cate.steps.inputs import open_inputs
from eo_cate.store import Store

MARKERS = "<!-- written by pipelines/uganda_household_split.py -->", "<!-- end of the split -->"
WANTED = ("shuffled_0", "shuffled_1", "shuffled_2", "location", "image_multi", "tabular")


def main(*, data_dir: Path = DATA, run_dir: Path = REPO / "runs" / "uganda_yop", num_orders: int = 5) -> None:
    """Forest on the same features, split by household and by site; print the table and write it into the page."""
    config = load_config(REPO / "configs" / "uganda_yop.yaml")
    job = Run(config, data_dir, run_dir, Store(run_dir / "store"), Executor(), True)
    inputs = open_inputs(config, data_dir)
    features = build_configurations(job, inputs.trial, embed_places(job, inputs))
    trial, forest = inputs.trial, build_estimator(config)[0]
    lines = ["| configuration | ratio, by household | p | ratio, by site | p |", "| --- | --- | --- | --- | --- |"]
    for name in WANTED:
        cells = []
        for groups in (np.arange(len(trial.units)), trial.groups):
            found = sequential_rate(
                forest, features[name], trial.column("outcome"), trial.column("treatment"),
                propensity=trial.column("propensity"), groups=groups, num_orders=num_orders, seed=config.seed,
                nuisance_X=features["tabular" if groups[-1] == len(groups) - 1 else FULL],
            )  # fmt: skip
            cells += [fmt(found.ratio, 2), fmt_p(found.p)]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    head = f"{date.today()}, `python pipelines/uganda_household_split.py`: forest, {num_orders} fold orders."
    replace_block(REPO / "docs" / "uganda_yop.md", head + "\n\n" + "\n".join(lines), *MARKERS)


if __name__ == "__main__":
    run(main)
