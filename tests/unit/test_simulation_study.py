"""The simulation study: devices do what they say, figures are those of their formulas, every part runs and resumes."""

import importlib.util
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from eo_cate.errors import EoCateError, ImageryError
from eo_cate.executor import Executor
from eo_cate.simulation import simulation_study as study
from eo_cate.simulation.demo_seeds import Landscape
from eo_cate.simulation.designs import COLUMNS, Design, paired_gain, run_designs, summarise_designs
from eo_cate.simulation.landscape_study import (
    IMAGE,
    LandscapeDesign,
    build_procedures,
    draw_effects,
    draw_landscape,
    landscape_designs,
    landscape_features,
)
from eo_cate.simulation.measures import ScoredFolds, measure_effects, oracle_share, r_squared
from eo_cate.simulation.pages import replace_part
from eo_cate.simulation.perturbed import PATTERNS, ChangedReader, Devices, SecondSensor
from eo_cate.simulation.perturbed_study import PatternFeatures, device_designs, draw_device_trial, scale_sets
from eo_cate.simulation.scales_study import choose_sets, scale_designs
from eo_cate.store import Store
from eo_cate.types import Grid

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"
STRETCH = ((0.0, 100.0), (20.0, 60.0))


class FlatReader:
    """Chips of two bands: 10 at every pixel of the first, 30 of the second."""

    bands = ("a", "b")
    resolution_m = 10.0
    grid = None
    digest = "flat"

    def read_chips(self, site_ids, size_px):
        return np.tile(np.float32([10, 30])[:, None, None], (len(site_ids), 1, size_px, size_px))


def changed(pattern, size_px):
    """The first band's chip of 256 px or so under a pattern (square, fade, contrast, cloud)."""
    return ChangedReader(FlatReader(), Devices(STRETCH)).read_chips([f"s@{pattern}"], size_px)[0]


def test_no_device_leaves_the_pixels_alone_and_codes_are_per_chip():
    chips = ChangedReader(FlatReader(), Devices(STRETCH)).read_chips(["s@0000", "s@1000"], 32)
    assert np.array_equal(chips[0], FlatReader().read_chips(["s"], 32)[0])
    assert not np.array_equal(chips[1], chips[0])


def test_the_square_is_40_m_at_the_site():
    chip = changed("1000", 32)
    bright = chip[0] == 100
    assert bright.sum() == 16
    assert bright[14:18, 14:18].all()
    assert np.array_equal(chip[1] == 60, bright)
    assert (chip[0][~bright] == 10).all()


def test_the_fade_lies_beyond_240_m_and_is_half_way_to_the_middle():
    assert np.array_equal(changed("0100", 32), changed("0000", 32))  # a chip of 320 m ends 226 m from the site
    chip = changed("0100", 64)
    y = x = (np.arange(64) + 0.5 - 32) * 10
    far = np.hypot(y[:, None], x[None]) > 240
    assert 0.2 < far.mean() < 0.8
    assert (chip[0][far] == 30).all()
    assert (chip[0][~far] == 10).all()
    assert (chip[1][far] == 35).all()


def test_contrast_is_six_tenths_of_the_distance_from_the_middle():
    chip = changed("0010", 32)
    assert chip[0] == pytest.approx(50 - 0.6 * 40)
    assert chip[1] == pytest.approx(40 - 0.6 * 10)
    both = changed("0110", 64)
    assert both[0, 0, 0] == pytest.approx(50 - 0.6 * 0.5 * 40)  # contrast, then fade


def test_the_cloud_is_a_disk_of_320_m_to_the_north_east():
    assert np.array_equal(changed("0001", 64), changed("0000", 64))  # out of sight
    bright = changed("0001", 128)[0] == 100
    rows, columns = np.nonzero(bright)
    assert (rows.mean() + 0.5 - 64) * 10 == pytest.approx(-450)
    assert (columns.mean() + 0.5 - 64) * 10 == pytest.approx(450)
    assert bright.sum() * 100 == pytest.approx(math.pi * 160**2, rel=0.02)
    assert np.array_equal(changed("1111", 128)[0] == 100, bright | (changed("1000", 128)[0] == 100))


def test_the_second_sensor_and_readers_without_metres():
    sensor = SecondSensor(gain=(2.0, 1.0), offset=(0.0, 5.0))
    chips = ChangedReader(FlatReader(), sensor).read_chips(["s@1", "s@0"], 4)
    assert (chips[0, 0] == 20).all()
    assert (chips[0, 1] == 35).all()
    assert np.array_equal(chips[1], FlatReader().read_chips(["s"], 4)[0])
    reader = FlatReader()
    assert ChangedReader(reader, sensor).digest != ChangedReader(reader, replace(sensor, offset=(1.0, 5.0))).digest
    reader.resolution_m = None
    with pytest.raises(ImageryError, match="metres"):
        ChangedReader(reader, sensor)


