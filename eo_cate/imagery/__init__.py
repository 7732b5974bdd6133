"""The pixels above each site before the trial."""

from eo_cate.imagery.chips import ChipArray, ChipFolder
from eo_cate.imagery.rasters import RasterReader
from eo_cate.imagery.sites import complete_sites, drop_incomplete, open_imagery

__all__ = ["ChipArray", "ChipFolder", "RasterReader", "complete_sites", "drop_incomplete", "open_imagery"]
