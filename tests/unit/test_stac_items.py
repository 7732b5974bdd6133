import datetime as dt

import pytest
from helpers_stac import COG, box_item, earth_search_sentinel, planetary_landsat, planetary_sentinel

from eo_cate.errors import ImageryError
from eo_cate.imagery.scenes import Asset
from eo_cate.imagery.stac.items import ReadItem, read_item
from eo_cate.imagery.stac.presets import APIS, COLLECTIONS, find_api
from eo_cate.imagery.stac.select import Wanted, refuse_late, select_items

BASE = "https://api.example.org/v1/collections/c/items/i"


def read(item, *bands, base=BASE):
    found = read_item(item, bands, base=base)
    assert isinstance(found, ReadItem), found
    return found


def test_landsat_of_the_planetary_computer():
    found = read(planetary_landsat(), "red", "nir", "lwir")
    scene = found.scene
    assert scene.assets["red"] == Asset(scene.assets["red"].href, 2.75e-5, -0.2, 0.0)
    assert scene.assets["nir"].href.endswith("X_SR_nir08.TIF")
    assert (scene.assets["lwir"].scale, scene.assets["lwir"].offset) == (0.00341802, 149.0)
    assert scene.mask == Asset(scene.mask.href, nodata=1.0)
    assert scene.mask.href.endswith("QA_PIXEL.TIF"), "the signature is not frozen"
    assert (scene.mask_kind, scene.crs, scene.platform, scene.cloud_cover) == (
        "landsat_qa",
        "EPSG:32636",
        "landsat-7",
        12,
    )
    assert scene.acquired == dt.datetime(2001, 1, 15, 7, 50, 12, 123456, tzinfo=dt.UTC)
    assert (found.tile, found.remarks) == ("WRS2-172-059", ())
    assert set(APIS["planetary_computer"].hosts) >= {scene.assets["red"].href.split("/")[2]}
    assert find_api("https://planetarycomputer.microsoft.com/api/stac/v1/").signing == "planetary_computer"


@pytest.mark.parametrize(("applied", "offset"), [(True, 0.0), (False, -0.1)])
def test_sentinel_of_earth_search(applied, offset):
    scene = read(earth_search_sentinel(boa_offset_applied=applied), "red", "nir", "B11").scene
    assert scene.assets["red"].href.endswith("/B04.tif"), "never the JPEG 2000 of the bucket whose readers pay"
    assert scene.assets["B11"].href.endswith("/B11.tif")
    assert {a.offset for a in scene.assets.values()} == {offset}
    assert {a.scale for a in scene.assets.values()} == {1e-4}
    assert (scene.mask_kind, scene.mask.offset, scene.mask.nodata) == ("sentinel2_scl", 0, 0)
    assert scene.assets["red"].href.split("/")[2] in find_api("earth_search").hosts
    assert find_api("earth_search").signing is None


@pytest.mark.parametrize(
    ("baseline", "offset"), [("02.14", 0.0), ("03.01", 0.0), ("04.00", -0.1), ("05.09", -0.1), ("05.11", -0.1)]
)
def test_sentinel_of_the_planetary_computer(baseline, offset):
    scene = read(planetary_sentinel(baseline), "red", "nir", "nir08", "rededge1").scene
    assert [a.href.split("/")[-1][:3] for a in scene.assets.values()] == ["B04", "B08", "B8A", "B05"]
    assert {(a.scale, a.offset, a.nodata) for a in scene.assets.values()} == {(1e-4, offset, 0.0)}
    assert scene.mask.href.endswith("SCL_20m.tif")


def test_without_a_baseline_the_date_decides_and_it_is_said():
    item = planetary_sentinel(None)
    found = read(item, "red")
    assert found.scene.assets["red"].offset == -0.1
    assert "told by the date" in found.remarks[0]


