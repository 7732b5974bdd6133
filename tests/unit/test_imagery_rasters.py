import itertools
import os
import pickle
import subprocess
import sys

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from helpers_rasters import NORTH, UTM, WEST, coded_pixels, cut, make_places, read_whole, write_raster
from pyproj import Transformer
from rasterio.shutil import copy as copy_raster
from rasterio.transform import Affine, from_origin
from rasterio.vrt import WarpedVRT
from shapely import points

from eo_cate.errors import ImageryError
from eo_cate.imagery import RasterReader, files
from eo_cate.imagery.rasters import place_sites, share_reads
from eo_cate.types import ChipReader, Grid

RNG = np.random.default_rng(5)
CORNERS = [(40, 50), (0, 0), (3, 2), (99, 118), (100, 120), (55, 119), (-3, 60), (40, 51), (7, 100)]


def make_sites(x, y, crs=UTM):
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(np.asarray(x), np.asarray(y))
    index = pd.Index([f"s{i}" for i in range(len(lon))], name="site_id")
    return gpd.GeoDataFrame(index=index, geometry=points(lon, lat), crs="EPSG:4326")


def random_scene(tmp_path, **options):
    pixels = RNG.integers(1, 10_000, (100, 120)).astype(np.uint16)
    return write_raster(tmp_path / f"scene{len(list(tmp_path.iterdir()))}.tif", pixels, **options)


def test_axes_are_site_band_row_column(tmp_path):
    paths = {f"B{b}": write_raster(tmp_path / f"{b}.tif", coded_pixels(b, 60, 90)) for b in (1, 2, 3)}
    reader = RasterReader(paths, make_places([(20, 70), (40, 30)]))
    assert isinstance(reader, ChipReader)
    chips = reader.read_chips(["s1", "s0"], 8)
    assert chips.shape == (2, 3, 8, 8)
    assert chips.dtype == np.float32
    assert chips[1, 2, 0, 0] == 3_000_000 + 16 * 1_000 + 66  # s0, B3, row 20 - 4, column 70 - 4
    assert chips[0, 1, 5, 1] == 2_000_000 + (36 + 5) * 1_000 + 26 + 1


@pytest.mark.parametrize("size", [1, 2, 7, 16, 33, 130])
@pytest.mark.parametrize("layout", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}])
def test_chips_are_the_pixels_of_a_whole_read_bit_for_bit(tmp_path, size, layout):
    path = random_scene(tmp_path, **layout)
    reader = RasterReader({"B": path}, make_places(CORNERS))
    chips = reader.read_chips(list(reader.places.index), size)
    whole = read_whole(path, path)
    for chip, (row, col) in zip(chips, CORNERS, strict=True):
        np.testing.assert_array_equal(chip[0], cut(whole, row, col, size))


def test_a_20_m_band_on_an_offset_grid_is_interpolated_through_its_transform(tmp_path):
    """As in the demo scene: the 20 m grid starts 10 m west. Slicing every second pixel would be off by a pixel."""
    fine = random_scene(tmp_path)
    coarse = write_raster(
        tmp_path / "coarse.tif",
        RNG.integers(1, 10_000, (49, 60)).astype(np.uint16),
        resolution=20,
        west=WEST - 10,
        north=NORTH,
    )
    reader = RasterReader({"B02": fine, "B11": coarse}, make_places(CORNERS))
    whole = read_whole(coarse, fine)
    assert np.isnan(whole[-1]).all()  # the coarse band ends 20 m short: no observation there
    for size in (5, 16, 64):
        chips = reader.read_chips(list(reader.places.index), size)
        for chip, (row, col) in zip(chips, CORNERS, strict=True):
            np.testing.assert_array_equal(chip[1], cut(whole, row, col, size))
    with rasterio.open(coarse) as source:
        p = source.read(1).astype(np.float64)
    # fine column 51 has its centre at 515 m east of WEST, that is at 26.25 coarse pixels, a quarter past the centre of 26 - .5
    by_hand = 0.75 * (0.75 * p[20, 25] + 0.25 * p[20, 26]) + 0.25 * (0.75 * p[19, 25] + 0.25 * p[19, 26])
    chip = reader.read_chips(["s0"], 4)[0, 1]  # rows 38 to 41, columns 48 to 51
    np.testing.assert_allclose(chip[2, 2], by_hand, rtol=1e-6)


