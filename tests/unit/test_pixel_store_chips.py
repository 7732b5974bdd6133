import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import xarray as xr
from helpers_pixel_store import (
    BANDS,
    OFFSET,
    SCALE,
    composite_at,
    fetch,
    open_reader,
    quiet_median,
    sites_at,
    write_scene,
)
from pyproj import Transformer

from eo_cate.errors import ImageryError, StoreError
from eo_cate.imagery.pixel_store.composite import nan_median
from eo_cate.imagery.pixel_store.zones import PixelGrid, find_zones, hilbert_order
from eo_cate.types import ChipReader

LANDSAT = PixelGrid(30.0, 15.0, 15.0)


def corner_of_shards() -> tuple[float, float]:
    """The corner that four shards of zone 36 share, near the scenes of the helpers."""
    _, _, west, _, _, north = LANDSAT.zone(36).transform
    column, row = round((508_000 - west) / 30 / 1024), round((north - 90_000) / 30 / 1024)
    return west + 30 * 1024 * column, north - 30 * 1024 * row


@pytest.mark.parametrize("scenes", [0, 1, 2, 3, 6, 29, 30])
def test_median_is_numpys_bit_for_bit(scenes):
    rng = np.random.default_rng(scenes)
    stack = rng.normal(size=(scenes, 3, 17, 33)).astype(np.float32)
    stack[rng.random(stack.shape) < 0.4] = np.nan
    stack[:, :, :2] = np.nan
    expected = quiet_median(stack, 0) if scenes else np.full(stack.shape[1:], np.nan, dtype=np.float32)
    assert nan_median(stack).tobytes() == np.ascontiguousarray(expected, dtype=np.float32).tobytes()


def test_hilbert_order_visits_every_cell_once_and_steps_to_neighbours():
    cells = sorted(((36, y, x) for y in range(16) for x in range(16)), key=hilbert_order)
    assert len({hilbert_order(cell) for cell in cells}) == 256
    steps = [abs(a[1] - b[1]) + abs(a[2] - b[2]) for a, b in itertools.pairwise(cells)]
    assert steps == [1] * 255


def test_zones_of_points():
    longitude, latitude = np.array([-180, 179.9, 180, 33, 0, 10, np.nan]), np.array([0, 0, 0, 2, 84.1, -85, 0])
    assert find_zones(longitude, latitude).tolist() == [1, 60, 1, 36, 0, 0, 0]


def test_chips_are_rasterios_windows_and_numpys_median(tmp_path):
    x, y = corner_of_shards()
    scenes = [
        write_scene(tmp_path, f"a{day}", day=day, west=x - 300 * 30, north=y + 250 * 30, block=(128, 256)[day % 2])
        for day in range(1, 5)
    ]
    # another path's scene, shifted by whole pixels, with a corner that the sensor did not see
    scenes.append(write_scene(tmp_path, "b", day=9, west=x + 30 * 30, north=y + 330 * 30, gap=np.s_[:200, :80]))
    points = [(x + 3, y - 4), (x + 15, y + 15), (x - 299 * 30, y + 100), (x + 40 * 30, y + 240 * 30), (x - 4000, y)]
    sites = sites_at(points)
    result = fetch(scenes, sites, tmp_path, size_px=64)
    reader = open_reader(sites, tmp_path)
    for size in (64, 33, 16, 1):
        chips = reader.read_chips(list(sites.index), size)
        for chip, (px, py) in zip(chips, points, strict=True):
            np.testing.assert_array_equal(chip, composite_at(scenes, px, py, size))
    assert isinstance(reader, ChipReader)
    assert reader.grid == LANDSAT.zone(36)
    assert result.blocks_fetched == result.plan.blocks
    assert result.sites["state"].tolist()[2] == "partly covered"
    assert not {"longitude", "latitude", "row", "col", "x", "y", "geometry"} & set(result.sites.columns)


def test_site_between_pixel_centres_is_placed_as_rasters_do(tmp_path):
    from eo_cate.imagery.rasters import RasterReader, place_sites

    scene = write_scene(tmp_path, "a", cloud=0)
    west, north = 499_995, 100_005
    sites = sites_at([(west + 30 * 300 + shift, north - 30 * 300 - shift) for shift in (0, 7, 15, 16, 29)])
    fetch([scene], sites, tmp_path)
    files = RasterReader({band: tmp_path / f"a_{band}.tif" for band in BANDS})
    raw = files.with_places(place_sites(sites, files.scene_grid)).read_chips(list(sites.index), 64)
    np.testing.assert_array_equal(
        open_reader(sites, tmp_path).read_chips(list(sites.index), 64),
        raw * np.float32(SCALE) + np.float32(OFFSET),
    )


