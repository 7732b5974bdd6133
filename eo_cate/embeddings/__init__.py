"""Pixels to features, at several scales; encoders and their weights; controls."""

from eo_cate.embeddings.chips import find_missing
from eo_cate.embeddings.controls import location_features, permute_sites
from eo_cate.embeddings.embed import embed_sites
from eo_cate.embeddings.encoders import (
    ENCODERS,
    FAMILIES,
    Encoder,
    EncoderSpec,
    Pixels,
    SequenceEncoder,
    TokenEncoder,
    encoder_spec,
    list_encoders,
    open_encoder,
    open_spec,
)
from eo_cate.embeddings.export import export_embedding
from eo_cate.embeddings.modes import check_mode, native_px, scales_in_pixels
from eo_cate.embeddings.periods import join_periods
from eo_cate.embeddings.sequences import embed_sequence

__all__ = [
    "ENCODERS",
    "FAMILIES",
    "Encoder",
    "EncoderSpec",
    "Pixels",
    "SequenceEncoder",
    "TokenEncoder",
    "check_mode",
    "embed_sequence",
    "embed_sites",
    "encoder_spec",
    "export_embedding",
    "find_missing",
    "join_periods",
    "list_encoders",
    "location_features",
    "native_px",
    "open_encoder",
    "open_spec",
    "permute_sites",
    "scales_in_pixels",
]
