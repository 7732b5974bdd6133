"""Archives of satellite scenes of any size: several dates, UTM zones, clouds, collars; as real as a test needs.

Files are COGs with a static STAC catalogue beside them; `stac_server.serve_items` makes an API of them.
"""

from __future__ import annotations

import copy
import datetime as dt
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pystac
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from eo_cate.errors import EoCateError
from eo_cate.simulation.archive_ground import Ground, GroundSource, Weather, draw_weather, load_ground
from eo_cate.simulation.archive_items import item_json, write_catalog
from eo_cate.simulation.archive_layout import (
    ACROSS,
    ALONG,
    Place,
    Swath,
    footprint,
    landsat_places,
    plane_crs,
    sentinel_places,
    slc_is_off,
)
from eo_cate.simulation.archive_quality import CLOUD, FILL, THIN, quality_band, sky_states
from eo_cate.store import write_atomic
from eo_cate.types import FloatArray, Grid

_BLOCK = 512
_COARSE = ("nir08", "swir16", "swir22")
_KEYS = {"landsat-c2-l2": "qa_pixel", "sentinel-2-l2a": "scl"}


@dataclass(frozen=True)
class ArchiveSpec:
    """What an archive holds.

    Parameters
    ----------
    collection : {"landsat-c2-l2", "sentinel-2-l2a"}
        Decides bands' scale, quality band, grids and the way scenes overlap.
    centre : (longitude, latitude)
        Middle of the square that the scenes cover.
    extent_m : float
        Side of that square.
    dates : sequence of date
        Every scene is there on every date (Sentinel-2: unless the swath misses it).
    platform : str
        ``landsat-4`` to ``landsat-9``, ``sentinel-2a`` ... decides what the quality band knows, and Landsat 7's gaps.
    bands : sequence of str
        Common names.
    scene_px : int
        Side of a scene in pixels of its finest bands (Landsat: along the track; in the file it lies slanted).
    cloud_share : float
        Mean share of clouds; dates vary between none and all.
    ground : {"auto", "sentinel2", "landscape"}
        As in `archive_ground.load_ground`.

    Raises
    ------
    EoCateError
        When something is not one of these.
    """

    collection: Literal["landsat-c2-l2", "sentinel-2-l2a"]
    centre: tuple[float, float]
    extent_m: float
    dates: Sequence[dt.date]
    platform: str
    bands: Sequence[str] = ("blue", "green", "red", "nir08", "swir16", "swir22")
    scene_px: int = 2048
    cloud_share: float = 0.3
    ground: GroundSource = "auto"

    def __post_init__(self) -> None:
        known = {"blue", "green", "red", "nir", "nir08", "swir16", "swir22"}
        if self.collection not in _KEYS or set(self.bands) - known or not self.bands or not self.dates:
            raise EoCateError(f"an archive holds {list(_KEYS)}, bands among {sorted(known)} and at least one date")
        if not 0 <= self.cloud_share <= 1 or self.scene_px < 64 or self.extent_m <= 0:
            raise EoCateError("an archive's clouds are a share, its scenes have 64 px or more, its extent is positive")

    @property
    def pixel_m(self) -> Literal[10, 30]:
        """Side of a pixel of the finest bands."""
        return 30 if self.collection == "landsat-c2-l2" else 10

    @property
    def quality(self) -> str:
        """Asset key of the quality band."""
        return _KEYS[self.collection]


@dataclass(frozen=True)
class _Take:
    """One scene on one date: all that its pixels depend on."""

    name: str
    number: int
    day: dt.date
    place: Place
    swath: Swath
    weather: Weather
    outline: BaseGeometry


def make_archive(folder: Path, spec: ArchiveSpec, *, seed: int) -> pystac.ItemCollection:
    """Write scenes, ``catalog.json`` (static, relative links) and ``items.json``.

    Blocks of 512 px are made and written one by one: memory does not grow with the scenes. Blocks without a pixel are
    left out of the files (sparse). The same seed gives the same pixels.

    Parameters
    ----------
    folder : Path
        Created when absent.
    spec : ArchiveSpec
        What to write.
    seed : int
        Of the clouds, the swaths and the noise.

    Returns
    -------
    ItemCollection
        With links relative to ``folder`` (``scenes/ID/KEY.tif``): give them an address with `rebase_items`.

    Raises
    ------
    EoCateError
        When no scene has a pixel.
    """
    folder = Path(folder)
    ground = load_ground(pixel_m=spec.pixel_m, seed=seed, source=spec.ground)
    items = [_write_scene(folder, spec, take, ground, seed) for take in _plan(spec, seed)]
    if not items:
        raise EoCateError("the archive has no scene: its swaths missed every tile; take more dates or another seed")
    collection = pystac.ItemCollection([pystac.Item.from_dict(item) for item in items])
    write_atomic(folder / "items.json", json.dumps(collection.to_dict()).encode())
    write_catalog(folder, spec.collection, items)
    return collection