def test_figures_are_those_of_their_formulas():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=300)
    tau_hat = truth + rng.normal(size=300)
    assert r_squared(truth, tau_hat) == pytest.approx(1 - ((truth - tau_hat) ** 2).mean() / truth.var(), abs=1e-12)

    def autoc(by):
        """Mean over u of mean(truth of the u best) - mean(truth)."""
        ranked = truth[np.argsort(-by)]
        return np.mean(np.cumsum(ranked) / np.arange(1, 301) - truth.mean())

    assert oracle_share(truth, tau_hat) == pytest.approx(autoc(tau_hat) / autoc(truth), abs=1e-12)
    found = measure_effects(truth, tau_hat)
    ranks = [np.argsort(np.argsort(v)) for v in (truth, tau_hat)]
    assert found["rank"] == pytest.approx(np.corrcoef(ranks)[0, 1], abs=1e-12)
    assert measure_effects(truth, truth) == pytest.approx({"R2": 1.0, "share": 1.0, "rank": 1.0})


@pytest.fixture(scope="module")
def features():
    """60 sites, three scales of 5 columns; the first column of each scale is a device's bit, plus noise."""
    rng = np.random.default_rng(1)
    values = 0.2 * rng.normal(size=(16, 60, 3, 5))
    for place, pattern in enumerate(PATTERNS):
        values[place, :, :, 0] += np.array([int(bit) for bit in pattern[:3]])
    return PatternFeatures(values.astype(np.float32), (16, 32, 64))


def test_a_cell_draws_only_its_devices_and_effects_follow_the_bits(features):
    trial = draw_device_trial(features, "1010", 5)
    site = trial.X.site_index
    bits = trial.X.site.reshape(60, 3, 5)[:, :, 0] > 0.5
    assert not bits[:, 1].any()
    assert 0.2 < bits[:, 0].mean() < 0.8
    tau = 0.3 + 0.7 * (bits[:, [0, 2]] - 0.5).sum(axis=1)
    # features carry noise of sd .2: a bit is misread at 2.5 sd, so nearly all sites agree
    assert np.mean(np.isclose(trial.tau, tau[site])) > 0.95
    assert np.unique(draw_device_trial(features, "0000", 5).tau).tolist() == [0.3]
    by_site = pd.DataFrame({"site": site, "W": trial.vectors.W}).groupby("site")["W"]
    assert by_site.nunique().max() == 1
    assert by_site.first().sum() == 30
    assert by_site.size().between(5, 10).all()


def test_no_fold_tests_what_it_was_trained_on(features):
    trial = draw_device_trial(features, "1000", 2)
    folds = ScoredFolds.of(trial.vectors, trial.X, seed=3, crossed=True)
    groups = trial.vectors.groups
    for task in [*folds.tasks, *folds.crossed]:
        assert not set(groups[task.train]) & set(groups[task.test])
    tested = np.concatenate([task.test for task in folds.crossed])
    assert np.array_equal(np.sort(tested), np.arange(len(groups)))


def test_scale_sets_are_singles_pairs_and_all():
    assert list(scale_sets((32, 256))) == ["32 px", "256 px", "concatenated"]
    assert len(scale_sets((16, 32, 64, 128))) == 4 + 6 + 1
    assert scale_sets((16, 32, 64))["16 + 64 px"] == ("image_16", "image_64")


