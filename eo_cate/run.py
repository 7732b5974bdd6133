"""The way through the house: trial, imagery, embeddings, multiscale, estimators, evaluation, map, report."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eo_cate.config import RunConfig, dump_config, load_config
from eo_cate.errors import ConfigError, EoCateError
from eo_cate.executor import open_executor
from eo_cate.report import ReportInputs, print_search, print_summary, write_report, write_search
from eo_cate.steps.collect import collect, collect_search
from eo_cate.steps.context import Run
from eo_cate.steps.drivers import find_drivers
from eo_cate.steps.evaluate import check_folds, evaluate, prepare
from eo_cate.steps.extrapolate import extrapolate_region
from eo_cate.steps.features import build_configurations, embed_places
from eo_cate.steps.fetch import fetch_imagery, plan_imagery, print_fetched, print_plan
from eo_cate.steps.inputs import Inputs, check_encoders, open_inputs
from eo_cate.steps.map_model import MapModel
from eo_cate.steps.mapping import draw_map
from eo_cate.steps.pretrain import describe_pretrained, pretrain_encoder
from eo_cate.steps.quality import examine
from eo_cate.steps.questions import ask
from eo_cate.steps.region_area import open_area, read_area
from eo_cate.steps.search import search_scales
from eo_cate.store import Store, write_atomic
from eo_cate.trial import find_problems as find_trial_problems
from eo_cate.trial import load_trial


@dataclass(frozen=True)
class RunResult:
    """Where a run's report lies, its table as text, and everything that it shows."""

    report: Path
    summary: str
    inputs: ReportInputs


def run_trial(config: RunConfig, *, data_dir: Path, run_dir: Path, progress: bool = True) -> RunResult:
    """Take a trial to its report; what ``run_dir`` holds already is not computed again.

    Parameters
    ----------
    config : RunConfig
    data_dir : Path
        Folder that the config's paths are relative to.
    run_dir : Path
        Folder of results: config.yaml, numbers.json, report.html, figures/, maps/, tables/, store/.
    progress : bool
        Show bars on standard error.

    Raises
    ------
    EoCateError
        Before any long work when the configuration or the data are wrong.
    """
    data_dir, run_dir = Path(data_dir), Path(run_dir)
    with open_executor(config.executor) as executor:
        run = Run(config, data_dir, run_dir, Store(run_dir / "store"), executor, progress)
        run, inputs = _open(run)
        check_folds(run.config, inputs.trial)
        area = open_area(run, inputs)
        embeddings = embed_places(run, inputs)
        features = build_configurations(run, inputs.trial, embeddings)
        outcome, folds = prepare(run, inputs.trial, features)
        evaluated = evaluate(run, inputs.trial, features, outcome, folds)
        answers = ask(run, features, evaluated)
        quality = examine(run, inputs.trial, evaluated)
        drivers = find_drivers(run, inputs, features, evaluated)
        search = search_scales(run, features, outcome, folds)
        with run.timed("map"):
            model = MapModel(run, inputs.trial, features, evaluated.outcome)
            drawn = draw_map(run, inputs, embeddings, model)
        with run.timed("region"):
            region = None if area is None else extrapolate_region(run, inputs, area, model)
        with run.timed("report"):
            shown = collect(run, inputs, evaluated, answers, quality, search, drivers, drawn, region)
            page = write_report(shown, run_dir)
    return RunResult(page, print_summary(shown), shown)


def extrapolate(config: RunConfig, *, data_dir: Path, run_dir: Path, progress: bool = True) -> RunResult:
    """`run_trial` with effects beyond the trial, which the configuration must name a region for.

    What a run has computed is not computed again. Further results: maps/region.tif, .zarr, .html, .png and .pdf,
    tables/regions.csv, .gpkg, .dta and .tex, and a section of the report.

    Raises
    ------
    EoCateError
        As `run_trial`; and when there is no region, or it cannot be used.
    """
    if config.extrapolate is None:
        raise ConfigError("extrapolate: no region is named; give --region FILE --resolution-m METRES, or the section")
    return run_trial(config, data_dir=data_dir, run_dir=run_dir, progress=progress)


def search_trial(config: RunConfig, *, data_dir: Path, run_dir: Path, progress: bool = True) -> tuple[str, list[Path]]:
    """Search over scales only: no forest and no map; returns its text and the files written.

    Parameters and errors as in `run_trial`; what either has computed serves the other.
    """
    data_dir, run_dir = Path(data_dir), Path(run_dir)
    with open_executor(config.executor) as executor:
        run = Run(config, data_dir, run_dir, Store(run_dir / "store"), executor, progress)
        run, inputs = _open(run)
        embeddings = embed_places(run, inputs)
        features = build_configurations(run, inputs.trial, embeddings)
        outcome, folds = prepare(run, inputs.trial, features)
        search = search_scales(run, features, outcome, folds)
    table, p, gain = collect_search(search)
    return print_search(table, p, gain or {}), write_search(table, p, gain or {}, run_dir)


