"""What the map's model says of the cells of a region, in blocks that are stored as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eo_cate import extrapolation, multiscale
from eo_cate.embeddings import EncoderSpec, embed_sequence, native_px, open_spec
from eo_cate.errors import ImageryError
from eo_cate.executor import Executor
from eo_cate.extrapolation import RegionCells, TrainingSpace
from eo_cate.imagery import complete_sites
from eo_cate.shards import Arrays, compute_stored
from eo_cate.steps.context import Run
from eo_cate.steps.encoders import open_specs
from eo_cate.steps.features import embedding_options, sequence_options
from eo_cate.steps.inputs import missing_options
from eo_cate.steps.map_model import MapModel
from eo_cate.store import Store, digest
from eo_cate.types import ChipReader, FeatureBlocks, FloatArray

STAGE, VERSION = "cells", 2


@runtime_checkable
class PointReader(ChipReader, Protocol):
    """A reader that can be pointed at any place on earth."""

    def with_points(self, points: pd.DataFrame) -> PointReader:
        """The same pixels above these points: index place_id, columns longitude and latitude."""
        ...


@dataclass(frozen=True)
class CellShard:
    """A block of cells: everything that their predictions need, no pixels.

    ``points`` are a slice of the region's cells, index cell_id: readers know them only while the block is worked on, so
    that memory holds no more than the cells themselves. ``encoders`` come with their options; ``sequence`` says how
    periods are joined, ``missing`` what may be missing.
    """

    readers: Mapping[str, PointReader]
    points: pd.DataFrame
    model: MapModel
    space: TrainingSpace
    columns: tuple[int, ...]
    scales: tuple[int, ...]
    encoders: tuple[tuple[EncoderSpec, dict[str, Any]], ...]
    sequence: dict[str, Any]
    missing: dict[str, Any]

    @property
    def cell_ids(self) -> list[str]:
        """In the order of the block's values."""
        return list(self.points.index)

    def point(self) -> dict[str, ChipReader]:
        """The readers above these cells."""
        return {period: reader.with_points(self.points) for period, reader in self.readers.items()}


@dataclass(frozen=True)
class CellValues:
    """What is known of n cells, NaN where their imagery is incomplete.

    ``moderators`` (n, q) are the predictors of the membership model; the others are (n,) float64.
    """

    tau_hat: FloatArray
    std_err: FloatArray
    dissimilarity: FloatArray
    local_point_density: FloatArray
    moderators: FloatArray


def predict_region(
    run: Run,
    readers: Mapping[str, ChipReader],
    region: RegionCells,
    model: MapModel,
    space: TrainingSpace,
    *,
    block_cells: int,
) -> CellValues:
    """Embed and predict every cell, block by block; a run that was stopped goes on from the blocks that it stored."""
    columns, encoders = tuple(model.moderators[0]), list_encoders(run)
    scales = tuple(run.config.embeddings.scales)
    points = region.cells[["longitude", "latitude"]]
    nowhere = {period: reader.with_points(points.iloc[:0]) for period, reader in require_points(readers).items()}
    shards = [
        CellShard(
            nowhere,
            points.iloc[start : start + block_cells],
            model,
            space,
            columns,
            scales,
            encoders,
            sequence_options(run),
            missing_options(run.config),
        )
        for start in range(0, len(points), block_cells)
    ]
    about_space = digest(space.points, space.center, space.scale, space.threshold, np.array(columns))
    settings = [(_digest(spec, options), options, scales) for spec, options in encoders]
    joined = sequence_options(run) if len(readers) > 1 else None
    keys = [
        Store.key(STAGE, VERSION, model.address, about_space, settings, joined, *_digests(shard)) for shard in shards
    ]
    found = compute_stored(predict_block, shards, keys, STAGE, description="cells of the region", **run.shards)
    return CellValues(**{name: np.concatenate([f[name] for f in found]) for name in CellValues.__dataclass_fields__})


def list_encoders(run: Run) -> tuple[tuple[EncoderSpec, dict[str, Any]], ...]:
    """The configured encoders, and how each is to embed: as the trial's sites were."""
    own = open_specs(run.config.embeddings, run.data_dir)
    place = ("store", "executor", "progress", "description")
    return tuple((spec, {k: v for k, v in embedding_options(run, spec, own).items() if k not in place}) for spec in own)


def _digests(shard: CellShard) -> list[str]:
    return [reader.digest for reader in shard.point().values()]


def _digest(spec: EncoderSpec, options: Mapping[str, Any]) -> str:
    """What the encoder computes; opened at the side of the smallest chip where chips keep their resolution."""
    side = options["input_px"]
    if options["mode"] == "native" and spec.patch is not None:
        side = native_px(side, spec.patch)
    return open_spec(spec, side, options["seed"]).digest


def require_points(readers: Mapping[str, ChipReader]) -> Mapping[str, PointReader]:
    """The readers, which must have a place for points that are not the trial's sites.

    Raises
    ------
    ImageryError
        When chips were cut beforehand.
    """
    if not all(isinstance(reader, PointReader) for reader in readers.values()):
        raise ImageryError(
            "extrapolate: chips cut beforehand show the trial's sites only; cells elsewhere need imagery.source "
            "rasters or stac"
        )
    return cast(Mapping[str, PointReader], readers)


def predict_block(shard: CellShard) -> Arrays:
    """`CellValues` of one block, as arrays by name."""
    ids, readers = shard.cell_ids, shard.point()
    complete = np.all([complete_sites(r, ids, max(shard.scales), **shard.missing) for r in readers.values()], axis=0)
    known = np.flatnonzero(complete)
    values: dict[str, NDArray[Any]] = {
        name: np.full(len(ids), np.nan) for name in ("tau_hat", "std_err", "dissimilarity", "local_point_density")
    }
    values["moderators"] = np.full((len(ids), len(shard.columns)), np.nan, dtype=np.float32)
    if len(known):
        for name, found in _predict_known(shard, readers, [ids[i] for i in known]).items():
            values[name][known] = found
    return values


def _predict_known(shard: CellShard, readers: Mapping[str, ChipReader], ids: list[str]) -> Mapping[str, NDArray[Any]]:
    embeddings = {}
    for spec, options in shard.encoders:
        embeddings[spec.name] = embed_sequence(
            readers,
            ids,
            encoder=spec,
            scales=shard.scales,
            store=None,
            executor=Executor(),
            progress=False,
            **shard.sequence,
            **options,
        )
    X = multiscale.build_blocks(embeddings, site_ids=ids, site_index=np.arange(len(ids), dtype=np.int64))
    return value_cells(shard.model, shard.space, X, columns=shard.columns)


def value_cells(
    model: MapModel, space: TrainingSpace, X: FeatureBlocks, *, columns: Sequence[int]
) -> Mapping[str, NDArray[Any]]:
    """`CellValues` of cells with complete features, as arrays by name; ``columns`` are those of the moderators."""
    reduced = model.reduce(X)
    place = extrapolation.compare_places(space, reduced)
    return {
        **extrapolation.predict_cells(model.fitted, X),
        "dissimilarity": place.dissimilarity,
        "local_point_density": place.local_point_density,
        "moderators": reduced[:, list(columns)],
    }
