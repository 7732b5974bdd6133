"""tau_hat beyond the trial: the map, where it may not speak, and effects for regions."""

from eo_cate.extrapolation.abstention import RiskCoverage, risk_coverage
from eo_cate.extrapolation.applicability import (
    Applicability,
    TrainingSpace,
    area_of_applicability,
    compare_places,
    describe_training,
)
from eo_cate.extrapolation.area import RegionCells, equal_area_crs, find_polygons, lay_cells, read_region, tile_blocks
from eo_cate.extrapolation.bands import Bands, band_width, calibrate_bands, widen_bands
from eo_cate.extrapolation.cells import find_sampled, map_cells
from eo_cate.extrapolation.composite import CompositeEstimates, composite_estimates
from eo_cate.extrapolation.excess import EffectError, effect_error
from eo_cate.extrapolation.fay_herriot import SmallAreas, fay_herriot
from eo_cate.extrapolation.heterogeneity_map import MapComparison, compare_map, predict_cells
from eo_cate.extrapolation.membership import Membership, Overlap, fit_membership, membership_odds
from eo_cate.extrapolation.raster import raster_from_cells, read_raster_at, write_cog
from eo_cate.extrapolation.regions import (
    DirectEstimates,
    SyntheticEstimates,
    direct_estimates,
    pool_errors,
    synthetic_estimates,
)
from eo_cate.extrapolation.transport import TransportedEffect, state_assumption, transported_effect

__all__ = [
    "Applicability",
    "Bands",
    "CompositeEstimates",
    "DirectEstimates",
    "EffectError",
    "MapComparison",
    "Membership",
    "Overlap",
    "RegionCells",
    "RiskCoverage",
    "SmallAreas",
    "SyntheticEstimates",
    "TrainingSpace",
    "TransportedEffect",
    "area_of_applicability",
    "band_width",
    "calibrate_bands",
    "compare_map",
    "compare_places",
    "composite_estimates",
    "describe_training",
    "direct_estimates",
    "effect_error",
    "equal_area_crs",
    "fay_herriot",
    "find_polygons",
    "find_sampled",
    "fit_membership",
    "lay_cells",
    "map_cells",
    "membership_odds",
    "pool_errors",
    "predict_cells",
    "raster_from_cells",
    "read_raster_at",
    "read_region",
    "risk_coverage",
    "state_assumption",
    "synthetic_estimates",
    "tile_blocks",
    "transported_effect",
    "widen_bands",
    "write_cog",
]
