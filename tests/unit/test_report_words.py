"""What the report says: it must claim no more than the figures allow."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers_report import AUTOC, make_config, make_inputs, make_map, make_rates

from eo_cate.report import print_summary, write_report
from eo_cate.report.maps import NO_EVIDENCE, cell_extent, centred_norm, draw_map, metres_per_unit
from eo_cate.report.style import house_style
from eo_cate.report.words import all_alarms, decimals_for, fmt, fmt_p, write_headline

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
    assert "RATE ratio 3.86" in headline.figures
    assert NO_EVIDENCE not in texts_of(inputs)


def test_the_map_needs_the_images_own_test() -> None:
    """Covariates alone carry the pre-specified test: the image's map must not borrow its p-value."""
    rates = make_rates(AUTOC | {"image_multi": (0.01, 0.07)})
    assert write_headline(make_inputs(rates=rates)).rejects
    assert NO_EVIDENCE in texts_of(make_inputs(rates=rates))


def test_a_strong_control_is_named_in_the_headline() -> None:
    limits = " ".join(write_headline(make_inputs()).limits)
    assert "random_vit (3.88)" in limits
    assert "pretraining is needed" in limits
    assert "mean_colour" not in limits
    weak = make_rates(AUTOC | {"random_vit": (0.1, 0.07)})
    assert "random_vit" not in " ".join(write_headline(make_inputs(rates=weak)).limits)


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
    assert "validity is not claimed" in limits
    assert "Only 31 groups" in limits
    assert "too few clusters for an interval" in headline.figures


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
