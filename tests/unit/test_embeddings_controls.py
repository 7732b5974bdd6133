"""Controls: location in km, and the shuffle."""

import geopandas as gpd
import numpy as np
import pytest
import xarray as xr
from shapely.geometry import Point

from eo_cate.embeddings import location_features, permute_sites
from eo_cate.errors import EmbeddingError


def sites_at(lon, lat):
    return gpd.GeoDataFrame(geometry=gpd.points_from_xy(lon, lat), crs=4326)


def geodesic_km(lon, lat):
    from pyproj import Geod

    n = len(lon)
    i, j = np.indices((n, n)).reshape(2, -1)
    return Geod(ellps="WGS84").inv(lon[i], lat[i], lon[j], lat[j])[2].reshape(n, n) / 1000


@pytest.mark.parametrize("centre", [(33.0, 1.5), (36.0, 0.0), (179.98, -17.0)])
def test_location_distances_are_those_on_the_ground(centre):
    rng = np.random.default_rng(0)
    lon, lat = centre[0] + rng.uniform(-0.5, 0.5, 40), centre[1] + rng.uniform(-0.5, 0.5, 40)
    features, names = location_features(sites_at((lon + 180) % 360 - 180, lat))
    assert features.shape == (40, 4)
    assert features.dtype == np.float32
    assert len(names) == 4
    distances = np.hypot(*(features[:, np.newaxis, :2] - features[:, :2]).transpose(2, 0, 1))
    np.testing.assert_allclose(distances, geodesic_km(lon, lat), rtol=2e-4, atol=0.01)
    assert np.abs(features[:, :2]).max() < 120
    assert np.corrcoef(features[:, 0], lon)[0, 1] > 0.999
    assert np.corrcoef(features[:, 1], lat)[0, 1] > 0.999


def test_neighbour_means_leave_the_site_itself_out():
    rng = np.random.default_rng(1)
    lon, lat = 30 + rng.uniform(-0.2, 0.2, 30), rng.uniform(-0.2, 0.2, 30)
    features, _ = location_features(sites_at(lon, lat))
    distances = geodesic_km(lon, lat)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1)[:, :5]
    np.testing.assert_allclose(features[:, 2:], features[nearest, :2].mean(axis=1), atol=1e-4)


def test_twins_on_one_spot_are_neighbours_of_each_other():
    lon = np.array([30.0] * 8 + [30.5, 30.6, 30.7])
    features, _ = location_features(sites_at(lon, np.zeros(11)))
    np.testing.assert_allclose(features[:8, 2:], features[:8, :2], atol=1e-5)


def test_few_sites_use_all_others():
    features, _ = location_features(sites_at(np.array([30.0, 30.2]), np.array([0.0, 0.1])))
    np.testing.assert_allclose(features[:, 2:], features[::-1, :2], atol=1e-5)


def test_sites_without_a_place_stop():
    with pytest.raises(EmbeddingError, match="3 sites, 1 without one"):
        location_features(gpd.GeoDataFrame(geometry=[Point(30, 1), None, Point(31, 1)], crs=4326))
    with pytest.raises(EmbeddingError, match="reference system"):
        location_features(gpd.GeoDataFrame(geometry=[Point(30, 1), Point(31, 1)]))
    with pytest.raises(EmbeddingError, match="1 sites"):
        location_features(sites_at(np.array([30.0]), np.array([0.0])))


def test_permutation_moves_whole_rows_and_nothing_else():
    values = np.arange(50 * 2 * 1 * 3, dtype=np.float32).reshape(50, 2, 1, 3)
    coords = {"site": [f"s{i}" for i in range(50)], "scale": [16, 64]}
    embedding = xr.DataArray(values, dims=("site", "scale", "time", "feature"), coords=coords, attrs={"encoder": "e"})
    shuffled = permute_sites(embedding, seed=3)
    np.testing.assert_array_equal(embedding.values, values)
    assert list(shuffled.site.values) == coords["site"]
    assert shuffled.attrs["encoder"] == "e"
    order = (shuffled.values[:, 0, 0, 0] / 6).astype(int)
    assert sorted(order) == list(range(50))
    np.testing.assert_array_equal(shuffled.values, values[order])
    assert (order != np.arange(50)).sum() > 40
    np.testing.assert_array_equal(permute_sites(embedding, seed=3).values, shuffled.values)
    assert not np.array_equal(permute_sites(embedding, seed=4).values, shuffled.values)


def test_permuting_within_strata_leaves_no_stratum():
    rng = np.random.default_rng(0)
    stratum = rng.integers(0, 3, 30)
    values = np.column_stack([stratum, np.arange(30)]).astype(np.float32)[:, None, None, :]
    embedding = xr.DataArray(
        values, dims=("site", "scale", "time", "feature"), coords={"site": [str(i) for i in range(30)]}
    )
    moved = permute_sites(embedding, seed=4, within=stratum).to_numpy()[:, 0, 0]
    np.testing.assert_array_equal(moved[:, 0], stratum)
    assert sorted(moved[:, 1]) == list(range(30))
    assert (moved[:, 1] != np.arange(30)).sum() > 15
