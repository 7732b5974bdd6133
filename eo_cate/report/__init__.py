"""Figures, tables and the HTML report."""

from eo_cate.report.collect import (
    calibration_rows,
    clan_rows,
    collect_sources,
    collect_versions,
    contrast_row,
    gates_rows,
    missing_rates,
    placebo_rows,
    policy_rows,
    rate_table,
    search_table,
    test_row,
    toc_of,
    truth_by_site,
)
from eo_cate.report.drivers_inputs import DriversShown, Gallery
from eo_cate.report.inputs import CONTRAST_COLUMNS, COVERAGE_COLUMNS, ReportInputs, Toc
from eo_cate.report.region_inputs import RegionShown, SurveyShown
from eo_cate.report.region_words import print_region
from eo_cate.report.summary import print_evaluation, print_search, print_summary
from eo_cate.report.write import write_report, write_search

__all__ = [
    "CONTRAST_COLUMNS",
    "COVERAGE_COLUMNS",
    "DriversShown",
    "Gallery",
    "RegionShown",
    "ReportInputs",
    "SurveyShown",
    "Toc",
    "calibration_rows",
    "clan_rows",
    "collect_sources",
    "collect_versions",
    "contrast_row",
    "gates_rows",
    "missing_rates",
    "placebo_rows",
    "policy_rows",
    "print_evaluation",
    "print_region",
    "print_search",
    "print_summary",
    "rate_table",
    "search_table",
    "test_row",
    "toc_of",
    "truth_by_site",
    "write_report",
    "write_search",
]
