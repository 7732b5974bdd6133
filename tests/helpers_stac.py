"""STAC items as the real APIs write them (shortened), small boxes to search, and a server that misbehaves on order."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def box_item(
    item_id, west, south, *, size=0.5, when="2000-01-05T08:00:00Z", cloud=5.0, collection="landsat-c2-l2", **properties
):
    """A Landsat-like item whose footprint is a box; ``west + size`` may pass 180, then it is written as a jump."""
    east, north = west + size, south + size
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    ring = [[x - 360 if x > 180 else x, y] for x, y in ring]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": item_id,
        "collection": collection,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [west, south, east - 360 if east > 180 else east, north],
        "properties": {"datetime": when, "platform": "landsat-7", "eo:cloud_cover": cloud, **properties},
        "links": [],
        "assets": {
            key: {"href": f"https://pixels.example.org/{item_id}/{key}.tif", "type": COG}
            for key in ("red", "nir08", "qa_pixel")
        },
    }


def collection_of(items):
    return {"type": "FeatureCollection", "features": items}


def planetary_landsat():
    """Planetary Computer, landsat-c2-l2 (Landsat 7)."""
    host = "https://landsateuwest.blob.core.windows.net/landsat-c2/level-2/standard/etm/2001/172/059/X"
    sr = [{"unit": "", "scale": 2.75e-05, "nodata": 0, "offset": -0.2, "data_type": "uint16", "spatial_resolution": 30}]
    bands = {"blue": "blue", "green": "green", "red": "red", "nir08": "nir08", "swir16": "swir16", "swir22": "swir22"}
    assets = {
        key: {
            "href": f"{host}/X_SR_{key}.TIF",
            "type": COG,
            "roles": ["data"],
            "eo:bands": [{"name": f"TM_{key}", "common_name": name}],
            "raster:bands": sr,
        }
        for key, name in bands.items()
    }
    assets["lwir"] = {
        "href": f"{host}/X_ST_B6.TIF",
        "type": COG,
        "roles": ["data"],
        "eo:bands": [{"common_name": "lwir"}],
    }
    assets["qa_pixel"] = {
        "href": f"{host}/X_QA_PIXEL.TIF?se=2026-01-01&sig=abc%3D",
        "type": COG,
        "roles": ["cloud", "cloud-shadow", "snow-ice", "water-mask"],
        "raster:bands": [{"nodata": 1, "data_type": "uint16", "spatial_resolution": 30, "unit": "bit index"}],
        "classification:bitfields": [{"name": "fill", "offset": 0, "length": 1}],
    }
    assets["rendered_preview"] = {
        "href": "https://planetarycomputer.microsoft.com/p.png",
        "type": "image/png",
        "roles": ["overview"],
    }
    return {
        **box_item("LE07_L2SP_172059_20010115_02_T1", 33.0, 0.5),
        "properties": {
            "datetime": "2001-01-15T07:50:12.123456Z",
            "created": "2022-05-06T18:00:00.000000Z",
            "platform": "landsat-7",
            "instruments": ["etm+"],
            "proj:epsg": 32636,
            "eo:cloud_cover": 12.0,
            "landsat:wrs_path": "172",
            "landsat:wrs_row": "059",
            "landsat:collection_category": "T1",
        },
        "assets": assets,
    }


def earth_search_sentinel(*, boa_offset_applied=True):
    """Earth Search v1, sentinel-2-l2a: raster:bands says offset -0.1 whether or not it was applied."""
    host = (
        "https://sentinel-cogs.s3.us-west-2.amazonaws.com/sentinel-s2-l2a-cogs/36/N/XF/2023/1/S2A_36NXF_20230105_0_L2A"
    )
    files = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08", "nir08": "B8A", "swir16": "B11"}
    raster = [{"nodata": 0, "data_type": "uint16", "bits_per_sample": 15, "scale": 0.0001, "offset": -0.1}]
    assets = {
        key: {
            "href": f"{host}/{name}.tif",
            "type": COG,
            "roles": ["data", "reflectance"],
            "eo:bands": [{"name": key, "common_name": key}],
            "raster:bands": raster,
        }
        for key, name in files.items()
    }
    jp2 = {
        key + "-jp2": {**a, "href": "s3://sentinel-s2-l2a/tiles/36/N/XF/x.jp2", "type": "image/jp2"}
        for key, a in assets.items()
    }
    assets["scl"] = {
        "href": f"{host}/SCL.tif",
        "type": COG,
        "roles": ["data"],
        "raster:bands": [{"nodata": 0, "data_type": "uint8"}],
    }
    return {
        **box_item("S2A_36NXF_20230105_0_L2A", 33.0, 0.5),
        "collection": "sentinel-2-l2a",
        "properties": {
            "datetime": "2023-01-05T08:04:19.024000Z",
            "created": "2023-01-05T14:00:00Z",
            "platform": "sentinel-2a",
            "proj:epsg": 32636,
            "grid:code": "MGRS-36NXF",
            "eo:cloud_cover": 7.5,
            "s2:processing_baseline": "05.09",
            "earthsearch:boa_offset_applied": boa_offset_applied,
        },
        "assets": {**assets, **jp2},
    }


def planetary_sentinel(baseline="05.09"):
    """Planetary Computer, sentinel-2-l2a: keys are the sensor's, and no raster:bands."""
    host = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/36/N/XF/2023/01/05/S2A.SAFE/IMG"
    names = {
        "B02": "blue",
        "B03": "green",
        "B04": "red",
        "B05": "rededge",
        "B06": "rededge",
        "B08": "nir",
        "B8A": "rededge",
    }
    assets = {
        key: {
            "href": f"{host}/{key}_10m.tif",
            "type": COG,
            "roles": ["data"],
            "eo:bands": [{"name": key, "common_name": name}],
        }
        for key, name in names.items()
    }
    assets["visual"] = {
        "href": f"{host}/TCI.tif",
        "type": COG,
        "roles": ["data"],
        "eo:bands": [{"common_name": n} for n in ("red", "green", "blue")],
    }
    assets["SCL"] = {"href": f"{host}/SCL_20m.tif", "type": COG, "roles": ["data"]}
    return {
        **box_item("S2A_MSIL2A_20230105T080419_R078_T36NXF_20230106T010101", 33.0, 0.5),
        "collection": "sentinel-2-l2a",
        "properties": {
            "datetime": "2023-01-05T08:04:19.024000Z",
            "platform": "Sentinel-2A",
            "s2:mgrs_tile": "36NXF",
            "s2:processing_baseline": baseline,
            "s2:generation_time": "2023-01-06T01:01:01.0Z",
            "proj:epsg": 32636,
            "eo:cloud_cover": 7.5,
        },
        "assets": assets,
    }


@contextmanager
def misbehaving_server(answer):
    """A server on loopback whose answers ``answer(path, count of requests so far) -> (status, headers, body)`` decides."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, headers, body = answer(self.path, len(asked))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
