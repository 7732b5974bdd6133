"""The pixels of a catalogue's scenes: found, frozen, fetched; a reader per period."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np

from eo_cate.config import RunConfig
from eo_cate.errors import ImageryError
from eo_cate.imagery.pixel_store import FetchPlan, FetchResult, PixelStoreReader, fetch_pixels, plan_fetch
from eo_cate.imagery.scenes import BlockSource
from eo_cate.imagery.sources import check_links, open_blocks, sensor_resolution, source_name
from eo_cate.imagery.stac import CollectedScenes, collect_scenes, make_request, record_etags
from eo_cate.steps.encoders import resolve_scales
from eo_cate.store import write_atomic

PIXELS, SCENES, SITES = "pixels", "scenes.json", "imagery_sites.csv"


@dataclass(frozen=True)
class Fetched:
    """What a fetch found and stored.

    Parameters
    ----------
    collected : CollectedScenes
        Scenes by period.
    result : FetchResult
        Table of sites and counts.
    readers : mapping of str to PixelStoreReader
        Period -> its pixels; periods for description only are left out.
    """

    collected: CollectedScenes
    result: FetchResult
    readers: Mapping[str, PixelStoreReader]


def find_scenes_above(
    config: RunConfig, data_dir: Path, run_dir: Path, sites: gpd.GeoDataFrame, *, refresh: bool = False
) -> CollectedScenes:
    """The frozen scenes of a run, or those that a search finds now; every link may be read."""
    start = config.trial.treatment_start
    assert start is not None
    points = np.column_stack([sites.geometry.x.to_numpy(), sites.geometry.y.to_numpy()])
    size_m = _largest(config) * (sensor_resolution(config.imagery) or 1.0)
    collected = collect_scenes(
        run_dir / PIXELS / SCENES,
        make_request(config.imagery, points, size_m=size_m, data_dir=data_dir),
        points,
        size_m=size_m,
        treatment_start=start,
        refresh=refresh,
    )
    check_links(config.imagery, collected)
    return collected


def plan_imagery(
    config: RunConfig, data_dir: Path, run_dir: Path, sites: gpd.GeoDataFrame, *, refresh: bool = False
) -> tuple[CollectedScenes, FetchPlan]:
    """What `fetch_imagery` would fetch; headers are read, pixels are not."""
    collected = find_scenes_above(config, data_dir, run_dir, sites, refresh=refresh)
    source = open_blocks(config.imagery, data_dir)
    plan = plan_fetch(
        *(collected.scenes, sites),
        block_source=source,
        etags=collected.etags,
        renew=refresh,
        **_request(config, run_dir),
    )
    return collected, plan


def fetch_imagery(
    config: RunConfig,
    data_dir: Path,
    run_dir: Path,
    sites: gpd.GeoDataFrame,
    *,
    refresh: bool = False,
    progress: bool = True,
    table: str = SITES,
    block_source: BlockSource | None = None,
) -> Fetched:
    """Fetch what is not stored yet; write the ``table`` of sites beside the pixels.

    Parameters
    ----------
    config : RunConfig
    data_dir, run_dir : Path
        Folder that the config's paths are relative to; folder of results.
    sites : GeoDataFrame
        Index site_id, points in EPSG:4326.
    refresh : bool
        Search anew even where the scenes of an earlier search are kept, and ask the server of every file above the
        sites whether it is still the one whose pixels are stored; what lies under the others is fetched again.
    progress : bool
        Show a bar on standard error.
    table : str
        Name of the table's file.
    block_source : BlockSource, optional
        Read through this one; None: `open_blocks` with its defaults.

    Raises
    ------
    ImageryError
        When no scene is found, links are refused, files changed since they were first read (and not ``refresh``), or
        more sites than ``imagery.max_failed_share`` have pixels that failed to arrive. What was fetched stays stored.
    """
    collected = find_scenes_above(config, data_dir, run_dir, sites, refresh=refresh)
    result = fetch_pixels(
        collected.scenes,
        sites,
        block_source=block_source or open_blocks(config.imagery, data_dir),
        reduction=config.imagery.composite,
        units="reflectance" if config.imagery.composite == "median" else "as stored",
        progress=progress,
        etags=collected.etags,
        renew=refresh,
        **_request(config, run_dir),
    )
    record_etags(run_dir / PIXELS / SCENES, result.etags, renew=refresh)
    write_atomic(run_dir / PIXELS / table, result.sites.to_csv(index=False, lineterminator="\n").encode())
    _refuse_failed(config, result, run_dir / PIXELS / table)
    return Fetched(collected, result, _open_readers(config, run_dir, sites))


def _request(config: RunConfig, run_dir: Path) -> dict[str, Any]:
    return {
        "bands": config.imagery.bands,
        "size_px": _largest(config),
        "resolution_m": config.imagery.resolution_m,
        "folder": run_dir / PIXELS,
        "source": source_name(config.imagery),
    }


def _largest(config: RunConfig) -> int:
    return max(resolve_scales(config, sensor_resolution(config.imagery)).embeddings.scales)


def _refuse_failed(config: RunConfig, result: FetchResult, listed: Path) -> None:
    failed = result.sites.loc[result.sites["state"] == "failed"]
    number, total = failed["site_id"].nunique(), result.sites["site_id"].nunique()
    if number > config.imagery.max_failed_share * total:
        reasons = "; ".join(dict.fromkeys(failed["reason"].head(3)))
        raise ImageryError(
            f"pixels of {number} of {total} sites failed to arrive, more than imagery.max_failed_share "
            f"{config.imagery.max_failed_share:g} allows ({reasons}); the same command fetches only those again. "
            f"Listed in {listed}"
        )


def _open_readers(config: RunConfig, run_dir: Path, sites: gpd.GeoDataFrame) -> dict[str, PixelStoreReader]:
    periods = [p for p in config.imagery.periods if not p.post_treatment_for_description_only]
    return {
        period.name: PixelStoreReader(
            run_dir / PIXELS,
            source_name(config.imagery),
            period.name,
            sites,
            size_px=_largest(config),
            failed="missing" if config.imagery.max_failed_share > 0 else "error",
        )
        for period in periods
    }


def period_years(config: RunConfig) -> list[float]:
    """The middle of each fitted period, in years."""
    return [
        _year(p.start) / 2 + _year(p.end) / 2
        for p in config.imagery.periods
        if not p.post_treatment_for_description_only
    ]


def _year(day: dt.date) -> float:
    return day.year + (day.timetuple().tm_yday - 1) / 365.25


def print_plan(collected: CollectedScenes, plan: FetchPlan) -> str:
    """What a fetch would take, as text."""
    return "\n".join(
        [
            *_say_scenes(collected),
            *_say_versions(plan),
            f"{plan.shards:,} shards to compute, {plan.shards_stored:,} stored already",
            f"{plan.blocks:,} blocks of {plan.scenes:,} scenes to fetch, {plan.megabytes:,.1f} MB",
        ]
    )


def print_fetched(fetched: Fetched) -> str:
    """What a fetch did, as text: per period the number of sites in each state, and why."""
    result = fetched.result
    lines = [
        *_say_scenes(fetched.collected),
        *_say_versions(result.plan),
        f"{result.blocks_fetched:,} blocks fetched, {result.bytes_fetched / 1e6:,.1f} MB; "
        f"{result.plan.shards_stored:,} of {result.plan.shards + result.plan.shards_stored:,} shards stored already",
        "",
        f"{'period':<12} {'state':<16} {'sites':>6}  reason of the first",
    ]
    for (period, state), rows in result.sites.groupby(["period", "state"], sort=False):
        lines.append(f"{period:<12} {state:<16} {len(rows):>6}  {rows['reason'].iloc[0]}".rstrip())
    return "\n".join(lines)


def _say_versions(plan: FetchPlan) -> list[str]:
    """Files that are not the ones whose pixels were stored, where that was to be found out."""
    lines = []
    if plan.files_changed:
        lines.append(f"{plan.files_changed:,} files changed on their server: what lies under them is fetched again")
    if plan.files_unread:
        lines.append(f"{plan.files_unread:,} files could not be asked whether they changed")
    return lines


def _say_scenes(collected: CollectedScenes) -> list[str]:
    """Scenes and notes by period; whether they were searched now."""
    lines = [
        f"Searched: {collected.searched}" if collected.searched else "Scenes of an earlier search (--refresh: anew)"
    ]
    for period, scenes in collected.scenes.items():
        first, last = scenes[0].acquired, scenes[-1].acquired
        lines.append(f"{period}: {len(scenes)} scenes from {first:%Y-%m-%d} to {last:%Y-%m-%d}")
        lines += [f"  {note}" for note in collected.notes[period]]
    return lines
