"""Results of the other steps as the inputs of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from eo_cate import report
from eo_cate.evaluation import RateGain
from eo_cate.multiscale import name_estimator
from eo_cate.report import ReportInputs
from eo_cate.steps.context import FULL, IMAGE, Run
from eo_cate.steps.encoders import open_specs
from eo_cate.steps.estimators import describe_engine, uses_forest
from eo_cate.steps.evaluate import CONTROLS, TARGETS, Evaluated
from eo_cate.steps.inputs import Inputs
from eo_cate.steps.mapping import DrawnMap
from eo_cate.steps.quality import Quality
from eo_cate.steps.questions import Answers
from eo_cate.steps.search import ScaleSearch
from eo_cate.store import file_digest
from eo_cate.trial import trial_summary


def collect(
    run: Run,
    inputs: Inputs,
    evaluated: Evaluated,
    answers: Answers,
    quality: Mapping[str, Quality],
    search: ScaleSearch,
    drivers: report.DriversShown | None,
    drawn: DrawnMap | None,
    region: report.RegionShown | None = None,
) -> ReportInputs:
    """Everything that the report shows."""
    main = evaluated.ranked.get(name_estimator(run.config.multiscale.procedure), {})
    table, search_p, _ = collect_search(search)
    images = [name for name in main if name.startswith("image") and not name.endswith(("tabular", "location"))]
    return ReportInputs(
        config=run.config,
        summary=trial_summary(inputs.trial),
        ate=(evaluated.ate.estimate, evaluated.ate.std_err),
        rates=_rates(run, inputs, evaluated),
        tocs={
            estimator: {name: report.toc_of(found["AUTOC"]) for name, found in rates.items()}
            for estimator, rates in evaluated.rates.items()
        },
        placebo_tocs=np.stack(bands) if (bands := [f["AUTOC"].toc for f in evaluated.placebo.values()]) else None,
        shuffled_ratios=np.array([found["AUTOC"].ratio for found in evaluated.placebo.values()]),
        tests=pd.DataFrame(
            [report.test_row(a.question, a.configuration, a.given, a.test, tried=search.tried) for a in answers.tests]
        ),
        contrasts=_contrasts(answers),
        search=table,
        search_p=search_p,
        **_instruments(quality),
        coverage=_coverage(inputs),
        drivers=drivers,
        map=None if drawn is None else drawn.layers,
        map_check=None if drawn is None else drawn.check,
        region=region,
        truth=report.truth_by_site(
            inputs.trial,
            {name: [found.priorities for found in main[name]] for name in images},
            evaluated.folds.tasks,
        ),
        sources=report.collect_sources(
            run.config,
            open_specs(run.config.embeddings, run.data_dir),
            units_sha256=file_digest(run.data_dir / run.config.trial.units),
            imagery_digest=inputs.reader.digest,
        ),
        versions=report.collect_versions(engine=describe_engine(run.config) if uses_forest(run.config) else None),
        timings=run.timings,
    )


def _rates(run: Run, inputs: Inputs, evaluated: Evaluated) -> pd.DataFrame:
    """Every rate; below 40 groups rows of the pre-specified configuration without figures."""
    if not evaluated.rates:
        groups = len(np.unique(inputs.trial.groups))
        estimators = (name_estimator(run.config.multiscale.procedure), "ridge")
        return report.missing_rates(FULL, estimators=estimators, targets=TARGETS, groups=groups)
    rates = report.rate_table(evaluated.rates, controls=(*CONTROLS, "oracle"))
    tables = [rates, report.placebo_rows(evaluated.placebo, estimator="ridge")]
    if evaluated.map_rates:
        name = name_estimator(run.config.multiscale.map_procedure)
        tables.append(report.rate_table({name: evaluated.map_rates}, controls=()).assign(role="map"))
    return pd.concat(tables, ignore_index=True)


def _coverage(inputs: Inputs) -> pd.DataFrame:
    """Sites by period and state of their pixels; empty where pixels came from files."""
    columns = list(report.COVERAGE_COLUMNS)
    if inputs.fetched is None:
        return pd.DataFrame(columns=columns)
    rows = []
    for (period, state), sites in inputs.fetched.result.sites.groupby(["period", "state"], sort=False):
        scenes = inputs.fetched.collected.scenes[str(period)]
        first, last = (f"{scene.acquired:%Y-%m-%d}" for scene in (scenes[0], scenes[-1]))
        clear, example = float(sites["median_clear"].median()), str(sites["reason"].iloc[0])
        rows.append((period, first, last, len(scenes), state, len(sites), clear, example))
    return pd.DataFrame(rows, columns=columns)


def _instruments(quality: Mapping[str, Quality]) -> dict[str, Any]:
    """The tables of calibration, groups, covariates and policy value."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("calibration", "gates", "clan", "policy", "absent")}
    for estimator, found in quality.items():
        rows["calibration"] += report.calibration_rows(FULL, estimator, found.calibration, found.isotonic)
        if found.gates is not None:
            rows["gates"] += report.gates_rows(FULL, estimator, found.gates)
        if found.policy is not None:
            rows["policy"] += report.policy_rows(FULL, estimator, found.policy)
        if found.clan is not None and found.gates is not None:
            ends = int(found.gates.num_units[0] + found.gates.num_units[-1])
            rows["clan"] += report.clan_rows(estimator, found.clan, units=ends)
        rows["absent"] += [
            {"configuration": FULL, "estimator": estimator, "instrument": name, "reason": reason}
            for name, reason in found.absent.items()
        ]
    return {name: pd.DataFrame(table) for name, table in rows.items() if table}


def collect_search(search: ScaleSearch) -> tuple[pd.DataFrame, dict[str, float], dict[str, Any] | None]:
    """The table of the search, its leading p, and the row of the honest gain."""
    table = report.search_table(search.sets, search.family, search.rates, tried=search.tried)
    p = {
        "everything": search.everything.p,
        "family": search.family.p,
        "draws": search.family.num_draws,
        "tried": search.tried,
        "corrected": len(search.sets),
    }
    return table, p, None if search.gain is None else _gain_row("ridge", search.gain)


def _gain_row(estimator: str, gain: RateGain) -> dict[str, Any]:
    chosen = ", ".join(f"{name} {share:.0%}" for name, share in gain.chosen.items() if share > 0)
    return report.contrast_row(IMAGE, "chosen single", estimator, gain.contrast, chosen)


def _contrasts(answers: Answers) -> pd.DataFrame:
    rows = [_gain_row(estimator, gain) for estimator, gain in answers.gains.items()]
    for estimator, found in answers.contrasts.items():
        rows += [report.contrast_row(*pair, estimator, contrast) for pair, contrast in found.items()]
    return pd.DataFrame(rows, columns=list(report.CONTRAST_COLUMNS))
