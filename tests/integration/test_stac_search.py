"""Searches through a real STAC API (rustac) over HTTP."""

import contextlib
import datetime as dt
import json
import socket

import numpy as np
import pytest
import shapely
from helpers_remote import QUICK
from helpers_stac import box_item, collection_of, misbehaving_server
from pystac_client.exceptions import APIError

from eo_cate.errors import ImageryError
from eo_cate.imagery.remote import HostPolicy, RetryPolicy
from eo_cate.imagery.stac import find_scenes, session
from eo_cate.imagery.stac.areas import chip_bounds
from eo_cate.imagery.stac.session import open_session
from eo_cate.simulation.stac_server import serve_items

POINTS = np.array([[35.123456, 1.654321], [36.987654, 1.111222], [179.999, -16.5]])
SIZE = 7680


def random_items(seed=0, count=300):
    """Boxes around the sites and off them; half of the moments inside the year 2000; each third acquisition twice."""
    rng = np.random.default_rng(seed)
    items = []
    for k in range(count):
        lon, lat = POINTS[rng.integers(3)] + rng.uniform(-0.9, 0.3, 2)
        lon = (lon + 180) % 360 - 180
        when = dt.datetime(1999, 7, 1, 8) + dt.timedelta(days=int(rng.integers(0, 730)))
        fields = {
            "size": 0.6,
            "when": f"{when.isoformat()}Z",
            "cloud": float(rng.integers(0, 100)),
            "platform": str(rng.choice(["landsat-5", "landsat-7"])),
        }
        fields |= {"landsat:wrs_path": str(k), "landsat:wrs_row": "001"}
        items.append(box_item(f"item{k:03d}", lon, lat, created="2010-01-01T00:00:00Z", **fields))
        if k % 3 == 0:
            items.append(box_item(f"new{k:03d}", lon, lat, created="2020-01-01T00:00:00Z", **fields))
    for name, west in (("west", 179.395), ("east", -179.995), ("over", 179.7)):
        items.append(box_item(name, west, -16.8, size=0.6, **{"landsat:wrs_path": name, "landsat:wrs_row": "002"}))
    return items


def expected(items, *, start, end, limit, platform):
    """By hand: one site after the other, every longitude turned to the site's side of the globe."""
    ids = set()
    for item in items:
        p = item["properties"]
        inside = start <= dt.date.fromisoformat(p["datetime"][:10]) <= end
        if not inside or p["eo:cloud_cover"] > limit or p["platform"] != platform:
            continue
        if item["id"].startswith("item") and int(item["id"][4:]) % 3 == 0:
            continue
        west, south, east, north = item["bbox"]
        box = shapely.box(west, south, east + 360 if east < west else east, north)
        chips = [shapely.box(b[0] + t, b[1], b[2] + t, b[3]) for b in chip_bounds(POINTS, SIZE) for t in (-360, 0, 360)]
        if any(box.intersects(chip) for chip in chips):
            ids.add(item["id"])
    return ids


@pytest.fixture(scope="module")
def items():
    return random_items()


@pytest.fixture(scope="module")
def api(items):
    with serve_items(collection_of(items)) as address:
        yield address


def search(api, points=POINTS, **options):
    asked = {"size_m": SIZE, "start": dt.date(2000, 1, 1), "end": dt.date(2000, 12, 31), "bands": ("red", "nir")}
    return find_scenes(api, "landsat-c2-l2", points, **{**asked, **options})


@pytest.mark.parametrize("page_size", [3, 500])
def test_finds_what_a_search_by_hand_finds(api, items, page_size):
    found = search(api, page_size=page_size, platforms=("landsat-7",), max_cloud_cover=70)
    want = expected(items, start=dt.date(2000, 1, 1), end=dt.date(2000, 12, 31), limit=70, platform="landsat-7")
    assert len(want) > 8
    assert {s.scene_id for s in found.scenes} == want
    assert len(found.scenes) == len(want)
    assert any("older processing" in note for note in found.notes)
    assert [s.acquired for s in found.scenes] == sorted(s.acquired for s in found.scenes)


def test_both_sides_of_the_antimeridian_are_found(api):
    found = {s.scene_id: s.footprint for s in search(api, POINTS[2:]).scenes}
    assert {"west", "east", "over"} <= set(found)
    assert [found[name].geom_type for name in ("west", "east", "over")] == ["Polygon", "Polygon", "MultiPolygon"]


