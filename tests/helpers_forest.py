"""A village-randomised trial for the forests' tests."""

import numpy as np

from eo_cate.types import FeatureBlocks


def village_trial(seed=0, villages=60, households=8, p_site=6, p_unit=2):
    """W by village, five features shared by a village; the effect lives on one site and one unit feature."""
    rng = np.random.default_rng(seed)
    site = np.repeat(np.arange(villages), households)
    features = rng.standard_normal((villages, p_site)).astype(np.float32)
    covariates = rng.standard_normal((len(site), p_unit)).astype(np.float32)
    treated = np.zeros(villages)
    treated[rng.permutation(villages)[: villages // 2]] = 1.0
    tau = 0.5 + features[site, 0] + (0.5 * covariates[:, 0] if p_unit else 0.0)
    W = treated[site]
    Y = tau * W + 0.3 * rng.standard_normal(villages)[site] + rng.standard_normal(len(site))
    names = tuple(f"image_16_{j}" for j in range(p_site)) + tuple(f"x{j}" for j in range(p_unit))
    blocks = ("image_16",) * p_site + ("tabular",) * p_unit
    X = FeatureBlocks(site=features, unit=covariates, site_index=site, names=names, blocks=blocks)
    return X, Y, W, site, tau
