"""Files of many bands through the pixel store: annual embeddings, quantised, whole and never averaged."""

import asyncio
import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import rasterio
from helpers_annual import band_names, fetch_annual, make_annual, newest_chip, places_around, read_scenes
from helpers_pixel_store import BANDS, BrokenBlocks, sites_at, write_scene
from helpers_remote import LOOPBACK, QUICK, read_all

from eo_cate.errors import ImageryError
from eo_cate.imagery.local_blocks import LocalBlocks
from eo_cate.imagery.pixel_store.composite import FAILED
from eo_cate.imagery.pixel_store.footprints import Footprints
from eo_cate.imagery.pixel_store.layout import open_array
from eo_cate.imagery.remote import RemoteBlocks
from eo_cate.imagery.scenes import Asset, ReadFailure
from eo_cate.imagery.stac import FoundScenes, SearchRequest, freeze_scenes, read_frozen
from eo_cate.simulation.range_server import serve_folder
from eo_cate.store import digest

OFFSETS = [(0.0, 0.0), (-420.0, 310.0), (700.0, -505.0), (-900.0, -650.0)]
SIZE = 32


def files_of(scenes, folder, address=None):
    """Per scene its files, in the order of bands."""
    hrefs = [list(dict.fromkeys(asset.href for asset in scene.assets.values())) for scene in scenes]
    return [[folder / href.removeprefix(f"{address or folder.resolve()}/") for href in own] for own in hrefs]


def assert_chips(reader, scenes, folder, address=None):
    ids = list(reader.places.index)
    chips = reader.read_chips(ids, SIZE)
    for site, chip in zip(ids, chips, strict=True):
        expected = newest_chip(files_of(scenes, folder, address), reader, site, SIZE)
        assert chip.tobytes() == expected.tobytes(), site
    return chips


