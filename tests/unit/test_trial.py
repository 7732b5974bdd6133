import numpy as np
import pandas as pd
import pytest
from helpers_units import make_config, make_table, write_table
from shared_data import shared_path

from eo_cate.errors import TrialError
from eo_cate.trial import find_problems, leave_group_out_share, load_trial, trial_summary
from eo_cate.types import UNIT_COLUMNS

UGANDA = {
    "units": "units.csv",
    "outcome": "Y",
    "treatment": "W",
    "site": "image_key",
    "cluster": "image_key",
    "propensity": "leave_group_out_share",
}


def test_units_and_sites_of_a_sound_table(tmp_path):
    table = make_table()
    table["tau"] = 0.3
    trial = load_trial(write_table(tmp_path, table, stratum="pair", weight="w", true_effect="tau"), tmp_path)
    assert list(trial.units.columns) == [*UNIT_COLUMNS, "age", "schooling", "tau"]
    assert trial.units["unit_id"].tolist() == table["hhid"].tolist()
    assert trial.units["stratum"].tolist() == table["pair"].tolist()
    for column, source in (("outcome", "Y"), ("treatment", "W"), ("weight", "w"), ("age", "age")):
        np.testing.assert_array_equal(trial.column(column), table[source])
    np.testing.assert_array_equal(trial.column("propensity"), 0.5)
    assert trial.sites.index.name == "site_id"
    assert trial.sites.index.tolist() == [f"site_{i:04d}" for i in range(1, 13)]
    assert trial.sites.crs == "EPSG:4326"
    at_unit = trial.sites.geometry.loc[trial.units["site_id"]]
    np.testing.assert_array_equal(at_unit.x, table["lon"])  # x is longitude: a swap would move every site
    np.testing.assert_array_equal(at_unit.y, table["lat"])
    np.testing.assert_array_equal(trial.groups, np.repeat(np.arange(12), 4))
    assert trial.true_effect == "tau"


def test_csv_parquet_and_stata_give_the_same_trial(tmp_path):
    table = make_table()
    table.loc[3, "age"] = np.nan
    csv = load_trial(write_table(tmp_path, table), tmp_path)
    table.to_parquet(tmp_path / "units.parquet")
    table.to_stata(tmp_path / "units.dta", write_index=False)
    for ending in ("parquet", "dta"):
        other = load_trial(make_config(units=f"units.{ending}"), tmp_path)
        pd.testing.assert_frame_equal(pd.DataFrame(other.units), pd.DataFrame(csv.units))
        assert other.sites.geometry.equals(csv.sites.geometry)
    assert np.isnan(csv.column("age")[3])


def test_labels_of_a_csv_keep_leading_zeros_and_whole_floats_lose_their_point(tmp_path):
    table = make_table()
    codes = {f"v{i}": f"{i:03d}" for i in range(12)}
    table["village"] = table["village"].map(codes)
    trial = load_trial(write_table(tmp_path, table, site="village"), tmp_path)
    assert trial.sites.index.tolist() == list(codes.values())
    table["village"] = table["village"].astype(float)
    table.to_parquet(tmp_path / "units.parquet")
    trial = load_trial(make_config(units="units.parquet", site="village"), tmp_path)
    assert trial.sites.index.tolist() == [str(i) for i in range(12)]


def test_a_stray_space_does_not_split_a_cluster(tmp_path):
    table = make_table()
    table.loc[0, "village"] = " v0 "
    assert load_trial(write_table(tmp_path, table), tmp_path).units["cluster"].nunique() == 12


def test_clusters_at_one_place_are_one_group_whatever_their_sites_are_called(tmp_path):
    table = make_table()
    second = table["village"] == "v1"
    table.loc[second, ["lon", "lat"]] = table.loc[0, ["lon", "lat"]].to_numpy()
    by_coordinates = load_trial(write_table(tmp_path, table), tmp_path)
    assert len(by_coordinates.sites) == 11
    by_name = load_trial(make_config(site="village"), tmp_path)
    assert len(by_name.sites) == 12
    for trial in (by_coordinates, by_name):  # v0 and v1 see the same pixels: they must never be split
        assert len(np.unique(trial.groups)) == 11
        assert trial.groups[0] == trial.groups[4]


def test_individually_randomised_units_are_grouped_by_site_only(tmp_path):
    trial = load_trial(write_table(tmp_path, make_table(), cluster="unit"), tmp_path)
    assert trial.units["cluster"].is_unique
    np.testing.assert_array_equal(trial.groups, np.repeat(np.arange(12), 4))


