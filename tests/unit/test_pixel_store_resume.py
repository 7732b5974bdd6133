"""What is stored is never done again, and the bytes do not tell how many runs it took."""

import errno
import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from helpers_pixel_store import (
    BANDS,
    SOURCE,
    BrokenBlocks,
    composite_at,
    fetch,
    hash_files,
    open_reader,
    sites_at,
    write_scene,
)

from eo_cate.errors import ImageryError, StoreError
from eo_cate.imagery.local_blocks import LocalBlocks
from eo_cate.imagery.pixel_store import PixelStoreReader, fetch_pixels
from eo_cate.imagery.pixel_store.layout import lock_store

WEST, NORTH = 499_995, 100_005


@pytest.fixture
def scenes(tmp_path):
    return [write_scene(tmp_path, f"a{day}", day=day) for day in (1, 2, 3)]


def spread(count: int):
    rng = np.random.default_rng(3)
    return sites_at([(WEST + 30 * c, NORTH - 30 * r) for r, c in rng.integers(40, 560, (count, 2))])


def test_second_run_fetches_nothing_and_changes_nothing(tmp_path, scenes):
    sites = spread(6)
    first = fetch(scenes, sites, tmp_path)
    before = hash_files(tmp_path / "store")
    source = BrokenBlocks(tmp_path, "")  # every read would fail
    second = fetch(scenes, sites, tmp_path, block_source=source)
    assert (second.plan.shards, second.plan.shards_stored, second.blocks_fetched) == (0, first.plan.shards, 0)
    assert not source.asked
    assert hash_files(tmp_path / "store") == before
    assert second.sites.equals(first.sites)


def test_sites_that_come_later_give_the_bytes_of_all_at_once(tmp_path, scenes):
    sites = spread(8)
    fetch(scenes, sites.iloc[:3], tmp_path)
    old = open_reader(sites.iloc[:3], tmp_path).read_chips(["s0", "s1", "s2"], 64)
    fetch(scenes, sites.iloc[5:], tmp_path)
    fetch(scenes, sites, tmp_path)
    grown = hash_files(tmp_path / "store")
    np.testing.assert_array_equal(open_reader(sites, tmp_path).read_chips(["s0", "s1", "s2"], 64), old)
    shutil.move(tmp_path / "store", tmp_path / "grown")
    fetch(scenes, sites, tmp_path)
    assert hash_files(tmp_path / "store") == grown