def rebase_items(items: pystac.ItemCollection, address: str) -> dict[str, Any]:
    """The items as JSON, with links below an address (or a folder) in place of relative ones."""
    content = copy.deepcopy(items.to_dict())
    for item in content["features"]:
        for asset in item["assets"].values():
            asset["href"] = f"{address.rstrip('/')}/{asset['href']}"
    return dict(content)


def _plan(spec: ArchiveSpec, seed: int) -> Iterator[_Take]:
    lay = landsat_places if spec.pixel_m == 30 else sentinel_places
    places = list(lay(spec.centre, spec.extent_m, spec.scene_px))
    side = spec.scene_px * spec.pixel_m
    number = 0
    for i, day in enumerate(sorted(spec.dates)):
        rng = np.random.default_rng([seed, 1, i])
        weather = draw_weather(
            rng,
            reach_m=spec.extent_m / 2 + side,
            cloud_m=side / 12,
            share=float(rng.beta(2 * spec.cloud_share, 2 * (1 - spec.cloud_share)))
            if 0 < spec.cloud_share < 1
            else spec.cloud_share,
            thin_share=0.03 if spec.platform in ("landsat-8", "landsat-9") or spec.pixel_m == 10 else 0.0,
        )
        swath = Swath()
        if spec.pixel_m == 10 and rng.uniform() < 0.3:
            swath = Swath(float(rng.uniform(-0.3, 0.3) * spec.extent_m), int(rng.choice([-1, 1])))
        for place in places:
            outline = footprint(place, swath, spec.centre)
            if outline is not None:
                yield _Take(_name(spec, place, day), number, day, place, swath, weather, outline)
                number += 1


def _name(spec: ArchiveSpec, place: Place, day: dt.date) -> str:
    sensor = {"landsat-7": "LE07", "landsat-8": "LC08", "landsat-9": "LC09"}.get(
        spec.platform, f"LT0{spec.platform[-1]}"
    )
    if spec.pixel_m == 30:
        return f"{sensor}_L2SP_{place.name}_{day:%Y%m%d}_02_T1"
    return f"S2{spec.platform[-1].upper()}_{place.name}_{day:%Y%m%d}_0_L2A"


def _write_scene(folder: Path, spec: ArchiveSpec, take: _Take, ground: Ground, seed: int) -> dict[str, Any]:
    """Write a scene's files and return its item."""
    target = folder / "scenes" / take.name
    target.mkdir(parents=True, exist_ok=True)
    coarse = _coarser(take.place.grid)
    layout = {key: take.place.grid for key in (*spec.bands, spec.quality)}
    if spec.pixel_m == 10:
        layout.update({key: coarse for key in (*_COARSE, spec.quality) if key in layout})
    counts = np.zeros(256, dtype=np.int64)
    for grid in dict.fromkeys(layout.values()):
        keys = [key for key, own in layout.items() if own == grid]
        counts += _write_files(target, spec, take, ground, grid, keys, seed)
    seen = counts.sum() - counts[FILL]
    cloud = 100 * float(counts[CLOUD] + counts[THIN]) / max(int(seen), 1)
    return item_json(
        spec.collection,
        take.name,
        take.day,
        platform=spec.platform,
        tile=take.place.name,
        outline=take.outline,
        grids=layout,
        quality=spec.quality,
        cloud_cover=cloud,
        offset_dn=_offset_dn(spec, take.day),
        told=ground.told,
    )


