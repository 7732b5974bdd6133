"""What the sky hides in a simulated scene, and the quality band that says so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eo_cate.simulation.archive_ground import Weather
from eo_cate.types import FloatArray

FILL, CLEAR, NEAR, SHADOW, CLOUD, THIN = range(6)
"""States of a pixel: no observation, ground, next to a cloud, in its shadow, cloud, cirrus."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sky:
    """States of the pixels of a block, and how bright its clouds are.

    Parameters
    ----------
    state : (y, x) uint8
        One of the states above.
    opacity : (y, x) float32
        Share of the light that comes from cloud.
    """

    state: NDArray[np.uint8]
    opacity: Floats

    def cover(self, reflectance: Floats) -> Floats:
        """The ground under clouds, haze and shadow."""
        shaded = np.where(self.state == SHADOW, np.float32(0.4), np.float32(1)) * reflectance
        return np.asarray(shaded * (1 - self.opacity) + np.float32(0.75) * self.opacity, dtype=np.float32)


def sky_states(x: FloatArray, y: FloatArray, inside: NDArray[np.bool_], weather: Weather) -> Sky:
    """States of places of the plane; ``inside`` says where the scene has pixels at all."""
    thick, shading, thin = weather.above(x, y)
    state = np.full(x.shape, CLEAR, dtype=np.uint8)
    state[thin > 0] = THIN
    state[shading > 0] = SHADOW
    state[thick > -weather.edge] = NEAR
    state[thick > 0] = CLOUD
    state[~inside] = FILL
    hazy = np.clip(0.15 * (1 + thick / weather.edge), 0, 0.15)
    opacity = np.where(state == CLOUD, np.clip(0.4 + 2 * thick, 0, 1), np.where(state == NEAR, hazy, 0))
    opacity = np.where(state == THIN, 0.2, opacity)
    return Sky(state, opacity.astype(np.float32))


def quality_band(
    sky: Sky, water: NDArray[np.bool_], collection: str, platform: str
) -> NDArray[np.uint16] | NDArray[np.uint8]:
    """QA_PIXEL (uint16) or SCL (uint8) of a block."""
    return _qa_pixel(sky.state, water, platform) if collection == "landsat-c2-l2" else _scl(sky.state, water)


def _qa_pixel(state: NDArray[np.uint8], water: NDArray[np.bool_], platform: str) -> NDArray[np.uint16]:
    """Bits as in Collection 2: 1 near cloud, 2 cirrus, 3 cloud, 4 shadow, 6 clear, 7 water, then confidences by two."""
    oli = platform in ("landsat-8", "landsat-9")
    low = (1 << 8) | (1 << 10) | (1 << 12) | ((1 << 14) if oli else 0)
    table = np.full(6, low, dtype=np.uint16)
    table[FILL] = 1
    table[CLEAR] |= 1 << 6
    table[NEAR] |= 1 << 1
    table[SHADOW] |= (1 << 4) | (1 << 6) | (3 << 10)
    table[CLOUD] |= (1 << 3) | (3 << 8)
    table[THIN] |= ((1 << 2) | (1 << 6) | (3 << 14)) if oli else (1 << 6)
    found = table[state]
    found[water & (state == CLEAR)] |= 1 << 7
    return found


def _scl(state: NDArray[np.uint8], water: NDArray[np.bool_]) -> NDArray[np.uint8]:
    table = np.zeros(6, dtype=np.uint8)
    table[[FILL, CLEAR, NEAR, SHADOW, CLOUD, THIN]] = [0, 4, 8, 3, 9, 10]
    found = table[state]
    found[water & (state == CLEAR)] = 6
    return found
