"""From a STAC item (1.0 or 1.1, as JSON) to a Scene."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from eo_cate.errors import ImageryError
from eo_cate.imagery.remote.tiff import MAX_BANDS
from eo_cate.imagery.scenes import Asset, MaskKind, Scene
from eo_cate.imagery.stac.areas import wrap_longitudes
from eo_cate.imagery.stac.links import resolve_href
from eo_cate.imagery.stac.presets import COLLECTIONS, CollectionPreset, processing_baseline, sentinel2_offset

Json = Mapping[str, Any]

_MASK_NAMES: Mapping[str, MaskKind] = {"qa_pixel": "landsat_qa", "scl": "sentinel2_scl"}
_NOT_RASTERS = ("image/png", "image/jpeg", "application/json", "application/geo+json", "application/xml", "text/")


@dataclass(frozen=True)
class ReadItem:
    """A scene, and what is known of it besides.

    Parameters
    ----------
    scene : Scene
        The scene.
    first : datetime
        First moment of the acquisition; ``scene.acquired`` is the last.
    tile : str
        WRS-2 path and row, or MGRS tile; empty when the item says neither.
    version : tuple
        Orders reprocessings of one acquisition, the newest last.
    remarks : tuple of str
        What had to be assumed.
    """

    scene: Scene
    first: dt.datetime
    tile: str
    version: tuple[Any, ...]
    remarks: tuple[str, ...] = ()


def read_item(item: Json, bands: Sequence[str], *, base: str, licence: str = "") -> ReadItem | str:
    """Read one item, or say why it has no use (it lacks a band, a date or a place).

    Parameters
    ----------
    item : JSON of an item
        Of STAC 1.0 or 1.1.
    bands : sequence of str
        Common names or asset keys; a band of an asset with several: KEY:NAME or KEY:NUMBER, counted from 1.
    base : str
        The item's address, on which relative links hang.
    licence : str
        The collection's, used when the item has none.

    Raises
    ------
    ImageryError
        When a link is refused, or a band's name means several files.
    """
    properties: Json = item.get("properties") or {}
    collection, item_id = str(item.get("collection") or ""), str(item.get("id") or "")
    times = _read_times(properties)
    footprint = _read_footprint(item)
    if times is None or footprint is None or not item_id:
        return "no date, footprint or id"
    preset = COLLECTIONS.get(collection)
    places = {band: _find_band(item, band, preset) for band in bands}
    absent = [band for band, place in places.items() if place is None]
    if absent:
        more = f" and {len(absent) - 8} more" if len(absent) > 8 else ""
        return f"no band {', '.join(absent[:8])}{more} among the assets {_name_assets(item)}"
    remarks: list[str] = []
    assets = {
        band: _read_asset(place, band, properties, times[1].date(), preset, base, remarks)
        for band, place in places.items()
        if place is not None
    }
    if any(asset.count != 1 for asset in assets.values()) and not properties.get("end_datetime"):
        remarks.append("a moment and no span is stated: a product of a year holds that year to its end, check it")
    mask, mask_kind = _find_mask(item, preset, base)
    if mask is None:
        remarks.append("no quality band that is understood: clouds are not masked")
    elif preset is None:
        remarks.append(f"the quality band is read as {mask_kind}, by its name")
    cloud = properties.get("eo:cloud_cover")
    scene = Scene(
        scene_id=item_id,
        collection=collection,
        acquired=times[1],
        footprint=footprint,
        assets=assets,
        mask=mask,
        mask_kind=mask_kind,
        crs=_read_crs(properties),
        platform=str(properties.get("platform") or ""),
        licence=str(properties.get("license") or licence),
        cloud_cover=float(cloud) if isinstance(cloud, int | float) else None,
    )
    return ReadItem(scene, times[0], _read_tile(properties), _read_version(item_id, properties), tuple(remarks))


def _read_times(properties: Json) -> tuple[dt.datetime, dt.datetime] | None:
    """First and last moment that the pixels hold, UTC: of the span where one is stated, whatever ``datetime`` says.

    A span of whole months from midnight to midnight ends before the second: its last day is the one before.
    """
    stated = [properties.get(key) for key in ("datetime", "start_datetime", "end_datetime")]
    try:
        moments = [_utc(text) for text in stated if text is not None]
    except (TypeError, ValueError):
        return None
    if not moments or (stated[0] is None and len(moments) < 2):
        return None
    first, last = min(moments), max(moments)
    if first < last and first.day == last.day and first.time() == last.time() == dt.time():
        last -= dt.timedelta.resolution
    return first, last


def _utc(text: str) -> dt.datetime:
    moment = dt.datetime.fromisoformat(text)
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


def _read_footprint(item: Json) -> BaseGeometry | None:
    """In EPSG:4326; a ring that jumps over the antimeridian is taken the short way round."""
    try:
        if item.get("geometry"):
            found = shape(item["geometry"])
        else:
            box = [float(v) for v in item["bbox"]]
            west, south, east, north = *box[:2], *box[len(box) // 2 :][:2]
            found = shapely.box(west, south, east + 360 if east < west else east, north)
        found = shapely.force_2d(found)
        if found.is_empty or not all(abs(v) <= limit for v, limit in zip(found.bounds, (540, 90) * 2, strict=True)):
            return None
        if found.bounds[2] - found.bounds[0] > 180 and found.geom_type == "Polygon":
            found = shapely.transform(found, lambda xy: xy + (xy[:, :1] < 0) * [360.0, 0.0])
        return wrap_longitudes(found if found.is_valid else shapely.make_valid(found))
    except (KeyError, TypeError, ValueError, AttributeError, shapely.errors.ShapelyError):
        return None


def _bands_of(asset: Json) -> Iterator[Json]:
    """What an asset says of its bands: STAC 1.1's ``bands``, else ``eo:bands`` and ``raster:bands`` side by side."""
    if asset.get("bands"):
        yield from asset["bands"]
        return
    eo, raster = list(asset.get("eo:bands") or ()), list(asset.get("raster:bands") or ())
    for i in range(max(len(eo), len(raster))):
        yield {**(eo[i] if i < len(eo) else {}), **(raster[i] if i < len(raster) else {})}


