"""Feature blocks, and procedures that make any single-scale estimator a multi-scale one."""

from eo_cate.multiscale.average_evidence import AverageEvidence
from eo_cate.multiscale.blocks import build_blocks
from eo_cate.multiscale.procedures import PROCEDURES, ConcatPCA, make_procedure
from eo_cate.multiscale.wrappers import BalanceBlocks, BlockAverage, MeanOf, Residual, Select, Stack

__all__ = [
    "PROCEDURES",
    "AverageEvidence",
    "BalanceBlocks",
    "BlockAverage",
    "ConcatPCA",
    "MeanOf",
    "Residual",
    "Select",
    "Stack",
    "build_blocks",
    "make_procedure",
]
