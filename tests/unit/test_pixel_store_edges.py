"""Sites where imagery ends, zones meet, reads fail: each has a state, and no failure ever becomes a pixel."""

from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest
import shapely
from helpers_pixel_store import (
    BANDS,
    SCALE,
    BrokenBlocks,
    composite_at,
    fetch,
    open_reader,
    sites_at,
    warp_chip,
    write_scene,
)
from pyproj import Transformer

from eo_cate.errors import ImageryError
from eo_cate.imagery.local_blocks import LocalBlocks
from eo_cate.imagery.pixel_store import plan_fetch

X, Y = 510_015.0, 92_025.0


def row_of(result, site="s0"):
    return result.sites.set_index("site_id").loc[site]


def test_states_of_sites_at_edges(tmp_path):
    scenes = [write_scene(tmp_path, f"a{day}", day=day, cloud=0, gap=np.s_[500:530, 500:560]) for day in (1, 2)]
    white = write_scene(tmp_path, "w", cloud=1.0, west=499_995 + 30 * 2000)
    west, north = 499_995, 100_005
    points = [
        (X, Y),  # well inside
        (west + 30, north - 3000),  # over the edge of the scenes
        (west + 30 * 530, north - 30 * 530),  # in a gap
        (west + 30 * 2300, north - 30 * 300),  # under cloud on all dates
        (west + 30 * 1000, north - 30 * 300),  # off all scenes
    ]
    sites = sites_at(points)
    poles = gpd.GeoDataFrame(geometry=gpd.points_from_xy([33, 33], [84.5, -89], crs="EPSG:4326"), index=["n", "s"])
    sites = gpd.GeoDataFrame(gpd.pd.concat([sites, poles]), crs="EPSG:4326")
    table = fetch([*scenes, white], sites, tmp_path, size_px=32).sites.set_index("site_id")
    assert table["state"].tolist() == [
        *("complete", "partly covered", "partly covered", "cloudy", "off imagery"),
        *("no UTM zone", "no UTM zone"),
    ]
    assert table["scenes"].tolist() == [2, 2, 2, 1, 0, 0, 0]
    assert table.loc["s1", "uncovered"] == pytest.approx(15 / 32)
    assert table.loc["s2", "uncovered"] == 0.5
    assert (table.loc["s3", "cloudy"], table.loc["s3", "uncovered"]) == (1.0, 0.0)
    assert (table.loc["s0", "least_clear"], table.loc["s0", "median_clear"]) == (2, 2.0)
    assert table[["valid", "cloudy", "uncovered", "failed"]].sum(axis=1).tolist() == pytest.approx([1.0] * 7)
    assert table.loc["s0", "reason"] == ""
    assert all(table["reason"].iloc[1:])
    reader = open_reader(sites, tmp_path, size_px=32)
    chips = reader.read_chips(list(sites.index), 32)
    np.testing.assert_array_equal(np.isnan(chips).all(axis=(1, 2, 3)), [False] * 3 + [True] * 4)
    np.testing.assert_array_equal(chips[1], composite_at(scenes, *points[1], 32))


def test_scenes_of_another_zone_are_warped_only_where_the_own_has_none(tmp_path):
    """A site on each side of 36 degrees east, where zones 36 and 37 meet."""
    to_36 = Transformer.from_crs("EPSG:4326", "EPSG:32636", always_xy=True)
    x, y = to_36.transform(36.0, 0.8)
    west = 15 + 30 * round((x - 15) / 30)
    north = 15 + 30 * round((y - 15) / 30)
    # zone 36 covers both sides up to 100 px east of the boundary; zone 37 has no scene
    scenes = [
        write_scene(tmp_path, f"z{day}", day=day, west=west - 30 * 400, north=north + 30 * 300, shape=(600, 500))
        for day in (1, 2, 3)
    ]
    sites = gpd.GeoDataFrame(
        geometry=gpd.points_from_xy([35.995, 36.006], [0.8, 0.8], crs="EPSG:4326"), index=["left", "right"]
    )
    result = fetch(scenes, sites, tmp_path, size_px=32)
    assert row_of(result, "left")["warped"] == 0
    assert row_of(result, "right")["state"] == "complete" or row_of(result, "right")["valid"] > 0.9
    assert row_of(result, "right")["warped"] == row_of(result, "right")["valid"]
    assert "another UTM zone" in row_of(result, "right")["reason"]
    reader = open_reader(sites, tmp_path, size_px=32)
    assert reader.grid is None
    chip = reader.read_chips(["right"], 32)[0]
    expected = warp_chip(scenes, sites.loc[["right"]], 37, 32)
    # GDAL moves a pixel by up to a thousandth of one: 60,000 numbers of difference between neighbours x 0.001 x 2
    agree = np.isfinite(chip) & np.isfinite(expected)
    assert agree.mean() > 0.9
    assert (np.isnan(chip) != np.isnan(expected)).mean() < 0.01
    np.testing.assert_allclose(chip[agree], expected[agree], atol=120 * SCALE)