def test_a_band_on_a_rotated_grid_follows_its_transform(tmp_path):
    fine = random_scene(tmp_path)
    turned = Affine.translation(WEST - 300, NORTH + 200) @ Affine.rotation(-20) @ Affine.scale(25, -25)
    other = write_raster(
        tmp_path / "turned.tif", RNG.integers(1, 999, (80, 90)).astype(np.int16), transform=turned, nodata=-1
    )
    reader = RasterReader({"a": fine, "b": other}, make_places(CORNERS))
    whole = read_whole(other, fine)
    chips = reader.read_chips(list(reader.places.index), 32)
    for chip, (row, col) in zip(chips, CORNERS, strict=True):
        np.testing.assert_array_equal(chip[1], cut(whole, row, col, 32))
    assert 0 < np.isnan(whole).mean() < 0.9


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("warped", [False, True])
def test_nodata_is_nan_where_it_is_and_nowhere_else(tmp_path, dtype, warped):
    fine = random_scene(tmp_path)
    pixels = RNG.integers(1, 999, (50, 60) if warped else (100, 120)).astype(dtype)
    pixels[20, 25] = 0
    grid = {"resolution": 20} if warped else {}
    path = write_raster(tmp_path / "holes.tif", pixels, nodata=0, **grid)
    chip = RasterReader({"a": fine, "b": path}, make_places([(41, 51) if warped else (20, 25)])).read_chips(["s0"], 8)
    expected = np.zeros((8, 8), dtype=bool)
    if warped:
        expected[3:5, 3:5] = True  # rows 40, 41 and columns 50, 51 of the fine grid lie in the missing coarse pixel
    else:
        expected[4, 4] = True
    np.testing.assert_array_equal(np.isnan(chip[0, 1]), expected)
    assert not np.isnan(chip[0, 0]).any()


@pytest.mark.parametrize("warped", [False, True])
def test_masks_and_undeclared_nan_are_missing(tmp_path, warped):
    fine = random_scene(tmp_path)
    shape, grid = ((50, 60), {"resolution": 20}) if warped else ((100, 120), {})
    holes = RNG.normal(size=shape).astype(np.float32)
    holes[10, 10] = np.nan
    path = write_raster(tmp_path / "nan.tif", holes, **grid)
    masked = write_raster(tmp_path / "mask.tif", RNG.integers(1, 9, shape).astype(np.uint8), **grid)
    mask = np.full(shape, 255, dtype=np.uint8)
    mask[10, 10] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(masked, "r+") as target:
        target.write_mask(mask)
    reader = RasterReader({"a": fine, "nan": path, "mask": masked}, make_places([(20, 20) if warped else (10, 10)]))
    missing = np.isnan(reader.read_chips(["s0"], 12)).sum(axis=(2, 3))[0]
    np.testing.assert_array_equal(missing, [0, 4, 4] if warped else [0, 1, 1])


