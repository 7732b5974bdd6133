"""The simulated archive has what real ones have, and its files tell the same as its items."""

import datetime as dt
import hashlib

import numpy as np
import pytest
import rasterio
import shapely
from pyproj import Transformer

from eo_cate.errors import EoCateError, TrialError
from eo_cate.imagery.stac import clear_pixels, find_scenes, walk_cells
from eo_cate.simulation.archive import ArchiveSpec, make_archive, rebase_items
from eo_cate.simulation.archive_ground import load_ground
from eo_cate.simulation.archive_layout import plane_crs
from eo_cate.simulation.archive_trial import simulate_units
from eo_cate.simulation.stac_server import serve_items
from eo_cate.simulation.village_trial import VillageDesign

DAYS = (dt.date(2000, 1, 5), dt.date(2003, 7, 1))
LANDSAT = ArchiveSpec(
    "landsat-c2-l2", (36.0, -1.4), 15_000, DAYS, "landsat-7", bands=("red", "nir08"), scene_px=600, ground="landscape"
)
SENTINEL = ArchiveSpec(
    "sentinel-2-l2a",
    (36.0, 1.4),
    6_000,
    (dt.date(2021, 1, 5), dt.date(2022, 7, 1)),
    "sentinel-2a",
    bands=("red", "swir16"),
    scene_px=540,
    ground="landscape",
)
DESIGN = VillageDesign(villages=12, households=(2, 4))


