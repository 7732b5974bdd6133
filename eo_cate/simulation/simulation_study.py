"""The simulation study of multi-scale: its inputs, its parts, and what is written of them (docs/simulation.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from eo_cate.config import RunConfig
from eo_cate.embeddings import embed_sites
from eo_cate.executor import Executor
from eo_cate.imagery import RasterReader
from eo_cate.simulation.demo_seeds import Landscape, embed_landscape
from eo_cate.simulation.designs import Design, run_designs, summarise_designs
from eo_cate.simulation.landscape_study import (
    COARSE,
    COLOUR,
    FINE,
    IMAGE,
    RANDOM,
    SECOND,
    LandscapeDesign,
    all_designs,
    landscape_designs,
)
from eo_cate.simulation.pages import replace_part
from eo_cate.simulation.perturbed import PATTERNS, SEPARATOR, ChangedReader, SecondSensor, embed_patterns
from eo_cate.simulation.perturbed_study import PatternFeatures, device_designs
from eo_cate.simulation.scales_study import number_designs, scale_designs
from eo_cate.simulation.simulation_tables import device_tables, landscape_tables, scale_tables
from eo_cate.store import Store, write_atomic

FIRST_SEED = 2000
SIX, TWO = (16, 32, 64, 128, 192, 256), (32, 256)
SITE_SEED = 0
SENSOR = SecondSensor(gain=(1.2, 1.1, 1.0), offset=(0.0, 50.0, 100.0))
TABLES: dict[str, Callable[[pd.DataFrame], str]] = {
    "devices": device_tables, "devices at six sizes": device_tables, "landscape": landscape_tables,
    "number of scales": scale_tables,
}  # fmt: skip
PARTS = {"A": ("devices", "devices at six sizes"), "B": ("landscape",), "C": ("number of scales",)}


@dataclass(frozen=True)
class StudySize:
    """How much is drawn: draws of devices and landscape (a quarter of them at six sizes, half by number of scales).

    ``quick`` sees mean colours instead of the encoder's features and a few designs only: it shows that all works.
    """

    repetitions: int = 15
    sites: int = 200
    quick: bool = False

    @property
    def encoder(self) -> str:
        """The encoder of all images."""
        return COLOUR if self.quick else IMAGE


@dataclass(frozen=True)
class Study:
    """Where the study's inputs are, where its results go, and its size."""

    config: RunConfig
    data_dir: Path
    size: StudySize
    store: Store
    embeddings: Store
    executor: Executor

    def run(self, parts: Sequence[str], *, stored_only: bool = False) -> Iterator[tuple[str, pd.DataFrame]]:
        """Title and draws (`designs.COLUMNS`) of each table of the parts, as they are done; resumable."""
        landscape = self._embed_landscape()
        for title in (title for part in parts for title in PARTS[part]):
            designs = self._designs(title, landscape)
            yield (
                title,
                run_designs(
                    title,
                    designs,
                    first_seed=FIRST_SEED,
                    store=self.store,
                    executor=self.executor,
                    stored_only=stored_only,
                ),
            )

    def _designs(self, title: str, landscape: Landscape) -> list[Design]:
        draws, quick = self.size.repetitions, self.size.quick
        if title == "landscape":
            chosen = [LandscapeDesign(150, "both"), LandscapeDesign(150, "none")] if quick else all_designs()
            return landscape_designs(landscape, draws=draws, chosen=chosen)
        if title == "number of scales":
            return scale_designs(landscape, draws=-(-draws // 2), chosen=number_designs()[: 1 if quick else None])
        scales = TWO if title == "devices" else SIX
        features = self._embed_patterns(landscape, scales)
        cells = ("0000", "1000", "1100") if quick else PATTERNS
        return device_designs(features, draws=draws if title == "devices" else -(-draws // 4), cells=cells)

    def _embed_landscape(self) -> Landscape:
        """Cells at six sizes, by two control encoders, and as a second sensor sees them."""
        if self.size.quick:
            found = self._landscape({COLOUR: SIX})
            return replace(found, embeddings={IMAGE: found.embeddings[COLOUR]})
        found = self._landscape({IMAGE: SIX, RANDOM: (FINE, COARSE), COLOUR: self.config.embeddings.scales})
        settings, cells = self.config.embeddings, list(found.cells.index)
        second = embed_sites(
            ChangedReader(self._reader(found), SENSOR), [f"{cell}{SEPARATOR}1" for cell in cells], encoder=IMAGE,
            scales=(FINE, COARSE), bands=settings.bands, stretch=settings.stretch, input_px=settings.input_px,
            seed=self.config.seed, store=self.embeddings, executor=self.executor, description="second sensor",
        )  # fmt: skip
        return replace(found, embeddings=found.embeddings | {SECOND: second.assign_coords(site=cells)})

    def _landscape(self, scales: dict[str, Sequence[int]]) -> Landscape:
        return embed_landscape(self.config, self.data_dir, store=self.embeddings, executor=self.executor, scales=scales)

    def _embed_patterns(self, landscape: Landscape, scales: tuple[int, ...]) -> PatternFeatures:
        """Features of some cells, drawn once, under all patterns of devices."""
        chosen = np.random.default_rng(SITE_SEED).choice(len(landscape.cells), self.size.sites, replace=False)
        values = embed_patterns(
            self._reader(landscape), list(landscape.cells.index[np.sort(chosen)]), self.config,
            encoder=self.size.encoder, scales=scales, store=self.store, executor=self.executor,
            shard_size=self.size.sites // 4,
        )  # fmt: skip
        return PatternFeatures(values, scales)

    def _reader(self, landscape: Landscape) -> RasterReader:
        files = {band: self.data_dir / self.config.imagery.files[band] for band in self.config.embeddings.bands}
        return RasterReader(files).with_places(landscape.cells[["row", "col"]])


def write_part(title: str, table: pd.DataFrame, folder: Path, *, command: str) -> str:
    """Put a part's tables into simulation.md and its means into simulation.csv; returns the text of the tables.

    Rows of other parts that the CSV holds stay.
    """
    text = TABLES[title](table)
    replace_part(folder / "simulation.md", title, f"    {command}\n\n{text}")
    summary, path = summarise_designs(table).round(5), folder / "simulation.csv"
    if path.exists():
        old = pd.read_csv(path, dtype={"design": str})
        summary = pd.concat([old[old["part"] != title], summary], ignore_index=True)
    order = summary["part"].map({name: i for i, name in enumerate(TABLES)})
    ordered = summary.iloc[np.argsort(order, kind="stable")]
    write_atomic(path, ordered.to_csv(index=False, lineterminator="\n").encode())
    return text
