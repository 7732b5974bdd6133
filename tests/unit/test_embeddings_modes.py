"""Modes, masked pixels, augmentation, metres, periods and export."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import xarray as xr
from helpers_embeddings import BANDS, STRETCH, ArrayReader, CountingEncoder, spec_of

from eo_cate.embeddings import (
    ENCODERS,
    embed_sites,
    export_embedding,
    find_missing,
    join_periods,
    open_encoder,
    scales_in_pixels,
)
from eo_cate.embeddings.chips import fill_missing, prepare_chips, turn_images
from eo_cate.embeddings.device import choose_device
from eo_cate.embeddings.modes import centre_weights, native_px
from eo_cate.errors import EmbeddingError
from eo_cate.executor import Executor
from eo_cate.store import Store
from eo_cate.types import Grid

IDS = [f"s{i}" for i in range(7)]


@pytest.fixture(autouse=True)
def one_thread():
    """Two torch threads on busy cores take ten times the time of one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def reader():
    return ArrayReader(np.random.default_rng(0).uniform(200, 2000, (7, 3, 42, 42)).astype(np.float32))


def embed(reader, folder, ids=IDS, **changes):
    options = {
        "encoder": "random_vit",
        "scales": (14, 42),
        "bands": BANDS,
        "stretch": STRETCH,
        "input_px": 42,
        "batch_size": 2,
        "shard_size": 3,
        "progress": False,
    }
    return embed_sites(reader, ids, store=Store(folder), executor=Executor(), **{**options, **changes})


def prepared(reader, px, side):
    return prepare_chips(reader.read_chips(IDS, px), stretch=STRETCH, input_px=side)


def test_the_keys_of_the_defaults_are_those_of_earlier_versions(reader, tmp_path):
    """Stored embeddings of existing runs stay valid: this is the key as the first version made it."""
    from eo_cate.store import digest

    embed(reader, tmp_path, scales=(14,), shard_size=7)
    encoder, pixels = open_encoder("random_vit", input_px=42), digest(reader.read_chips(IDS, 14))
    key = Store.key("embed", 1, encoder.digest, "resize", 42, BANDS, STRETCH, 14, pixels)
    assert Store(tmp_path).load(key) is not None


def test_native_chips_go_in_at_their_own_size(reader, tmp_path):
    found = embed(reader, tmp_path, mode="native")
    for scale in (14, 42):
        expected = open_encoder("random_vit", input_px=scale).encode(prepared(reader, scale, scale))
        # few tokens: the last bits depend on the batch (2e-6 measured)
        np.testing.assert_allclose(found.sel(scale=scale).values[:, 0], expected, atol=2e-5)
    assert found.attrs["mode"] == "native"
    assert found.attrs["input_px"] == 42
    resized = embed(reader, tmp_path)
    assert not np.allclose(resized.sel(scale=14).values, found.sel(scale=14).values, atol=0.01)


@pytest.mark.parametrize(("scale", "side"), [(14, 14), (16, 14), (20, 14), (21, 28), (32, 28), (64, 70), (128, 126)])
def test_native_sides_are_the_nearest_multiple_of_the_patch(scale, side):
    assert native_px(scale, 14) == side
    assert native_px(scale, 14, most=56) == min(side, 56)


def test_nested_pools_the_tokens_of_one_pass(reader, tmp_path):
    found = embed(reader, tmp_path, mode="nested")
    encoder = open_encoder("random_vit", input_px=42)
    tokens = encoder.encode_tokens(prepared(reader, 42, 42)).astype(np.float64)
    assert tokens.shape == (7, 9, 384)
    grid = tokens.reshape(7, 3, 3, 384)
    np.testing.assert_allclose(found.sel(scale=42).values[:, 0], grid.mean(axis=(1, 2)), atol=2e-5)
    np.testing.assert_allclose(found.sel(scale=14).values[:, 0], grid[:, 1, 1], atol=2e-5)
    whole = encoder._module.forward_features(
        (torch.from_numpy(prepared(reader, 42, 42)) - encoder._mean) / encoder._std
    )
    np.testing.assert_allclose(tokens, whole[:, 1:].detach().numpy(), atol=1e-5)


