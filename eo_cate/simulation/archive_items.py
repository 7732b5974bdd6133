"""STAC items and the static catalogue of a simulated archive, with the fields of the real ones."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pystac
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from eo_cate.types import Grid

COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_LICENCE = "CC0-1.0"


def item_json(
    collection: str,
    name: str,
    day: dt.date,
    *,
    platform: str,
    tile: str,
    outline: BaseGeometry,
    grids: Mapping[str, Grid],
    quality: str,
    cloud_cover: float,
    offset_dn: int,
    told: str,
) -> dict[str, Any]:
    """One item; links are relative to the archive's folder.

    Parameters
    ----------
    collection, name, day, platform, tile
        As the real items have them; the moment is 08:00 UTC.
    outline : geometry
        Footprint in EPSG:4326.
    grids : mapping of str to Grid
        Asset key -> grid.
    quality : str
        Key of the quality band.
    cloud_cover : float
        Percent of the observed pixels.
    offset_dn : int
        Sentinel-2's offset, in stored numbers.
    told : str
        What the pixels are made of.
    """
    landsat = collection == "landsat-c2-l2"
    main = next(iter(grids.values()))
    properties: dict[str, Any] = {
        "datetime": f"{day.isoformat()}T08:00:00Z",
        "created": f"{(day + dt.timedelta(days=20)).isoformat()}T00:00:00Z",
        "description": f"Simulated scene; {told}; dates, clouds and gaps are made up.",
        "platform": platform,
        "instruments": [_instrument(platform)],
        "gsd": abs(main.transform[0]),
        "license": _LICENCE,
        "eo:cloud_cover": round(cloud_cover, 2),
        "proj:code": main.crs,
        "proj:transform": [*main.transform, 0.0, 0.0, 1.0],
        "proj:shape": list(main.shape),
        "view:off_nadir": 0,
        "view:sun_azimuth": 60.0,
        "view:sun_elevation": 55.0,
    }
    if landsat:
        path_row = {"landsat:wrs_path": tile[:3], "landsat:wrs_row": tile[3:]}
        properties |= {"landsat:wrs_type": "2", "landsat:collection_category": "T1", **path_row}
    else:
        baseline = "04.00" if offset_dn else "02.14"
        properties |= {"grid:code": f"MGRS-{tile}", "s2:processing_baseline": baseline}
        properties |= {"earthsearch:boa_offset_applied": False}
    scale = {"scale": 2.75e-5, "offset": -0.2} if landsat else {"scale": 1e-4, "offset": -offset_dn / 10_000}
    assets = {key: _asset_json(name, key, grid, key == quality, landsat, scale) for key, grid in grids.items()}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
            "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
            "https://stac-extensions.github.io/view/v1.0.0/schema.json",
        ],
        "id": name,
        "collection": collection,
        "geometry": mapping(outline),
        "bbox": outline_bbox(outline),
        "properties": properties,
        "links": [],
        "assets": assets,
    }


def _asset_json(
    scene: str, key: str, grid: Grid, quality: bool, landsat: bool, scale: Mapping[str, float]
) -> dict[str, Any]:
    band: dict[str, Any] = {"data_type": "uint8" if key == "scl" else "uint16", "nodata": 1 if key == "qa_pixel" else 0}
    asset: dict[str, Any] = {
        "href": f"scenes/{scene}/{key}.tif",
        "type": COG,
        "roles": ["cloud"] if quality else ["data", "reflectance"],
        "proj:transform": [*grid.transform, 0.0, 0.0, 1.0],
        "proj:shape": list(grid.shape),
        "raster:bands": [band | {"spatial_resolution": abs(grid.transform[0])} | ({} if quality else dict(scale))],
    }
    if not quality:
        asset["eo:bands"] = [{"name": key, "common_name": "nir08" if landsat and key == "nir" else key}]
    return asset


def _instrument(platform: str) -> str:
    known = {"landsat-4": "tm", "landsat-5": "tm", "landsat-7": "etm+", "landsat-8": "oli", "landsat-9": "oli"}
    return known.get(platform, "msi")


def outline_bbox(outline: BaseGeometry) -> list[float]:
    """West is above east where the outline lies on both sides of the antimeridian (RFC 7946)."""
    west, south, east, north = outline.bounds
    parts = [part.bounds for part in getattr(outline, "geoms", [outline])]
    if west == -180 and east == 180 and len(parts) > 1:
        west, east = min(b[0] for b in parts if b[0] > 0), max(b[2] for b in parts if b[2] < 0)
    return [float(west), float(south), float(east), float(north)]


def write_catalog(folder: Path, collection: str, items: Sequence[Mapping[str, Any]]) -> None:
    """Write ``catalog.json``, the collection and the items, all linked by relative paths."""
    found = [pystac.Item.from_dict(copy.deepcopy(dict(item))) for item in items]
    for item in found:
        item.collection_id = None
        for asset in item.assets.values():
            asset.href = str((folder / asset.href).resolve())
    days = [
        moment
        for item in found
        for moment in (item.datetime, item.common_metadata.start_datetime, item.common_metadata.end_datetime)
        if moment is not None
    ]
    extent = pystac.Extent(
        pystac.SpatialExtent([[-180.0, -90.0, 180.0, 90.0]]),
        pystac.TemporalExtent([[min(days), max(days)]]),
    )
    catalog = pystac.Catalog("simulated", "A simulated archive of satellite scenes.")
    child = pystac.Collection(collection, "Simulated scenes.", extent, license=_LICENCE)
    catalog.add_child(child)
    child.add_items(found)
    catalog.normalize_hrefs(str(folder.resolve()))
    catalog.make_all_asset_hrefs_relative()
    catalog.save(pystac.CatalogType.SELF_CONTAINED)