def test_a_failed_read_raises_with_the_file_and_never_becomes_nodata(tmp_path):
    """The file is cut short on disk: its header is whole, its last rows are gone."""
    fine = random_scene(tmp_path)
    for name, grid, shape in (("same.tif", {}, (100, 120)), ("coarse.tif", {"resolution": 20}, (50, 60))):
        path = write_raster(tmp_path / name, RNG.integers(1, 999, shape).astype(np.uint16), **grid)
        places = make_places([(90, 90), (20, 20)])
        assert not np.isnan(RasterReader({"a": fine, "b": path}, places).read_chips(["s0", "s1"], 8)).any()
        os.truncate(path, path.stat().st_size * 2 // 3)
        with pytest.raises(ImageryError, match=name):
            RasterReader({"a": fine, "b": path}, places).read_chips(["s0"], 8)


def test_a_vrt_named_tif_is_refused(tmp_path):
    secret = random_scene(tmp_path)
    disguised = tmp_path / "a.tif"
    with rasterio.open(secret) as source, WarpedVRT(source) as warped:
        copy_raster(warped, disguised, driver="VRT")
    assert disguised.read_bytes().lstrip().startswith(b"<VRT")
    with rasterio.open(disguised) as opened:  # rasterio alone would follow it
        assert opened.driver == "VRT"
    with pytest.raises(ImageryError, match=r"a\.tif: neither a GeoTIFF"):
        RasterReader({"a": disguised})


def test_a_geotiff_named_jp2_is_read_as_what_it_is(tmp_path):
    path = random_scene(tmp_path)
    renamed = path.rename(tmp_path / "s2_B02.jp2")
    assert RasterReader({"a": renamed}, make_places([(50, 50)])).read_chips(["s0"], 4).min() >= 1


def test_jpeg_2000_is_read(tmp_path):
    pixels = RNG.integers(1, 10_000, (100, 120)).astype(np.uint16)
    path = write_raster(tmp_path / "a.jp2", pixels, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    chip = RasterReader({"a": path}, make_places([(50, 60)])).read_chips(["s0"], 20)
    np.testing.assert_array_equal(chip[0, 0], pixels[40:60, 50:70])


def test_a_small_file_that_declares_a_giant_is_refused_before_decoding(tmp_path):
    path = tmp_path / "bomb.tif"
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": UTM, "transform": from_origin(0, 0, 1, 1)}
    options = {"width": 400_000, "height": 400_000, "tiled": True, "sparse_ok": True, "compress": "deflate"}
    with rasterio.open(path, "w", **profile, **options, BIGTIFF="YES", blockxsize=8192, blockysize=8192):
        pass
    assert path.stat().st_size < 100_000
    with pytest.raises(ImageryError, match=r"bomb\.tif: declares 1\.6e\+11 pixels"):
        RasterReader({"a": path})


def test_a_giant_block_is_refused_too(tmp_path, monkeypatch):
    path = random_scene(tmp_path, tiled=True, blockxsize=128, blockysize=96)
    monkeypatch.setattr(files, "MAX_BLOCK_PIXELS", 12_287)
    with pytest.raises(ImageryError, match=r"blocks of 1\.23e\+04 pixels"):
        RasterReader({"a": path})
    monkeypatch.setattr(files, "MAX_BLOCK_PIXELS", 12_288)
    RasterReader({"a": path})


def test_bands_of_one_file_are_found_by_their_description(tmp_path):
    path = write_raster(tmp_path / "stack.tif", np.stack([coded_pixels(b, 30, 30) for b in (1, 2, 3)]))
    with pytest.raises(ImageryError, match="has 3 bands"):
        RasterReader({"red": path})
    with rasterio.open(path, "r+") as target:
        target.descriptions = ("blue", "green", "red")
    chip = RasterReader({"red": path, "blue": path}, make_places([(10, 10)])).read_chips(["s0"], 2)
    np.testing.assert_array_equal(chip[0, :, 0, 0] // 1_000_000, [3, 1])


def test_files_that_do_not_fit_are_refused_by_name(tmp_path):
    scene = random_scene(tmp_path)
    pixels = np.ones((9, 9), np.uint8)
    other_zone = write_raster(tmp_path / "zone.tif", pixels, crs="EPSG:32637")
    placeless = write_raster(tmp_path / "placeless.tif", pixels, crs=None)
    turned = write_raster(tmp_path / "turned.tif", pixels, transform=Affine.rotation(10) @ Affine.scale(10, -10))
    for bands, message in (
        ({"a": scene, "b": other_zone}, r"zone\.tif: its CRS EPSG:32637 is not that of the first file, EPSG:32636"),
        ({"a": placeless}, r"placeless\.tif: has no CRS"),
        ({"a": turned}, r"turned\.tif: the first file's grid is rotated"),
        ({"a": tmp_path / "absent.tif"}, r"absent\.tif: cannot be read \(No such file"),
        ({}, "no raster files"),
    ):
        with pytest.raises(ImageryError, match=message):
            RasterReader(bands)


def test_resolution_is_in_metres_or_unknown(tmp_path):
    pixels = np.ones((9, 9), np.uint8)
    feet = write_raster(tmp_path / "feet.tif", pixels, crs="EPSG:2263", west=1e6, north=2e5, resolution=10)
    degrees = write_raster(tmp_path / "degrees.tif", pixels, crs="EPSG:4326", west=30, north=1, resolution=0.001)
    assert RasterReader({"a": random_scene(tmp_path)}).resolution_m == 10
    assert RasterReader({"a": feet}).resolution_m == pytest.approx(3.048, rel=1e-5)
    assert RasterReader({"a": degrees}).resolution_m is None


GRID = Grid(crs=UTM, transform=(10, 0, WEST, 0, -10, NORTH), shape=(100, 120))


def test_an_even_chip_is_centred_on_the_pixel_corner_nearest_to_the_site():
    """Points at column 50.0, 50.4, 50.6, 49.5 (a pixel's centre, rounded up) and row 40, 40.4, 40.6, 39.5."""
    c, r = np.array([50.0, 50.4, 50.6, 49.5]), np.array([40.0, 40.4, 40.6, 39.5])
    places = place_sites(make_sites(WEST + 10 * c, NORTH - 10 * r), GRID)
    assert places.index.name == "site_id"
    np.testing.assert_array_equal(places["col"], [50, 50, 51, 50])
    np.testing.assert_array_equal(places["row"], [40, 40, 41, 40])


def test_every_pixel_centre_is_rounded_the_same_way():
    """A projection there and back moves a point by nanometres; a plain round would send centres to either side."""
    columns, rows = np.meshgrid(np.arange(120) + 0.5, np.arange(100) + 0.5)
    places = place_sites(make_sites(WEST + 10 * columns.ravel(), NORTH - 10 * rows.ravel()), GRID)
    np.testing.assert_array_equal(places["col"], columns.ravel() + 0.5)
    np.testing.assert_array_equal(places["row"], rows.ravel() + 0.5)


def test_a_site_beyond_the_projection_is_off_the_imagery(tmp_path):
    reader = RasterReader({"a": random_scene(tmp_path)})
    sites = gpd.GeoDataFrame(index=["s0", "s1"], geometry=points([33.0, 123.0], [0.9, -90.0]), crs="EPSG:4326")
    reader = reader.with_places(place_sites(sites, reader.scene_grid))
    assert reader.leaves_grid(["s1"], 4).all()
    assert np.isnan(reader.read_chips(["s1"], 4)).all()


def test_the_digest_is_that_of_pixels_bands_and_places(tmp_path):
    path = random_scene(tmp_path)
    copy = tmp_path / "copy.tif"
    copy.write_bytes(path.read_bytes())
    places = make_places([(10, 10), (20, 20)])
    first = RasterReader({"a": path}, places).digest
    assert first == RasterReader({"a": copy}).with_places(places).digest
    moved, renamed = make_places([(10, 10), (20, 21)]), places.rename({"s1": "s2"})
    assert len({first, *(RasterReader({"a": path}, p).digest for p in (moved, renamed, None))}) == 4
    assert RasterReader({"b": path}, places).digest != first
    with rasterio.open(copy, "r+") as target:
        target.write(np.ones((1, 1, 1), np.uint16), window=((50, 51), (50, 51)))
    assert RasterReader({"a": copy}, places).digest != first


def test_a_file_written_anew_is_read_anew(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.full((20, 20), 1, np.uint8))
    places = make_places([(10, 10)])
    assert RasterReader({"a": path}, places).read_chips(["s0"], 4).max() == 1
    write_raster(path, np.full((20, 20), 7, np.uint8))
    assert RasterReader({"a": path}, places).read_chips(["s0"], 4).min() == 7


def test_side_files_do_not_change_what_was_hashed(tmp_path):
    path = random_scene(tmp_path)
    (tmp_path / f"{path.name}.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><NoDataValue>1</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    with rasterio.open(path) as source:
        assert source.nodata == 1
    with files.open_raster(path) as source:
        assert source.nodata is None


def test_places_are_added_and_names_stay_unique(tmp_path):
    reader = RasterReader({"a": random_scene(tmp_path)}, make_places([(40, 50)]))
    more = reader.with_places(pd.DataFrame({"row": [60], "col": [70]}, index=["cell"]))
    assert more.places.index.tolist() == ["s0", "cell"]
    assert reader.places.index.tolist() == ["s0"]
    assert more.digest != reader.digest
    np.testing.assert_array_equal(more.read_chips(["cell", "s0"], 8)[1], reader.read_chips(["s0"], 8)[0])
    with pytest.raises(ImageryError, match="1 site ids have more than one place"):
        more.with_places(make_places([(1, 1)]))
    with pytest.raises(ImageryError, match="1 of 2 sites have no place"):
        reader.read_chips(["s0", "cell"], 8)


def test_a_reader_works_in_another_process(tmp_path):
    reader = RasterReader({"a": random_scene(tmp_path)}, make_places(CORNERS))
    here = reader.read_chips(["s0", "s5"], 9)
    (tmp_path / "reader.pkl").write_bytes(pickle.dumps(reader))
    script = (
        "import pickle, sys, numpy as np, pathlib; folder = pathlib.Path(sys.argv[1]);"
        "reader = pickle.loads((folder / 'reader.pkl').read_bytes());"
        "np.save(folder / 'there.npy', reader.read_chips(['s0', 's5'], 9))"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60)
    np.testing.assert_array_equal(np.load(tmp_path / "there.npy"), here)


def test_chips_far_apart_are_read_alone_and_crowded_ones_together():
    crowd = np.arange(0, 160, 4)
    top, left = np.append(crowd, [900, 3000]), np.append(crowd[::-1], [10, 3000])
    on_grid = np.ones(len(top), dtype=bool)
    on_grid[-1] = False
    reads = [m.tolist() for m in share_reads(top, left, 128, on_grid)]
    assert sorted(itertools.chain(*reads)) == list(range(len(crowd) + 1))
    for members in reads:
        span = (np.ptp(top[members]) + 128) * (np.ptp(left[members]) + 128)
        assert span < 2 * len(members) * 128**2
    assert len(reads) < 5
    apart = np.array([0, 500, 1000])
    assert [m.tolist() for m in share_reads(apart, apart[::-1], 16, np.ones(3, dtype=bool))] == [[0], [1], [2]]
