"""DR scores and average effects against grf 2.6.1 (tests/oracle/data/README.md)."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eo_cate.evaluation import average_treatment_effect, doubly_robust_scores

DATA = Path(__file__).parent / "data"
CASES = sorted(path.stem for path in DATA.glob("cf_*.csv"))


def load(case):
    table = pd.read_csv(DATA / f"{case}.csv")
    hats = {"propensity": table["w_hat"], "Y_hat": table["y_hat"], "tau_hat": table["tau_hat_oob"]}
    groups = {"groups": table["cluster"]} if "cluster" in table else {}
    return table, hats, groups, json.loads((DATA / f"{case}.json").read_text())


def test_all_cases_are_present():
    assert len(CASES) == 6


@pytest.mark.parametrize("case", CASES)
def test_scores_equal_grf(case):
    table, hats, _, _ = load(case)
    scores = doubly_robust_scores(table["y"], table["w"], **hats)
    np.testing.assert_allclose(scores, table["dr_score"], atol=1e-10, rtol=0)


@pytest.mark.parametrize("target", ["all", "treated", "control", "overlap"])
@pytest.mark.parametrize("case", CASES)
def test_average_effect_equals_grf(case, target):
    table, hats, groups, expected = load(case)
    result = average_treatment_effect(
        table["y"], table["w"], **hats, target_sample=target, sample_weights=table["observation_weight"], **groups
    )
    assert result.estimate == pytest.approx(expected["ate"][target]["estimate"], abs=1e-10)
    assert result.std_err == pytest.approx(expected["ate"][target]["std_err"], abs=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_subset_equals_grf(case):
    table, hats, groups, expected = load(case)
    subset = (table["tau_hat_oob"] > table["tau_hat_oob"].median()).to_numpy()
    for chosen in (subset, np.flatnonzero(subset)):
        result = average_treatment_effect(
            table["y"], table["w"], **hats, subset=chosen, sample_weights=table["observation_weight"], **groups
        )
        assert result.estimate == pytest.approx(expected["ate_upper_half"]["estimate"], abs=1e-10)
        assert result.std_err == pytest.approx(expected["ate_upper_half"]["std_err"], abs=1e-10)
