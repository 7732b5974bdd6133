"""Area of applicability against R CAST 1.1.0's aoa() (tests/oracle/data/README.md)."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eo_cate.extrapolation import area_of_applicability, compare_places, describe_training

DATA = Path(__file__).parent / "data"
CASES = sorted(path.stem for path in DATA.glob("aoa_*.json"))


def load(case):
    train, new = (pd.read_csv(DATA / f"{case}_{part}.csv") for part in ("train", "new"))
    expected = json.loads((DATA / f"{case}.json").read_text())
    folds = train.pop("fold")
    return train, new, folds if expected["folds_used"] else None, expected


def test_all_cases_are_present():
    assert len(CASES) == 3


def near(found, expected):
    np.testing.assert_allclose(found, np.asarray(expected, dtype=float), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_equals_cast(case):
    train, new, folds, expected = load(case)
    found = area_of_applicability(train, new, weights=expected["weights"], folds=folds)
    near(found.train_mean_distance, expected["train_dist_mean"])
    near(found.threshold, expected["threshold"])
    near(found.train_dissimilarity, expected["train_DI"])
    near(found.dissimilarity, expected["DI"])
    missing = new.isna().any(axis=1).to_numpy()
    assert missing.sum() == 1  # the fixture's NA
    np.testing.assert_array_equal(np.isnan(found.dissimilarity), missing)
    np.testing.assert_array_equal(np.isnan(found.local_point_density), missing)
    assert not found.supported[missing].any()
    np.testing.assert_array_equal(found.local_point_density, np.asarray(expected["LPD"], dtype=float))
    np.testing.assert_array_equal(found.train_local_point_density, expected["train_LPD"])
    given = np.asarray(expected["AOA"], dtype=float)[~missing]
    np.testing.assert_array_equal(found.supported[~missing], given == 1)
    assert 0 < given.sum() < len(given)


@pytest.mark.parametrize("case", CASES)
def test_shard_by_shard_is_the_whole(case):
    train, new, folds, expected = load(case)
    space = describe_training(train, weights=expected["weights"], folds=folds)
    parts = [compare_places(space, new.iloc[start : start + 70]) for start in range(0, len(new), 70)]
    whole = compare_places(space, new)
    for name in ("dissimilarity", "local_point_density", "supported"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_allclose(joined, getattr(whole, name), rtol=0, atol=1e-14)
