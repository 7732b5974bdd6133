"""From a STAC catalogue to frozen scenes above the sites."""

from eo_cate.imagery.stac.areas import degree_cells, keep_touching
from eo_cate.imagery.stac.collect import CollectedScenes, collect_scenes, make_request
from eo_cate.imagery.stac.freeze import (
    FrozenScenes,
    SearchPeriod,
    SearchRequest,
    StaleFreeze,
    freeze_scenes,
    read_etags,
    read_frozen,
    record_etags,
)
from eo_cate.imagery.stac.masks import PixelMask, clear_pixels
from eo_cate.imagery.stac.presets import APIS, COLLECTIONS, find_api
from eo_cate.imagery.stac.search import find_scenes, search_cells
from eo_cate.imagery.stac.select import FoundScenes, Wanted, refuse_late
from eo_cate.imagery.stac.static import walk_cells

__all__ = [
    "APIS",
    "COLLECTIONS",
    "CollectedScenes",
    "FoundScenes",
    "FrozenScenes",
    "PixelMask",
    "SearchPeriod",
    "SearchRequest",
    "StaleFreeze",
    "Wanted",
    "clear_pixels",
    "collect_scenes",
    "degree_cells",
    "find_api",
    "find_scenes",
    "freeze_scenes",
    "keep_touching",
    "make_request",
    "read_etags",
    "read_frozen",
    "record_etags",
    "refuse_late",
    "search_cells",
    "walk_cells",
]