@pytest.fixture(scope="module")
def landscape():
    """400 cells; the first column of the scales 16 and 128 is what effects are made of."""
    rng = np.random.default_rng(2)
    place = np.arange(400)
    values = rng.normal(size=(400, 3, 1, 6)).astype(np.float32)
    cells = pd.DataFrame(
        {"row": 32 * (place // 20), "col": 32 * (place % 20), "baseline": 0.0, "tau": 0.0,
         "local": values[:, 0, 0, 0].astype(float), "context": values[:, 2, 0, 0].astype(float)},
        index=[f"c{k:03d}" for k in place],
    )  # fmt: skip
    image = xr.DataArray(
        values, dims=("site", "scale", "time", "feature"), coords={"site": list(cells.index), "scale": [16, 64, 128]}
    )
    grid = Grid("EPSG:32636", (10.0, 0.0, 500_000.0, 0.0, -10.0, 200_000.0), (700, 700))
    return Landscape(cells, grid, rng.normal(size=(400, 4)).astype(np.float32), {IMAGE: image})


def test_effects_are_made_of_what_the_signal_says(landscape):
    local, context = (landscape.cells[c] for c in ("local", "context"))
    for signal, expected in (("fine only", (1, 0)), ("coarse only", (0, 1)), ("interacting", (0, 0))):
        tau = draw_effects(landscape, signal)
        # independent columns of 400 cells correlate less than .2, 4 standard errors
        assert [round(abs(np.corrcoef(tau, c)[0, 1])) for c in (local, context)] == list(expected)
        assert tau.std() == pytest.approx(0.5)
    product = (local - local.mean()) * (context - context.mean())
    assert np.corrcoef(draw_effects(landscape, "interacting"), product)[0, 1] == pytest.approx(1)
    total = draw_effects(landscape, "both") + draw_effects(landscape, "opposite")
    assert np.corrcoef(total, local)[0, 1] == pytest.approx(1)
    assert np.ptp(draw_effects(landscape, "none")) == 0
    with pytest.raises(EoCateError, match="unknown signal"):
        draw_effects(landscape, "all")


def test_figures_are_taken_where_no_village_is(landscape):
    draw = draw_landscape(landscape, LandscapeDesign(100, "both"), 4)
    assert draw.sampled.sum() == 100
    assert np.array_equal(draw.outside, ~draw.sampled)
    shifted = draw_landscape(landscape, LandscapeDesign(100, "both", shifted=True), 4)
    rows = landscape.cells["row"].to_numpy()
    assert rows[shifted.sampled].max() < rows[shifted.outside].min()
    inside, at = landscape_features(landscape, draw, IMAGE, (16, 128), seed=4)
    assert np.array_equal(at.site[:, 0], landscape.cells["local"].to_numpy()[draw.outside].astype(np.float32))
    assert np.array_equal(inside.site[:, 6], landscape.cells["context"].to_numpy()[draw.sampled].astype(np.float32))
    shuffled, _ = landscape_features(landscape, draw, "shuffled", (16, 128), seed=4)
    assert abs(np.corrcoef(shuffled.site[:, 0], inside.site[:, 0])[0, 1]) < 0.4


def test_sets_of_scales():
    scales = (1, 2, 3, 4, 5, 6)
    assert choose_sets(scales, 1, seed=0) == [(s,) for s in scales]
    assert choose_sets(scales, 6, seed=0) == [scales]
    chosen = choose_sets(scales, 3, seed=0)
    assert len(set(chosen)) == 4
    assert chosen != choose_sets(scales, 3, seed=1)


def test_part_a_end_to_end(features, tmp_path):
    options = {"first_seed": 1, "store": Store(tmp_path), "executor": Executor(), "progress": False}
    two = PatternFeatures(features.values[:, :, :2], (16, 32))
    table = run_designs("devices", device_designs(two, draws=2, cells=("0000", "1000")), **options)
    mean = summarise_designs(table).set_index(["design", "procedure", "figure"])["mean"]
    assert mean["1000", "16 px", "R2"] > mean["1000", "32 px", "R2"] + 0.1
    assert ("0000", "16 px", "R2") not in mean
    text = study.TABLES["devices"](table)
    assert "| square | " in text
    assert "| none | " in text
    assert f"{mean['1000', '16 px', 'R2']:.2f} (" in text


def test_part_b_end_to_end(landscape, tmp_path, monkeypatch):
    chosen = [LandscapeDesign(100, "both"), LandscapeDesign(100, "none")]
    names = ("16 px, linear", "concat, linear", "average_evidence", "stack, linear", "concat, forest")
    quick = {name: build_procedures()[name] for name in names}
    monkeypatch.setattr("eo_cate.simulation.landscape_study.build_procedures", lambda *, compact: quick)
    table = run_designs(
        "landscape", landscape_designs(landscape, draws=1, chosen=chosen), first_seed=1, store=Store(tmp_path),
        executor=Executor(), progress=False,
    )  # fmt: skip
    mean = summarise_designs(table).set_index(["design", "procedure", "figure"])["mean"]
    assert mean["100, both", "concat, linear", "R2"] > mean["100, both", "16 px, linear", "R2"]
    assert ("100, none", "concat, linear", "R2") not in mean
    assert set(table["procedure"]) == set(quick)


def test_part_c_end_to_end_and_every_part_is_written(landscape, tmp_path):
    chosen = [LandscapeDesign(100, "both")]
    table = run_designs(
        "number of scales", scale_designs(landscape, draws=2, chosen=chosen), first_seed=1, store=Store(tmp_path),
        executor=Executor(), progress=False,
    )  # fmt: skip
    mean = summarise_designs(table).set_index(["procedure", "figure"])["mean"]
    assert mean["concat, 3", "R2"] > mean["concat, 1", "R2"]
    page = "by hand\n<!-- number of scales: begin -->\nold\n<!-- number of scales: end -->\nalso by hand\n"
    (tmp_path / "simulation.md").write_text(page)
    kept = pd.DataFrame([("landscape", "d", "p", "R2", 0.5, 3, 0.1)], columns=list(summarise_designs(table)))
    kept.to_csv(tmp_path / "simulation.csv", index=False)
    for _ in range(2):
        study.write_part("number of scales", table, tmp_path, command="the command")
    text = (tmp_path / "simulation.md").read_text()
    assert text.startswith("by hand\n")
    assert text.endswith("also by hand\n")
    assert "old" not in text
    assert f"{mean['concat, 3', 'R2']:.2f} (" in text
    written = pd.read_csv(tmp_path / "simulation.csv")
    assert written["part"].value_counts().to_dict() == {"landscape": 1, "number of scales": 18}


def measure_once(folder, seed):
    (folder / f"{seed}").touch(exist_ok=False)
    return {("p", "f"): float(seed)}


def test_what_was_drawn_is_not_drawn_again(tmp_path):
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    options = {"first_seed": 10, "executor": Executor(), "progress": False}

    def run(draws, **more):
        design = Design("d", partial(measure_once, drawn), draws, ("inputs",))
        return run_designs("part", [design], store=Store(tmp_path / "store"), **options, **more)

    assert run(10, stored_only=True).empty
    first = run(5)
    assert first["value"].tolist() == [10.0, 11.0, 12.0, 13.0, 14.0]
    assert run(10, stored_only=True)["value"].tolist() == first["value"].tolist()
    assert run(10)["draw"].tolist() == list(range(10))  # a seed drawn twice would fail in measure_once
    assert len(list(drawn.iterdir())) == 10


def test_gains_are_paired_by_draw_and_named_by_design():
    rows = [
        ("part", design, draw, name, "R2", value)
        for design, lead in (("a", 0.3), ("b", -0.1))
        for draw, level in enumerate((0.0, 5.0, 9.0))
        for name, value in (("x", level), ("y", level + lead + 0.01 * draw))
    ]
    gain = paired_gain(pd.DataFrame(rows, columns=list(COLUMNS)), "y", "x", "R2")
    assert gain.mean == pytest.approx(0.11)
    assert gain.mc_se == pytest.approx(0.01 / math.sqrt(3))
    assert (gain.better, gain.designs) == (1, 2)


def test_a_page_without_its_marks_is_refused(tmp_path):
    page = tmp_path / "page.md"
    for text in ("none", "<!-- p: end -->\n<!-- p: begin -->", "<!-- p: begin -->\n" * 2 + "<!-- p: end -->"):
        page.write_text(text)
        with pytest.raises(EoCateError, match="once and in this order"):
            replace_part(page, "p", "new")
        assert page.read_text() == text


@pytest.mark.slow
def test_the_quick_study_on_the_scene(tmp_path):
    """Chips too small to see a device are encoded once for both of its states, and the second run computes nothing."""
    from eo_cate.config import load_config
    from eo_cate.simulation import prepare_demo

    prepare_demo(tmp_path / "demo")
    stores = [Store(tmp_path / name) for name in ("store", "embeddings")]
    quick = study.Study(
        config=load_config(PIPELINES.parent / "configs" / "demo.yaml"), data_dir=tmp_path / "demo",
        size=study.StudySize(repetitions=1, sites=60, quick=True), store=stores[0], embeddings=stores[1],
        executor=Executor(),
    )  # fmt: skip
    found = dict(quick.run(["A", "C"]))
    assert list(found) == ["devices", "devices at six sizes", "number of scales"]
    assert all(np.isfinite(table["value"]).all() for table in found.values())
    # distinct patterns: 4 at 16 and 32 px, 8 at 64 px, 16 at 128, 192 and 256 px; four shards of 15 sites each
    assert stores[0].stages()["embed"][0] == 4 * (4 + 4 + 8 + 3 * 16)
    before = [store.stages() for store in stores]
    again = dict(quick.run(["A", "C"]))
    assert [store.stages() for store in stores] == before
    for title, table in found.items():
        pd.testing.assert_frame_equal(again[title], table)


def test_the_page_has_every_mark():
    page = (PIPELINES.parent / "docs" / "simulation.md").read_text()
    for title in study.TABLES:
        assert page.count(f"<!-- {title}: begin -->") == page.count(f"<!-- {title}: end -->") == 1
    spec = importlib.util.spec_from_file_location("simulation_study", PIPELINES / "simulation_study.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert set(module.PARTS) == {"A", "B", "C"}