def test_a_name_of_several_files_is_an_error():
    with pytest.raises(ImageryError, match=r"\['B05', 'B06', 'B8A'\]"):
        read_item(planetary_sentinel(), ["rededge"], base=BASE)


def test_any_other_collection_and_stac_1_1():
    item = box_item("x", 10, 10, collection="mine")
    item["assets"] = {
        "a": {
            "href": "a.tif",
            "bands": [{"name": "b1", "eo:common_name": "red", "raster:scale": 0.01, "raster:offset": 2, "nodata": -9}],
        },
        "stack": {"href": "s.tif", "bands": [{"eo:common_name": "red"}, {"eo:common_name": "green"}]},
        "plain": {"href": "../p.tif"},
    }
    found = read(item, "red", "plain", base="https://h.example.org/c/i/item.json")
    assert found.scene.assets["red"] == Asset("https://h.example.org/c/i/a.tif", 0.01, 2.0, -9.0)
    assert found.scene.assets["plain"] == Asset("https://h.example.org/c/p.tif")
    assert found.scene.mask is None
    assert "clouds are not masked" in found.remarks[0]


@pytest.mark.parametrize(
    "href",
    [
        "file:///etc/passwd",
        "/vsicurl/https://h/x.tif",
        "https://h.example.org/a/vsizip/x.tif",
        "s3://usgs-landsat/x.TIF",
        "http://h.example.org/x.tif",
        "http://127.0.0.1/x.tif",
        "https://169.254.169.254/latest",
        "https://10.0.0.1/x.tif",
        "C:\\x.tif",
        "gs://b/x.tif",
    ],
)
def test_links_that_are_refused(href):
    item = box_item("x", 10, 10)
    item["assets"]["red"]["href"] = href
    with pytest.raises(ImageryError):
        read_item(item, ["red"], base=BASE)


@pytest.mark.parametrize(
    "change",
    [
        {"geometry": None, "bbox": None},
        {"geometry": {"type": "Point"}},
        {"properties": {}},
        {"properties": {"datetime": "soon"}},
    ],
)
def test_items_of_no_use_say_why(change):
    assert isinstance(read_item({**box_item("x", 10, 10), **change}, ["red"], base=BASE), str)


def test_a_span_of_time_counts_as_its_last_moment():
    item = box_item(
        "x", 10, 10, when=None, start_datetime="2000-01-01T00:00:00Z", end_datetime="2000-12-31T00:00:00+03:00"
    )
    found = read(item, "red")
    assert (found.first, found.scene.acquired) == (
        dt.datetime(2000, 1, 1, tzinfo=dt.UTC),
        dt.datetime(2000, 12, 30, 21, tzinfo=dt.UTC),
    )


def test_a_footprint_over_the_antimeridian_has_two_parts():
    parts = read(box_item("x", 179.8, -1), "red").scene.footprint
    assert parts.geom_type == "MultiPolygon"
    assert parts.area == pytest.approx(0.25, abs=1e-9)
    item = {**box_item("x", 179.8, -1), "geometry": None}
    assert read(item, "red").scene.footprint.symmetric_difference(parts).area < 1e-9


def select(items, **wanted):
    dates = {"start": dt.date(2000, 1, 1), "end": dt.date(2030, 1, 1)}
    return select_items([(item, BASE) for item in items], Wanted(("red",), **{**dates, **wanted}))


def test_the_newest_processing_of_an_acquisition_is_kept():
    old, new = (planetary_sentinel(b) for b in ("02.14", "05.00"))
    old["id"], new["id"] = "zzz_older", "aaa_newer"
    new["properties"]["datetime"] = "2023-01-05T08:04:20.024000Z"
    found = select([new, old, new])
    assert [s.scene_id for s in found.scenes] == ["aaa_newer"]
    assert found.notes == ("1 items left out: older processing of the same acquisition",)


