"""The validity study: every cell runs, its rows find their outcomes, and a bar that is missed is called missed."""

import json

import numpy as np
import pytest

from eo_cate.executor import Executor
from eo_cate.simulation.clustered import ClusteredDesign, draw_clustered, draw_population
from eo_cate.simulation.study import CELLS, ROWS, SCENE_CELLS, Cell, Row, run_cell, summarise, write_study
from eo_cate.simulation.validity import population_blocks, run_replication
from eo_cate.store import Store


@pytest.mark.parametrize("name", sorted(set(CELLS) - {"forest"}))
def test_a_replication_gives_the_outcomes_of_its_rows(name):
    found = run_replication(name, CELLS[name], 0)
    wanted = {part for row in ROWS if row.cell == name for part in (row.outcome, row.minus, row.over) if part}
    assert wanted
    assert wanted <= set(found)
    assert all(np.isfinite(value) for value in found.values())


def test_every_row_has_a_cell_and_every_name_is_its_own():
    assert {row.cell for row in ROWS} == set(CELLS) | set(SCENE_CELLS)
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_blocks_resume_and_depend_on_nothing_else(tmp_path):
    cell = Cell(ClusteredDesign(villages=60, households=3, scales=2), ("shuffled",), 30)
    first = run_cell("x", cell, store=Store(tmp_path), executor=Executor(), progress=False)
    again = run_cell("x", cell, store=Store(tmp_path), executor=Executor(), progress=False)
    assert Store(tmp_path).stages()["study"][0] == 2
    np.testing.assert_array_equal(first["shuffled, group folds"], again["shuffled, group folds"])
    alone = [run_replication("x", cell, r)["shuffled, group folds"] for r in range(30)]
    np.testing.assert_array_equal(first["shuffled, group folds"], alone)


def test_bars_are_judged_on_the_value_itself(tmp_path):
    outcomes = {"c": {"a": np.repeat([1.0, 0.0], [10, 90]), "b": np.repeat([1.0, 0.0], [40, 60])}}
    rows = [
        Row("inside", "c", "a", 0.05, 0.15), Row("missed", "c", "a", 0.03, 0.07),
        Row("less", "c", "b", 0.3, 1.0, minus="a"), Row("share", "c", "a", 0.2, 0.3, over="b"),
    ]  # fmt: skip
    table = summarise(rows, outcomes)
    assert [row["holds"] for row in table] == [True, False, True, True]
    assert table[0]["mc_se"] == pytest.approx(np.sqrt(0.1 * 0.9 / 99))
    assert [row["value"] for row in table] == pytest.approx([0.1, 0.1, 0.3, 0.25])
    page = tmp_path / "validity.md"
    page.write_text("# By hand\n<!-- study: begin -->\nold\n<!-- study: end -->\nAlso by hand.\n")
    write_study(table, tmp_path, command="make study")
    assert page.read_text().startswith("# By hand\n")
    assert page.read_text().endswith("Also by hand.\n")
    assert "| missed | 0.100 | 0.030 | 0.03 to 0.07 | 100 | **missed** |" in page.read_text()
    assert json.loads((tmp_path / "validity.json").read_text())[1]["holds"] is False


def test_the_population_is_that_of_the_trial():
    design = ClusteredDesign(villages=60, households=3, scales=2, width=20, effects="two_scales")
    trial, population = draw_clustered(design, seed=[1, 2]), draw_population(design, seed=[1, 2])
    other = draw_population(design, seed=[1, 3])
    X = trial.everything()
    assert population_blocks(population.scales).names == X.names

    def axes(A):
        return np.linalg.svd(A - A.mean(axis=0), full_matrices=False)[2][:5]

    # The leading directions of the features are the loadings', shared by trial and population and by no other seed's.
    same, different = (
        np.linalg.norm(axes(X.site) @ axes(np.hstack(list(p.scales.values()))).T) for p in (population, other)
    )
    assert same > 1.5 * different
    assert population.tau.std() == pytest.approx(0.5, rel=0.05)
