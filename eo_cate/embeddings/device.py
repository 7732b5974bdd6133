"""Which device computes: a GPU only where it gives the CPU's numbers. Importing this module loads torch."""

from __future__ import annotations

import copy
import os
import warnings

import torch

TOLERANCE = 1e-3
"""Largest difference from the CPU's features, over their largest value, in fp32."""


def choose_device(module: torch.nn.Module, shape: tuple[int, ...], wanted: str = "auto", *, name: str = "") -> str:
    """CUDA or MPS when there and in parity with the CPU, else the CPU.

    The check runs once per opened network, on a fixed batch of noise, so that the device is settled before any key is
    made (a GPU's features are stored apart from the CPU's). TF32 is switched off: its numbers fail the check.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode, on the CPU; left there.
    shape : (band, y, x)
        Of one image.
    wanted : str
        ``auto``, or the name of a device. ``$EO_CATE_DEVICE`` (``cpu``, ``cuda``, ``mps``) wins over ``auto``.
    name : str
        For the warning.
    """
    if wanted == "auto":
        wanted = os.environ.get("EO_CATE_DEVICE") or _best_device()
    if wanted == "cpu":
        return wanted
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    probe = torch.rand((2, *shape), generator=torch.Generator().manual_seed(0)) * 4 - 2
    try:
        with torch.inference_mode():
            there = copy.deepcopy(module).to(wanted)(probe.to(wanted)).cpu()
            distance = relative_distance(module(probe), there)
    except (RuntimeError, AssertionError) as error:
        _warn(name, wanted, f"cannot run it ({str(error).splitlines()[0]})")
        return "cpu"
    if not distance <= TOLERANCE:
        _warn(name, wanted, f"gives other features (relative difference {distance:.1e} > {TOLERANCE:.0e})")
        return "cpu"
    return wanted


def relative_distance(reference: torch.Tensor, found: torch.Tensor) -> float:
    """Largest absolute difference over the largest absolute value of the reference; NaN when either is not finite."""
    return float((reference - found).abs().max() / reference.abs().max())


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _warn(name: str, device: str, what: str) -> None:
    warnings.warn(f"{name}: {device} {what}; the CPU is used", RuntimeWarning, stacklevel=3)
