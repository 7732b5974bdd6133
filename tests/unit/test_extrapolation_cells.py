import geopandas as gpd
import numpy as np
import pytest
import rasterio

from eo_cate.errors import ImageryError
from eo_cate.extrapolation.cells import cell_lonlat, find_sampled, map_cells
from eo_cate.types import Grid

GRID = Grid("EPSG:32618", (10.0, 0.0, 435_730.0, 0.0, -10.0, 4_179_460.0), (300, 420))


def write_raster(path, values, transform, crs="EPSG:32618", driver="GTiff"):
    profile = {"driver": driver, "height": values.shape[0], "width": values.shape[1], "count": 1}
    with rasterio.open(path, "w", **profile, dtype=values.dtype, crs=crs, transform=transform) as sink:
        sink.write(values, 1)
    return path


def test_cells_keep_their_distance_from_every_edge():
    cells = map_cells(GRID, spacing_px=32, margin_px=40)
    assert sorted(set(cells["row"])) == [64, 96, 128, 160, 192, 224, 256]
    assert sorted(set(cells["col"])) == list(range(64, 381, 32))
    assert list(cells.index[:2]) == ["cell_000001", "cell_000002"]
    assert cells[["row", "col"]].iloc[1].tolist() == [64, 96]  # row-major
    assert map_cells(GRID, spacing_px=20, margin_px=40)["row"].agg(["min", "max"]).tolist() == [40, 260]


def test_centre_on_a_border_takes_the_pixel_to_the_lower_right(tmp_path):
    # Mask pixels of 32 x 32 whose corners ARE the centres: the mask pixel (k, m) belongs to the cell at its upper left.
    values = np.zeros((9, 13), np.uint8)
    values[3, 5] = 1
    mask = write_raster(tmp_path / "m.tif", values, rasterio.Affine(320, 0, 435_730, 0, -320, 4_179_460))
    cells = map_cells(GRID, spacing_px=32, margin_px=32, mask=mask)
    assert cells[["row", "col"]].to_numpy().tolist() == [[96, 160]]


def test_mask_in_degrees_keeps_the_right_side(tmp_path):
    every = map_cells(GRID, spacing_px=32, margin_px=32)
    lonlat = cell_lonlat(every, GRID)
    west, north = lonlat.min(axis=0)[0] - 0.01, lonlat.max(axis=0)[1] + 0.01
    split = np.median(lonlat[:, 0]) + 1e-5
    columns = west + 1e-4 * (np.arange(800) + 0.5)
    values = np.tile((columns < split).astype(np.uint8), (600, 1))
    values[:100] = 2  # only 1 counts; the rows of 2 reach no cell
    mask = write_raster(tmp_path / "m.tif", values, rasterio.Affine(1e-4, 0, west, 0, -1e-4, north), "EPSG:4326")
    kept = map_cells(GRID, spacing_px=32, margin_px=32, mask=mask)
    expected = every[np.abs(lonlat[:, 0] - split) > 1e-4]
    expected = expected[lonlat[np.abs(lonlat[:, 0] - split) > 1e-4, 0] < split]
    assert set(map(tuple, expected.to_numpy())) <= set(map(tuple, kept.to_numpy()))
    assert 0 < len(kept) < len(every)
    assert cell_lonlat(kept, GRID)[:, 0].max() < split + 1e-4


def test_sampled_cells_are_those_with_a_site_in_their_box():
    cells = map_cells(GRID, spacing_px=32, margin_px=32)
    offsets = {10: (0, 0), 30: (150, -150), 50: (-150, 159), 70: (170, 0)}  # metres; half a box is 160
    x = [435_730 + 10 * cells["col"].iloc[k] + dx for k, (dx, _) in offsets.items()]
    y = [4_179_460 - 10 * cells["row"].iloc[k] + dy for k, (_, dy) in offsets.items()]
    sites = gpd.GeoDataFrame(geometry=gpd.points_from_xy(x, y, crs=GRID.crs)).to_crs("EPSG:4326")
    sampled = find_sampled(cells, sites, GRID, spacing_px=32)
    assert np.flatnonzero(sampled).tolist() == [10, 30, 50, 71]


def test_unusable_masks_are_refused(tmp_path):
    zeros = np.zeros((9, 13), np.uint8)
    place = rasterio.Affine(320, 0, 435_730, 0, -320, 4_179_460)
    with pytest.raises(ImageryError, match="none of the 96 map cells falls on a pixel of value 1"):
        map_cells(GRID, spacing_px=32, margin_px=32, mask=write_raster(tmp_path / "zero.tif", zeros, place))
    far = rasterio.Affine(320, 0, 0, 0, -320, 0)
    with pytest.raises(ImageryError, match="none of the 96"):
        map_cells(GRID, spacing_px=32, margin_px=32, mask=write_raster(tmp_path / "far.tif", zeros + 1, far))
    with pytest.raises(ImageryError, match="no coordinate system"):
        map_cells(GRID, spacing_px=32, margin_px=32, mask=write_raster(tmp_path / "bare.tif", zeros, place, None))
    with pytest.raises(ImageryError, match=r"absent\.tif: cannot be read as a GeoTIFF"):
        map_cells(GRID, spacing_px=32, margin_px=32, mask=tmp_path / "absent.tif")
    with pytest.raises(ImageryError, match="no map cell lies 200 px from every edge"):
        map_cells(GRID, spacing_px=32, margin_px=200)


def test_virtual_raster_in_disguise_is_refused(tmp_path):
    real = write_raster(
        tmp_path / "real.tif", np.ones((9, 13), np.uint8), rasterio.Affine(320, 0, 435_730, 0, -320, 4_179_460)
    )
    from rasterio.shutil import copy

    copy(real, tmp_path / "disguised.vrt", driver="VRT")
    (tmp_path / "disguised.vrt").rename(tmp_path / "mask.tif")
    with pytest.raises(ImageryError, match="cannot be read as a GeoTIFF"):
        map_cells(GRID, spacing_px=32, margin_px=32, mask=tmp_path / "mask.tif")
