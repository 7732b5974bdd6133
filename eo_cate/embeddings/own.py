"""An encoder of the user's own, by the name of a function: ``python:MODULE:NAME``."""

from __future__ import annotations

import importlib

from eo_cate.embeddings.spec import EncoderSpec
from eo_cate.errors import EmbeddingError


def own_spec(path: str) -> EncoderSpec:
    """The entry of ``MODULE:NAME``: an `EncoderSpec`, or a function (input_px, seed) -> `Encoder` or `SequenceEncoder`.

    A function's encoder may be shown any number of bands and takes modes ``resize`` only; an EncoderSpec says more.

    Raises
    ------
    EmbeddingError
        When the module cannot be imported or has no such member, or the member is neither.
    """
    module, _, member = path.partition(":")
    if not module or not member:
        raise EmbeddingError(f"encoder python:{path}: write python:MODULE:NAME, as in python:my_encoders:open_ndvi")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise EmbeddingError(
            f"encoder python:{path}: {module} cannot be imported ({error}); put its folder on PYTHONPATH"
        ) from error
    build = getattr(found, member, None)
    if isinstance(build, EncoderSpec):
        return build
    if not callable(build):
        raise EmbeddingError(
            f"encoder python:{path}: {module} has no function or EncoderSpec called {member} "
            f"(found {type(build).__name__})"
        )
    return EncoderSpec(
        name=f"python:{path}",
        title=(build.__doc__ or "").strip().partition("\n")[0] or "one's own function",
        licence="the user's",
        origin=f"module {module}",
        dim=0,
        normalisation="its own",
        note="mode resize only",
        asset=None,
        build=build,
        bands=None,
    )
