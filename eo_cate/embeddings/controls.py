"""Controls: is the image only an address, and is there a bug or a leak?"""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from eo_cate.errors import EmbeddingError

LOCATION_NAMES = ("x_km", "y_km", "x_km_neighbours", "y_km_neighbours")
_NEIGHBOURS = 5


def location_features(sites: gpd.GeoDataFrame) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Projected coordinates of sites, and their means over the 5 nearest other sites (METHODS.md, section 7).

    Parameters
    ----------
    sites : GeoDataFrame
        Points, in any known CRS. With fewer than 6 sites the neighbours are all other sites.

    Returns
    -------
    features : (S, 4) float32
        In km, azimuthal equidistant around the sites' centre: distances hold across UTM zones.
    names : tuple of str
        `LOCATION_NAMES`.

    Raises
    ------
    EmbeddingError
        When the CRS is unknown, a site has no point, or there are fewer than two sites.
    """
    if sites.crs is None:
        raise EmbeddingError("sites have no coordinate reference system")
    bad = int((sites.geometry.isna() | sites.geometry.is_empty | (sites.geometry.geom_type != "Point")).sum())
    if bad or len(sites) < 2:
        raise EmbeddingError(f"location needs two sites or more, each a point: {len(sites)} sites, {bad} without one")
    places = _project_km(sites)
    k = min(_NEIGHBOURS, len(places) - 1)
    near = np.asarray(cKDTree(places).query(places, k=k + 1)[1])
    # a site with twins on the same spot is not always its own first neighbour
    own = near == np.arange(len(places))[:, np.newaxis]
    own[~own.any(axis=1), -1] = True
    means = places[near[~own].reshape(len(places), k)].mean(axis=1)
    return np.hstack([places, means]).astype(np.float32), LOCATION_NAMES


def _project_km(sites: gpd.GeoDataFrame) -> NDArray[np.float64]:
    points = sites.geometry.to_crs(4326)
    lon, lat = np.radians(points.x.to_numpy()), np.radians(points.y.to_numpy())
    # the mean of unit vectors, so that sites on both sides of the antimeridian have their centre between them
    x, y, z = (np.cos(lat) * np.cos(lon)).mean(), (np.cos(lat) * np.sin(lon)).mean(), np.sin(lat).mean()
    centre_lon, centre_lat = np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))
    projected = points.to_crs(f"+proj=aeqd +lat_0={centre_lat} +lon_0={centre_lon} +datum=WGS84 +units=km")
    return np.column_stack([projected.x.to_numpy(), projected.y.to_numpy()])


def permute_sites(embedding: xr.DataArray, *, seed: int, within: NDArray[np.int64] | None = None) -> xr.DataArray:
    """The shuffled control: whole rows of an embedding permuted over sites, all scales of a site together.

    Parameters
    ----------
    embedding : DataArray with a dimension ``site``
        Left as it is.
    seed : int
        Of the permutation.
    within : (S,) int, optional
        Stratum of each site, that rows do not leave; absent: sites are permuted freely.

    Returns
    -------
    DataArray
        The same coordinates, other rows; attribute ``control`` says so.
    """
    rng = np.random.default_rng(seed)
    size = embedding.sizes["site"]
    if within is None:
        order = rng.permutation(size)
    else:
        order = np.empty(size, dtype=np.int64)
        order[np.argsort(within, kind="stable")] = np.lexsort((rng.random(size), within))
    shuffled = embedding.copy(data=embedding.isel(site=order).to_numpy())
    return shuffled.assign_attrs(control=f"permuted over sites, seed {seed}")
