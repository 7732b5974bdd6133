"""Numbers as text: three significant digits, p-values to three decimals, a dash where a figure does not exist."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

FEW_GROUPS = 40  # METHODS.md, section 3, step 0


def fmt(value: Any, decimals: int | None = None) -> str:
    """A number for reading: fixed ``decimals``, else three significant digits; NaN is a dash."""
    if value is None or (isinstance(value, float | np.floating) and not math.isfinite(value)):
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if decimals is None:
        decimals = 2 if value == 0 else min(6, max(0, 2 - math.floor(math.log10(abs(value)))))
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if not text.strip("-0.,") else text


def fmt_p(value: float) -> str:
    """A p-value to three decimals."""
    return "–" if not math.isfinite(value) else "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def p_equals(value: float) -> str:
    """A p-value in a sentence, with its relation."""
    text = fmt_p(value)
    return "not known" if text == "–" else text.replace("<", "< ") if text.startswith("<") else f"= {text}"


def decimals_for(std_errs: Iterable[float]) -> int:
    """Decimals that show the smallest finite standard error with two significant digits."""
    finite = [s for s in std_errs if math.isfinite(s) and s > 0]
    return min(6, max(0, 1 - math.floor(math.log10(min(finite))))) if finite else 3


def fmt_range(low: float, high: float, decimals: int | None = None) -> str:
    """An interval; a dash where it does not exist."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "–"
    return f"{fmt(low, decimals)} to {fmt(high, decimals)}"


def interval_words(row: Mapping[str, Any], decimals: int | None = None) -> str:
    """The 95 % interval of a rate, or why there is none."""
    found = fmt_range(row["low"], row["high"], decimals)
    return "too few clusters for an interval" if found == "–" and row["groups"] < FEW_GROUPS else found


def text_table(table: list[tuple[str, ...]], *, left: int) -> list[str]:
    """Lines of a table of cells, the first row its head; the first ``left`` columns start at the left."""
    widths = [max(len(line[j]) for line in table) for j in range(len(table[0]))]
    text = [
        "  ".join(c.ljust(w) if j < left else c.rjust(w) for j, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in table
    ]
    return [text[0].rstrip(), "-" * max(len(line.rstrip()) for line in text), *(line.rstrip() for line in text[1:])]
