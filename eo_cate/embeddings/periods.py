"""Image sequences: the embeddings of several periods, beside each other, averaged, or as a change over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from eo_cate.errors import EmbeddingError

PARTS = ("each", "mean", "change", "trend")


def join_periods(
    embeddings: Mapping[str, xr.DataArray], *, parts: Sequence[str] = ("each",), years: Sequence[float] | None = None
) -> xr.DataArray:
    """Join the embeddings of periods along ``time``.

    Parameters
    ----------
    embeddings : mapping of str to DataArray (site, scale, time, feature)
        Period -> embedding of one time, in the order of time; the same sites, scales and encoder.
    parts : sequence of str
        What the result holds, in this order: ``each`` period by its name, their ``mean``, the ``change`` (last minus
        first), the ``trend`` (least-squares slope per year, feature by feature).
    years : sequence of float, optional
        When each period was, in years (increasing); absent: one year apart. Only the trend uses them.

    Returns
    -------
    DataArray (site, scale, time, feature) float32
        ``time``: names of periods, ``mean``, ``change``, ``trend``. One period is given back under its name.

    Raises
    ------
    EmbeddingError
        When periods disagree, a part is unknown or repeated, or there are too few periods for it: two for a change,
        three for a trend (of two it would be the change again).
    """
    names, arrays = list(embeddings), list(embeddings.values())
    _check_parts(names, parts)
    _check_agreement(embeddings)
    stacked = np.stack([array.isel(time=0).values.astype(np.float64) for array in arrays])
    at = np.arange(len(names), dtype=np.float64) if years is None else np.asarray(years, dtype=np.float64)
    if len(at) != len(names) or (np.diff(at) <= 0).any():
        raise EmbeddingError(f"`years` must increase, one per period: got {at.tolist()} for {names}")
    centred = at - at.mean()
    weights = {
        **dict(zip(names, np.eye(len(names)), strict=True)),
        "mean": np.full(len(names), 1 / len(names)),
        "change": np.eye(len(names))[-1] - np.eye(len(names))[0],
        "trend": centred / max((centred**2).sum(), np.finfo(float).tiny),
    }
    wanted = [name for part in parts for name in (names if part == "each" else [part])]
    layers = {name: np.tensordot(weights[name], stacked, axes=1) for name in wanted}
    first = arrays[0].isel(time=0, drop=True)
    return xr.concat(
        [first.copy(data=layer.astype(np.float32)) for layer in layers.values()],
        dim=xr.DataArray(list(layers), dims="time", name="time"),
        coords="minimal",
        compat="override",
        join="exact",
    ).transpose("site", "scale", "time", "feature")


def _check_parts(names: Sequence[str], parts: Sequence[str]) -> None:
    unknown = [part for part in parts if part not in PARTS]
    if not parts or unknown or len(set(parts)) < len(parts):
        raise EmbeddingError(f"parts of a sequence are {list(parts)}: choose different ones of {list(PARTS)}")
    for part, least in (("change", 2), ("trend", 3)):
        if part in parts and len(names) < least:
            raise EmbeddingError(f"a {part} needs {least} periods or more, there are {len(names)}: {list(names)}")
    taken = sorted(set(names) & set(PARTS))
    if not names or taken:
        raise EmbeddingError(f"periods are {list(names)}: give one or more, and other names than {taken or PARTS}")


def _check_agreement(embeddings: Mapping[str, xr.DataArray]) -> None:
    first = next(iter(embeddings.values()))
    for period, array in embeddings.items():
        if array.sizes["time"] != 1:
            raise EmbeddingError(f"period {period} holds {array.sizes['time']} times, expected one")
        if array.attrs.get("encoder_digest") != first.attrs.get("encoder_digest"):
            raise EmbeddingError(f"period {period} was embedded by another encoder than the first: features differ")
        for dimension in ("site", "scale", "feature"):
            if not np.array_equal(array[dimension].values, first[dimension].values):
                raise EmbeddingError(f"period {period} holds other values of `{dimension}` than the first period")
