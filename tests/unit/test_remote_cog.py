import asyncio
import warnings

import async_tiff
import numpy as np
import pytest
import rasterio
from helpers_remote import LOOPBACK, QUICK, assert_same_blocks, make_pixels, read_all, write_raster

from eo_cate.imagery.remote import RangeClient, RemoteBlocks
from eo_cate.imagery.remote.decode import decodes
from eo_cate.imagery.remote.tiff import HeaderBytes, read_layout
from eo_cate.imagery.scenes import ReadFailure
from eo_cate.simulation.range_server import serve_folder

COG = {"blocksize": 128}
TILED = {"driver": "GTiff", "tiled": "yes", "blockxsize": 128, "blockysize": 128}
# name -> (pixels, options, decoded by us: the others go through GDAL)
FILES = {
    "deflate_p2": ({"dtype": "uint16"}, {**COG, "compress": "deflate", "predictor": 2}, True),
    "deflate_int16_p2": ({"dtype": "int16"}, {**COG, "compress": "deflate", "predictor": 2}, True),
    "deflate_uint8": ({"dtype": "uint8"}, {**COG, "compress": "deflate"}, True),
    "deflate_float_p3": ({"dtype": "float32"}, {**COG, "compress": "deflate", "predictor": 3}, True),
    "deflate_float_p2": ({"dtype": "float32"}, {**COG, "compress": "deflate", "predictor": 2}, True),
    "deflate_double_p3": ({"dtype": "float64"}, {**COG, "compress": "deflate", "predictor": 3}, True),
    "bands_p2": ({"count": 4}, {**COG, "compress": "deflate", "predictor": 2, "interleave": "pixel"}, True),
    "bands_float_p3": ({"count": 3, "dtype": "float32"}, {**TILED, "compress": "deflate", "predictor": 3}, True),
    "bands_planar": ({"count": 3}, {**TILED, "compress": "deflate", "predictor": 2, "interleave": "band"}, True),
    "zstd": ({"dtype": "int16"}, {**COG, "compress": "zstd", "predictor": 2}, True),
    "none": ({"dtype": "uint8"}, {**COG, "compress": "none"}, True),
    "bigtiff": ({}, {**COG, "compress": "deflate", "bigtiff": "yes"}, True),
    "big_endian_p2": ({}, {**TILED, "compress": "deflate", "predictor": 2, "endianness": "big"}, True),
    "big_endian": ({"dtype": "float32"}, {**TILED, "compress": "none", "endianness": "big"}, True),
    "strips": ({}, {"driver": "GTiff", "compress": "deflate", "predictor": 2, "blockysize": 64}, True),
    "strips_none": ({"count": 2}, {"driver": "GTiff", "compress": "none", "blockysize": 7}, True),
    "lzw": ({}, {**COG, "compress": "lzw", "predictor": 2}, False),
    "lerc": ({"dtype": "float32"}, {**COG, "compress": "lerc", "max_z_error": 0}, False),
    "jpeg": ({"dtype": "uint8", "count": 3}, {**COG, "compress": "jpeg"}, False),
    "planar_lzw": ({"count": 3}, {**TILED, "compress": "lzw", "interleave": "band"}, False),
}


@pytest.mark.parametrize("name", FILES)
def test_blocks_equal_rasterio_and_are_fetched_once(tmp_path, name):
    how, options, ours = FILES[name]
    path = write_raster(tmp_path / f"{name}.tif", make_pixels(**how), **options)
    with serve_folder(tmp_path) as server:
        header, found, counts = read_all(server, path.name)
        assert_same_blocks(path, header, found)
        assert len(found) == header.block_bytes.size == counts.blocks_needed
        assert counts.blocks_fetched == counts.blocks_decoded == counts.blocks_needed
        assert counts.needed_bytes == header.block_bytes.sum()
        assert counts.needed_bytes <= counts.block_bytes <= 1.05 * counts.needed_bytes
        assert counts.retries == counts.blocks_failed == 0
        assert counts.requests == len(server.log)
        assert decodes(read_layout_of(server, path.name)) is ours


def read_layout_of(server, name):
    async def read():
        async with RangeClient(LOOPBACK, retry=QUICK) as client:
            return await read_layout(HeaderBytes(client, server.href(name)))

    return asyncio.run(read())


def test_jpeg2000_blocks_equal_rasterio_and_the_file_is_not_downloaded(tmp_path):
    pixels = make_pixels((2400, 2600), dtype="uint16")
    options = {"driver": "JP2OpenJPEG", "quality": 100, "reversible": "yes", "blockxsize": 256, "blockysize": 256}
    path = write_raster(tmp_path / "scene.jp2", pixels, nodata=None, **options)
    with serve_folder(tmp_path) as server:
        header, found, counts = read_all(server, path.name, blocks=[(0, 0), (4, 5)])
        assert_same_blocks(path, header, found)
        assert counts.blocks_decoded == 2
        assert counts.header_bytes + counts.block_bytes < 0.6 * path.stat().st_size


def test_sparse_blocks_are_nodata_without_a_request(tmp_path):
    path = tmp_path / "sparse.tif"
    profile = {"driver": "GTiff", "dtype": "int16", "count": 2, "height": 300, "width": 400, "crs": "EPSG:32618"}
    profile |= {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate", "sparse_ok": "TRUE"}
    with rasterio.open(
        path, "w", **profile, nodata=-9999, interleave="band", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 4e6)
    ) as target:
        target.write(make_pixels((128, 128), dtype="int16")[0], 1, window=((128, 256), (0, 128)))
    with serve_folder(tmp_path) as server:
        header, found, counts = read_all(server, path.name)
        assert_same_blocks(path, header, found)
        assert (found[0, 0] == -9999).all()
        assert (found[1, 0][1] == -9999).all()
        assert (header.block_bytes > 0).sum() == 1
        assert counts.blocks_sparse == 11
        assert counts.blocks_fetched == 1
        assert len(server.log) == 2


