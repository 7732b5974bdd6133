import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from helpers_rasters import NORTH, UTM, WEST, write_raster
from pyproj import Transformer
from shared_data import shared_path

from eo_cate.config import ImageryConfig, TrialConfig
from eo_cate.errors import ImageryError
from eo_cate.imagery import ChipArray, ChipFolder, RasterReader, complete_sites, drop_incomplete, open_imagery, sites
from eo_cate.trial import load_trial, trial_summary

POINTS = [(500, 500), (700, 300), (20, 400), (300, 900), (5000, 500), (600, 600)]
"""Metres east and south of the scene's corner: the third is 20 m from the edge, the fifth off the scene."""


def write_trial(folder, *, households=2, propensity="leave_group_out_share"):
    """A scene of 1 km at 10 m with a hole near the fourth village, and six villages of two households."""
    pixels = np.random.default_rng(0).integers(1, 999, (100, 100)).astype(np.uint16)
    pixels[92, 31] = 0
    write_raster(folder / "a.tif", pixels, nodata=0)
    write_raster(folder / "b.tif", pixels + 1)
    east, south = np.repeat(np.array(POINTS, float), households, axis=0).T
    lon, lat = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True).transform(WEST + east, NORTH - south)
    village = np.repeat(np.arange(6), households)
    W = [1, 1, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0]
    table = {"lon": lon, "lat": lat, "village": village, "W": W, "Y": np.arange(12.0)}
    pd.DataFrame(table).to_csv(folder / "units.csv", index=False)
    trial = TrialConfig(units="units.csv", outcome="Y", treatment="W", cluster="village", propensity=propensity)
    return load_trial(trial, folder)


def open_scene(folder, trial):
    config = ImageryConfig(source="rasters", files={"a": "a.tif", "b": "b.tif"})
    return open_imagery(config, folder, trial.sites)


