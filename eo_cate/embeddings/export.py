"""Embeddings as files for others: a Parquet table without coordinates, and what made it, as JSON."""

from __future__ import annotations

import io
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr

from eo_cate.store import digest, write_atomic

PRIVACY = (
    "There is no geometry here, but a vector is a fingerprint of a place's pixels: whoever has the imagery and the "
    "encoder can find the place. Share these files as you would share the coordinates of the sites."
)


def export_embedding(embedding: xr.DataArray, folder: Path) -> tuple[Path, Path]:
    """Write ``<encoder>.parquet`` and ``<encoder>.json``.

    The table has one row per site, scale and time, columns site, scale (px), time, vector (list of float32), and
    missing_share where it is known. The JSON is laid out as a STAC item with a null geometry: model, weights, mode,
    preprocessing and licence are its properties. Nothing is written when the files are those of this embedding already.

    Parameters
    ----------
    embedding : DataArray (site, scale, time, feature)
        As `embed_sites` or `join_periods` return it.
    folder : Path
        Created when absent.

    Returns
    -------
    (Path, Path)
        Table and JSON.

    Raises
    ------
    StoreError
        When a file cannot be written.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", str(embedding.attrs["encoder"]))
    table_path, item_path = folder / f"{name}.parquet", folder / f"{name}.json"
    item = _describe(embedding, table_path.name)
    content = (json.dumps(item, indent=2) + "\n").encode()
    if table_path.is_file() and item_path.is_file() and item_path.read_bytes() == content:
        return table_path, item_path
    buffer = io.BytesIO()
    pq.write_table(_to_table(embedding), buffer, compression="zstd")
    write_atomic(table_path, buffer.getvalue())
    write_atomic(item_path, content)
    return table_path, item_path


def _to_table(embedding: xr.DataArray) -> pa.Table:
    ordered = embedding.transpose("site", "scale", "time", "feature")
    sites, scales, times, width = ordered.shape
    values = np.ascontiguousarray(ordered.values, dtype=np.float32).reshape(-1)
    columns = {
        "site": pa.array(np.repeat(ordered["site"].values.astype(str), scales * times)),
        "scale": pa.array(np.tile(np.repeat(ordered["scale"].values.astype(np.int32), times), sites)),
        "time": pa.array(np.tile(ordered["time"].values.astype(str), sites * scales)),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(values), width),
    }
    if "missing_share" in ordered.coords:
        share = ordered["missing_share"].transpose("site", "scale").values
        columns["missing_share"] = pa.array(np.repeat(share.reshape(-1), times))
    return pa.table(columns)


def _describe(embedding: xr.DataArray, table: str) -> dict[str, Any]:
    attrs = embedding.attrs
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": table.removesuffix(".parquet"),
        "geometry": None,
        "properties": {
            "datetime": None,
            "licence": attrs.get("licence", ""),
            "embedding:model": attrs["encoder"],
            "embedding:weights_sha256": attrs.get("weights_sha256", ""),
            "embedding:encoder_digest": attrs.get("encoder_digest", ""),
            "embedding:dimensions": int(embedding.sizes["feature"]),
            "embedding:mode": attrs.get("mode", ""),
            "embedding:augment": attrs.get("augment", ""),
            "embedding:preprocessing": {
                "bands": list(attrs.get("bands", [])),
                "stretch": json.loads(attrs.get("stretch", "[]")),
                "input_px": int(attrs.get("input_px", 0)),
                "resampling": "bicubic, antialiased" if attrs.get("input_px") else "none",
            },
            "embedding:scales_px": [int(s) for s in embedding["scale"].values],
            "embedding:times": [str(t) for t in embedding["time"].values],
            "embedding:sites": int(embedding.sizes["site"]),
            "embedding:values_sha256": digest(
                np.ascontiguousarray(embedding.values), embedding["site"].values.tolist()
            ),
            "privacy": PRIVACY,
            "eo_cate:version": version("eo-cate"),
        },
        "links": [],
        "assets": {"embeddings": {"href": f"./{table}", "type": "application/vnd.apache.parquet", "roles": ["data"]}},
    }