def _common_names(asset: Json) -> set[str]:
    """Names of the band of a file of one band; of a file of several, none."""
    bands = list(_bands_of(asset))
    if len(bands) > 1:
        return set()
    sources = [asset, *bands]
    return {str(s[key]) for s in sources for key in ("eo:common_name", "common_name") if s.get(key)}


def _find_asset(item: Json, band: str, preset: CollectionPreset | None) -> Json | None:
    """The file of a band: by its key, then by a key that means the same, then by common name."""
    assets: Json = item.get("assets") or {}
    names = preset.names_of(band) if preset is not None else frozenset({band})
    for key in (band, *sorted(names - {band})):
        if key in assets:
            return dict(assets[key])
    found = {key: a for key, a in assets.items() if _is_raster(a) and _common_names(a) & names}
    cloud_optimised = {key: a for key, a in found.items() if "cloud-optimized" in str(a.get("type"))}
    found = cloud_optimised or found
    if len(found) > 1:
        raise ImageryError(
            f"item {item.get('id')}: the name {band!r} means several files; write one of the keys {sorted(found)}"
        )
    return dict(next(iter(found.values()))) if found else None


@dataclass(frozen=True)
class _Place:
    """Where a band is: its asset, what the item says of the band, its number in the file and how many there are."""

    asset: Json
    band: Json
    number: int = 1
    count: int = 1


def _find_band(item: Json, band: str, preset: CollectionPreset | None) -> _Place | None:
    """A file of one band, or KEY:NAME: a band of an asset by its name, its common name or its number."""
    whole = _find_asset(item, band, preset)
    if whole is not None:
        return _Place(whole, next(_bands_of(whole), {}))
    key, _, name = band.rpartition(":")
    asset = (item.get("assets") or {}).get(key)
    if asset is None:
        return None
    listed = list(_bands_of(asset))
    for field in ("name", "eo:common_name", "common_name"):
        found = [k for k, one in enumerate(listed) if one.get(field) == name]
        if len(found) > 1:
            raise ImageryError(f"item {item.get('id')}: the name {band!r} means several bands; write their numbers")
        if found:
            return _Place(asset, listed[found[0]], found[0] + 1, len(listed))
    number = int(name) if name.isascii() and name.isdigit() else 0
    if not 1 <= number <= (len(listed) or MAX_BANDS):
        return None
    return _Place(asset, listed[number - 1] if listed else {}, number, len(listed))


