"""A model of image sequences, from several periods of a catalogue to the report: a 3-D convolution, a control."""

import json
from pathlib import Path

import numpy as np
import pytest

from eo_cate.config import load_config, merge
from eo_cate.run import run_trial
from eo_cate.simulation.paper_trials import serve_trial
from eo_cate.simulation.village_trial import VillageDesign

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAME, VIDEO = "georgia_water", "python:helpers_own_encoder:open_video"
SMALL = {
    "embeddings": {"encoder": ["mean_colour", VIDEO], "input_px": 56},
    "estimators": {"num_trees": 20},
    "evaluation": {"num_orders": 1, "num_replicates": 20, "num_permutations": 1, "num_draws": 19},
}


@pytest.mark.slow
def test_a_trial_of_three_periods_runs_with_a_model_of_sequences(tmp_path):
    design = VillageDesign(villages=56, households=(2, 3))
    with serve_trial(NAME, tmp_path, configs=CONFIGS, design=design, extent_m=14_000.0, scene_px=1_000) as (
        served,
        data_dir,
    ):
        config = load_config(CONFIGS / f"{NAME}.yaml", merge(SMALL, {"imagery": {"api": served.imagery.api}}))
        result = run_trial(config, data_dir=data_dir, run_dir=tmp_path / "run", progress=False)
    exported = json.loads((tmp_path / "run" / "embeddings" / "python_helpers_own_encoder_open_video.json").read_text())
    about = exported["properties"]
    assert about["embedding:times"] == ["sequence"]
    periods = [period.name for period in config.imagery.periods]
    bands = [f"{name}:{band}" for name in periods for band in config.embeddings.bands]
    assert about["embedding:preprocessing"]["bands"] == bands
    assert len(periods) == 3
    rates = result.inputs.rates
    alone = rates[(rates["configuration"] == f"image_multi, {VIDEO}") & (rates["target"] == "AUTOC")]
    assert set(alone["estimator"]) == {"forest", "ridge"}
    assert np.isfinite(alone["estimate"]).all()
    assert "of that encoder alone" in result.report.read_text(encoding="utf-8")
