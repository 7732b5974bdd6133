"""Where two UTM zones meet: another zone's scenes fill what the own zone's leave, pixel by pixel, and nothing else."""

import shutil

import numpy as np
import pytest
from helpers_pixel_store import (
    SCALE,
    BrokenBlocks,
    composite_at,
    fetch,
    hash_files,
    open_reader,
    sites_at,
    warp_chip,
    write_scene,
)
from pyproj import Transformer

from eo_cate.imagery.pixel_store.layout import read_shard

SIZE = 32
OWN = "EPSG:32637"


def snap(value):
    return 15 + 30 * round((value - 15) / 30)


X, Y = map(snap, Transformer.from_crs("EPSG:4326", OWN, always_xy=True).transform(36.02, 0.8))
X36, Y36 = map(snap, Transformer.from_crs("EPSG:4326", "EPSG:32636", always_xy=True).transform(36.02, 0.8))
POINTS = [(X, Y), (X - 30 * 60, Y), (X + 30 * 60, Y)]
"""s0 over the edge of the own zone's data, s1 inside it, s2 in its fill: all three under its footprint."""


def write_own(folder, *, cloud=0.0, days=(1, 2), first_empty=100):
    """Scenes of zone 37 whose sensor saw nothing from column ``first_empty`` (of 200) on; s0 is at column 100."""
    place = {"crs": OWN, "west": X - 30 * 100, "north": Y + 30 * 100, "shape": (200, 200), "cloud": cloud}
    return [write_scene(folder, f"own{d}", day=d, gap=np.s_[:, first_empty:], **place) for d in days]


def write_other(folder, *, cloud=0.0, days=(3, 4)):
    place = {"west": X36 - 30 * 300, "north": Y36 + 30 * 300, "shape": (600, 600), "cloud": cloud}
    return [write_scene(folder, f"other{d}", day=d, seed=1, **place) for d in days]


def rows(result):
    return result.sites.set_index("site_id")


@pytest.fixture
def sites():
    return sites_at(POINTS, OWN)


def test_fill_under_the_own_zones_footprint_is_seen_from_the_other_zone(tmp_path, sites):
    own, other = write_own(tmp_path), write_other(tmp_path)
    table = rows(fetch([*own, *other], sites, tmp_path, size_px=SIZE))
    assert table["state"].tolist() == ["complete"] * 3
    assert table["warped"].tolist() == [0.5, 0.0, 1.0]
    assert "50% of pixels seen from another UTM zone only" in table.loc["s0", "reason"]
    assert table["least_clear"].tolist() == [2, 2, 2]
    chips = open_reader(sites, tmp_path, size_px=SIZE).read_chips(["s0", "s1", "s2"], SIZE)
    warped = warp_chip(other, sites.loc[["s0"]], 37, SIZE)
    np.testing.assert_array_equal(chips[0][:, :, :16], composite_at(own, *POINTS[0], SIZE)[:, :, :16])
    np.testing.assert_allclose(chips[0][:, :, 16:], warped[:, :, 16:], atol=120 * SCALE)
    np.testing.assert_array_equal(chips[1], composite_at(own, *POINTS[1], SIZE))
    np.testing.assert_allclose(chips[2], warp_chip(other, sites.loc[["s2"]], 37, SIZE), atol=120 * SCALE)


def test_cloud_on_all_own_dates_is_filled_and_a_clear_own_pixel_never_mixed(tmp_path, sites):
    own, other = write_own(tmp_path, cloud=0.5, first_empty=200), write_other(tmp_path, cloud=0.3)
    result = fetch([*own, *other], sites, tmp_path, size_px=SIZE)
    chips = open_reader(sites, tmp_path, size_px=SIZE).read_chips(["s0", "s1", "s2"], SIZE)
    for k, chip in enumerate(chips):
        alone = composite_at(own, *POINTS[k], SIZE)
        clear = np.isfinite(alone).all(axis=0)
        assert 0.3 < clear.mean() < 1
        np.testing.assert_array_equal(chip[:, clear], alone[:, clear])
        seen = warp_chip(other, sites.iloc[[k]], 37, SIZE)
        filled = ~clear & np.isfinite(chip).all(axis=0)
        assert filled.mean() == pytest.approx(rows(result)["warped"].iloc[k])
        assert (np.isfinite(chip[0]) == (clear | np.isfinite(seen).all(axis=0))).mean() > 0.99
        both = filled & np.isfinite(seen).all(axis=0)
        np.testing.assert_allclose(chip[:, both], seen[:, both], atol=120 * SCALE)


