"""Random convolutional features (MOSAIKS, Rolf et al. 2021) as torchgeo computes them: no weights, any bands."""

from __future__ import annotations

import re
from dataclasses import dataclass

from eo_cate.embeddings.networks import NetworkEncoder
from eo_cate.embeddings.reflectance import import_extra
from eo_cate.embeddings.spec import EncoderSpec
from eo_cate.embeddings.timm_models import digest_module
from eo_cate.errors import EmbeddingError

RCF = re.compile(r"rcf(?:_(\d+))?")
"""The name: 512 features, or as many as it says."""


@dataclass(frozen=True)
class OpenConvolutions:
    """Opens torchgeo's random convolutional features: Gaussian filters from the run's seed."""

    encoder: str
    features: int
    bands: int

    def __call__(self, input_px: int, seed: int) -> NetworkEncoder:
        """Open it; chips come at their own size."""
        rcf = import_extra("torchgeo.models.rcf", self.encoder, "torchgeo")
        # torchgeo takes a seed of 0 for none
        module = rcf.RCF(in_channels=self.bands, features=self.features, kernel_size=3, bias=-1.0, seed=seed + 1)
        return NetworkEncoder(
            self.encoder,
            module,
            dim=self.features,
            input_px=None,
            normalisation=((0.0,) * self.bands, (1.0,) * self.bands),
            weights=digest_module(module),
            one_by_one=True,
        )


def rcf_spec(encoder: str, features: int, bands: int) -> EncoderSpec:
    """The entry of random convolutional features for any bands; no pixels need be undone.

    Raises
    ------
    EmbeddingError
        When torchgeo is absent or the number of features odd.
    """
    import_extra("torchgeo.models.rcf", encoder, "torchgeo")
    if features < 2 or features % 2:
        raise EmbeddingError(f"{encoder}: the number of features must be even, two for each filter")
    return EncoderSpec(
        name=encoder,
        title=f"torchgeo, {features} random convolutional features (Rolf et al. 2021), Gaussian filters",
        licence="MIT",
        origin="drawn here from the run's seed",
        dim=features,
        normalisation="none: [0, 1] as stretched",
        note="any bands; chips at their own size, input_px is not used; filters of 3 px, bias -1, mean over the chip",
        asset=None,
        build=OpenConvolutions(encoder, features, bands),
        bands=bands,
    )
