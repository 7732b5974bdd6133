"""The report's files: complete, self-contained, safe against hostile text, and reproducible."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers_report import (
    AUTOC,
    SEARCH_P,
    make_config,
    make_gates,
    make_inputs,
    make_map,
    make_rates,
    make_summary,
    make_truth,
    written_files,
)
from PIL import Image

from eo_cate.errors import EoCateError
from eo_cate.report import ReportInputs, print_summary, write_report
from eo_cate.report.inputs import TABLES
from eo_cate.report.words import write_headline

HOSTILE = '<script>alert("x")</script> & 50% of $x_1$ {a} \\input{/etc/passwd} # ~ ^'


class Page(HTMLParser):
    """Tags with attributes, and the text of table cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def write(inputs: ReportInputs, run_dir: Path) -> tuple[Page, str]:
    page = write_report(inputs, run_dir).read_text(encoding="utf-8")
    return Page(page), page


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of one complete simulated run, read by several tests."""
    folder = tmp_path_factory.mktemp("run")
    write_report(make_inputs(), folder)
    return folder


def read_page(run_dir: Path) -> Page:
    return Page((run_dir / "report.html").read_text(encoding="utf-8"))


def test_page_loads_nothing_from_elsewhere(run_dir: Path) -> None:
    text = (run_dir / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    loading = {"src", "srcset", "href", "data", "action", "poster", "background", "xlink:href"}
    for tag, attrs in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        for name in loading & attrs.keys():
            assert str(attrs[name]).startswith(("#", "data:image/png;base64,")), (tag, name, str(attrs[name])[:60])
        assert not any(name.startswith("on") for name in attrs)
    styles = " ".join(re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL))
    assert "url(" not in styles
    assert "@import" not in styles


def test_pictures_in_the_page_are_the_files(run_dir: Path) -> None:
    sources = [str(attrs["src"]) for tag, attrs in read_page(run_dir).tags if tag == "img"]
    embedded = {base64.b64decode(source.split(",", 1)[1]) for source in sources}
    files = written_files(run_dir)
    assert embedded == {content for name, content in files.items() if name.endswith(".png")}
    assert len(embedded) == 6
    for content in embedded:
        assert Image.open(io.BytesIO(content)).width >= 1200
    for name in files:
        if name.endswith(".png"):
            assert files[name.replace(".png", ".pdf")].startswith(b"%PDF")


def test_every_rate_row_is_in_page_table_and_json(run_dir: Path) -> None:
    rates = make_rates()
    numbers = json.loads((run_dir / "numbers.json").read_text(encoding="utf-8"))
    table = pd.read_csv(run_dir / "tables/rate.csv")
    assert len(numbers["rate"]) == len(table) == len(rates)
    np.testing.assert_array_equal(table["ratio"], rates["ratio"])
    assert [row["ratio"] for row in numbers["rate"]] == list(rates["ratio"])


def test_the_page_shows_both_estimators_side_by_side(tmp_path: Path) -> None:
    """One row per configuration, RidgeR's figures left and the forest's right; the oracle belongs to neither."""
    forest = {name: (0.5 * estimate, 1.1 * std_err) for name, (estimate, std_err) in AUTOC.items()}
    page, _ = write(make_inputs(rates=make_rates(AUTOC, forest)), tmp_path)
    lines = [row for row in page.rows if len(row) == 11 and row[0] != "Configuration"]
    assert len(lines) == 2 * (len(AUTOC) - 1)
    for line in lines:
        name = max((name for name in AUTOC if line[0].startswith(name)), key=len)
        ridge, other = AUTOC[name], forest[name]
        assert line[3] == f"{ridge[0] / ridge[1]:.2f}"
        assert line[8] == ("–" if name == "shuffled" else f"{other[0] / other[1]:.2f}")
    oracle = [row for row in page.rows if len(row) == 2 and row[0].startswith("oracle")]
    assert len(oracle) == 3  # AUTOC, QINI, and its question
    assert "no estimator: 0.440 (0.307 to 0.573)" in oracle[0][1]


def test_numbers_round_trip_and_nan_is_null(run_dir: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    text = (run_dir / "numbers.json").read_text(encoding="utf-8")
    numbers = json.loads(text, parse_constant=refuse)
    shuffled = [r for r in numbers["rate"] if r["configuration"] == "shuffled"]
    assert [r["p_doubled"] for r in shuffled] == [None, None]
    assert {
        "configuration",
        "target",
        "estimator",
        "role",
        "estimate",
        "std_err",
        "ratio",
        "p",
        "folds",
        "groups",
    } <= set(numbers["rate"][0])
    inputs = make_inputs()
    assert numbers["ate"] == {"estimate": inputs.ate[0], "std_err": inputs.ate[1]}
    np.testing.assert_array_equal(numbers["shuffled"]["ratios"], inputs.shuffled_ratios)
    np.testing.assert_array_equal(
        numbers["toc"]["forest"]["image_multi"]["toc"], inputs.tocs["forest"]["image_multi"].toc
    )
    assert numbers["map"]["cells_with_estimate"] == int(np.isfinite(inputs.map["tau_hat"]).sum())


def test_every_new_table_is_in_page_files_and_json(run_dir: Path) -> None:
    inputs = make_inputs()
    numbers = json.loads((run_dir / "numbers.json").read_text(encoding="utf-8"))
    sections = {"tests", "place", "search", "toc", "model"}
    assert sections <= {str(attrs.get("id")) for tag, attrs in read_page(run_dir).tags if tag == "section"}
    for name, columns in TABLES.items():
        expected = getattr(inputs, name)
        assert len(numbers[name]) == len(expected) > 0
        stored = pd.read_csv(run_dir / f"tables/{name}.csv", keep_default_na=False)
        assert list(stored.columns) == list(columns)
        assert len(stored) == len(expected)
        assert (run_dir / f"tables/{name}.tex").read_text(encoding="utf-8").count("\\\\") == len(expected) + 1
        for column in ("p", "estimate", "joint_high", "value"):
            if column in columns:
                found = [np.nan if row[column] is None else row[column] for row in numbers[name]]
                np.testing.assert_array_equal(found, expected[column].astype(float))
    assert numbers["search_p"] == SEARCH_P
    assert {row["label"] for row in numbers["search_naive"]} == {"optimistic"}


def test_same_inputs_give_the_same_bytes(run_dir: Path, tmp_path: Path) -> None:
    write_report(make_inputs(), tmp_path)
    first, second = written_files(run_dir), written_files(tmp_path)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_hostile_text_is_text(tmp_path: Path) -> None:
    config = make_config(
        title=HOSTILE, notes=HOSTILE, imagery=make_config().imagery.model_dump(mode="json") | {"source_note": HOSTILE}
    )
    covariates = [dict(make_summary()["covariates"][0], name=HOSTILE)]
    source = dict.fromkeys(("what", "origin", "licence", "credit", "sha256"), HOSTILE)
    inputs = make_inputs(
        config=config, alarms=[HOSTILE], sources=[source], versions={HOSTILE: HOSTILE}, timings={HOSTILE: 1.0},
        map_check={HOSTILE: 0.5}, summary=make_summary(covariates=covariates, dropped={HOSTILE: 3}),
    )  # fmt: skip
    page, text = write(inputs, tmp_path)
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert text.count("&lt;script&gt;") >= 8
    latex = (tmp_path / "tables/balance.tex").read_text(encoding="utf-8")
    body = latex.split("\\midrule")[1]
    assert "\\input{" not in body
    for special in (
        "\\&",
        "\\%",
        "\\$x\\_1\\$",
        "\\#",
        "\\{a\\}",
        "\\textbackslash",
        "\\textasciitilde",
        "\\textasciicircum",
    ):
        assert special in body
    assert json.loads((tmp_path / "numbers.json").read_text(encoding="utf-8"))["title"] == HOSTILE
    assert HOSTILE in print_summary(inputs).replace("\n", " ")


def test_tables_for_stata_and_latex_hold_the_figures(run_dir: Path) -> None:
    rates, stata = make_rates(), pd.read_stata(run_dir / "tables/rate.dta")
    assert list(stata["configuration"]) == list(rates["configuration"])
    np.testing.assert_array_equal(stata["ratio"], rates["ratio"])
    np.testing.assert_array_equal(stata["p"].isna(), rates["p"].isna())
    latex = (run_dir / "tables/rate.tex").read_text(encoding="utf-8")
    assert latex.count("\\\\") == len(rates) + 1
    assert "image\\_multi+tabular" in latex
    assert all(rule in latex for rule in ("\\toprule", "\\midrule", "\\bottomrule"))


def test_infinite_ratio_is_written_and_null(tmp_path: Path) -> None:
    rates = make_rates()
    rates.loc[0, ["std_err", "ratio", "p"]] = [0.0, np.inf, np.nan]
    write_report(make_inputs(rates=rates), tmp_path)
    assert json.loads((tmp_path / "numbers.json").read_text())["rate"][0]["ratio"] is None
    assert np.isnan(pd.read_stata(tmp_path / "tables/rate.dta")["ratio"].iloc[0])


def test_a_real_trial_without_map_covariates_or_truth(tmp_path: Path) -> None:
    write_report(make_inputs(), tmp_path)
    keep = {k: v for k, v in AUTOC.items() if "tabular" not in k and k != "oracle"}
    trial = {"units": "u.csv", "outcome": "Y", "treatment": "W", "cluster": "unit", "propensity": 0.5}
    inputs = make_inputs(
        config=make_config(trial=trial, notes=""), rates=make_rates(keep), map=None, map_check=None, truth=None,
        tocs={}, placebo_tocs=None, shuffled_ratios=np.empty(0), search_p={},
        **{name: pd.DataFrame(columns=list(columns)) for name, columns in TABLES.items()}, summary=make_summary(covariates=[], dropped={}),
        sources=[], versions={}, timings={},
    )  # fmt: skip
    _, text = write(inputs, tmp_path)
    files = written_files(tmp_path)
    gone = ("maps/", "truth", "toc", "balance", "search", *(f"tables/{name}." for name in TABLES), "gates")
    assert not [name for name in files if any(part in name for part in gone)], "stale files"
    for part in ("tests", "place", "search", "toc", "model", "map"):
        assert f'id="{part}"' not in text
        assert f'href="#{part}"' not in text
    assert not re.search("GATES|CLAN|p_ledger|optimistic", re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL))
    assert write_headline(inputs).answers == ()
    assert "Estimate against truth" not in text
    assert "simulated" not in text.replace("simulations only", "").lower()
    numbers = json.loads(files["numbers.json"])
    assert numbers["headline"]["configuration"] == "image_multi"
    assert (numbers["map"], numbers["truth"], numbers["simulated"]) == (None, [], False)


@pytest.mark.parametrize("keep", [0, 3])
def test_map_almost_without_estimates_is_drawn(tmp_path: Path, keep: int) -> None:
    grid = make_map()
    values = np.full(grid["tau_hat"].shape, np.nan)
    values.flat[:keep] = 0.3
    grid["tau_hat"] = (("y", "x"), values)
    write_report(make_inputs(map=grid.drop_vars("true_effect")), tmp_path)
    found = json.loads((tmp_path / "numbers.json").read_text())["map"]
    assert found["cells_with_estimate"] == keep
    assert found["cells"] == values.size
    assert (tmp_path / "maps/tau_hat.png").stat().st_size > 5000


def test_page_holds_no_place(run_dir: Path) -> None:
    """Neither the map's coordinates nor its cells as numbers leave the picture."""
    grid = make_map()
    numbers = {f"{v:.0f}" for v in (*grid["x"].values, *grid["y"].values)}
    for name, content in written_files(run_dir).items():
        if not name.endswith((".png", ".pdf", ".dta")):
            text = re.sub(r"data:image/png;base64,[^\"]*", "", content.decode())
            assert not [n for n in numbers if re.search(rf"\b{n}\b", text)], name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": make_rates().drop(columns="p_doubled")}, "p_doubled"),
        ({"rates": make_rates().assign(role="control")}, "no row with role 'result'"),
        ({"rates": make_rates().assign(role="resutl")}, "no row"),
        ({"rates": pd.concat([make_rates(), make_rates().iloc[[6]]])}, "image_128 AUTOC ridge"),
        ({"gates": make_gates().drop(columns="joint_low")}, "gates lacks"),
        ({"summary": {"units": 3}}, "treated_share"),
        ({"placebo_tocs": np.zeros((10, 7))}, r"\(10, 7\)"),
        ({"truth": make_truth(("image_16",)).drop(columns="tau")}, "tau"),
        ({"map": make_map().drop_vars("tau_hat")}, "tau_hat"),
    ],
)
def test_wrong_inputs_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(EoCateError, match=message):
        make_inputs(**changes)


