"""The validity study (`make study`): sizes, powers, coverages and faults -> docs/validity.md, docs/validity.json."""

import argparse
from pathlib import Path

from eo_cate.executor import open_executor
from eo_cate.simulation.study import CELLS, ROWS, run_cell, summarise, write_study
from eo_cate.store import Store

REPO = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run every cell (resumable), write the tables, say what missed its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--executor", default="dask", help="inline, dask (all cores of this machine) or tcp://host:8786"
    )
    parser.add_argument("--cells", nargs="*", default=list(CELLS), help="only these cells, without writing the tables")
    arguments = parser.parse_args()
    store = Store(REPO / "runs" / "validity" / "store")
    with open_executor(arguments.executor) as executor:
        outcomes = {name: run_cell(name, CELLS[name], store=store, executor=executor) for name in arguments.cells}
    if set(outcomes) != set(CELLS):
        return
    table = summarise(ROWS, outcomes)
    write_study(table, REPO / "docs", command="make study")
    for row in table:
        print(f"{'holds ' if row['holds'] else 'MISSED'} {row['value']:.3f} ({row['mc_se']:.3f}) {row['name']}")


if __name__ == "__main__":
    main()
