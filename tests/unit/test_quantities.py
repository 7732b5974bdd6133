"""Image quantities against numpy on chips made by hand: bands in their places, missing pixels out of every mean."""

import numpy as np
import pytest

from eo_cate.errors import ImageryError
from eo_cate.executor import Executor
from eo_cate.imagery.quantities import find_bands, measure_chips, measure_sites
from eo_cate.store import Store

BANDS = ("nir", "x", "red", "green", "swir16")
NAMED = {"red": "red", "nir": "nir", "green": "green", "swir16": "swir16"}


class Chips:
    """A `ChipReader` over an array (site, band, y, x), which counts what it is asked for."""

    def __init__(self, array, bands):
        self.array, self.bands, self.resolution_m, self.grid, self.digest = array, bands, 10.0, None, "made by hand"
        self.asked = []

    def read_chips(self, site_ids, size_px):
        self.asked.append((tuple(site_ids), size_px))
        start = (self.array.shape[2] - size_px) // 2
        rows = [int(site) for site in site_ids]
        return self.array[rows, :, start : start + size_px, start : start + size_px]


def made_chips():
    return np.random.default_rng(0).uniform(100, 3000, (3, 5, 6, 6)).astype(np.float32)


def test_a_chip_by_hand():
    chips = np.zeros((1, 2, 1, 2), dtype=np.float32)
    chips[0, 0], chips[0, 1] = [[3.0, 1.0]], [[1.0, 3.0]]
    found = measure_chips(chips, bands=("nir", "red"), shown=("red",), named={"nir": "nir", "red": "red"})
    assert found["NDVI"] == [0.0]  # (.5 - .5) / 2
    assert found["brightness"] == [2.0]
    chips[0, 0, 0, 1] = np.nan
    found = measure_chips(chips, bands=("nir", "red"), shown=("red",), named={"nir": "nir", "red": "red"})
    assert found["NDVI"] == [0.5]
    assert found["brightness"] == [2.0]


def test_every_index_takes_its_own_bands():
    chips = made_chips()
    nir, x, red, green, swir16 = chips.astype(np.float64).transpose(1, 0, 2, 3)
    found = measure_chips(chips, bands=BANDS, shown=("red", "green"), named=NAMED)
    for name, (a, b) in {"NDVI": (nir, red), "NDBI": (swir16, nir), "NDWI": (green, nir)}.items():
        np.testing.assert_allclose(found[name], ((a - b) / (a + b)).mean(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found["brightness"], ((red + green) / 2).mean(axis=(1, 2)), rtol=1e-12)
    assert x.shape == red.shape


def test_texture_is_the_mean_gradient_along_both_axes():
    y, x = np.mgrid[:5, :5].astype(np.float32)
    ramp = (3 * y + 4 * x)[None, None]
    assert measure_chips(ramp, bands=("b",), shown=("b",), named={})["texture"] == pytest.approx([5.0], rel=1e-12)
    stretched = (3 * y)[None, None, :, :3]  # not square: a swap of axes would not pass
    assert measure_chips(stretched, bands=("b",), shown=("b",), named={})["texture"] == pytest.approx([3.0], rel=1e-12)


def test_missing_pixels_leave_every_mean():
    chips = made_chips()
    chips[1, 2, 0, :] = np.nan
    chips[2] = np.nan
    chips[0, 4, 3, 3] = np.nan
    infinite = chips.copy()
    infinite[0, 4, 3, 3] = np.inf
    found = measure_chips(infinite, bands=BANDS, shown=("red",), named=NAMED)
    nir, red, swir16 = (chips[:, BANDS.index(b)].astype(np.float64) for b in ("nir", "red", "swir16"))
    assert found["NDVI"][1] == pytest.approx(((nir - red) / (nir + red))[1, 1:].mean(), rel=1e-12)
    kept = np.isfinite(swir16[0])
    assert found["NDBI"][0] == pytest.approx(((swir16 - nir) / (swir16 + nir))[0][kept].mean(), rel=1e-12)
    assert found["brightness"][1] == pytest.approx(red[1, 1:].mean(), rel=1e-12)
    down, right = np.gradient(red[1])
    assert found["texture"][1] == pytest.approx(np.nanmean(np.hypot(down, right)), rel=1e-12)
    assert all(np.isnan(values[2]) for values in found.values())


def test_pixels_without_light_and_below_zero_are_no_index():
    chips = np.array([[[[0.0, 2.0, 0.2]], [[0.0, 2.0, -0.1]]]], dtype=np.float32)
    found = measure_chips(chips, bands=("nir", "red"), shown=("red",), named={"nir": "nir", "red": "red"})
    assert found["NDVI"] == pytest.approx([0.5])  # missing, 0, and 3 clipped to 1


def test_a_chip_of_one_pixel_has_no_texture():
    found = measure_chips(np.ones((2, 1, 1, 1), np.float32), bands=("b",), shown=("b",), named={})
    assert np.isnan(found["texture"]).all()
    assert (found["brightness"] == 1).all()


def test_only_brightness_and_texture_without_names():
    assert set(measure_chips(made_chips(), bands=BANDS, shown=("x",), named={})) == {"brightness", "texture"}


def test_bands_by_their_names():
    assert find_bands(("red", "nir", "b")) == {"red": "red", "nir": "nir"}
    assert find_bands(("B04", "B08")) == {}
    assert find_bands(("B04", "B08", "B11"), collection="sentinel-2-l2a") == {
        "red": "B04",
        "nir": "B08",
        "swir16": "B11",
    }
    assert find_bands(("red", "nir08"), collection="landsat-c2-l2") == {"red": "red", "nir": "nir08"}
    assert find_bands(("red", "other"), common_names={"red": "other"}) == {"red": "other"}
    with pytest.raises(ImageryError, match="other"):
        measure_chips(made_chips(), bands=BANDS, shown=("red",), named={"red": "other"})


def test_sites_by_scale_are_kept_under_their_pixels(tmp_path):
    """The largest chips are read for the key; what a reader of the same pixels calls itself does not matter."""
    array = made_chips()
    options = {"scales": (4, 6), "shown": ("red",), "named": NAMED, "executor": Executor(), "progress": False}
    reader = Chips(array, BANDS)
    found = measure_sites(reader, ["2", "0"], store=Store(tmp_path), **options)
    assert found.dims == ("site", "scale", "feature")
    assert found["site"].values.tolist() == ["2", "0"]
    for i, site in enumerate((2, 0)):
        inner = array[site, 2, 1:5, 1:5].astype(np.float64).mean()
        assert float(found.sel(feature="brightness")[i, 0]) == pytest.approx(inner, rel=1e-12)
        whole = array[site, 2].astype(np.float64).mean()
        assert float(found.sel(feature="brightness", scale=6)[i]) == pytest.approx(whole, rel=1e-12)
    assert reader.asked == [(("2", "0"), 6), (("2", "0"), 4), (("2", "0"), 6)]
    again = Chips(array, BANDS)
    again.digest = "more was fetched around them"
    stored = measure_sites(again, ["2", "0"], store=Store(tmp_path), **options)
    assert again.asked == [(("2", "0"), 6)]
    np.testing.assert_array_equal(stored.values, found.values)
