"""One look for all figures: sizes, colours (Okabe and Ito 2008), and saving with reproducible bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
INK, GREY, PALE = "#222222", "#767676", "#E4E4E4"
_LOOKS = {"ridge": (BLUE, "o"), "truth": (GREEN, "D")}
_OTHER_LOOK = (VERMILLION, "s")
WIDTH_IN = 9.0
DIVERGING = "PuOr_r"

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a user's text is a dollar sign
    "pdf.fonttype": 42,
}


def look_of(estimator: str) -> tuple[str, str]:
    """Colour and marker of an estimator: both differ, for print and for the colour-blind."""
    return _LOOKS.get(estimator, _OTHER_LOOK)


@contextmanager
def house_style() -> Iterator[None]:
    """Apply the look, and undo it: the caller's matplotlib settings stay as they are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        for name, value in _RC.items():
            mpl.rcParams[name] = value
        yield


def new_figure(height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """An empty figure that no pyplot state knows of."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def render(draw: Callable[[], Figure]) -> tuple[bytes, bytes]:
    """Draw a figure and return its PNG and PDF bytes, free of dates."""
    with house_style():
        figure = draw()
        png, pdf = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=180, metadata={"Software": None})
        figure.savefig(pdf, format="pdf", dpi=180, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return png.getvalue(), pdf.getvalue()
