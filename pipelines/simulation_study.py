"""The simulation study of multi-scale (`make study`) -> docs/simulation.md, docs/simulation.csv."""

import argparse
import shutil
import time
from pathlib import Path

from eo_cate.config import load_config
from eo_cate.executor import open_executor
from eo_cate.simulation import prepare_demo
from eo_cate.simulation.simulation_study import FIRST_SEED, PARTS, Study, StudySize, write_part
from eo_cate.store import Store

REPO = Path(__file__).resolve().parent.parent


def main() -> None:
    """Embed what is needed, draw and measure (resumable), write and print the tables of each part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--repetitions", type=int, default=15, help="draws per design")
    parser.add_argument("--quick", action="store_true", help="one draw of a few designs on mean colours; not into docs")
    parser.add_argument("--stored", action="store_true", help="draw nothing: write what the store holds so far")
    parser.add_argument(
        "--executor", default="dask", help="inline, dask (all cores of this machine) or tcp://host:8786"
    )
    arguments = parser.parse_args()
    data_dir, runs = REPO / "data" / "demo", REPO / "runs" / "simulation_study"
    prepare_demo(data_dir)
    folder, size = REPO / "docs", StudySize(arguments.repetitions)
    if arguments.quick:
        folder, size = runs / "quick", StudySize(repetitions=1, sites=60, quick=True)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / "docs" / "simulation.md", folder)
    parts = list(PARTS) if arguments.part == "all" else [arguments.part]
    command = f"python pipelines/simulation_study.py --part {arguments.part} --repetitions {size.repetitions}"
    note = f"{time.strftime('%Y-%m-%d')}, seeds from {FIRST_SEED}{', what is stored so far' * arguments.stored}"
    with open_executor("inline" if arguments.quick else arguments.executor) as executor:
        study = Study(
            config=load_config(REPO / "configs" / "demo.yaml"),
            data_dir=data_dir,
            size=size,
            store=Store(runs / "store"),
            embeddings=Store(REPO / "runs" / "demo_seeds" / "store"),
            executor=executor,
        )
        for title, table in study.run(parts, stored_only=arguments.stored):
            if len(table):
                print(f"\n{title}\n\n{write_part(title, table, folder, command=f'{command}     # {note}')}")


if __name__ == "__main__":
    main()
