import pickle

import numpy as np
import pandas as pd
import pytest
from helpers_rasters import coded_pixels, write_raster

from eo_cate.errors import ImageryError
from eo_cate.imagery import ChipArray, ChipFolder
from eo_cate.types import ChipReader

BANDS = ("red", "nir")


def coded_array(chips=5, y=7, x=9):
    """(chip, y, x, band) whose value tells chip, band, row and column."""
    chip, row, column, band = np.mgrid[:chips, :y, :x, :2]
    return (chip * 1000 + band * 100 + row * 10 + column).astype(np.int16)


def save(tmp_path, array, keys=None):
    np.save(tmp_path / "chips.npy", array)
    if keys is not None:
        pd.DataFrame(keys, columns=["row", "key"]).to_csv(tmp_path / "keys.csv", index=False)
    return tmp_path / "chips.npy"


@pytest.mark.parametrize(("size", "top", "left"), [(7, 0, 1), (6, 0, 1), (5, 1, 2), (4, 1, 2), (1, 3, 4)])
def test_a_crop_starts_at_half_the_margin_rounded_down(tmp_path, size, top, left):
    reader = ChipArray(save(tmp_path, coded_array()), bands=BANDS)
    assert isinstance(reader, ChipReader)
    chips = reader.read_chips(["4", "1"], size)
    assert chips.shape == (2, 2, size, size)
    assert chips.dtype == np.float32
    for i, site in enumerate((4, 1)):
        for band in range(2):
            expected = site * 1000 + band * 100 + np.add.outer(np.arange(size) + top, 0)[:, None] * 10
            expected = expected.reshape(size, 1) + np.arange(size) + left
            np.testing.assert_array_equal(chips[i, band], expected)


def test_keys_say_which_row_is_a_site(tmp_path):
    path = save(tmp_path, coded_array(), [(3, "north"), (0, "007")])
    reader = ChipArray(path, bands=BANDS, keys=tmp_path / "keys.csv", resolution_m=14.3)
    assert reader.site_ids == {"north", "007"}
    np.testing.assert_array_equal(reader.read_chips(["007", "north", "007"], 2)[:, 0, 0, 0] // 1000, [0, 3, 0])
    assert (reader.resolution_m, reader.grid) == (14.3, None)
    with pytest.raises(ImageryError, match="1 of 2 sites have no chip"):
        reader.read_chips(["007", "7"], 2)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([(1, "a"), (5, "b")], "1 rows are not whole numbers from 0 to 4"),
        ([(1, "a"), (-1, "b")], "1 rows are not"),
        ([(1, "a"), ("x", "b")], "1 rows are not"),
        ([(1, "a"), (1.5, "b")], "1 rows are not"),
        ([(1, "a"), (2, "a")], "0 keys are missing, 1 repeated"),
        ([(1, "a"), (2, None)], "1 keys are missing"),
    ],
)
def test_keys_that_do_not_fit_are_refused(tmp_path, keys, message):
    with pytest.raises(ImageryError, match=message):
        ChipArray(save(tmp_path, coded_array(), keys), bands=BANDS, keys=tmp_path / "keys.csv")


def test_missing_and_infinite_values_are_nan(tmp_path):
    array = coded_array().astype(np.float64)
    array[2, 3, 4, 1], array[2, 3, 5, 0] = np.inf, np.nan
    chip = ChipArray(save(tmp_path, array), bands=BANDS).read_chips(["2"], 7)[0]
    assert np.argwhere(np.isnan(chip)).tolist() == [[0, 3, 4], [1, 3, 3]]  # the crop starts at column 1


