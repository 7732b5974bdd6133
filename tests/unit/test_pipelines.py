"""The scripts of pipelines/ are made to be copied: short, and what they write into docs/ leaves handwriting alone."""

import importlib.util
from pathlib import Path

import pytest
from helpers_report import make_inputs

from eo_cate.errors import EoCateError

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"


@pytest.fixture(scope="module")
def uganda():
    spec = importlib.util.spec_from_file_location("uganda_yop", PIPELINES / "uganda_yop.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(PIPELINES.glob("*.py")), ids=lambda path: path.name)
def test_a_pipeline_can_be_read_at_once(path):
    assert len(path.read_text().splitlines()) <= 60


def test_the_exhibit_has_every_row_with_its_own_figures(uganda):
    inputs = make_inputs()
    text = uganda.exhibit(inputs)
    shown = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(("| result", "| control"))]
    rates = inputs.rates.set_index("target")
    assert len(shown) == len(rates.loc["AUTOC"])
    for cells, row, qini in zip(shown, rates.loc["AUTOC"].itertuples(), rates.loc["QINI"].itertuples(), strict=True):
        assert cells[:4] == [row.role, f"`{row.configuration}`", row.estimator, str(row.orders)]
        assert [float(cell) for cell in cells[4:6]] == pytest.approx([row.estimate, row.std_err], abs=0.0005)
        assert [float(cells[6]), float(cells[8])] == pytest.approx([row.ratio, qini.ratio], abs=0.005)


def test_only_the_block_is_rewritten(uganda, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# By hand\n\n{uganda.START}\nold\n{uganda.END}\n\nAlso by hand.\n")
    uganda.replace_block(page, "new")
    uganda.replace_block(page, "newer")
    assert page.read_text() == f"# By hand\n\n{uganda.START}\nnewer\n{uganda.END}\n\nAlso by hand.\n"
    page.write_text(f"# By hand\n\n{uganda.START}\nno end\n")
    with pytest.raises(EoCateError, match="lacks the lines"):
        uganda.replace_block(page, "new")
    assert page.read_text() == f"# By hand\n\n{uganda.START}\nno end\n"


def test_the_page_of_uganda_has_the_block(uganda):
    page = (PIPELINES.parent / "docs" / "uganda_yop.md").read_text()
    assert page.index(uganda.START) < page.index("| result | `tabular`") < page.index(uganda.END)
