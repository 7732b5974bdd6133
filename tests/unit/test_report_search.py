"""Tests, gains and the scale search in words, text, figures and files: the search pays, and naive figures are named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers_report import (
    AUTOC,
    SEARCH_P,
    make_contrast,
    make_contrasts,
    make_gates,
    make_inputs,
    make_rates,
    make_search,
    make_tests,
    written_files,
)

from eo_cate.errors import StoreError
from eo_cate.report import print_evaluation, print_search, write_report, write_search
from eo_cate.report.figures import draw_rates
from eo_cate.report.figures_gates import draw_gates
from eo_cate.report.figures_search import draw_search
from eo_cate.report.figures_toc import draw_tocs
from eo_cate.report.style import house_style, look_of
from eo_cate.report.words import write_headline
from eo_cate.report.words_tests import judge_difference, naive_figures

GAIN = make_contrast("image_multi", "chosen single", "ridge", 0.05, 0.046)


def answers_with(**changes: object) -> str:
    return " ".join(write_headline(make_inputs(**changes)).answers)


@pytest.mark.parametrize(
    ("estimate", "words"),
    [(0.05, "not distinguishable from zero"), (-0.05, "not distinguishable from zero"), (0.2, "above zero"),
     (-0.2, "below zero"), (math.nan, "no interval, so nothing is claimed")],
)  # fmt: skip
def test_a_gain_says_what_its_interval_allows(estimate: float, words: str) -> None:
    assert judge_difference(make_contrast("image_multi", "chosen single", "ridge", estimate, 0.046)) == words


def test_an_interval_that_ends_at_zero_holds_it() -> None:
    assert judge_difference({"low": 0.0, "high": 0.2}) == "not distinguishable from zero"
    assert judge_difference({"low": -0.2, "high": 0.0}) == "not distinguishable from zero"


def test_the_gain_of_both_estimators_is_in_the_headline() -> None:
    gain = make_contrasts()
    gain.loc[(gain["estimator"] == "forest") & (gain["second"] == "chosen single"), ["low", "high"]] = [0.01, 0.2]
    said = answers_with(contrasts=gain)
    ridge, forest = said.split("chose: with RidgeR 0.050")[1].split("with the forest")
    assert "not distinguishable from zero" in ridge
    assert "above zero" in forest
    assert "not distinguishable" not in forest


def test_the_refit_test_of_all_scales_is_answered_either_way() -> None:
    assert "p = .005; they predict the effect" in answers_with()
    assert "p = .300; they are not shown to predict the effect" in answers_with(tests=make_tests(all_scales=0.3))
    assert "p = .050; they predict the effect" in answers_with(tests=make_tests(all_scales=10 / 200))
    assert "p = .055; they are not shown" in answers_with(tests=make_tests(all_scales=11 / 200))
    few = make_tests().assign(flip_units=24)
    assert "few flip units, so power is low" in answers_with(tests=few)


def test_a_refit_test_that_rejects_alone_does_not_save_the_ranking() -> None:
    null = {name: (0.2 * estimate, std_err) for name, (estimate, std_err) in AUTOC.items()}
    aside = "not that the rankings above find it"
    assert aside in answers_with(rates=make_rates(null))
    assert aside not in answers_with()
    assert aside not in answers_with(rates=make_rates(null), tests=make_tests(all_scales=0.3))


def test_image_or_place_is_answered_either_way() -> None:
    assert "p = .010; beyond a smooth map of the place, the image still predicts" in answers_with()
    place = answers_with(tests=make_tests(place=0.4))
    assert "the image is not shown to predict the effect: what it sees may be the place" in place
    neither = answers_with(tests=make_tests(place=0.4, all_scales=0.3))
    assert "still predicts" not in neither
    assert "may be the place" not in neither


def test_naive_figures_are_computed_and_labelled() -> None:
    search = make_search()
    search["ratio"] = [1.0, 2.0, 3.0, 2.5, 4.5, 0.0]
    found = {row["what"]: row for row in naive_figures(search)}
    assert found["best single scale, of 3"]["ratio"] == 3.0
    assert (found["best of all sets, of 6"]["sets"], found["best of all sets, of 6"]["ratio"]) == ("image_16+128", 4.5)
    assert found["best pair minus mean single scale"]["ratio"] == 2.5
    assert {row["label"] for row in found.values()} == {"optimistic"}
    assert naive_figures(search.assign(ratio=math.nan)) == []


def test_search_text_leads_with_the_one_test_and_labels_what_was_picked() -> None:
    text = print_search(make_search(), SEARCH_P, GAIN)
    one_line = " ".join(text.split())
    order = [one_line.index(words) for words in (
        "One test of all scales together leads: p = .005", "family-wise p = .010", "The search paid for its tries",
        "A winner is a point estimate only", "p_ledger also pays", "not distinguishable from zero", "(optimistic)",
        "the best of 21 sets had a RATE ratio of 1.41",
    )]  # fmt: skip
    assert order == sorted(order)
    assert "the best of 6 single scales 1.20" in one_line
    assert max(map(len, text.splitlines())) <= 100
    picked = [line for line in text.splitlines() if line.startswith("best ")]
    assert len(picked) == 3
    assert all("(optimistic)" in line for line in picked)


def test_a_search_that_finds_nothing_says_so() -> None:
    null = SEARCH_P | {"everything": 0.4, "family": 0.2}
    text = " ".join(print_search(make_search(), null, GAIN).split())
    assert "they are not shown to predict the effect" in text
    assert "no set is shown to predict the effect, whatever its own p" in text
    assert "at least one set predicts" not in text


def test_search_is_written_beside_a_run(tmp_path: Path) -> None:
    write_report(make_inputs(), tmp_path)
    before = json.loads((tmp_path / "numbers.json").read_text(encoding="utf-8"))
    search = make_search((16, 32, 64, 128), larger=((16, 32, 64),))
    paths = write_search(search, SEARCH_P, GAIN, tmp_path)
    assert all(path.stat().st_size > 0 for path in paths)
    after = json.loads((tmp_path / "numbers.json").read_text(encoding="utf-8"))
    assert {key: value for key, value in after.items() if key != "scale_search"} == before
    found = after["scale_search"]
    assert [row["ratio"] for row in found["search"]] == list(search["ratio"])
    assert found["gain"]["estimate"] == GAIN["estimate"]
    assert found["search_p"] == SEARCH_P
    np.testing.assert_array_equal(pd.read_csv(tmp_path / "tables/search.csv")["adjusted_p"], search["adjusted_p"])


def test_search_makes_its_own_numbers_and_refuses_broken_ones(tmp_path: Path) -> None:
    paths = write_search(make_search(), SEARCH_P, GAIN, tmp_path / "new")
    assert {str(p.relative_to(tmp_path / "new")) for p in paths} == written_files(tmp_path / "new").keys()
    assert list(json.loads((tmp_path / "new/numbers.json").read_text(encoding="utf-8"))) == ["scale_search"]
    for broken in ("{", "[]"):
        (tmp_path / "new/numbers.json").write_text(broken, encoding="utf-8")
        with pytest.raises(StoreError, match=r"numbers\.json.*eo-cate run"):
            write_search(make_search(), SEARCH_P, GAIN, tmp_path / "new")
        assert (tmp_path / "new/numbers.json").read_text(encoding="utf-8") == broken


def test_heat_map_holds_every_set_once_in_its_place() -> None:
    search = make_search((16, 64, 128), larger=((16, 64, 128),))
    search["ratio"] = [1.11, 2.22, 3.33, 4.44, 5.55, 6.66, 7.77]
    with house_style():
        figure = draw_search(search, SEARCH_P)
    axes = figure.axes[0]
    cells = np.ma.filled(axes.images[0].get_array(), np.nan)
    expected = np.array([[1.11, np.nan, np.nan], [4.44, 2.22, np.nan], [5.55, 6.66, 3.33]])
    np.testing.assert_array_equal(cells, expected)
    written = {
        text.get_text(): tuple(round(float(v)) for v in text.get_position())
        for text in axes.texts
        if text.get_text()[0].isdigit()
    }
    assert written == {f"{expected[i, j]:.2f}": (j, i) for i in range(3) for j in range(i + 1)}
    assert "16 + 64 + 128 px: ratio 7.77, adjusted p .080" in figure.get_supxlabel()
    assert "family-wise: p .010" in figure.get_suptitle()


def test_rate_figure_tells_the_estimators_apart_twice() -> None:
    """Every rate is one marker in each panel, and shape and colour both say whose it is."""
    inputs = make_inputs()
    with house_style():
        left, right, text = draw_rates(inputs).axes
    looks = {estimator: look_of(estimator) for estimator in ("ridge", "forest", "truth")}
    assert len({colour for colour, _ in looks.values()}) == len({marker for _, marker in looks.values()}) == len(looks)
    rates = inputs.rates[inputs.rates["target"] == "AUTOC"]
    for axes, column in ((left, "estimate"), (right, "ratio")):
        for estimator, (colour, marker) in looks.items():
            drawn = [line for line in axes.lines if line.get_marker() == marker and line.get_color() == colour]
            found = sorted(float(line.get_xdata()[0]) for line in drawn)
            np.testing.assert_array_equal(found, sorted(rates.loc[rates["estimator"] == estimator, column]))
    words = [artist.get_text() for artist in text.texts]
    assert words.count("3.86") == 2
    assert {"RidgeR", "forest"} <= set(words)


def test_placebo_curves_are_drawn_with_ridge_only() -> None:
    inputs = make_inputs()
    with house_style():
        figure = draw_tocs(inputs)
    ridge, forest = figure.axes
    labels = [[artist.get_label() for artist in axes.collections] for axes in (ridge, forest)]
    assert [axes.get_title(loc="left") for axes in (ridge, forest)] == ["RidgeR", "forest"]
    assert [sum("shuffled embeddings (RidgeR)" in label for label in own) for own in labels] == [1, 0]
    assert [sum("pointwise 95 %, clustered" in label for label in own) for own in labels] == [1, 1]
    assert ridge.get_ylim() == forest.get_ylim()


def test_gates_figure_shows_both_estimators_and_the_average() -> None:
    with house_style():
        figure = draw_gates(make_gates(), (0.3123, 0.0461))
    left, right = figure.axes
    for colour, marker in (look_of("ridge"), look_of("forest")):
        points = [line for line in left.lines if line.get_marker() == marker and line.get_color() == colour]
        assert [len(line.get_xdata()) for line in points] == [5]
        assert len([line for line in right.lines if line.get_marker() == marker]) == 1
    assert any(np.allclose(line.get_ydata(), 0.3123) for line in left.lines if line.get_linestyle() == "--")


def test_evaluation_text_holds_every_table() -> None:
    inputs = make_inputs()
    text = print_evaluation(inputs)
    for words in ("RATE by configuration", "Refit tests", "Paired differences", "Scale search", "p one-sided", "GATES",
                  "CLAN", "Policy value"):  # fmt: skip
        assert words in text
    lines = [line.split() for line in text.splitlines() if line.startswith(("result ", "control "))]
    assert len(lines) == (inputs.rates["target"] == "AUTOC").sum()
    assert [line[-1] for line in lines if line[1] == "image_multi"] == ["20", "3"]
    empty = {
        name: getattr(inputs, name).iloc[:0] for name in ("tests", "contrasts", "search", "gates", "clan", "absent")
    }
    bare = print_evaluation(make_inputs(**empty))
    assert not [w for w in ("Refit tests", "Paired differences", "Scale search", "GATES", "CLAN") if w in bare]
    assert "p one-sided" in bare