def _coarser(grid: Grid) -> Grid:
    a, b, c, d, e, f = grid.transform
    return Grid(grid.crs, (2 * a, b, c, d, 2 * e, f), (-(-grid.shape[0] // 2), -(-grid.shape[1] // 2)))


def _write_files(
    target: Path, spec: ArchiveSpec, take: _Take, ground: Ground, grid: Grid, keys: list[str], seed: int
) -> NDArray[np.int64]:
    """Write the files of one grid block by block; counts the states of the sky where the quality band is among them."""
    counts = np.zeros(256, dtype=np.int64)
    to_plane = Transformer.from_crs(grid.crs, plane_crs(spec.centre), always_xy=True)
    gains = np.random.default_rng([seed, 2, int(f"{take.day:%Y%m%d}")]).normal(1, 0.04, 16)
    drafts = {key: target / f".{key}.draft.tif" for key in keys}
    with ExitStack() as stack:
        sinks = {key: stack.enter_context(_open_draft(path, grid, key == "scl")) for key, path in drafts.items()}
        for window in _windows(grid.shape):
            x, y = _plane_of(window, grid, to_plane)
            states = sky_states(x, y, _inside(take, spec, x, y), take.weather)
            rows, columns = ground.indices(x, y)
            water = ground.water[rows, columns]
            for key, sink in sinks.items():
                if key == spec.quality:
                    pixels = quality_band(states, water, spec.collection, spec.platform)
                    counts += np.bincount(states.state.ravel(), minlength=256)
                elif (states.state == FILL).all():
                    continue
                else:
                    band = list(spec.bands).index(key)
                    block = [seed, 3, take.number, band, int(window.row_off), int(window.col_off)]
                    noise = np.random.default_rng(block).standard_normal(x.shape, dtype=np.float32)
                    seen = ground.bands[key][rows, columns] * np.float32(gains[band]) + np.float32(0.004) * noise
                    pixels = _to_dn(states.cover(seen), states.state, spec, take.day)
                sink.write(pixels, 1, window=window)
    for key, draft in drafts.items():
        _finish(draft, target / f"{key}.tif")
    return counts


def _open_draft(path: Path, grid: Grid, small: bool) -> Any:
    return rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=grid.shape[0],
        width=grid.shape[1],
        dtype="uint8" if small else "uint16",
        crs=grid.crs,
        transform=rasterio.Affine(*grid.transform),
        nodata=1 if path.name.startswith(".qa_pixel") else 0,
        tiled=True,
        blockxsize=_BLOCK,
        blockysize=_BLOCK,
        sparse_ok=True,
    )


def _finish(draft: Path, path: Path) -> None:
    rasterio.shutil.copy(
        draft,
        path,
        driver="COG",
        compress="deflate",
        predictor="2",
        blocksize=str(_BLOCK),
        overview_resampling="nearest",
        sparse_ok="TRUE",
        num_threads="1",
    )
    draft.unlink()


def _windows(shape: tuple[int, int]) -> Iterator[Window]:
    for row in range(0, shape[0], _BLOCK):
        for col in range(0, shape[1], _BLOCK):
            yield Window(col, row, min(_BLOCK, shape[1] - col), min(_BLOCK, shape[0] - row))


def _plane_of(window: Window, grid: Grid, to_plane: Transformer) -> tuple[FloatArray, FloatArray]:
    """Places of a block's pixel centres on the plane: its corners projected, the rest bilinear between them.

    Within 200 km of the archive's centre that is right to .5 m at 30 m, .05 m at 10 m.
    """
    a, _, west, _, e, north = grid.transform
    row0, col0 = window.row_off + 0.5, window.col_off + 0.5
    down = np.linspace(0, 1, int(window.height))[:, None]
    right = np.linspace(0, 1, int(window.width))[None, :]
    rows, cols = row0 + np.array([0, window.height - 1]), col0 + np.array([0, window.width - 1])
    corners = to_plane.transform(*np.meshgrid(west + a * cols, north + e * rows))
    x, y = (
        (v[0, 0] * (1 - right) + v[0, 1] * right) * (1 - down) + (v[1, 0] * (1 - right) + v[1, 1] * right) * down
        for v in corners
    )
    return x, y


def _inside(take: _Take, spec: ArchiveSpec, x: FloatArray, y: FloatArray) -> NDArray[np.bool_]:
    """Where the scene has pixels: within its outline, and not in Landsat 7's gaps."""
    place = take.place
    inside = take.swath.holds(x, y)
    if not place.half_m:
        return inside
    dx, dy = x - place.centre[0], y - place.centre[1]
    along, across = ALONG[0] * dx + ALONG[1] * dy, ACROSS[0] * dx + ACROSS[1] * dy
    inside &= (np.abs(along) <= place.half_m) & (np.abs(across) <= place.half_m)
    if slc_is_off(spec.platform, take.day):
        # 33 lines a scan; up to 14 of them are lost at the scene's edges, none in the middle
        inside &= np.mod(along, 33 * 30.0) >= 14 * 30.0 * np.abs(across) / place.half_m
    return inside


def _offset_dn(spec: ArchiveSpec, day: dt.date) -> int:
    """Sentinel-2's offset in stored numbers."""
    return 1000 if spec.pixel_m == 10 and day >= dt.date(2022, 1, 25) else 0


def _to_dn(
    reflectance: NDArray[np.float32], state: NDArray[np.uint8], spec: ArchiveSpec, day: dt.date
) -> NDArray[np.uint16]:
    scale, offset = (2.75e-5, 0.2) if spec.pixel_m == 30 else (1e-4, _offset_dn(spec, day) * 1e-4)
    stored = (reflectance + np.float32(offset)) / np.float32(scale)
    return np.where(state == FILL, 0, np.clip(np.rint(stored), 1, 65_535)).astype(np.uint16)