def test_odc_stac_reads_the_same(tmp_path):
    import odc.stac
    import pystac

    scenes = [write_scene(tmp_path, f"a{day}", day=day) for day in range(1, 4)]
    x, y = 510_015.0, 92_025.0
    sites = sites_at([(x, y)])
    fetch(scenes, sites, tmp_path)
    items = []
    for scene in scenes:
        item = pystac.Item(
            scene.scene_id, scene.footprint.__geo_interface__, list(scene.footprint.bounds), scene.acquired, {}
        )
        item.properties["proj:code"] = scene.crs
        for key, asset in [*scene.assets.items(), ("qa", scene.mask)]:
            item.add_asset(key, pystac.Asset(asset.href, media_type="image/tiff; application=geotiff", roles=["data"]))
        items.append(item)
    from odc.geo.geobox import GeoBox

    column, row = round((x - 499_995) / 30) - 32, round((100_005 - y) / 30) - 32
    geobox = GeoBox((64, 64), rasterio.Affine(30, 0, 499_995 + 30 * column, 0, -30, 100_005 - 30 * row), "EPSG:32636")
    loaded = odc.stac.load(items, bands=[*BANDS, "qa"], geobox=geobox, groupby="id", dtype="uint16")
    clear = (loaded.qa.values == 21824) & (loaded.red.values != 0) & (loaded.nir.values != 0)
    stack = np.stack(
        [loaded[band].values.astype(np.float32) * np.float32(SCALE) + np.float32(OFFSET) for band in BANDS]
    )
    expected = quiet_median(np.where(clear, stack, np.float32(np.nan)), axis=1)
    np.testing.assert_array_equal(open_reader(sites, tmp_path).read_chips(["s0"], 64)[0], expected)


def test_opens_in_xarray_with_its_place(tmp_path):
    scene = write_scene(tmp_path, "a", cloud=0)
    sites = sites_at([(510_015.0, 92_025.0)])
    fetch([scene], sites, tmp_path)
    group = tmp_path / "store" / "test" / "before" / "32636"
    dataset = xr.open_zarr(group, consolidated=False, chunks=None)
    assert dataset["pixels"].dims == ("band", "y", "x")
    assert dataset["state"].dims == ("y", "x")
    zone = LANDSAT.zone(36)
    assert dataset["pixels"].shape == (2, *zone.shape)
    c, a, _, f, _, e = map(float, dataset["spatial_ref"].attrs["GeoTransform"].split())
    assert (a, c, e, f) == tuple(zone.transform[k] for k in (0, 2, 4, 5))
    assert dataset.attrs["bands"] == list(BANDS)
    assert dataset.attrs["proj:code"] == "EPSG:32636"
    row, column = round((zone.transform[5] - 92_025) / 30), round((510_015 - zone.transform[2]) / 30)
    found = dataset["pixels"][:, row - 32 : row + 32, column - 32 : column + 32].to_numpy()
    np.testing.assert_array_equal(found, composite_at([scene], 510_015.0, 92_025.0, 64))


def test_reader_is_small_and_knows_more_points(tmp_path):
    scenes = [write_scene(tmp_path, "a")]
    sites = sites_at([(510_015.0, 92_025.0), (510_615.0, 92_025.0)])
    fetch(scenes, sites, tmp_path)
    reader = open_reader(sites.iloc[:1], tmp_path)
    points = sites.iloc[1:].assign(longitude=sites.geometry.x, latitude=sites.geometry.y)[["longitude", "latitude"]]
    other = pickle.loads(pickle.dumps(reader.with_points(points)))
    assert len(pickle.dumps(other)) < 5000
    assert other.digest == open_reader(sites.iloc[1:], tmp_path).digest != reader.digest
    np.testing.assert_array_equal(other.read_chips(["s1"], 64), open_reader(sites, tmp_path).read_chips(["s1"], 64))
    with pytest.raises(ImageryError, match="two places"):
        reader.with_points(points.iloc[[0, 0]])
    with pytest.raises(ImageryError, match="1 of 1 sites have no place"):
        other.read_chips(["s0"], 64)


