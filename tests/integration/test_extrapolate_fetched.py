"""A region and a survey over imagery from a catalogue: cells, places and villages are fetched together, once."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from pyproj import Transformer

from eo_cate.config import load_config, merge
from eo_cate.run import extrapolate
from eo_cate.simulation.archive_layout import plane_crs
from eo_cate.simulation.paper_trials import TRIALS, serve_trial
from eo_cate.simulation.village_trial import VillageDesign

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAME, EXTENT_M, HALF_M, CELL_M = "uganda_yop_landsat", 14_000.0, 8_500.0, 1_000
PSUS, PEOPLE = 30, 4
OPTIONS = {
    "embeddings": {"encoder": "mean_colour", "input_px": 56},
    "estimators": {"num_trees": 50, "min_node_size": 1},
    "evaluation": {"num_orders": 1, "num_replicates": 50, "num_permutations": 2, "num_draws": 19},
    "extrapolate": {
        "region": "square.gpkg", "resolution_m": CELL_M, "block_cells": 100,
        "survey": {"units": "people.csv", "cluster": "psu"},
    },
}  # fmt: skip


def write_region(folder):
    """A square around the villages, and people in its middle."""
    crs = plane_crs(TRIALS[NAME].centre)
    square = gpd.GeoDataFrame({"id": ["square"]}, geometry=[shapely.box(-HALF_M, -HALF_M, HALF_M, HALF_M)], crs=crs)
    square.to_crs("EPSG:4326").to_file(folder / "square.gpkg", driver="GPKG")
    rng = np.random.default_rng(3)
    psu = np.repeat(np.arange(PSUS), PEOPLE)
    at = rng.uniform(-4_500, 4_500, (PSUS, 2))[psu]
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(at[:, 0], at[:, 1])
    n = len(psu)
    people = {"psu": psu, "lon": lon, "lat": lat, "x1": rng.normal(size=n), "x2": rng.normal(size=n)}
    pd.DataFrame(people).to_csv(folder / "people.csv", index=False)


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    """Folder, run folder and configuration, after a run; the servers are gone."""
    folder = tmp_path_factory.mktemp("fetched")
    design = VillageDesign(villages=56, households=(2, 3))
    with serve_trial(NAME, folder, configs=CONFIGS, design=design, extent_m=EXTENT_M, scene_px=1_000) as (
        served,
        data_dir,
    ):
        write_region(data_dir)
        config = load_config(CONFIGS / f"{NAME}.yaml", merge(OPTIONS, {"imagery": {"api": served.imagery.api}}))
        shown = extrapolate(config, data_dir=data_dir, run_dir=folder / "run", progress=False).inputs.region
    return data_dir, folder / "run", config, shown


@pytest.mark.slow
def test_cells_and_people_are_fetched_with_the_villages(carried):
    data_dir, run_dir, _, shown = carried
    table = pd.read_csv(run_dir / "pixels" / "imagery_cells.csv", keep_default_na=False)
    kinds = table["site_id"].str.extract(r"^(cell|survey|[a-z]+)")[0].value_counts()
    assert kinds["cell"] == sum(shown.counts.values())
    assert kinds["survey"] == PSUS
    assert set(table["state"]) <= {"complete", "cloudy", "partly covered", "off imagery"}
    seen = int(((table["state"] == "complete") & table["site_id"].str.startswith("cell")).sum())
    assert int(np.isfinite(shown.layers["tau_hat"]).sum()) == seen
    assert 0 < seen == sum(shown.counts.values()) - shown.counts["no imagery"]
    counts = shown.survey.counts
    assert counts["people"] == PSUS * PEOPLE
    assert counts["used"] > 0
    invisible = (table["state"] != "complete") & table["site_id"].str.startswith("survey")
    assert counts["without imagery"] == PEOPLE * int(invisible.sum())
    units = pd.read_csv(data_dir / "units.csv")
    people = pd.read_csv(data_dir / "people.csv")
    text = (run_dir / "pixels" / "imagery_cells.csv").read_text()
    for lon in {*units["lon"].round(4), *people["lon"].round(4)}:
        assert f"{lon:.4f}" not in text


@pytest.mark.slow
def test_a_second_run_needs_no_server_and_says_the_same(carried):
    data_dir, run_dir, config, shown = carried
    manifest = run_dir / "store" / "manifest.jsonl"
    before = manifest.read_text()
    again = extrapolate(config, data_dir=data_dir, run_dir=run_dir, progress=False).inputs.region
    assert manifest.read_text() == before
    assert again.counts == shown.counts
    np.testing.assert_array_equal(again.layers["tau_hat"], shown.layers["tau_hat"])
    pd.testing.assert_frame_equal(again.table, shown.table)
    assert again.survey.counts == shown.survey.counts
