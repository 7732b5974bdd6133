import numpy as np
import pytest

from eo_cate.errors import ImageryError
from eo_cate.imagery.stac import clear_pixels


@pytest.mark.parametrize("bit", range(16))
def test_qa_pixel_bit_by_bit(bit):
    mask = clear_pixels(np.array([1 << bit], dtype=np.uint16), "landsat_qa")
    assert mask.observed.tolist() == [bit != 0]
    assert mask.clear.tolist() == [bit not in (0, 1, 2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("value", "observed", "clear"),
    [  # values of real scenes (USGS, LSDS-1328 and LSDS-1618)
        (1, False, False),
        (5440, True, True),  # Landsat 4-7 clear land
        (5504, True, True),  # water
        (5896, True, False),  # cloud
        (7440, True, False),  # shadow
        (13600, True, False),  # snow
        (21824, True, True),  # Landsat 8-9 clear land
        (21952, True, True),  # water
        (22280, True, False),  # cloud
        (23888, True, False),  # shadow
        (54596, True, False),  # cirrus
        (30048, True, False),  # snow
    ],
)
def test_qa_pixel_of_real_scenes(value, observed, clear):
    mask = clear_pixels(np.array([[value]], dtype=np.uint16), "landsat_qa")
    assert (mask.observed.item(), mask.clear.item()) == (observed, clear)


def test_scl_class_by_class():
    mask = clear_pixels(np.arange(256, dtype=np.uint8), "sentinel2_scl")
    assert np.flatnonzero(mask.clear).tolist() == [2, 4, 5, 6, 7]
    assert np.flatnonzero(~mask.observed).tolist() == [0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64])
def test_any_integer_type_reads_the_same(dtype):
    values = np.arange(12, dtype=dtype)
    assert clear_pixels(values, "sentinel2_scl").clear.sum() == 5
    assert clear_pixels(values, "landsat_qa").observed.sum() == 6


def test_interpolated_quality_is_refused():
    with pytest.raises(ImageryError, match="integers"):
        clear_pixels(np.zeros(3, dtype=np.float32), "landsat_qa")