def test_no_request_carries_the_place_of_a_site(api):
    io = open_session(api)
    sent, send = [], io.session.send

    def record(request, **kwargs):
        body = request.body.decode() if isinstance(request.body, bytes) else request.body or ""
        sent.append((request.url, body, dict(request.headers)))
        return send(request, **kwargs)

    io.session.send = record
    search(api, stac_io=io, page_size=5)
    boxes = [json.loads(body)["bbox"] for url, body, _ in sent if url.endswith("/search") and body]
    assert len(boxes) > 4, "several pages"
    assert all(float(v).is_integer() for box in boxes for v in box)
    assert {tuple(box) for box in boxes} == {(35, 1, 38, 2), (179, -17, 180, -16), (-180, -17, -179, -16)}
    everything = json.dumps(sent)
    for number in POINTS.ravel():
        assert f"{abs(number):.2f}" not in everything


def test_an_absent_collection_names_those_there_are(api):
    with pytest.raises(ImageryError, match=r"no collection 'landsat'; it has \['landsat-c2-l2'\]"):
        find_scenes(
            api, "landsat", POINTS, size_m=SIZE, start=dt.date(2000, 1, 1), end=dt.date(2000, 2, 1), bands=("red",)
        )


def test_refused_links_stop_the_search():
    item = box_item("a", 35, 1.5)
    item["assets"]["red"]["href"] = "file:///etc/passwd"
    with serve_items(collection_of([item])) as api, pytest.raises(ImageryError, match=r"passwd|'file'"):
        search(api)


def landing(address, links=()):
    conforms = [
        "https://api.stacspec.org/v1.0.0/core",
        "https://api.stacspec.org/v1.0.0/item-search",
        "https://api.stacspec.org/v1.0.0/collections",
    ]
    own = [
        {"rel": "self", "href": address},
        {"rel": "search", "href": f"{address}/search", "method": "POST", "type": "application/geo+json"},
        {"rel": "data", "href": f"{address}/collections"},
    ]
    return {
        "type": "Catalog",
        "id": "x",
        "stac_version": "1.0.0",
        "description": "d",
        "conformsTo": conforms,
        "links": [*own, *links],
    }


def collection():
    extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
    return {
        "type": "Collection",
        "id": "landsat-c2-l2",
        "stac_version": "1.0.0",
        "description": "d",
        "license": "PDDL-1.0",
        "extent": extent,
        "links": [],
    }


def serve_api(fail, page):
    """An API on loopback: every path fails first as ``fail`` says, once, and then answers."""
    failed = set()

    def answer(path, count):
        address = state["address"]
        if path not in failed and fail is not None:
            failed.add(path)
            return fail
        body = (
            collection()
            if path.startswith("/collections")
            else page(address)
            if path.startswith("/search")
            else landing(address)
        )
        return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()

    state = {}
    return answer, state


@pytest.mark.parametrize("fail", [(503, {}, b""), (500, {}, b"x"), (504, {}, b""), (429, {"Retry-After": "0"}, b"")])
def test_passing_failures_are_tried_again(fail):
    answer, state = serve_api(fail, lambda address: collection_of([box_item("a", 35, 1.5)]))
    with misbehaving_server(answer) as (address, asked):
        state["address"] = address
        found = search(address, POINTS[:1])
        assert [s.scene_id for s in found.scenes] == ["a"]
        assert found.scenes[0].licence == "PDDL-1.0"
        assert all(asked.count(path) == 2 for path in set(asked) if path.startswith("/search"))