def test_warped_pixels_do_not_join_own_ones(tmp_path):
    """Where a scene of the own zone is, what another zone sees is not even fetched."""
    to_37 = Transformer.from_crs("EPSG:4326", "EPSG:32637", always_xy=True)
    x, y = (15 + 30 * round((v - 15) / 30) for v in to_37.transform(36.02, 0.8))
    own = write_scene(tmp_path, "own", crs="EPSG:32637", west=x - 30 * 64, north=y + 30 * 64, shape=(128, 64), cloud=0)
    to_36 = Transformer.from_crs("EPSG:4326", "EPSG:32636", always_xy=True)
    x36, y36 = (15 + 30 * round((v - 15) / 30) for v in to_36.transform(36.02, 0.8))
    other = write_scene(tmp_path, "other", west=x36 - 30 * 300, north=y36 + 30 * 300, shape=(600, 600), cloud=0, seed=1)
    sites = sites_at([(x - 30 * 40, y), (x, y)], "EPSG:32637")
    result = fetch([own, other], sites, tmp_path, size_px=32)
    assert row_of(result, "s0")["warped"] == 0
    assert row_of(result, "s1")["warped"] == pytest.approx(0.5, abs=0.05)
    assert row_of(result, "s1")["state"] == "complete"
    chips = open_reader(sites, tmp_path, size_px=32).read_chips(["s0", "s1"], 32)
    np.testing.assert_array_equal(chips[0], composite_at([own], x - 30 * 40, y, 32))
    np.testing.assert_array_equal(chips[1][:, :, :14], composite_at([own], x, y, 32)[:, :, :14])
    alone = BrokenBlocks(tmp_path, "nothing")
    fetch([own, other], sites.iloc[:1], tmp_path, size_px=32, source="alone", block_source=alone)
    assert not any("other" in href for href, _ in alone.asked)


@pytest.mark.parametrize("longitude", [-179.998, 179.998])
def test_chip_over_the_antimeridian(tmp_path, longitude):
    """A zone 1 scene, its footprint in two parts; the sites on either side see the same ground."""
    to_1 = Transformer.from_crs("EPSG:4326", "EPSG:32601", always_xy=True)
    x, y = (15 + 30 * round((v - 15) / 30) for v in to_1.transform(180.0, -17.0))
    scene = write_scene(
        tmp_path, "a", crs="EPSG:32601", west=x - 30 * 200, north=y + 30 * 200, shape=(400, 400), cloud=0
    )
    ring = np.array(shapely.get_coordinates(scene.footprint))
    ring[:, 0] = np.where(ring[:, 0] > 0, ring[:, 0] - 360, ring[:, 0])
    whole = shapely.Polygon(ring)
    east = shapely.intersection(whole, shapely.box(-180, -90, -170, 90))
    beyond = shapely.intersection(whole, shapely.box(-190, -90, -180, 90))
    scene = replace(scene, footprint=shapely.union(east, shapely.transform(beyond, lambda xy: xy + np.array([360, 0]))))
    assert scene.footprint.geom_type == "MultiPolygon"
    site = gpd.GeoDataFrame(geometry=gpd.points_from_xy([longitude], [-17.0], crs="EPSG:4326"), index=["s0"])
    result = fetch([scene], site, tmp_path, size_px=32)
    assert row_of(result)["state"] == "complete"
    chip = open_reader(site, tmp_path, size_px=32).read_chips(["s0"], 32)[0]
    if longitude < 0:
        sx, sy = to_1.transform(longitude, -17.0)
        np.testing.assert_array_equal(chip, composite_at([scene], sx, sy, 32))
    else:
        np.testing.assert_allclose(chip, warp_chip([scene], site, 60, 32), atol=120 * SCALE)


