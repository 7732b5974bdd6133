"""What is stored is never done again, and the bytes do not tell how many runs it took."""

import errno
import os
import shutil

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
from eo_cate.imagery.pixel_store import fetch_pixels
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


async def _inside_a_loop(scenes, sites, folder):
    return fetch(scenes, sites, folder)


def test_runs_where_a_loop_runs_already(tmp_path, scenes):
    import asyncio

    assert asyncio.run(_inside_a_loop(scenes, spread(1), tmp_path)).plan.shards >= 1
