"""Feature blocks, and procedures that make any single-scale estimator a multi-scale one."""

from eo_cate.multiscale.average_evidence import AverageEvidence
from eo_cate.multiscale.blocks import build_blocks
from eo_cate.multiscale.procedures import (
    FORESTLESS,
    PROCEDURES,
    BlockComponents,
    ConcatPCA,
    fit_components,
    make_procedure,
    name_estimator,
)
from eo_cate.multiscale.wrappers import BalanceBlocks, BlockAverage, MeanOf, Residual, Select, Stack

__all__ = [
    "FORESTLESS",
    "PROCEDURES",
    "AverageEvidence",
    "BalanceBlocks",
    "BlockAverage",
    "BlockComponents",
    "ConcatPCA",
    "MeanOf",
    "Residual",
    "Select",
    "Stack",
    "build_blocks",
    "fit_components",
    "make_procedure",
    "name_estimator",
]
