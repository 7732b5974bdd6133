"""The demo over 20 seeds -> docs/demo_seeds.csv, which the demo prints beside its own figures."""

import argparse
from pathlib import Path

from eo_cate.config import load_config
from eo_cate.executor import open_executor
from eo_cate.simulation import prepare_demo
from eo_cate.simulation.demo_seeds import embed_landscape, run_seeds, summarise_seeds
from eo_cate.store import Store, write_atomic

REPO = Path(__file__).resolve().parent.parent


def main() -> None:
    """Embed all cells once, draw and evaluate the trial of every seed (resumable), write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--executor", default="inline", help="inline, dask or tcp://host:8786")
    arguments = parser.parse_args()
    prepare_demo(REPO / "data" / "demo")
    config = load_config(REPO / "configs" / "demo.yaml")
    store = Store(REPO / "runs" / "demo_seeds" / "store")
    with open_executor(arguments.executor) as executor:
        landscape = embed_landscape(config, REPO / "data" / "demo", store=store, executor=executor)
        table = run_seeds(landscape, config, range(1, arguments.seeds + 1), store=store, executor=executor)
    summary = summarise_seeds(table, seed=config.seed)
    write_atomic(REPO / "docs" / "demo_seeds.csv", summary.round(3).to_csv(index=False, lineterminator="\n").encode())
    print(summary.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
