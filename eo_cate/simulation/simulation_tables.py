"""The tables of docs/simulation.md, made of the draws of its three parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from eo_cate.simulation.designs import best_of, paired_gain, summarise_designs
from eo_cate.simulation.landscape_study import IMAGE, SIGNALS, LandscapeDesign, all_designs
from eo_cate.simulation.pages import markdown_table
from eo_cate.simulation.perturbed import PATTERNS
from eo_cate.simulation.perturbed_study import ALL, AVERAGED, cell_name

PUBLISHED = (
    "Published (no treatment, R2 of Y): small (32 px) .126, large (256 px) .154, best single per cell .185, "
    "concatenated .226; better in 13 of 15 cells, mean gain +.041."
)
_TITLES = {"R2": "R2 of tau", "ratio": "RATE ratio", "R2 of Y": "R2 of Y, without a treatment"}
_RIVALS = {
    "average_evidence": ("concat, linear", "concat, RBF"),
    "stack of average_evidence": ("average_evidence",),
    "mean of stack and average_evidence": ("average_evidence",),
    "mean_of": ("concat, forest", "average_evidence"),
}
_ALONE = [f"{scale} px, {kind}" for scale in (16, 128) for kind in ("linear", "RBF", "forest")]


def device_tables(table: pd.DataFrame) -> str:
    """One table per figure: a row per cell, means and Monte-Carlo SE; then means over cells and the gain of all scales.

    With more than two scales pairs are shown by the best of them and their mean.
    """
    parts = []
    for figure in ("R2", "ratio", "R2 of Y"):
        rows = table[table["figure"] == figure]
        if rows.empty:
            continue
        shown, columns = _with_best(rows)
        parts.append(f"{_TITLES[figure]}:\n\n{_cell_table(shown, columns)}\n\n{_device_gains(shown, figure)}")
    return "\n\n".join(parts)


def _with_best(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Rows of one figure with those of the best single scale (and pair) of each cell, and the columns to show."""
    names = list(dict.fromkeys(rows["procedure"]))
    pairs = [name for name in names if " + " in name]
    singles = [name for name in names if name.endswith(" px") and name not in pairs]
    added = [_best_rows(rows, singles, "best single")]
    if pairs:
        mean = rows[rows["procedure"].isin(pairs)].groupby(["part", "design", "draw", "figure"], sort=False)["value"]
        added += [_best_rows(rows, pairs, "best pair"), mean.mean().reset_index().assign(procedure="mean of pairs")]
    columns = [*singles, "best single", *(["best pair", "mean of pairs"] if pairs else []), ALL, AVERAGED]
    together = pd.concat([rows, *added], ignore_index=True)
    return together, [name for name in columns if (together["procedure"] == name).any()]


def _best_rows(rows: pd.DataFrame, names: Sequence[str], label: str) -> pd.DataFrame:
    """Draws of the procedure with the largest mean in each design, under a name of their own."""
    figure = rows["figure"].iloc[0]
    best = {
        design: best_of(summarise_designs(own), names, figure) for design, own in rows.groupby("design", sort=False)
    }
    return rows[rows["procedure"] == rows["design"].map(best)].assign(procedure=label)


def _cell_table(rows: pd.DataFrame, columns: Sequence[str]) -> str:
    summary = summarise_designs(rows).set_index(["design", "procedure"])
    cells = [cell for cell in PATTERNS if cell in set(rows["design"])]
    lines = [[cell_name(cell), *(_value(summary.loc[(cell, name)]) for name in columns)] for cell in cells]
    filled = [cell for cell in cells if cell.count("1")]
    means = [f"{np.mean([summary.loc[(cell, name), 'mean'] for cell in filled]):.3f}" for name in columns]
    draws = int(summary["draws"].max())
    lines.append([f"**mean of {len(filled)} cells with devices**", *means])
    return f"{draws} draws per cell.\n\n{markdown_table(['devices', *columns], lines)}"


def _device_gains(rows: pd.DataFrame, figure: str) -> str:
    filled = rows[rows["design"] != "0" * len(PATTERNS[0])]
    lines = []
    for name in (ALL, AVERAGED):
        if (filled["procedure"] == name).any():
            gain = paired_gain(filled, name, "best single", figure)
            lines.append(
                f"- {name} less the best single scale of each cell, picked afterwards: {gain}; better in {gain.better} "
                f"of {gain.designs} cells."
            )
    if figure == "R2 of Y" and not (rows["procedure"] == "best pair").any():
        lines.append(f"- {PUBLISHED}")
    return "\n".join(lines)


def landscape_tables(table: pd.DataFrame) -> str:
    """Procedures by signal at each number of villages; gains paired by draw; winners; encoders, controls and shifts."""
    summary = summarise_designs(table)
    main = [d for d in all_designs() if d.features == IMAGE and not d.shifted and d.name in set(table["design"])]
    parts = []
    for villages in dict.fromkeys(d.villages for d in main):
        own = [d for d in main if d.villages == villages]
        parts += [_signal_table(summary, own), _null_line(summary, own)]
    names = {d.name for d in main if d.signal != "none"}
    parts += [_gain_lines(table[table["design"].isin(names)]), _winners(summary[summary["design"].isin(names)])]
    others = [d for d in all_designs() if d not in main and d.name in set(table["design"])]
    if others:
        parts.append(_control_table(summary, others))
    return "\n\n".join(part for part in parts if part)


