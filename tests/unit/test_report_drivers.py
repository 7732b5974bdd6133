"""The section "What drives it": its words, its files, and what it does not show."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from helpers_report import make_inputs, make_tests, written_files

from eo_cate.errors import EoCateError
from eo_cate.report import DriversShown, Gallery, write_report
from eo_cate.report.drivers_inputs import BIN_COLUMNS, CURVE_COLUMNS, DRIVER_COLUMNS, MOST_LABELS
from eo_cate.report.drivers_words import count_sentence, drawn_labels, driver_cells, drivers_context
from eo_cate.report.page import render_html

FILES = {
    *(f"figures/{name}.{kind}" for name in ("drivers", "drivers_effects", "drivers_curves") for kind in ("png", "pdf")),
    *(f"tables/{name}.{kind}" for name in ("drivers", "drivers_effects", "drivers_curves") for kind in ("csv", "tex")),
}


def make_table(labels=("x1", "NDVI, 160 m"), *, adjusted=0.01):
    rows = [
        (estimator, "image" if "," in label else "covariate", label.split(", ")[0], label.partition(", ")[2], label,
         0.1, 0.2, 0.3, 0.4, 0.3, 0.1, 0.1, 0.5, 2.0, 0.001 * (i + 1), adjusted, 3)
        for estimator in ("forest", "ridge")
        for i, label in enumerate(labels)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(DRIVER_COLUMNS))


def make_drivers(**changes):
    effects = [
        ("NDVI", "160 m", "NDVI, 160 m", k, 0.1 * k, 90, 18, 0.2 * k, 0.1, 0.1 * k, 0.3 * k) for k in (1, 2, 3, 4)
    ]
    curves = [("x1", 0.12, v, 0.1 * v, 0.1 * v - 0.2, 0.1 * v + 0.2) for v in (-1.0, 0.0, 1.0, 2.0)]
    parts = {
        "table": make_table(),
        "effects": pd.DataFrame(effects, columns=list(BIN_COLUMNS)),
        "curves": pd.DataFrame(curves, columns=list(CURVE_COLUMNS)),
        "ice": {"x1": np.random.default_rng(0).normal(size=(5, 4))},
        "configuration": "image_multi+tabular",
        "notes": ("Not shown, because no bands are known to be these: NDBI (swir16 and nir).",),
    }
    return DriversShown(**(parts | changes))


def make_gallery():
    images = np.random.default_rng(1).uniform(size=(12, 8, 8, 3))
    images[0, 0, 0] = np.nan
    return Gallery(images[:6], images[6:], "1,280 m", (0.125, 0.5), "B04, B03, B02")


def test_every_figure_and_table_is_a_file_and_every_figure_a_number(tmp_path):
    write_report(make_inputs(drivers=make_drivers()), tmp_path)
    files = written_files(tmp_path)
    assert set(files) >= FILES
    assert not any("gallery" in name for name in files)
    numbers = json.loads(files["numbers.json"])["drivers"]
    assert {len(numbers[name]) for name in ("drivers", "drivers_effects", "drivers_curves")} == {4}
    assert numbers["drivers"][0]["quartile_4"] == 0.4
    table = pd.read_csv(tmp_path / "tables" / "drivers.csv").fillna({"scale": ""})
    pd.testing.assert_frame_equal(table, make_table(), check_dtype=False, check_exact=True)


def test_a_run_without_leaves_no_earlier_ones_behind(tmp_path):
    write_report(make_inputs(drivers=make_drivers(gallery=make_gallery())), tmp_path)
    assert {"figures/gallery.png", "figures/gallery.pdf"} <= set(written_files(tmp_path))
    write_report(make_inputs(), tmp_path)
    assert not any("driver" in name or "gallery" in name for name in written_files(tmp_path))
    assert 'id="drivers"' not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("p", "noise"), [(0.41, True), (0.005, False)])
def test_without_a_rejection_the_rows_may_be_noise(p, noise):
    context = drivers_context(make_inputs(drivers=make_drivers(), tests=make_tests(both=p, all_scales=1 - p)))
    assert context["may_be_noise"] == noise
    assert ("may be noise" in context["noise"]) == noise
    assert "not causes" in context["association"]
    page = render_html(make_inputs(drivers=make_drivers(), tests=make_tests(both=p)), {})
    assert ("the ranking may be noise" in page) == noise
    for words in ("not causes of the effect", "no partial dependence"):
        assert words in page


def test_without_any_refit_test_that_is_said():
    context = drivers_context(make_inputs(drivers=make_drivers(), tests=make_tests().iloc[:0]))
    assert context["may_be_noise"]
    assert "no refit test" in context["noise"]


def test_rows_that_differ_are_counted_after_the_correction():
    assert count_sentence(make_table(adjusted=0.06)).startswith("0 of 4 rows")
    assert count_sentence(make_table()).endswith("5\u00a0%: x1; NDVI, 160 m.")
    many = count_sentence(make_table([f"x{i}" for i in range(9)]))
    assert many.startswith("18 of 18 rows")
    assert many.endswith("x5 and 3 more.")


def test_cells_set_the_estimators_of_an_observable_below_each_other():
    cells = driver_cells(make_table())
    assert [row[:2] for row in cells[1:]] == [
        ("x1", "RidgeR"), ("x1", "forest"), ("NDVI, 160 m", "RidgeR"), ("NDVI, 160 m", "forest"),
    ]  # fmt: skip
    assert cells[1][2:7] == ("0.10", "0.20", "0.30", "0.40", "0.30")
    assert cells[1][8] == "0.15"  # .3 in standard deviations of 2


def test_of_many_observables_the_clearest_are_drawn_and_that_is_said():
    table = make_table([f"x{i}" for i in range(MOST_LABELS + 5)])
    assert drawn_labels(table) == [f"x{i}" for i in range(MOST_LABELS)]
    assert f"Of {MOST_LABELS + 5} observables" in " ".join(
        drivers_context(make_inputs(drivers=make_drivers(table=table)))["notes"]
    )


def test_nothing_to_show_is_no_section():
    empty = make_drivers(table=make_table().iloc[:0], curves=pd.DataFrame(columns=list(CURVE_COLUMNS)), ice={})
    assert drivers_context(make_inputs(drivers=empty)) is None
    assert drivers_context(make_inputs()) is None


def test_only_covariates_or_only_images_are_a_section(tmp_path):
    no_image = make_drivers(table=make_table(["x1"]), effects=pd.DataFrame(columns=list(BIN_COLUMNS)))
    no_tabular = make_drivers(
        table=make_table(["NDVI, 160 m"]), curves=pd.DataFrame(columns=list(CURVE_COLUMNS)), ice={}
    )
    for name, shown in (("a", no_image), ("b", no_tabular)):
        write_report(make_inputs(drivers=shown), tmp_path / name)
        page = (tmp_path / name / "report.html").read_text()
        assert ("over the covariates</h3>" in page) == (name == "a")
        assert ("Effects by quartile of image quantities" in page) == (name == "b")


def test_a_wrong_table_stops():
    with pytest.raises(EoCateError, match="drivers_curves lacks"):
        dataclasses.replace(make_drivers(), curves=pd.DataFrame(columns=["covariate"]))