def test_near_a_pole(tmp_path):
    scene = write_scene(tmp_path, "a", crs="EPSG:32633", west=499_995, north=9_300_015, cloud=0, shape=(300, 300))
    sites = sites_at([(504_015.0, 9_295_005.0)], "EPSG:32633")
    assert 83 < sites.geometry.y.iloc[0] < 84
    assert row_of(fetch([scene], sites, tmp_path))["state"] == "complete"
    np.testing.assert_array_equal(
        open_reader(sites, tmp_path).read_chips(["s0"], 64)[0], composite_at([scene], 504_015.0, 9_295_005.0, 64)
    )


@pytest.mark.parametrize("latitude", [83.5, -83.5])
def test_near_a_pole_a_scene_of_the_next_zone_sees_the_site(tmp_path, latitude):
    """Zones are 75 km wide there; the southern file has the southern zone's coordinates, 10,000 km more."""
    crs = "EPSG:32633" if latitude > 0 else "EPSG:32733"
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(18.1, latitude)
    west, north = (phase + 30 * round(v / 30) for v, phase in ((x - 3000, 15), (y + 3000, 15 if latitude > 0 else 25)))
    scene = write_scene(tmp_path, "a", crs=crs, west=west, north=north, shape=(200, 200), cloud=0)
    site = gpd.GeoDataFrame(geometry=gpd.points_from_xy([18.1], [latitude], crs="EPSG:4326"), index=["s0"])
    row = row_of(fetch([scene], site, tmp_path, size_px=32))
    assert (row["state"], row["warped"]) == ("complete", 1.0)
    chip = open_reader(site, tmp_path, size_px=32).read_chips(["s0"], 32)[0]
    np.testing.assert_allclose(chip, warp_chip([scene], site, 34, 32), atol=120 * SCALE)


def test_sites_without_a_place_have_a_line_and_a_missing_chip(tmp_path):
    """Just inside 84 degrees, just beyond on both sides, at a pole, and without coordinates."""
    scene = write_scene(tmp_path, "a", cloud=0)
    nowhere = gpd.points_from_xy([33, 33, 33, 0, np.nan], [84.0, 84.0001, -84.0001, 90, np.nan], crs="EPSG:4326")
    sites = gpd.GeoDataFrame(
        gpd.pd.concat([sites_at([(X, Y)]), gpd.GeoDataFrame(geometry=nowhere, index=list("abcde"))]), crs="EPSG:4326"
    )
    table = fetch([scene], sites, tmp_path, size_px=32).sites.set_index("site_id")
    assert table["state"].tolist() == ["complete", "off imagery", *["no UTM zone"] * 4]
    assert set(table.loc[list("bcde"), "reason"]) == {"beyond 84 degrees of latitude, or without coordinates"}
    chips = open_reader(sites, tmp_path, size_px=32).read_chips(["e", "s0", "d"], 32)
    np.testing.assert_array_equal(np.isnan(chips).all(axis=(1, 2, 3)), [True, False, True])
    np.testing.assert_array_equal(chips[1], composite_at([scene], X, Y, 32))


def test_failed_block_fails_its_pixels_and_no_others(tmp_path):
    scenes = [write_scene(tmp_path, f"a{day}", day=day, cloud=0) for day in (1, 2, 3)]
    points = [(499_995 + 30 * 128, 100_005 - 30 * 64), (499_995 + 30 * 320, 100_005 - 30 * 320)]
    sites = sites_at(points)
    broken = BrokenBlocks(tmp_path, "a2_nir", [(0, 1)])
    result = fetch(scenes, sites, tmp_path, block_source=broken)
    assert result.sites["state"].tolist() == ["failed", "complete"]
    assert row_of(result)["failed"] == pytest.approx(0.5)
    assert "503 after 5 tries" in row_of(result)["reason"]
    assert result.failures == {"503 after 5 tries": 1}
    reader = open_reader(sites, tmp_path)
    with pytest.raises(ImageryError, match="1 chips of 64 px hold pixels whose read failed"):
        reader.read_chips(["s1", "s0"], 64)
    tolerant = open_reader(sites, tmp_path, failed="missing").read_chips(["s0", "s1"], 64)
    assert np.isnan(tolerant[0][:, :, 32:]).all()
    np.testing.assert_array_equal(tolerant[0][:, :, :32], composite_at(scenes, *points[0], 64)[:, :, :32])
    np.testing.assert_array_equal(tolerant[1], composite_at(scenes, *points[1], 64))