def test_sites_are_found_on_the_scene_and_completeness_depends_on_the_scale(tmp_path):
    trial = write_trial(tmp_path)
    reader = open_scene(tmp_path, trial)
    assert isinstance(reader, RasterReader)
    assert reader.bands == ("a", "b")
    rows_columns = [(s // 10, e // 10) for e, s in POINTS]
    assert list(reader.places[["row", "col"]].itertuples(index=False, name=None)) == rows_columns
    ids = list(trial.sites.index)
    for size, expected in ((2, [1, 1, 1, 1, 0, 1]), (5, [1, 1, 1, 0, 0, 1]), (60, [1, 1, 0, 0, 0, 1])):
        np.testing.assert_array_equal(complete_sites(reader, ids, size), expected)
    for size in (1, 3, 4, 6, 61, 62, 80, 81, 100):
        np.testing.assert_array_equal(complete_sites(reader, ids, size), list(_lie_inside(rows_columns, size)))


def _lie_inside(rows_columns, size):
    half = size // 2
    hole = (92, 31)
    for row, col in rows_columns:
        window = range(row - half, row - half + size), range(col - half, col - half + size)
        inside = all(w[0] >= 0 and w[-1] < 100 for w in window)
        yield inside and not all(h in w for h, w in zip(hole, window, strict=True))


def test_completeness_is_the_same_in_any_block(tmp_path, monkeypatch):
    trial = write_trial(tmp_path)
    reader, ids = open_scene(tmp_path, trial), list(trial.sites.index)
    at_once = complete_sites(reader, ids, 6)
    monkeypatch.setattr(sites, "_BLOCK_VALUES", 6 * 6 * 2 * 2)
    np.testing.assert_array_equal(complete_sites(reader, ids, 6), at_once)
    assert complete_sites(reader, [], 6).shape == (0,)


def test_incomplete_sites_are_an_error_with_both_counts_and_a_way_out(tmp_path):
    trial = write_trial(tmp_path)
    with pytest.raises(ImageryError) as error:
        drop_incomplete(trial, open_scene(tmp_path, trial), 6, policy="error")
    message = str(error.value)
    assert "3 of 6 sites have no complete chip of 6 px: 2 reach beyond the imagery, 1 have missing pixels" in message
    assert "`imagery.incomplete_sites: drop`" in message


def test_dropped_sites_take_their_units_along(tmp_path):
    trial = write_trial(tmp_path)
    left = drop_incomplete(trial, open_scene(tmp_path, trial), 6, policy="drop")
    assert isinstance(left.units, gpd.GeoDataFrame)
    assert left.sites.index.tolist() == [f"site_{i:04d}" for i in (1, 2, 6)]
    assert left.sites.crs == "EPSG:4326"
    assert left.column("outcome").tolist() == [0, 1, 2, 3, 10, 11]
    assert left.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert trial_summary(left)["dropped"] == {"incomplete_imagery": 6}
    assert trial.units.attrs["dropped"] == {}
    # treated share of the two other groups that stay, not of the five that were there
    np.testing.assert_allclose(left.column("propensity"), [1 / 4, 1 / 4, 2 / 4, 2 / 4, 3 / 4, 3 / 4], rtol=1e-12)
    known = write_trial(tmp_path, propensity=0.5)
    kept = drop_incomplete(known, open_scene(tmp_path, known), 6, policy="drop")
    np.testing.assert_array_equal(kept.column("propensity"), 0.5)


def test_a_complete_trial_comes_back_as_it_is(tmp_path):
    trial = write_trial(tmp_path)
    reader = open_scene(tmp_path, trial)
    keep = drop_incomplete(trial, reader, 2, policy="drop")
    assert len(keep.sites) == 5
    assert drop_incomplete(keep, reader, 2, policy="error") is keep


def test_the_wrong_scene_is_recognised(tmp_path):
    trial = write_trial(tmp_path)
    for name in "ab":
        write_raster(tmp_path / f"{name}.tif", np.ones((50, 50), np.uint8), west=WEST + 90_000)
    with pytest.raises(ImageryError, match=r"6 of 6 sites .* is it the right scene"):
        drop_incomplete(trial, open_scene(tmp_path, trial), 6, policy="error")
    with pytest.raises(ImageryError, match="what is left is 0 units"):
        drop_incomplete(trial, open_scene(tmp_path, trial), 6, policy="drop")


def test_messages_hold_no_coordinate(tmp_path):
    trial = write_trial(tmp_path)
    with pytest.raises(ImageryError) as error:
        drop_incomplete(trial, open_scene(tmp_path, trial), 6, policy="error")
    for lon, lat in zip(trial.sites.geometry.x, trial.sites.geometry.y, strict=True):
        assert f"{lon:.2f}" not in str(error.value)
        assert f"{lat:.2f}" not in str(error.value)


def test_chips_are_opened_as_what_their_path_is_and_every_site_needs_one(tmp_path):
    trial = write_trial(tmp_path)
    np.save(tmp_path / "chips.npy", np.ones((6, 8, 8, 1), np.float32))
    keys = pd.DataFrame({"row": range(6), "key": trial.sites.index})
    keys.to_csv(tmp_path / "keys.csv", index=False)
    config = ImageryConfig(source="chips", path="chips.npy", keys="keys.csv", bands=("a",), resolution_m=30)
    reader = open_imagery(config, tmp_path, trial.sites)
    assert isinstance(reader, ChipArray)
    assert reader.resolution_m == 30
    assert drop_incomplete(trial, reader, 8, policy="error") is trial
    keys[1:].to_csv(tmp_path / "keys.csv", index=False)
    with pytest.raises(ImageryError, match="1 of 6 sites have no chip among 5"):
        open_imagery(config, tmp_path, trial.sites)
    (tmp_path / "chips").mkdir()
    for site in trial.sites.index:
        write_raster(tmp_path / "chips" / f"{site}.tif", np.ones((8, 8), np.uint8))
    config = ImageryConfig(source="chips", path="chips", bands=("a",))
    assert isinstance(open_imagery(config, tmp_path, trial.sites), ChipFolder)


def test_uganda_chips_belong_to_their_sites():
    folder = shared_path("data/uganda_yop")
    options = {"units": "units.csv", "outcome": "Y", "treatment": "W", "cluster": "image_key", "site": "image_key"}
    trial = load_trial(TrialConfig(**options, propensity="leave_group_out_share"), folder)
    bands = ("swir", "nir", "green")
    config = ImageryConfig(source="chips", path="images.npy", keys="image_keys.csv", bands=bands, resolution_m=14.3)
    reader = open_imagery(config, folder, trial.sites)
    assert drop_incomplete(trial, reader, 35, policy="error") is trial
    raw = pd.read_csv(folder / "units.csv", dtype={"image_key": str})
    row_of_site = raw.drop_duplicates("image_key").set_index("image_key")["image_row"]
    ids = list(trial.sites.index[::20])
    expected = np.load(folder / "images.npy", mmap_mode="r")[row_of_site[ids].to_numpy(), 1:33, 1:33].transpose(
        0, 3, 1, 2
    )
    np.testing.assert_array_equal(reader.read_chips(ids, 32), expected)