def test_toc_on_another_grid_is_refused() -> None:
    inputs = make_inputs()
    curves = inputs.tocs["ridge"]
    moved = {**curves, "image_multi": replace(curves["image_multi"], q=curves["image_multi"].q / 2)}
    with pytest.raises(EoCateError, match=r"TOC of image_multi \(ridge\)"):
        replace(inputs, tocs={**inputs.tocs, "ridge": moved})


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no headless browser on this machine")
def test_phone_page_is_no_wider_than_the_phone(run_dir: Path, tmp_path: Path) -> None:
    """Wide tables and figures scroll in their own boxes: the page itself does not scroll sideways at 400 px."""
    page = (run_dir / "report.html").read_text(encoding="utf-8")
    page = re.sub(r"<meta http-equiv[^>]*>", "", page)
    measure = "document.title = 'w=' + document.documentElement.scrollWidth + '/' + window.innerWidth"
    page = page.replace("</body>", f"<script>{measure}</script></body>")
    (tmp_path / "probe.html").write_text(page, encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--window-size=400,900",
    ]
    profile, address = f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "probe.html").as_uri()
    command = ["chromium", *options, profile, "--dump-dom", address]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout
    found = re.search(r"<title>w=(\d+)/(\d+)</title>", dom)
    assert found is not None
    assert int(found[1]) <= int(found[2])
