"""The forest on whole embeddings or components per scale -> docs/forest_components.csv, a table in docs/forest.md."""

import argparse
from pathlib import Path

from eo_cate.config import load_config
from eo_cate.executor import open_executor
from eo_cate.simulation import prepare_demo
from eo_cate.simulation.demo_seeds import embed_landscape
from eo_cate.simulation.forest_components import NUM_TREES, run_components, summarise_components, write_components
from eo_cate.store import Store

REPO = Path(__file__).resolve().parent.parent


def main() -> None:
    """Embed all cells once, draw and fit the trial of every seed and size (resumable), write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trees", type=int, default=NUM_TREES, help="trees per forest")
    parser.add_argument(
        "--executor", default="dask", help="inline, dask (all cores of this machine) or tcp://host:8786"
    )
    arguments = parser.parse_args()
    prepare_demo(REPO / "data" / "demo")
    config = load_config(REPO / "configs" / "demo.yaml")
    with open_executor(arguments.executor) as executor:
        landscape = embed_landscape(
            config, REPO / "data" / "demo", store=Store(REPO / "runs" / "demo_seeds" / "store"), executor=executor
        )
        table = run_components(
            landscape,
            seeds=range(1, arguments.seeds + 1),
            num_trees=arguments.trees,
            store=Store(REPO / "runs" / "forest_components" / "store"),
            executor=executor,
        )
    summary = summarise_components(table)
    command = f"python pipelines/forest_study.py --seeds {arguments.seeds} --trees {arguments.trees}"
    write_components(summary, REPO / "docs", command=command)
    print(summary.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
