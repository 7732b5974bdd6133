"""What passes between stages: standard objects wrapped, validated at construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from eo_cate.errors import EoCateError, TrialError

if TYPE_CHECKING:
    import geopandas as gpd

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

UNIT_COLUMNS = ("unit_id", "site_id", "cluster", "stratum", "outcome", "treatment", "propensity", "weight", "group")


@dataclass(frozen=True)
class Trial:
    """Who was treated, where, and how it was randomised.

    Parameters
    ----------
    units : GeoDataFrame
        One row per unit with the columns of `UNIT_COLUMNS` and the covariates under their own names. ``group`` is the
        integer label of the connected component of "same cluster or same site" (METHODS.md, section 1).
    sites : GeoDataFrame
        One row per unique site, index ``site_id`` (str), geometry in EPSG:4326. Several units may share one.
    covariates : tuple of str
        Names of the covariate columns of ``units`` (NaN = missing).
    baseline_outcome : str or None
        Column of ``units`` with the outcome before the programme (no missing values): a placebo.
    true_effect : str or None
        Column of ``units`` with the unit's true effect, in simulations only. No stage fits on it.

    Raises
    ------
    TrialError
        When a column is absent or a unit's site is not among ``sites``.
    """

    units: gpd.GeoDataFrame
    sites: gpd.GeoDataFrame
    covariates: tuple[str, ...] = ()
    baseline_outcome: str | None = None
    true_effect: str | None = None

    def __post_init__(self) -> None:
        absent = [c for c in (*UNIT_COLUMNS, *self.covariates) if c not in self.units.columns]
        if absent:
            raise TrialError(f"the units table lacks the column(s) {absent}")
        unknown = int((~self.units["site_id"].isin(self.sites.index)).sum())
        if unknown:
            raise TrialError(f"{unknown} units name a site that is not among the {len(self.sites)} sites")

    def column(self, name: str) -> FloatArray:
        """A numeric column of the units table, shape (n,)."""
        return np.asarray(self.units[name], dtype=np.float64)

    @property
    def groups(self) -> IntArray:
        """Group of each unit, shape (n,): the indivisible block of every split."""
        return np.asarray(self.units["group"], dtype=np.int64)

    @property
    def site_index(self) -> IntArray:
        """Row of ``sites`` of each unit, shape (n,)."""
        return np.asarray(self.sites.index.get_indexer(self.units["site_id"]), dtype=np.int64)

    @property
    def strata(self) -> IntArray:
        """Stratum of each unit as an integer code, shape (n,)."""
        return np.unique(self.units["stratum"].astype(str).to_numpy(), return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True)
class Grid:
    """A north-up pixel grid: where row and column lie on the ground.

    Parameters
    ----------
    crs : str
        Any string that pyproj reads, e.g. ``EPSG:32618``.
    transform : tuple of 6 floats
        Affine coefficients (a, b, c, d, e, f) from (column, row) to projected coordinates, in the order of `affine`.
    shape : (int, int)
        Rows and columns.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]
    shape: tuple[int, int]


@runtime_checkable
class ChipReader(Protocol):
    """Pixels above sites. A chip at any size is a window centred on the site."""

    bands: tuple[str, ...]
    resolution_m: float | None
    grid: Grid | None
    digest: str
    """sha256 over the pixels' source and the sites' places in it: the content address of what `read_chips` returns."""

    def read_chips(self, site_ids: Sequence[str], size_px: int) -> NDArray[np.float32]:
        """Chips of shape (site, band, y, x), float32; NaN where there is no observation."""
        ...


@dataclass(frozen=True)
class FeatureBlocks:
    """Features kept once per site and once per unit; the unit-level matrix is gathered only where it is needed.

    Parameters
    ----------
    site : (S, p_site) float32
        Features of each site (may have no columns).
    unit : (n, p_unit) float32
        Features of each unit (may have no columns); NaN = missing.
    site_index : (n,) int
        Row of ``site`` of each unit.
    names : tuple of str, length p_site + p_unit
        Feature names, the site's first.
    blocks : tuple of str, length p_site + p_unit
        Block of each column: ``tabular`` or e.g. ``image_16``.

    Raises
    ------
    EoCateError
        When lengths disagree or ``site_index`` points outside ``site``.
    """

    site: NDArray[np.float32]
    unit: NDArray[np.float32]
    site_index: IntArray
    names: tuple[str, ...]
    blocks: tuple[str, ...]

    def __post_init__(self) -> None:
        p = self.site.shape[1] + self.unit.shape[1]
        if len(self.names) != p or len(self.blocks) != p:
            raise EoCateError(f"{p} feature columns, but {len(self.names)} names and {len(self.blocks)} block labels")
        if len(self.unit) != len(self.site_index):
            raise EoCateError(f"unit features have {len(self.unit)} rows, site_index has {len(self.site_index)}")
        if len(self.site_index) and not 0 <= self.site_index.min() <= self.site_index.max() < len(self.site):
            raise EoCateError(f"site_index must lie in [0, {len(self.site)})")

    @classmethod
    def from_array(
        cls,
        X: NDArray[Any],
        *,
        site_index: IntArray | None = None,
        names: Sequence[str] | None = None,
        block: str = "x",
    ) -> FeatureBlocks:
        """Wrap a matrix: of units (n, p), or of unique sites when ``site_index`` (n,) is given."""
        X = np.atleast_2d(np.asarray(X, dtype=np.float32))
        labels = tuple(names) if names is not None else tuple(f"{block}_{j}" for j in range(X.shape[1]))
        if site_index is None:
            index, site, unit = np.zeros(len(X), dtype=np.int64), np.zeros((1, 0), dtype=np.float32), X
        else:
            index = np.asarray(site_index, dtype=np.int64)
            site, unit = X, np.zeros((len(index), 0), dtype=np.float32)
        return cls(site=site, unit=unit, site_index=index, names=labels, blocks=(block,) * X.shape[1])

    def __len__(self) -> int:
        return len(self.site_index)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, p) of the gathered matrix."""
        return len(self.site_index), len(self.names)

    def gather(self) -> NDArray[np.float32]:
        """The unit-level matrix, shape (n, p)."""
        return np.hstack([self.site[self.site_index], self.unit])

    def take(self, rows: NDArray[Any]) -> FeatureBlocks:
        """The blocks of some units (indices or a mask), sites kept as they are."""
        return replace(self, unit=self.unit[rows], site_index=self.site_index[rows])


def as_blocks(X: FeatureBlocks | NDArray[Any]) -> FeatureBlocks:
    """Return FeatureBlocks as they are and wrap an (n, p) array."""
    return X if isinstance(X, FeatureBlocks) else FeatureBlocks.from_array(X)


@runtime_checkable
class CateEstimator(Protocol):
    """Anything that learns tau(x) = E[Y(1) - Y(0) | x]. Evaluation refits copies of it (`copy.deepcopy`)."""

    def fit(
        self,
        X: FeatureBlocks | NDArray[Any],
        Y: FloatArray,
        W: FloatArray,
        *,
        propensity: FloatArray,
        sample_weights: FloatArray | None = None,
        groups: IntArray | None = None,
    ) -> Any:
        """Fit on n units; returns self."""
        ...

    def predict(self, X: FeatureBlocks | NDArray[Any]) -> FloatArray:
        """tau_hat, shape (n,), finite or NaN."""
        ...
