"""Bands around tau_hat that held on places the model had not seen (METHODS.md, section 9)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import ArrayLike

from eo_cate.errors import EvaluationError
from eo_cate.extrapolation.excess import EffectError, mean_noise
from eo_cate.stats.checks import group_codes, vector, weights_vector
from eo_cate.types import FloatArray, IntArray

MIN_UNITS = 5
MIN_GROUPS_PER_STRATUM = 30


@dataclass(frozen=True)
class Bands:
    """Half-widths of a calibrated band around tau_hat, by stratum of dissimilarity (S strata, the nearest first).

    Parameters
    ----------
    edges : (S,) float64
        Upper end of each stratum of DI; the last is the threshold of the area of applicability. Beyond it: no band.
    width : (S,) float64
        Half-width in the units of the outcome, or in standard errors of tau_hat when calibrated with them. Never
        falls with DI.
    relative : bool
        Whether widths are in standard errors.
    raw_width : (S,) float64
        Before the noise of the scores was taken out and before widths were made to rise with DI: the band for a mean
        of DR scores over at least ``min_units`` units.
    error_share : (S,) float64
        Share of the squared left-out errors that is not noise (an upper bound); 1 with ``noise="kept"``.
    num_groups : (S,) int64
        Left-out groups that each stratum rests on.
    num_small, num_outside : int
        Groups left aside: of fewer than ``min_units`` units, and beyond the threshold.
    level : float
    effect_error : EffectError or None
        What the noise that a group's units share was told by.
    district_width : (S,) float64 or None
        Half-width by the errors on districts that were left out; where it is greater, it is ``width``.
    """

    edges: FloatArray
    width: FloatArray
    relative: bool
    raw_width: FloatArray
    error_share: FloatArray
    num_groups: IntArray
    num_small: int
    num_outside: int
    level: float
    effect_error: EffectError | None = None
    district_width: FloatArray | None = None


@dataclass(frozen=True)
class _Left:
    """One entry per left-out group: error of its mean, noise variance, DI; both errors in the scale of the width."""

    error: FloatArray
    noise: FloatArray
    dissimilarity: FloatArray
    num_small: int


def calibrate_bands(
    dr_scores: ArrayLike,
    tau_hat: ArrayLike,
    dissimilarity: ArrayLike,
    *,
    groups: ArrayLike,
    threshold: float,
    std_err: ArrayLike | None = None,
    sample_weights: ArrayLike | None = None,
    noise: str = "kept",
    effect_error: EffectError | None = None,
    num_strata: int = 3,
    min_units: int = MIN_UNITS,
    level: float = 0.9,
) -> Bands:
    """Width of a band around tau_hat from the errors on groups that were left out, by stratum of DI.

    Parameters
    ----------
    dr_scores : (n,)
        Doubly robust scores of the trial's units, in the units of the outcome.
    tau_hat : (n,)
        Effects from a model that saw none of the unit's group.
    dissimilarity : (n,)
        DI of the unit's site to sites of OTHER folds (``train_dissimilarity`` of `area_of_applicability`).
    groups : (n,) labels
        What was left out as a whole: randomisation groups, or districts.
    threshold : float
        DI of the area of applicability; groups beyond it are not used.
    std_err : (n,), optional
        Standard errors of tau_hat, positive; widths are then multiples of them.
    sample_weights : (n,), optional
    noise : {"kept", "within"}
        "kept": a group's mean score errs by its own noise too, so the band is that of a mean over ``min_units`` units
        and too wide for the effect itself: never too narrow, whatever the design. "within": the variance that units
        within a group show is taken out. Where units were randomised within groups, that is the noise. Where groups
        were, what their units share (a village's level, which a treatment given to it doubles in the score) stays in,
        so that the band is narrower than "kept" and still too wide: `effect_error` says what of it is error.
    effect_error : EffectError, optional
        Of the same units, from `excess.effect_error`. Its upper limit bounds the share of the squared errors that is
        error of tau_hat, in all strata alike. Not with ``std_err``.
    num_strata : int
        Strata of DI with equally many groups; fewer when one would hold under 30.
    min_units : int
        Groups of fewer units are left aside.
    level : float
        Share of new groups that the band shall cover.

    Returns
    -------
    Bands

    Raises
    ------
    EvaluationError
        On bad vectors, an unknown ``noise``, a ``std_err`` that is not positive, or fewer than 30 usable groups.

    Notes
    -----
    Split-conformal quantile of |mean(score - tau_hat)| over left-out groups: the ceil((G + 1) level)-th smallest of G
    (Vovk et al. 2005; Lei et al. 2018). With ``noise="within"`` it is multiplied by the root of the share of mean
    squared error that remains after the mean noise variance is subtracted, one standard error added to that
    difference; with ``effect_error`` by the root of upper / mean squared error where that is smaller. The quantile of
    tau_hat's error is thought of as that of the scores', scaled. Anderson's inequality makes "kept" conservative for
    the effect when errors are symmetric and unimodal.
    """
    if noise not in ("kept", "within"):
        raise EvaluationError(f"`noise` is {noise!r}: choose 'kept' or 'within'")
    if not 0 < level < 1:
        raise EvaluationError(f"`level` is {level}: it must be between 0 and 1")
    if num_strata < 1:
        raise EvaluationError(f"`num_strata` is {num_strata}: at least 1 is needed")
    if std_err is not None and effect_error is not None:
        raise EvaluationError("`effect_error` is in units of the outcome, the widths are in standard errors: give one")
    left = _leave_out(dr_scores, tau_hat, dissimilarity, groups, std_err, sample_weights, max(min_units, 1))
    inside = left.dissimilarity <= threshold
    count = int(inside.sum())
    least = max(MIN_GROUPS_PER_STRATUM, ceil(level / (1 - level)))
    if count < least:
        raise EvaluationError(
            f"{count} groups of at least {min_units} units lie inside the threshold {threshold:.3g} ({left.num_small} "
            f"are smaller, {int((~inside).sum())} beyond), and a band at {level:g} needs {least}: lower "
            "`min_units`, or draw no band"
        )
    nearest_first = np.flatnonzero(inside)[np.argsort(left.dissimilarity[inside], kind="stable")]
    strata = np.array_split(nearest_first, max(1, min(num_strata, count // least)))
    raw = np.array([_conformal_quantile(np.abs(left.error[rows]), level) for rows in strata])
    share = np.array(
        [_error_share(left.error[rows], left.noise[rows]) if noise == "within" else 1.0 for rows in strata]
    )
    if effect_error is not None:
        share = np.minimum(share, effect_error.upper / float(np.mean(left.error[inside] ** 2)))
    return Bands(
        edges=np.array([*(float(left.dissimilarity[rows].max()) for rows in strata[:-1]), float(threshold)]),
        width=np.maximum.accumulate(raw * np.sqrt(share)),
        relative=std_err is not None,
        raw_width=raw,
        error_share=share,
        num_groups=np.array([len(rows) for rows in strata], dtype=np.int64),
        num_small=left.num_small,
        num_outside=int((~inside).sum()),
        level=level,
        effect_error=effect_error,
    )


def widen_bands(bands: Bands, districts: Bands) -> Bands:
    """The bands, nowhere narrower than those calibrated on districts that were left out.

    A stratum takes the districts' width at its far end, which is their widest there.

    Raises
    ------
    EvaluationError
        When one is in standard errors and the other is not.
    """
    if bands.relative != districts.relative:
        raise EvaluationError("one of the bands is in standard errors and the other is not: calibrate both alike")
    stratum = np.minimum(np.searchsorted(districts.edges, bands.edges, side="left"), len(districts.edges) - 1)
    width = districts.width[stratum]
    return replace(bands, width=np.maximum(bands.width, width), district_width=width)


def band_width(bands: Bands, dissimilarity: ArrayLike, *, std_err: ArrayLike | None = None) -> FloatArray:
    """Half-width of the band at new places, (n,); NaN beyond the area of applicability or where DI is NaN.

    Parameters
    ----------
    bands : Bands
    dissimilarity : (n,)
        DI of the places.
    std_err : (n,), optional
        Of tau_hat there: needed exactly when the bands were calibrated with standard errors.

    Raises
    ------
    EvaluationError
        On other lengths, or standard errors given to one side only.
    """
    places = np.asarray(dissimilarity, dtype=np.float64)
    if bands.relative != (std_err is not None):
        raise EvaluationError(
            f"the bands were calibrated {'with' if bands.relative else 'without'} standard errors: do the same here"
        )
    stratum = np.searchsorted(bands.edges, places, side="left")  # NaN sorts last: beyond every edge
    width = np.append(bands.width, np.nan)[stratum]
    if std_err is None:
        return np.asarray(width)
    errors = np.asarray(std_err, dtype=np.float64)
    if errors.shape != places.shape:
        raise EvaluationError(f"`std_err` has shape {errors.shape}, `dissimilarity` {places.shape}: one per place")
    return np.asarray(width * errors)


def _leave_out(
    dr_scores: ArrayLike,
    tau_hat: ArrayLike,
    dissimilarity: ArrayLike,
    groups: ArrayLike,
    std_err: ArrayLike | None,
    sample_weights: ArrayLike | None,
    min_units: int,
) -> _Left:
    scores = vector("dr_scores", dr_scores)
    n = len(scores)
    errors = scores - vector("tau_hat", tau_hat, length=n)
    places = vector("dissimilarity", dissimilarity, length=n)
    codes, num_groups = group_codes(groups, n)
    weights = weights_vector(sample_weights, n, codes=codes)
    scale = np.ones(n) if std_err is None else vector("std_err", std_err, length=n)
    if (scale <= 0).any():
        raise EvaluationError(f"`std_err` is zero or negative for {int((scale <= 0).sum())} units")

    total = np.bincount(codes, weights=weights)

    def mean(values: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(codes, weights=weights * values) / total)

    error, width = mean(errors), mean(scale)
    noise, size = mean_noise(errors, weights, codes, num_groups)
    kept = size >= min_units
    return _Left(
        error=(error / width)[kept],
        noise=(noise / width**2)[kept],
        dissimilarity=mean(places)[kept],
        num_small=int((~kept).sum()),
    )


def _conformal_quantile(values: FloatArray, level: float) -> float:
    """The ceil((G + 1) level)-th smallest of G values."""
    rank = ceil(round((len(values) + 1) * level, 9))
    return float(np.sort(values)[min(rank, len(values)) - 1])


def _error_share(error: FloatArray, noise: FloatArray) -> float:
    """Share of the mean squared error that is not noise: what is left, and one standard error more."""
    left = error**2 - noise
    upper = left.mean() + left.std(ddof=1) / np.sqrt(len(left))
    return float(np.clip(upper / np.mean(error**2), 0.0, 1.0))
