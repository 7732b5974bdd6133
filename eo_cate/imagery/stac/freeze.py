"""What was found is frozen: a second run reads the same scenes from a manifest, and asks no catalogue."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry import mapping, shape

from eo_cate.errors import ImageryError
from eo_cate.imagery.scenes import Asset, Scene
from eo_cate.imagery.stac.areas import Cell
from eo_cate.imagery.stac.select import FoundScenes
from eo_cate.store import digest, write_atomic

FORMAT = 1


@dataclass(frozen=True)
class SearchPeriod:
    """A span of dates: name, first and last day, and whether it may lie after the treatment's start."""

    name: str
    start: dt.date
    end: dt.date
    post_treatment_for_description_only: bool = False


@dataclass(frozen=True)
class SearchRequest:
    """All that a search depends on.

    Parameters
    ----------
    source : {"stac", "stac_catalog"}
        An API, or a static catalogue.
    address : str
        Short name or address of the API; address or file of the catalogue.
    collection, bands, periods, platforms, max_cloud_cover
        As in the configuration.
    cells : frozenset of (longitude, latitude)
        Whole-degree cells that hold the chips (`areas.degree_cells`).
    """

    source: str
    address: str
    collection: str
    bands: tuple[str, ...]
    periods: tuple[SearchPeriod, ...]
    cells: frozenset[Cell]
    platforms: tuple[str, ...] = ()
    max_cloud_cover: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON has it: dates as text, cells sorted."""
        plain = {**asdict(self), "cells": sorted(self.cells)}
        return dict(json.loads(json.dumps(plain, default=str)))


@dataclass(frozen=True)
class FrozenScenes:
    """What the manifest holds.

    Parameters
    ----------
    scenes : mapping of str to tuple of Scene
        Period -> its scenes of all cells searched, by date.
    notes : mapping of str to tuple of str
        Period -> what was said of the search.
    etags : mapping of str to str
        Link -> ETag of the file when it was first read.
    """

    scenes: Mapping[str, tuple[Scene, ...]]
    notes: Mapping[str, tuple[str, ...]]
    etags: Mapping[str, str]


@dataclass(frozen=True)
class StaleFreeze:
    """Why there are no frozen scenes for this request: it has to be searched."""

    reason: str


def freeze_scenes(
    path: Path, found: Mapping[str, FoundScenes], request: SearchRequest, *, etags: Mapping[str, str] | None = None
) -> None:
    """Write the manifest, whole or not at all.

    Parameters
    ----------
    path : Path
        JSON file.
    found : mapping of str to FoundScenes
        Period -> scenes of all cells of the request, not only those of today's sites.
    request : SearchRequest
        What was asked.
    etags : mapping of str to str, optional
        What was noted of files before (`read_etags`): a new search does not change what their pixels were read from.
    """
    body = {
        "format": FORMAT,
        "request": request.to_json(),
        "periods": {
            name: {"notes": list(one.notes), "scenes": [_scene_to_json(scene) for scene in one.scenes]}
            for name, one in found.items()
        },
        "etags": dict(sorted((etags or {}).items())),
    }
    _write(path, body)


def read_frozen(path: Path, request: SearchRequest) -> FrozenScenes | StaleFreeze:
    """The frozen scenes, when they answer this request.

    They do when collection, bands, periods, platforms, cloud cover and source are the same, and every cell of the
    request was searched: a site added inside the cells needs no search.

    Raises
    ------
    ImageryError
        When the manifest is damaged, or was changed by hand.
    """
    if not path.exists():
        return StaleFreeze("no scenes were frozen yet")
    body = _read(path)
    stored, asked = body["request"], request.to_json()
    missing = request.cells - {(int(lon), int(lat)) for lon, lat in stored["cells"]}
    changed = sorted(key for key in asked if key != "cells" and stored.get(key) != asked[key])
    if changed:
        return StaleFreeze(f"the frozen scenes were searched with other {', '.join(changed)}")
    if missing:
        return StaleFreeze(f"sites lie in {len(missing)} degree cells that were not searched")
    scenes = {name: tuple(map(_scene_from_json, one["scenes"])) for name, one in body["periods"].items()}
    notes = {name: tuple(one["notes"]) for name, one in body["periods"].items()}
    return FrozenScenes(scenes, notes, dict(body["etags"]))


def read_etags(path: Path) -> dict[str, str]:
    """Link -> noted ETag, whatever was asked when it was noted; empty before anything was frozen.

    Raises
    ------
    ImageryError
        When the manifest is damaged, or was changed by hand.
    """
    return dict(_read(path)["etags"]) if path.exists() else {}


def record_etags(path: Path, etags: Mapping[str, str], *, renew: bool = False) -> tuple[str, ...]:
    """Note what the server calls the version of each file, once; what was noted first stays, unless it is renewed.

    Parameters
    ----------
    path : Path
        The manifest.
    etags : mapping of str to str
        Link as the scene has it (not signed) -> ETag; empty ETags are passed over.
    renew : bool
        Whether what was read under noted ETags was read again under these.

    Returns
    -------
    tuple of str
        Links whose ETag is another than the one noted: the file changed since its scene was frozen.

    Raises
    ------
    ImageryError
        When a link belongs to no frozen scene, or the manifest is damaged.
    """
    body = _read(path)
    known = {
        asset["href"]
        for one in body["periods"].values()
        for scene in one["scenes"]
        for asset in (*scene["assets"].values(), *([scene["mask"]] if scene["mask"] else []))
    }
    unknown = sum(href not in known for href in etags)
    if unknown:
        raise ImageryError(f"{path}: {unknown} of {len(etags)} links with an ETag belong to no frozen scene")
    noted = body["etags"]
    changed = tuple(sorted(href for href, etag in etags.items() if etag and noted.get(href, etag) != etag))
    added = {href: etag for href, etag in etags.items() if etag and (renew or href not in noted)}
    if added:
        _write(path, {**body, "etags": dict(sorted({**noted, **added}.items()))})
    return changed


def _write(path: Path, body: Mapping[str, Any]) -> None:
    content = {"sha256": digest(dict(body)), **body}
    write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False).encode())


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stated = content.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ImageryError(f"{path}: the frozen scenes cannot be read ({error}); search anew with --refresh") from error
    if digest(content) != stated:
        raise ImageryError(
            f"{path}: the frozen scenes were changed since they were written; search anew with --refresh"
        )
    if content["format"] != FORMAT:
        raise ImageryError(f"{path}: written by another version of eo_cate; search anew with --refresh")
    return dict(content)


def _scene_to_json(scene: Scene) -> dict[str, Any]:
    return {
        "scene_id": scene.scene_id,
        "collection": scene.collection,
        "acquired": scene.acquired.isoformat(),
        "platform": scene.platform,
        "licence": scene.licence,
        "cloud_cover": scene.cloud_cover,
        "crs": scene.crs,
        "assets": {band: asdict(asset) for band, asset in scene.assets.items()},
        "mask": asdict(scene.mask) if scene.mask else None,
        "mask_kind": scene.mask_kind,
        "footprint": mapping(scene.footprint),
    }


def _scene_from_json(stored: Mapping[str, Any]) -> Scene:
    return Scene(
        **{
            **stored,
            "acquired": dt.datetime.fromisoformat(stored["acquired"]),
            "footprint": shapely.force_2d(shape(stored["footprint"])),
            "assets": {band: Asset(**asset) for band, asset in stored["assets"].items()},
            "mask": Asset(**stored["mask"]) if stored["mask"] else None,
        }
    )
