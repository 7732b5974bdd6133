"""Hypothesis strategies shared by the property tests."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st


@dataclass(frozen=True)
class Evaluation:
    """Scores, priorities, weights and groups of evaluation units."""

    dr_scores: np.ndarray
    priorities: np.ndarray
    weights: np.ndarray
    groups: np.ndarray
    rng: np.random.Generator


@st.composite
def evaluations(draw, *, ties=None, min_groups=2):
    """n units in G groups; priorities distinct (ties=False), tied (True) or either."""
    num_groups = draw(st.integers(min_groups, 12))
    n = draw(st.integers(num_groups, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tied = draw(st.booleans()) if ties is None else ties
    priorities = rng.integers(0, 4, n).astype(float) if tied else rng.permutation(n) - n / 2
    groups = rng.permutation(np.concatenate([np.arange(num_groups), rng.integers(0, num_groups, n - num_groups)]))
    return Evaluation(rng.normal(size=n) * 3, priorities, rng.uniform(0.2, 3, n), groups, rng)


@dataclass(frozen=True)
class Design:
    """Groups, treatment and strata of a trial."""

    groups: np.ndarray
    W: np.ndarray
    strata: np.ndarray
    level: str


@st.composite
def designs(draw):
    """Randomised by group or by unit; pairs, few large strata, or strata of units that straddle groups."""
    num_groups = draw(st.integers(40, 90)) // 2 * 2
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = rng.permutation(np.repeat(np.arange(num_groups), rng.integers(2, 6, num_groups)))
    level = draw(st.sampled_from(["none", "pairs", "quadrants", "straddling"]))
    if level == "pairs":
        strata = groups // 2
        arm = np.ravel([rng.permutation(2) for _ in range(num_groups // 2)])
    else:
        arm = rng.permutation(np.arange(num_groups) % 2)
        strata = {"none": np.zeros(len(groups), int), "quadrants": groups % 4}.get(
            level, rng.integers(0, 8, len(groups))
        )
    by_unit = draw(st.booleans()) and level != "pairs"
    W = rng.permutation(np.arange(len(groups)) % 2) if by_unit else arm[groups]
    return Design(groups, W.astype(float), strata, level)
