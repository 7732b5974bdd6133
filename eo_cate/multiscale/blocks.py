"""One block of columns per scale, one for the covariates, beside each other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from eo_cate.errors import EoCateError, EstimationError
from eo_cate.types import FeatureBlocks, IntArray

DIMENSIONS = ("site", "scale", "time", "feature")
_IMAGE_LABEL = re.compile(r"image_(\d+)(_.+)?")


def build_blocks(
    embedding: xr.DataArray | Mapping[str, xr.DataArray] | None,
    *,
    site_ids: Sequence[str],
    site_index: IntArray,
    scales: Sequence[int] | None = None,
    covariates: ArrayLike | None = None,
    covariate_names: Sequence[str] = (),
    site_features: ArrayLike | None = None,
    site_block: str = "location",
) -> FeatureBlocks:
    """Lay the features of sites and units out in blocks.

    Parameters
    ----------
    embedding : DataArray (site, scale, time, feature), mapping of str to DataArray, or None
        Features per site at each scale, of one encoder or of several by name; the ``site`` coordinate must be
        ``site_ids`` in the same order.
    site_ids : sequence of str, length S
        Sites of the trial.
    site_index : (n,) int
        Place among ``site_ids`` of each unit.
    scales : sequence of int or None
        Scales taken from the embedding, in this order; None: all of them (of the first encoder).
    covariates : (n, q) or None
        Covariates of the units (block ``tabular``); NaN = missing.
    covariate_names : sequence of str, length q
    site_features : (S, p) or None
        Further features of the sites, such as their coordinates.
    site_block : str
        Block label of ``site_features``.

    Returns
    -------
    FeatureBlocks
        Blocks ``image_<scale>``, ``site_block``, ``tabular``; with several encoders ``image_<scale>_<encoder>``, with
        several times ``image_<scale>_<time>`` or ``image_<scale>_<encoder>_<time>``: scale by scale, so that whatever
        is fitted or chosen per scale takes all of that scale. Columns are named after their block, as in
        ``image_16_0``. float32.

    Raises
    ------
    EoCateError
        When sites, scales or lengths disagree.
    """
    parts, names, blocks = [np.zeros((len(site_ids), 0), dtype=np.float32)], list[str](), list[str]()
    for label, values in [
        *(_image_blocks(embedding, site_ids, scales) if embedding is not None else []),
        *([(site_block, _table("site_features", site_features, len(site_ids)))] if site_features is not None else []),
    ]:
        parts.append(values)
        names += [f"{label}_{j}" for j in range(values.shape[1])]
        blocks += [label] * values.shape[1]
    unit = np.zeros((len(site_index), 0)) if covariates is None else covariates
    tabular = _table("covariates", unit, len(site_index))
    if tabular.shape[1] != len(covariate_names):
        raise EoCateError(f"`covariates` has {tabular.shape[1]} columns, but {len(covariate_names)} names were given")
    return FeatureBlocks(
        site=np.hstack(parts),
        unit=tabular,
        site_index=np.asarray(site_index, dtype=np.int64),
        names=(*names, *covariate_names),
        blocks=(*blocks, *("tabular",) * tabular.shape[1]),
    )


def block_labels(X: FeatureBlocks) -> tuple[str, ...]:
    """Labels of the blocks, each once, in the order of the columns."""
    return tuple(dict.fromkeys(X.blocks))


def take_blocks(X: FeatureBlocks, labels: Sequence[str]) -> FeatureBlocks:
    """Some blocks of the same units and sites, their columns in the order of X.

    Raises
    ------
    EstimationError
        For a label that X does not have.
    """
    unknown = [label for label in labels if label not in X.blocks]
    if unknown:
        raise EstimationError(f"blocks {unknown} are not among those of `X`: {list(block_labels(X))}")
    kept = np.flatnonzero(np.isin(np.array(X.blocks, dtype=object), np.array(labels, dtype=object)))
    p = X.site.shape[1]
    return FeatureBlocks(
        site=X.site[:, kept[kept < p]],
        unit=X.unit[:, kept[kept >= p] - p],
        site_index=X.site_index,
        names=tuple(X.names[j] for j in kept),
        blocks=tuple(X.blocks[j] for j in kept),
    )


def order_by_scale(labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Labels from coarse to fine: those without a scale first, then ``image_<scale>`` by falling scale.

    The encoders and times of one scale (``image_<scale>_<...>``) stay together.
    """
    scales = [_IMAGE_LABEL.fullmatch(label) for label in labels]
    size = [int(found.group(1)) if found else None for found in scales]
    others = tuple(label for label, s in zip(labels, size, strict=True) if s is None)
    falling = sorted({s for s in size if s is not None}, reverse=True)
    steps = [tuple(label for label, s in zip(labels, size, strict=True) if s == scale) for scale in falling]
    return [others, *steps] if others else steps


def _image_blocks(
    embedding: xr.DataArray | Mapping[str, xr.DataArray], site_ids: Sequence[str], scales: Sequence[int] | None
) -> list[tuple[str, NDArray[np.float32]]]:
    several = isinstance(embedding, Mapping) and len(embedding) > 1
    named = embedding if isinstance(embedding, Mapping) else {"": embedding}
    if not named:
        raise EoCateError("no encoder's embedding was given")
    if scales is None:
        scales = [int(scale) for scale in next(iter(named.values()))["scale"].values]
    parts = [_blocks_of(array, f"_{name}" if several else "", site_ids, scales) for name, array in named.items()]
    return [block for at_scale in zip(*parts, strict=True) for blocks in at_scale for block in blocks]


def _blocks_of(
    embedding: xr.DataArray, suffix: str, site_ids: Sequence[str], scales: Sequence[int]
) -> list[list[tuple[str, NDArray[np.float32]]]]:
    """Labelled features of one encoder: one list per scale, in the order of times."""
    if set(embedding.dims) != set(DIMENSIONS):
        raise EoCateError(f"the embedding has dimensions {embedding.dims}, expected {DIMENSIONS}")
    _check_sites(embedding, site_ids)
    known = [int(scale) for scale in embedding["scale"].values]
    wanted = [int(scale) for scale in scales]
    absent = [scale for scale in wanted if scale not in known]
    if absent:
        raise EoCateError(f"scales {absent} are not in the embedding, which holds {known}")
    ordered = embedding.transpose(*DIMENSIONS)
    times = [f"_{time}" if ordered.sizes["time"] > 1 else "" for time in ordered["time"].values]
    return [
        [
            (f"image_{scale}{suffix}{time}", ordered.values[:, known.index(scale), t].astype(np.float32))
            for t, time in enumerate(times)
        ]
        for scale in wanted
    ]


def _check_sites(embedding: xr.DataArray, site_ids: Sequence[str]) -> None:
    if "site" not in embedding.coords:
        raise EoCateError("the embedding has no `site` coordinate: its rows cannot be matched with the trial's sites")
    found, expected = [str(s) for s in embedding["site"].values], [str(s) for s in site_ids]
    if found == expected:
        return
    if sorted(found) == sorted(expected):
        raise EoCateError("the embedding holds the trial's sites in another order: `embedding.sel(site=site_ids)`")
    missing = len(set(expected) - set(found))
    raise EoCateError(
        f"the embedding holds {len(found)} sites, the trial {len(expected)}, of which {missing} have no embedding: "
        "embed the trial's sites again"
    )


def _table(name: str, values: ArrayLike, length: int) -> NDArray[np.float32]:
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != 2 or len(array) != length:
        raise EoCateError(f"`{name}` has shape {array.shape}, expected ({length}, number of columns)")
    return array