def test_arrays_that_do_not_fit_are_refused(tmp_path):
    for array, message in (
        (coded_array().transpose(0, 3, 1, 2), r"found int16 of shape \(5, 2, 7, 9\)"),
        (coded_array()[..., 0], "of shape"),
        (coded_array().astype("U4"), "found <U4"),
    ):
        with pytest.raises(ImageryError, match=message):
            ChipArray(save(tmp_path, array), bands=BANDS)
    for content in (b"", b"not an array", pickle.dumps([1, 2])):
        (tmp_path / "chips.npy").write_bytes(content)
        with pytest.raises(ImageryError, match=r"chips\.npy: not a readable \.npy"):
            ChipArray(tmp_path / "chips.npy", bands=BANDS)
    np.save(tmp_path / "cut.npy", coded_array())
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-9])
    with pytest.raises(ImageryError, match="not a readable"):
        ChipArray(tmp_path / "cut.npy", bands=BANDS)
    with pytest.raises(ImageryError, match=r"absent\.npy: cannot be read"):
        ChipArray(tmp_path / "absent.npy", bands=BANDS)


def test_a_crop_beyond_the_chip_is_refused(tmp_path):
    reader = ChipArray(save(tmp_path, coded_array()), bands=BANDS)
    with pytest.raises(ImageryError, match=r"chips of 8 px were asked for, but the chips are 7 x 9"):
        reader.read_chips(["1"], 8)


def test_the_digest_is_that_of_pixels_bands_and_keys(tmp_path):
    path = save(tmp_path, coded_array(), [(3, "a"), (0, "b")])
    first = ChipArray(path, bands=BANDS).digest
    assert first == ChipArray(path, bands=BANDS).digest
    with_keys = ChipArray(path, bands=BANDS, keys=tmp_path / "keys.csv").digest
    renamed = ChipArray(path, bands=BANDS[::-1]).digest
    changed = coded_array()
    changed[0, 0, 0, 0] += 1
    assert len({first, with_keys, renamed, ChipArray(save(tmp_path, changed), bands=BANDS).digest}) == 4


def test_an_array_written_anew_is_read_anew(tmp_path):
    assert ChipArray(save(tmp_path, coded_array() * 0 + 1), bands=BANDS).read_chips(["0"], 3).max() == 1
    (tmp_path / "chips.npy").unlink()
    reader = ChipArray(save(tmp_path, coded_array() * 0 + 2), bands=BANDS)
    assert pickle.loads(pickle.dumps(reader)).read_chips(["0"], 3).min() == 2


def write_folder(folder, sites=("a", "007"), **options):
    folder.mkdir(exist_ok=True)
    for i, site in enumerate(sites):
        write_raster(folder / f"{site}.tif", np.stack([coded_pixels(10 * i + b, 7, 9) for b in (1, 2)]), **options)
    return folder


@pytest.mark.parametrize("crs", [None, "EPSG:32636"])
def test_a_folder_of_geotiffs(tmp_path, crs):
    reader = ChipFolder(write_folder(tmp_path / "chips", crs=crs), bands=BANDS)
    assert reader.site_ids == {"a", "007"}
    chips = pickle.loads(pickle.dumps(reader)).read_chips(["007", "a"], 4)
    assert chips.shape == (2, 2, 4, 4)
    assert chips[0, 1, 2, 3] == 12_000_000 + (1 + 2) * 1000 + 2 + 3
    assert chips[1, 0, 0, 0] == 1_000_000 + 1 * 1000 + 2


def test_nodata_in_a_folder_is_nan(tmp_path):
    folder = write_folder(tmp_path / "chips", nodata=1_003_004)
    missing = np.isnan(ChipFolder(folder, bands=BANDS).read_chips(["a"], 7))
    assert np.argwhere(missing).tolist() == [[0, 0, 3, 3]]


def test_folders_that_do_not_fit_are_refused(tmp_path):
    folder = write_folder(tmp_path / "chips")
    with pytest.raises(ImageryError, match=r"has 2 bands, imagery\.bands names 1"):
        ChipFolder(folder, bands=BANDS[:1])
    write_raster(folder / "b.tif", np.ones((2, 8, 9), np.float32))
    with pytest.raises(ImageryError, match="2 different shapes"):
        ChipFolder(folder, bands=BANDS)
    (folder / "b.tif").write_text("<VRTDataset/>")
    with pytest.raises(ImageryError, match=r"b\.tif: neither a GeoTIFF"):
        ChipFolder(folder, bands=BANDS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageryError, match="0 GeoTIFFs"):
        ChipFolder(tmp_path / "empty", bands=BANDS)
