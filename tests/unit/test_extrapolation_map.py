import numpy as np
import pytest
import rasterio
from pyproj import Transformer

from eo_cate.errors import EstimationError, EvaluationError, ImageryError
from eo_cate.extrapolation import raster
from eo_cate.extrapolation.cells import cell_lonlat, map_cells
from eo_cate.extrapolation.heterogeneity_map import compare_map, predict_cells
from eo_cate.extrapolation.raster import map_grid, raster_from_cells, read_raster_at, write_cog, write_mask
from eo_cate.types import FeatureBlocks, Grid

GRID = Grid("EPSG:32618", (10.0, 0.0, 435_730.0, 0.0, -10.0, 4_179_460.0), (600, 420))


class FirstColumn:
    """A fitted estimator whose tau_hat is known."""

    def fit(self, X, Y, W, *, propensity, sample_weights=None, groups=None):
        return self

    def predict(self, X):
        return X.gather()[:, 0].astype(np.float64)


class FirstColumnWithErrors(FirstColumn):
    def predict(self, X, *, std_err=False):
        tau_hat = super().predict(X)
        return (tau_hat, np.abs(tau_hat) / 2) if std_err else tau_hat


@pytest.fixture
def cells():
    every = map_cells(GRID, spacing_px=32, margin_px=40)
    return every.drop(every.index[[0, 17, 40]])


def features(cells):
    return FeatureBlocks.from_array((1000 * cells["row"] + cells["col"]).to_numpy()[:, None], block="image_16")


def predicted_map(estimator, cells):
    values = {name: v.astype(np.float32) for name, v in predict_cells(estimator, features(cells)).items()}
    return raster_from_cells(values, cells, GRID, spacing_px=32)


def test_every_cell_lies_where_its_centre_is(cells):
    tau_map = predicted_map(FirstColumn(), cells)
    assert list(tau_map.data_vars) == ["tau_hat"]
    to_metres = Transformer.from_crs("EPSG:4326", GRID.crs, always_xy=True)
    lonlat = cell_lonlat(cells, GRID)
    x, y = to_metres.transform(lonlat[:, 0], lonlat[:, 1])
    for k in range(len(cells)):
        at = tau_map["tau_hat"].sel(y=y[k], x=x[k], method="nearest", tolerance=0.01)
        assert float(at) == 1000 * cells["row"].iloc[k] + cells["col"].iloc[k]
    assert int(tau_map["tau_hat"].notnull().sum()) == len(cells)
    assert tau_map.attrs["crs"] == "EPSG:32618"


def test_standard_errors_are_mapped_where_there_are_any(cells):
    tau_map = predicted_map(FirstColumnWithErrors(), cells)
    assert list(tau_map.data_vars) == ["tau_hat", "std_err"]
    np.testing.assert_array_equal(tau_map["std_err"], tau_map["tau_hat"] / 2)
    with pytest.raises(EstimationError, match="give one value per cell"):
        raster_from_cells(predict_cells(FirstColumn(), features(cells[1:])), cells, GRID, spacing_px=32)


