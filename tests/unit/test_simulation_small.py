import numpy as np
import pandas as pd

from eo_cate.extrapolation.cells import map_cells
from eo_cate.extrapolation.raster import read_raster_at
from eo_cate.simulation.landscape import box_means, gradient_size, normalised_difference
from eo_cate.simulation.scene import read_scene
from eo_cate.simulation.small import SMALL_STRETCH, simulate_small, small_landscape, write_small


def test_box_is_the_slice_around_the_pixel_corner():
    field = np.arange(400.0).reshape(20, 20)
    centres = pd.DataFrame({"row": [10, 8], "col": [6, 12]})
    outer = [field[8:12, 4:8], field[6:10, 10:14]]
    np.testing.assert_array_equal(box_means(field, centres, size_px=4), [box.mean() for box in outer])
    ring = [(box.sum() - box[1:3, 1:3].sum()) / 12 for box in outer]
    np.testing.assert_allclose(box_means(field, centres, size_px=4, without_px=2), ring, rtol=1e-15)


def test_gradient_of_a_plane_and_index_of_nothing():
    y, x = np.mgrid[:6, :7].astype(np.float32)
    np.testing.assert_allclose(gradient_size(3 * y + 4 * x), 5, rtol=1e-6)
    index = normalised_difference(np.array([3, 0], np.float32), np.array([1, 0], np.float32))
    np.testing.assert_array_equal(index, [0.5, np.nan])


def test_small_trial_has_two_scales_that_say_different_things():
    for seed in range(5):
        scene = small_landscape(seed=seed)
        cells = simulate_small(scene, seed=seed).cells
        # 121 cells, the coarse field has about 16 independent patches: a correlation's sd is about .2.
        assert abs(np.corrcoef(cells["local"], cells["context"])[0, 1]) < 0.6
        assert 0.35 < cells["tau"].std() < 0.7
        assert (cells["tau"] < 0).mean() > 0.05
        colour = [box_means(band, cells, size_px=64) for band in scene.bands.values()]
        assert np.abs(np.corrcoef([cells["tau"], *colour])[0, 1:]).max() < 0.5
        inside = [np.mean((band > SMALL_STRETCH[0]) & (band < SMALL_STRETCH[1])) for band in scene.bands.values()]
        assert min(inside) > 0.99


def test_written_small_trial_reads_back(tmp_path):
    trial = write_small(tmp_path, seed=1)
    assert trial.units["village"].nunique() == 72
    cells = map_cells(trial.grid, spacing_px=32, margin_px=32, mask=tmp_path / "land.tif")
    assert list(cells.index) == list(trial.cells.index)
    assert (read_raster_at(tmp_path / "tau.tif", cells, trial.grid) == trial.cells["tau"]).all()
    scene = small_landscape(seed=1)
    read = read_scene({band: tmp_path / "scene" / f"{band}.tif" for band in scene.bands})
    assert read.grid == scene.grid
    assert all((read.bands[band] == scene.bands[band]).all() for band in scene.bands)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "units.csv"), trial.units)
