"""Compiling with numba: without the GIL, cached on disk, and never from a stale cache."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped, unused-ignore]
from numba import config as numba_config
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

logger = logging.getLogger(__name__)

_SETTINGS: Any = numba_config
WIDTH = 8
NUM_VALUES = 4
LANES = 64


def _cache_folder() -> str:
    """A folder per version of this package's sources: numba itself looks only at the file of the outermost function."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(here.glob("*.py")):
        digest.update(path.read_bytes())
    return str(Path(_SETTINGS.CACHE_DIR or here / "__pycache__") / f"kernels-{digest.hexdigest()[:12]}")


_FOLDER = _cache_folder()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile on first use, as numpy treats division by zero."""
    usual, _SETTINGS.CACHE_DIR = _SETTINGS.CACHE_DIR, _FOLDER
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    finally:
        _SETTINGS.CACHE_DIR = usual


def announce_compilation() -> None:
    """Say that the first fit of an installation takes longer."""
    if not Path(_FOLDER).exists():
        logger.info("compiling the forest's engine: about 15 seconds, once per installation")


def _type_trailing_zeros(typingctx: Any, word: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), codegen


def _type_count_ones(typingctx: Any, word: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), codegen


def _type_compare(relation: str) -> Callable[..., Any]:
    """Bit i says whether codes[first + i] ``relation`` code, for 64 bytes from first; all 64 are read."""

    def typing(typingctx: Any, codes: Any, first: Any, code: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vector = ir.VectorType(ir.IntType(8), LANES)
            gep: Any = cgutils.gep_inbounds
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            place = context.cast(builder, args[1], signature.args[1], types.intp)
            block = builder.load(builder.bitcast(gep(builder, data, place), vector.as_pointer()), align=1)
            empty = ir.Constant(vector, ir.Undefined)
            one = builder.insert_element(empty, args[2], ir.Constant(ir.IntType(32), 0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            everywhere = builder.shuffle_vector(one, empty, zeros)
            return builder.bitcast(builder.icmp_unsigned(relation, block, everywhere), ir.IntType(LANES))

        return types.uint64(codes, first, types.uint8), codegen

    return typing


def _type_add_row(width: int) -> Callable[..., Any]:
    """target[place, :] += source[row, :] for C-contiguous arrays of ``width`` float64 columns, as one vector."""

    def typing(typingctx: Any, target: Any, place: Any, source: Any, row: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vector = ir.VectorType(ir.DoubleType(), width)

            def pointer(k: int) -> Any:
                data = context.make_array(signature.args[k])(context, builder, args[k]).data
                index = context.cast(builder, args[k + 1], signature.args[k + 1], types.intp)
                first = builder.mul(index, ir.Constant(index.type, width))
                gep: Any = cgutils.gep_inbounds
                return builder.bitcast(gep(builder, data, first), vector.as_pointer())

            into, origin = pointer(0), pointer(2)
            total = builder.fadd(builder.load(into, align=8), builder.load(origin, align=8))
            builder.store(total, into, align=8)
            return context.get_dummy_value()

        return types.void(target, place, source, row), codegen

    return typing


count_ones: Any = intrinsic(_type_count_ones)
bits_below: Any = intrinsic(_type_compare("<"))
bits_equal: Any = intrinsic(_type_compare("=="))
trailing_zeros: Any = intrinsic(_type_trailing_zeros)
add_moments: Any = intrinsic(_type_add_row(WIDTH))
add_values: Any = intrinsic(_type_add_row(NUM_VALUES))
