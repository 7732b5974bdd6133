"""What the report says: it must claim no more than the figures allow."""

from __future__ import annotations

import html
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers_report import AUTOC, make_config, make_inputs, make_map, make_rates

from eo_cate.multiscale import name_estimator
from eo_cate.report import print_evaluation, print_summary, write_report
from eo_cate.report.format import decimals_for, fmt, fmt_p
from eo_cate.report.maps import cell_extent, centred_norm, draw_map, metres_per_unit
from eo_cate.report.rows import NO_EVIDENCE, UNCLEAR, all_alarms, estimators_of, map_guards, map_note
from eo_cate.report.style import house_style
from eo_cate.report.words import truth_sentences, write_headline

NULL = {name: (0.2 * estimate, std_err) for name, (estimate, std_err) in AUTOC.items()}


def texts_of(inputs: object) -> list[str]:
    """All words drawn on the map."""
    with house_style():
        figure = draw_map(inputs)  # type: ignore[arg-type]
        return [artist.get_text().replace("\n", " ") for axes in figure.axes for artist in axes.texts]


def test_a_ratio_below_the_limit_is_not_a_finding(tmp_path: Path) -> None:
    inputs = make_inputs(rates=make_rates(NULL))
    headline = write_headline(inputs)
    assert not headline.rejects
    assert "not distinguishable from a random ranking" in headline.verdict
    assert any("not evidence that the programme works equally well" in limit for limit in headline.limits)
    page = write_report(inputs, tmp_path).read_text(encoding="utf-8")
    assert "No evidence of heterogeneity." in page
    assert NO_EVIDENCE in texts_of(inputs)
    assert "not distinguishable" in " ".join(print_summary(inputs).split())


def test_a_clear_ratio_is_one_and_the_map_may_be_read() -> None:
    inputs = make_inputs()
    headline = write_headline(inputs)
    assert headline.rejects
    assert headline.configuration == "image_multi+tabular"
    assert [figures.split(":")[0] for figures in headline.figures] == ["With RidgeR", "With the forest"]
    assert all("RATE ratio 3.86" in figures for figures in headline.figures)
    assert headline.verdict.endswith("with RidgeR and the forest alike.")
    assert NO_EVIDENCE not in texts_of(inputs)


def test_the_map_needs_the_images_own_test() -> None:
    """Covariates alone carry the pre-specified test: the forest's map of the image must not borrow its p-value."""
    rates = make_rates(forest={"image_multi": (0.01, 0.07)})
    assert write_headline(make_inputs(rates=rates)).rejects
    assert UNCLEAR in texts_of(make_inputs(rates=rates))


def test_the_map_is_not_the_ridges() -> None:
    """RidgeR's own test of the image says nothing about a map that the forest drew."""
    config = make_config(multiscale={"map_procedure": "concat_pca"})
    rates = make_rates(AUTOC | {"image_multi": (0.01, 0.07)}, {"image_multi": (0.26, 0.07)})
    inputs = make_inputs(config=config, rates=rates)
    assert not {NO_EVIDENCE, UNCLEAR} & set(texts_of(inputs))
    guards = [(row["configuration"], row["estimator"]) for row in map_guards(inputs)]
    full = "image_multi+tabular"
    assert guards == [(full, "ridge"), (full, "forest"), ("image_multi", "forest")]


@pytest.mark.parametrize(("p", "struck"), [(0.001, False), (0.3, True)])
def test_a_map_of_a_procedure_of_its_own_is_guarded_by_its_own_test(p: float, struck: bool) -> None:
    """It stands in the table of rates under a role of its own, and nowhere as a third estimator."""
    rates, name = make_rates(), name_estimator("mean_of")
    forest = rates[(rates["configuration"] == "image_multi") & (rates["estimator"] == "forest")]
    own = forest.assign(role="map", estimator=name, ratio=1.25, p=p)
    inputs = make_inputs(rates=pd.concat([rates, own], ignore_index=True))
    assert bool({NO_EVIDENCE, UNCLEAR} & set(texts_of(inputs))) == struck
    guards = [(row["configuration"], row["estimator"]) for row in map_guards(inputs)]
    full = "image_multi+tabular"
    assert guards == [(full, "ridge"), (full, "forest"), ("image_multi", name)]
    assert estimators_of(inputs) == ["ridge", "forest"]
    assert "has a RATE ratio of 1.25" in map_note(inputs)
    assert "was not tested" in map_note(make_inputs())


