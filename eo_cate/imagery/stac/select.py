"""Which of the items that a catalogue gave are kept: dates, platforms, clouds and reprocessings."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shapely.geometry.base import BaseGeometry

from eo_cate.errors import ImageryError
from eo_cate.imagery.scenes import Scene
from eo_cate.imagery.stac.items import Json, ReadItem, read_item

_SAME_ACQUISITION = dt.timedelta(seconds=5)
_SAME_FOOTPRINT = 0.5


@dataclass(frozen=True)
class FoundScenes:
    """Scenes in order of their dates, and what to know about how they were found.

    Parameters
    ----------
    scenes : tuple of Scene
        By date, then id.
    notes : tuple of str
        Counts of what was left out, and what had to be assumed.
    """

    scenes: tuple[Scene, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What is asked of each item.

    Parameters
    ----------
    bands : tuple of str
        Common names or asset keys.
    start, end : date
        First and last day (UTC), both included.
    platforms : tuple of str
        Satellites; empty: all.
    max_cloud_cover : float or None
        In percent; an item that states none is kept.
    area : geometry or None
        EPSG:4326; the footprint must touch it.
    """

    bands: tuple[str, ...]
    start: dt.date
    end: dt.date
    platforms: tuple[str, ...] = ()
    max_cloud_cover: float | None = None
    area: BaseGeometry | None = None


def select_items(items: Iterable[tuple[Json, str]], wanted: Wanted, *, licence: str = "") -> FoundScenes:
    """Read items and keep those that are wanted, one per acquisition.

    Parameters
    ----------
    items : iterable of (JSON of an item, its address)
        An id that comes again is read once.
    wanted : Wanted
        What is asked.
    licence : str
        The collection's.

    Raises
    ------
    ImageryError
        When items were found, but none of them can be used; when a link is refused.
    """
    seen: set[tuple[str, str]] = set()
    found: list[ReadItem] = []
    left_out: Counter[str] = Counter()
    for item, base in items:
        key = str(item.get("collection")), str(item.get("id"))
        if key in seen:
            continue
        seen.add(key)
        read = _refuse_early(item, wanted) or read_item(item, wanted.bands, base=base, licence=licence)
        reason = read if isinstance(read, str) else _refuse(read, wanted)
        if reason:
            left_out[reason] += 1
        elif isinstance(read, ReadItem):
            found.append(read)
    unusable = {reason: count for reason, count in left_out.items() if reason.startswith("no ")}
    if unusable and not found and sum(unusable.values()) == len(seen):
        raise ImageryError(f"none of the {len(seen)} items found can be used: {_top(unusable)}")
    kept = _keep_newest(found)
    if len(kept) < len(found):
        left_out["older processing of the same acquisition"] += len(found) - len(kept)
    notes = [f"{count} items left out: {reason}" for reason, count in sorted(left_out.items())]
    unstated = sum(read.scene.cloud_cover is None for read in kept)
    if wanted.max_cloud_cover is not None and unstated:
        notes.append(f"{unstated} scenes kept though they do not state their cloud cover")
    remarks = Counter(remark for read in kept for remark in set(read.remarks))
    notes += [f"{count} scenes: {remark}" for remark, count in sorted(remarks.items())]
    scenes = sorted((read.scene for read in kept), key=lambda s: (s.acquired, s.scene_id))
    return FoundScenes(tuple(scenes), tuple(notes))


def refuse_late(scenes: Sequence[Scene], treatment_start: dt.date) -> None:
    """Refuse scenes acquired on or after the first day of the programme (UTC).

    A period that is post-treatment and for description only is not to be passed through here.

    Raises
    ------
    ImageryError
        With the number of such scenes and their latest date.
    """
    late = [scene.acquired.date() for scene in scenes if scene.acquired.date() >= treatment_start]
    if late:
        raise ImageryError(
            f"{len(late)} of {len(scenes)} scenes were acquired on or after trial.treatment_start {treatment_start}, "
            f"the latest on {max(late)}: pixels must be older than the programme; end the period before it, or write "
            "post_treatment_for_description_only: true"
        )


def _refuse_early(item: Json, wanted: Wanted) -> str:
    """What can be told before the item is read, so that items of no interest cannot fail."""
    name = str((item.get("properties") or {}).get("platform") or "")
    if wanted.platforms and _norm(name) not in {_norm(p) for p in wanted.platforms}:
        return f"of another platform ({name or 'not stated'})"
    return ""


def _refuse(read: ReadItem, wanted: Wanted) -> str:
    scene = read.scene
    if read.first.date() < wanted.start or scene.acquired.date() > wanted.end:
        return "outside of the dates"
    limit = wanted.max_cloud_cover
    if limit is not None and scene.cloud_cover is not None and scene.cloud_cover > limit:
        return f"more than {limit:g} % cloud"
    if wanted.area is not None and not scene.footprint.intersects(wanted.area):
        return "outside of the area searched"
    return ""


def _norm(platform: str) -> str:
    return platform.strip().lower().replace("_", "-").replace(" ", "-")


def _keep_newest(found: Sequence[ReadItem]) -> list[ReadItem]:
    """One item per acquisition: same platform, tile and moment, and more than half of the ground in common.

    The parts of a tile that two downlinks delivered share all but the ground, and are all kept.
    """
    groups: dict[tuple[str, str, str], list[ReadItem]] = {}
    for read in found:
        groups.setdefault((read.scene.collection, _norm(read.scene.platform), read.tile), []).append(read)
    kept: list[ReadItem] = []
    for group in groups.values():
        group.sort(key=lambda read: read.scene.acquired)
        start = 0
        for end in range(1, len(group) + 1):
            if end == len(group) or group[end].scene.acquired - group[end - 1].scene.acquired > _SAME_ACQUISITION:
                kept += _newest_of(group[start:end])
                start = end
    return kept


def _newest_of(moment: list[ReadItem]) -> list[ReadItem]:
    kept: list[ReadItem] = []
    for read in sorted(moment, key=lambda read: read.version, reverse=True):
        if not any(_share(read.scene.footprint, other.scene.footprint) > _SAME_FOOTPRINT for other in kept):
            kept.append(read)
    return kept


def _share(a: BaseGeometry, b: BaseGeometry) -> float:
    common = a.intersection(b).area
    return common / min(a.area, b.area) if common else 0.0


def _top(reasons: dict[str, int]) -> str:
    return "; ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items(), key=lambda r: -r[1])[:3])
