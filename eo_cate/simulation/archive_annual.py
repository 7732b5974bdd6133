"""Archives of annual embeddings: quantised tiles of many bands, one a year, laid out as AlphaEarth's and TESSERA's."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pystac
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from shapely.geometry import mapping

from eo_cate.errors import EoCateError
from eo_cate.simulation.archive_ground import Ground, GroundSource, load_ground
from eo_cate.simulation.archive_items import COG, outline_bbox, write_catalog
from eo_cate.simulation.archive_layout import Place, Swath, footprint, plane_crs, sentinel_places
from eo_cate.store import write_atomic
from eo_cate.types import Grid

EMBEDDING, SCALE = "embedding", "scale"
"""Asset keys."""
_NODATA = -128
_MIX_SEED = 64


@dataclass(frozen=True)
class AnnualSpec:
    """What an archive of annual embeddings holds.

    Parameters
    ----------
    collection : str
        Id of the collection.
    centre : (longitude, latitude)
        Middle of the square that the tiles cover.
    extent_m : float
        Side of that square.
    years : sequence of int
        One tile per place and year.
    bands : int
        Bands of a tile.
    scheme : {"alphaearth", "scaled"}
        How a vector v is stored as int8: sign(v) sqrt(|v|) x 127.5, v being of length 1; or v / s, with s, one number
        per pixel, in a second file of float32.
    interleave : {"pixel", "band"}
        Bands of a block together, or blocks of their own (PLANARCONFIG 1 or 2).
    compress : str
        GDAL's name of the codec.
    south_up : bool
        Whether rows run from south to north, as in AlphaEarth's files.
    tile_px, block_px : int
        Sides of a tile and of a block.
    masked_share : float
        Share of a tile's pixels, the darkest, that are masked in all bands.
    ground : {"auto", "sentinel2", "landscape"}
        As in `archive_ground.load_ground`.

    Raises
    ------
    EoCateError
        When a tile would hold nothing.
    """

    collection: str
    centre: tuple[float, float]
    extent_m: float
    years: Sequence[int]
    bands: int = 64
    scheme: Literal["alphaearth", "scaled"] = "alphaearth"
    interleave: Literal["pixel", "band"] = "pixel"
    compress: str = "deflate"
    south_up: bool = False
    tile_px: int = 512
    block_px: int = 128
    masked_share: float = 0.0
    ground: GroundSource = "auto"

    def __post_init__(self) -> None:
        if self.bands < 1 or not self.years or self.extent_m <= 0 or self.tile_px < self.block_px:
            raise EoCateError("annual embeddings have a band, a year and an extent or more, and a tile holds a block")

    @property
    def band_names(self) -> list[str]:
        """A00, A01 and so on."""
        return [f"A{number:02d}" for number in range(self.bands)]


def make_annual_archive(folder: Path, spec: AnnualSpec, *, seed: int) -> pystac.ItemCollection:
    """Write tiles, ``catalog.json`` and ``items.json``, as `archive.make_archive` does.

    A pixel's vector is a fixed random mixture of the ground's bands around it, with a drift by year and noise: places
    that look alike have vectors alike. The items state the year as a span, and no moment.

    Raises
    ------
    EoCateError
        When no tile touches the square.
    """
    folder = Path(folder)
    ground = load_ground(pixel_m=10, seed=seed, source=spec.ground)
    places = list(sentinel_places(spec.centre, spec.extent_m, spec.tile_px))
    items = [_write_tile(folder, spec, place, year, ground, seed) for year in spec.years for place in places]
    if not items:
        raise EoCateError("no tile touches the archive's square")
    collection = pystac.ItemCollection([pystac.Item.from_dict(item) for item in items])
    write_atomic(folder / "items.json", json.dumps(collection.to_dict()).encode())
    write_catalog(folder, spec.collection, items)
    return collection


def _write_tile(folder: Path, spec: AnnualSpec, place: Place, year: int, ground: Ground, seed: int) -> dict[str, Any]:
    """Write a tile's files and return its item."""
    name = f"{spec.collection}_{place.name}_{year}"
    target = folder / "scenes" / name
    target.mkdir(parents=True, exist_ok=True)
    vectors, masked = _draw_vectors(spec, place.grid, ground, [seed, year, int(place.name[:2])])
    stored, scale = _quantise(vectors, spec.scheme)
    stored[:, masked] = _NODATA
    _write(target / f"{EMBEDDING}.tif", stored, spec, place.grid, nodata=_NODATA)
    if scale is not None:
        scale[:, masked] = np.nan
        _write(target / f"{SCALE}.tif", scale, spec, place.grid, nodata=np.nan)
    return _item_json(spec, name, year, place, ground.told, scaled=scale is not None)


