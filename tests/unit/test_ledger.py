"""The ledger counts what was ever tried against an outcome, once each, and survives a torn line."""

import numpy as np
import pytest

from eo_cate.evaluation.ledger import Ledger, ledger_p
from eo_cate.types import FeatureBlocks


def _features(seed):
    return FeatureBlocks.from_array(np.random.default_rng(seed).normal(size=(5, 2)))


def test_configurations_are_counted_once_per_outcome(tmp_path):
    ledger = Ledger(tmp_path / "store")
    assert ledger.count("a") == 0
    ledger.record("a", {"x": _features(1), "y": _features(2)}, {"kernel": "rbf"})
    ledger.record("a", {"renamed": _features(1)}, {"kernel": "rbf"})
    assert ledger.count("a") == 2
    ledger.record("a", {"x": _features(1)}, {"kernel": "linear"})
    ledger.record("b", {"x": _features(1)}, {"kernel": "rbf"})
    assert (ledger.count("a"), ledger.count("b")) == (3, 1)
    with ledger.path.open("a") as stream:
        stream.write('{"time": 1, "outc')
    again = Ledger(tmp_path / "store")
    again.record("a", {"z": _features(3)}, {})
    assert again.count("a") == 4


def test_p_pays_for_earlier_tries_and_never_gets_smaller():
    assert ledger_p(0.01, tried=30, corrected=6) == pytest.approx(0.05)
    assert ledger_p(0.3, tried=30, corrected=6) == 1.0
    assert ledger_p(0.01, tried=3, corrected=6) == 0.01
