"""Fay-Herriot on the published Milk example (R sae's eblupFH and mseFH, REML; Rao and Molina 2015, example 6.5.2)."""

import numpy as np
import pandas as pd
import pytest

from eo_cate.assets import asset_path, download_assets
from eo_cate.extrapolation import fay_herriot

BETA = [0.9681890, 0.1327801, 0.2269462, -0.2413011]
BETA_STD_ERR = [0.06936208, 0.10300072, 0.09232981, 0.08161707]
COMPOSITE = [1.0219703, 1.0476018, 1.0679513, 0.7608170, 0.8461574, 0.9743727]
MSE = [0.013460220, 0.005372876, 0.005701990, 0.008541740, 0.009579594, 0.011670632]


@pytest.fixture(scope="module")
def milk():
    download_assets(["milk"], progress=False)
    return pd.read_csv(asset_path("milk", "expenditure_on_milk.csv"))


def test_equals_the_published_example(milk):
    """sae stops when the variance moves by less than 1e-4 of itself: five or six digits of the published are exact."""
    areas = pd.get_dummies(milk["major_area"], drop_first=True).to_numpy(float)
    found = fay_herriot(milk["direct_est"], milk["std_error"], areas)
    assert len(milk) == found.num_direct == 43
    np.testing.assert_allclose(found.beta, BETA, rtol=0, atol=5e-7)
    np.testing.assert_allclose(found.beta_std_err, BETA_STD_ERR, rtol=0, atol=5e-7)
    np.testing.assert_allclose(found.between_variance, 0.01855022, rtol=1e-5)
    np.testing.assert_allclose(found.composite[:6], COMPOSITE, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.mse[:6], MSE, rtol=0, atol=5e-8)
