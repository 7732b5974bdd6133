"""The paper's trials where their data are not at hand: their own configurations on simulated scenes and units.

Scenes lie on a server that knows ranges, behind a real STAC API, both on this machine.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pystac

from eo_cate.config import RunConfig, load_config
from eo_cate.simulation.archive import ArchiveSpec, make_archive, rebase_items
from eo_cate.simulation.archive_trial import simulate_units, write_units
from eo_cate.simulation.range_server import serve_folder
from eo_cate.simulation.stac_server import serve_items
from eo_cate.simulation.village_trial import DemoTrial, VillageDesign
from eo_cate.store import digest, write_atomic

BANDS = ("red", "green", "blue", "nir08")
HOUSEHOLD_M = 300.0


@dataclass(frozen=True)
class PaperTrial:
    """What stands in for a trial: satellite, dates, place, and how units lie.

    Parameters
    ----------
    platform : str
    dates : sequence of date
        Of every scene.
    centre : (longitude, latitude)
        A round place in the trial's country: no site's.
    households_apart : bool
        Whether each household has a place of its own, within 300 m of its village.
    by_unit : bool
        Whether units were drawn one by one.
    """

    platform: str
    dates: tuple[dt.date, ...]
    centre: tuple[float, float]
    households_apart: bool = False
    by_unit: bool = False


TRIALS: Mapping[str, PaperTrial] = {
    "uganda_yop_landsat": PaperTrial(
        "landsat-7", tuple(dt.date(2000, month, 10) for month in (1, 2, 4, 6, 8, 10, 12)), (33.0, 2.5)
    ),
    "peru_graduation": PaperTrial(
        "landsat-5",
        tuple(dt.date(year, month, 5) for year in (2000, 2001, 2002, 2003) for month in (5, 8)),
        (-72.0, -14.0),
        households_apart=True,
    ),
    "georgia_water": PaperTrial(
        "landsat-5",
        tuple(dt.date(year, month, 15) for year in (2002, 2004, 2006) for month in range(4, 11)),
        (-84.0, 34.0),
        by_unit=True,
    ),
}


@contextmanager
def serve_trial(
    name: str,
    folder: Path,
    *,
    configs: Path,
    design: VillageDesign,
    extent_m: float = 60_000.0,
    scene_px: int = 1_200,
    seed: int = 1,
    latency_s: float = 0.0,
) -> Iterator[tuple[RunConfig, Path]]:
    """A paper's configuration, changed in its API's address alone, and the folder of its simulated units.

    Parameters
    ----------
    folder : Path
        Scenes and units are kept here, and made once.
    configs : Path
        Folder of the configurations.
    design : VillageDesign
        Numbers of villages and households.
    """
    trial = TRIALS[name]
    spec = ArchiveSpec(
        "landsat-c2-l2", trial.centre, extent_m, trial.dates, trial.platform, bands=BANDS, scene_px=scene_px
    )
    items, data_dir = _make(folder / name, spec, trial, design, seed)
    with (
        serve_folder(folder / name / "scenes", latency_s=latency_s) as pixels,
        serve_items(rebase_items(items, pixels.address)) as api,
    ):
        yield load_config(configs / f"{name}.yaml", {"imagery": {"api": api}}), data_dir


def _make(
    folder: Path, spec: ArchiveSpec, trial: PaperTrial, design: VillageDesign, seed: int
) -> tuple[pystac.ItemCollection, Path]:
    made, address = folder / "made.json", digest("paper-trial-1", repr(spec), repr(trial), repr(design), seed)
    if made.exists() and json.loads(made.read_text(encoding="utf-8")) == address:
        return pystac.ItemCollection.from_file(str(folder / "scenes" / "items.json")), folder
    items = make_archive(folder / "scenes", spec, seed=seed)
    drawn = simulate_units(
        spec,
        seed=seed,
        archive_seed=seed,
        design=design,
        chip_m=64 * spec.pixel_m,
        household_m=HOUSEHOLD_M if trial.households_apart else 0.0,
    )
    if trial.by_unit:
        _draw_by_unit(drawn, seed)
    write_units(drawn, folder / "units.csv")
    write_atomic(made, json.dumps(address).encode())
    return items, folder


def _draw_by_unit(drawn: DemoTrial, seed: int) -> None:
    """Draw the treatment of each unit anew and let its outcome follow, the effect being known."""
    units = drawn.units
    treated = np.random.default_rng([seed, 2]).integers(0, 2, len(units))
    units["Y"] += (treated - units["W"]) * units["tau"]
    units["W"] = treated
