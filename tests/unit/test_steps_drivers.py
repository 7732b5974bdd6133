"""What the step decides: which sites are extreme, how their images are stretched, where curves are drawn."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from eo_cate.config import ImageryConfig
from eo_cate.evaluation import TrialVectors
from eo_cate.steps.drivers import _extreme_sites, choose_values, stretch_images
from eo_cate.steps.evaluate import Folds
from eo_cate.steps.quality import OutOfGroup


def made_ranking(levels):
    """20 sites of 3 units in two folds; tau_hat rises with the site, plus a level of the fold's own."""
    site = np.repeat(np.arange(20), 3)
    n = len(site)
    fold = site % 2 + 2
    tau_hat = site + np.tile([0.0, 0.1, -0.1], 20) + np.array(levels)[fold - 2]
    blank = np.zeros(n)
    vectors = TrialVectors(blank, blank, blank, np.ones(n), site, site)
    inputs = SimpleNamespace(
        trial=SimpleNamespace(site_index=site, sites=pd.DataFrame(index=[f"s{i}" for i in range(20)]))
    )
    seen = OutOfGroup(np.arange(n), fold, tau_hat, blank, blank)
    return inputs, SimpleNamespace(folds=Folds(vectors, [], [])), seen


def test_ranks_within_folds_decide_which_sites_are_extreme():
    inputs, evaluated, seen = made_ranking((0.0, 1000.0))
    least, most = _extreme_sites(inputs, evaluated, {"forest": seen})
    assert set(least) == {f"s{i}" for i in range(6)}
    assert set(most) == {f"s{i}" for i in range(14, 20)}
    assert least[0] in ("s0", "s1")
    assert most[0] in ("s18", "s19")


def test_estimators_that_disagree_cancel():
    inputs, evaluated, seen = made_ranking((0.0, 0.0))
    opposite = OutOfGroup(seen.rows, seen.fold, -seen.tau_hat + 5 * (inputs.trial.site_index == 4), *[seen.Y_hat] * 2)
    least, most = _extreme_sites(inputs, evaluated, {"forest": seen, "ridge": opposite})
    assert most[0] == "s4"
    assert not set(least) & set(most)


def test_one_stretch_for_all_images():
    images = np.zeros((2, 10, 10, 3))
    images[0, ..., 0], images[1, ..., 0] = 100.0, 300.0
    images[0, 0, 0, 0] = np.nan
    shown = stretch_images(images)
    assert np.nanmax(shown[0, ..., 0]) == 0
    assert (shown[1, ..., 0] == 1).all()
    assert np.isnan(shown[0, 0, 0, 0])
    assert (shown[..., 1:] == 0).all()  # a band without contrast is no division by zero


def test_curves_are_drawn_where_the_covariate_lies():
    assert choose_values(np.array([1.0, 0.0, np.nan, 1.0])).tolist() == [0, 1]
    many = choose_values(np.random.default_rng(0).normal(size=1000))
    assert len(many) == 20
    assert (np.diff(many) > 0).all()
    assert -1.8 < many[0] < -1.5
    assert 1.5 < many[-1] < 1.8


@pytest.mark.parametrize(
    "options",
    [{"common_names": {"red": "B09"}}, {"common_names": {"infrared": "B04"}}, {"land_cover_names": {"forest": "10"}}],
)
def test_names_that_are_none_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ImageryConfig(source="rasters", files={"B04": "a.tif"}, **options)


def test_class_numbers_may_be_numbers():
    imagery = ImageryConfig(source="rasters", files={"B04": "a.tif"}, land_cover_names={10: "trees", "40": "crops"})
    assert imagery.land_cover_names == {"10": "trees", "40": "crops"}
