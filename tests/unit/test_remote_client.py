import datetime as dt

import numpy as np
import pytest

from eo_cate.imagery.remote import RetryPolicy
from eo_cate.imagery.remote.client import MERGE_BYTES, merge_ranges
from eo_cate.imagery.remote.retry import parse_retry_after

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), (" 3 ", 3.0), ("Tue, 24 Nov 2026 12:00:09 GMT", 9.0), ("Tue, 24 Nov 2026 11:00:00 GMT", 0.0),
     ("soon", None), ("", None), (None, None), ("-5", None)],
)  # fmt: skip
def test_retry_after(value, seconds):
    assert parse_retry_after(value, NOW) == seconds


def test_waits_have_full_jitter_and_are_capped():
    policy = RetryPolicy(base_s=1.0, cap_s=4.0, retry_after_cap_s=10.0)
    rng = np.random.default_rng(0)
    waits = np.array([[policy.wait_s(k, None, rng) for _ in range(400)] for k in (1, 2, 3, 9)])
    assert (waits.min(axis=1) < 0.1).all()
    np.testing.assert_allclose(waits.max(axis=1), [1, 2, 4, 4], rtol=0.05)
    assert 5.0 <= policy.wait_s(1, 5.0, rng) <= 6.0
    assert 10.0 <= policy.wait_s(1, 1e9, rng) <= 11.0


def test_merging():
    assert merge_ranges([]) == []
    assert merge_ranges([(100, 200), (0, 92), (208, 300), (309, 400)]) == [[1, 0, 2], [3]]
    assert merge_ranges([(0, 10), (0, 10), (4, 6), (9, 20)]) == [[0, 1, 2, 3]]
    assert merge_ranges([(0, MERGE_BYTES), (MERGE_BYTES, MERGE_BYTES + 1)]) == [[0], [1]]
