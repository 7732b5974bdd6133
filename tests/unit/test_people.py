"""A survey of a region: what is read, and every reason why it cannot be."""

import numpy as np
import pandas as pd
import pytest

from eo_cate.config import SurveyConfig
from eo_cate.errors import TrialError
from eo_cate.trial import load_people


def table():
    return pd.DataFrame(
        {
            "lon": [33.0, 33.0, 33.1, 33.2], "lat": [1.0, 1.0, 1.1, 1.2], "psu": ["007", "7", "7", "b"],
            "w": [1.0, 2.0, 0.0, 4.0], "x1": [0.5, np.nan, 1.5, 2.0], "x2": [1, 2, 3, 4], "tau": [0.1, 0.2, 0.3, 0.4],
        }
    )  # fmt: skip


def read(folder, found, **options):
    found.to_csv(folder / "people.csv", index=False)
    return load_people(SurveyConfig(units="people.csv", **options), folder, covariates=["x2", "x1"])


def test_places_clusters_weights_and_covariates(tmp_path):
    people = read(tmp_path, table(), cluster="psu", weight="w", true_effect="tau")
    assert list(people.sites.index) == ["survey_0001", "survey_0002", "survey_0003"]
    np.testing.assert_array_equal(people.site_index, [0, 0, 1, 2])
    np.testing.assert_array_equal(people.cluster, [0, 1, 1, 2])  # labels stay text: "007" is not "7"
    np.testing.assert_array_equal(people.weight, [1, 2, 0, 4])
    np.testing.assert_array_equal(people.covariates, [[1, 0.5], [2, np.nan], [3, 1.5], [4, 2]])
    assert people.names == ("x2", "x1")
    np.testing.assert_array_equal(people.true_effect, [0.1, 0.2, 0.3, 0.4])


def test_without_cluster_and_weight_places_are_clusters_and_all_count_alike(tmp_path):
    people = read(tmp_path, table())
    np.testing.assert_array_equal(people.cluster, people.site_index)
    np.testing.assert_array_equal(people.weight, np.ones(4))
    assert people.true_effect is None


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t.rename(columns={"x1": "X1"}), {}, r"covariate column 'x1' is absent; did you mean 'X1'"),
        (lambda t: t.assign(x2="much"), {}, "covariate 'x2' is not numeric"),
        (lambda t: t.assign(w=-1.0), {"weight": "w"}, "weight column 'w' has 4 missing, infinite or negative"),
        (lambda t: t.assign(w="one"), {"weight": "w"}, "weight column 'w' holds values that are not numbers"),
        (lambda t: t.assign(psu=["a", None, "b", "c"]), {"cluster": "psu"}, "1 units have no cluster"),
        (lambda t: t.assign(lat=[1.0, np.nan, 1.0, 1.0]), {}, "1 units are without coordinates"),
        (lambda t: t.drop(columns="lon"), {}, "longitude column 'lon' is absent"),
        (lambda t: t, {"true_effect": "effect"}, "true_effect column 'effect' is absent"),
    ],
)
def test_every_problem_is_named(tmp_path, change, options, message):
    with pytest.raises(TrialError, match=message) as caught:
        read(tmp_path, change(table()), **options)
    assert "people.csv: 1 problem(s)" in str(caught.value)


def test_a_missing_file_names_the_option(tmp_path):
    with pytest.raises(TrialError, match=r"nobody\.csv: cannot be read .*check extrapolate\.survey\.units"):
        load_people(SurveyConfig(units="nobody.csv"), tmp_path, covariates=["x1"])