LAYOUTS = {
    "pixel deflate": {},
    "band deflate": {"interleave": "band"},
    "pixel zstd": {"compress": "zstd"},
    "pixel none": {"compress": "none"},
    "band lzw, by GDAL": {"interleave": "band", "compress": "lzw"},
    "pixel lzw, by GDAL": {"compress": "lzw"},
    "rows from south to north": {"south_up": True},
    "rows from south to north, by band": {"south_up": True, "interleave": "band"},
    "a scale for each pixel": {"scheme": "scaled"},
    "a scale for each pixel, by band": {"scheme": "scaled", "interleave": "band"},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_chips_are_rasterios_windows_and_each_block_is_fetched_once(tmp_path, name):
    spec = make_annual(tmp_path / "archive", masked_share=0.1, **LAYOUTS[name])
    bands, folder = band_names(spec), tmp_path / "archive"
    with serve_folder(folder) as server:
        scenes = read_scenes(folder, bands, server.address)
        source = RemoteBlocks(LOOPBACK, retry=QUICK)
        result, reader = fetch_annual(scenes, places_around(OFFSETS), tmp_path / "store", bands, source)
        asked = [(entry.path, entry.start, entry.end) for entry in server.log]
        chips = assert_chips(reader, scenes, folder, server.address)
    counts = source.counts
    assert np.isfinite(chips).any()
    assert np.isnan(chips).any()
    assert reader.bands == bands
    assert result.failures == {}
    assert len(asked) == len(set(asked)), "a range was fetched twice"
    assert result.blocks_fetched == result.plan.blocks == counts.blocks_needed == counts.blocks_decoded
    assert counts.block_bytes <= 1.05 * counts.needed_bytes
    assert result.bytes_fetched == counts.needed_bytes


def test_bands_may_be_chosen_and_put_in_any_order(tmp_path):
    spec = make_annual(tmp_path)
    everything = band_names(spec)
    sites = places_around(OFFSETS)
    _, whole = fetch_annual(read_scenes(tmp_path, everything), sites, tmp_path / "a", everything, LocalBlocks(tmp_path))
    few = ("embedding:A04", "embedding:2", "embedding:A05")
    _, chosen = fetch_annual(read_scenes(tmp_path, few), sites, tmp_path / "b", few, LocalBlocks(tmp_path))
    ids = list(sites.index)
    assert chosen.read_chips(ids, SIZE).tobytes() == whole.read_chips(ids, SIZE)[:, [4, 1, 5]].tobytes()


@pytest.mark.parametrize("reduction", ["median", "newest"])
def test_one_scene_is_returned_unchanged(tmp_path, reduction):
    """int8 is exact in the store, and so is what it is de-quantised to."""
    spec = make_annual(tmp_path, extent_m=900.0, masked_share=0.05)
    (scene,) = read_scenes(tmp_path, band_names(spec))[:1]
    with rasterio.open(scene.assets["embedding:A00"].href) as source:
        sites = sites_at([source.xy(96, 96)])
    options = {"reduction": reduction}
    _, reader = fetch_annual([scene], sites, tmp_path / "s", band_names(spec), LocalBlocks(tmp_path), **options)
    (chip,) = assert_chips(reader, [scene], tmp_path)
    stored = chip[:, np.isfinite(chip).all(axis=0)]
    assert stored.size
    assert np.array_equal(stored, stored.astype(np.int8))


def test_the_newest_scene_is_taken_whole_and_older_ones_fill_what_it_masks(tmp_path):
    """In the median of two years every number would be between the two."""
    spec = make_annual(tmp_path, years=[2017, 2018], masked_share=0.2)
    bands, sites = band_names(spec), places_around(OFFSETS)
    scenes = read_scenes(tmp_path, bands)
    mask_another(scenes)
    _, newest = fetch_annual(scenes[::-1], sites, tmp_path / "newest", bands, LocalBlocks(tmp_path))
    chips = assert_chips(newest, scenes, tmp_path)
    _, late = fetch_annual(scenes[len(scenes) // 2 :], sites, tmp_path / "late", bands, LocalBlocks(tmp_path))
    alone = late.read_chips(list(sites.index), SIZE)
    seen = np.isfinite(alone)
    assert np.array_equal(chips[seen], alone[seen])
    assert np.isfinite(chips).sum() > seen.sum()
    _, median = fetch_annual(scenes, sites, tmp_path / "median", bands, LocalBlocks(tmp_path), reduction="median")
    mixed = median.read_chips(list(sites.index), SIZE)
    assert (mixed[seen] != alone[seen]).mean() > 0.5


def mask_another(scenes):
    """Take the older scenes' masks away: the darkest ground is the same each year."""
    for scene in scenes[: len(scenes) // 2]:
        with rasterio.open(scene.assets["embedding:A00"].href, "r+") as sink:
            pixels = sink.read()
            sink.write(np.where(pixels == -128, 5, pixels).astype(np.int8))


def test_pixels_of_another_grid_are_the_nearest_and_not_interpolated(tmp_path):
    spec = make_annual(tmp_path)
    bands, sites = band_names(spec), places_around(OFFSETS[:2])
    scenes = read_scenes(tmp_path, bands)
    options = {"resolution_m": 7.0}
    _, reader = fetch_annual(scenes, sites, tmp_path / "s", bands, LocalBlocks(tmp_path), **options)
    chips = reader.read_chips(list(sites.index), SIZE)
    assert np.array_equal(chips, np.rint(chips)), "a stored number is a file's, or it was interpolated"
    a, _, west, _, e, north = reader.grid.transform
    row, col = reader.places.iloc[0][["row", "col"]]
    x = west + a * (col - SIZE // 2 + 0.5 + np.arange(SIZE))
    y = north + e * (row - SIZE // 2 + 0.5 + np.arange(SIZE))
    expected = np.full((len(bands), SIZE, SIZE), np.nan, dtype=np.float32)
    for (path,) in files_of(scenes, tmp_path):
        with rasterio.open(path) as source:
            rows = np.floor((source.bounds.top - y) / 10).astype(int)
            columns = np.floor((x - source.bounds.left) / 10).astype(int)
            inside = np.logical_and.outer(
                (rows >= 0) & (rows < source.height), (columns >= 0) & (columns < source.width)
            )
            values = source.read()[:, rows.clip(0, source.height - 1)][:, :, columns.clip(0, source.width - 1)]
        expected = np.where(inside, values, expected)  # the newest comes last
    assert np.array_equal(chips[0], expected)


# what fails


def test_a_block_that_failed_is_failed_in_all_bands_and_never_nodata(tmp_path):
    spec = make_annual(tmp_path)
    bands, sites = band_names(spec), places_around(OFFSETS)
    scenes = read_scenes(tmp_path, bands)
    spy = BrokenBlocks(tmp_path, "nothing")
    fetch_annual(scenes, sites, tmp_path / "whole", bands, spy)
    ((file, _),) = Counter(href for href, _ in spy.asked).most_common(1)
    broken = BrokenBlocks(tmp_path, file)
    result, reader = fetch_annual(scenes, sites, tmp_path / "store", bands, broken)
    assert set(result.failures) == {"503 after 5 tries"}
    assert len(broken.asked) == len(set(broken.asked)) == result.blocks_fetched
    failed = result.sites.set_index("site_id")["state"] == "failed"
    assert failed.any()
    chips = reader.read_chips(list(sites.index), SIZE)
    for lost, chip in zip(failed, chips, strict=True):
        assert np.isnan(chip).any() == lost
        assert (np.isnan(chip).any(axis=0) == np.isnan(chip).all(axis=0)).all()
    folder = tmp_path / "store" / "annual" / "before" / "32636"
    places = reader.places[failed.to_numpy()].iloc[0]
    state = open_array(folder, "state")[
        places["row"] - 16 : places["row"] + 16, places["col"] - 16 : places["col"] + 16
    ]
    assert (state == FAILED).any()
    again, whole = fetch_annual(scenes, sites, tmp_path / "store", bands, LocalBlocks(tmp_path))
    assert again.blocks_fetched > 0
    assert_chips(whole, scenes, tmp_path)


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_a_damaged_block_of_one_band_fails_the_block(tmp_path, interleave):
    make_annual(tmp_path, extent_m=900.0, interleave=interleave)
    path = next(tmp_path.rglob("embedding.tif"))
    with rasterio.open(path) as source:
        band = 4 if interleave == "band" else 1
        offset, size = (int(source.get_tag_item(f"BLOCK_{k}_1_1", "TIFF", bidx=band)) for k in ("OFFSET", "SIZE"))
    content = bytearray(path.read_bytes())
    content[offset + size // 2] ^= 0x10
    path.write_bytes(content)
    with serve_folder(tmp_path) as server:
        _, found, counts = read_all(server, str(path.relative_to(tmp_path)))
    assert isinstance(found.pop((1, 1)), ReadFailure)
    assert all(isinstance(pixels, np.ndarray) for pixels in found.values())
    assert counts.blocks_failed == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 1}, r"has 6 bands, and was named as one; name its bands in imagery\.bands, KEY:1-6"),
        ({"count": 64}, "has 6 bands, and its catalogue lists 64"),
        ({"count": 0, "band": 7}, r"has 6 bands, and imagery\.bands names number 7"),
    ],
)
def test_another_number_of_bands_is_refused_before_pixels_are_read(tmp_path, changes, message):
    spec = make_annual(tmp_path, extent_m=900.0)
    scenes = read_scenes(tmp_path, band_names(spec))
    wrong = [dataclasses.replace(scenes[0], assets={"x": Asset(scenes[0].assets["embedding:A00"].href, **changes)})]
    blocks = BrokenBlocks(tmp_path, "nothing")
    with pytest.raises(ImageryError, match=message):
        fetch_annual(wrong, places_around(OFFSETS), tmp_path / "store", ("x",), blocks)
    assert blocks.asked == []
    assert not list((tmp_path / "store").rglob("zarr.json"))


@pytest.mark.parametrize(
    ("count", "block", "size", "refused"),
    [
        (64, 1024, 8192, False),  # a tile of AlphaEarth
        (128, 1024, 4096, False),
        (64, 2048, 8192, True),
        (128, 2048, 2048, True),
        (64, 512, 16384, True),
        (513, 64, 128, True),  # more bands than any product has
    ],
)
def test_caps_count_the_bands_of_a_block_before_it_is_fetched(tmp_path, count, block, size, refused):
    path = tmp_path / "wide.tif"
    profile = {"driver": "GTiff", "dtype": "int8", "count": count, "height": size, "width": size, "crs": "EPSG:32636"}
    profile |= {"tiled": True, "blockxsize": block, "blockysize": block, "interleave": "pixel", "bigtiff": "yes"}
    place = rasterio.Affine(10, 0, 5e5, 0, -10, 4e6)
    with rasterio.open(path, "w", **profile, compress="deflate", sparse_ok="TRUE", transform=place):
        pass

    async def open_both():
        with serve_folder(tmp_path) as server:
            async with RemoteBlocks(LOOPBACK, retry=QUICK) as source:
                return await source.open(server.href(path.name)), await LocalBlocks(tmp_path).open(path.name)

    remote, local = asyncio.run(open_both())
    assert isinstance(remote, ReadFailure) == refused
    assert isinstance(local, ReadFailure) == (refused and count <= 128)
    if refused:
        assert f"({count} bands)" in remote.reason


# what earlier versions stored


def test_scenes_of_one_band_per_file_keep_their_digest_and_their_manifest(tmp_path):
    scene = write_scene(tmp_path, "a")
    assets = [*(scene.assets[band] for band in BANDS), scene.mask]
    files = [[asset.href, asset.scale, asset.offset, asset.nodata] for asset in assets]
    expected = digest("a", scene.acquired.isoformat(), files, scene.mask_kind, scene.crs)
    assert list(Footprints([scene], BANDS).digests) == [expected]

    request = SearchRequest("stac", "x", "c", BANDS, (), frozenset())
    path = tmp_path / "scenes.json"
    freeze_scenes(path, {"before": FoundScenes((scene,))}, request)
    content = json.loads(path.read_text())
    del content["sha256"]
    (stored,) = content["periods"]["before"]["scenes"]
    for asset in (*stored["assets"].values(), stored["mask"]):
        assert (asset.pop("band"), asset.pop("count")) == (1, 1)
    path.write_text(json.dumps({"sha256": digest(content), **content}))
    (again,) = read_frozen(path, request).scenes["before"]
    assert (again.assets, again.mask) == (dict(scene.assets), scene.mask)
