"""Pixels of a trial's sites from remote files: ours against the loops that users write, chips per CPU second.

Archive: one Landsat scene of 4,096 px on 6 dates, 6 bands and QA_PIXEL (COG, 512 px blocks, DEFLATE, predictor 2),
behind an HTTP server in a process of its own that waits 50 ms before every answer. Chips of 256 px, median of clear
pixels. Two ways in which households lie, 100 and 300 sites each:

- apart: every household is a site of its own within 300 m of its village's centre, 5 to a village (20 and 60 villages);
- shared: the 5 households of a village have the village's chip, so that a site is a village (100 and 300 of them).

Rivals read the same chips and reduce them alike, bit for bit (asserted):

- odc: one `odc.stac.load` of all bands and dates per site, 16 threads (bar 7);
- rasterio: one windowed read per file and village (the box around its households' chips), 16 threads (bar 1.3);
- by file: each file opened once, all villages' windows out of it through GDAL's block cache, 16 threads; the chips of
  all sites are in memory at once (no bar: what a careful user may write).

CPU seconds are user and system time of the client's process, threads and children, from frozen items to chips in
memory; imports, compilation and where each rival's windows lie come before. The first two rivals are timed on the first
villages (``--rival-villages``; twice as many where households share) and scaled by chips. Bars are for ``apart``; also:
blocks fetched / needed = 1, each decoded once; bytes fetched, headers too, at most 1.05 x
those of the blocks needed, which are counted here by rasterio, not by the code that is timed.

``--memory``: peak memory of our fetch alone for 100, 1,000 and 10,000 sites (small chips, 1 band and QA, 2 dates, nine
scenes over 180 km), each in a process of its own: under 2 GiB, and not growing with sites.

``python benchmarks/fetch.py [--quick] [--memory] [--folder KEPT]``; the last line is a JSON object.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pystac
import rasterio
from pyproj import Transformer
from rasterio.windows import Window

from eo_cate.simulation.archive import ArchiveSpec, make_archive, rebase_items
from eo_cate.simulation.archive_layout import plane_crs

BANDS = ("blue", "green", "red", "nir08", "swir16", "swir22")
CENTRE, DATES = (33.0, 2.5), tuple(dt.date(2000, month, 5) for month in (1, 3, 5, 7, 9, 11))
SCALE, OFFSET, FILL, OBSTRUCTED = np.float32(2.75e-5), np.float32(-0.2), 1, 0b111110
SIZE_PX, HOUSEHOLDS, HOUSEHOLD_M, THREADS = 256, 5, 300.0, 16
BARS = {"odc": 7.0, "rasterio": 1.3}
BYTES_BAR, MEMORY_BAR, GROWTH_BAR = 1.05, 2 * 2**30, 1.1
GDAL = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "CPL_VSIL_CURL_CACHE_SIZE": str(2**28),
    "GDAL_CACHEMAX": "1024",
    "OPENBLAS_NUM_THREADS": "1",
}

Job = dict[str, Any]
Chips = np.ndarray


def archive_spec(size: str) -> ArchiveSpec:
    if size == "memory":
        return ArchiveSpec(*("landsat-c2-l2", CENTRE, 180_000.0, DATES[:2], "landsat-5"), bands=("red",), scene_px=4096)
    extent, scene_px = {"full": (85_000.0, 4096), "quick": (20_000.0, 1024)}[size]
    return ArchiveSpec(*("landsat-c2-l2", CENTRE, extent, DATES, "landsat-5"), bands=BANDS, scene_px=scene_px)


def place_sites(spec: ArchiveSpec, villages: int, households: int, margin_m: float) -> gpd.GeoDataFrame:
    """Sites in EPSG:4326 with the column ``village``; one household: at the village's centre."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(-1, 1, (villages, 2)) * (spec.extent_m / 2 - margin_m)
    village = np.repeat(np.arange(villages), households)
    angle, radius = rng.uniform(0, 2 * np.pi, len(village)), HOUSEHOLD_M * np.sqrt(rng.uniform(0, 1, len(village)))
    apart = np.column_stack([np.cos(angle), np.sin(angle)]) * radius[:, None] * (households > 1)
    to_degrees = Transformer.from_crs(plane_crs(spec.centre), "EPSG:4326", always_xy=True)
    points = gpd.points_from_xy(*to_degrees.transform(*(centres[village] + apart).T), crs="EPSG:4326")
    return gpd.GeoDataFrame({"village": village}, index=[f"s{i:05d}" for i in range(len(village))], geometry=points)