@pytest.mark.parametrize("what", ["a2_red", "a2_qa"])
def test_unreadable_header_fails_all_pixels_under_the_scene(tmp_path, what):
    scenes = [write_scene(tmp_path, f"a{day}", day=day, cloud=0) for day in (1, 2)]
    sites = sites_at([(X, Y)])
    result = fetch(scenes, sites, tmp_path, block_source=BrokenBlocks(tmp_path, what, header=True))
    assert row_of(result)["failed"] == 1.0
    assert row_of(result)["reason"] == "503 after 5 tries"


def test_failed_block_of_a_warped_scene_fails_what_its_kernel_touches(tmp_path):
    to_36 = Transformer.from_crs("EPSG:4326", "EPSG:32636", always_xy=True)
    x, y = (15 + 30 * round((v - 15) / 30) for v in to_36.transform(36.01, 0.8))
    scene = write_scene(tmp_path, "a", west=x - 30 * 128, north=y + 30 * 128, shape=(256, 256), cloud=0)
    sites = gpd.GeoDataFrame(geometry=gpd.points_from_xy([36.01], [0.8], crs="EPSG:4326"), index=["s0"])
    result = fetch([scene], sites, tmp_path, size_px=32, block_source=BrokenBlocks(tmp_path, "a_red", [(0, 0)]))
    assert row_of(result)["failed"] == pytest.approx(0.25, abs=0.05)
    assert row_of(result)["valid"] == pytest.approx(0.75, abs=0.05)
    tolerant = open_reader(sites, tmp_path, size_px=32, failed="missing").read_chips(["s0"], 32)[0]
    expected = warp_chip([scene], sites, 37, 32)
    good = np.isfinite(tolerant)
    np.testing.assert_allclose(tolerant[good], expected[good], atol=120 * SCALE)


def test_plan_counts_blocks_without_fetching(tmp_path):
    scenes = [write_scene(tmp_path, f"a{day}", day=day) for day in (1, 2)]
    sites = sites_at([(499_995 + 30 * 64, 100_005 - 30 * 64), (499_995 + 30 * 64, 100_005 - 30 * 64 + 1)])
    source = BrokenBlocks(tmp_path, "nothing")
    plan = plan_fetch(
        {"before": scenes},
        sites,
        bands=BANDS,
        size_px=64,
        folder=tmp_path / "store",
        source="test",
        block_source=source,
    )
    assert (plan.scenes, plan.blocks, plan.shards_stored) == (2, 6, 0)  # one block of each file
    assert not source.asked
    assert not (tmp_path / "store").exists()
    result = fetch(scenes, sites, tmp_path)
    assert result.plan == plan
    assert result.bytes_fetched == pytest.approx(plan.megabytes * 1e6)
    blocks = [LocalBlocks(tmp_path)._open(asset.href).block_bytes[0, 0] for s in scenes for asset in s.assets.values()]
    assert plan.megabytes * 1e6 > sum(blocks) > 30_000


def test_scenes_without_a_band_or_a_known_mask_are_refused(tmp_path):
    scene = write_scene(tmp_path, "a")
    lacking = replace(scene, assets={"red": scene.assets["red"]})
    with pytest.raises(ImageryError, match="1 scenes have no band 'nir'"):
        fetch([scene, lacking], sites_at([(X, Y)]), tmp_path)
    with pytest.raises(ImageryError, match="quality band"):
        fetch([replace(scene, mask_kind=None)], sites_at([(X, Y)]), tmp_path)
    with pytest.raises(ImageryError, match="no scenes"):
        fetch([], sites_at([(X, Y)]), tmp_path)
    with pytest.raises(ImageryError, match="cannot name a folder"):
        fetch([scene], sites_at([(X, Y)]), tmp_path, source="../elsewhere")


def test_local_files_outside_the_catalogue_are_not_opened(tmp_path):
    scene = write_scene(tmp_path, "a")
    (tmp_path / "inner").mkdir()
    with pytest.raises(ImageryError, match="outside the catalogue"):
        fetch([scene], sites_at([(X, Y)]), tmp_path, block_source=LocalBlocks(tmp_path / "inner"))