@pytest.mark.parametrize("weak", ["ridge", "forest"])
def test_estimators_that_disagree_are_no_finding(weak: str, tmp_path: Path) -> None:
    """Whichever estimator rejects: both are named with their p, the map is struck and nothing is picked."""
    poor, good = {"image_multi+tabular": (0.04, 0.07)}, {"image_multi+tabular": (0.28, 0.07)}
    rates = make_rates(AUTOC | (poor if weak == "ridge" else good), good if weak == "ridge" else poor)
    inputs = make_inputs(rates=rates)
    headline = write_headline(inputs)
    assert not headline.rejects
    assert "The two estimators disagree about the ranking by image_multi+tabular" in headline.verdict
    assert "neither may be picked afterwards: this is not a clear finding" in headline.verdict
    names = {"ridge": "RidgeR", "forest": "the forest"}
    strong = names[next(name for name in names if name != weak)]
    assert f"with {strong} it is better than a random ranking (p < .001)" in headline.verdict
    assert f"with {names[weak]} it is not distinguishable from a random ranking (p = .284)" in headline.verdict
    assert UNCLEAR in texts_of(inputs)
    page = write_report(inputs, tmp_path).read_text(encoding="utf-8")
    assert "No clear evidence of heterogeneity." in page
    assert html.escape(headline.verdict) in page
    assert 'class="box" id="headline"' in page
    assert headline.verdict in " ".join(print_summary(inputs).split())
    assert headline.verdict in " ".join(print_evaluation(inputs).split())


def test_one_untested_estimator_is_said_to_be() -> None:
    rates = make_rates()
    rates.loc[(rates["estimator"] == "forest"), ["p", "ratio"]] = math.nan
    headline = write_headline(make_inputs(rates=rates))
    assert not headline.rejects
    assert "with the forest it is not tested" in headline.verdict


def limits_with(**ratios: float) -> str:
    """The headline's limits when rows have these ratios (standard error .07; a plus is written __)."""
    changed = {name.replace("__", "+"): (0.07 * ratio, 0.07) for name, ratio in ratios.items()}
    return " ".join(write_headline(make_inputs(rates=make_rates(AUTOC | changed))).limits)


def test_a_control_about_as_strong_is_named_in_the_headline() -> None:
    limits = limits_with(image_multi__tabular=3.0, random_vit=2.51, mean_colour=2.49, location=-4.0)
    own = "(RATE ratio 3.00) random_vit (2.51)"
    assert f"What does about as well as image_multi+tabular: with RidgeR {own}; with the forest {own}." in limits
    assert "pretraining is needed" in limits
    assert "mean_colour" not in limits
    assert "location" not in limits
    assert "does better" not in limits


@pytest.mark.parametrize("own", [3.0, 1.0], ids=["the test rejects", "it does not"])
def test_a_control_that_does_better_is_said_to(own: float) -> None:
    limits = limits_with(image_multi__tabular=own, mean_colour=own + 0.51, random_vit=own - 2, location=own - 2)
    both = f"(RATE ratio {own:.2f}) mean_colour ({own + 0.51:.2f})"
    assert f"What does better than image_multi+tabular: with RidgeR {both}; with the forest {both}." in limits
    assert "network is needed" in limits
    assert "about as well" not in limits


def test_the_survey_alone_is_a_control_of_the_pixels() -> None:
    assert "does not show that pixels add anything to the survey" in limits_with(image_multi__tabular=3.0, tabular=2.8)
    assert "pixels" not in limits_with(image_multi__tabular=3.0, tabular=1.8)


@pytest.mark.parametrize(
    ("random_vit", "words"),
    [(4.60, "does better than"), (3.48, "does about as well as"), (2.50, "does about as well as"),
     (2.40, "does less well than"), (math.nan, "cannot be compared with")],
)  # fmt: skip
def test_the_truth_does_not_flatter_the_image(random_vit: float, words: str) -> None:
    rates = make_rates(AUTOC | {"image_multi": (0.299, 0.1), "random_vit": (0.1 * random_vit, 0.1)})
    said = truth_sentences(make_inputs(rates=rates))
    figures = f"(RATE ratio {fmt(random_vit, 2)} against 2.99)"
    assert (
        f"A network with random weights {words} image_multi with RidgeR {figures} and {words} image_multi with the "
        f"forest {figures}."
    ) in said


def test_the_best_single_scale_stands_beside_all_scales() -> None:
    rates = make_rates(AUTOC | {"image_16": (0.4, 0.1), "image_64": (0.3, 0.1), "image_multi": (0.2, 0.1)})
    said = " ".join(truth_sentences(make_inputs(rates=rates)))
    assert "chosen afterwards and therefore optimistic, does better than image_multi with RidgeR (image_16, " in said
    assert "RATE ratio 4.00 against 2.00)" in said


def test_ratios_of_different_estimators_are_not_compared() -> None:
    """The forest's controls are strong and its image as well: RidgeR's image must not be held against them."""
    strong = {name: (0.9, 0.07) for name in ("random_vit", "mean_colour", "image_multi", "image_multi+tabular")}
    inputs = make_inputs(rates=make_rates(AUTOC | {"random_vit": (0.05, 0.07), "mean_colour": (0.05, 0.07)}, strong))
    said = " ".join((*write_headline(inputs).limits, *truth_sentences(inputs)))
    assert "does less well than image_multi with RidgeR (RATE ratio 0.71 against 3.91)" in said
    assert "does about as well as image_multi with the forest (RATE ratio 12.86 against 12.86)" in said
    assert "What does about as well as image_multi+tabular: with the forest" in said
    assert "12.86 against 3.91" not in said


