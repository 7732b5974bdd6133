"""People of a survey laid over the region: their polygons, their image features, and which of them count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eo_cate import extrapolation, multiscale
from eo_cate.embeddings import embed_sequence
from eo_cate.errors import TrialError
from eo_cate.extrapolation import RegionCells
from eo_cate.imagery import complete_sites
from eo_cate.steps.context import Run
from eo_cate.steps.encoders import open_specs
from eo_cate.steps.features import embedding_options, sequence_options
from eo_cate.steps.inputs import missing_options
from eo_cate.steps.region_cells import require_points
from eo_cate.trial import People
from eo_cate.types import BoolArray, ChipReader, FeatureBlocks, IntArray


@dataclass(frozen=True)
class Surveyed:
    """A survey laid over the region.

    Parameters
    ----------
    people : People
    owner : (n,) object
        Name of the polygon that each person lives in, None outside all.
    cell : DataFrame
        Columns row and col of each person on the region's grid; people of a sampling cluster share those of the first.
    """

    people: People
    owner: NDArray[Any]
    cell: pd.DataFrame


def lay_people(people: People, polygons: gpd.GeoDataFrame, region: RegionCells, *, what: str) -> Surveyed:
    """Find the polygon and the cell of every person.

    Raises
    ------
    TrialError
        When nobody lives in the region.
    """
    points = people.sites.geometry.to_crs(region.grid.crs)
    found = extrapolation.find_polygons(people.sites, polygons)
    owner = np.array([None if pd.isna(one) else one for one in found], dtype=object)
    if all(one is None for one in owner):
        raise TrialError(
            f"{what}: none of the {len(people.site_index):,} people lives in the region's {len(polygons)} polygon(s); "
            "is it the right file, and are longitude and latitude the right way round?"
        )
    a, _, c, _, e, f = region.grid.transform
    places = pd.DataFrame({"row": np.rint((points.y - f) / e), "col": np.rint((points.x - c) / a)})
    places = places.where(np.isfinite(places), 0).astype(np.int64)  # the projection does not reach the other side
    _, first, code = np.unique(people.cluster, return_index=True, return_inverse=True)
    return Surveyed(
        people, owner[people.site_index], places.iloc[people.site_index[first][code]].reset_index(drop=True)
    )


def embed_people(run: Run, readers: Mapping[str, ChipReader], people: People) -> tuple[FeatureBlocks, IntArray] | None:
    """Image features of the places with complete imagery, one row per place, and which places these are; None: none."""
    points = pd.DataFrame(
        {"longitude": people.sites.geometry.x, "latitude": people.sites.geometry.y}, index=people.sites.index
    )
    pointed = {period: reader.with_points(points) for period, reader in require_points(readers).items()}
    scales, options = run.config.embeddings.scales, missing_options(run.config)
    ids = list(points.index)
    complete = np.all([complete_sites(r, ids, max(scales), **options) for r in pointed.values()], axis=0)
    seen = np.flatnonzero(complete)
    if not len(seen):
        return None
    kept = [ids[i] for i in seen]
    own = open_specs(run.config.embeddings, run.data_dir)
    embeddings = {
        spec.name: embed_sequence(
            pointed, kept, encoder=spec, scales=scales, **embedding_options(run, spec, own), **sequence_options(run)
        )
        for spec in own
    }
    return multiscale.build_blocks(embeddings, site_ids=kept, site_index=np.arange(len(kept), dtype=np.int64)), seen


def find_inside(surveyed: Surveyed, seen: IntArray, supported: BoolArray) -> tuple[BoolArray, IntArray, dict[str, int]]:
    """Who counts, the row of each person's place among those ``seen`` (-1: none), and how many do not count, by why."""
    people = surveyed.people
    place = np.full(len(people.sites), -1, dtype=np.int64)
    place[seen] = np.arange(len(seen))
    row = place[people.site_index]
    here = np.array([owner is not None for owner in surveyed.owner])
    visible = row >= 0
    alike = visible & np.append(supported, False)[row]
    complete = np.isfinite(people.covariates).all(axis=1) & (people.weight > 0)
    counts = {
        "people": len(row),
        "outside the region": int((~here).sum()),
        "without imagery": int((here & ~visible).sum()),
        "outside the area of applicability": int((here & visible & ~alike).sum()),
        "without a covariate or a weight": int((here & alike & ~complete).sum()),
        "used": int((here & alike & complete).sum()),
    }
    return here & alike & complete, row, counts