def test_nested_weights_count_a_patch_by_its_part_inside():
    weights = centre_weights((3, 4), 4)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights[1], 1 / 16)
    np.testing.assert_allclose(weights[0].reshape(4, 4)[0], np.array([0.25, 0.5, 0.5, 0.25]) / 9)


def test_nested_does_not_depend_on_batches_or_shards(reader, tmp_path):
    one = embed(reader, tmp_path / "a", mode="nested")
    other = embed(reader, tmp_path / "b", mode="nested", batch_size=7, shard_size=7)
    np.testing.assert_allclose(one.values, other.values, atol=2e-5)


def test_modes_and_augmentation_never_share_a_result(reader, tmp_path):
    found = [
        embed(reader, tmp_path, **options).values
        for options in ({}, {"mode": "native"}, {"mode": "nested"}, {"augment": "flips8"})
    ]
    for i, one in enumerate(found):
        for other in found[:i]:
            assert not np.allclose(one[:, 0], other[:, 0], atol=1e-3)
    assert Store(tmp_path).stages()["embed"][0] == 6 + 6 + 3 + 6


def test_flips_are_the_mean_over_the_dihedral_group(reader, tmp_path):
    images = prepared(reader, 14, 42)
    turned = list(turn_images(images))
    assert len({t[0].tobytes() for t in turned}) == 8
    np.testing.assert_array_equal(turned[0], images)
    encoder = open_encoder("random_vit", input_px=42)
    expected = np.mean([encoder.encode(t).astype(np.float64) for t in turned], axis=0)
    found = embed(reader, tmp_path, augment="flips8", scales=(14,))
    np.testing.assert_allclose(found.values[:, 0, 0], expected, atol=1e-5)
    mirrored = ArrayReader(np.ascontiguousarray(reader.chips[..., ::-1].swapaxes(2, 3)))
    again = embed(mirrored, tmp_path, augment="flips8", scales=(14,))
    np.testing.assert_allclose(again.values, found.values, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "mean_colour", "mode": "native"}, "mean_colour is none"),
        ({"mode": "native", "scales": (8, 42)}, "smaller than a patch of random_vit, 14 px"),
        ({"mode": "nested", "scales": (8, 42)}, "8 px wide, less than a patch"),
        ({"mode": "whole"}, "choose resize, native or nested"),
        ({"augment": "all"}, "choose none or flips8"),
    ],
)
def test_modes_that_do_not_fit_are_refused(reader, tmp_path, changes, message):
    with pytest.raises(EmbeddingError, match=message):
        embed(reader, tmp_path, **changes)


def test_chips_larger_than_the_imagery_are_refused(tmp_path):
    scene = ArrayReader(np.zeros((7, 3, 42, 42)), grid=Grid("EPSG:32618", (10, 0, 0, 0, -10, 0), (40, 900)))
    with pytest.raises(EmbeddingError, match="42 px is larger than the imagery, 40 x 900 px"):
        embed(scene, tmp_path)


def test_filled_pixels_take_the_mean_of_the_rest(reader):
    chips = reader.chips[:3, :, :10, :10].copy()
    chips[0, 1, :5] = np.nan
    chips[1, 2] = np.nan
    filled = fill_missing(chips)
    np.testing.assert_allclose(filled[0, 1, :5], chips[0, 1, 5:].astype(np.float64).mean(), rtol=1e-6)
    np.testing.assert_array_equal(filled[0, 1, 5:], chips[0, 1, 5:])
    assert not filled[1, 2].any()
    assert fill_missing(chips[2:]) is not None
    np.testing.assert_array_equal(filled[2], chips[2])