def test_failed_pixels_alone_are_fetched_again(tmp_path, scenes):
    sites = spread(6)
    fetch(scenes, sites, tmp_path)
    undisturbed = hash_files(tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    first = fetch(scenes, sites, tmp_path, block_source=BrokenBlocks(tmp_path, "a2_red", [(1, 1), (3, 3)]))
    assert set(first.sites["state"]) >= {"failed"}
    assert hash_files(tmp_path / "store") != undisturbed
    again = BrokenBlocks(tmp_path, "nothing")
    second = fetch(scenes, sites, tmp_path, block_source=again)
    assert {block for href, block in again.asked if "a2_red" in href} <= {(1, 1), (3, 3)}
    assert 0 < second.blocks_fetched < first.blocks_fetched
    assert "failed" not in set(second.sites["state"])
    assert hash_files(tmp_path / "store") == undisturbed


def test_changed_scenes_are_computed_anew(tmp_path, scenes):
    sites = spread(3)
    fetch(scenes[:2], sites, tmp_path)
    reader = open_reader(sites, tmp_path)
    result = fetch(scenes, sites, tmp_path)
    assert result.plan.shards_stored == 0
    assert open_reader(sites, tmp_path).digest != reader.digest
    x, y = (sites.to_crs("EPSG:32636").geometry.x.iloc[0], sites.to_crs("EPSG:32636").geometry.y.iloc[0])
    np.testing.assert_array_equal(
        open_reader(sites, tmp_path).read_chips(["s0"], 64)[0], composite_at(scenes, x, y, 64)
    )


def test_a_scene_far_away_changes_nothing(tmp_path, scenes):
    sites = spread(3)
    fetch(scenes, sites, tmp_path)
    far = write_scene(tmp_path, "far", west=WEST + 30 * 4096)
    assert fetch([*scenes, far], sites, tmp_path).plan.shards == 0


def test_little_memory_costs_fetches_not_pixels(tmp_path, scenes):
    sites = spread(40)
    ample = fetch(scenes, sites, tmp_path)
    small = fetch(scenes, sites, tmp_path, source="small", cache_bytes=200_000)
    assert ample.blocks_fetched == ample.plan.blocks == small.plan.blocks
    assert small.blocks_evicted > 0
    assert small.blocks_fetched == small.plan.blocks + small.blocks_evicted
    a, b = (hash_files(tmp_path / "store" / name) for name in (SOURCE, "small"))
    del a["before/32636/zarr.json"], b["before/32636/zarr.json"]  # it names the source
    assert a == b


def test_disk_full_leaves_what_was_stored(tmp_path, scenes, monkeypatch):
    sites, synced, sync = spread(6), [], os.fsync
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), sync(descriptor)))
        fetch(scenes, sites, tmp_path)
    undisturbed = hash_files(tmp_path / "store")
    for nth in np.linspace(1, len(synced), 6).astype(int):
        shutil.rmtree(tmp_path / "store")
        calls, fsync = [0], os.fsync

        def full(descriptor: int, calls=calls, nth=nth, fsync=fsync) -> None:
            calls[0] += 1
            if calls[0] >= nth:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StoreError, match="No space left"):
                fetch(scenes, sites, tmp_path)
        left = hash_files(tmp_path / "store")
        assert not any(name.endswith(".tmp") for name in left)
        kept = {name for name, content in left.items() if undisturbed.get(name) != content}
        assert all(name.endswith(".jsonl") for name in kept)  # a manifest with fewer lines
        fetch(scenes, sites, tmp_path)
        assert hash_files(tmp_path / "store") == undisturbed


def test_one_writer_at_a_time(tmp_path, scenes):
    with lock_store(tmp_path / "store" / SOURCE), pytest.raises(StoreError, match="another process"):
        fetch(scenes, spread(1), tmp_path)


def test_other_bands_or_resolution_need_another_source(tmp_path, scenes):
    sites = spread(1)
    fetch(scenes, sites, tmp_path)
    with pytest.raises(ImageryError, match="another source's folder"):
        fetch(scenes, sites, tmp_path, resolution_m=60)


def test_periods_are_groups_of_their_own_over_one_run(tmp_path, scenes):
    sites = spread(2)
    source = BrokenBlocks(tmp_path, "nothing")
    result = fetch_pixels(
        {"y2000": scenes[:2], "y2001": scenes[1:]},
        sites,
        bands=BANDS,
        size_px=32,
        folder=tmp_path / "store",
        source=SOURCE,
        block_source=source,
        progress=False,
    )
    assert result.sites["period"].tolist() == ["y2000"] * 2 + ["y2001"] * 2
    assert len(source.asked) == len(set(source.asked)) == result.plan.blocks  # the scene of both is read once


class Versions(LocalBlocks):
    """Files whose ETag is the hash of their bytes; counts the blocks that are read."""

    def __init__(self, root):
        super().__init__(root)
        self.asked = []

    async def open(self, href):
        return replace(await super().open(href), etag=hashlib.sha256(Path(href).read_bytes()).hexdigest())

    async def read_blocks(self, href, blocks):
        self.asked += [(href, block) for block in blocks]
        return await super().read_blocks(href, blocks)


