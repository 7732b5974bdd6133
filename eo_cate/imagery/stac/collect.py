"""The way from sites to scenes: the frozen ones where they answer, else a search, frozen for the next run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eo_cate.config import ImageryConfig
from eo_cate.errors import ImageryError
from eo_cate.imagery.scenes import Scene
from eo_cate.imagery.stac.areas import degree_cells, keep_touching
from eo_cate.imagery.stac.freeze import (
    FrozenScenes,
    SearchPeriod,
    SearchRequest,
    StaleFreeze,
    freeze_scenes,
    read_etags,
    read_frozen,
)
from eo_cate.imagery.stac.links import CheckUrl, is_web
from eo_cate.imagery.stac.search import search_cells
from eo_cate.imagery.stac.select import FoundScenes, Wanted, refuse_late
from eo_cate.imagery.stac.static import walk_cells
from eo_cate.types import FloatArray


@dataclass(frozen=True)
class CollectedScenes:
    """Scenes above today's sites.

    Parameters
    ----------
    scenes : mapping of str to tuple of Scene
        Period -> scenes whose footprint touches a chip, by date.
    notes : mapping of str to tuple of str
        Period -> what to know of the search.
    searched : str
        Why a catalogue was searched; empty: the frozen scenes were read.
    etags : mapping of str to str
        Link -> what its server called the version of the file that was first read, in this search or an earlier one.
    """

    scenes: Mapping[str, tuple[Scene, ...]]
    notes: Mapping[str, tuple[str, ...]]
    searched: str
    etags: Mapping[str, str]


def make_request(config: ImageryConfig, points: FloatArray, *, size_m: float, data_dir: Path) -> SearchRequest:
    """The search that a configuration asks for.

    Parameters
    ----------
    config : ImageryConfig
        Of a source ``stac`` or ``stac_catalog``.
    points : (site, 2)
        Longitude and latitude.
    size_m : float
        Side of the largest chip, in metres.
    data_dir : Path
        Folder that a local catalogue's path is relative to.

    Raises
    ------
    ImageryError
        When the source is not a catalogue.
    """
    address = config.api if config.source == "stac" else config.catalog
    if not address or not config.collection:
        raise ImageryError(f"imagery.source {config.source!r} names no catalogue and collection to search")
    if config.source == "stac_catalog" and not is_web(address):
        address = str((data_dir / address).resolve())
    return SearchRequest(
        source=config.source,
        address=address,
        collection=config.collection,
        bands=tuple(config.bands),
        periods=tuple(
            SearchPeriod(p.name, p.start, p.end, p.post_treatment_for_description_only) for p in config.periods
        ),
        cells=degree_cells(points, size_m),
        platforms=tuple(config.platforms),
        max_cloud_cover=config.max_cloud_cover,
    )


def collect_scenes(
    path: Path,
    request: SearchRequest,
    points: FloatArray,
    *,
    size_m: float,
    treatment_start: dt.date,
    refresh: bool = False,
    check_url: CheckUrl | None = None,
) -> CollectedScenes:
    """Read the frozen scenes, or search and freeze; keep those that touch a chip.

    Parameters
    ----------
    path : Path
        The manifest.
    request, points, size_m
        As in `make_request`.
    treatment_start : date
        First day of the programme.
    refresh : bool
        Search even where the frozen scenes answer. What was noted of the files' versions is kept.
    check_url : callable, optional
        As in `search.search_cells`.

    Raises
    ------
    ImageryError
        As in `refuse_late` (also for frozen scenes), `search_cells`, `walk_cells` and `read_frozen`.
    """
    answer = StaleFreeze("asked to search anew") if refresh else read_frozen(path, request)
    searched = answer.reason if isinstance(answer, StaleFreeze) else ""
    if isinstance(answer, StaleFreeze):
        etags, lost = _noted_etags(path)
        searched += lost
        found = {period.name: _search(request, period, check_url) for period in request.periods}
        freeze_scenes(path, found, request, etags=etags)
        answer = FrozenScenes({n: f.scenes for n, f in found.items()}, {n: f.notes for n, f in found.items()}, etags)
    for period in request.periods:
        if not period.post_treatment_for_description_only:
            refuse_late(answer.scenes[period.name], treatment_start)
    scenes = {name: keep_touching(all_of, points, size_m) for name, all_of in answer.scenes.items()}
    empty = [name for name, kept in scenes.items() if not kept]
    if empty:
        why = "; ".join(note for name in empty for note in answer.notes[name]) or "the search found nothing"
        raise ImageryError(f"no scene above the sites in the periods {empty} ({why}): widen the dates or the filters")
    return CollectedScenes(scenes, answer.notes, searched, answer.etags)


def _noted_etags(path: Path) -> tuple[dict[str, str], str]:
    """What was noted of the files' versions, and what to say where a damaged manifest hides it."""
    try:
        return read_etags(path), ""
    except ImageryError:
        return {}, "; which versions of the files the stored pixels are of is no longer known"


def _search(request: SearchRequest, period: SearchPeriod, check_url: CheckUrl | None) -> FoundScenes:
    wanted = Wanted(request.bands, period.start, period.end, request.platforms, request.max_cloud_cover)
    look = search_cells if request.source == "stac" else walk_cells
    return look(request.address, request.collection, request.cells, wanted, check_url=check_url)
