"""The validity study (`make study`): sizes, powers, coverages and faults -> docs/validity.md, docs/validity.json."""

import argparse
from functools import partial
from pathlib import Path

from eo_cate.config import load_config
from eo_cate.executor import open_executor
from eo_cate.simulation import prepare_demo
from eo_cate.simulation.demo_seeds import embed_landscape
from eo_cate.simulation.study import (
    CELLS,
    ROWS,
    SCENE_CELLS,
    load_cell,
    run_cell,
    run_scene_cell,
    summarise,
    write_study,
)
from eo_cate.store import Store

REPO = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run every cell (resumable), write the tables, say what missed its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--executor", default="dask", help="inline, dask (all cores of this machine) or tcp://host:8786"
    )
    parser.add_argument("--stored", action="store_true", help="compute nothing: write what the store holds so far")
    arguments = parser.parse_args()
    data_dir = REPO / "data" / "demo"
    prepare_demo(data_dir)
    config = load_config(REPO / "configs" / "demo.yaml")
    store = Store(REPO / "runs" / "validity" / "store")
    with open_executor(arguments.executor) as executor:
        run = load_cell if arguments.stored else partial(run_cell, executor=executor)
        outcomes = {name: run(name, cell, store=store) for name, cell in CELLS.items()}
        cells = embed_landscape(
            config, data_dir, store=Store(REPO / "runs" / "demo_seeds" / "store"), executor=executor
        )
        outcomes |= {name: run_scene_cell(name, cells, store=store, executor=executor) for name in SCENE_CELLS}
    table = summarise(ROWS, outcomes)
    write_study(table, REPO / "docs", command="make study" + (", what is stored so far" if arguments.stored else ""))
    for row in table:
        print(f"{'holds ' if row['holds'] else 'MISSED'} {row['value']:.3f} ({row['mc_se']:.3f}) {row['name']}")


if __name__ == "__main__":
    main()
