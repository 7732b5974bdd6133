"""Small archives of annual embeddings, their scenes, and what a chip of theirs is by rasterio and numpy alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pystac
import rasterio
from helpers_pixel_store import sites_at
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from eo_cate.imagery.pixel_store import FetchResult, PixelStoreReader, fetch_pixels
from eo_cate.imagery.scenes import BlockSource, Scene
from eo_cate.imagery.stac.items import read_item
from eo_cate.simulation.archive import rebase_items
from eo_cate.simulation.archive_annual import AnnualSpec, make_annual_archive

CENTRE = (33.0, 2.5)
EAST, NORTH = 500_000.0, 276_350.0
"""The centre in EPSG:32636, about."""
FEW = {"bands": 6, "tile_px": 192, "block_px": 64, "ground": "landscape"}


def make_annual(folder: Path, *, seed: int = 1, **changes: Any) -> AnnualSpec:
    """An archive of tiles of 1.9 km in ``folder``."""
    options = {"collection": "annual", "centre": CENTRE, "extent_m": 3_000.0, "years": [2018], **FEW, **changes}
    spec = AnnualSpec(**options)
    make_annual_archive(folder, spec, seed=seed)
    return spec


def band_names(spec: AnnualSpec) -> tuple[str, ...]:
    names = tuple(f"embedding:{name}" for name in spec.band_names)
    return (*names, "scale") if spec.scheme == "scaled" else names


def read_scenes(folder: Path, bands: tuple[str, ...], address: str | None = None) -> list[Scene]:
    """The scenes of an archive, by date and id; links are files, or below an address."""
    items = rebase_items(pystac.ItemCollection.from_file(str(folder / "items.json")), address or str(folder.resolve()))
    found = [read_item(item, bands, base=address or str(folder / "items.json")) for item in items["features"]]
    assert not [read for read in found if isinstance(read, str)], found
    return sorted((read.scene for read in found), key=lambda scene: (scene.acquired, scene.scene_id))


def places_around(offsets: list[tuple[float, float]]) -> Any:
    """Sites at metres east and north of the archive's centre."""
    return sites_at([(EAST + x, NORTH + y) for x, y in offsets])


def fetch_annual(
    scenes: list[Scene], sites: Any, folder: Path, bands: tuple[str, ...], source: BlockSource, **options: Any
) -> tuple[FetchResult, PixelStoreReader]:
    """Fetch one period, newest scenes whole unless told otherwise, and open it."""
    size_px = options.pop("size_px", 32)
    result = fetch_pixels(
        {"before": scenes},
        sites,
        **{"reduction": "newest", **options},
        bands=bands,
        size_px=size_px,
        folder=folder,
        source="annual",
        block_source=source,
        progress=False,
    )
    return result, PixelStoreReader(folder, "annual", "before", sites, size_px=size_px, failed="missing")


def newest_chip(files: list[list[Path]], reader: PixelStoreReader, site: str, size: int) -> np.ndarray:
    """The chip (band, y, x) by definition: rasterio's windows of each scene's files, the last scene's vectors first."""
    a, _, west, _, e, north = reader.grid.transform
    row, col = reader.places.loc[site, ["row", "col"]]
    x, y = west + a * (col - size // 2), north + e * (row - size // 2)
    found = np.full((len(reader.bands), size, size), np.nan, dtype=np.float32)
    for scene in reversed(files):
        layers = [read_north_up(path, x, y, size) for path in scene]
        values = np.concatenate(layers)
        whole = np.isfinite(values).all(axis=0) & np.isnan(found).all(axis=0)
        found[:, whole] = values[:, whole]
    return found


def read_north_up(path: Path, x: float, y: float, size: int) -> np.ndarray:
    """A window of a file of the same pixels, (band, y, x) float32, NaN where masked or outside; rows may run up."""
    with rasterio.open(path) as source:
        pixels, nodata, place = source.read(), source.nodata, source.transform
        left, top = source.bounds.left, max(source.bounds.top, source.bounds.bottom)
        if place.e > 0:
            pixels = pixels[:, ::-1]
    padded = np.pad(
        np.where(pixels == nodata, np.float32(np.nan), pixels.astype(np.float32)),
        ((0, 0), (size, size), (size, size)),
        constant_values=np.nan,
    )
    row, column = round((top - y) / abs(place.e)) + size, round((x - left) / place.a) + size
    inside = 0 <= row <= padded.shape[1] - size and 0 <= column <= padded.shape[2] - size
    nothing = np.full((len(padded), size, size), np.nan, dtype=np.float32)
    return padded[:, row : row + size, column : column + size] if inside else nothing


def warp_nearest(path: Path, grid: Any) -> np.ndarray:
    """A file on another grid by GDAL's nearest pixel, (band, y, x) in its type."""
    with (
        rasterio.open(path) as source,
        WarpedVRT(
            source,
            crs=grid.crs,
            transform=rasterio.Affine(*grid.transform),
            width=grid.shape[1],
            height=grid.shape[0],
            resampling=Resampling.nearest,
            tolerance=0,
        ) as warped,
    ):
        return np.asarray(warped.read())