def test_parts_of_a_tile_and_neighbours_are_all_kept():
    """Same moment and tile, other ground; same ground, other day; the next row 24 s later."""
    a, b = box_item("a", 10, 10), box_item("b", 10.4, 10)
    c, d = box_item("c", 10, 10, when="2000-01-21T08:00:00Z"), box_item("d", 10, 10.1, when="2000-01-05T08:00:24Z")
    assert len(select([a, b, c, d]).scenes) == 4


def test_real_time_landsat_gives_way():
    first = box_item("x_RT", 10, 10, created="2030-01-01T00:00:00Z")
    assert [s.scene_id for s in select([first, box_item("x_T1", 10, 10, created="2000-02-01T00:00:00Z")]).scenes] == [
        "x_T1"
    ]


def test_dates_platforms_and_clouds_are_checked_here():
    items = [
        box_item("first", 10, 10, when="2000-01-01T00:00:00Z"),
        box_item("last", 11, 10, when="2000-01-31T23:59:59.9Z"),
        box_item("after", 12, 10, when="2000-02-01T00:00:00Z"),
        box_item("cloudy", 13, 10, cloud=60.1),
        box_item("unstated", 14, 10, cloud=None),
        box_item("other", 15, 10, platform="landsat-5"),
    ]
    found = select(
        items, start=dt.date(2000, 1, 1), end=dt.date(2000, 1, 31), platforms=("LANDSAT_7",), max_cloud_cover=60
    )
    assert {s.scene_id for s in found.scenes} == {"first", "last", "unstated"}
    assert found.notes == (
        "1 items left out: more than 60 % cloud",
        "1 items left out: of another platform (landsat-5)",
        "1 items left out: outside of the dates",
        "1 scenes kept though they do not state their cloud cover",
    )


def test_nothing_usable_is_an_error_that_says_what_there_is():
    with pytest.raises(ImageryError, match=r"none of the 2 items.*no band mauve.*nir08"):
        select_items(
            [(box_item(i, 10, 10), BASE) for i in "ab"], Wanted(("mauve",), dt.date(2000, 1, 1), dt.date(2001, 1, 1))
        )


def test_every_preset_knows_its_bands_by_any_name():
    assert (
        COLLECTIONS["sentinel-2-l2a"].names_of("red") == COLLECTIONS["sentinel-2-l2a"].names_of("B04") == {"red", "B04"}
    )
    assert COLLECTIONS["landsat-c2-l2"].names_of("swir16") == {"swir16"}


# assets of several bands


def annual_item(**properties):
    """An item of annual embeddings as a catalogue writes it: a span, 4 bands in one file, a scale in another."""
    span = {"datetime": None, "start_datetime": "2018-01-01T00:00:00Z", "end_datetime": "2018-12-31T23:59:59Z"}
    item = box_item("tile-1", 33.0, 0.5, collection="annual")
    listed = [{"name": f"A{k:02d}", "nodata": -128, "data_type": "int8"} for k in range(4)]
    listed[2]["eo:common_name"] = "nir"
    files = {"embedding": {"bands": listed}, "scale": {"bands": [{"name": "scale", "nodata": "nan"}]}, "bare": {}}
    assets = {
        key: {"href": f"https://pixels.example.org/{key}.tif", "type": COG, **rest} for key, rest in files.items()
    }
    return {**item, "properties": {**span, **properties}, "assets": assets}


def test_bands_of_an_asset_by_name_common_name_and_number():
    found = read(annual_item(), "embedding:A00", "embedding:A03", "embedding:nir", "embedding:2", "bare:7", "scale")
    href = "https://pixels.example.org/{}.tif"
    assert found.scene.assets == {
        "embedding:A00": Asset(href.format("embedding"), nodata=-128.0, band=1, count=4),
        "embedding:A03": Asset(href.format("embedding"), nodata=-128.0, band=4, count=4),
        "embedding:nir": Asset(href.format("embedding"), nodata=-128.0, band=3, count=4),
        "embedding:2": Asset(href.format("embedding"), nodata=-128.0, band=2, count=4),
        "bare:7": Asset(href.format("bare"), band=7, count=0),
        "scale": Asset(href.format("scale"), nodata=pytest.approx(float("nan"), nan_ok=True)),
    }
    assert not [remark for remark in found.remarks if "span" in remark]