def test_neighbouring_blocks_share_a_request(tmp_path):
    path = write_raster(tmp_path / "a.tif", make_pixels((512, 1024)), compress="deflate", blocksize=128)
    with serve_folder(tmp_path) as server:
        _, found, counts = read_all(server, path.name, blocks=[(0, c) for c in range(8)] + [(3, 0), (3, 2), (3, 2)])
        assert len(found) == 10
        assert [entry.start is not None for entry in server.log] == [True] * len(server.log)
        assert len(server.log) == 1 + 3  # the header, a row of eight, and two that have one between them
        assert counts.blocks_fetched == 10
        assert counts.block_bytes <= 1.01 * counts.needed_bytes


@pytest.mark.parametrize(
    ("crs", "point", "native"),
    [
        ("EPSG:4326", False, True),
        ("EPSG:32736", True, True),
        ("+proj=laea +lat_0=5.17 +lon_0=20.3 +datum=WGS84", False, False),
    ],
)
def test_place_on_the_ground(tmp_path, crs, point, native):
    place = rasterio.Affine(0.25, 0, 30, 0, -0.5, 2)
    path = tmp_path / "a.tif"
    write_raster(path, make_pixels((64, 64)), driver="GTiff", crs=crs, transform=place, compress="deflate")
    if point:
        with rasterio.open(path, "r+") as target:
            target.update_tags(AREA_OR_POINT="Point")
    with serve_folder(tmp_path) as server:
        header, found, counts = read_all(server, path.name)
        assert_same_blocks(path, header, found)
        assert header.grid.crs.startswith("EPSG:") is native
        assert counts.blocks_decoded == len(found)


@pytest.mark.parametrize("nodata", [None, np.nan, -1.5])
def test_nodata(tmp_path, nodata):
    path = write_raster(tmp_path / "a.tif", make_pixels(dtype="float32"), nodata=nodata, compress="deflate")
    with serve_folder(tmp_path) as server:
        header, found, _ = read_all(server, path.name, blocks=[(0, 0)])
        assert_same_blocks(path, header, found)


def test_a_raster_without_a_place_fails(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            tmp_path / "a.tif", "w", driver="GTiff", dtype="uint8", count=1, height=8, width=8
        ) as target:
            target.write(np.ones((1, 8, 8), dtype="uint8"))
    with serve_folder(tmp_path) as server:
        header, found, _ = read_all(server, "a.tif")
        assert isinstance(header, ReadFailure)
        assert "coordinate reference system" in header.reason
        assert found[0, 0] == header


def test_concurrent_requests_share_a_header(tmp_path):
    path = write_raster(tmp_path / "a.tif", make_pixels(), compress="deflate", blocksize=128)

    async def read(href):
        async with RemoteBlocks(LOOPBACK, retry=QUICK) as source:
            headers = await asyncio.gather(*(source.open(href) for _ in range(20)))
            assert all(header is headers[0] for header in headers)
            assert headers[0].etag

    with serve_folder(tmp_path, latency_s=0.01) as server:
        asyncio.run(read(server.href(path.name)))
        assert len(server.log) == 1


def test_at_most_so_many_requests_are_in_flight(tmp_path):
    path = write_raster(tmp_path / "a.tif", make_pixels((1024, 1024)), compress="deflate", blocksize=128)
    with serve_folder(tmp_path, latency_s=0.02) as server:
        wanted = [(r, c) for r in range(8) for c in range(0, 8, 2)]
        read_all(server, path.name, blocks=wanted, max_in_flight=5)
        assert server.most_in_flight == 5


def test_a_header_longer_than_the_first_request(tmp_path):
    path = write_raster(tmp_path / "a.tif", make_pixels((1200, 1300)), **{**TILED, "blockxsize": 16, "blockysize": 16})
    with serve_folder(tmp_path) as server:
        header, found, counts = read_all(server, path.name, blocks=[(0, 0), (74, 81)])
        assert_same_blocks(path, header, found)
        assert counts.header_bytes > 2**15


def test_a_block_outside_is_a_failure(tmp_path):
    path = write_raster(tmp_path / "a.tif", make_pixels(), compress="deflate", blocksize=128)
    with serve_folder(tmp_path) as server:
        _, found, _ = read_all(server, path.name, blocks=[(0, 0), (-1, 0), (0, 99)])
        assert isinstance(found[0, 0], np.ndarray)
        assert isinstance(found[-1, 0], ReadFailure)
        assert isinstance(found[0, 99], ReadFailure)


def test_the_client_is_a_store_for_async_tiff(tmp_path):
    path = write_raster(tmp_path / "a.tif", make_pixels(), compress="deflate", predictor=2, blocksize=128)

    async def read(href):
        async with RangeClient(LOOPBACK, retry=QUICK) as client:
            tiff = await async_tiff.TIFF.open(href, store=client)
            tiles = await tiff.ifd(0).fetch_tiles([(0, 0), (1, 0)])
            return [np.asarray(await tile.decode()) for tile in tiles]

    with serve_folder(tmp_path) as server, rasterio.open(path) as source:
        for k, tile in enumerate(asyncio.run(read(server.href(path.name)))):
            np.testing.assert_array_equal(tile[:, :, 0], source.read(1, window=((0, 128), (k * 128, k * 128 + 128))))
