"""Small village-randomised trials with features shared by village."""

from dataclasses import dataclass

import numpy as np

from eo_cate.types import FeatureBlocks


@dataclass(frozen=True)
class Village:
    """A trial of `villages` x `households`."""

    X: FeatureBlocks
    Y: np.ndarray
    W: np.ndarray
    groups: np.ndarray


def village_trial(*, villages, households, seed, features=20, effect=0.0, icc=0.2):
    """tau = .3 + effect * first feature; ICC of Y(0); half of the villages treated."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(villages), households)
    site = rng.normal(size=(villages, features))
    W = rng.permutation(np.arange(villages) % 2)[groups].astype(float)
    shock = rng.normal(size=villages)[groups] * np.sqrt(icc) + rng.normal(size=len(groups)) * np.sqrt(1 - icc)
    Y = shock + W * (0.3 + effect * site[groups, 0])
    return Village(FeatureBlocks.from_array(site, site_index=groups, block="image_16"), Y, W, groups)