def test_larger_chip_than_fetched_is_an_error(tmp_path):
    sites = sites_at([(510_015.0, 92_025.0)])
    fetch([write_scene(tmp_path, "a", cloud=0)], sites, tmp_path)
    with pytest.raises(ImageryError, match="never fetched"):
        open_reader(sites, tmp_path).read_chips(["s0"], 66)
    with pytest.raises(ImageryError, match="never fetched"):
        open_reader(sites_at([(700_000.0, 92_025.0)]), tmp_path)


def test_damaged_shard_is_an_error_and_fetched_again(tmp_path):
    scenes, sites = [write_scene(tmp_path, "a", cloud=0)], sites_at([(510_015.0, 92_025.0)])
    fetch(scenes, sites, tmp_path)
    chips = open_reader(sites, tmp_path).read_chips(["s0"], 64)
    file = next(path for path in sorted((tmp_path / "store").rglob("pixels/c/*/*/*")) if path.is_file())
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(bytes(content))
    from eo_cate.imagery.pixel_store.reader import _checked

    _checked.cache_clear()  # as in a new process
    with pytest.raises(StoreError, match="not those that were stored"):
        open_reader(sites, tmp_path).read_chips(["s0"], 64)
    assert fetch(scenes, sites, tmp_path).plan.shards == 1
    _checked.cache_clear()
    np.testing.assert_array_equal(open_reader(sites, tmp_path).read_chips(["s0"], 64), chips)


def test_coarser_quality_band_and_finer_band_of_the_same_zone(tmp_path):
    """A quality band of 60 m lies at nearest; a band of 10 m is averaged over exactly its nine pixels."""
    scene = write_scene(tmp_path, "a", cloud=0, shape=(300, 300))
    coarse = write_scene(tmp_path, "q", shape=(150, 150), resolution=60, seed=1)
    fine = write_scene(tmp_path, "f", shape=(900, 900), resolution=10, seed=2)
    scene = replace(scene, assets={"red": scene.assets["red"], "nir": fine.assets["nir"]}, mask=coarse.mask)
    sites = sites_at([(504_015.0, 95_025.0)])
    fetch([scene], sites, tmp_path, resolution_m=30)
    chip = open_reader(sites, tmp_path).read_chips(["s0"], 64)[0]
    row, column = round((100_005 - 95_025) / 30) - 32, round((504_015 - 499_995) / 30) - 32
    with rasterio.open(coarse.mask.href) as source:
        clear = np.kron(source.read(1) == 21824, np.ones((2, 2), bool))[row : row + 64, column : column + 64]
    with rasterio.open(fine.assets["nir"].href) as source:
        nir = (
            source.read(1).astype(float).reshape(300, 3, 300, 3).mean(axis=(1, 3))[row : row + 64, column : column + 64]
        )
    assert 0.1 < clear.mean() < 0.9
    np.testing.assert_array_equal(np.isnan(chip[1]), ~clear)
    np.testing.assert_allclose(chip[1][clear], nir[clear] * SCALE + OFFSET, rtol=2e-6)
    fetch([scene], sites, tmp_path, source="own")
    assert (tmp_path / "store" / "own" / "source.json").read_text().count('"resolution": 10.0') == 1


def test_southern_files_lie_in_the_same_grid(tmp_path):
    """Sentinel-2 writes EPSG:327zz, Landsat EPSG:326zz with negative northings: the same ground, the same pixels."""
    south = write_scene(tmp_path, "s", crs="EPSG:32718", north=9_000_010, west=500_000, resolution=10)
    points = [(503_000.0, 8_997_000.0)]
    sites = sites_at(points, "EPSG:32718")
    fetch([south], sites, tmp_path)
    reader = open_reader(sites, tmp_path)
    assert reader.grid is not None
    assert reader.grid.crs == "EPSG:32618"
    np.testing.assert_array_equal(reader.read_chips(["s0"], 64)[0], composite_at([south], *points[0], 64))
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:32618", always_xy=True).transform(
        sites.geometry.x.iloc[0], sites.geometry.y.iloc[0]
    )
    assert (x, y) == pytest.approx((503_000, 8_997_000 - 10_000_000), abs=1e-3)
