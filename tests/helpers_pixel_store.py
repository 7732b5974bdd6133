"""Small archives of dated, cloudy scenes as tiled GeoTIFFs, and an independent composite of them."""

import datetime as dt
import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from eo_cate.imagery.local_blocks import LocalBlocks
from eo_cate.imagery.pixel_store import FetchResult, PixelStoreReader, fetch_pixels
from eo_cate.imagery.pixel_store.zones import PixelGrid
from eo_cate.imagery.scenes import Asset, Block, ReadFailure, Scene

BANDS = ("red", "nir")
SCALE, OFFSET = 2.75e-05, -0.2
CLEAR, CLOUD, FILL = 21824, 22280, 1
SOURCE = "test"
LANDSAT = PixelGrid(30.0, 15.0, 15.0)


def write_scene(
    folder: Path,
    name: str,
    *,
    day: int = 1,
    crs: str = "EPSG:32636",
    west: float = 499_995,
    north: float = 100_005,
    shape: tuple[int, int] = (600, 700),
    resolution: float = 30,
    cloud: float = 0.3,
    block: int = 128,
    seed: int = 0,
    gap: tuple[slice, slice] | None = None,
) -> Scene:
    """Write two bands and QA_PIXEL of random numbers; ``gap``: where the sensor saw nothing."""
    rng = np.random.default_rng([seed, day])
    cloudy = np.kron(rng.random((-(-shape[0] // 20), -(-shape[1] // 20))) < cloud, np.ones((20, 20), dtype=bool))
    quality = np.where(cloudy[: shape[0], : shape[1]], CLOUD, CLEAR).astype(np.uint16)
    layers = {band: rng.integers(1, 60_000, shape).astype(np.uint16) for band in BANDS}
    if gap:
        quality[gap] = FILL
        for layer in layers.values():
            layer[gap] = 0
    files = {}
    for key, layer, nodata in [*((b, layers[b], 0) for b in BANDS), ("qa", quality, FILL)]:
        files[key] = folder / f"{name}_{key}.tif"
        profile: dict[str, Any] = {"driver": "GTiff", "count": 1, "height": shape[0], "width": shape[1], "crs": crs}
        profile |= {"transform": from_origin(west, north, resolution, resolution), "dtype": "uint16", "nodata": nodata}
        profile |= {"tiled": True, "blockxsize": block, "blockysize": block, "compress": "deflate"}
        with rasterio.open(files[key], "w", **profile) as target:
            target.write(layer, 1)
    box = shapely.segmentize(
        shapely.box(west, north - shape[0] * resolution, west + shape[1] * resolution, north), 5000
    )
    to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    footprint = shapely.transform(box, lambda xy: np.stack(to_degrees.transform(xy[:, 0], xy[:, 1]), axis=-1))
    return Scene(
        scene_id=name,
        collection="test-l2",
        acquired=dt.datetime(2000, 1, day, tzinfo=dt.UTC),
        footprint=footprint,
        assets={band: Asset(str(files[band]), SCALE, OFFSET) for band in BANDS},
        mask=Asset(str(files["qa"])),
        mask_kind="landsat_qa",
        crs=crs,
    )


def sites_at(points: Sequence[tuple[float, float]], crs: str = "EPSG:32636") -> gpd.GeoDataFrame:
    """Sites at projected coordinates."""
    longitude, latitude = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(*np.array(points).T)
    return gpd.GeoDataFrame(
        geometry=gpd.points_from_xy(longitude, latitude, crs="EPSG:4326"), index=[f"s{i}" for i in range(len(points))]
    )


def composite_at(scenes: Sequence[Scene], x: float, y: float, size: int) -> np.ndarray:
    """The chip (band, y, x) by definition: rasterio's windows of every scene, numpy's nanmedian."""
    dates = []
    for scene in scenes:
        layers = []
        for asset in [*(scene.assets[band] for band in BANDS), scene.mask]:
            assert asset is not None
            with rasterio.open(asset.href) as source:
                column, row = ~source.transform @ (x, y)
                corner = np.floor(column + 0.5 + 1e-6) - size // 2, np.floor(row + 0.5 + 1e-6) - size // 2
                window = Window(*corner, size, size)
                layers.append(source.read(1, window=window, boundless=True, fill_value=source.nodata))
        clear = (layers[-1] == CLEAR) & (layers[0] != 0) & (layers[1] != 0)
        values = np.stack([layer.astype(np.float32) * np.float32(SCALE) + np.float32(OFFSET) for layer in layers[:-1]])
        dates.append(np.where(clear, values, np.float32(np.nan)))
    return quiet_median(np.stack(dates), axis=0)


def warp_chip(scenes, site: gpd.GeoDataFrame, zone: int, size: int) -> np.ndarray:
    """The composite through rasterio's WarpedVRT on the zone's grid.

    XSCALE: GDAL otherwise guesses the ratio of pixels from the rounded size of its window, and blurs small windows.
    """
    grid = LANDSAT.zone(zone)
    _, _, west, _, _, north = grid.transform
    x, y = Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True).transform(
        site.geometry.x.iloc[0], site.geometry.y.iloc[0]
    )
    column, row = np.floor((x - west) / 30 + 0.5), np.floor((north - y) / 30 + 0.5)
    transform = rasterio.Affine(30, 0, west + 30 * (column - size // 2), 0, -30, north - 30 * (row - size // 2))
    place = {
        "crs": grid.crs,
        "transform": transform,
        "width": size,
        "height": size,
        "tolerance": 0.001,
        "XSCALE": 1,
        "YSCALE": 1,
    }
    dates = []
    for scene in scenes:
        layers = []
        for band in BANDS:
            with (
                rasterio.open(scene.assets[band].href) as source,
                WarpedVRT(source, resampling=Resampling.bilinear, dtype="float32", nodata=np.nan, **place) as warped,
            ):
                layers.append(warped.read(1) * np.float32(SCALE) + np.float32(OFFSET))
        with rasterio.open(scene.mask.href) as source, WarpedVRT(source, resampling=Resampling.nearest, **place) as qa:
            clear = qa.read(1) == CLEAR
        dates.append(np.where(clear, np.stack(layers), np.float32(np.nan)))
    return quiet_median(np.stack(dates), axis=0)


def quiet_median(stack: np.ndarray, axis: int) -> np.ndarray:
    """numpy.nanmedian without its warning of pixels that have no value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmedian(stack, axis=axis)


class BrokenBlocks(LocalBlocks):
    """Blocks of a file whose name contains ``word`` cannot be read, nor its header when ``header``."""

    def __init__(self, root: Path, word: str, blocks: Sequence[Block] | None = None, *, header: bool = False) -> None:
        super().__init__(root)
        self.word, self.blocks, self.header = word, blocks, header
        self.asked: list[tuple[str, Block]] = []

    async def open(self, href: str) -> Any:
        return ReadFailure("503 after 5 tries") if self.header and self.word in href else await super().open(href)

    async def read_blocks(self, href: str, blocks: Sequence[Block]) -> Any:
        self.asked += [(href, block) for block in blocks]
        found = await super().read_blocks(href, blocks)
        hit = [block for block in blocks if self.word in href and (self.blocks is None or block in self.blocks)]
        return {**found, **dict.fromkeys(hit, ReadFailure("503 after 5 tries"))}


def fetch(
    scenes: Sequence[Scene], sites: gpd.GeoDataFrame, folder: Path, *, size_px: int = 64, **options: Any
) -> FetchResult:
    """Fetch one period from files in ``folder`` into ``folder/store``."""
    options = {"block_source": LocalBlocks(folder), "folder": folder / "store", "source": SOURCE, **options}
    return fetch_pixels({"before": scenes}, sites, bands=BANDS, size_px=size_px, progress=False, **options)


def open_reader(sites: gpd.GeoDataFrame, folder: Path, *, size_px: int = 64, **options: Any) -> PixelStoreReader:
    return PixelStoreReader(folder / "store", SOURCE, "before", sites, size_px=size_px, **options)


def hash_files(folder: Path) -> dict[str, str]:
    """sha256 of every file of a store."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