def test_eo_bands_and_raster_bands_side_by_side_tell_a_bands_scale():
    item = annual_item()
    item["assets"]["image"] = {
        "href": "https://pixels.example.org/image.tif",
        "eo:bands": [{"name": "Red", "common_name": "red"}, {"name": "NIR", "common_name": "nir"}],
        "raster:bands": [{"scale": 0.01, "nodata": 0}, {"scale": 0.02, "offset": -1.0}],
    }
    assets = read(item, "image:red", "image:NIR").scene.assets
    assert assets["image:red"] == Asset("https://pixels.example.org/image.tif", 0.01, 0.0, 0.0, band=1, count=2)
    assert assets["image:NIR"] == Asset("https://pixels.example.org/image.tif", 0.02, -1.0, None, band=2, count=2)


@pytest.mark.parametrize(
    ("bands", "absent"),
    [
        (("embedding:A04",), "no band embedding:A04"),
        (("embedding:5",), "no band embedding:5"),
        (("embedding:0",), "no band embedding:0"),
        (("bare:513",), "no band bare:513"),
        (("other:A00", "scale"), "no band other:A00"),
        ([f"x:{k}" for k in range(64)], "no band x:0, x:1, x:2, x:3, x:4, x:5, x:6, x:7 and 56 more"),
    ],
)
def test_bands_that_an_asset_lacks_are_told_with_what_it_has(bands, absent):
    assert (
        read_item(annual_item(), bands, base=BASE)
        == f"{absent} among the assets ['bare', 'embedding (4 bands)', 'scale']"
    )


def test_a_band_name_of_two_bands_is_an_error():
    item = annual_item()
    item["assets"]["embedding"]["bands"][1]["name"] = "A00"
    with pytest.raises(ImageryError, match="'embedding:A00' means several bands; write their numbers"):
        read_item(item, ["embedding:A00"], base=BASE)


@pytest.mark.parametrize(
    ("properties", "last"),
    [
        ({}, "2018-12-31T23:59:59"),
        ({"datetime": "2018-01-01T00:00:00Z"}, "2018-12-31T23:59:59"),  # the span counts, not the moment
        ({"end_datetime": "2019-01-01T00:00:00Z"}, "2018-12-31T23:59:59.999999"),
        ({"start_datetime": "2018-01-01T06:00:00Z", "end_datetime": "2019-01-01T00:00:00Z"}, "2019-01-01T00:00:00"),
        ({"end_datetime": "2018-12-31T00:00:00Z"}, "2018-12-31T00:00:00"),
        ({"start_datetime": None, "datetime": "2018-06-01T00:00:00Z"}, "2018-12-31T23:59:59"),
    ],
)
def test_an_annual_product_counts_as_the_end_of_its_span(properties, last):
    found = read(annual_item(**properties), "embedding:A00")
    assert found.scene.acquired == dt.datetime.fromisoformat(last).replace(tzinfo=dt.UTC)
    with pytest.raises(ImageryError, match=r"trial\.treatment_start"):
        refuse_late([found.scene], found.scene.acquired.date())
    refuse_late([found.scene], found.scene.acquired.date() + dt.timedelta(1))


def test_bands_of_a_file_without_a_span_are_remarked():
    moment = {"datetime": "2018-01-01T00:00:00Z", "start_datetime": None, "end_datetime": None}
    found = read(annual_item(**moment), "embedding:A00")
    assert [remark for remark in found.remarks if "a product of a year holds that year to its end" in remark]
    assert not [remark for remark in read(annual_item(**moment), "scale").remarks if "span" in remark]
