"""An encoder of sequences as an encoder of images: the bands of all periods are the bands of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eo_cate.embeddings.spec import SequenceEncoder
from eo_cate.errors import EmbeddingError
from eo_cate.store import digest


@dataclass(frozen=True)
class VideoEncoder:
    """Shows a `SequenceEncoder` its periods; otherwise an `Encoder`, so that all else is as for images.

    Parameters
    ----------
    model : SequenceEncoder
    years : tuple of float
        When each period was.
    """

    model: SequenceEncoder
    years: tuple[float, ...]

    @property
    def name(self) -> str:
        """The model's."""
        return self.model.name

    @property
    def dim(self) -> int:
        """Features per sequence."""
        return self.model.dim

    @property
    def input_px(self) -> int | None:
        """The model's."""
        return self.model.input_px

    @property
    def digest(self) -> str:
        """The model's, and when the periods were."""
        return digest("sequence", self.model.digest, self.years)

    def encode(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(b, time x band, y, x) -> (b, dim), see `Encoder.encode`."""
        bands, left = divmod(images.shape[1], len(self.years))
        if left:
            raise EmbeddingError(f"{self.name}: {images.shape[1]} bands are not {len(self.years)} periods of the same")
        sequences = images.reshape(len(images), len(self.years), bands, *images.shape[2:])
        return self.model.encode_sequence(sequences, np.array(self.years))