def _name_assets(item: Json) -> list[str]:
    """Keys of the assets, with the number of bands where there are several."""
    numbers = {key: len(list(_bands_of(asset))) for key, asset in (item.get("assets") or {}).items()}
    return [f"{key} ({count} bands)" if count > 1 else key for key, count in sorted(numbers.items())]


def _is_raster(asset: Json) -> bool:
    roles, kind = asset.get("roles") or (), str(asset.get("type") or "")
    return not kind.startswith(_NOT_RASTERS) and not {"thumbnail", "overview", "metadata"} & set(roles)


def _read_asset(
    place: _Place,
    band: str,
    properties: Json,
    day: dt.date,
    preset: CollectionPreset | None,
    base: str,
    remarks: list[str],
) -> Asset:
    stated: Json = {**_plain(place.asset), **_plain(place.band)}
    default = (preset.other_scales.get(band) or (preset.scale, preset.offset)) if preset else (1.0, 0.0)
    scale, offset = stated.get("scale", default[0]), stated.get("offset", default[1])
    if preset is not None and preset.mask_kind == "sentinel2_scl" and preset.names_of(band) != {band}:
        offset, known = sentinel2_offset(properties, stated.get("offset"), day)
        if not known:
            remarks.append("neither an offset nor a processing baseline is stated: told by the date (2022-01-25)")
    nodata = stated.get("nodata", preset.nodata if preset else None)
    href = resolve_href(str(place.asset["href"]), base)
    return Asset(href, scale, offset, nodata, place.number, place.count)


def _plain(source: Json) -> dict[str, float]:
    """scale, offset and nodata, with or without the prefix ``raster:``, as numbers."""
    out = {}
    for name in ("scale", "offset", "nodata"):
        value = source.get(f"raster:{name}", source.get(name))
        if isinstance(value, int | float) or value in ("nan", "inf", "-inf"):
            out[name] = float(value)
    return out


def _find_mask(item: Json, preset: CollectionPreset | None, base: str) -> tuple[Asset | None, MaskKind | None]:
    assets: Json = item.get("assets") or {}
    keys = preset.mask_keys if preset else tuple(key for key in assets if key.lower() in _MASK_NAMES)
    key = next((key for key in keys if key in assets), None)
    if key is None:
        return None, None
    nodata = _plain(next(_bands_of(assets[key]), {})).get("nodata")
    kind = preset.mask_kind if preset else _MASK_NAMES[key.lower()]
    return Asset(resolve_href(str(assets[key]["href"]), base), nodata=nodata), kind


def _read_crs(properties: Json) -> str | None:
    code, epsg = properties.get("proj:code"), properties.get("proj:epsg")
    return str(code) if code else f"EPSG:{int(epsg)}" if epsg else None


def _read_tile(properties: Json) -> str:
    path, row = properties.get("landsat:wrs_path"), properties.get("landsat:wrs_row")
    if path and row:
        return f"WRS2-{path}-{row}"
    return str(properties.get("s2:mgrs_tile") or properties.get("grid:code") or "").removeprefix("MGRS-")


def _read_version(item_id: str, properties: Json) -> tuple[Any, ...]:
    """Real-time Landsat gives way; then the processing baseline, the time of processing, the id decide."""
    real_time = properties.get("landsat:collection_category") == "RT" or item_id.endswith("_RT")
    when = next(
        (
            properties[k]
            for k in ("s2:generation_time", "processing:datetime", "updated", "created")
            if properties.get(k)
        ),
        "",
    )
    return not real_time, processing_baseline(properties) or 0.0, str(when), item_id
