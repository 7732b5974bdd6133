"""Encoders by timm's names. Importing this module loads torch and timm."""

from __future__ import annotations

import difflib
import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from eo_cate.embeddings.networks import HALF, IMAGENET, NetworkEncoder, Normalisation, spread
from eo_cate.embeddings.spec import EncoderSpec
from eo_cate.embeddings.weights import HF_CLIP, check_weights_file, clip_from_hf, tensors_digest
from eo_cate.errors import EmbeddingError, WeightsError
from eo_cate.store import file_digest

NORMALISATIONS: dict[str, Normalisation] = {"imagenet": IMAGENET, "half": HALF, "none": ((0.0,) * 3, (1.0,) * 3)}


@dataclass(frozen=True)
class OpenTimm:
    """Opens one of timm's models without its classifier."""

    model: str
    bands: int
    normalisation: Normalisation
    source: str
    """``file``, ``hub`` or ``random``."""
    path: Path | None = None
    sha256: str = ""

    def __call__(self, input_px: int, seed: int) -> NetworkEncoder:
        """Open it, its weights checked again; the seed is that of random weights."""
        if self.path is not None and file_digest(self.path) != self.sha256:
            raise WeightsError(f"{self.path}: its sha256 has changed since the run began")
        module = _create(self, input_px, seed)
        tokens = _has_tokens(module)
        name = f"timm-random:{self.model}" if self.source == "random" else f"timm:{self.model}"
        return NetworkEncoder(
            name,
            module,
            dim=int(module.num_features),
            input_px=input_px,
            normalisation=self.normalisation,
            weights=digest_module(module),
            prefix_tokens=int(module.num_prefix_tokens) if tokens else None,
            one_by_one=getattr(module, "patch_embed", None) is None,
            architecture=self.model.partition(".")[0],
        )


def timm_spec(
    model: str,
    *,
    bands: int = 3,
    weights: Path | None = None,
    weights_sha256: str | None = None,
    normalisation: str | None = None,
    random: bool = False,
) -> EncoderSpec:
    """The entry of one of timm's models; no weights are read, but a file's sha256 is taken.

    Parameters
    ----------
    model : str
        As timm names it, with or without a tag: ``vit_small_patch14_dinov2.lvd142m``.
    bands : int
        Other than 3: timm repeats the filters of red, green and blue over them, which is arbitrary; so are then the
        statistics of the normalisation.
    weights : Path or None
        A .safetensors file in any layout that timm's own filter of that model reads (its own, DINOv2's, OpenAI's or
        OpenCLIP's visual tower), or Hugging Face's CLIP.
    weights_sha256, normalisation
        See `encoder_spec`.
    random : bool
        Random weights from the run's seed.

    Raises
    ------
    EmbeddingError, WeightsError
    """
    _check_name(model)
    if random and weights is not None:
        raise EmbeddingError(f"timm-random:{model} draws its weights: leave out embeddings.weights")
    sha256 = "" if weights is None else check_weights_file(weights, weights_sha256)
    outline, cfg = _outline(model, bands)
    named = NORMALISATIONS[normalisation] if normalisation else (tuple(cfg["mean"]), tuple(cfg["std"]))
    source = "random" if random else "hub" if weights is None else "file"
    tokens = _has_tokens(outline)
    return EncoderSpec(
        name=f"timm-random:{model}" if random else f"timm:{model}",
        title=f"timm {timm.__version__}, {model}, {source} weights",
        licence="Apache-2.0" if random else str(cfg.get("license") or "unknown") if weights is None else "the file's",
        origin={"random": "drawn here from the run's seed", "file": str(weights)}.get(
            source, str(cfg.get("hf_hub_id"))
        ),
        dim=int(outline.num_features),
        normalisation=f"mean {named[0]}, sd {named[1]}",
        note="pooled features before the classifier, pooled as the model was trained",
        asset=None,
        build=OpenTimm(model, bands, spread(named, bands), source, weights.resolve() if weights else None, sha256),
        bands=bands,
        band_order="red, green, blue" if bands == 3 else "any; filters of red, green, blue repeated over them",
        patch=int(outline.patch_embed.patch_size[0]) if tokens else None,
        file_sha256=sha256,
        where={"random": "none"}.get(source, source),
    )


def _check_name(model: str) -> None:
    known = timm.list_models()
    tagged = timm.list_pretrained()
    if model in known or model in tagged:
        return
    near = difflib.get_close_matches(model, [*known, *tagged], n=3) or ["see timm.list_models()"]
    raise EmbeddingError(f"timm {timm.__version__} has no model {model!r}; did you mean {' or '.join(near)}?")


