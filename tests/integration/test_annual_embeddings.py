"""Annual embeddings of a catalogue from the YAML to the report: found, fetched, pooled; no network is run."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pystac
import pytest
import rasterio
import yaml
from helpers_annual import CENTRE, make_annual, newest_chip, read_scenes
from helpers_fetch import along_plane, serve_trial
from pyproj import Transformer
from rasterio.windows import Window

from eo_cate import cli
from eo_cate.config import merge
from eo_cate.errors import ConfigError, ImageryError
from eo_cate.executor import open_executor
from eo_cate.imagery.pixel_store import PixelStoreReader
from eo_cate.imagery.sources import source_name
from eo_cate.steps.context import Run
from eo_cate.steps.features import embed_places
from eo_cate.steps.inputs import open_inputs
from eo_cate.store import Store

SCALES = (8, 24)
PLACES = along_plane(CENTRE, {f"v{i}{j}": (260.0 * i - 901.3, 255.0 * j - 887.9) for i in range(8) for j in range(8)})
QUICK = {
    "estimators": {"num_trees": 50},
    "evaluation": {"num_orders": 2, "num_replicates": 50, "num_permutations": 2, "num_draws": 39},
}
YEAR = {"periods": [{"name": "y2018", "start": "2018-01-01", "end": "2018-12-31"}]}
PRODUCTS = {
    "precomputed:alphaearth": ({"bands": 64}, ["embedding:A00-A63"]),
    "precomputed:scaled": ({"bands": 6, "scheme": "scaled", "interleave": "band"}, ["embedding:1-6", "scale"]),
}


@pytest.fixture(scope="module", params=PRODUCTS)
def served(request, tmp_path_factory):
    """An archive of two years and a trial under it, with the encoder that reads it."""
    folder = tmp_path_factory.mktemp("annual")
    changes, bands = PRODUCTS[request.param]
    spec = make_annual(folder / "scenes" / "annual", years=[2018, 2019], masked_share=0.02, **changes)
    items = pystac.ItemCollection.from_file(str(folder / "scenes" / "annual" / "items.json"))
    imagery = {"collection": "annual", "bands": bands, "composite": "newest", "incomplete_sites": "drop", **YEAR}
    with serve_trial(folder, {"annual": items}, PLACES, **imagery) as trial:
        draw_outcomes(trial.folder / "units.csv", sorted(folder.rglob("*_2018/embedding.tif")))
        content = yaml.safe_load(trial.config_file.read_text())
        content["trial"]["treatment_start"] = "2019-01-01"
        content["embeddings"] = {
            "encoder": request.param, "scales": list(SCALES), "bands": bands, "max_missing": 0.2, "input_px": 56,
        }  # fmt: skip
        trial.config_file.write_text(yaml.safe_dump(merge(content, QUICK)))
        yield trial, spec, request.param


def draw_outcomes(path, tiles):
    """Four households per village; effects that a band of the villages' own pixels tells."""
    units, rng = pd.read_csv(path), np.random.default_rng(4)
    units = pd.concat([units, units.assign(unit=units["unit"] + "b")])
    to_utm = Transformer.from_crs("EPSG:4326", "EPSG:32636", always_xy=True)
    signal = np.zeros(len(units))
    for tile in tiles:
        with rasterio.open(tile) as source:
            for i, (x, y) in enumerate(zip(*to_utm.transform(units["lon"], units["lat"]), strict=True)):
                row, column = source.index(x, y)
                if 4 <= row < source.height - 4 and 4 <= column < source.width - 4:
                    signal[i] = source.read(2, window=Window(column - 4, row - 4, 8, 8)).mean()
    units["Y"] = (units["W"] * (signal - signal.mean()) / signal.std() + 0.3 * rng.normal(size=len(units))).round(4)
    units.to_csv(path, index=False)


