"""Train the configured ViT on with the region's own chips: places and pixels go in, nothing else of the trial."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eo_cate.config import RunConfig
from eo_cate.embeddings import Encoder, EncoderSpec, open_spec
from eo_cate.errors import EmbeddingError, WeightsError
from eo_cate.imagery import complete_sites
from eo_cate.steps.encoders import open_specs, resolve_scales
from eo_cate.steps.inputs import BEFORE, missing_options, open_cells, open_readers
from eo_cate.steps.stretch import resolve_stretch
from eo_cate.store import file_digest, write_atomic
from eo_cate.trial import load_sites
from eo_cate.types import ChipReader

if TYPE_CHECKING:
    from eo_cate.embeddings.pretrain import ChipPool, Pretrained, Recipe

FOLDER = "pretrained"
METHOD = "masked autoencoding"
_CURVE_POINTS = 50


@dataclass(frozen=True)
class Places:
    """Where chips are taken.

    Parameters
    ----------
    config : RunConfig
        The sides of crops in pixels.
    readers : mapping of str to ChipReader
        Period -> its pixels.
    site_ids : tuple of str
        The trial's sites and the map's cells whose chips are complete in every period.
    counts : dict
        What they are: sites, cells, and incomplete ones that were left out.
    """

    config: RunConfig
    readers: Mapping[str, ChipReader]
    site_ids: tuple[str, ...]
    counts: dict[str, int]


def find_places(config: RunConfig, data_dir: Path, run_dir: Path, *, progress: bool = True) -> Places:
    """The trial's sites, and the map's cells where there is a map.

    Raises
    ------
    EoCateError
        When the columns of places or the imagery are wrong. Other columns are not looked at.
    """
    sites = load_sites(config.trial, data_dir)
    readers, _ = open_readers(config, data_dir, run_dir, sites, progress)
    first = next(iter(readers.values()))
    config = resolve_scales(config, first.resolution_m)
    places = [str(site) for site in sites.index]
    if config.map is not None and first.grid is not None:
        reader, cells = open_cells(config, first, data_dir)
        readers = {BEFORE: reader}
        places += [cell for cell in cells["location"] if cell in cells.index]
    options = missing_options(config)
    largest = max(config.embeddings.scales)
    complete = np.all([complete_sites(reader, places, largest, **options) for reader in readers.values()], axis=0)
    kept = tuple(place for place, ok in zip(places, complete, strict=True) if ok)
    num_sites = int(complete[: len(sites)].sum())
    config = resolve_stretch(config, readers, kept[:num_sites])
    counts = {"sites": num_sites, "cells": len(kept) - num_sites, "incomplete": len(places) - len(kept)}
    return Places(config, readers, kept, counts)


def pretrain_encoder(
    config: RunConfig,
    data_dir: Path,
    run_dir: Path,
    *,
    minutes: float,
    steps: int | None = None,
    encoder: str | None = None,
    checkpoint_seconds: float = 60.0,
    progress: bool = True,
) -> tuple[Path, dict[str, Any]]:
    """Train on for some minutes or steps; the weights' file and its card, kept from an earlier call where they are it.

    Parameters
    ----------
    minutes : float
        All sittings together.
    steps : int, optional
        Stop after so many instead: the same weights on any day.
    encoder : str, optional
        One of ``embeddings.encoder``; absent: the first that was not pretrained here.
    checkpoint_seconds : float
        Between the files that a stopped run goes on from.

    Raises
    ------
    EoCateError
        Before the training when something is wrong with the configuration, the places or the pixels.
    """
    from eo_cate.embeddings.pretrain import ChipPool, Recipe, pretrain_vit, recipe_digest

    spec = _base_spec(config, data_dir, encoder)
    opened = open_spec(spec, config.embeddings.input_px, config.seed)
    places = find_places(config, data_dir, run_dir, progress=progress)
    settings = places.config.embeddings
    pool = ChipPool(places.readers, places.site_ids)
    recipe = Recipe(
        settings.scales, tuple(settings.bands), settings.stretch, settings.input_px, config.seed, settings.batch_size
    )
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", spec.name)
    weights, card_path = run_dir / FOLDER / f"{stem}.safetensors", run_dir / FOLDER / f"{stem}.json"
    identity = recipe_digest(pool, opened, recipe)
    asked = {"identity": identity, "minutes": None if steps else minutes, "steps_asked": steps}
    kept = _read_kept(weights, card_path, asked)
    if kept is not None:
        return weights, kept
    checkpoint = run_dir / FOLDER / f"{stem}.{identity[:12]}.checkpoint.safetensors"
    found = pretrain_vit(
        pool,
        opened,
        recipe,
        seconds=60 * minutes,
        steps=steps,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        progress=progress,
    )
    card = asked | _write_card(spec, opened, places, pool, recipe, found)
    _save(weights, card_path, card, found)
    checkpoint.unlink(missing_ok=True)
    return weights, json.loads(card_path.read_text(encoding="utf-8"))


def describe_pretrained(weights: Path, card: Mapping[str, Any]) -> str:
    """What came of it, and how to use it, as text."""
    losses = card["loss_curve"]
    return (
        f"{card['base_encoder']}, trained on by {card['method']}: {card['steps']:,} steps on {card['chips']:,} chips "
        f"({card['places']['sites']:,} sites and {card['places']['cells']:,} cells of the map at scales "
        f"{card['scales']}; {card['places']['incomplete']:,} incomplete places left out), loss {losses[0]:.3f} -> "
        f"{losses[-1]:.3f}.\nThe decoder begins from nothing: a falling loss says that it learns, not that features "
        "are better. Whether they are, a run with both says:\n\n"
        f'  embeddings:\n    encoder: [{card["base_encoder"]}, "pretrained:{weights.resolve()}"]\n\n'
        f"Wrote {weights} (sha256 {card['sha256']}) and its card, {weights.with_suffix('.json').name}"
    )


def _base_spec(config: RunConfig, data_dir: Path, encoder: str | None) -> EncoderSpec:
    names = config.embeddings.encoders
    wanted = encoder or next((name for name in names if not name.startswith("pretrained:")), names[0])
    if wanted not in names or wanted.startswith("pretrained:"):
        raise EmbeddingError(
            f"--encoder {wanted}: name one of embeddings.encoder, {list(names)}, that is no pretrained:"
        )
    alone = config.embeddings.model_copy(update={"encoder": wanted})
    return open_specs(alone, data_dir)[0]


def _write_card(
    spec: EncoderSpec, opened: Encoder, places: Places, pool: ChipPool, recipe: Recipe, found: Pretrained
) -> dict[str, Any]:
    blocks = np.array_split(np.array(found.losses), min(_CURVE_POINTS, len(found.losses)))
    imagery = places.config.imagery
    return {
        "base_encoder": spec.name,
        "base_sha256": spec.weights_sha256 or getattr(opened, "weights", ""),
        "architecture": getattr(opened, "architecture", ""),
        "dim": opened.dim,
        "patch": spec.patch,
        "normalisation": getattr(opened, "normalisation", ()),
        "method": METHOD,
        "input_px": recipe.input_px,
        "bands": list(recipe.bands),
        "stretch": recipe.stretch,
        "scales": list(recipe.scales),
        "mask_share": recipe.mask_share,
        "learning_rate": recipe.learning_rate,
        "batch_size": recipe.batch_size,
        "seed": recipe.seed,
        "steps": len(found.losses),
        "seconds": round(found.seconds, 1),
        "loss_curve": [round(float(block.mean()), 4) for block in blocks],
        "chips": pool.size(recipe),
        "places": places.counts,
        "periods": list(pool.readers),
        "chips_source": {"source": imagery.source, "note": imagery.source_note, "sha256": pool.digest},
        "outcomes": "none: units, outcomes and treatments were not read",
        "licence": f"{spec.licence} (base encoder); the imagery's terms hold beside it",
    }


def _save(weights: Path, card_path: Path, card: dict[str, Any], found: Pretrained) -> None:
    from eo_cate.embeddings.weights import save_tensors

    card_path.unlink(missing_ok=True)  # a card must never stand beside other weights
    save_tensors(weights, {name: value.cpu() for name, value in found.weights.items()}, {"method": METHOD})
    card = {**card, "sha256": file_digest(weights)}
    write_atomic(card_path, (json.dumps(card, indent=2) + "\n").encode())


def _read_kept(weights: Path, card_path: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """The card of an earlier call that was asked the same, where its weights are still there."""
    from eo_cate.embeddings.pretrained import read_card

    try:
        card = read_card(card_path)
    except WeightsError:
        return None
    same = all(card.get(name) == value for name, value in asked.items())
    return card if same and weights.is_file() and file_digest(weights) == card["sha256"] else None