def _outline(model: str, bands: int) -> tuple[Any, dict[str, Any]]:
    """The module without memory, and timm's description of its weights."""
    try:
        with torch.device("meta"):
            module: Any = timm.create_model(model, pretrained=False, num_classes=0, in_chans=bands)
    except Exception as error:  # timm's models raise errors of every kind
        raise EmbeddingError(f"timm cannot build {model} with {bands} bands: {error}") from error
    return module, dict(module.pretrained_cfg)


def _has_tokens(module: Any) -> bool:
    """Whether it is a plain ViT: square patches in rows after some prefix tokens, and one position per patch."""
    size = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    plain = hasattr(module, "num_prefix_tokens") and hasattr(module, "blocks")
    return plain and size is not None and size[0] == size[-1]


def _create(wanted: OpenTimm, input_px: int, seed: int) -> Any:
    _, cfg = _outline(wanted.model, wanted.bands)
    options: dict[str, Any] = {"num_classes": 0, "in_chans": wanted.bands}
    if cfg.get("fixed_input_size"):
        options["img_size"] = input_px
    if wanted.source != "random":
        options["pretrained"] = True
    if wanted.path is not None:
        options["pretrained_cfg_overlay"] = _read_file(wanted.path)
    with torch.random.fork_rng(devices=[]), _missing_keys() as missing:
        torch.manual_seed(seed)
        try:
            module = timm.create_model(wanted.model, **options)
            if wanted.source == "random":
                open_gates(module)
            _try(module, wanted.bands, input_px)
        except Exception as error:  # timm, the hub and its transport raise errors of every kind
            raise _explain(wanted, input_px, error) from error
    if missing:
        raise WeightsError(
            f"{wanted.path or wanted.model}: {len(missing)} of the tensors of {wanted.model} are not in it "
            f"({', '.join(missing[:3])}, ...): is it the checkpoint of another model?"
        )
    return module


def _read_file(path: Path) -> dict[str, Any]:
    """Where timm finds the tensors: the file, or its content under timm's names where timm has no filter for it."""
    try:
        with safe_open(path, framework="pt") as opened:
            hf_clip = HF_CLIP in list(opened.keys())
        return {"state_dict": clip_from_hf(load_file(path))} if hf_clip else {"file": str(path), "custom_load": False}
    except (SafetensorError, KeyError) as error:
        raise WeightsError(f"{path}: not a readable .safetensors file of a known layout ({error})") from error


def _try(module: Any, bands: int, input_px: int) -> None:
    """One image through the network, so that a side that does not fit is refused when it is opened."""
    with torch.inference_mode():
        found = module.eval()(torch.zeros(1, bands, input_px, input_px))
    if tuple(found.shape) != (1, int(module.num_features)):
        raise ValueError(f"gives features of shape {tuple(found.shape)}, expected (1, {module.num_features})")


def open_gates(module: torch.nn.Module) -> None:
    """LayerScale of 1: with timm's 1e-5 a random network is nearly the identity."""
    for name, value in module.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.ones_(value)


def _explain(wanted: OpenTimm, input_px: int, error: Exception) -> EmbeddingError | WeightsError:
    told = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
    if wanted.source == "hub" and not isinstance(error, AssertionError | ValueError):
        return WeightsError(
            f"timm:{wanted.model}: its weights could not be fetched from the hub ({type(error).__name__}: {told}). "
            "Without a network: fetch the model's model.safetensors elsewhere and name it in embeddings.weights; "
            f"timm-random:{wanted.model} runs it with random weights"
        )
    if wanted.path is not None and not isinstance(error, AssertionError | ValueError):
        return WeightsError(f"{wanted.path}: its tensors do not fit {wanted.model} ({told})")
    return EmbeddingError(f"timm:{wanted.model} does not take images of {input_px} px: {told}")


class _Listener(logging.Handler):
    """timm tells of tensors that a checkpoint lacks in its log only; they would stay random, silently."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.missing: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note the names in timm's message."""
        found = re.match(r"Missing keys \((.*?)\) discovered", record.getMessage())
        if found:
            self.missing += found.group(1).split(", ")


@contextmanager
def _missing_keys() -> Iterator[list[str]]:
    log, listener = logging.getLogger("timm.models._builder"), _Listener()
    level = log.level
    log.addHandler(listener)
    log.setLevel(logging.INFO)
    try:
        yield listener.missing
    finally:
        log.removeHandler(listener)
        log.setLevel(level)


def digest_module(module: torch.nn.Module) -> str:
    """Digest of the tensors as they compute, so after any change of bands or of the position grid."""
    tensors = {k: v.detach().contiguous() for k, v in module.state_dict().items()}
    return hashlib.sha256(tensors_digest(tensors).encode()).hexdigest()