def _draw_vectors(
    spec: AnnualSpec, grid: Grid, ground: Ground, seed: list[int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Vectors of length 1, (band, y, x), and which pixels are masked."""
    rng, mix = np.random.default_rng(seed), np.random.default_rng(_MIX_SEED)
    a, _, west, _, e, north = grid.transform
    x, y = np.meshgrid(west + a * (np.arange(grid.shape[1]) + 0.5), north + e * (np.arange(grid.shape[0]) + 0.5))
    rows, columns = ground.indices(
        *Transformer.from_crs(grid.crs, plane_crs(spec.centre), always_xy=True).transform(x, y)
    )
    layers = np.stack([band[rows, columns] for band in ground.bands.values()])
    masked = ground.bands["nir"][rows, columns] < np.quantile(ground.bands["nir"][rows, columns], spec.masked_share)
    layers = np.concatenate([layers, np.abs(np.gradient(layers, axis=1)), np.abs(np.gradient(layers, axis=2))])
    layers = (layers - layers.mean(axis=(1, 2), keepdims=True)) / (layers.std(axis=(1, 2), keepdims=True) + 1e-9)
    weights = mix.normal(size=(spec.bands, len(layers))) + 0.05 * rng.normal(size=(spec.bands, len(layers)))
    vectors = np.tensordot(weights.astype(np.float32), layers.astype(np.float32), axes=1)
    vectors += np.float32(0.1) * rng.standard_normal(vectors.shape, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=0), masked


def _quantise(vectors: NDArray[np.float32], scheme: str) -> tuple[NDArray[np.int8], NDArray[np.float32] | None]:
    if scheme == "alphaearth":
        stored = np.sign(vectors) * np.sqrt(np.abs(vectors)) * 127.5
        return np.clip(np.rint(stored), -127, 127).astype(np.int8), None
    scale = (np.abs(vectors).max(axis=0) / 127).astype(np.float32)
    return np.clip(np.rint(vectors / scale), -127, 127).astype(np.int8), scale[None]


def _write(path: Path, pixels: NDArray[Any], spec: AnnualSpec, grid: Grid, *, nodata: float) -> None:
    a, b, c, d, e, f = grid.transform
    if spec.south_up:
        pixels, e, f = pixels[:, ::-1], -e, f + e * grid.shape[0]
    profile = {"dtype": pixels.dtype.name, "count": len(pixels), "height": grid.shape[0], "width": grid.shape[1]}
    layout = {"tiled": True, "blockxsize": spec.block_px, "blockysize": spec.block_px, "interleave": spec.interleave}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        crs=grid.crs,
        transform=rasterio.Affine(a, b, c, d, e, f),
        nodata=nodata,
        compress=spec.compress,
        predictor=2 if pixels.dtype.kind == "i" and spec.compress in ("deflate", "zstd", "lzw") else 1,
        **profile,
        **layout,
    ) as sink:
        sink.write(pixels)
        if len(pixels) == spec.bands:
            sink.descriptions = spec.band_names


def _item_json(spec: AnnualSpec, name: str, year: int, place: Place, told: str, *, scaled: bool) -> dict[str, Any]:
    outline = footprint(place, Swath(), spec.centre)
    assert outline is not None
    bands = [{"name": band, "data_type": "int8", "nodata": _NODATA} for band in spec.band_names]
    assets = {EMBEDDING: _asset_json(name, EMBEDDING, bands)}
    if scaled:
        assets[SCALE] = _asset_json(name, SCALE, [{"name": SCALE, "data_type": "float32"}])
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v2.0.0/schema.json"],
        "id": name,
        "collection": spec.collection,
        "geometry": mapping(outline),
        "bbox": outline_bbox(outline),
        "properties": {
            "datetime": None,
            "start_datetime": dt.datetime(year, 1, 1).isoformat() + "Z",
            "end_datetime": dt.datetime(year + 1, 1, 1).isoformat() + "Z",
            "description": f"Made-up embeddings; {told}.",
            "license": "CC0-1.0",
            "proj:code": place.grid.crs,
        },
        "links": [],
        "assets": assets,
    }


def _asset_json(scene: str, key: str, bands: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"href": f"scenes/{scene}/{key}.tif", "type": COG, "roles": ["data"], "bands": list(bands)}
