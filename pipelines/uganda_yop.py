"""The Uganda Youth Opportunities Program: from units and Landsat chips to docs/uganda_yop.md. Made to be copied."""

import os
from datetime import date
from pathlib import Path

from cyclopts import run

from eo_cate.config import load_config
from eo_cate.errors import EoCateError
from eo_cate.report import ReportInputs
from eo_cate.report.format import decimals_for, fmt, fmt_p
from eo_cate.run import run_trial

REPO = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("EO_CATE_SHARED", REPO.parent / "shared")) / "data" / "uganda_yop"
START, END = "<!-- written by pipelines/uganda_yop.py -->", "<!-- end -->"


def main(*, data_dir: Path = DATA, run_dir: Path = REPO / "runs" / "uganda_yop") -> None:
    """Run the trial, print its table, write it into docs/uganda_yop.md."""
    result = run_trial(load_config(REPO / "configs" / "uganda_yop.yaml"), data_dir=data_dir, run_dir=run_dir)
    replace_block(REPO / "docs" / "uganda_yop.md", exhibit(result.inputs))
    print(result.summary)
    print(f"\nReport: {result.report}")


def exhibit(inputs: ReportInputs) -> str:
    """Date, command, settings and the RATE table as Markdown."""
    config, summary, rates = inputs.config, inputs.summary, inputs.rates
    qini = rates[rates["target"] == "QINI"].set_index(["configuration", "estimator"])["ratio"]
    rows = rates[rates["target"] == "AUTOC"].to_dict("records")
    places = decimals_for(row["std_err"] for row in rows)
    head = (
        f"{date.today()}, `python pipelines/uganda_yop.py`: {summary['units']:,} units, {summary['sites']:,} sites, "
        f"{summary['groups']:,} groups;\n{', '.join(config.embeddings.encoders)} at {config.embeddings.input_px} px; "
        f"forest of {config.estimators.num_trees} trees on {config.multiscale.components} components per scale, "
        "RidgeR on whole blocks;\n"
        f"{rows[0]['folds']} sequential folds; {config.evaluation.num_replicates} half-samples; seed {config.seed}."
    )
    columns = ("role", "configuration", "estimator", "orders", "AUTOC", "std err", "ratio", "p", "QINI ratio")
    lines = [" | ".join(columns), " | ".join(["---"] * len(columns))]
    for row in rows:
        words = (row["role"], f"`{row['configuration']}`", row["estimator"], f"{row['orders']}")
        figures = (fmt(row["estimate"], places), fmt(row["std_err"], places), fmt(row["ratio"], 2), fmt_p(row["p"]))
        lines.append(" | ".join((*words, *figures, fmt(qini[row["configuration"], row["estimator"]], 2))))
    return head + "\n\n" + "\n".join(f"| {line} |" for line in lines)


def replace_block(page: Path, text: str, first: str = START, last: str = END) -> None:
    """Put text between two markers of a page; what was written by hand around them stays."""
    before, start, rest = page.read_text(encoding="utf-8").partition(first)
    _, end, after = rest.partition(last)
    if not (start and end):
        raise EoCateError(f"{page}: lacks the lines {first!r} and {last!r}, between which the table is written")
    page.write_text(f"{before}{first}\n{text}\n{last}{after}", encoding="utf-8")


if __name__ == "__main__":
    run(main)
