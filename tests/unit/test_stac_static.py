import datetime as dt
import json

import numpy as np
import pytest
from helpers_stac import box_item, collection_of, misbehaving_server

from eo_cate.errors import ImageryError
from eo_cate.imagery.stac import find_scenes, walk_cells

POINTS = np.array([[10.2, 10.2]])
WHEN = {"start": dt.date(2000, 1, 1), "end": dt.date(2000, 12, 31), "bands": ("red",), "size_m": 1000}


def find(catalog, points=POINTS, **options):
    return find_scenes(str(catalog), "landsat-c2-l2", points, look=walk_cells, **{**WHEN, **options})


def write(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def make_catalog(root, items, *, child="./c/collection.json"):
    links = [{"rel": "item", "href": f"./items/{item['id']}.json"} for item in items]
    licence = {"rel": "license", "href": "https://licence.example.org"}
    write(
        root / "catalog.json",
        {
            "type": "Catalog",
            "id": "root",
            "links": [{"rel": "child", "href": child}, {"rel": "self", "href": "./catalog.json"}],
        },
    )
    back = [{"rel": "child", "href": "./collection.json"}, {"rel": "parent", "href": "../catalog.json"}]
    write(
        root / "c" / "collection.json",
        {"type": "Collection", "id": "landsat-c2-l2", "license": "proprietary", "links": [*links, *back, licence]},
    )
    for item in items:
        write(root / "c" / "items" / f"{item['id']}.json", item)


def with_href(href, item_id="a"):
    item = box_item(item_id, 10, 10)
    item["assets"]["red"]["href"] = href
    return item


def test_a_catalogue_on_disk_with_a_loop_is_walked_once(tmp_path):
    items = [
        with_href("../../pixels/a.tif"),
        box_item("b", 10.4, 10.4),
        {**box_item("c", 10, 10), "collection": "other"},
    ]
    make_catalog(tmp_path, items)
    found = find(tmp_path / "catalog.json")
    assert [s.scene_id for s in found.scenes] == ["a"]
    assert found.scenes[0].assets["red"].href == str(tmp_path / "pixels" / "a.tif")
    assert found.scenes[0].licence == "proprietary (https://licence.example.org)"
    assert len(find(tmp_path / "catalog.json", np.array([[10.45, 10.45]])).scenes) == 2


@pytest.mark.parametrize(
    "href",
    [
        "../../../outside.tif",
        "/etc/passwd",
        "file:///etc/passwd",
        "/vsizip/x.zip/a.tif",
        "http://pixels.example.org/a.tif",
        "../../link.tif",
    ],
)
def test_files_outside_of_the_folder_are_refused(tmp_path, href):
    root = tmp_path / "catalog"
    make_catalog(root, [with_href(href)])
    (tmp_path / "outside.tif").write_bytes(b"II*\0")
    (root / "link.tif").symlink_to(tmp_path / "outside.tif")
    with pytest.raises(ImageryError):
        find(root / "catalog.json")


def test_documents_outside_of_the_folder_are_refused(tmp_path):
    make_catalog(tmp_path / "catalog", [box_item("a", 10, 10)], child="../elsewhere.json")
    write(tmp_path / "elsewhere.json", collection_of([box_item("a", 10, 10)]))
    with pytest.raises(ImageryError, match="outside"):
        find(tmp_path / "catalog" / "catalog.json")


def test_an_item_collection_and_its_filters(tmp_path):
    items = [box_item(f"i{k}", 10, 10, when=f"2000-{k:02d}-05T08:00:00Z", cloud=10 * k) for k in range(1, 10)]
    write(tmp_path / "items.json", collection_of(items))
    found = find(tmp_path / "items.json", max_cloud_cover=50, start=dt.date(2000, 2, 1))
    assert [s.scene_id for s in found.scenes] == ["i2", "i3", "i4", "i5"]
    with pytest.raises(ImageryError, match=r"no item belongs to 'x'; found \['landsat-c2-l2'\]"):
        find_scenes(str(tmp_path / "items.json"), "x", POINTS, look=walk_cells, **WHEN)


def test_a_catalogue_on_the_web_names_no_files_and_relative_links_hang_on_the_item():
    def serve(hrefs):
        return lambda path, count: (
            200,
            {},
            json.dumps(collection_of([with_href(h, f"i{k}") for k, h in enumerate(hrefs)])).encode(),
        )

    with misbehaving_server(serve(["../pixels/a.tif"])) as (address, _):
        found = find(f"{address}/c/items.json")
        assert [s.assets["red"].href for s in found.scenes] == [f"{address}/pixels/a.tif"]
    for href in ("file:///etc/passwd", "/vsicurl/x"):
        with misbehaving_server(serve([href])) as (address, _), pytest.raises(ImageryError):
            find(f"{address}/c/items.json")
    with (
        misbehaving_server(
            lambda path, count: (
                200,
                {},
                json.dumps({"type": "Catalog", "links": [{"rel": "child", "href": "file:///etc/hostname"}]}).encode(),
            )
        ) as (address, _),
        pytest.raises(ImageryError, match="refused"),
    ):
        find(f"{address}/catalog.json")


@pytest.mark.parametrize("text", ["", "[1]", "{", "\x00"])
def test_what_is_no_document_is_named(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ImageryError, match=r"x\.json"):
        find(tmp_path / "x.json")