def _signal_table(summary: pd.DataFrame, designs: Sequence[LandscapeDesign]) -> str:
    values = summary.set_index(["procedure", "design", "figure"])["mean"]
    shown = [d for d in designs if d.signal in SIGNALS[:-1]]
    if not shown:
        return ""
    procedures = list(dict.fromkeys(summary[summary["design"] == shown[0].name]["procedure"]))
    figures = ("R2", "share", "rank", "ratio")
    rows = []
    for name in procedures:
        found = np.array([[values[name, d.name, figure] for figure in figures] for d in shown])
        rows.append([name, *map(_quadruple, found), _quadruple(found.mean(axis=0))])
    draws = int(summary[summary["design"] == shown[0].name]["draws"].max())
    se = summary[summary["design"].isin([d.name for d in shown])].groupby("figure")["mc_se"].max()
    note = f"Monte-Carlo SE: at most {_quadruple(se.reindex(list(figures)).to_numpy())}; {draws} draws."
    header = ["procedure", *(d.signal for d in shown), "mean"]
    title = f"{designs[0].villages} villages: R2 / share of the oracle's AUTOC / rank correlation / RATE ratio"
    return f"{title}\n\n{markdown_table(header, rows)}\n\n{note}"


def _null_line(summary: pd.DataFrame, designs: Sequence[LandscapeDesign]) -> str:
    null = summary[summary["design"].isin([d.name for d in designs if d.signal == "none"])]
    if null.empty:
        return ""
    ratio, rejects = (null[null["figure"] == figure]["mean"] for figure in ("ratio", "rejects"))
    return (
        f"Without a signal ({designs[0].villages} villages) the mean RATE ratio lies between {ratio.min():.2f} and "
        f"{ratio.max():.2f} over the procedures; {rejects.mean():.0%} of the ratios exceed 1.645."
    )


def _gain_lines(table: pd.DataFrame) -> str:
    lines = []
    for name, rivals in _RIVALS.items():
        for rival in rivals:
            for villages in ("150", "400"):
                own = table[table["design"].str.startswith(f"{villages},")]
                if not own.empty:
                    gains = "; ".join(
                        f"{figure} {paired_gain(own, name, rival, figure)}" for figure in ("R2", "share", "rank")
                    )
                    lines.append(f"- {name} over {rival}, {villages} villages, mean of the signals: {gains}.")
    return "\n".join(lines)


def _winners(summary: pd.DataFrame) -> str:
    """The largest means over all designs with a signal, among procedures that see both scales."""
    able = summary[~summary["procedure"].isin(_ALONE)]
    mean = able.groupby(["figure", "procedure"])["mean"].mean()
    lines = []
    for figure, title in (("R2", "R2 of tau"), ("rank", "rank correlation"), ("share", "share of the oracle's AUTOC")):
        order = mean[figure].sort_values(ascending=False)
        listed = ", ".join(f"{name} {value:.3f}" for name, value in order.head(5).items())
        forests = order[[name.endswith("forest") or name == "mean_of" for name in order.index]]
        lines.append(f"- {title}: {listed}; with a forest: {forests.index[0]} {forests.iloc[0]:.3f}.")
    return "Largest means over all signals and both numbers of villages:\n\n" + "\n".join(lines)


def _control_table(summary: pd.DataFrame, designs: Sequence[LandscapeDesign]) -> str:
    values = summary.set_index(["procedure", "design", "figure"])["mean"]
    columns = ["16 px, linear", "128 px, linear", "concat, linear", "average_evidence", "concat, forest", "mean_of"]
    rows = [
        [d.name, *(_quadruple([values[name, d.name, f] for f in ("R2", "share", "rank", "ratio")]) for name in columns)]
        for d in designs
    ]
    return f"What else is seen, or where: the same four figures.\n\n{markdown_table(['design', *columns], rows)}"


def scale_tables(table: pd.DataFrame) -> str:
    """R2 and share by number of scales, and what each further scale adds, with Monte-Carlo SE."""
    parts = []
    numbers = sorted({int(name.rsplit(", ", 1)[1]) for name in table["procedure"]})
    for figure, title in (("R2", "R2 of tau"), ("share", "Share of the oracle's AUTOC")):
        rows = []
        for design, own in table.groupby("design", sort=False):
            summary = summarise_designs(own).set_index(["procedure", "figure"])
            for kind in ("concat", "average_evidence"):
                shown = [_value(summary.loc[(f"{kind}, {k}", figure)]) for k in numbers]
                steps = [str(paired_gain(own, f"{kind}, {k}", f"{kind}, {k - 1}", figure)) for k in numbers[1:]]
                rows += [[str(design), kind, *shown], ["", "less one scale fewer", "", *steps]]
        header = ["villages, signal", "procedure", *(f"{k} scale{'s' if k > 1 else ''}" for k in numbers)]
        parts.append(f"{title}:\n\n{markdown_table(header, rows)}")
    draws = int(summarise_designs(table)["draws"].max())
    return "\n\n".join([*parts, f"{draws} draws; in brackets the Monte-Carlo SE."])


def _value(row: Any) -> str:
    return f"{row['mean']:.2f} ({row['mc_se']:.2f})"


def _quadruple(values: Iterable[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)