def fetch_trial(
    config: RunConfig,
    *,
    data_dir: Path,
    run_dir: Path,
    dry_run: bool = False,
    refresh: bool = False,
    progress: bool = True,
) -> str:
    """Fetch the pixels above a trial's sites from its catalogue, as `run_trial` does first; what came of it, as text.

    Parameters
    ----------
    dry_run : bool
        Count scenes, blocks and megabytes, and fetch no pixels.
    refresh : bool
        Search the catalogue anew even where the scenes of an earlier search are kept; pixels of files that are still
        the same stay, what lies under files that changed on their server is fetched again.

    Raises
    ------
    EoCateError
        As `steps.fetch.fetch_imagery`; and when the pixels are local.
    """
    if not config.imagery.remote:
        raise ConfigError(f"imagery.source: {config.imagery.source} is local, there is nothing to fetch")
    places = (config, Path(data_dir), Path(run_dir), load_trial(config.trial, Path(data_dir)).sites)
    if dry_run:
        return print_plan(*plan_imagery(*places, refresh=refresh))
    return print_fetched(fetch_imagery(*places, refresh=refresh, progress=progress))


def pretrain_trial(
    config: RunConfig, *, data_dir: Path, run_dir: Path, minutes: float = 5.0, progress: bool = True, **options: Any
) -> str:
    """Train the configured ViT on with chips of the trial's sites and map; what came of it, as text.

    No outcome or treatment is read. Further options and errors as `steps.pretrain.pretrain_encoder`; results lie in
    ``run_dir``/pretrained.
    """
    found = pretrain_encoder(config, Path(data_dir), Path(run_dir), minutes=minutes, progress=progress, **options)
    return describe_pretrained(*found)


def read_run(run_dir: Path, overrides: dict[str, Any] | None = None) -> tuple[RunConfig, Path]:
    """Configuration and data folder of a run.

    Raises
    ------
    EoCateError
        When the folder is not that of a run, or an override is not an option.
    """
    run_dir = Path(run_dir)
    try:
        data_dir = Path(json.loads((run_dir / "run.json").read_text(encoding="utf-8"))["data_dir"])
    except (OSError, ValueError, KeyError) as error:
        raise EoCateError(f"{run_dir}: not the folder of a run (no run.json in it); `eo-cate run` makes one") from error
    return load_config(run_dir / "config.yaml", overrides), data_dir


def _open(run: Run) -> tuple[Run, Inputs]:
    """Open all input, refuse what can be refused, then note what is run; the run's scales are pixels from here on."""
    with run.timed("trial and imagery"):
        check_encoders(run.config, run.data_dir)
        inputs = open_inputs(run.config, run.data_dir, run_dir=run.run_dir, progress=run.progress)
        write_atomic(run.run_dir / "config.yaml", dump_config(run.config).encode())
        write_atomic(run.run_dir / "run.json", json.dumps({"data_dir": str(run.data_dir.resolve())}).encode())
    return replace(run, config=inputs.config), inputs


def find_problems(config: RunConfig, *, data_dir: Path) -> list[str]:
    """Every problem of a configuration and its data, found before any long work; empty when there is none."""
    problems = find_trial_problems(config.trial, Path(data_dir))
    for check in (check_encoders, read_area):
        try:
            check(config, Path(data_dir))
        except EoCateError as error:
            problems.append(str(error))
    if not problems and not config.imagery.remote:
        try:
            inputs = open_inputs(config, Path(data_dir))
            check_folds(inputs.config, inputs.trial)
        except EoCateError as error:
            problems.append(str(error))
    return problems


def describe_run(run_dir: Path) -> str:
    """What a run folder holds: results per stage, and whether its report is written.

    Raises
    ------
    EoCateError
        When the folder is not that of a run.
    """
    run_dir = Path(run_dir)
    if not (run_dir / "store").is_dir():
        raise EoCateError(f"{run_dir}: not the folder of a run (no store/ in it); `eo-cate run` makes one")
    lines = [f"{run_dir}"]
    for stage, (number, size) in sorted(Store(run_dir / "store").stages().items()):
        lines.append(f"  {stage:<8} {number:>6,} results kept, {size / 1e6:,.1f} MB")
    page = run_dir / "report.html"
    written = (
        f"written {time.strftime('%Y-%m-%d %H:%M', time.localtime(page.stat().st_mtime))}" if page.exists() else ""
    )
    lines.append(f"  report   {written or 'not yet written: run the same command again, it goes on from here'}")
    return "\n".join(lines)