def test_files_that_changed_are_fetched_again_when_that_is_asked_and_never_mixed(tmp_path, scenes):
    """Also under sites that are not asked for this time; what lies under other files stays."""
    far = write_scene(tmp_path, "far", west=WEST + 30 * 4096)
    here, far_site = spread(3), sites_at([(WEST + 30 * 4396, NORTH - 30 * 300)]).set_axis(["far"])
    everywhere = gpd.GeoDataFrame(gpd.pd.concat([here, far_site]), crs="EPSG:4326")
    every = [*scenes, far]
    noted = fetch(every, everywhere, tmp_path, block_source=Versions(tmp_path)).etags
    assert len(noted) == 12

    source = Versions(tmp_path)
    same = fetch(every, everywhere, tmp_path, block_source=source, etags=noted, renew=True)
    assert (same.plan.files_changed, same.plan.shards, source.asked) == (0, 0, [])
    assert same.etags == noted

    write_scene(tmp_path, "a2", day=2, seed=9)
    with pytest.raises(ImageryError, match=r"3 of \d+ files changed.*--refresh"):
        fetch(every, spread(8), tmp_path, block_source=Versions(tmp_path), etags=noted)
    source = Versions(tmp_path)
    few = everywhere.loc[["s0", "far"]]
    renewed = fetch(every, few, tmp_path, block_source=source, etags=noted, renew=True)
    assert renewed.plan.files_changed == 3
    assert not any("far" in href for href, _ in source.asked)
    assert {href for href, etag in renewed.etags.items() if noted[href] != etag} == {
        a.href for a in (*scenes[1].assets.values(), scenes[1].mask)
    }
    x, y = (here.to_crs("EPSG:32636").geometry.x.iloc[0], here.to_crs("EPSG:32636").geometry.y.iloc[0])
    chip = open_reader(few, tmp_path).read_chips(["s0"], 64)[0]
    np.testing.assert_array_equal(chip, composite_at(scenes, x, y, 64))

    fetch(every, everywhere, tmp_path, block_source=Versions(tmp_path), etags=renewed.etags)
    grown = hash_files(tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    fetch(every, everywhere, tmp_path, block_source=Versions(tmp_path))
    assert hash_files(tmp_path / "store") == grown


def test_a_shard_of_old_files_is_refused_until_it_is_fetched_again(tmp_path, scenes):
    """The site that is asked for lies in another shard, under the same scene."""
    wide = write_scene(tmp_path, "wide", shape=(300, 1400))
    scenes = [wide]
    sites = sites_at([(WEST + 30 * 100, NORTH - 30 * 150), (WEST + 30 * 1300, NORTH - 30 * 150)])
    noted = fetch(scenes, sites, tmp_path, block_source=Versions(tmp_path)).etags
    places = open_reader(sites, tmp_path).places["col"] // 1024
    assert places.nunique() == 2
    write_scene(tmp_path, "wide", shape=(300, 1400), seed=9)
    fetch(scenes, sites.iloc[:1], tmp_path, block_source=Versions(tmp_path), etags=noted, renew=True)
    with pytest.raises(StoreError, match="run eo-cate fetch"):
        open_reader(sites, tmp_path).read_chips(["s1"], 64)


def test_a_changed_file_is_fetched_again_for_every_source_that_holds_it(tmp_path, scenes):
    """Both share what is noted of the files: the second must not take its old pixels for those of the new file."""
    sites = spread(2)
    noted = fetch(scenes, sites, tmp_path, block_source=Versions(tmp_path)).etags
    fetch(scenes, sites, tmp_path, block_source=Versions(tmp_path), etags=noted, source="other")
    write_scene(tmp_path, "a2", day=2, seed=9)
    renewed = fetch(scenes, sites, tmp_path, block_source=Versions(tmp_path), etags=noted, renew=True)
    again = fetch(scenes, sites, tmp_path, block_source=Versions(tmp_path), etags=renewed.etags, source="other")
    assert again.plan.shards_stored == 0
    chips = [
        PixelStoreReader(tmp_path / "store", name, "before", sites, size_px=64).read_chips(["s0", "s1"], 64)
        for name in (SOURCE, "other")
    ]
    np.testing.assert_array_equal(*chips)


async def _inside_a_loop(scenes, sites, folder):
    return fetch(scenes, sites, folder)


def test_runs_where_a_loop_runs_already(tmp_path, scenes):
    import asyncio

    assert asyncio.run(_inside_a_loop(scenes, spread(1), tmp_path)).plan.shards >= 1