def test_counts_of_a_pixel_that_no_zone_sees_clearly_are_those_of_all_zones(tmp_path):
    own, other = write_own(tmp_path, cloud=1.0, first_empty=200), write_other(tmp_path, cloud=1.0)
    result = fetch([*own, *other], sites_at(POINTS[:1], OWN), tmp_path, size_px=SIZE)
    assert rows(result)[["state", "cloudy", "warped"]].iloc[0].tolist() == ["cloudy", 1.0, 0.0]
    assert "never clear in 4 scenes" in rows(result)["reason"].iloc[0]
    (path,) = (tmp_path / "store").rglob("32637.jsonl")
    folder, (row, col) = (
        path.with_suffix(""),
        np.array(open_reader(sites_at(POINTS[:1], OWN), tmp_path, size_px=SIZE).places[["row", "col"]])[0],
    )
    shard = read_shard(folder, row // 1024, col // 1024)
    assert shard.observation_count[row % 1024, col % 1024] == 4
    assert shard.clear_count.max() == 0


def test_the_bytes_do_not_tell_which_sites_came_first(tmp_path, sites):
    scenes = [*write_own(tmp_path, cloud=0.3), *write_other(tmp_path, cloud=0.3)]
    fetch(scenes, sites, tmp_path, size_px=SIZE)
    at_once = hash_files(tmp_path / "store")
    for order in (["s0", "s1", "s2"], ["s2", "s0", "s1"]):
        shutil.rmtree(tmp_path / "store")
        for name in order:
            fetch(scenes, sites.loc[[name]], tmp_path, size_px=SIZE)
        fetch(scenes[::-1], sites, tmp_path, size_px=SIZE)
        assert hash_files(tmp_path / "store") == at_once


@pytest.mark.parametrize(
    ("word", "header", "failed"),
    [
        ("own1", False, (True, True, True)),  # an own pixel that failed is not seen from elsewhere
        ("own1", True, (True, True, True)),
        ("other3", False, (True, False, True)),
        ("other3", True, (True, False, True)),
    ],
)
def test_what_fails_is_failed_whichever_zone_and_mends(tmp_path, sites, word, header, failed):
    scenes = [*write_own(tmp_path), *write_other(tmp_path)]
    fetch(scenes, sites, tmp_path, size_px=SIZE)
    undisturbed = hash_files(tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    broken = BrokenBlocks(tmp_path, f"{word}_nir", header=header)
    table = rows(fetch(scenes, sites, tmp_path, size_px=SIZE, block_source=broken))
    assert tuple(table["state"] == "failed") == failed
    assert set(table.loc[list(failed), "reason"].str.partition(";")[0]) == {"503 after 5 tries"}
    fetch(scenes, sites, tmp_path, size_px=SIZE)
    assert hash_files(tmp_path / "store") == undisturbed


def test_a_broken_off_run_goes_on_to_the_same_bytes(tmp_path, sites):
    """It ends while another zone's blocks are fetched for a shard."""
    scenes = [*write_own(tmp_path, cloud=0.3), *write_other(tmp_path, cloud=0.3)]
    result = fetch(scenes, sites, tmp_path, size_px=SIZE)
    assert result.blocks_fetched > result.plan.blocks, "what fills is known only once own pixels are read"
    undisturbed = hash_files(tmp_path / "store")
    shutil.rmtree(tmp_path / "store")

    class Ending(BrokenBlocks):
        async def read_blocks(self, href, blocks):
            if "other" in href:
                raise KeyboardInterrupt
            return await super().read_blocks(href, blocks)

    with pytest.raises(KeyboardInterrupt):
        fetch(scenes, sites, tmp_path, size_px=SIZE, block_source=Ending(tmp_path, "nothing"))
    fetch(scenes, sites, tmp_path, size_px=SIZE)
    assert hash_files(tmp_path / "store") == undisturbed
