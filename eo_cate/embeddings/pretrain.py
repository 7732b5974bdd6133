"""Continued pretraining of a ViT on a region's own chips. Importing this module loads torch.

Nothing here can take an outcome or a treatment: what goes in are pixels, names of places and numbers of a recipe.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from eo_cate.embeddings.chips import fill_missing, prepare_chips, read_bands
from eo_cate.embeddings.masked import MaskedAutoencoder, mean_decay, warm_up
from eo_cate.embeddings.spec import Encoder
from eo_cate.embeddings.weights import Tensors, save_tensors
from eo_cate.errors import EmbeddingError
from eo_cate.store import digest
from eo_cate.types import ChipReader

VERSION = 1
_HEAD_RATE, _WEIGHT_DECAY, _WARM_STEPS, _LARGEST_GRADIENT = 1e-3, 0.05, 20, 1.0


@dataclass(frozen=True)
class Recipe:
    """How chips are shown and how far a step goes.

    Parameters
    ----------
    scales, bands, stretch, input_px
        As of `embed_sites`; ``input_px`` is that of the opened encoder.
    seed : int
        Of the decoder's first weights, and of the chips, turns and hidden patches of every step.
    batch_size : int
        Chips per step.
    mask_share : float
        Share of a chip's patches that are hidden.
    learning_rate : float
        Of the ViT, by AdamW; the decoder, which begins from nothing, learns at 1e-3.
    """

    scales: tuple[int, ...]
    bands: tuple[str, ...]
    stretch: tuple[tuple[float, float], ...]
    input_px: int
    seed: int = 0
    batch_size: int = 32
    mask_share: float = 0.75
    learning_rate: float = 3e-5


@dataclass(frozen=True)
class ChipPool:
    """The chips to learn from: every place, in every period, at every scale.

    Parameters
    ----------
    readers : mapping of str to ChipReader
        Period -> its pixels.
    site_ids : tuple of str
        Places whose chips are complete.
    """

    readers: Mapping[str, ChipReader]
    site_ids: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 over the pixels' source and the places."""
        return digest([reader.digest for reader in self.readers.values()], self.site_ids)

    def size(self, recipe: Recipe) -> int:
        """Number of chips."""
        return len(self.readers) * len(recipe.scales) * len(self.site_ids)

    def draw(self, recipe: Recipe, rng: np.random.Generator) -> NDArray[np.float32]:
        """Images (b, band, y, x) in [0, 1] of different chips, each turned by one of the 8 flips and rotations."""
        total = self.size(recipe)
        chosen = rng.choice(total, size=min(recipe.batch_size, total), replace=False)
        kinds, places = chosen // len(self.site_ids), chosen % len(self.site_ids)
        images = np.empty((len(chosen), len(recipe.bands), recipe.input_px, recipe.input_px), dtype=np.float32)
        readers = list(self.readers.values())
        for kind in np.unique(kinds):
            rows = np.flatnonzero(kinds == kind)
            reader, scale = readers[kind // len(recipe.scales)], recipe.scales[kind % len(recipe.scales)]
            chips = read_bands(reader, [self.site_ids[i] for i in places[rows]], scale, recipe.bands)
            images[rows] = prepare_chips(fill_missing(chips), stretch=recipe.stretch, input_px=recipe.input_px)
        for image, turn in zip(images, rng.integers(0, 8, len(images)), strict=True):
            image[:] = np.rot90(image[..., ::-1] if turn >= 4 else image, turn % 4, axes=(1, 2)).copy()
        return images


@dataclass
class Pretrained:
    """A ViT on its way: weights are the running mean over the steps taken.

    Parameters
    ----------
    weights : dict of str to tensor
        Under timm's names.
    losses : list of float
        Mean squared error of every step.
    seconds : float
        Spent on them, over all sittings.
    """

    weights: Tensors
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


def recipe_digest(pool: ChipPool, encoder: Encoder, recipe: Recipe) -> str:
    """What the weights after a number of steps depend on: the base encoder, the chips, the recipe."""
    return digest("pretrain", VERSION, encoder.digest, pool.digest, asdict(recipe))


def pretrain_vit(
    pool: ChipPool,
    encoder: Encoder,
    recipe: Recipe,
    *,
    seconds: float = 300.0,
    steps: int | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    progress: bool = True,
) -> Pretrained:
    """Train a copy of a ViT on by masked autoencoding.

    The rate is constant after a short warm-up and a step draws from its own seed, so that the weights after n steps are
    the same however long the run was to be and however often it was stopped (on one device with one number of threads).

    Parameters
    ----------
    pool : ChipPool
    encoder : Encoder
        The base, opened at ``recipe.input_px``: one of timm's ViTs.
    recipe : Recipe
    seconds : float
        When to stop, all sittings together; the number of steps then depends on the machine.
    steps : int, optional
        When to stop instead: the same weights on any day.
    checkpoint : Path, optional
        A .safetensors file that a stopped run goes on from; taken away at the end.
    checkpoint_seconds : float
        Between two of them.
    progress : bool
        Show a bar with the loss and the time left.

    Raises
    ------
    EmbeddingError
        When the encoder is no such ViT, there are no chips, or the loss is not finite.
    """
    if not pool.site_ids or encoder.input_px != recipe.input_px:
        raise EmbeddingError(
            f"{len(pool.site_ids)} places with complete chips, images of {recipe.input_px} px for an encoder of "
            f"{encoder.input_px} px: nothing to learn from"
        )
    network = MaskedAutoencoder(encoder, mask_share=recipe.mask_share, seed=recipe.seed).train()
    optimizer = _optimizer(network, recipe)
    identity = recipe_digest(pool, encoder, recipe)
    found = Pretrained({name: value.clone() for name, value in network.weights().items()})
    if checkpoint is not None and checkpoint.exists():
        _resume(checkpoint, identity, network, optimizer, found)
    saved = time.monotonic()
    with tqdm(
        total=steps or round(seconds),
        initial=len(found.losses) if steps else round(found.seconds),
        unit="step" if steps else "s",
        desc=f"pretraining {encoder.name}",
        disable=not progress,
    ) as bar:
        while len(found.losses) < steps if steps else found.seconds < seconds:
            begin = time.monotonic()
            _step(pool, recipe, network, optimizer, found)
            found.seconds += time.monotonic() - begin
            bar.n = len(found.losses) if steps else min(round(found.seconds), round(seconds))
            bar.set_postfix(loss=f"{np.mean(found.losses[-20:]):.3f}", steps=len(found.losses))
            if checkpoint is not None and time.monotonic() - saved >= checkpoint_seconds:
                _save(checkpoint, identity, network, optimizer, found)
                saved = time.monotonic()
    return found


def _optimizer(network: MaskedAutoencoder, recipe: Recipe) -> torch.optim.AdamW:
    own = {id(p) for p in network.vit.parameters()}
    head = [p for p in network.parameters() if id(p) not in own]
    groups = [
        {"params": list(network.vit.parameters()), "full_rate": recipe.learning_rate},
        {"params": head, "full_rate": _HEAD_RATE},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=_WEIGHT_DECAY)


def _step(
    pool: ChipPool, recipe: Recipe, network: MaskedAutoencoder, optimizer: torch.optim.AdamW, found: Pretrained
) -> None:
    step = len(found.losses)
    rng = np.random.default_rng([recipe.seed, step])
    images = pool.draw(recipe, rng)
    loss = network(images, rng.random((len(images), network.grid**2)))
    if not torch.isfinite(loss):
        raise EmbeddingError(f"the loss of step {step + 1} is not finite: is `stretch` that of these pixels?")
    for group in optimizer.param_groups:
        group["lr"] = group["full_rate"] * warm_up(step, _WARM_STEPS)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_GRADIENT)
    optimizer.step()
    decay = mean_decay(step)
    with torch.no_grad():
        for name, value in network.weights().items():
            if value.is_floating_point():
                found.weights[name].lerp_(value, 1 - decay)
    found.losses.append(loss.item())


def _save(
    path: Path, identity: str, network: MaskedAutoencoder, optimizer: torch.optim.AdamW, found: Pretrained
) -> None:
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"mean.{name}": value for name, value in found.weights.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
    about = {"identity": identity, "losses": json.dumps(found.losses), "seconds": repr(found.seconds)}
    save_tensors(path, tensors, about)


def _resume(
    path: Path, identity: str, network: MaskedAutoencoder, optimizer: torch.optim.AdamW, found: Pretrained
) -> None:
    try:
        with safe_open(path, framework="pt", device=str(network.hidden.device)) as opened:
            about = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise EmbeddingError(f"{path}: cannot be read ({error}); delete it to begin anew") from error
    if about.get("identity") != identity:
        raise EmbeddingError(f"{path}: of another encoder, other chips or another recipe; delete it to begin anew")

    def part(prefix: str) -> Tensors:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    network.load_state_dict(part("network."))
    state: dict[int, Tensors] = {}
    for name, value in part("adam.").items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    found.weights = part("mean.")
    found.losses, found.seconds = json.loads(about["losses"]), float(about["seconds"])