def test_leave_group_out_share_by_hand():
    W = np.array([1.0, 0, 1, 0, 0])
    groups = np.array([7, 7, 3, 3, 5])
    weights = np.array([2.0, 1, 1, 3, 3])
    np.testing.assert_allclose(leave_group_out_share(W, groups), [1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 2], rtol=1e-12)
    np.testing.assert_allclose(
        leave_group_out_share(W, groups, weights=weights), [1 / 7, 1 / 7, 2 / 6, 2 / 6, 3 / 7], rtol=1e-12
    )
    with pytest.raises(TrialError, match=r"1 group\(s\)"):
        leave_group_out_share(np.array([1.0, 1, 0]), np.array([0, 1, 2]))


def test_leave_group_out_share_is_not_fooled_by_rounding():
    """0.1 + 0.2 - 0.1 - 0.2 in floats is not 0: the last group holds every treated unit whatever the weights."""
    W, groups = np.array([0.0, 0, 1, 1]), np.array([0, 1, 2, 2])
    with pytest.raises(TrialError):
        leave_group_out_share(W, groups, weights=np.array([0.3, 0.7, 0.1, 0.2]))


def test_missing_outcomes_are_counted_and_dropped_on_demand(tmp_path):
    table = make_table()
    table.loc[[1, 5], "Y"] = [np.nan, np.inf]
    config = write_table(tmp_path, table)
    (problem,) = find_problems(config, tmp_path)
    assert "1 missing and 1 infinite" in problem
    assert "missing_outcome: drop" in problem
    assert "row 2, 6" in problem
    trial = load_trial(make_config(missing_outcome="drop"), tmp_path)
    assert len(trial.units) == 46
    assert trial_summary(trial)["dropped"] == {"missing_outcome": 2}
    assert "h001" not in trial.units["unit_id"].tolist()
    np.testing.assert_array_equal(trial.units.index, np.arange(46))


def test_rows_in_messages_are_those_of_the_file_even_after_dropping(tmp_path):
    table = make_table()
    table.loc[0, "Y"] = np.nan
    table.loc[5, "lon"] = np.nan
    (problem,) = find_problems(write_table(tmp_path, table, missing_outcome="drop"), tmp_path)
    assert "1 units are without coordinates" in problem
    assert "row 6)" in problem


def test_every_problem_is_listed_at_once_with_the_file(tmp_path):
    table = make_table()
    table.loc[0, "W"] = 2
    table.loc[1, "lat"] = 99.0
    table.loc[2, "Y"] = np.nan
    table["schooling"] = "primary"
    config = write_table(tmp_path, table, covariates=("Age", "schooling"))
    problems = find_problems(config, tmp_path)
    with pytest.raises(TrialError) as error:
        load_trial(config, tmp_path)
    message = str(error.value)
    assert len(problems) == 5
    assert all(f"{i}. {p}" in message for i, p in enumerate(problems, 1))
    assert str(tmp_path / "units.csv") in message
    for part in (
        "covariate column 'Age' is absent; did you mean 'age'",
        "not binary",
        "dummies",
        "1 units lie outside",
    ):
        assert part in message
    assert "99" not in message  # a coordinate is never printed


def _set(column, rows, value):
    def change(table):
        table[column] = table[column].astype(object)
        table.loc[rows, column] = value
        return table

    return change


