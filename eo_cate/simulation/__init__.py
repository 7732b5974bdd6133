"""Landscapes and trials whose true effects are known."""

from eo_cate.simulation.demo_trial import prepare_demo
from eo_cate.simulation.small import write_small

__all__ = ["prepare_demo", "write_small"]