def test_missing_pixels_are_filled_up_to_the_share_and_told(reader, tmp_path):
    chips = reader.chips.copy()
    chips[3, 1, :14] = np.nan  # a third of the 42 px chip, nothing of the 14 px chip
    spoiled = ArrayReader(chips)
    with pytest.raises(
        EmbeddingError, match=r"1 sites have missing pixels in a chip of up to 42 px \(more than 20% of"
    ):
        embed(spoiled, tmp_path, encoder="mean_colour", max_missing=0.2)
    found = embed(spoiled, tmp_path, encoder="mean_colour", max_missing=0.34)
    assert found.missing_share.sel(site="s3").values.tolist() == [0, 1 / 3]
    assert not found.missing_share.drop_sel(site="s3").any()
    whole = embed(reader, tmp_path, encoder="mean_colour")
    assert "missing_share" not in whole.coords
    np.testing.assert_array_equal(found.drop_sel(site="s3").values, whole.drop_sel(site="s3").values)
    np.testing.assert_array_equal(found.sel(scale=14).values, whole.sel(scale=14).values)
    np.testing.assert_allclose(find_missing(spoiled, IDS, 42, BANDS), [0, 0, 0, 1 / 3, 0, 0, 0])


def test_scales_in_metres_become_even_pixels():
    assert scales_in_pixels((160, 640, 1280), 10.0) == (16, 64, 128)
    assert scales_in_pixels((160, 640), 14.3) == (12, 44)
    with pytest.raises(EmbeddingError, match=r"set imagery\.resolution_m"):
        scales_in_pixels((160,), None)
    with pytest.raises(EmbeddingError, match="two pixels or more"):
        scales_in_pixels((5,), 10.0)
    with pytest.raises(EmbeddingError, match="different ones"):
        scales_in_pixels((160, 165), 10.0)


def at(value, *, sites=4, digest="d", seed=0):
    values = np.random.default_rng(seed).normal(size=(sites, 2, 1, 3)).astype(np.float32) + value
    coords = {
        "site": [f"s{i}" for i in range(sites)],
        "scale": [16, 64],
        "time": ["before"],
        "feature": ["a", "b", "c"],
    }
    attrs = {"encoder": "timm:x/y", "encoder_digest": digest, "licence": "l", "mode": "resize", "stretch": "[]"}
    return xr.DataArray(values, dims=("site", "scale", "time", "feature"), coords=coords, attrs=attrs)


def test_periods_are_joined_in_time():
    periods = {f"y{2000 + i}": at(i, seed=i) for i in range(4)}
    years = [2000.0, 2001.5, 2003.0, 2007.0]
    found = join_periods(periods, parts=("each", "mean", "change", "trend"), years=years)
    assert list(found.time.values) == [*periods, "mean", "change", "trend"]
    assert found.dims == ("site", "scale", "time", "feature")
    assert found.dtype == np.float32
    stacked = np.stack([p.values[:, :, 0] for p in periods.values()])
    np.testing.assert_array_equal(found.sel(time="y2002").values, stacked[2])
    np.testing.assert_allclose(found.sel(time="mean").values, stacked.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.sel(time="change").values, stacked[3] - stacked[0], atol=1e-6)
    slope = np.polyfit(years, stacked.reshape(4, -1).astype(np.float64), 1)[0]
    np.testing.assert_allclose(found.sel(time="trend").values.ravel(), slope, atol=1e-6)
    assert found.attrs["encoder"] == "timm:x/y"
    one = join_periods({"y2000": periods["y2000"]})
    assert list(one.time.values) == ["y2000"]


@pytest.mark.parametrize(
    ("periods", "options", "message"),
    [
        ({"a": at(0)}, {"parts": ("change",)}, "a change needs 2 periods"),
        ({"a": at(0), "b": at(1)}, {"parts": ("trend",)}, "a trend needs 3 periods"),
        ({"a": at(0), "b": at(1, digest="e")}, {}, "another encoder"),
        ({"a": at(0), "b": at(1, sites=3)}, {}, "other values of `site`"),
        ({"a": at(0), "b": at(1)}, {"parts": ("each", "each")}, "different ones"),
        ({"a": at(0), "mean": at(1)}, {}, r"other names than \['mean'\]"),
        ({"a": at(0), "b": at(1)}, {"years": (2001.0, 2000.0)}, "must increase"),
    ],
)
def test_periods_that_disagree_are_refused(periods, options, message):
    with pytest.raises(EmbeddingError, match=message):
        join_periods(periods, **options)