def test_a_share_of_the_truth_that_may_be_chance_says_so() -> None:
    said = " ".join(truth_sentences(make_inputs()))
    assert "image_multi with RidgeR has 60 % of the AUTOC of the true effects." in said
    assert "image_multi with the forest has 60 % of the AUTOC of the true effects." in said
    weak = truth_sentences(make_inputs(rates=make_rates(AUTOC | {"image_multi": (0.11, 0.1)})))
    assert "25 % of the AUTOC of the true effects, which is not distinguishable from none" in " ".join(weak)


@pytest.mark.parametrize(("mean", "alarmed"), [(0.94, False), (0.96, True)])
def test_shuffled_embeddings_that_rank_are_an_alarm(mean: float, alarmed: bool) -> None:
    """The limit is 3 / sqrt(P) = .949 for 10 permutations (METHODS.md, section 7)."""
    inputs = make_inputs(shuffled_ratios=mean + np.array([-1.0, 1.0] * 5))
    assert bool(all_alarms(inputs)) is alarmed
    assert ("alarm" in write_headline(inputs).verdict) is alarmed
    assert ("ALARM" in print_summary(inputs)) is alarmed
    assert (NO_EVIDENCE in texts_of(inputs)) is alarmed


def test_estimated_propensities_and_few_groups_are_admitted() -> None:
    trial = make_config().trial.model_dump(mode="json") | {"propensity": "leave_group_out_share"}
    rates = make_rates().assign(groups=31, low=np.nan, high=np.nan)
    headline = write_headline(make_inputs(config=make_config(trial=trial), rates=rates))
    limits = " ".join(headline.limits)
    assert headline.rejects
    assert "that the programme is the cause is not claimed" in headline.verdict
    assert "gain more from the programme" not in headline.verdict
    assert "validity is not claimed" in limits
    assert "Only 31 groups" in limits
    assert all("too few clusters for an interval" in figures for figures in headline.figures)


def test_a_test_that_does_not_exist_is_not_passed() -> None:
    rates = make_rates().assign(p=math.nan, ratio=math.nan)
    headline = write_headline(make_inputs(rates=rates))
    assert not headline.rejects
    assert "could not be tested" in headline.verdict


def test_summary_fits_a_terminal_and_names_every_configuration() -> None:
    text = print_summary(make_inputs())
    assert max(map(len, text.splitlines())) <= 100
    assert all(name in text for name in AUTOC)


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(0.0, None, "0.00"), (-0.0001, 2, "0.00"), (1234567.8, None, "1,234,568"), (math.nan, None, "–"), (None, 2, "–"),
     (0.01234, None, "0.0123"), (12, None, "12"), (-3.14159, 2, "-3.14"), (99.96, None, "100.0")],
)  # fmt: skip
def test_numbers_are_readable(value: float | None, decimals: int | None, text: str) -> None:
    assert fmt(value, decimals) == text


def test_p_values_and_decimals() -> None:
    assert [fmt_p(p) for p in (0.0004, 0.0456, 1.0, math.nan)] == ["<.001", ".046", "1.000", "–"]
    assert decimals_for([0.066, 0.12]) == 3
    assert decimals_for([412.0]) == 0
    assert decimals_for([math.nan, 0.0]) == 3


def test_map_is_north_up_whatever_the_order_of_rows_and_columns() -> None:
    grid = make_map(20, 30)
    pictures = []
    for turned in (
        grid,
        grid.isel(y=slice(None, None, -1)),
        grid.isel(x=slice(None, None, -1)),
        grid.transpose("x", "y"),
    ):
        with house_style():
            picture = draw_map(make_inputs(map=turned)).axes[0].images[0]
        pictures.append(np.ma.filled(picture.get_array(), np.nan))
        assert picture.origin == "upper"
    for other in pictures[1:]:
        np.testing.assert_array_equal(other, pictures[0])
    np.testing.assert_array_equal(pictures[0], grid["tau_hat"].values)


def test_estimate_and_truth_share_one_scale_centred_on_the_ate() -> None:
    with house_style():
        figure = draw_map(make_inputs())
    first, second = (axes.images[0].norm for axes in figure.axes[:2])
    assert first is second
    assert (first.vmin + first.vmax) / 2 == pytest.approx(0.3123, abs=1e-12)
    assert centred_norm([np.full((2, 2), np.nan)], 0.0).vmax == 1.0


def test_extent_and_metres() -> None:
    grid = make_map(4, 3)
    assert cell_extent(grid) == (369_840.0, 370_800.0, 4_098_880.0, 4_100_160.0)
    assert metres_per_unit(grid) == 1.0
    degrees = xr.Dataset(coords={"y": [0.0, 0.1], "x": [30.0, 30.1]}, attrs={"crs": "EPSG:4326"})
    assert metres_per_unit(degrees) == pytest.approx(111_320, rel=1e-3)
    assert metres_per_unit(grid.assign_attrs(crs="EPSG:2263")) == pytest.approx(0.3048006, rel=1e-6)
