import asyncio
import datetime as dt
import re
import struct
import time
import tracemalloc
import zlib
from email.utils import format_datetime

import numpy as np
import pytest
import rasterio
from helpers_remote import LOOPBACK, QUICK, assert_same_blocks, make_pixels, read_all, write_raster

from eo_cate.imagery.remote import HostPolicy, PlanetaryComputerSigner, RemoteBlocks, RetryPolicy
from eo_cate.imagery.scenes import ReadFailure
from eo_cate.simulation.range_server import TOKEN_PATH, Fault, serve_folder

APART = [(0, 0), (0, 2), (2, 1)]
"""Blocks that no request shares."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    write_raster(folder / "a.tif", make_pixels(), compress="deflate", predictor=2, blocksize=128)
    write_raster(folder / "lzw.tif", make_pixels(), compress="lzw", blocksize=128)
    write_raster(folder / "none.tif", make_pixels(), compress="none", blocksize=128)
    write_raster(folder / "zstd.tif", make_pixels(), compress="zstd", blocksize=128)
    return folder


PASSING = {
    "500": Fault("status", status=500, nth=(1, 3)),
    "503": Fault("status", status=503, nth=(1, 2)),
    "504": Fault("status", status=504, nth=(2,)),
    "429": Fault("status", status=429, retry_after="0", nth=(1, 2)),
    "reset": Fault("reset", nth=(1, 3)),
    "truncate": Fault("truncate", nth=(1, 2)),
    "flip": Fault("flip", nth=(2,), from_byte=1),
    "drip": Fault("drip", bytes_per_s=20, nth=(2,)),
    "half of all": Fault("status", status=503, probability=0.5, seed=3),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_is_retried_and_leaves_no_trace(folder, name):
    retry = RetryPolicy(base_s=0.001, cap_s=0.002, timeout_s=0.3, attempts=12)
    with serve_folder(folder, faults=[PASSING[name]]) as server:
        header, found, counts = read_all(server, "a.tif", blocks=APART, retry=retry)
        assert_same_blocks(folder / "a.tif", header, found)
        assert counts.retries >= 1
        assert counts.blocks_failed == 0
        assert counts.requests == len(server.log) > 4


LASTING = {
    "403": (Fault("status", status=403), "refused the link"),
    "404": (Fault("status", status=404), "status 404"),
    "500": (Fault("status", status=500), "status 500, in 6 attempts"),
    "504": (Fault("status", status=504), "status 504"),
    "429": (Fault("status", status=429, retry_after="0"), "status 429"),
    "reset": (Fault("reset"), "connection failed|cut short"),
    "truncate": (Fault("truncate"), "cut short"),
    "drip": (Fault("drip", bytes_per_s=20), "no answer in time"),
    "whole file": (Fault("ignore_range"), "ignores ranges"),
}


@pytest.mark.parametrize("name", LASTING)
def test_a_fault_that_lasts_fails_its_blocks_alone(folder, name):
    fault, reason = LASTING[name]
    fault = Fault(**{**fault.__dict__, "from_byte": first_byte(folder / "a.tif", (2, 1))})
    with serve_folder(folder, faults=[fault]) as server:
        retry = RetryPolicy(base_s=0.001, cap_s=0.002, timeout_s=0.1)
        header, found, counts = read_all(server, "a.tif", blocks=APART, retry=retry)
        assert_same_blocks(folder / "a.tif", header, found, among=APART[:2])
        assert isinstance(found[2, 1], ReadFailure)
        assert re.search(reason, found[2, 1].reason), found[2, 1].reason
        assert "a.tif at 127.0.0.1" in found[2, 1].reason
        assert counts.blocks_failed == 1
        final = name in ("403", "404", "whole file")
        assert len(server.log) == (4 if final else 9)


def first_byte(path, block, *, tag="BLOCK_OFFSET"):
    with rasterio.open(path) as source:
        return int(source.get_tag_item(f"{tag}_{block[1]}_{block[0]}", "TIFF", bidx=1))


@pytest.mark.parametrize("name", ["a.tif", "lzw.tif"])
def test_a_failed_header_fails_all_blocks_and_is_asked_for_once(folder, name):
    with serve_folder(folder, faults=[Fault("status", status=404)]) as server:
        header, found, _ = read_all(server, name, blocks=APART)
        assert isinstance(header, ReadFailure)
        assert all(pixels == header for pixels in found.values())
        assert len(server.log) == 1


def test_every_flipped_bit_in_a_deflate_block_is_noticed(folder):
    start = first_byte(folder / "a.tif", (2, 1))
    for at in np.linspace(0, 0.9999, 25):
        with serve_folder(folder, faults=[Fault("flip", at=float(at), from_byte=start)]) as server:
            header, found, counts = read_all(server, "a.tif", blocks=APART)
            assert isinstance(found[2, 1], ReadFailure), at
            assert "does not decode, fetched 3 times" in found[2, 1].reason
            assert_same_blocks(folder / "a.tif", header, found, among=APART[:2])
            assert counts.retries == 2
            assert counts.blocks_fetched == 5


def test_a_flipped_bit_without_a_checksum_cannot_be_noticed(folder):
    """A limit that the documentation states, kept true: uncompressed and ZSTD blocks decode to other pixels."""
    for name in ("none.tif", "zstd.tif"):
        with serve_folder(folder, faults=[Fault("flip", at=0.6, from_byte=1)]) as server:
            _, found, _ = read_all(server, name, blocks=[(0, 0)])
            with rasterio.open(folder / name) as source:
                assert not np.array_equal(found[0, 0], source.read(window=((0, 128), (0, 128))))


def test_a_block_that_gdal_cannot_decode_fails_alone(folder):
    start = first_byte(folder / "lzw.tif", (2, 1))
    with serve_folder(folder, faults=[Fault("flip", at=0.0, from_byte=start)]) as server:
        header, found, counts = read_all(server, "lzw.tif", blocks=APART)
        assert isinstance(found[2, 1], ReadFailure)
        assert_same_blocks(folder / "lzw.tif", header, found, among=APART[:2])
        assert counts.blocks_fetched == 5
    with serve_folder(folder, faults=[Fault("flip", at=0.0, from_byte=start, nth=(1,))]) as server:
        header, found, _ = read_all(server, "lzw.tif", blocks=APART)
        assert_same_blocks(folder / "lzw.tif", header, found)


@pytest.mark.parametrize("http_date", [False, True])
def test_retry_after_is_waited_for(folder, http_date):
    value = format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=900), usegmt=True) if http_date else "900"
    with serve_folder(folder, faults=[Fault("status", status=429, retry_after=value, nth=(1,))]) as server:
        start = time.monotonic()
        header, found, _ = read_all(server, "a.tif", blocks=[(0, 0)])
        assert time.monotonic() - start >= QUICK.retry_after_cap_s
        assert_same_blocks(folder / "a.tif", header, found)


def test_a_changed_file_is_a_failure_that_says_so(folder):
    with serve_folder(folder, faults=[Fault("etag", from_byte=1)]) as server:
        header, found, _ = read_all(server, "a.tif", blocks=APART)
        assert not isinstance(header, ReadFailure)
        assert all("changed on the server" in pixels.reason for pixels in found.values())
        assert len(server.log) == 4


def test_a_file_that_ends_early_fails_the_blocks_that_are_not_there(tmp_path):
    whole = write_raster(tmp_path / "whole.tif", make_pixels(), compress="deflate", blocksize=128)
    cut = first_byte(whole, (2, 1)) + 100
    (tmp_path / "cut.tif").write_bytes(whole.read_bytes()[:cut])
    with serve_folder(tmp_path) as server:
        header, found, _ = read_all(server, "cut.tif")
        assert "ends inside a block" in found[2, 1].reason
        assert isinstance(found[2, 3], ReadFailure)
        assert_same_blocks(whole, header, found, among=[(r, c) for r in range(2) for c in range(4)])


def test_a_cancelled_read_through_gdal_ends(tmp_path):
    options = {"driver": "JP2OpenJPEG", "blockxsize": 256, "blockysize": 256}
    path = write_raster(tmp_path / "a.jp2", make_pixels((1200, 1300)), nodata=None, **options)

    async def read(href):
        async with RemoteBlocks(LOOPBACK, retry=QUICK) as source:
            await source.open(href)
            task = asyncio.create_task(source.read_blocks(href, [(4, 4)]))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with serve_folder(tmp_path, latency_s=0.02) as server:
        asyncio.run(asyncio.wait_for(read(server.href(path.name)), 20))


# signing


def signer_of(server):
    return PlanetaryComputerSigner(server.address + TOKEN_PATH, storage="127.0.0.1")


def test_signed_files_are_read_with_one_token(folder):
    with serve_folder(folder.parent, tokens=True) as server:
        name = f"{folder.name}/a.tif"
        header, found, counts = read_all(server, name, signer=signer_of(server))
        assert_same_blocks(folder / "a.tif", header, found)
        assert server.tokens_given == 1
        assert counts.retries == 0
        header, _, _ = read_all(server, name)
        assert "403" in header.reason


def test_a_refused_token_is_renewed_once_for_all_requests(folder):
    async def read(server):
        async with RemoteBlocks(LOOPBACK, retry=QUICK, signer=signer_of(server)) as source:
            href = server.href(f"{folder.name}/a.tif")
            header = await source.open(href)
            server.rotate_token()
            return header, await source.read_blocks(href, APART)

    with serve_folder(folder.parent, tokens=True, latency_s=0.01) as server:
        header, found = asyncio.run(read(server))
        assert_same_blocks(folder / "a.tif", header, found)
        assert server.tokens_given == 2
        assert [entry.status for entry in server.log].count(403) == 3


def test_a_token_near_its_expiry_is_renewed_before_it_is_used(folder):
    with serve_folder(folder.parent, tokens=True, token_lifetime_s=100.0) as server:
        _, _, counts = read_all(server, f"{folder.name}/a.tif", blocks=[(0, 0)], signer=signer_of(server))
        assert server.tokens_given == 2
        assert counts.retries == 0


def test_a_link_that_stays_refused_fails_after_signing_again_without_showing_the_signature(folder):
    with serve_folder(folder.parent, faults=[Fault("status", status=403)]) as server:
        header, _, _ = read_all(server, f"{folder.name}/a.tif", signer=signer_of(server))
        assert "signed 3 times" in header.reason
        assert "sig=" not in header.reason
        assert [entry.status for entry in server.log].count(403) == 3


# hostile catalogues and files


@pytest.mark.parametrize(
    "location",
    [
        "https://10.0.0.1/a.tif",
        "http://169.254.169.254/latest/meta-data",
        "https://evil.example.org/a.tif",
        "file:///etc/passwd",
        "ftp://127.0.0.1/a",
        "http://[",
    ],
)
def test_redirects_to_refused_addresses_are_not_followed(folder, location):
    policy = HostPolicy(hosts=("127.0.0.1", "10.0.0.1", "169.254.169.254"), loopback=True)
    with serve_folder(folder, faults=[Fault("redirect", location=location)]) as server:
        header, _, counts = read_all(server, "a.tif", policy=policy)
        assert "redirected to an address" in header.reason
        assert counts.requests == 1


def test_redirects_to_allowed_addresses_are_followed_and_never_forever(folder):
    with serve_folder(folder, faults=[Fault("redirect", path="old.tif", location="/a.tif")]) as server:
        header, found, _ = read_all(server, "old.tif")
        assert_same_blocks(folder / "a.tif", header, found)
    with serve_folder(folder, faults=[Fault("redirect", location="/a.tif")]) as server:
        header, _, _ = read_all(server, "a.tif")
        assert "more than 5 redirects" in header.reason


@pytest.mark.parametrize("href", ["file:///etc/passwd", "/vsicurl/http://127.0.0.1/a.tif", "https://evil.org/a.tif"])
def test_hrefs_of_a_hostile_catalogue_send_nothing(folder, href):
    async def read():
        async with RemoteBlocks(LOOPBACK, retry=QUICK) as source:
            header = await source.open(href)
            return header, (await source.read_blocks(href, [(0, 0)]))[0, 0], source.counts

    header, pixels, counts = asyncio.run(read())
    assert isinstance(header, ReadFailure)
    assert pixels == header
    assert counts.requests == 0


def test_a_vrt_named_tif_does_not_open(tmp_path):
    secret = write_raster(tmp_path / "secret.tif", make_pixels(), driver="GTiff")
    (tmp_path / "a.tif").write_text(
        f'<VRTDataset rasterXSize="400" rasterYSize="300"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        f"<SourceFilename>{secret}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with serve_folder(tmp_path) as server:
        header, _, _ = read_all(server, "a.tif")
        assert "neither a GeoTIFF (COG) nor JPEG 2000" in header.reason


def make_tiff(tags, *, next_directory=0, tail=b""):
    """A TIFF of one directory; tags (tag, type, count, value)."""
    body = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + body + struct.pack("<I", next_directory) + tail


SIZE_512 = [(256, 4, 1, 512), (257, 4, 1, 512)]
PIXELS = [(258, 3, 1, 16), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
TILES = [(322, 3, 1, 256), (323, 3, 1, 256)]
HOSTILE = {
    "160 GB": ([(256, 4, 1, 400_000), (257, 4, 1, 200_000), *PIXELS, (278, 4, 1, 1), (273, 4, 1, 8), (279, 4, 1, 8)], "cut the scene"),
    "a block of 8 GB": ([(256, 4, 1, 65_000), (257, 4, 1, 65_000), *PIXELS, (273, 4, 1, 8), (279, 4, 1, 8)], "write it tiled"),
    "65535 bands": ([*SIZE_512, *PIXELS[:3], (277, 3, 1, 65_535), (273, 4, 1, 8), (279, 4, 1, 8)], "bands"),
    "no pixels": ([(256, 4, 1, 0), (257, 4, 1, 512), *PIXELS, *TILES, (324, 4, 1, 8), (325, 4, 1, 8)], "without pixels"),
    "4 billion offsets": ([*SIZE_512, *PIXELS, *TILES, (324, 4, 0xFFFFFFF0, 200), (325, 4, 0xFFFFFFF0, 200)], "header values"),
    "offsets beyond the file": ([*SIZE_512, *PIXELS, *TILES, (324, 4, 40_000, 200), (325, 4, 40_000, 200)], "damaged"),
    "too few offsets": ([*SIZE_512, *PIXELS, *TILES, (324, 4, 1, 200), (325, 4, 1, 200)], "does not list its 4 blocks"),
    "a block of 4 GB": ([(256, 4, 1, 64), (257, 4, 1, 64), *PIXELS, (273, 4, 1, 8), (279, 4, 1, 2**32 - 1)], "declares a block of"),
    "no tags": ([], "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_before_anything_is_decoded(tmp_path, name):
    tags, reason = HOSTILE[name]
    (tmp_path / "a.tif").write_bytes(make_tiff(tags, tail=bytes(400)))
    with serve_folder(tmp_path) as server:
        header, _, counts = read_all(server, "a.tif")
        assert isinstance(header, ReadFailure)
        assert reason in header.reason
        assert counts.block_bytes == 0


def test_directories_in_a_circle_are_not_followed(tmp_path):
    tags = [*SIZE_512, *PIXELS, *TILES, (324, 4, 4, 160), (325, 4, 4, 176)]
    (tmp_path / "a.tif").write_bytes(make_tiff(tags, next_directory=8, tail=bytes(400)))
    with serve_folder(tmp_path) as server:
        header, _, _ = read_all(server, "a.tif")
        assert "coordinate reference system" in header.reason or "damaged" in header.reason


def test_a_block_that_unpacks_to_more_than_its_pixels_is_refused_in_little_memory(tmp_path):
    path = write_raster(tmp_path / "a.tif", make_pixels((512, 512)), driver="GTiff", compress="deflate", blockysize=512)
    bomb = zlib.compress(bytes(2**27), 9)
    data = path.read_bytes()
    start, size = first_byte(path, (0, 0)), first_byte(path, (0, 0), tag="BLOCK_SIZE")
    assert len(bomb) <= size
    path.write_bytes(data[:start] + bomb + bytes(size - len(bomb)) + data[start + size :])
    tracemalloc.start()
    with serve_folder(tmp_path) as server:
        _, found, _ = read_all(server, "a.tif", blocks=[(0, 0)])
        assert "does not decode" in found[0, 0].reason
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23  # the bomb has 2**27 bytes, the block 2**19
