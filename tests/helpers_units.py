"""A small sound trial as a table, and its configuration."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eo_cate.config import TrialConfig


def make_table(villages: int = 12, households: int = 4, seed: int = 0) -> pd.DataFrame:
    """Households of villages, one site per village, half of the villages treated."""
    rng = np.random.default_rng(seed)
    village = np.repeat(np.arange(villages), households)
    n = len(village)
    lon, lat = rng.uniform(30, 31, villages), rng.uniform(0, 1, villages)
    W = (village % 2).astype(float)
    age = rng.integers(18, 60, n).astype(float)
    return pd.DataFrame(
        {
            "hhid": [f"h{i:03d}" for i in range(n)],
            "village": [f"v{v}" for v in village],
            "pair": [f"p{v // 2}" for v in village],
            "lon": lon[village],
            "lat": lat[village],
            "W": W,
            "Y": rng.normal(size=n) + W,
            "age": age,
            "schooling": rng.normal(8, 2, n),
            "w": rng.uniform(0.5, 2, n),
        }
    )


def write_table(folder: Path, table: pd.DataFrame, **options: Any) -> TrialConfig:
    """Write the table as CSV and configure it."""
    table.to_csv(folder / "units.csv", index=False)
    return make_config(**options)


def make_config(**options: Any) -> TrialConfig:
    base = {
        "units": "units.csv",
        "unit_id": "hhid",
        "outcome": "Y",
        "treatment": "W",
        "cluster": "village",
        "propensity": 0.5,
        "covariates": ("age", "schooling"),
    }
    return TrialConfig.model_validate({**base, **options})
