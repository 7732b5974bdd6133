"""Sites and their pixels: opening the imagery, and what to do with sites that it does not cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import geopandas as gpd
import numpy as np

from eo_cate.config import ImageryConfig
from eo_cate.errors import ImageryError
from eo_cate.imagery.chips import ChipArray, ChipFolder
from eo_cate.imagery.rasters import RasterReader, place_sites
from eo_cate.trial import group_units, leave_group_out_share
from eo_cate.types import BoolArray, ChipReader, Trial

_BLOCK_VALUES = 2**22
"""Pixel values held at once while sites are checked (16 MB)."""


def open_imagery(config: ImageryConfig, data_dir: Path, sites: gpd.GeoDataFrame) -> ChipReader:
    """Open the configured pixels and find every site in them.

    Parameters
    ----------
    config : ImageryConfig
        Source, files and bands.
    data_dir : Path
        Folder that its paths are relative to.
    sites : GeoDataFrame
        Index site_id, points in EPSG:4326.

    Raises
    ------
    ImageryError
        When files are unreadable or do not fit each other, or sites have no chip.
    """
    data_dir = Path(data_dir)
    if config.source == "rasters":
        rasters = RasterReader({band: data_dir / file for band, file in config.files.items()})
        return rasters.with_places(place_sites(sites, rasters.scene_grid))
    assert config.path is not None
    path = data_dir / config.path
    chips: ChipArray | ChipFolder
    if path.is_dir():
        chips = ChipFolder(path, bands=config.bands, resolution_m=config.resolution_m)
    else:
        keys = data_dir / config.keys if config.keys else None
        chips = ChipArray(path, bands=config.bands, keys=keys, resolution_m=config.resolution_m)
    absent = len(set(sites.index) - chips.site_ids)
    if absent:
        raise ImageryError(
            f"{path}: {absent} of {len(sites)} sites have no chip among {len(chips.site_ids)}; trial.site must "
            "name the column that holds the chips' keys, and units without a chip must be left out"
        )
    return chips


def complete_sites(
    reader: ChipReader,
    site_ids: Sequence[str],
    size_px: int,
    *,
    max_missing: float = 0.0,
    smaller: Sequence[int] = (),
) -> BoolArray:
    """True where no more than a share of a site's chip is missing in any band, shape (site,).

    A share above 0 must hold for the ``smaller`` chips too: inside a complete chip they are complete, inside another
    they may be worse.
    """
    sizes = [size_px, *(smaller if max_missing > 0 else ())]
    return np.asarray(np.all([_complete(reader, site_ids, size, max_missing) for size in sizes], axis=0))


def _complete(reader: ChipReader, site_ids: Sequence[str], size_px: int, max_missing: float) -> BoolArray:
    ids = list(site_ids)
    block = max(1, _BLOCK_VALUES // (len(reader.bands) * size_px**2))
    complete = np.empty(len(ids), dtype=np.bool_)
    for start in range(0, len(ids), block):
        chips = reader.read_chips(ids[start : start + block], size_px)
        complete[start : start + block] = np.isnan(chips).any(axis=1).mean(axis=(1, 2)) <= max_missing
    return complete


def drop_incomplete(
    trial: Trial,
    reader: ChipReader,
    size_px: int,
    *,
    policy: Literal["error", "drop"],
    max_missing: float = 0.0,
    smaller: Sequence[int] = (),
) -> Trial:
    """The trial on the sites whose chips of ``size_px`` are complete, as `complete_sites` has it.

    Groups are found again among the units that stay, and so is a propensity that was the share of the other groups.
    ``units.attrs["dropped"]["incomplete_imagery"]`` counts the units left out.

    Raises
    ------
    ImageryError
        When sites are incomplete and ``policy`` is ``error``, or when too little would be left.
    """
    site_ids = [str(site) for site in trial.sites.index]
    complete = complete_sites(reader, site_ids, size_px, max_missing=max_missing, smaller=smaller)
    if complete.all():
        return trial
    what = _describe(reader, site_ids, complete, size_px)
    if policy == "error":
        raise ImageryError(
            f"{what}; `imagery.incomplete_sites: drop` leaves these sites and their units out, a smaller largest scale "
            "needs less imagery"
        )
    sites = trial.sites.loc[complete]
    stays = trial.units["site_id"].isin(sites.index).to_numpy()
    left = trial.units.loc[stays].reset_index(drop=True)
    units = gpd.GeoDataFrame(left)
    units["group"] = group_units(units["cluster"].tolist(), units["site_id"].tolist(), sites)
    if units["treatment"].nunique() < 2 or units["group"].nunique() < 2:
        raise ImageryError(f"{what}; what is left is {len(units)} units, not two arms and two groups: no trial")
    if trial.units.attrs.get("propensity_source") == "leave_group_out_share":
        units["propensity"] = leave_group_out_share(
            units["treatment"].to_numpy(np.float64),
            units["group"].to_numpy(np.int64),
            weights=units["weight"].to_numpy(np.float64),
        )
    dropped = {**trial.units.attrs.get("dropped", {}), "incomplete_imagery": int((~stays).sum())}
    units.attrs = {**trial.units.attrs, "dropped": dropped}
    return replace(trial, units=units, sites=gpd.GeoDataFrame(sites))


def _describe(reader: ChipReader, site_ids: Sequence[str], complete: BoolArray, size_px: int) -> str:
    incomplete = [site for site, ok in zip(site_ids, complete, strict=True) if not ok]
    off = int(reader.leaves_grid(incomplete, size_px).sum()) if isinstance(reader, RasterReader) else 0
    text = (
        f"{len(incomplete)} of {len(site_ids)} sites have no complete chip of {size_px} px: {off} reach beyond the "
        f"imagery, {len(incomplete) - off} have missing pixels"
    )
    if off == len(site_ids):
        text += " (all lie beyond it: is it the right scene, are longitude and latitude the right way round?)"
    return text
