"""Clean composites in a sparse Zarr store, and chips out of it."""

from eo_cate.imagery.pixel_store.fetch import FetchResult, fetch_pixels, plan_fetch
from eo_cate.imagery.pixel_store.reader import PixelStoreReader
from eo_cate.imagery.pixel_store.run import FetchPlan

__all__ = ["FetchPlan", "FetchResult", "PixelStoreReader", "fetch_pixels", "plan_fetch"]
