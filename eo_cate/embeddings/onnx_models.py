"""Encoders from ONNX files: by onnxruntime where it is installed, else by onnx's own evaluator, which is slow."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eo_cate.embeddings.spec import EncoderSpec
from eo_cate.errors import EmbeddingError, WeightsError
from eo_cate.store import digest, file_digest

STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation of red, green and blue; repeated in turn over more bands."""

Session = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class OnnxEncoder:
    """An ONNX graph that turns (b, band, y, x) into (b, dim); images go through one by one.

    So features do not depend on the batch, whatever the runtime does with one.
    """

    def __init__(
        self, name: str, session: Session, *, runtime: str, bands: int, input_px: int, normalisation: str, weights: str
    ) -> None:
        self.name, self.input_px, self.weights = name, input_px, weights
        self.digest = digest("onnx", weights, runtime, normalisation)
        self._session = session
        mean, std = (
            np.resize(np.asarray(side, dtype=np.float32), bands).reshape(1, -1, 1, 1)
            for side in STATISTICS[normalisation]
        )
        self._mean, self._std = mean, std
        self.dim = self._one(np.zeros((1, bands, input_px, input_px), dtype=np.float32)).shape[1]

    def encode(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features of images, see `Encoder.encode`."""
        return np.concatenate([self._one(images[i : i + 1]) for i in range(len(images))])

    def _one(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        found = np.asarray(self._session((image - self._mean) / self._std))
        if found.ndim != 2 or len(found) != 1:
            raise EmbeddingError(
                f"{self.name}: its first output has shape {found.shape} for one image, expected (1, features): export "
                "the pooled features"
            )
        return found.astype(np.float32)


@dataclass(frozen=True)
class OpenOnnx:
    """Opens an ONNX file."""

    path: Path
    sha256: str
    bands: int
    normalisation: str

    def __call__(self, input_px: int, seed: int) -> OnnxEncoder:
        """Open it; the seed is not used."""
        if file_digest(self.path) != self.sha256:
            raise WeightsError(f"{self.path}: its sha256 has changed since the run began")
        wanted = _input_shape(self.path, self.sha256)
        asked = (self.bands, input_px, input_px)
        if any(isinstance(w, int) and w != a for w, a in zip(wanted, asked, strict=True)):
            raise EmbeddingError(
                f"{self.path}: the graph takes images (band, y, x) of {wanted}, but it would be given {asked}; "
                "change input_px or bands"
            )
        runtime, session = _session(self.path)
        try:
            return OnnxEncoder(
                f"onnx:{self.path.name}",
                session,
                runtime=runtime,
                bands=self.bands,
                input_px=input_px,
                normalisation=self.normalisation,
                weights=self.sha256,
            )
        except EmbeddingError:
            raise
        except Exception as error:  # runtimes raise errors of every kind
            raise EmbeddingError(f"{self.path}: {runtime} cannot run it on {asked}: {error}") from error


def onnx_spec(
    path: Path, *, bands: int = 3, weights_sha256: str | None = None, normalisation: str | None = None
) -> EncoderSpec:
    """The entry of an ONNX file; images are given in [0, 1] unless ``normalisation`` says otherwise.

    Raises
    ------
    WeightsError
        When the file is absent, not a model, or another than ``weights_sha256`` says.
    EmbeddingError
        When its first input is not an image.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file (encoder onnx:PATH)")
    found = file_digest(path)
    if weights_sha256 is not None and found != weights_sha256.lower():
        raise WeightsError(f"{path}: its sha256 is {found}, embeddings.weights_sha256 says {weights_sha256}")
    _input_shape(path, found)
    named = normalisation or "none"
    return EncoderSpec(
        name=f"onnx:{path.name}",
        title=f"ONNX file {path.name}",
        licence="the file's",
        origin=str(path),
        dim=0,
        normalisation=named,
        note="first output of the graph, which must be (b, features)",
        asset=None,
        build=OpenOnnx(path.resolve(), found, bands, named),
        bands=bands,
        band_order="the file's",
        file_sha256=found,
        where="file",
    )


@lru_cache(maxsize=4)
def _input_shape(path: Path, sha256: str) -> tuple[int | str, int | str, int | str]:
    """Band, y and x of the first input that is no initialiser; a name where the graph leaves the size open."""
    import onnx

    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # protobuf's own errors have no stubs
        raise WeightsError(f"{path}: not a readable ONNX model ({error})") from error
    stored = {i.name for i in graph.initializer}
    inputs = [i for i in graph.input if i.name not in stored]
    dims = inputs[0].type.tensor_type.shape.dim if inputs else []
    if len(inputs) != 1 or len(dims) != 4:
        raise EmbeddingError(f"{path}: needs one input of shape (b, band, y, x), found {len(inputs)} inputs")
    band, y, x = (int(d.dim_value) or str(d.dim_param) or "?" for d in dims[1:])
    return band, y, x


def _session(path: Path) -> tuple[str, Session]:
    """The name of what runs the graph, which is part of the digest (its numbers differ in the last bits)."""
    if importlib.util.find_spec("onnxruntime") is not None:
        runtime: Any = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        opened = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        first = opened.get_inputs()[0].name
        return "onnxruntime", lambda image: opened.run(None, {first: image})[0]
    import onnx.reference

    warnings.warn(
        f"{path.name} runs on onnx's reference evaluator, which is many times slower than onnxruntime: "
        "pip install onnxruntime",
        RuntimeWarning,
        stacklevel=3,
    )
    evaluator = onnx.reference.ReferenceEvaluator(str(path))
    name = evaluator.input_names[0]
    run: Any = evaluator.run
    return "onnx reference", lambda image: run(None, {name: image})[0]