BAD = {
    "treatment in words": (_set("W", slice(None), "yes"), {}, "not binary: 1 distinct values, among them yes"),
    "treatment missing": (_set("W", [0, 9], None), {}, "'W' has 2 missing values (row 1, 10)"),
    "one arm": (_set("W", slice(None), 1), {}, "all units are treated"),
    "duplicated ids": (_set("hhid", [3], "h000"), {}, "2 units share their id with another (column 'hhid', row 1, 4)"),
    "no cluster": (_set("village", [3], None), {}, "1 units have no cluster (column 'village', row 4)"),
    "no stratum": (_set("pair", [3], ""), {"stratum": "pair"}, "1 units have no stratum"),
    "no site": (_set("place", [3], None), {"site": "place"}, "1 units are without a site"),
    "moving site": (_set("lon", [3], 30.5), {"site": "village"}, "1 of 12 sites"),
    "outcome in words": (_set("Y", [3], "high"), {}, "outcome column 'Y' holds values that are not numbers"),
    "constant outcome": (_set("Y", slice(None), 1.0), {}, "the same for every unit"),
    "negative weight": (_set("w", [3], -1), {"weight": "w"}, "1 missing, infinite or negative values (row 4)"),
    "missing weight": (_set("w", [3], None), {"weight": "w"}, "1 missing, infinite or negative"),
    "no weight": (_set("w", slice(None), 0), {"weight": "w"}, "all zero"),
    "certain treatment": (_set("w", slice(None), 1), {"propensity": "w"}, "48 values that are missing or not strictly"),
    "infinite covariate": (_set("age", [3], np.inf), {}, "covariate 'age' has 1 infinite values"),
    "one group": (_set("village", slice(None), "v0"), {}, "all 48 units form one group"),
    "reserved name": (lambda t: t.rename(columns={"age": "weight"}), {"covariates": ("weight",)}, "eo_cate's own"),
    "listed twice": (lambda t: t, {"covariates": ("age", "age")}, "listed more than once"),
    "ambiguous unit": (lambda t: t.rename(columns={"village": "unit"}), {"cluster": "unit"}, "rename the column"),
    "no outcome at all": (_set("Y", slice(None), None), {"missing_outcome": "drop"}, "none of 48 units"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_is_refused_for_its_own_reason(tmp_path, name):
    change, options, message = BAD[name]
    table = make_table().assign(place=lambda t: "at " + t["village"])
    (problem,) = find_problems(write_table(tmp_path, change(table), **options), tmp_path)
    assert message in problem


def test_coordinates_outside_the_earth_or_swapped(tmp_path):
    table = make_table()
    table["lon"] += 70  # 100 to 101 degrees east: swapped, it cannot be a latitude
    swapped = write_table(tmp_path, table, longitude="lat", latitude="lon")
    (problem,) = find_problems(swapped, tmp_path)
    assert "48 units lie outside" in problem
    assert "look swapped" in problem
    table["lon"] *= 1e4
    (problem,) = find_problems(write_table(tmp_path, table), tmp_path)
    assert "metres" in problem
    assert "swapped" not in problem


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.csv", None, "No such file"),
        ("units.xlsx", b"PK", r"\.csv, \.parquet or \.dta"),
        ("units.csv", b"", "No columns"),
        ("units.csv", b"a,b\n", "no rows"),
        ("units.csv", b"W;Y;lon\n1;2;3\n", "separated by ;"),
        ("units.csv", b"\xff\xfe\x00", "not a readable"),
        ("units.dta", b"garbage", "not a readable"),
        ("units.parquet", b"garbage", "not a readable"),
    ],
)
def test_an_unreadable_file_is_one_clear_problem(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TrialError, match=message):
        load_trial(make_config(units=name), tmp_path)


def test_summary_counts_and_balance_by_hand(tmp_path):
    table = make_table(villages=4, households=2)
    table["age"] = [1.0, 3, 2, 4, 3, np.nan, 5, 7]
    summary = trial_summary(load_trial(write_table(tmp_path, table), tmp_path))
    counts = ("units", "sites", "clusters", "groups", "strata", "treated_share", "dropped", "propensity_source")
    assert [summary[key] for key in counts] == [8, 4, 4, 4, 1, 0.5, {}, "number"]
    age = summary["covariates"][0]
    control, treated = np.array([1.0, 3, 3]), np.array([2.0, 4, 5, 7])
    expected = (treated.mean() - control.mean()) / np.sqrt((treated.var() + control.var()) / 2)
    assert (age["name"], age["missing"]) == ("age", 1)
    np.testing.assert_allclose(
        [age["mean_treated"], age["mean_control"], age["standardized_difference"]],
        [treated.mean(), control.mean(), expected],
        rtol=1e-12,
    )


def test_uganda_has_327_sites_and_a_propensity_between_its_arms():
    folder = shared_path("data/uganda_yop")
    trial = load_trial(make_config(**UGANDA, unit_id=None, covariates=("X2", "X4", "X6")), folder)
    summary = trial_summary(trial)
    assert (summary["units"], summary["sites"], summary["groups"]) == (2082, 327, 327)
    assert [c["missing"] for c in summary["covariates"]] == [0, 7, 0]
    W, groups = trial.column("treatment"), trial.groups
    rows = np.arange(0, 2082, 97)
    expected = [W[groups != groups[i]].mean() for i in rows]
    np.testing.assert_allclose(trial.column("propensity")[rows], expected, rtol=1e-12)


def test_uganda_refuses_the_columns_that_are_the_treatment():
    folder = shared_path("data/uganda_yop")
    covariates = tuple(f"X{i}" for i in range(1, 8))
    problems = find_problems(make_config(**UGANDA, unit_id=None, covariates=covariates), folder)
    assert len(problems) == 4
    for problem, part in zip(problems, ("X1 = W", "X3 = W * X2", "X5 = W * X4", "X7 = W * X6"), strict=True):
        assert part in problem
        assert "remove it from trial.covariates" in problem
