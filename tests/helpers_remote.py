"""Small rasters for tests of remote reads, and one call that reads them over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import rasterio
from rasterio.shutil import copy
from rasterio.transform import from_origin
from rasterio.windows import Window

from eo_cate.imagery.remote import HostPolicy, RemoteBlocks, RetryPolicy
from eo_cate.imagery.scenes import RasterHeader, ReadFailure

LOOPBACK = HostPolicy(hosts=("127.0.0.1",), loopback=True)
QUICK = RetryPolicy(base_s=0.001, cap_s=0.002, retry_after_cap_s=0.05)


def make_pixels(shape=(300, 400), count=1, dtype="uint16", seed=0):
    """A gradient with noise: compresses, and no two blocks are equal."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) / 4
    pixels = ramp[None] + rng.integers(0, 40, (count, *shape)) - (60 if dtype.startswith("int") else 0)
    return (pixels / 7).astype(dtype) if dtype.startswith("float") else pixels.astype(dtype)


def write_raster(path: Path, pixels, *, driver="COG", crs="EPSG:32618", nodata=0, transform=None, **options):
    """Write pixels (band, y, x) with GDAL's ``driver`` and options."""
    count, rows, columns = pixels.shape
    place = transform or from_origin(500_000, 4_000_000, 10, 10)
    profile = {
        "dtype": pixels.dtype.name,
        "count": count,
        "height": rows,
        "width": columns,
        "crs": crs,
        "nodata": nodata,
    }
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", transform=place, **profile) as target:
            target.write(pixels)
        with memory.open() as source:
            copy(source, path, driver=driver, **options)
    return path


def read_all(server, name, *, blocks=None, policy=LOOPBACK, retry=QUICK, **options):
    """(header, blocks, counts) of a served file; all its blocks unless some are named."""

    async def read():
        async with RemoteBlocks(policy, retry=retry, **options) as source:
            href = server.href(name)
            header = await source.open(href)
            wanted = blocks
            if wanted is None and isinstance(header, RasterHeader):
                wanted = list(np.ndindex(*header.block_bytes.shape))
            found = await source.read_blocks(href, wanted or [(0, 0)])
            return header, found, source.counts

    return asyncio.run(read())


def assert_same_blocks(path: Path, header, found, *, among=None):
    """Every block is bit for bit what rasterio reads in its window."""
    assert not isinstance(header, ReadFailure), header
    rows, columns = header.block_shape
    with rasterio.open(path) as source:
        assert header.grid.shape == source.shape
        assert header.grid.transform == tuple(source.transform)[:6]
        assert rasterio.CRS.from_user_input(header.grid.crs) == source.crs
        assert header.block_shape == source.block_shapes[0]
        assert (header.count, header.dtype) == (source.count, source.dtypes[0])
        assert header.nodata == source.nodata or (np.isnan(header.nodata) and np.isnan(source.nodata))
        whole = Window(0, 0, source.width, source.height)
        for (row, column), pixels in found.items():
            if among is not None and (row, column) not in among:
                continue
            assert isinstance(pixels, np.ndarray), pixels
            window = Window(column * columns, row * rows, columns, rows).intersection(whole)
            expected = source.read(window=window)
            assert pixels.dtype == expected.dtype
            assert pixels.shape == expected.shape
            assert pixels.tobytes() == expected.tobytes()
