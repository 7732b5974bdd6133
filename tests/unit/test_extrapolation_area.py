"""Regions that are refused, and cells of equal area that lie where they should."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
from pyproj import Geod

from eo_cate.errors import ImageryError
from eo_cate.extrapolation import lay_cells, read_region, tile_blocks

SQUARES = [shapely.box(32.0, 2.0, 32.3, 2.2), shapely.box(32.3, 2.0, 32.5, 2.2)]


def table(geometry=SQUARES, names=("a", "b"), crs="EPSG:4326"):
    return gpd.GeoDataFrame({"id": list(names)}, geometry=list(geometry), crs=crs)


@pytest.mark.parametrize(("suffix", "driver"), [("gpkg", "GPKG"), ("shp", "ESRI Shapefile"), ("geojson", "GeoJSON")])
def test_every_format_gives_the_same_polygons(tmp_path, suffix, driver):
    path = tmp_path / f"region.{suffix}"
    table().to_file(path, driver=driver)
    table().to_parquet(tmp_path / "region.parquet")
    for found in (read_region(path), read_region(tmp_path / "region.parquet")):
        assert list(found.index) == ["a", "b"]
        for polygon, square in zip(found.geometry, SQUARES, strict=True):
            assert polygon.normalize().equals_exact(square.normalize(), 1e-9)


BOW_TIE = shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (table(crs=None), "has no CRS"),
        (table([SQUARES[0], BOW_TIE]), "1 of 2 polygons cross themselves.*make_valid"),
        (table(names=("a", "a")), "0 empty and 2 repeated names among 2"),
        (table().rename(columns={"id": "name"}), r"no column 'id'.*\['name'\]"),
        (table([shapely.Point(1, 1), SQUARES[1]]), "1 of 2 rows are not polygons"),
    ],
)
def test_a_bad_region_is_refused_with_its_count_and_fix(tmp_path, content, message):
    path = tmp_path / "region.gpkg"
    if content.crs is None:
        content.to_parquet(path)  # told by its first bytes, not by its name
    else:
        content.to_file(path, driver="GPKG")
    with pytest.raises(ImageryError, match=message):
        read_region(path)


def test_a_file_of_another_kind_is_not_opened(tmp_path):
    path = tmp_path / "region.gpkg"
    path.write_text('<OGRVRTDataSource><OGRVRTLayer name="x"><SrcDataSource>/etc/passwd</SrcDataSource></OGRVRTLayer>')
    with pytest.raises(ImageryError, match="neither GeoPackage"):
        read_region(path)
    with pytest.raises(ImageryError, match="cannot be read"):
        read_region(tmp_path / "absent.gpkg")


def test_cells_have_equal_area_on_the_ellipsoid_far_from_the_centre():
    """Over 60 degrees, where a UTM zone is long left: each cell's geodesic area is resolution^2 within a millionth
    (its sides are straight on the map, not on the ground: at 10 km that is what is left)."""
    region = gpd.GeoDataFrame(index=["wide"], geometry=[shapely.box(-20, -30, 40, 30)], crs="EPSG:4326")
    found = lay_cells(region, resolution_m=100_000)
    a, _, c, _, e, f = found.grid.transform
    from pyproj import Transformer

    back = Transformer.from_crs(found.grid.crs, "EPSG:4326", always_xy=True)
    for row, col in found.cells[["row", "col"]].iloc[[0, len(found.cells) // 2, -1]].to_numpy():
        x, y = c + a * col, f + e * row
        ring = shapely.segmentize(shapely.box(x - 5e3, y - 5e3, x + 5e3, y + 5e3), 500)
        lon, lat = back.transform(*np.asarray(ring.exterior.coords).T)
        area = abs(Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0])
        assert area == pytest.approx(1e8, rel=1e-6)


def test_cells_are_in_their_polygon_and_each_once():
    region = table().set_index("id")
    found = lay_cells(region, resolution_m=1_000)
    points = gpd.points_from_xy(found.cells["longitude"], found.cells["latitude"])
    for name, square in zip("ab", SQUARES, strict=True):
        own = (found.cells["region"] == name).to_numpy()
        assert own.sum() == pytest.approx(
            gpd.GeoSeries([square], crs=4326).to_crs(found.grid.crs).area[0] / 1e6, rel=0.03
        )
        assert shapely.dwithin(points[own], square, 1e-3).all()  # sides are straight on the map
    assert not found.cells.duplicated(["row", "col"]).any()
    assert found.cells[["row", "col"]].apply(tuple, axis=1).is_monotonic_increasing


def test_too_many_cells_are_refused_before_they_are_made():
    with pytest.raises(ImageryError, match=r"cells of 0.5 m.*max_cells \(1,000\).*m on it fits"):
        lay_cells(table().set_index("id"), resolution_m=0.5, max_cells=1_000)
    with pytest.raises(ImageryError, match="no cell of"):
        lay_cells(
            gpd.GeoDataFrame(index=["a"], geometry=[shapely.box(0, 0, 1e-5, 1e-5)], crs=4326).set_geometry(
                [shapely.Polygon([(0, 0), (1e-5, 0), (0, 1e-6)])]
            ),
            resolution_m=50_000,
        )


def test_blocks_are_spatial():
    cells = lay_cells(table().set_index("id"), resolution_m=1_000).cells
    blocks = tile_blocks(cells)
    assert 5 <= len(np.unique(blocks)) <= 36
    for block in np.unique(blocks):
        own = cells[blocks == block]
        assert np.ptp(own["row"]) <= 10
        assert np.ptp(own["col"]) <= 10
