"""Embedding in shards: the right numbers in the right places, never computed twice, and bad pixels stop."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers_embeddings import BANDS, STRETCH, ArrayReader, CountingEncoder, spec_of

from eo_cate.embeddings import ENCODERS, embed_sites
from eo_cate.embeddings.chips import prepare_chips
from eo_cate.errors import EmbeddingError
from eo_cate.executor import Executor
from eo_cate.store import Store

IDS = [f"s{i}" for i in range(11)]


@pytest.fixture
def reader():
    return ArrayReader(np.random.default_rng(0).uniform(200, 2000, (11, 3, 20, 20)).astype(np.float32))


@pytest.fixture
def counting(monkeypatch):
    encoder = CountingEncoder()
    monkeypatch.setitem(ENCODERS, "counting", spec_of(encoder))
    return encoder


def embed(reader, store, ids=IDS, **changes):
    options = {
        "encoder": "counting",
        "scales": (8, 20),
        "bands": BANDS,
        "stretch": STRETCH,
        "input_px": 8,
        "batch_size": 3,
        "shard_size": 4,
        "progress": False,
    }
    return embed_sites(reader, ids, store=store, executor=Executor(), **{**options, **changes})


def test_mean_colour_is_the_mean_of_the_stretched_chip(reader, tmp_path):
    ids = ["s7", "s2", "s9", "s0", "s5"]
    bands, stretch = ("B02", "B04", "B03"), ((750.0, 1700.0), (300.0, 1800.0), (500.0, 1600.0))
    found = embed(reader, Store(tmp_path), ids, encoder="mean_colour", bands=bands, stretch=stretch, shard_size=2)
    assert found.dims == ("site", "scale", "time", "feature")
    assert found.shape == (5, 2, 1, 3)
    assert found.dtype == np.float32
    assert list(found.site.values) == ids
    assert list(found.scale.values) == [8, 20]
    assert list(found.time.values) == ["before"]
    for site in ids:
        for scale in (8, 20):
            low = (20 - scale) // 2
            for j, (band, (black, white)) in enumerate(zip(bands, stretch, strict=True)):
                chip = reader.chips[int(site[1:]), BANDS.index(band), low : low + scale, low : low + scale]
                expected = np.clip((chip.astype(float) - black) / (white - black), 0, 1).mean()
                assert found.sel(site=site, scale=scale).values[0, j] == pytest.approx(expected, abs=1e-6)


def test_attributes_say_how_the_features_were_made(reader, tmp_path):
    found = embed(reader, Store(tmp_path), encoder="mean_colour")
    assert found.attrs["encoder"] == "mean_colour"
    assert found.attrs["mode"] == "resize"
    assert found.attrs["input_px"] == 0
    assert found.attrs["bands"] == list(BANDS)
    assert json.loads(found.attrs["stretch"]) == [list(pair) for pair in STRETCH]
    assert list(found.feature.values) == ["mean_colour_0", "mean_colour_1", "mean_colour_2"]


def test_running_again_encodes_and_writes_nothing(reader, counting, tmp_path, monkeypatch):
    first = embed(reader, Store(tmp_path))
    assert sum(counting.calls) == 22
    counting.calls.clear()
    store = Store(tmp_path)
    monkeypatch.setattr(store, "save", lambda *_: pytest.fail("wrote again"))
    again = embed(reader, store, batch_size=5)
    assert counting.calls == []
    np.testing.assert_array_equal(again.values, first.values)


def test_a_killed_run_resumes_where_it_stopped(reader, counting, tmp_path):
    clean = embed(reader, Store(tmp_path / "clean"))
    assert counting.calls == [3, 1, 3, 1, 3] * 2  # batches of 3 in shards of 4, 4 and 3 sites, at two scales
    counting.calls.clear()
    counting.fail_at = 6  # inside the fourth shard
    with pytest.raises(KeyboardInterrupt):
        embed(reader, Store(tmp_path / "killed"))
    done = Store(tmp_path / "killed").stages()["embed"][0]
    counting.fail_at = -1
    counting.calls.clear()
    resumed = embed(reader, Store(tmp_path / "killed"))
    assert done == 3
    assert sum(counting.calls) == 22 - 11
    np.testing.assert_array_equal(resumed.values, clean.values)


@pytest.mark.parametrize("change", [{"stretch": ((0.0, 1800.0), *STRETCH[1:])}, {"bands": BANDS[::-1]}])
def test_other_pixels_or_options_are_other_results(reader, counting, tmp_path, change):
    store = Store(tmp_path)
    first = embed(reader, store)
    counting.calls.clear()
    assert not np.array_equal(embed(reader, store, **change).values, first.values)
    assert sum(counting.calls) == 22


def test_a_changed_pixel_encodes_its_shard_only(reader, counting, tmp_path):
    store = Store(tmp_path)
    embed(reader, store)
    counting.calls.clear()
    chips = reader.chips.copy()
    chips[5, 1, 0, 0] += 100  # a corner: seen by the 20 px chip, not by the 8 px chip
    embed(ArrayReader(chips), store)
    assert sum(counting.calls) == 4


def test_the_size_of_the_input_counts_only_where_it_is_used(reader, counting, tmp_path):
    store = Store(tmp_path)
    embed(reader, store, encoder="mean_colour", input_px=8)
    before = store.stages()["embed"][0]
    embed(reader, store, encoder="mean_colour", input_px=16)
    assert store.stages()["embed"][0] == before
    embed(reader, store)
    between = store.stages()["embed"][0]
    counting.input_px = 16
    embed(reader, store, input_px=16)
    assert store.stages()["embed"][0] == between + 6


def test_batches_and_shards_do_not_change_the_numbers(reader, counting, tmp_path):
    wanted = embed(reader, Store(tmp_path / "a"), batch_size=1, shard_size=11)
    for b, s in ((11, 11), (2, 3), (4, 1)):
        found = embed(reader, Store(tmp_path / f"{b}_{s}"), batch_size=b, shard_size=s)
        np.testing.assert_array_equal(found.values, wanted.values)


def test_sites_in_another_order_are_the_same_rows(reader, counting, tmp_path):
    found = embed(reader, Store(tmp_path / "a"))
    turned = embed(reader, Store(tmp_path / "b"), IDS[::-1])
    np.testing.assert_array_equal(turned.values[::-1], found.values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ["s1", "s2", "s1"]}, "3 given, 1 of them repeated"),
        ({"ids": []}, "0 given"),
        ({"encoder": "mean_color"}, "did you mean mean_colour"),
        ({"bands": ("B04", "B03", "B99")}, r"\['B99'\]"),
        ({"bands": ("B04", "B03")}, "takes 3 bands"),
        ({"stretch": (*STRETCH[:2], (1700.0, 750.0))}, r"stretch of \['B02'\]"),
        ({"stretch": (*STRETCH[:2], (0.0, float("nan")))}, r"stretch of \['B02'\]"),
        ({"scales": (8, 8)}, "different positive"),
        ({"scales": (0,)}, "different positive"),
        ({"batch_size": 0}, "must be positive"),
    ],
)
def test_a_wrong_request_stops_before_any_work(reader, counting, tmp_path, changes, message):
    with pytest.raises(EmbeddingError, match=message):
        embed(reader, Store(tmp_path), **changes)
    assert counting.calls == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_missing_pixels_stop_with_the_count_of_sites(reader, counting, tmp_path, value):
    chips = reader.chips.copy()
    chips[[2, 9], 1, 10, 10] = value
    chips[4, 0, 0, 0] = value
    with pytest.raises(EmbeddingError, match=r"^3 sites have missing pixels"):
        embed(ArrayReader(chips), Store(tmp_path))
    assert counting.calls == []


def test_chips_with_axes_in_another_order_stop(reader, counting, tmp_path, monkeypatch):
    monkeypatch.setattr(ArrayReader, "read_chips", lambda self, ids, px: np.zeros((len(ids), px, px, 3)))
    with pytest.raises(EmbeddingError, match=r"shape \(4, 20, 20, 3\), expected \(4, 3, 20, 20\)"):
        embed(reader, Store(tmp_path), scales=(20,))


class Shifting(ArrayReader):
    def read_chips(self, site_ids, size_px):
        self.chips[:] += 1
        return super().read_chips(site_ids, size_px).copy()


def test_pixels_that_change_under_way_are_not_stored_under_the_old_key(reader, counting, tmp_path):
    store = Store(tmp_path)
    with pytest.raises(EmbeddingError, match="changed during the run"):
        embed(Shifting(reader.chips), store)
    assert store.stages() == {}


class Broken(CountingEncoder):
    def encode(self, images):
        features = super().encode(images)
        features[0, 0] = np.nan
        return features


def test_features_that_are_not_finite_or_not_as_wide_stop(reader, tmp_path, monkeypatch):
    monkeypatch.setitem(ENCODERS, "broken", spec_of(Broken()))
    with pytest.raises(EmbeddingError, match="not finite for 1 of 3 chips"):
        embed(reader, Store(tmp_path), encoder="broken")
    monkeypatch.setitem(ENCODERS, "wide", replace(spec_of(CountingEncoder(dim=7)), name="wide"))
    with pytest.raises(EmbeddingError, match=r"shape \(3, 6\), expected \(3, 7\)"):
        embed(reader, Store(tmp_path), encoder="wide")


def test_stretch_is_linear_clipped_and_per_band():
    chips = np.array([[0, 10, 20], [5, 5, 5], [-1, 0, 100]], dtype=np.float32).reshape(1, 3, 1, 3)
    found = prepare_chips(chips, stretch=((0, 20), (0, 10), (0, 50)), input_px=None)
    np.testing.assert_array_equal(found[0, :, 0], [[0, 0.5, 1], [0.5, 0.5, 0.5], [0, 0, 1]])


def test_resize_keeps_the_picture_upright_and_within_bounds():
    chips = np.zeros((2, 3, 16, 16), dtype=np.float32)
    chips[0, 0, :8] = 1  # the top half of the first band
    chips[1, 2, :, :8] = 1  # the left half of the third
    found = prepare_chips(chips, stretch=((0, 1),) * 3, input_px=28)
    assert found.shape == (2, 3, 28, 28)
    assert found.min() >= 0
    assert found.max() <= 1
    assert found[0, 0, :12].min() > 0.9
    assert found[0, 0, 16:].max() < 0.1
    assert found[1, 2, :, :12].min() > 0.9
    assert not found[0, 1:].any()


def test_downscaling_is_antialiased():
    board = np.indices((32, 32)).sum(axis=0) % 2
    chips = np.broadcast_to(board, (1, 3, 32, 32)).astype(np.float32)
    found = prepare_chips(chips, stretch=((0, 1),) * 3, input_px=8)
    np.testing.assert_allclose(found[..., 1:-1, 1:-1], 0.5, atol=0.02)