@pytest.fixture(scope="module", params=["landsat", "sentinel"])
def archive(request, tmp_path_factory):
    spec = {"landsat": LANDSAT, "sentinel": SENTINEL}[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    return spec, folder, make_archive(folder, spec, seed=1)


def scenes_of(archive, points=None, **options):
    spec, folder, _ = archive
    points = np.array([spec.centre]) if points is None else points
    asked = {"size_m": 300, "start": min(spec.dates), "end": max(spec.dates), "bands": spec.bands, **options}
    return find_scenes(str(folder / "catalog.json"), spec.collection, points, look=walk_cells, **asked).scenes


def test_files_are_cogs_on_the_sensors_own_grid(archive):
    spec, folder, items = archive
    for item in items:
        for key, asset in item.assets.items():
            with rasterio.open(folder / asset.href) as source:
                assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                assert source.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "2"
                assert source.block_shapes == [(512, 512)]
                assert source.compression.value == "DEFLATE"
                assert list(source.transform)[:6] == asset.extra_fields["proj:transform"][:6]
                assert list(source.shape) == asset.extra_fields["proj:shape"]
                assert source.crs == rasterio.CRS.from_string(item.properties["proj:code"])
                a, _, west, _, e, north = tuple(source.transform)[:6]
                if spec is LANDSAT:
                    assert (a, -e, west % 30, north % 30) == (30, 30, 15, 15)
                    assert source.crs.to_epsg() in (32636, 32637), "north zones south of the equator"
                else:
                    assert a == (20 if key in ("swir16", "scl") else 10)
                    assert (west % 60, north % 60) == (0, 0)
    assert len({item.properties["proj:code"] for item in items}) == 2


def test_items_tell_what_the_files_hold(archive):
    """Fill, cloud cover and footprint, counted from the pixels."""
    spec, folder, items = archive
    kind = "landsat_qa" if spec is LANDSAT else "sentinel2_scl"
    gaps = 0
    for item in items:
        with rasterio.open(folder / item.assets[spec.quality].href) as source:
            quality, transform = source.read(1), source.transform
        mask = clear_pixels(quality, kind)
        cloud = (quality & 8 != 0) if kind == "landsat_qa" else np.isin(quality, (9, 10))
        assert item.properties["eo:cloud_cover"] == pytest.approx(100 * cloud.sum() / mask.observed.sum(), abs=0.01)
        to_utm = Transformer.from_crs("EPSG:4326", item.properties["proj:code"], always_xy=True)
        outline = shapely.transform(
            shapely.geometry.shape(item.geometry), lambda xy, t=to_utm: np.column_stack(t.transform(*xy.T))
        )
        rows, cols = np.mgrid[: quality.shape[0], : quality.shape[1]]
        x, y = transform.c + transform.a * (cols + 0.5), transform.f + transform.e * (rows + 0.5)
        near_edge = shapely.buffer(outline.boundary, 2 * transform.a)
        sure = ~shapely.contains_xy(near_edge, x, y)
        inside = shapely.contains_xy(outline, x, y)
        if spec is LANDSAT and item.datetime.year == 2003:
            assert not (mask.observed & ~inside & sure).any()
            gaps += int((~mask.observed & inside & sure).sum())
            continue
        assert np.array_equal(mask.observed[sure], inside[sure])
        key = spec.bands[0]
        with rasterio.open(folder / item.assets[key].href) as source:
            stored = source.read(1)
        if stored.shape == quality.shape:
            assert np.array_equal(stored > 0, mask.observed)
    assert (gaps > 0) == (spec is LANDSAT), "Landsat 7 without its scan line corrector"


def test_scenes_of_all_zones_show_the_same_ground(archive):
    """Every pixel centre projected exactly onto the plane: a file laid half a pixel off its transform would not fit.

    Clear pixels are ground x gain + noise of sd .004. Few are otherwise, whence the median: those that the block's
    bilinear projection (off by .5 m of 30 m at most) moves to the next cell, and those at the edge of a shadow that
    the quality band of 20 m calls clear.
    """
    spec, folder, items = archive
    ground = load_ground(pixel_m=spec.pixel_m, seed=1, source="landscape")
    for item, scene in zip(items, sorted_by(items, scenes_of(archive, size_m=spec.extent_m)), strict=True):
        to_plane = Transformer.from_crs(item.properties["proj:code"], plane_crs(spec.centre), always_xy=True)
        with (
            rasterio.open(folder / item.assets["red"].href) as red,
            rasterio.open(folder / item.assets[spec.quality].href) as quality,
        ):
            rows, cols = np.mgrid[: red.height : 3, : red.width : 3]
            centres = to_plane.transform(
                red.transform.c + red.transform.a * (cols + 0.5), red.transform.f + red.transform.e * (rows + 0.5)
            )
            asset = scene.assets["red"]
            value = red.read(1)[rows, cols] * asset.scale + asset.offset
            step = round(quality.transform.a / red.transform.a)
            clear = clear_pixels(quality.read(1)[rows // step, cols // step], scene.mask_kind).clear & (
                red.read(1)[rows, cols] > 0
            )
        seen = ground.bands["red"][ground.indices(*centres)]
        gain = np.median(value[clear] / seen[clear])
        shifted = ground.bands["red"][ground.indices(centres[0] + 0.5 * spec.pixel_m, centres[1])]
        spread, spread_off = (np.median(np.abs(value[clear] - gain * g[clear])) / 0.6745 for g in (seen, shifted))
        assert 0.8 < gain < 1.2
        assert spread < 0.0044
        assert spread_off > 1.15 * spread, "half a pixel off would be seen"


def sorted_by(items, scenes):
    known = {scene.scene_id: scene for scene in scenes}
    return [known[item.id] for item in items]


def test_the_same_seed_gives_the_same_files(archive, tmp_path):
    spec, folder, _ = archive
    make_archive(tmp_path, spec, seed=1)

    def hashes(root):
        return {
            p.relative_to(root): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(root.rglob("*"))
            if p.is_file()
        }

    assert hashes(folder) == hashes(tmp_path)


def test_the_api_and_the_catalogue_find_the_same_scenes(archive):
    spec, folder, items = archive
    units = simulate_units(spec, seed=2, archive_seed=1, design=DESIGN, chip_m=900).units
    points = units[["lon", "lat"]].drop_duplicates().to_numpy()
    asked = {"size_m": 900, "start": min(spec.dates), "end": max(spec.dates), "bands": spec.bands}
    with serve_items(rebase_items(items, "http://127.0.0.1:9/data")) as api:
        served = find_scenes(api, spec.collection, points, page_size=4, **asked).scenes
    static = scenes_of(archive, points, size_m=900)
    assert [s.scene_id for s in served] == [s.scene_id for s in static]
    assert len(static) >= 4
    assert all(s.assets["red"].href.startswith("http://127.0.0.1:9/data/scenes/") for s in served)
    assert {(a.scale, a.offset) for s in served for a in s.assets.values()} == (
        {(2.75e-5, -0.2)} if spec is LANDSAT else {(1e-4, 0.0), (1e-4, -0.1)}
    )
    assert all((folder / "scenes" / s.scene_id / "red.tif").samefile(s.assets["red"].href) for s in static)


def test_an_archive_over_the_antimeridian(tmp_path):
    spec = ArchiveSpec(
        "landsat-c2-l2", (180.0, -16.5), 14_000, DAYS[:1], "landsat-8", bands=("red",), scene_px=300, ground="landscape"
    )
    items = make_archive(tmp_path, spec, seed=1)
    shapes = [shapely.geometry.shape(i.geometry) for i in items]
    assert {s.geom_type for s in shapes} == {"Polygon", "MultiPolygon"}
    assert {i.properties["proj:code"] for i in items} == {"EPSG:32601", "EPSG:32660"}
    assert all(s.area < 0.1 for s in shapes)
    units = simulate_units(spec, seed=1, archive_seed=1, design=DESIGN, chip_m=600).units
    assert set(np.sign(units["lon"])) == {-1.0, 1.0}
    with serve_items(rebase_items(items, "http://127.0.0.1:9")) as api:
        points = units[["lon", "lat"]].to_numpy()
        found = find_scenes(api, "landsat-c2-l2", points, size_m=600, start=DAYS[0], end=DAYS[0], bands=("red",)).scenes
    boxes = shapely.union_all([shapely.Point(p).buffer(0.003) for p in points])
    assert {s.scene_id for s in found} >= {
        i.id for i, s in zip(items, shapes, strict=True) if s.contains(boxes.centroid)
    }
    assert len(found) >= 4


def test_units_are_a_village_randomised_trial_inside_the_square():
    trial = simulate_units(LANDSAT, seed=3, archive_seed=1, design=DESIGN, chip_m=900, household_m=100)
    units = trial.units
    assert units["village"].nunique() == 12
    assert (units.groupby("village")["W"].nunique() == 1).all()
    assert (units.groupby("village")["tau"].nunique() == 1).all()
    assert not units[["lon", "lat"]].duplicated().any()
    to_plane = Transformer.from_crs("EPSG:4326", trial.grid.crs, always_xy=True)
    x, y = to_plane.transform(units["lon"].to_numpy(), units["lat"].to_numpy())
    assert max(np.abs(x).max(), np.abs(y).max()) + 450 * np.sqrt(2) <= LANDSAT.extent_m / 2
    centre = units.assign(x=x, y=y).groupby("village")[["x", "y"]]
    assert (centre.max() - centre.min()).to_numpy().max() <= 200
    assert units.groupby("village")["tau"].first().std(ddof=0) > 0.2
    again = simulate_units(LANDSAT, seed=3, archive_seed=1, design=DESIGN, chip_m=900, household_m=100)
    assert again.units.equals(units)


def test_what_cannot_be_is_refused():
    with pytest.raises(TrialError, match="holds no chip"):
        simulate_units(LANDSAT, seed=1, archive_seed=1, design=DESIGN, chip_m=20_000)
    with pytest.raises(EoCateError, match="bands among"):
        ArchiveSpec("landsat-c2-l2", (0, 0), 1000, DAYS, "landsat-7", bands=("mauve",))
