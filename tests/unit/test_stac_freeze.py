import dataclasses
import datetime as dt
import json

import numpy as np
import pytest
from helpers_stac import box_item, collection_of, planetary_landsat

from eo_cate.config import ImageryConfig
from eo_cate.errors import ImageryError
from eo_cate.imagery.stac import (
    FoundScenes,
    SearchPeriod,
    SearchRequest,
    StaleFreeze,
    collect_scenes,
    degree_cells,
    freeze_scenes,
    make_request,
    read_etags,
    read_frozen,
    record_etags,
    refuse_late,
)
from eo_cate.imagery.stac.items import read_item

BASE = "https://api.example.org/collections/c/items/i"
START = dt.date(2005, 1, 1)


def scene_of(item):
    return read_item(item, ["red", "nir"], base=BASE).scene


@pytest.fixture
def request_():
    return SearchRequest(
        source="stac",
        address="planetary_computer",
        collection="landsat-c2-l2",
        bands=("red", "nir"),
        periods=(SearchPeriod("before", dt.date(2000, 1, 1), dt.date(2001, 12, 31)),),
        cells=frozenset({(33, 0), (34, 0)}),
        platforms=("landsat-7",),
        max_cloud_cover=60.0,
    )


@pytest.fixture
def found():
    scenes = (scene_of(planetary_landsat()), scene_of(box_item("over", 179.8, -1, cloud=None)))
    return {"before": FoundScenes(scenes, ("2 items left out: clouds",))}


def test_what_is_frozen_is_read_again_bit_by_bit(tmp_path, found, request_):
    path = tmp_path / "made" / "scenes.json"
    freeze_scenes(path, found, request_)
    frozen = read_frozen(path, request_)
    assert frozen.scenes == {"before": found["before"].scenes}
    for a, b in zip(frozen.scenes["before"], found["before"].scenes, strict=True):
        assert a.footprint.equals_exact(b.footprint, 0)
        assert a.acquired.tzinfo is not None
    assert frozen.notes == {"before": ("2 items left out: clouds",)}
    assert "sig=" not in path.read_text()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"collection": "sentinel-2-l2a"}, "other collection"),
        ({"bands": ("red",)}, "other bands"),
        ({"platforms": ()}, "other platforms"),
        ({"max_cloud_cover": None}, "other max_cloud_cover"),
        ({"address": "earth_search", "source": "stac_catalog"}, "other address, source"),
        ({"periods": (SearchPeriod("before", dt.date(2000, 1, 1), dt.date(2002, 1, 1)),)}, "other periods"),
        ({"cells": frozenset({(33, 0), (35, 0), (35, 1)})}, "2 degree cells that were not searched"),
    ],
)
def test_another_request_is_searched_anew_and_says_why(tmp_path, found, request_, change, reason):
    freeze_scenes(tmp_path / "s.json", found, request_)
    answer = read_frozen(tmp_path / "s.json", dataclasses.replace(request_, **change))
    assert isinstance(answer, StaleFreeze)
    assert reason in answer.reason


def test_fewer_cells_need_no_search_and_no_file_is_not_an_error(tmp_path, found, request_):
    freeze_scenes(tmp_path / "s.json", found, request_)
    fewer = dataclasses.replace(request_, cells=frozenset({(34, 0)}))
    assert len(read_frozen(tmp_path / "s.json", fewer).scenes["before"]) == 2
    assert isinstance(read_frozen(tmp_path / "absent.json", request_), StaleFreeze)


@pytest.mark.parametrize("attack", ["href", "date", "truncate", "no_digest", "list"])
def test_a_changed_manifest_is_refused(tmp_path, found, request_, attack):
    path = tmp_path / "s.json"
    freeze_scenes(path, found, request_)
    text = path.read_text()
    content = json.loads(text)
    if attack == "no_digest":
        del content["sha256"]
    changed = {
        "href": text.replace("SR_red", "SR_blue"),
        "date": text.replace("2001-01-15", "2001-01-16"),
        "truncate": text[:-20],
        "no_digest": json.dumps(content),
        "list": "[]",
    }[attack]
    assert changed != text
    path.write_text(changed)
    with pytest.raises(ImageryError, match="--refresh"):
        read_frozen(path, request_)


def test_etags_are_noted_once_and_changes_are_told(tmp_path, found, request_):
    path = tmp_path / "s.json"
    freeze_scenes(path, found, request_)
    red, mask = found["before"].scenes[0].assets["red"].href, found["before"].scenes[0].mask.href
    assert record_etags(path, {red: '"1"', mask: ""}) == ()
    assert record_etags(path, {red: '"2"', mask: '"m"'}) == (red,)
    assert read_frozen(path, request_).etags == {red: '"1"', mask: '"m"'}
    assert record_etags(path, {red: '"2"', mask: ""}, renew=True) == (red,)
    assert read_etags(path) == {red: '"2"', mask: '"m"'}
    with pytest.raises(ImageryError, match="1 of 1 links"):
        record_etags(path, {"https://h/x.tif": '"1"'})