@pytest.mark.parametrize("header", ["3600", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_an_hour_of_retry_after_is_capped_and_said(monkeypatch, header):
    waits = []
    monkeypatch.setattr(session.time, "sleep", waits.append)
    said = r"status 429, in 6 attempts; the server asks to wait [\d,]+ s"
    with (
        misbehaving_server(lambda path, count: (429, {"Retry-After": header}, b"")) as (address, asked),
        pytest.raises(ImageryError, match=said),
    ):
        search(address)
    policy = RetryPolicy()
    assert len(asked) == policy.attempts == len(waits) + 1
    assert all(policy.retry_after_cap_s <= wait <= policy.retry_after_cap_s + policy.cap_s for wait in waits)


def test_a_lost_connection_and_a_failure_behind_a_redirect_are_repeated_as_often_as_any(monkeypatch):
    waits = []
    monkeypatch.setattr(session.time, "sleep", waits.append)

    def answer(path, count):
        return (302, {"Location": "/there"}, b"") if path == "/" else (503, {}, b"")

    with misbehaving_server(answer) as (address, asked):
        with pytest.raises(APIError, match=r"there at 127\.0\.0\.1: status 503, in 6 attempts"):
            open_session(address).read_text(f"{address}/")
        assert (asked.count("/"), asked.count("/there")) == (1, 6)
        assert len(waits) == 5
    waits.clear()
    with pytest.raises(ImageryError, match=r"the connection failed \(ConnectionError\), in 6 attempts"):
        search(address)  # nobody listens there now
    assert len(waits) == 5


class Listener:
    """Counts the connections to a port of this machine."""

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.settimeout(0.2)
        self.port = self.socket.getsockname()[1]
        return self

    def connections(self):
        count = 0
        with contextlib.suppress(TimeoutError):
            while True:
                self.socket.accept()[0].close()
                count += 1
        return count

    def __exit__(self, *error):
        self.socket.close()


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["93.184.215.14", "127.0.0.1"], ["::ffff:10.0.0.1"]])
def test_an_api_whose_name_resolves_to_this_machine_or_a_private_one_is_never_connected_to(monkeypatch, addresses):
    def resolve(host, port, *args, **kwargs):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    with Listener() as listener:
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        with pytest.raises(ImageryError, match=r"host api\.example\.org .* private or local network"):
            search(f"https://api.example.org:{listener.port}")
        assert listener.connections() == 0


def test_a_name_that_is_public_when_it_is_checked_and_private_when_it_is_connected_to(monkeypatch):
    """DNS rebinding: the first answer of the name's server is public, all later ones are this machine."""
    asked, resolve, create = [], socket.getaddrinfo, session.create_connection

    def rebind(host, port, *args, **kwargs):
        if host != "rebinding.example.org":
            return resolve(host, port, *args, **kwargs)
        asked.append(host)
        address = "93.184.215.14" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0))]

    def connect(address, **options):
        if address[0] != "127.0.0.1":
            raise ConnectionRefusedError
        return create(address, **options)

    with Listener() as listener:
        link = {"rel": "next", "href": f"https://rebinding.example.org:{listener.port}/search?page=2"}
        answer, state = serve_api(None, lambda _: {**collection_of([box_item("a", 35, 1.5)]), "links": [link]})
        with misbehaving_server(answer) as (address, _):
            state["address"] = address
            monkeypatch.setattr(socket, "getaddrinfo", rebind)
            monkeypatch.setattr(session, "create_connection", connect)
            with pytest.raises(ImageryError, match=r"rebinding\.example\.org .* private or local network"):
                search(address, stac_io=open_session(address, retry=QUICK))
        assert listener.connections() == 0
        assert len(asked) == 2, "what was checked was tried; the second attempt resolves again, and is refused"


def test_a_policy_without_loopback_refuses_a_server_on_this_machine():
    with misbehaving_server(lambda path, count: (200, {}, b"{}")) as (address, asked):
        io = open_session(address, policy=HostPolicy(hosts=("127.0.0.1",)), retry=QUICK)
        with pytest.raises(ImageryError, match="private or local network"):
            search(address, stac_io=io)
        assert asked == []


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest", "https://10.1.2.3/search", "file:///etc/passwd", "http://pixels.example.org/"],
)
def test_a_redirect_to_a_private_or_plain_address_is_not_followed(target):
    answer, state = serve_api(None, lambda address: {})

    def redirect(path, count):
        return (307, {"Location": target}, b"") if path.startswith("/search") else answer(path, count)

    with misbehaving_server(redirect) as (address, asked):
        state["address"] = address
        with pytest.raises(ImageryError):
            search(address)
        assert len([p for p in asked if p.startswith("/search")]) == 1


def test_a_next_page_elsewhere_is_not_followed():
    def page(address):
        return {
            **collection_of([box_item("a", 35, 1.5)]),
            "links": [{"rel": "next", "href": "https://192.168.0.1/search?page=2"}],
        }

    answer, state = serve_api(None, page)
    with misbehaving_server(answer) as (address, _):
        state["address"] = address
        with pytest.raises(ImageryError, match="private"):
            search(address)


def test_an_api_that_says_no_is_an_error_and_not_an_empty_answer():
    with misbehaving_server(lambda path, count: (403, {}, b"go away")) as (address, asked):
        with pytest.raises(ImageryError, match="failed"):
            search(address)
        assert len(asked) == 1


@pytest.mark.parametrize(
    "address", ["http://api.example.org/v1", "ftp://api.example.org", "https://10.0.0.1/v1", "nonsense"]
)
def test_addresses_that_are_not_asked(address):
    with pytest.raises(ImageryError):
        search(address)
