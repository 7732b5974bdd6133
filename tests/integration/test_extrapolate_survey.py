"""People of a region who were surveyed: the effect carried to them by image and covariates, from the command line."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from helpers_run import run_command, write_run
from pyproj import Transformer

from eo_cate.config import load_config
from eo_cate.errors import ConfigError, TrialError
from eo_cate.run import find_problems

CRS, LEFT, TOP = "EPSG:32636", 500_000.0, 200_000.0
SECTIONS = {
    "trial": {"true_effect": None},
    "embeddings": {"encoder": "mean_colour", "input_px": 56},
    "estimators": {"num_trees": 100},
    "evaluation": {"num_orders": 1, "num_permutations": 2, "num_draws": 19},
}
REGION = {"region": "scene.gpkg", "resolution_m": 640}
SURVEY = {"units": "people.csv", "cluster": "psu", "weight": "w", "true_effect": "tau"}
SLOPE, MEAN = 1.5, 1.0
PSUS, PEOPLE = 60, 10


def draw_people(*, seed):
    """Two polygons' people, x1 a unit above the trial's mean; some outside, some without x2. No effect is in the image."""
    rng = np.random.default_rng(seed)
    psu = np.repeat(np.arange(PSUS), PEOPLE)
    x = LEFT + rng.uniform(400, 3600, PSUS)[psu]
    y = TOP - rng.uniform(400, 3600, PSUS)[psu]
    lon, lat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform(x, y)
    n = len(psu)
    people = pd.DataFrame({"psu": psu, "lon": lon, "lat": lat, "w": rng.integers(1, 4, PSUS)[psu]})
    people["x1"], people["x2"] = MEAN + 0.7 * rng.normal(size=n), rng.normal(size=n)
    people["tau"] = 0.3 + SLOPE * people["x1"]
    people.loc[:4, "x2"] = np.nan
    people.loc[n - PEOPLE :, "lon"] += 1.0
    return people


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("survey")
    boxes = [shapely.box(LEFT + w, TOP - 4000, LEFT + w + 2000, TOP) for w in (0, 2000)]
    gpd.GeoDataFrame({"id": ["west", "east"]}, geometry=boxes, crs=CRS).to_file(path / "scene.gpkg", driver="GPKG")
    draw_people(seed=5).to_csv(path / "people.csv", index=False)
    write_run(path, **SECTIONS, extrapolate=REGION | {"survey": SURVEY})
    units = pd.read_csv(path / "units.csv")
    tau = 0.3 + SLOPE * units["x1"]  # who gains is told by x1 alone, which no pixel shows
    units["Y"] += units["W"] * (tau - units["tau"])
    units.drop(columns="tau").to_csv(path / "units.csv", index=False)
    return path


@pytest.fixture(scope="module")
def numbers(folder):
    return run_command("extrapolate", folder, folder / "run")


def test_the_variant_with_covariates_finds_what_no_image_shows(numbers):
    """The truth among the people is 1.8, the trial's own average .3: the image-only variant must miss it by far."""
    survey, image_only = numbers["region"]["survey"], numbers["region"]["transported"]
    found, truth = survey["transported"], survey["true_effect"]
    assert truth == pytest.approx(0.3 + SLOPE * MEAN, abs=0.15)
    assert found["interval"][0] <= truth <= found["interval"][1]
    assert image_only["interval"][1] < truth - 0.5
    assert abs(found["estimate"] - truth) < 0.25 * abs(image_only["estimate"] - truth)
    assert found["effective_groups"] < image_only["num_groups"]
    assert numbers["region"]["check"]["survey, interval holds"] == 1
    assert numbers["region"]["check"]["regions, survey"] == 2


def test_who_counts_is_counted(folder, numbers):
    counts = numbers["region"]["survey"]["counts"]
    assert counts["people"] == PSUS * PEOPLE
    assert counts["outside the region"] == PEOPLE
    assert counts["without a covariate or a weight"] <= 5
    left_out = (
        "outside the region",
        "without imagery",
        "outside the area of applicability",
        "without a covariate or a weight",
    )
    assert counts["used"] + sum(counts[why] for why in left_out) == counts["people"]
    assert counts["used"] > 0.5 * counts["people"]


def test_tables_report_and_figures_show_it(folder, numbers):
    run = folder / "run"
    table = pd.read_csv(run / "tables" / "regions.csv")
    assert table["survey_people"].sum() == numbers["region"]["survey"]["counts"]["used"]
    assert (table["survey_transported_low"] < table["survey_transported"]).all()
    assert (table["survey_transported"] > table["direct"] + 0.5).all()
    page = (run / "report.html").read_text()
    for words in ("EO+tabular", "the variant with covariates stands below", "By image and covariates"):
        assert words in page
    assert "x1, x2" in numbers["region"]["survey"]["assumption"]
    assert (run / "figures" / "overlap_survey.png").stat().st_size > 1_000


def test_no_place_of_a_person_is_told(folder, numbers):
    run, people = folder / "run", pd.read_csv(folder / "people.csv").drop_duplicates("psu")
    text = "".join((run / name).read_text() for name in ("maps/region.html", "tables/regions.csv", "numbers.json"))
    for lon, lat in people[["lon", "lat"]].itertuples(index=False):
        assert f"{lon:.4f}" not in text
        assert f"{lat:.4f}" not in text


def test_running_again_computes_nothing(folder, numbers):
    manifest = folder / "run" / "store" / "manifest.jsonl"
    before = manifest.read_text()
    assert run_command("extrapolate", folder, folder / "run")["region"] == numbers["region"]
    assert manifest.read_text() == before


def test_bad_surveys_are_refused_before_work(folder, tmp_path, capsys):
    people = draw_people(seed=5)
    people.assign(lon=people["lon"] + 5).to_csv(folder / "far.csv", index=False)
    people.drop(columns="x2").to_csv(folder / "narrow.csv", index=False)
    for name, message in (
        ("far.csv", "none of the 600 people lives in the region's 2 polygon"),
        ("narrow.csv", "covariate column 'x2' is absent"),
    ):
        option = ["--extrapolate.survey.units", name]
        with pytest.raises(TrialError, match=message):
            run_command("extrapolate", folder, tmp_path / "run", *option)
        assert not (tmp_path / "run" / "store" / "manifest.jsonl").exists()
        config = load_config(folder / "small.yaml", {"extrapolate": {"survey": {"units": name}}})
        (problem,) = find_problems(config, data_dir=folder)
        assert message in problem
    shared = run_command(
        "extrapolate", folder, tmp_path / "run", "--extrapolate.survey.units", "narrow.csv",
        "--extrapolate.survey.covariates", "x1",
    )  # fmt: skip
    assert shared["region"]["survey"]["covariates"] == ["x1"]


def test_a_survey_needs_covariates_of_the_trial(folder):
    for change, message in (
        ({"trial": {"covariates": []}}, "the trial has no covariates"),
        ({"extrapolate": {"survey": {"covariates": ["age"]}}}, r"\['age'\] are not among trial.covariates"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(folder / "small.yaml", change)