def test_late_scenes_are_refused_with_their_count_and_date():
    scenes = [scene_of(box_item(str(day), 10, 10, when=f"2000-01-{day:02d}T23:59:59Z")) for day in (1, 9, 10, 12)]
    refuse_late(scenes[:2], dt.date(2000, 1, 10))
    with pytest.raises(ImageryError, match=r"2 of 4 scenes.*2000-01-10.*latest on 2000-01-12"):
        refuse_late(scenes, dt.date(2000, 1, 10))


@pytest.fixture
def catalog(tmp_path):
    items = [box_item(f"i{k}", 30 + 0.4 * k, 1.2, when=f"2000-01-{k + 1:02d}T08:00:00Z") for k in range(10)]
    items.append(box_item("late", 30, 1.2, when="2006-01-01T00:00:00Z"))
    (tmp_path / "items.json").write_text(json.dumps(collection_of(items)))
    return tmp_path


def config(**changes):
    base = {
        "source": "stac_catalog",
        "catalog": "items.json",
        "collection": "landsat-c2-l2",
        "bands": ("red", "nir"),
        "periods": ({"name": "before", "start": dt.date(2000, 1, 1), "end": dt.date(2000, 12, 31)},),
    }
    return ImageryConfig(**{**base, **changes})


def collect(folder, points, *, refresh=False, **changes):
    request = make_request(config(**changes), points, size_m=3000, data_dir=folder)
    return collect_scenes(folder / "frozen.json", request, points, size_m=3000, treatment_start=START, refresh=refresh)


def test_a_site_in_the_same_cells_needs_no_search(catalog):
    first = collect(catalog, np.array([[30.1, 1.4]]))
    assert [s.scene_id for s in first.scenes["before"]] == ["i0"]
    assert first.searched
    (catalog / "items.json").unlink()
    second = collect(catalog, np.array([[30.1, 1.4], [30.85, 1.3]]))
    assert not second.searched
    assert [s.scene_id for s in second.scenes["before"]] == ["i0", "i1", "i2"]
    with pytest.raises(ImageryError, match="cannot be read"):
        collect(catalog, np.array([[30.1, 1.4], [31.5, 1.3]]))
    with pytest.raises(ImageryError, match="cannot be read"):
        collect(catalog, np.array([[30.1, 1.4]]), refresh=True)


def test_a_new_search_does_not_forget_which_files_were_read(catalog):
    """Asked for, and because a site lies elsewhere; a link that the second search does not find may come back."""
    path = catalog / "frozen.json"
    first = collect(catalog, np.array([[30.1, 1.4]]))
    links = [asset.href for asset in first.scenes["before"][0].assets.values()]
    noted = {href: f'"{k}"' for k, href in enumerate(links)}
    record_etags(path, noted)
    for options in (
        {"refresh": True},
        {"bands": ("red",)},
        {"periods": ({"name": "b", "start": "2000-01-02", "end": "2000-12-31"},)},
    ):
        point = np.array([[30.5 if "periods" in options else 30.1, 1.4]])
        again = collect(catalog, point, **options)
        assert again.searched
        assert again.etags == read_etags(path) == noted


def test_a_damaged_manifest_is_searched_anew_and_says_what_was_lost(catalog):
    collect(catalog, np.array([[30.1, 1.4]]))
    (catalog / "frozen.json").write_text("{")
    again = collect(catalog, np.array([[30.1, 1.4]]), refresh=True)
    assert again.searched == (
        "asked to search anew; which versions of the files the stored pixels are of is no longer known"
    )
    assert again.etags == {}


def test_the_guard_holds_for_found_and_for_frozen_scenes(catalog):
    period = {"name": "p", "start": dt.date(2000, 1, 1), "end": dt.date(2006, 12, 31)}
    for _ in range(2):
        with pytest.raises(ImageryError, match="1 of 4 scenes"):
            collect(catalog, np.array([[30.1, 1.4]]), periods=(period,))
    allowed = {**period, "post_treatment_for_description_only": True}
    assert len(collect(catalog, np.array([[30.1, 1.4]]), periods=(allowed,)).scenes["p"]) == 2


def test_no_scene_above_the_sites_is_an_error_that_names_the_period(catalog):
    with pytest.raises(ImageryError, match=r"periods \['before'\].*another platform"):
        collect(catalog, np.array([[30.1, 1.4]]), platforms=("landsat-5",))
    assert degree_cells(np.array([[30.1, 1.4]]), 3000) == {(30, 1)}
