"""Encoders of image sequences: all periods of a place at once, by the same way as images."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from helpers_embeddings import BANDS, STRETCH, ArrayReader
from helpers_own_encoder import SmallVideo

from eo_cate.embeddings import SequenceEncoder, embed_sequence, encoder_spec, open_spec
from eo_cate.embeddings.chips import prepare_chips
from eo_cate.embeddings.sequences import StackedReader
from eo_cate.embeddings.spec import EncoderSpec
from eo_cate.errors import EmbeddingError
from eo_cate.executor import Executor
from eo_cate.store import Store

VIDEO = "python:helpers_own_encoder:open_video"
IDS = [f"s{i}" for i in range(5)]
YEARS = [2001.5, 2002.5, 2004.0]


def periods(seed=0, *, hole=None):
    rng = np.random.default_rng(seed)
    chips = {name: rng.uniform(300, 1800, (5, 3, 24, 24)).astype(np.float32) for name in ("a", "b", "c")}
    if hole is not None:
        chips["b"][2, 1, :hole, 8:16] = np.nan
    return {name: ArrayReader(values) for name, values in chips.items()}


def embed(readers, *, encoder=VIDEO, store=None, ids=IDS, years=YEARS, **options):
    spec = encoder if isinstance(encoder, EncoderSpec) else encoder_spec(encoder)
    options = {"scales": [8, 24], "input_px": 16, "seed": 3, "shard_size": 2, "progress": False, **options}
    return embed_sequence(
        readers, ids, encoder=spec, bands=BANDS, stretch=STRETCH, years=years, store=store,
        executor=Executor(), **options,
    )  # fmt: skip


def test_the_model_sees_its_periods_in_order_as_images_are_prepared():
    assert isinstance(SmallVideo(3), SequenceEncoder)
    readers = periods()
    found = embed(readers)
    assert found.dims == ("site", "scale", "time", "feature")
    assert found["time"].values.tolist() == ["sequence"]
    assert found.attrs["bands"] == [f"{name}:{band}" for name in readers for band in BANDS]
    for scale in (8, 24):
        shown = [prepare_chips(r.read_chips(IDS, scale), stretch=STRETCH, input_px=16) for r in readers.values()]
        expected = SmallVideo(3).encode_sequence(np.stack(shown, axis=1), np.array(YEARS))
        np.testing.assert_array_equal(found.sel(scale=scale).values[:, 0], expected)
    assert found.sel(scale=24).values.std(axis=0).min() > 0


def test_order_and_years_matter_and_neighbours_do_not():
    readers = periods()
    found = embed(readers).values
    turned = embed(dict(reversed(readers.items()))).values
    assert np.abs(turned - found).max() > 1e-4
    later = embed(readers, years=[2001.5, 2003.5, 2004.0]).values
    np.testing.assert_array_equal(later[..., :-1], found[..., :-1])  # the convolution knows no years
    assert (later[..., -1] != found[..., -1]).all()
    np.testing.assert_array_equal(embed(readers, ids=IDS[::-1]).values[::-1], found)
    travelled = pickle.loads(pickle.dumps(StackedReader(readers)))  # as to a worker
    assert travelled.digest == StackedReader(readers).digest
    np.testing.assert_array_equal(travelled.read_chips(IDS, 8)[:, 3:6], readers["b"].read_chips(IDS, 8))


def test_features_are_stored_under_pixels_and_years(tmp_path):
    def count(**options):
        embed(periods(**options.pop("pixels", {})), store=Store(tmp_path), **options)
        return Store(tmp_path).stages()["embed"][0]

    assert [count(), count(), count(years=[2001, 2002, 2003]), count(pixels={"seed": 1})] == [6, 6, 12, 18]


def test_one_period_is_a_sequence_of_one():
    first = dict(list(periods().items())[:1])
    with_one = SmallVideo(3)
    shown = prepare_chips(first["a"].read_chips(IDS, 24), stretch=STRETCH, input_px=16)[:, np.newaxis]
    found = embed(first, scales=[24], years=None).values[:, 0, 0]
    np.testing.assert_array_equal(found, with_one.encode_sequence(shown, np.zeros(1)))
    assert open_spec(encoder_spec(VIDEO), 16, 3).dim == 9


def test_an_encoder_of_images_goes_period_by_period():
    found = embed(periods(), encoder="mean_colour", parts=["each", "change"])
    assert found["time"].values.tolist() == ["a", "b", "c", "change"]


def test_missing_pixels_count_in_the_worst_period():
    readers = periods(hole=6)  # 6 x 8 of 24 x 24 pixels: 1 / 12 of one period, 1 / 36 of all three
    with pytest.raises(EmbeddingError, match="1 sites have missing pixels"):
        embed(readers, scales=[24], max_missing=0.05)
    found = embed(readers, scales=[24], max_missing=0.1)
    np.testing.assert_allclose(found["missing_share"].values[:, 0], [0, 0, 1 / 12, 0, 0])
    assert np.isfinite(found.values).all()


def test_bad_models_and_modes_are_refused():
    with pytest.raises(EmbeddingError, match=r"shape \(2, 9\), expected \(2, 4\)"):
        embed(periods(), encoder="python:helpers_own_encoder:open_narrow_video")
    with pytest.raises(EmbeddingError, match="mode native needs a ViT"):
        embed(periods(), mode="native")


def test_an_entry_of_ones_own_states_the_bands_of_one_period():
    spec = replace(encoder_spec(VIDEO), name="my_video", bands=3)
    found = embed(periods(), encoder=spec)
    np.testing.assert_array_equal(found.values, embed(periods()).values)
    with pytest.raises(EmbeddingError, match="takes 6 bands"):
        embed(periods(), encoder=replace(spec, bands=2))
