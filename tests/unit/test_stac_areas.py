import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from eo_cate.errors import ImageryError
from eo_cate.imagery.stac.areas import cells_area, chip_bounds, degree_cells, merge_cells, wrap_longitudes

cells = st.sets(st.tuples(st.integers(-180, 179), st.integers(-90, 89)), min_size=1, max_size=30)
near = st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=25)


@given(st.one_of(cells, near))
@settings(max_examples=200, deadline=None)
def test_rectangles_cover_the_cells_once_and_nothing_else(asked):
    covered = [(x, y) for w, s, e, n in merge_cells(asked) for x in range(w, e) for y in range(s, n)]
    assert sorted(covered) == sorted(asked)


def test_adjacent_cells_share_a_rectangle():
    assert merge_cells([(35, 0), (36, 0), (35, 1), (36, 1), (40, 1)]) == ((35, 0, 37, 2), (40, 1, 41, 2))


@pytest.mark.parametrize(("lon", "lat"), [(35.4, 0.5), (36.0, 60.3), (-75.2, -10.9), (10.5, 84.0)])
def test_a_chip_lies_inside_its_cells_in_any_projection(lon, lat):
    """Corners of a rotated square, laid on the ellipsoid by geodesics, against the bounds."""
    from pyproj import Geod

    geod, size = Geod(ellps="WGS84"), 30_000
    west, south, east, north = chip_bounds(np.array([[lon, lat]]), size)[0]
    area = cells_area(degree_cells(np.array([[lon, lat]]), size))
    for azimuth in range(0, 360, 5):
        x, y, _ = geod.fwd(lon, lat, azimuth, size / np.sqrt(2) * 0.999999)
        assert west <= x <= east
        assert south <= y <= north
        assert area.covers(shapely.Point(x, y))
    assert east - west < 1.03 * size * np.sqrt(2) / (111_320 * np.cos(np.radians(lat))) * 1.2


def test_chips_over_the_antimeridian_and_at_the_poles():
    assert degree_cells(np.array([[179.99, 0.5]]), 10_000) == {(179, 0), (-180, 0)}
    assert degree_cells(np.array([[-180.0, 0.5]]), 10_000) == {(179, 0), (-180, 0)}
    assert degree_cells(np.array([[20.0, -89.99]]), 5_000) == {(lon, -90) for lon in range(-180, 180)}


def test_places_off_the_globe_are_counted():
    with pytest.raises(ImageryError, match="2 of 3 places"):
        degree_cells(np.array([[181.0, 0], [0, np.nan], [1, 1]]), 100)


def test_wrapping_keeps_the_area_and_cuts_in_two():
    wrapped = wrap_longitudes(shapely.box(179, -1, 182, 1))
    assert wrapped.equals(shapely.union_all([shapely.box(179, -1, 180, 1), shapely.box(-180, -1, -178, 1)]))