def test_the_export_holds_vectors_and_no_place(tmp_path):
    embedding = join_periods({"y1": at(0), "y2": at(1, seed=1)}).assign_coords(
        missing_share=(("site", "scale"), np.arange(8.0).reshape(4, 2) / 10)
    )
    table_path, item_path = export_embedding(embedding, tmp_path / "embeddings")
    assert table_path.name == "timm_x_y.parquet"
    table = pq.read_table(table_path)
    assert table.column_names == ["site", "scale", "time", "vector", "missing_share"]
    rows = table.to_pandas()
    assert len(rows) == 16
    for row in rows.itertuples():
        np.testing.assert_array_equal(row.vector, embedding.sel(site=row.site, scale=row.scale, time=row.time).values)
        assert row.missing_share == embedding.missing_share.sel(site=row.site, scale=row.scale)
    item = json.loads(item_path.read_text())
    assert item["geometry"] is None
    assert "bbox" not in item
    assert item["properties"]["embedding:encoder_digest"] == "d"
    assert "fingerprint" in item["properties"]["privacy"]
    before = table_path.stat().st_mtime_ns
    export_embedding(embedding, tmp_path / "embeddings")
    assert table_path.stat().st_mtime_ns == before


def test_another_embedding_is_written_again(tmp_path):
    first, _ = export_embedding(at(0), tmp_path)
    content = first.read_bytes()
    export_embedding(at(1), tmp_path)
    assert first.read_bytes() != content


class Twisted(torch.nn.Linear):
    """Gives other numbers after it was moved, as a device with coarse arithmetic would."""

    error = 1e-2

    def to(self, *args, **kwargs):
        self.weight.data *= 1 + self.error
        return self


def flat(layer):
    return torch.nn.Sequential(torch.nn.Flatten(), layer).eval().requires_grad_(requires_grad=False)


def test_a_device_with_other_numbers_is_not_used(monkeypatch):
    monkeypatch.setattr(torch.nn.Sequential, "to", lambda self, device: (self[1].to(device), self)[1])
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **k: self)
    with pytest.warns(RuntimeWarning, match=r"net: cuda gives other features .*the CPU is used"):
        assert choose_device(flat(Twisted(12, 4)), (3, 2, 2), "cuda", name="net") == "cpu"
    monkeypatch.setattr(Twisted, "error", 1e-5)
    assert choose_device(flat(Twisted(12, 4)), (3, 2, 2), "cuda", name="net") == "cuda"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_an_absent_device_falls_back_with_a_warning(monkeypatch):
    monkeypatch.setenv("EO_CATE_DEVICE", "cuda")
    with pytest.warns(RuntimeWarning, match="cuda cannot run it"):
        assert choose_device(flat(torch.nn.Linear(12, 4)), (3, 2, 2)) == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: parity is tested where one is")
def test_a_gpu_gives_the_cpus_features(monkeypatch):
    images = np.random.default_rng(0).random((8, 3, 112, 112), dtype=np.float32)
    found = {}
    for device in ("cpu", "cuda"):
        monkeypatch.setenv("EO_CATE_DEVICE", device)
        encoder = ENCODERS["random_vit"].build(112, 0)
        assert encoder.device == device
        found[device] = encoder.encode(images)
    assert np.abs(found["cuda"] - found["cpu"]).max() < 1e-3 * np.abs(found["cpu"]).max()


def test_a_registered_encoder_may_be_given_by_its_entry(reader, tmp_path):
    found = embed(reader, tmp_path, encoder=spec_of(CountingEncoder()))
    assert found.attrs["encoder"] == "counting"
