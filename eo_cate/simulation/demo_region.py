"""Districts over the demo's scene, and the true effect of all of its land: what extrapolation is checked against."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import Transformer
from scipy.ndimage import uniform_filter

from eo_cate.extrapolation.cells import map_cells
from eo_cate.extrapolation.raster import raster_from_cells, write_cog
from eo_cate.simulation.demo_trial import DEMO_BANDS, ROUGH_PERCENTILE, demo_cells
from eo_cate.simulation.landscape import gradient_size, normalised_difference
from eo_cate.simulation.scene import Scene, read_scene
from eo_cate.store import write_atomic
from eo_cate.types import FloatArray, Grid

NAMES = ("Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Gum", "Hazel", "Ivy", "Juniper")
TRUTH_PX = 4
LEAST_LAND = (0.5, 0.25)
"""Shares of land in the 32 px and the 128 px box from which a place has an effect. Villages need .9 and .5
(`demo_cells`): what lies between is coast, which the trial never draws from."""
_REGION_VERSION = 3
SURVEY_CLUSTERS, SURVEY_PEOPLE = 200, 8
SURVEY_MEANS = (0.5, -0.25)
"""Of x1 and x2 among the people surveyed; in the trial they are 0."""


def draw_districts(grid: Grid, *, seed: int = 3) -> gpd.GeoDataFrame:
    """Ten irregular districts (Voronoi cells of drawn points) in the middle of the scene; the last reaches beyond it.

    Index: none; columns id and geometry, in the scene's coordinate system.
    """
    a, _, c, _, e, f = grid.transform
    rows, columns = grid.shape
    outline = shapely.box(c + 0.12 * a * columns, f + 0.88 * e * rows, c + 1.06 * a * columns, f + 0.12 * e * rows)
    west, south, east, north = outline.bounds
    rng = np.random.default_rng(seed)
    points = shapely.MultiPoint(rng.uniform((west, south), (east, north), (len(NAMES), 2)))
    tiles = [shapely.intersection(tile, outline) for tile in shapely.voronoi_polygons(points, extend_to=outline).geoms]
    tiles.sort(key=lambda tile: (round(tile.centroid.x), round(tile.centroid.y)))
    return gpd.GeoDataFrame({"id": list(NAMES)}, geometry=tiles, crs=grid.crs)


def true_effects(scene: Scene) -> tuple[pd.DataFrame, FloatArray]:
    """Places every 40 m (columns row, col) and the demo's true effect there; NaN where there is less than `LEAST_LAND`.

    The definition is that of `demo_cells`: the same boxes, standardised by the mean and spread of the demo's cells.
    """
    own = demo_cells(scene)
    b03, b08, b11 = (scene.bands[band].astype(np.float64) for band in ("B03", "B08", "B11"))
    land = normalised_difference(scene.bands["B03"], scene.bands["B08"]) < 0
    steep = gradient_size(scene.bands["B08"])
    rough = (steep > np.percentile(steep[land], ROUGH_PERCENTILE)).astype(np.float64)
    del b03, b08
    fields = {"near": (land.astype(np.float64), 32), "around": (land.astype(np.float64), 128)}
    fields |= {"steep": (gradient_size(b11.astype(np.float32)).astype(np.float64), 16)}
    fields |= {"rough": (rough, 128), "rough_near": (rough, 32)}
    places = map_cells(scene.grid, spacing_px=TRUTH_PX, margin_px=64)
    row, col = places["row"].to_numpy(), places["col"].to_numpy()
    # Of an even size, the filter's box at (row, col) holds rows row - s/2 to row + s/2 - 1: `box_means`' own.
    found = {name: uniform_filter(field, size)[row, col] for name, (field, size) in fields.items()}
    local = np.log(found["steep"])
    context = (found["rough"] * 128**2 - found["rough_near"] * 32**2) / (128**2 - 32**2)
    z = [(v - own[name].mean()) / own[name].std(ddof=0) for v, name in ((local, "local"), (context, "context"))]
    has_land = (found["near"] >= LEAST_LAND[0]) & (found["around"] > LEAST_LAND[1])
    return places, np.where(has_land, 0.30 + 0.35 * z[0] + 0.35 * z[1], np.nan)


def prepare_region(folder: Path, *, seed: int = 3) -> None:
    """Add the districts, the true effect and a survey to a folder that `prepare_demo` filled; done once.

    Written are ``districts.geojson``, ``true_effect.tif`` and ``people.csv``.
    """
    folder = Path(folder)
    record = folder / "region.json"
    wanted = json.dumps({"version": _REGION_VERSION, "seed": seed})
    files = [folder / name for name in ("districts.geojson", "true_effect.tif", "people.csv")]
    if record.exists() and record.read_text(encoding="utf-8") == wanted and all(path.exists() for path in files):
        return
    scene = read_scene({band: folder / "scene" / f"s2_{band}.jp2" for band in DEMO_BANDS})
    districts = draw_districts(scene.grid, seed=seed)
    write_districts(districts, files[0])
    places, tau = true_effects(scene)
    layer = raster_from_cells({"tau": tau.astype(np.float32)}, places, scene.grid, spacing_px=TRUTH_PX)
    write_cog(layer, files[1])
    people = draw_survey(places, tau, scene.grid, districts, seed=seed)
    write_atomic(files[2], people.to_csv(index=False, float_format="%.6f").encode())
    write_atomic(record, wanted.encode())


def draw_survey(
    places: pd.DataFrame, tau: FloatArray, grid: Grid, districts: gpd.GeoDataFrame, *, seed: int
) -> pd.DataFrame:
    """A survey of the districts: clusters at places with an effect, people whose x1 and x2 are not the trial's.

    Columns person, cluster, lon, lat, weight, x1, x2 and tau (the true effect, which no covariate moves). A cluster
    stands for a number of people that is drawn, its weight.
    """
    rng = np.random.default_rng(seed + 1_000)
    a, _, c, _, e, f = grid.transform
    x, y = c + a * places["col"].to_numpy(), f + e * places["row"].to_numpy()
    inside = np.isfinite(tau) & shapely.contains_xy(shapely.union_all(districts.geometry.to_numpy()), x, y)
    chosen = np.repeat(rng.choice(np.flatnonzero(inside), SURVEY_CLUSTERS, replace=False), SURVEY_PEOPLE)
    lon, lat = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(x[chosen], y[chosen])
    n = len(chosen)
    return pd.DataFrame(
        {
            "person": np.arange(1, n + 1),
            "cluster": np.repeat(np.arange(1, SURVEY_CLUSTERS + 1), SURVEY_PEOPLE),
            "lon": lon,
            "lat": lat,
            "weight": np.repeat(rng.integers(1, 6, SURVEY_CLUSTERS), SURVEY_PEOPLE),
            "x1": SURVEY_MEANS[0] + rng.normal(size=n),
            "x2": SURVEY_MEANS[1] + rng.normal(size=n),
            "tau": tau[chosen],
        }
    )


def write_districts(districts: gpd.GeoDataFrame, path: Path) -> None:
    """Write polygons as GeoJSON (degrees, EPSG:4326)."""
    to_degrees = Transformer.from_crs(districts.crs, "EPSG:4326", always_xy=True)
    geometry = shapely.transform(
        districts.geometry.to_numpy(), lambda xy: np.column_stack(to_degrees.transform(xy[:, 0], xy[:, 1]))
    )
    written = gpd.GeoDataFrame({"id": districts["id"]}, geometry=geometry, crs="EPSG:4326")
    write_atomic(path, written.to_json(drop_id=True).encode())
