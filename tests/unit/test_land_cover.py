"""Land-cover shares against counts of pixels, on the grid of the chips and on another."""

import geopandas as gpd
import numpy as np
import pytest
from helpers_rasters import NORTH, UTM, WEST, write_raster

from eo_cate.errors import ImageryError
from eo_cate.imagery.land_cover import check_land_cover, land_cover_shares

ROWS, COLUMNS = np.array([50, 70]), np.array([60, 40])


def made_sites():
    points = gpd.points_from_xy(WEST + 10 * COLUMNS, NORTH - 10 * ROWS, crs=UTM)
    return gpd.GeoDataFrame(index=["a", "b"], geometry=points).to_crs(4326)


def made_classes():
    classes = np.random.default_rng(3).choice([10, 40, 80], (100, 120), p=[0.5, 0.3, 0.2]).astype(np.uint8)
    classes[:, :58] = 40  # west: a mirrored square would not pass
    classes[:45] = 80  # north
    return classes


def counted(classes, code, size_px):
    half = size_px // 2
    boxes = [classes[r - half : r + half, c - half : c + half] for r, c in zip(ROWS, COLUMNS, strict=True)]
    return [np.mean(box == code) for box in boxes]


def test_shares_are_those_of_the_pixels(tmp_path):
    classes = made_classes()
    path = write_raster(tmp_path / "lc.tif", classes)
    found = land_cover_shares(path, made_sites(), sides_m=[160, 320], names={10: "trees"})
    assert found.dims == ("site", "scale", "feature")
    assert found["feature"].values.tolist() == ["trees", "class 40", "class 80"]
    for s, size_px in enumerate((16, 32)):
        for j, code in enumerate((10, 40, 80)):
            # in UTM north is not quite up: a few points per side fall beside their pixel
            np.testing.assert_allclose(found.values[:, s, j], counted(classes, code, size_px), atol=0.01)
    np.testing.assert_allclose(found.sum("feature"), 1, rtol=1e-12)


def test_another_grid_in_degrees_gives_the_same_shares(tmp_path):
    path = write_raster(tmp_path / "lc.tif", made_classes())
    expected = land_cover_shares(path, made_sites(), sides_m=[320])
    import rasterio
    from rasterio.warp import Resampling, calculate_default_transform, reproject

    with rasterio.open(path) as source:
        transform, width, height = calculate_default_transform(
            UTM, "EPSG:4326", source.width, source.height, *source.bounds, resolution=2e-5
        )
        degrees = np.zeros((height, width), dtype=np.uint8)
        reproject(
            source.read(1), degrees, src_transform=source.transform, src_crs=UTM, dst_transform=transform,
            dst_crs="EPSG:4326", resampling=Resampling.nearest,
        )  # fmt: skip
    other = write_raster(tmp_path / "deg.tif", degrees, crs="EPSG:4326", transform=transform, nodata=0)
    found = land_cover_shares(other, made_sites(), sides_m=[320])
    np.testing.assert_allclose(found.values, expected.values, atol=0.02)


def test_what_the_raster_does_not_say_is_not_counted(tmp_path):
    classes = made_classes()
    classes[70:] = 0
    path = write_raster(tmp_path / "lc.tif", classes[:, :61], nodata=0)
    found = land_cover_shares(path, made_sites(), sides_m=[320])
    east = classes[50 - 16 : 50 + 16, 60 - 16 : 61]
    np.testing.assert_allclose(
        found.sel(site="a").values[0], [np.mean(east == code) for code in (10, 40, 80)], atol=0.01
    )
    far = made_sites().set_geometry(gpd.points_from_xy([33.0, 33.0], [40.0, 0.88], crs=4326))
    with pytest.raises(ImageryError, match="0 different classes"):
        land_cover_shares(path, far, sides_m=[160])
    far.loc["b", "geometry"] = made_sites().geometry.iloc[0]
    assert np.isnan(land_cover_shares(path, far, sides_m=[160]).sel(site="a").values).all()


def test_what_is_not_a_raster_of_classes_is_refused(tmp_path):
    with pytest.raises(ImageryError, match="whole numbers"):
        check_land_cover(write_raster(tmp_path / "f.tif", made_classes().astype(np.float32)))
    with pytest.raises(ImageryError, match="2 band"):
        check_land_cover(write_raster(tmp_path / "two.tif", np.stack([made_classes()] * 2)))
    with pytest.raises(ImageryError, match="CRS None"):
        check_land_cover(write_raster(tmp_path / "nowhere.tif", made_classes(), crs=None))
    height = np.arange(100 * 120, dtype=np.uint16).reshape(100, 120)
    with pytest.raises(ImageryError, match="does it hold classes"):
        land_cover_shares(write_raster(tmp_path / "h.tif", height), made_sites(), sides_m=[320])
