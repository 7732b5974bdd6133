"""Figures, tables and the HTML report."""

from eo_cate.report.collect import (
    collect_sources,
    collect_versions,
    placebo_rows,
    rate_table,
    toc_of,
    truth_by_site,
)
from eo_cate.report.inputs import ReportInputs, Toc
from eo_cate.report.summary import print_summary
from eo_cate.report.write import write_report

__all__ = [
    "ReportInputs",
    "Toc",
    "collect_sources",
    "collect_versions",
    "placebo_rows",
    "print_summary",
    "rate_table",
    "toc_of",
    "truth_by_site",
    "write_report",
]
