"""A run's outputs: report.html, numbers.json, figures/, maps/ and tables/."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from eo_cate.errors import StoreError
from eo_cate.report.drivers_inputs import DRIVER_TABLES, DriversShown
from eo_cate.report.inputs import SEARCH_COLUMNS, TABLES, ReportInputs
from eo_cate.report.numbers import collect_numbers, dump_numbers, search_numbers
from eo_cate.report.page import render_html
from eo_cate.report.region_files import FILES as REGION_FILES
from eo_cate.report.region_files import remove_region, table_files, write_region
from eo_cate.report.region_inputs import RegionShown
from eo_cate.report.rows import estimators_of, rate_rows
from eo_cate.report.tables import build_tables, to_csv, to_latex, to_stata
from eo_cate.store import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Written by one kind of run and not by another: a run into the same folder must not leave the other's behind.
_OPTIONAL = (
    *(f"figures/{name}.{kind}" for name in ("rate", "search", "toc", "gates", "truth") for kind in ("png", "pdf")),
    *(f"figures/{name}.{kind}" for name in (*DRIVER_TABLES, "gallery") for kind in ("png", "pdf")),
    *(f"maps/tau_hat.{kind}" for kind in ("png", "pdf")),
    *(f"tables/{name}.{kind}" for name in ("balance", "toc", *TABLES, *DRIVER_TABLES) for kind in ("csv", "tex")),
    *REGION_FILES,
)


def write_report(inputs: ReportInputs, run_dir: Path) -> Path:
    """Write every output of a run and return the path of report.html.

    Each file is replaced atomically; report.html comes last. The same inputs give the same bytes.

    Raises
    ------
    StoreError
        When a file cannot be written.
    """
    run_dir = Path(run_dir)
    pictures = draw_pictures(inputs)
    files = {f"{name}.{kind}": content for name, pair in pictures.items() for kind, content in pair.items()}
    for name, table in build_tables(inputs).items():
        files[f"tables/{name}.csv"] = to_csv(table)
        if name != "toc":  # hundreds of rows: for a plot, not for a page
            files[f"tables/{name}.tex"] = to_latex(table)
        if name == "rate":
            files["tables/rate.dta"] = to_stata(table)
    if inputs.region is not None:
        from eo_cate.report.region_page import render_region

        files |= table_files(inputs.region)
        files["maps/region.html"] = render_region(inputs).encode()
    files["numbers.json"] = dump_numbers(collect_numbers(inputs))
    page = render_html(inputs, {name: pair["png"] for name, pair in pictures.items()})
    if inputs.region is None:
        remove_region(run_dir)
    else:
        write_region(inputs.region, run_dir)
    for name in _OPTIONAL:
        if name not in files and not (inputs.region and name in ("maps/region.tif", "tables/regions.gpkg")):
            (run_dir / name).unlink(missing_ok=True)
    for name, content in files.items():
        write_atomic(run_dir / name, content)
    write_atomic(run_dir / "report.html", page.encode())
    return run_dir / "report.html"


def draw_pictures(inputs: ReportInputs) -> dict[str, dict[str, bytes]]:
    """Path without suffix -> PNG and PDF bytes of every figure that the inputs allow."""
    from eo_cate.report.figures import draw_rates, draw_truth  # matplotlib is loaded only here
    from eo_cate.report.figures_gates import draw_gates
    from eo_cate.report.figures_search import draw_search
    from eo_cate.report.figures_toc import draw_tocs
    from eo_cate.report.maps import draw_map
    from eo_cate.report.style import render

    drawn: dict[str, Callable[[], Figure]] = {}
    if rate_rows(inputs):
        drawn["figures/rate"] = lambda: draw_rates(inputs)
    if len(inputs.search):
        drawn["figures/search"] = lambda: draw_search(inputs.search, inputs.search_p)
    if any(inputs.tocs.get(estimator) for estimator in estimators_of(inputs)):
        drawn["figures/toc"] = lambda: draw_tocs(inputs)
    if len(inputs.gates):
        drawn["figures/gates"] = lambda: draw_gates(inputs.gates, inputs.ate)
    if inputs.drivers is not None:
        drawn |= _driver_figures(inputs, inputs.drivers)
    if inputs.map is not None:
        drawn["maps/tau_hat"] = lambda: draw_map(inputs)
    if inputs.region is not None:
        drawn |= _region_figures(inputs, inputs.region)
    if inputs.truth is not None and len(inputs.truth):
        drawn["figures/truth"] = lambda: draw_truth(inputs)
    return {name: dict(zip(("png", "pdf"), render(draw), strict=True)) for name, draw in drawn.items()}


def _driver_figures(inputs: ReportInputs, drivers: DriversShown) -> dict[str, Callable[[], Figure]]:
    from eo_cate.report.figures_drivers import draw_curves, draw_differences, draw_effects, draw_gallery

    drawn: dict[str, Callable[[], Figure]] = {}
    if len(drivers.table):
        drawn["figures/drivers"] = lambda: draw_differences(drivers.table)
    if len(drivers.effects):
        drawn["figures/drivers_effects"] = lambda: draw_effects(drivers.effects, inputs.ate)
    if len(drivers.curves):
        drawn["figures/drivers_curves"] = lambda: draw_curves(drivers)
    gallery = drivers.gallery
    if gallery is not None:
        drawn["figures/gallery"] = lambda: draw_gallery(gallery)
    return drawn


def _region_figures(inputs: ReportInputs, region: RegionShown) -> dict[str, Callable[[], Figure]]:
    from eo_cate.report.figures_regions import draw_overlap, draw_region, draw_risk

    drawn: dict[str, Callable[[], Figure]] = {"maps/region": lambda: draw_region(inputs)}
    overlap, risk = region.overlap, region.risk
    if overlap is not None:
        drawn["figures/overlap"] = lambda: draw_overlap(overlap)
    surveyed = None if region.survey is None else region.survey.overlap
    if surveyed is not None:
        drawn["figures/overlap_survey"] = lambda: draw_overlap(surveyed)
    if risk is not None:
        drawn["figures/risk_coverage"] = lambda: draw_risk(risk)
    return drawn


def write_search(
    search: pd.DataFrame, search_p: Mapping[str, float], gain: Mapping[str, Any], run_dir: Path
) -> list[Path]:
    """Write a scale search: tables/search, figures/search, and the key ``scale_search`` of numbers.json.

    Parameters
    ----------
    search, search_p, gain
        As in `eo_cate.report.print_search`.
    run_dir : Path
        The other keys of its numbers.json, when there is one, stay as they are.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    StoreError
        When numbers.json is not JSON, or a file cannot be written.
    """
    from eo_cate.report.figures_search import draw_search  # matplotlib is loaded only here
    from eo_cate.report.style import render

    run_dir = Path(run_dir)
    numbers = _read_numbers(run_dir / "numbers.json") | {"scale_search": search_numbers(search, search_p, gain)}
    table = search[list(SEARCH_COLUMNS)].reset_index(drop=True)
    png, pdf = render(lambda: draw_search(search, search_p))
    files = {
        "tables/search.csv": to_csv(table),
        "tables/search.tex": to_latex(table),
        "figures/search.png": png,
        "figures/search.pdf": pdf,
        "numbers.json": dump_numbers(numbers),
    }
    for name, content in files.items():
        write_atomic(run_dir / name, content)
    return [run_dir / name for name in files]


def _read_numbers(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: not readable as JSON; delete it, `eo-cate run` writes it again") from error
    if not isinstance(numbers, dict):
        raise StoreError(f"{path}: holds no JSON object; delete it, `eo-cate run` writes it again")
    return numbers