def find_corners(sites: gpd.GeoDataFrame, path: Path) -> np.ndarray:
    """First row and column of each site's chip in a file, (site, 2)."""
    with rasterio.open(path) as source:
        to_file = Transformer.from_crs("EPSG:4326", source.crs, always_xy=True)
        columns, rows = ~source.transform * to_file.transform(sites.geometry.x.to_numpy(), sites.geometry.y.to_numpy())
    return np.floor(np.column_stack([rows, columns]) + 0.5 + 1e-6).astype(int) - SIZE_PX // 2


def count_needed(paths: Sequence[Path], corners: np.ndarray) -> tuple[int, int]:
    """Number of blocks under the chips that the files hold, and their compressed bytes, by rasterio."""
    number = total = 0
    for path in paths:
        with rasterio.open(path) as source:
            height, width = source.block_shapes[0]
            rows, columns = corners.T
            blocks = {
                (int(i), int(j))
                for row, column in zip(rows, columns, strict=True)
                for i in range(row // height, (row + SIZE_PX - 1) // height + 1)
                for j in range(column // width, (column + SIZE_PX - 1) // width + 1)
            }
            sizes = [source.get_tag_item(f"BLOCK_SIZE_{j}_{i}", "TIFF", bidx=1) for i, j in blocks]
        number += sum(size is not None for size in sizes)
        total += sum(int(size or 0) for size in sizes)
    return number, total


def reduce_stack(stored: np.ndarray) -> Chips:
    """Median of clear pixels, (band, y, x), from stored numbers (band and QA last, date, y, x).

    Faster than numpy.nanmedian, and the same numbers: NaN sorts to the end.
    """
    quality, bands = stored[-1], stored[:-1]
    clear = ((quality & (FILL | OBSTRUCTED)) == 0) & (bands != 0).all(axis=0)
    values = np.where(clear, bands.astype(np.float32) * SCALE + OFFSET, np.float32(np.nan))
    values.sort(axis=1)
    count = clear.sum(axis=0)
    low, high = (np.maximum(k, 0)[None, None] for k in ((count - 1) // 2, count // 2))
    high = np.minimum(high, stored.shape[1] - 1)
    first, second = (np.take_along_axis(values, np.broadcast_to(k, (len(bands), *k.shape[1:])), 1) for k in (low, high))
    return np.where(count % 2, first, (first + second) / np.float32(2))[:, 0]


def read_odc(job: Job) -> Chips:
    import odc.stac
    from affine import Affine
    from odc.geo.geobox import GeoBox

    odc.stac.configure_rio(cloud_defaults=True)
    items = [pystac.Item.from_dict(item) for item in job["items"]["features"]]
    corners, keys = np.array(job["corners"]), [*BANDS, "qa_pixel"]
    chips = np.empty((len(corners), len(BANDS), SIZE_PX, SIZE_PX), dtype=np.float32)
    for chip, (row, column) in zip(chips, corners.tolist(), strict=True):
        geobox = GeoBox((SIZE_PX, SIZE_PX), Affine(*job["transform"]) * Affine.translation(column, row), job["crs"])
        loaded = odc.stac.load(items, bands=keys, geobox=geobox, pool=THREADS, progress=None)
        chip[...] = reduce_stack(np.stack([loaded[key].to_numpy() for key in keys]))
    return chips


def read_rasterio(job: Job, *, by_file: bool = False) -> Chips:
    """``by_file``: a file is opened once and all windows come from it."""
    corners, village = np.array(job["corners"]), np.array(job["village"])
    hrefs = [[item["assets"][key]["href"] for item in job["items"]["features"]] for key in (*BANDS, "qa_pixel")]
    members = [np.flatnonzero(village == v) for v in np.unique(village)]
    boxes = [(corners[m].min(axis=0), corners[m].max(axis=0) + SIZE_PX) for m in members]
    windows = [Window(low[1], low[0], high[1] - low[1], high[0] - low[0]) for low, high in boxes]

    def read(href: str, windows: list[Window]) -> list[np.ndarray]:
        with rasterio.open(f"/vsicurl/{href}") as source:
            return [source.read(1, window=window) for window in windows]

    chips = np.empty((len(corners), len(BANDS), SIZE_PX, SIZE_PX), dtype=np.float32)
    with ThreadPoolExecutor(THREADS) as pool:
        split = [windows] if by_file else [[window] for window in windows]
        reads = [[[pool.submit(read, href, some) for href in row] for row in hrefs] for some in split]
        for k, (low, _) in enumerate(boxes):
            part, place = (0, k) if by_file else (k, 0)
            stored = np.stack([np.stack([future.result()[place] for future in row]) for row in reads[part]])
            for i in members[k]:
                y, x = corners[i] - low
                chips[i] = reduce_stack(stored[:, :, y : y + SIZE_PX, x : x + SIZE_PX])
            if not by_file:
                reads[part] = []
    return chips


def prepare_ours(job: Job, folder: Path, size_px: int, bands: Sequence[str]) -> tuple[Callable[[], Any], Any, Any]:
    """A fetch that is ready to run, the source it reads from and the sites."""
    from eo_cate.imagery.pixel_store import fetch_pixels
    from eo_cate.imagery.pixel_store.composite import nan_median
    from eo_cate.imagery.remote import HostPolicy, RemoteBlocks
    from eo_cate.imagery.stac.select import Wanted, select_items

    nan_median(np.zeros((1, 1, 2, 2), dtype=np.float32))  # compiled, or read from numba's cache
    wanted = Wanted(tuple(bands), dt.date(2000, 1, 1), dt.date(2000, 12, 31))
    scenes = select_items(((item, job["address"]) for item in job["items"]["features"]), wanted).scenes
    points = gpd.points_from_xy(job["longitude"], job["latitude"], crs="EPSG:4326")
    sites = gpd.GeoDataFrame(index=job["site_id"], geometry=points)
    source = RemoteBlocks(HostPolicy.from_catalog(job["address"]))
    options = {"bands": bands, "size_px": size_px, "folder": folder, "source": "benchmark", "progress": False}
    return lambda: fetch_pixels({"before": scenes}, sites, block_source=source, **options), source, sites


def run_part(part: str, job: Job, out: Path) -> dict[str, Any]:
    """What a process of its own does: chips into ``out``, and what they took."""
    counts: dict[str, int] = {}
    if part in ("ours", "memory"):
        from eo_cate.imagery.pixel_store import PixelStoreReader

        memory = part == "memory"
        size_px, bands = (job["size_px"], ("red",)) if memory else (SIZE_PX, BANDS)
        fetch, source, sites = prepare_ours(job, out.with_suffix(".store"), size_px, bands)

        def read() -> Chips:
            result = fetch()
            counts.update(vars(source.counts) | {"planned": result.plan.blocks, "shards": result.plan.shards})
            reader = PixelStoreReader(out.with_suffix(".store"), "benchmark", "before", sites, size_px=size_px)
            chips = np.empty((0 if memory else len(sites), len(bands), size_px, size_px), dtype=np.float32)
            for start in range(0, len(sites), 64):
                ids = sites.index[start : start + 64].tolist()
                read = reader.read_chips(ids, size_px)
                chips[start : start + 64] = read[: len(chips)]
            return chips
    else:
        import odc.stac  # noqa: F401  (imported before the clock starts, whoever needs it)

        readers: dict[str, Callable[[], Chips]] = {
            "odc": lambda: read_odc(job),
            "rasterio": lambda: read_rasterio(job),
            "by file": lambda: read_rasterio(job, by_file=True),
        }
        read = readers[part]
    start, clock = cpu_seconds(), time.perf_counter()
    chips = read()
    cpu, wall = cpu_seconds() - start, time.perf_counter() - clock
    np.save(out, chips)
    return {"cpu": cpu, "wall": wall, "peak": peak_bytes(), **counts}


def cpu_seconds() -> float:
    """User and system time of this process, its threads and its children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def peak_bytes() -> int:
    """Most memory that this process held; ru_maxrss would count that of the process that started it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def spawn(part: str, job: Job, out: Path) -> dict[str, Any]:
    path = out.with_suffix(".json")
    path.write_text(json.dumps(job))
    command = [sys.executable, __file__, "--part", part, "--job", str(path), "--out", str(out)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | GDAL)
    return dict(json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def serve(folder: Path, latency_ms: float) -> Iterator[str]:
    command = [sys.executable, "-m", "eo_cate.simulation.range_server", str(folder), "--latency-ms", str(latency_ms)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def open_archive(folder: Path, size: str) -> tuple[ArchiveSpec, Path, pystac.ItemCollection]:
    """The archive, made where it is not kept."""
    spec, place = archive_spec(size), folder / size
    if (place / "items.json").exists():
        return spec, place, pystac.ItemCollection.from_file(str(place / "items.json"))
    return spec, place, make_archive(place, spec, seed=1)


def make_job(sites: gpd.GeoDataFrame, items: pystac.ItemCollection, address: str, **more: Any) -> Job:
    return {
        "address": address,
        "items": rebase_items(items, address),
        "site_id": sites.index.tolist(),
        "village": sites["village"].tolist(),
        "longitude": sites.geometry.x.tolist(),
        "latitude": sites.geometry.y.tolist(),
        **more,
    }


def compare(
    place: Path,
    sites: gpd.GeoDataFrame,
    items: pystac.ItemCollection,
    address: str,
    *,
    rival_villages: int,
    rounds: int,
) -> dict[str, float]:
    """Time ours and the rivals one after the other, ``rounds`` times; the best of each counts."""
    paths = [place / asset.href for item in items for asset in item.assets.values()]
    with rasterio.open(paths[0]) as source:
        grid = {"transform": list(source.transform)[:6], "crs": source.crs.to_string()}
    part_of = sites[sites["village"] < rival_villages]
    jobs = {
        name: make_job(s, items, address, corners=find_corners(s, paths[0]).tolist(), **grid)
        for name, s in (("ours", sites), ("rivals", part_of))
    }
    needed, needed_bytes = count_needed(paths, np.array(jobs["ours"]["corners"]))
    best: dict[str, dict[str, Any]] = {}
    spread: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for k in range(rounds):
            chips = {}
            for part in ("ours", "rasterio", "odc", "by file"):
                out = Path(folder) / f"{part.replace(' ', '_')}-{k}.npy"
                job = jobs["ours" if part in ("ours", "by file") else "rivals"]
                found = spawn(part, job, out)
                chips[part] = np.load(out, mmap_mode="r")
                found["per_chip"] = found["cpu"] / len(chips[part])
                spread.setdefault(part, []).append(1e3 * found["per_chip"])
                best[part] = min(best.get(part, found), found, key=lambda f: f["per_chip"])
            for part, read in chips.items():
                assert np.array_equal(chips["ours"][: len(read)], read, equal_nan=True), f"{part} reads other chips"
    ours = best["ours"]
    for part, each in spread.items():
        found, times = best[part], " ".join(f"{ms:.1f}" for ms in each)
        print(
            f"  {part:<9} {1 / found['per_chip']:7.1f} chips/CPU s  {found['per_chip'] / ours['per_chip']:5.2f} x ours"
            f"  ({times} CPU ms per chip; peak {found['peak'] / 2**30:.2f} GiB, wall {found['wall']:.1f} s)"
        )
    taken = {
        "blocks": ours["blocks_fetched"] / needed,
        "decoded": ours["blocks_decoded"] / needed,
        "bytes": (ours["block_bytes"] + ours["header_bytes"]) / needed_bytes,
    }
    print(
        f"  blocks needed {needed:,}, {needed_bytes / 1e6:,.1f} MB; fetched / needed {taken['blocks']:.3f}, decoded / "
        f"needed {taken['decoded']:.3f}, bytes / needed {taken['bytes']:.4f}; {ours['requests']:,} requests, "
        f"{ours['shards']} shards"
    )
    return {part: found["per_chip"] / ours["per_chip"] for part, found in best.items()} | taken


def run_speed(folder: Path, *, quick: bool, rival_villages: int) -> dict[str, Any]:
    spec, place, items = open_archive(folder, "quick" if quick else "full")
    layouts = {"apart": HOUSEHOLDS, "shared": 1}
    numbers = (25,) if quick else (100, 300)
    ratios: dict[str, dict[str, float]] = {}
    with serve(place, 50) as address:
        for name, households in layouts.items():
            for number in numbers:
                sites = place_sites(spec, number // households, households, HOUSEHOLD_M + 100)
                print(f"{number} sites, {name} ({number // households} villages)", flush=True)
                limit = rival_villages if households > 1 else rival_villages * 2
                ratios[f"{name} {number}"] = compare(
                    place, sites, items, address, rival_villages=limit, rounds=1 if quick else 2
                )
    barred = [r for name, r in ratios.items() if name.startswith("apart")]
    holds = all(r[rival] >= bar for r in barred for rival, bar in BARS.items()) and all(
        r["blocks"] == r["decoded"] == 1.0 and r["bytes"] <= BYTES_BAR for r in ratios.values()
    )
    rounded = {name: {part: round(value, 3) for part, value in r.items()} for name, r in ratios.items()}
    lowest = round(min(r["odc"] for r in barred), 2)
    return {"name": "fetch", "ratio": lowest, "bar": BARS["odc"], "holds": holds, "ratios": rounded, "bars": BARS}


def run_memory(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Peak memory of a process that fetches and reads, by number of sites."""
    spec, place, items = open_archive(folder, "quick" if quick else "memory")
    size_px, peaks = 32, {}
    with serve(place, 0) as address, tempfile.TemporaryDirectory() as out:
        for number in (10, 100) if quick else (100, 1_000, 10_000):
            job = make_job(place_sites(spec, number, 1, 1_000), items, address, size_px=size_px)
            found = spawn("memory", job, Path(out) / f"{number}.npy")
            peaks[number] = found["peak"]
            print(
                f"{number:>6} sites: peak {found['peak'] / 2**20:7.0f} MiB, {found['shards']} shards, "
                f"{found['blocks_fetched']:,} of {found['planned']:,} blocks, {found['cpu']:.1f} CPU s, "
                f"{found['wall']:.1f} s",
                flush=True,
            )
    few, *_, most = peaks.values()
    holds = bool(max(peaks.values()) < MEMORY_BAR)
    growth = {"ratio": round(most / few, 3), "bar": GROWTH_BAR}
    return {"name": "fetch_memory", **growth, "holds": holds and most / few <= GROWTH_BAR, "peaks": peaks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small archive, 25 sites, once: within a minute")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of speed")
    parser.add_argument("--rival-villages", type=int, default=10, help="that the rivals are timed on")
    parser.add_argument("--folder", type=Path, help="keeps the archives (1 GB) between runs")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(run_part(given.part, json.loads(given.job.read_text()), given.out)))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = given.folder or Path(made)
        if given.memory:
            result = run_memory(folder, quick=given.quick)
        else:
            result = run_speed(folder, quick=given.quick, rival_villages=given.rival_villages)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
