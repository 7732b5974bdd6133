"""The study of whole embeddings against components: every draw measures all forms on one trial, and pages keep their text."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from eo_cate.errors import EoCateError
from eo_cate.executor import Executor
from eo_cate.simulation import forest_components as study
from eo_cate.simulation.demo_seeds import Landscape
from eo_cate.store import Store
from eo_cate.types import Grid


@pytest.fixture
def landscape():
    """160 cells whose effect is the first column of the small scale plus that of the large one."""
    rng = np.random.default_rng(0)
    place = np.arange(160)
    values = rng.standard_normal((160, 2, 1, 30)).astype(np.float32)
    tau = 0.3 + 0.5 * values[:, 0, 0, 0] + 0.5 * values[:, 1, 0, 0]
    cells = pd.DataFrame(
        {"row": 32 * (place // 16), "col": 32 * (place % 16), "baseline": 0.0, "tau": tau},
        index=[f"c{k:03d}" for k in place],
    )
    embedding = xr.DataArray(
        values,
        dims=("site", "scale", "time", "feature"),
        coords={"site": list(cells.index), "scale": [16, 64]},
    )
    grid = Grid("EPSG:32636", (10.0, 0.0, 500_000.0, 0.0, -10.0, 200_000.0), (512, 512))
    return Landscape(cells, grid, np.zeros((160, 3), np.float32), {study.ENCODER: embedding})


def test_every_form_is_measured_on_the_same_draw_and_stored(landscape, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "VILLAGES", (60, 100))
    options = {"num_trees": 40, "store": Store(tmp_path / "store"), "executor": Executor()}
    table = study.run_components(landscape, seeds=range(1, 3), **options)
    assert len(table) == 2 * 2 * len(study.COMPONENTS)
    assert np.isfinite(table[list(study.METRICS)].to_numpy()).all()
    assert table[["correlation", "share", "unsampled"]].to_numpy().max() <= 1
    # with 50 components wanted of 30 columns a block passes through: the same forest as on whole embeddings
    by = table.set_index(["villages", "seed", "components"])["correlation"].unstack()
    assert np.array_equal(by[0], by[50])
    assert not np.allclose(by[0], by[10])
    lines = (tmp_path / "store" / "manifest.jsonl").read_text()
    again = study.run_components(landscape, seeds=range(1, 3), **options)
    assert (tmp_path / "store" / "manifest.jsonl").read_text() == lines
    pd.testing.assert_frame_equal(again, table)


def test_the_summary_pairs_by_draw_and_the_page_keeps_its_text(tmp_path):
    rows = [
        (150, seed, k, 0.5 + 0.1 * seed + (0.02 * seed if k else 0.0), 0.6, 0.7, 0.9)
        for seed in (1, 2)
        for k in (0, 10)
    ]
    summary = study.summarise_components(pd.DataFrame(rows, columns=["villages", "seed", "components", *study.METRICS]))
    ten = summary[summary["components"] == 10].iloc[0]
    assert ten["difference"] == pytest.approx(0.03)
    assert ten["difference_se"] == pytest.approx(0.01)
    page = tmp_path / "forest.md"
    page.write_text("by hand\n<!-- components: begin -->\nold\n<!-- components: end -->\nalso by hand\n")
    study.write_components(summary, tmp_path, command="the command")
    text = page.read_text()
    assert text.startswith("by hand\n")
    assert text.endswith("also by hand\n")
    assert "`the command`" in text
    assert "| 150 | 10 components | 0.680 | +0.030 (0.010) |" in text
    assert "| 150 | whole embeddings | 0.650 |  |" in text
    assert (tmp_path / "forest_components.csv").read_text().count("\n") == 3
    page.write_text("no marks\n")
    with pytest.raises(EoCateError, match="lacks the lines"):
        study.write_components(summary, tmp_path, command="")
