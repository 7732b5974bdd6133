"""tau_hat beyond the trial: the map."""

from eo_cate.extrapolation.cells import find_sampled, map_cells
from eo_cate.extrapolation.heterogeneity_map import compare_map, predict_map
from eo_cate.extrapolation.raster import raster_from_cells, read_raster_at, write_cog

__all__ = [
    "compare_map",
    "find_sampled",
    "map_cells",
    "predict_map",
    "raster_from_cells",
    "read_raster_at",
    "write_cog",
]
