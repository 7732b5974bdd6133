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
BLOCK = 8


def _cache_folder() -> str:
    """A folder per version of this package's sources: numba itself looks only at the file of the outermost function."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(here.glob("*.py")):
        digest.update(path.read_bytes())
    return str(Path(_SETTINGS.CACHE_DIR or here / "__pycache__") / f"kernels-{digest.hexdigest()[:12]}")


_FOLDER = _cache_folder()


def _compile(function: Callable[..., Any], **options: Any) -> Any:
    """Compile on first use, as numpy treats division by zero."""
    usual, _SETTINGS.CACHE_DIR = _SETTINGS.CACHE_DIR, _FOLDER
    try:
        return njit(nogil=True, cache=True, error_model="numpy", **options)(function)
    finally:
        _SETTINGS.CACHE_DIR = usual


def kernel(function: Callable[..., Any]) -> Any:
    """A function that may make arrays."""
    return _compile(function)


def bare(function: Callable[..., Any]) -> Any:
    """A function that makes no array: it need not count references, which costs atomic operations."""
    return _compile(function, _nrt=False)


def inner(function: Callable[..., Any]) -> Any:
    """A bare function that becomes part of its callers: a call that passes five arrays costs as much as 20 rows."""
    return _compile(function, _nrt=False, forceinline=True)


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


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    vector = ir.VectorType(value.type, lanes)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def _row_pointer(context: Any, builder: Any, signature: Any, args: Any, k: int, kind: Any, width: int) -> Any:
    """Pointer to row ``args[k + 1]`` of the C-contiguous array ``args[k]`` of ``width`` columns."""
    data = context.make_array(signature.args[k])(context, builder, args[k]).data
    index = context.cast(builder, args[k + 1], signature.args[k + 1], types.intp)
    gep: Any = cgutils.gep_inbounds
    first = builder.mul(index, ir.Constant(index.type, width))
    return builder.bitcast(gep(builder, data, first), kind.as_pointer())


def _type_copy_row(typingctx: Any, target: Any, place: Any, source: Any, row: Any) -> Any:
    """target[place, :] = source[row, :] for C-contiguous arrays of `NUM_VALUES` float64 columns, as one vector."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.DoubleType(), NUM_VALUES)
        into, origin = (_row_pointer(context, builder, signature, args, k, vector, NUM_VALUES) for k in (0, 2))
        builder.store(builder.load(origin, align=8), into, align=8)
        return context.get_dummy_value()

    return types.void(target, place, source, row), codegen


def _type_scan(
    typingctx: Any,
    carry: Any,
    at: Any,
    rows: Any,
    first: Any,
    sums: Any,
    place: Any,
    total: Any,
    bar: Any,
    denominator: Any,
    least: Any,
    all_a: Any,
    all_b: Any,
) -> Any:
    """Cumulate `BLOCK` rows of (rho, weight, a, b) and say, as bits, after which of them a cut beats the bar.

    carry[at, :] grows by rows[first + i, :] and is kept in sums[place + i, :]. A cut beats the bar where
    rho^2 denominator > bar weight (total - weight) and ``least`` of a and of b lie on both sides. In one piece because
    a wide load of what narrow stores have just written would wait for them.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.DoubleType(), NUM_VALUES)
        held, origin, into = (_row_pointer(context, builder, signature, args, k, vector, NUM_VALUES) for k in (0, 2, 4))
        grown, each = builder.load(held, align=8), []
        for i in range(BLOCK):
            step = ir.Constant(ir.IntType(64), i)
            grown = builder.fadd(grown, builder.load(builder.gep(origin, [step]), align=8))
            builder.store(grown, builder.gep(into, [step]), align=8)
            each.append(grown)
        builder.store(grown, held, align=8)
        rho, weight, a, b = _transpose(builder, each)
        total, bar, denominator, least, all_a, all_b = (_splat(builder, value, BLOCK) for value in args[6:])
        left = builder.fmul(builder.fmul(rho, rho), denominator)
        right = builder.fmul(builder.fmul(bar, weight), builder.fsub(total, weight))
        found = builder.fcmp_ordered(">", left, right)
        for count in (a, b, builder.fsub(all_a, a), builder.fsub(all_b, b)):
            found = builder.and_(found, builder.fcmp_ordered(">=", count, least))
        return builder.zext(builder.bitcast(found, ir.IntType(BLOCK)), ir.IntType(64))

    number = types.float64
    return types.uint64(carry, at, rows, first, sums, place, *[number] * 6), codegen


def _transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """The four columns of eight rows of four, by pairs, fours and eights."""

    def join(first: Any, second: Any, places: list[int]) -> Any:
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places)
        return builder.shuffle_vector(first, second, mask)

    fours = []
    for k in (0, 4):
        low, high = ([join(rows[k + i], rows[k + i + 1], p) for i in (0, 2)] for p in ([0, 4, 2, 6], [1, 5, 3, 7]))
        fours.append([join(a, b, places) for places in ([0, 1, 4, 5], [2, 3, 6, 7]) for a, b in (low, high)])
    return [join(first, second, list(range(BLOCK))) for first, second in zip(*fours, strict=True)]


def _type_differ(typingctx: Any, codes: Any, first: Any) -> Any:
    """Bit i says whether codes[first + i] and codes[first + i + 1] differ, for 64 of them."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.IntType(8), LANES)
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        data = builder.gep(data, [context.cast(builder, args[1], signature.args[1], types.intp)])
        one = ir.Constant(ir.IntType(64), 1)
        here, there = (
            builder.load(builder.bitcast(place, vector.as_pointer()), align=1)
            for place in (data, builder.gep(data, [one]))
        )
        return builder.bitcast(builder.icmp_unsigned("!=", here, there), ir.IntType(LANES))

    return types.uint64(codes, first), codegen


count_ones: Any = intrinsic(_type_count_ones)
bits_below: Any = intrinsic(_type_compare("<"))
bits_equal: Any = intrinsic(_type_compare("=="))
trailing_zeros: Any = intrinsic(_type_trailing_zeros)
add_moments: Any = intrinsic(_type_add_row(WIDTH))
add_values: Any = intrinsic(_type_add_row(NUM_VALUES))
copy_values: Any = intrinsic(_type_copy_row)
scan_rows: Any = intrinsic(_type_scan)
neighbours_differ: Any = intrinsic(_type_differ)
