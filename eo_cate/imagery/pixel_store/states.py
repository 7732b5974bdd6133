"""The table of sites: what each one's largest chip holds, per period, without any coordinate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eo_cate.imagery.pixel_store.composite import FAILED, NODATA, VALID
from eo_cate.imagery.pixel_store.footprints import Footprints, to_degrees
from eo_cate.imagery.pixel_store.layout import read_manifest
from eo_cate.imagery.pixel_store.run import group_folder
from eo_cate.imagery.pixel_store.windows import Slabs, read_windows
from eo_cate.imagery.pixel_store.zones import NO_ZONE, SHARD_PX, PixelGrid
from eo_cate.types import Grid, IntArray

COLUMNS = (
    *("site_id", "period", "state", "valid", "cloudy", "uncovered", "failed"),
    *("scenes", "least_clear", "median_clear", "warped", "reason"),
)


def describe_sites(
    root: Path, places: pd.DataFrame, footprints: Mapping[str, Footprints], grid: PixelGrid, size_px: int
) -> pd.DataFrame:
    """One row per site and period, read from the store.

    ``state``: ``complete``, ``cloudy`` (seen, but never clear), ``partly covered``, ``off imagery``, ``failed`` or
    ``no UTM zone``. ``valid``, ``cloudy``, ``uncovered``, ``failed``, ``warped`` are shares of the chip's pixels
    (warped: valid, clear in scenes of another UTM zone only); ``scenes`` lie over the chip; ``least_clear`` and
    ``median_clear`` count clear observations per pixel.
    """
    ids, zones = places.index.tolist(), places["zone"].to_numpy(np.int64)
    rows: list[dict[str, Any]] = []
    for period, index in footprints.items():
        described: dict[int, dict[str, Any]] = {}
        for zone in np.unique(zones[zones != NO_ZONE]).tolist():
            members = np.flatnonzero(zones == zone)
            top, left = (places[name].to_numpy(np.int64)[members] - size_px // 2 for name in ("row", "col"))
            scenes = _count_scenes(index, grid.zone(zone), top, left, size_px)
            folder = group_folder(root, period, zone)
            manifest = read_manifest(folder)
            names = ("state", "clear_count", "observation_count", "warped")
            for i, slabs in read_windows(folder, names, top, left, size_px):
                row = _describe(slabs, int(scenes[i]))
                if row["state"] == "failed":
                    row["reason"] = _why(manifest, int(top[i]), int(left[i]), size_px)
                described[int(members[i])] = row
        rows += [{"site_id": site, "period": period, **described.get(i, _NOWHERE)} for i, site in enumerate(ids)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


_NOWHERE = {
    "state": "no UTM zone",
    **dict.fromkeys(("valid", "cloudy", "failed", "warped"), 0.0),
    "uncovered": 1.0,
    **dict.fromkeys(("scenes", "least_clear"), 0),
    "median_clear": 0.0,
    "reason": "beyond 84 degrees of latitude, or without coordinates",
}


def _describe(slabs: Slabs, scenes: int) -> dict[str, Any]:
    state, seen = slabs["state"], slabs["observation_count"] > 0
    nodata = state == NODATA
    shares = {
        "valid": float((state == VALID).mean()),
        "cloudy": float((nodata & seen).mean()),
        "uncovered": float((nodata & ~seen).mean()),
        "failed": float((state == FAILED).mean()),
    }
    name, reason = _name(shares, scenes)
    warped = float(slabs["warped"].mean())
    if warped:
        reason = f"{reason}{'; ' if reason else ''}{warped:.0%} of pixels seen from another UTM zone only"
    return {
        "state": name,
        **shares,
        "scenes": scenes,
        "least_clear": int(slabs["clear_count"].min()),
        "median_clear": float(np.median(slabs["clear_count"])),
        "warped": warped,
        "reason": reason,
    }


def _name(shares: Mapping[str, float], scenes: int) -> tuple[str, str]:
    if shares["failed"]:
        return "failed", ""
    if shares["valid"] == 1.0:
        return "complete", ""
    if shares["uncovered"] == 1.0:
        return "off imagery", "no scene has data here" if scenes else "no scene reaches here"
    if shares["uncovered"]:
        return "partly covered", f"{shares['uncovered']:.1%} of pixels in no scene, {shares['cloudy']:.1%} never clear"
    return "cloudy", f"{shares['cloudy']:.1%} of pixels never clear in {scenes} scenes"


def _why(manifest: Mapping[tuple[int, int], Any], top: int, left: int, size_px: int) -> str:
    """The reasons kept with the shards that a chip touches."""
    reasons = {
        reason
        for i in range(top // SHARD_PX, (top + size_px - 1) // SHARD_PX + 1)
        for j in range(left // SHARD_PX, (left + size_px - 1) // SHARD_PX + 1)
        for reason in manifest.get((i, j), {"reasons": ()})["reasons"]
    }
    return "; ".join(sorted(reasons)) or "blocks could not be read"


def _count_scenes(index: Footprints, grid: Grid, top: IntArray, left: IntArray, size_px: int) -> IntArray:
    """Number of scenes whose footprint meets each chip."""
    columns = np.stack([left, left + size_px, left + size_px, left], axis=1)
    rows = np.stack([top, top, top + size_px, top + size_px], axis=1)
    rings = np.stack(to_degrees(grid, columns, rows), axis=-1)
    return np.bincount(index.over_rings(rings)[0], minlength=len(top)).astype(np.int64)
