"""Feature blocks, and procedures that make any single-scale estimator a multi-scale one."""

from eo_cate.multiscale.blocks import build_blocks
from eo_cate.multiscale.procedures import PROCEDURES, ConcatPCA, make_procedure

__all__ = ["PROCEDURES", "ConcatPCA", "build_blocks", "make_procedure"]
