"""numbers.json: every figure of a run, as strict JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from eo_cate.report.drivers_words import drivers_numbers
from eo_cate.report.inputs import CONTRAST_COLUMNS, RATE_COLUMNS, SEARCH_COLUMNS, TABLES, ReportInputs
from eo_cate.report.region_files import region_numbers
from eo_cate.report.rows import all_alarms, map_estimator, map_readable, shuffled_threshold
from eo_cate.report.tables import truth_table
from eo_cate.report.words import write_headline
from eo_cate.report.words_tests import naive_figures


def collect_numbers(inputs: ReportInputs) -> dict[str, Any]:
    """Every figure of the run; plain Python values, None where a figure does not exist."""
    ratios = inputs.shuffled_ratios
    finite = ratios[np.isfinite(ratios)]
    numbers = {
        "name": inputs.config.name,
        "title": inputs.config.title,
        "notes": inputs.config.notes,
        "seed": inputs.config.seed,
        "simulated": inputs.simulated,
        "alarms": all_alarms(inputs),
        "headline": asdict(write_headline(inputs)),
        "trial": dict(inputs.summary),
        "ate": {"estimate": inputs.ate[0], "std_err": inputs.ate[1]},
        "rate": inputs.rates[list(RATE_COLUMNS)].to_dict("records"),
        "shuffled": {
            "ratios": ratios,
            "mean_ratio": finite.mean() if len(finite) else None,
            "alarm_above": shuffled_threshold(len(finite)) if len(finite) else None,
        },
        "toc": {e: {name: asdict(curve) for name, curve in found.items()} for e, found in inputs.tocs.items()},
        **{name: getattr(inputs, name)[list(columns)].to_dict("records") for name, columns in TABLES.items()},
        "search_p": dict(inputs.search_p),
        "search_naive": naive_figures(inputs.search),
        "drivers": drivers_numbers(inputs),
        "map": _map_numbers(inputs),
        "region": None if inputs.region is None else region_numbers(inputs.region),
        "truth": truth_table(inputs),
        "sources": [dict(source) for source in inputs.sources],
        "versions": dict(inputs.versions),
        "timings": dict(inputs.timings),
    }
    return {key: to_plain(value) for key, value in numbers.items()}


def _map_numbers(inputs: ReportInputs) -> dict[str, Any] | None:
    if inputs.map is None:
        return None
    values = np.asarray(inputs.map["tau_hat"], dtype=float)
    known = values[np.isfinite(values)]
    return {
        "estimator": map_estimator(inputs),
        "cells": values.size,
        "cells_with_estimate": len(known),
        "tau_hat_quantiles": dict(zip(("5%", "50%", "95%"), np.quantile(known, [0.05, 0.5, 0.95]), strict=True))
        if len(known)
        else None,
        "may_be_read": map_readable(inputs),
        "check": dict(inputs.map_check) if inputs.map_check is not None else None,
    }


def to_plain(value: Any) -> Any:
    """Values that strict JSON knows: numpy becomes Python, NaN and infinities become None."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def search_numbers(search: pd.DataFrame, search_p: Mapping[str, float], gain: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure of a scale search; those that are picked afterwards are labelled optimistic."""
    found = {
        "search": search[list(SEARCH_COLUMNS)].to_dict("records"),
        "search_p": dict(search_p),
        "gain": {name: gain[name] for name in CONTRAST_COLUMNS},
        "search_naive": naive_figures(search),
    }
    return {key: to_plain(value) for key, value in found.items()}


def dump_numbers(numbers: Mapping[str, Any]) -> bytes:
    """The bytes of numbers.json."""
    return (json.dumps(numbers, allow_nan=False, ensure_ascii=False, indent=1) + "\n").encode()