def test_cog_is_one_and_reads_back_bit_for_bit(cells, tmp_path):
    tau_map = predicted_map(FirstColumnWithErrors(), cells)
    write_cog(tau_map, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as source:
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert source.descriptions == ("tau_hat", "std_err")
        assert np.isnan(source.nodata)
        assert source.crs == "EPSG:32618"
        for band, name in enumerate(("tau_hat", "std_err"), start=1):
            assert source.read(band).tobytes() == tau_map[name].to_numpy().tobytes()
        x, y = GRID.transform[2] + 10 * cells["col"], GRID.transform[5] - 10 * cells["row"]
        sampled = np.array([v[0] for v in source.sample(zip(x, y, strict=True))])
    np.testing.assert_array_equal(sampled, (1000 * cells["row"] + cells["col"]).astype(np.float32))
    first = (tmp_path / "map.tif").read_bytes()
    write_cog(tau_map, tmp_path / "map.tif")
    assert (tmp_path / "map.tif").read_bytes() == first


def test_large_map_has_overviews_that_leave_gaps_out(tmp_path):
    grid = Grid("EPSG:32618", GRID.transform, (1200, 1200))
    cells = map_cells(grid, spacing_px=1, margin_px=1)
    cells = cells[(cells["row"] + cells["col"]) % 2 == 0]
    write_cog(
        raster_from_cells({"tau_hat": np.full(len(cells), 3, np.float32)}, cells, grid, spacing_px=1),
        tmp_path / "m.tif",
    )
    with rasterio.open(tmp_path / "m.tif") as source:
        assert source.overviews(1)[0] == 2
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    with rasterio.open(tmp_path / "m.tif", overview_level=0) as source:
        assert np.nanmin(source.read(1)) == np.nanmax(source.read(1)) == 3  # NaN is nodata, not part of the average


def test_mask_and_values_of_a_map_are_found_again(cells, tmp_path):
    write_mask(cells, GRID, tmp_path / "mask.tif", spacing_px=32)
    again = map_cells(GRID, spacing_px=32, margin_px=0, mask=tmp_path / "mask.tif")
    assert again.to_numpy().tolist() == cells.to_numpy().tolist()
    value = np.random.default_rng(1).normal(size=len(cells))
    write_cog(raster_from_cells({"tau": value}, cells, GRID, spacing_px=32), tmp_path / "tau.tif")
    every = map_cells(GRID, spacing_px=32, margin_px=0)
    read = read_raster_at(tmp_path / "tau.tif", every, GRID)
    inside = every.merge(cells.assign(value=value), how="left", on=["row", "col"])["value"]
    np.testing.assert_array_equal(read, inside)


def test_odd_spacing_is_centred_too():
    cells = map_cells(GRID, spacing_px=25, margin_px=25)
    target = map_grid(GRID, cells, spacing_px=25)
    a, _, c, _, e, f = target.transform
    assert (c + a / 2, f + e / 2) == (GRID.transform[2] + 250, GRID.transform[5] - 250)
    assert target.shape == (cells["row"].nunique(), cells["col"].nunique())


def test_turned_or_mixed_maps_are_refused(cells, tmp_path):
    tau_map = predicted_map(FirstColumn(), cells)
    for wrong in (tau_map.isel(y=slice(None, None, -1)), tau_map.isel(x=slice(1, None))):
        with pytest.raises(ImageryError, match="not the pixel centres of its transform"):
            write_cog(wrong, tmp_path / "map.tif")
    with pytest.raises(ImageryError, match=r"one floating-point type, found \['float32', 'float64'\]"):
        write_cog(tau_map.assign(b=tau_map["tau_hat"].astype(float)), tmp_path / "map.tif")
    assert not (tmp_path / "map.tif").exists()


def test_look_up_of_a_raster_that_unfolds_is_refused(cells, tmp_path, monkeypatch):
    write_mask(cells, GRID, tmp_path / "mask.tif", spacing_px=32)
    monkeypatch.setattr(raster, "MAX_LOOKUP_PIXELS", 10)
    with pytest.raises(ImageryError, match="at most 10 are read"):
        read_raster_at(tmp_path / "mask.tif", cells, GRID)


def test_comparison_with_the_truth():
    rng = np.random.default_rng(5)
    truth = rng.normal(size=200)
    tau_hat = 0.5 * truth + 1
    sampled = np.arange(200) < 80
    found = compare_map(tau_hat, truth, sampled=sampled)
    assert (found.everywhere.n, found.unsampled.n) == (200, 120)
    assert found.everywhere.pearson == pytest.approx(1, abs=1e-12)
    assert found.everywhere.spearman == pytest.approx(1, abs=1e-12)
    free = truth[~sampled]
    R2 = 1 - np.sum((0.5 * free - 1) ** 2) / np.sum((free - free.mean()) ** 2)
    assert abs(found.unsampled.R2 - R2) < 1e-12

    tau_hat[:3] = np.nan
    assert compare_map(tau_hat, truth).everywhere.n == 197
    assert compare_map(tau_hat, truth, sampled=np.ones(200, dtype=bool)).unsampled is None
    constant = compare_map(np.ones(200), truth).everywhere
    assert np.isnan(constant.pearson)
    assert constant.R2 <= 0
    with pytest.raises(EvaluationError, match="only 2 of 200 cells"):
        compare_map(np.where(np.arange(200) < 2, 1.0, np.nan), truth)
    with pytest.raises(EvaluationError, match="199 estimates, 200 true effects"):
        compare_map(tau_hat[1:], truth)