def dequantise(chip, encoder):
    """Vectors (band, y, x) of stored numbers, by numpy."""
    stored = chip.astype(np.float64)
    return stored[:-1] * stored[-1] if encoder.endswith("scaled") else np.sign(stored) * (stored / 127.5) ** 2


def run_or_embed(trial, encoder, run_dir):
    """The whole run of the first product; of the other as far as its embeddings."""
    if encoder == "precomputed:alphaearth":
        where = ["--data-dir", str(trial.folder), "--run-dir", str(run_dir)]
        cli.app(["run", str(trial.config_file), *where, "--quiet"], result_action="return_value")
        assert json.loads((run_dir / "numbers.json").read_text())
        assert "AlphaEarth" in (run_dir / "report.html").read_text(encoding="utf-8")
    else:
        config = trial.config()
        inputs = open_inputs(config, trial.folder, run_dir=run_dir, progress=False)
        with open_executor("inline") as executor:
            run = Run(inputs.config, trial.folder, run_dir, Store(run_dir / "store"), executor, progress=False)
            embed_places(run, inputs)


@pytest.mark.slow
def test_from_the_yaml_to_the_vectors_of_each_site(served, tmp_path):
    trial, spec, encoder = served
    run_dir = tmp_path / "run"
    run_or_embed(trial, encoder, run_dir)
    asked = [(entry.path, entry.start, entry.end) for entry in trial.pixels.log]
    assert len(asked) == len(set(asked)), "a range was fetched twice"
    assert not [path for path, _, _ in asked if "_2019" in path], "the year of the programme was read"

    config = trial.config()
    reader = PixelStoreReader(
        run_dir / "pixels", source_name(config.imagery), "y2018", trial.sites(), size_px=max(SCALES), failed="missing"
    )
    scenes = [s for s in read_scenes(trial.pixels.folder / "annual", config.imagery.bands) if s.acquired.year == 2018]
    files = [sorted({Path(a.href) for a in scene.assets.values()}) for scene in scenes]  # embedding before scale
    whole = {site: newest_chip(files, reader, site, max(SCALES)) for site in sorted(PLACES)}
    for chip, expected in zip(reader.read_chips(sorted(PLACES), max(SCALES)), whole.values(), strict=True):
        assert chip.tobytes() == expected.tobytes()

    (table,) = (run_dir / "embeddings").glob("precomputed*.parquet")
    rows = pq.read_table(table).to_pylist()
    assert {row["scale"] for row in rows} == set(SCALES)
    assert len({row["site"] for row in rows}) > 0.6 * len(PLACES)
    for row in rows:
        margin = (max(SCALES) - row["scale"]) // 2
        inner = slice(margin, margin + row["scale"])
        vectors = dequantise(whole[row["site"]][:, inner, inner], encoder)
        assert len(row["vector"]) == spec.bands
        np.testing.assert_allclose(row["vector"], np.nanmean(vectors, axis=(1, 2)), rtol=1e-6, atol=1e-7)


def test_a_year_that_ends_in_the_programme_is_refused(served, tmp_path):
    """The span's end counts, whatever moment the item states; a period that ends earlier leaves the item out."""
    trial, *_ = served
    late = {"imagery": {"periods": [{"name": "y2018", "start": "2018-01-01", "end": "2019-12-31"}]}}
    with pytest.raises(ConfigError, match="treatment_start"):
        trial.config(late)
    half = {"imagery": {"periods": [{"name": "half", "start": "2018-01-01", "end": "2018-06-30"}]}}
    with pytest.raises(ImageryError, match="outside of the dates"):
        trial.fetch(tmp_path, overrides=half)


def test_quantised_pixels_are_not_averaged(served):
    trial, *_ = served
    with pytest.raises(ConfigError, match=r"must not be averaged .* set imagery\.composite: newest"):
        trial.config({"imagery": {"composite": "median"}})
    assert trial.config({"imagery": {"composite": "median"}, "embeddings": {"encoder": "precomputed"}})
