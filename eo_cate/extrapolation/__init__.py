"""tau_hat beyond the trial: the map."""

from eo_cate.extrapolation.cells import find_sampled, map_cells
from eo_cate.extrapolation.heterogeneity_map import MapComparison, compare_map, predict_cells
from eo_cate.extrapolation.raster import raster_from_cells, read_raster_at, write_cog

__all__ = [
    "MapComparison",
    "compare_map",
    "find_sampled",
    "map_cells",
    "predict_cells",
    "raster_from_cells",
    "read_raster_at",
    "write_cog",
]
