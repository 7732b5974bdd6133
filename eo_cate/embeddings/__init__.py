"""Pixels to features, at several scales; encoders and their weights; controls."""

from eo_cate.embeddings.controls import location_features, permute_sites
from eo_cate.embeddings.embed import embed_sites
from eo_cate.embeddings.encoders import ENCODERS, Encoder, EncoderSpec, list_encoders, open_encoder

__all__ = [
    "ENCODERS",
    "Encoder",
    "EncoderSpec",
    "embed_sites",
    "list_encoders",
    "location_features",
    "open_encoder",
    "permute_sites",
]
