"""Beyond a small trial: from polygons to rasters, tables and report, through the command line and the real stages."""

import json
import re

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import xarray as xr
import yaml
from helpers_run import CONTENT, run_command, write_run

from eo_cate import cli
from eo_cate.config import merge
from eo_cate.errors import ConfigError, ImageryError

CRS, LEFT, TOP = "EPSG:32636", 500_000.0, 200_000.0
SECTIONS = {
    "embeddings": {"encoder": "mean_colour", "input_px": 56},
    "estimators": {"num_trees": 50},
    "evaluation": {"num_orders": 1, "num_permutations": 2, "num_draws": 19},
}
REGION = {"region": "districts.gpkg", "resolution_m": 320, "block_cells": 20, "true_effect": "tau.tif"}


def districts():
    """Three districts over the 4 km scene, and one that lies half beyond it."""
    boxes = [(0, 0, 2000, 2000), (2000, 0, 4000, 2000), (0, 2000, 4000, 4000), (3000, 4000, 5000, 5000)]
    polygons = [shapely.box(LEFT + w, TOP - s, LEFT + e, TOP - n) for w, n, e, s in boxes]
    return gpd.GeoDataFrame({"id": ["north-west", "north-east", "south", "beyond"]}, geometry=polygons, crs=CRS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("region")
    districts().to_file(path / "districts.gpkg", driver="GPKG")
    return write_run(path, **SECTIONS, extrapolate=REGION)


@pytest.fixture(scope="module")
def numbers(folder):
    return run_command("extrapolate", folder, folder / "run")


def test_raster_zarr_and_tables_say_the_same(folder, numbers):
    run = folder / "run"
    table = pd.read_csv(run / "tables" / "regions.csv")
    with rasterio.open(run / "maps" / "region.tif") as source, xr.open_zarr(run / "maps" / "region.zarr") as stored:
        bands = {name: source.read(i + 1) for i, name in enumerate(source.descriptions)}
        assert set(bands) == set(stored.data_vars) >= {
            "tau_hat", "std_err", "band", "dissimilarity", "local_point_density", "transport_weight", "supported",
        }  # fmt: skip
        for name, values in bands.items():
            np.testing.assert_array_equal(values, stored[name].to_numpy())
        assert source.units[source.descriptions.index("tau_hat")] == "units of the outcome"
        assert "3 sign undecided" in source.tags(source.descriptions.index("supported") + 1)["long_name"]
        assert np.isnan(source.nodata)
        assert "Azimuthal" in source.crs.to_wkt()
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    code, region = bands["supported"], bands["region"]
    assert {int(c) for c in np.unique(code[np.isfinite(code)])} <= {0, 1, 2, 3}
    assert (np.isnan(bands["tau_hat"]) == (np.isnan(code) | (code == 2))).all()
    assert (np.isfinite(bands["std_err"]) == np.isfinite(bands["tau_hat"])).all()
    assert (bands["dissimilarity"][code == 1] > numbers["region"]["threshold"]).all()
    assert np.isnan(bands["band"][code == 1]).all()
    for number, row in enumerate(table.itertuples(), 1):
        own = region == number
        assert own.sum() == row.cells
        supported = own & np.isin(code, (0, 3))
        assert supported.sum() == pytest.approx(row.share_supported * row.cells)
        if supported.any():
            assert row.synthetic == pytest.approx(bands["tau_hat"][supported].mean(), rel=1e-5)
    polygons = gpd.read_file(run / "tables" / "regions.gpkg")
    assert list(polygons["region"]) == list(table["region"]) == ["north-west", "north-east", "south", "beyond"]
    for name in ("region.png", "region.pdf", "region.html"):
        assert (run / "maps" / name).stat().st_size > 1_000
    assert (run / "tables" / "regions.dta").stat().st_size > 0


def test_where_nothing_can_be_said_there_is_a_reason_and_no_figure(folder, numbers):
    row = {r["region"]: r for r in numbers["region"]["regions"]}["beyond"]
    assert all(
        row[name] is None for name in ("units", "groups", "direct", "direct_std_err", "synthetic", "transported")
    )
    for words in ("fewer than 10 trial units", "no supported cell", "not transported"):
        assert words in row["reason"]
    assert numbers["region"]["cells"]["no imagery"] >= row["cells"] / 2


def test_direct_estimates_are_those_of_the_units_in_the_polygon(folder, numbers):
    """Counts by hand, from the villages' coordinates."""
    units = pd.read_csv(folder / "units.csv")
    at = gpd.points_from_xy(units["lon"], units["lat"], crs="EPSG:4326").to_crs(CRS)
    for name, polygon in zip(districts()["id"], districts().geometry, strict=True):
        inside = shapely.intersects(polygon, np.asarray(at))
        row = next(r for r in numbers["region"]["regions"] if r["region"] == name)
        assert (row["units"] or 0) == inside.sum()
        assert (row["groups"] or 0) == units["village"][inside].nunique()


def test_running_again_computes_nothing_and_another_block_size_changes_no_figure(folder, numbers):
    manifest = folder / "run" / "store" / "manifest.jsonl"
    before = manifest.read_text()
    assert run_command("extrapolate", folder, folder / "run")["region"] == numbers["region"]
    assert manifest.read_text() == before
    other = run_command("extrapolate", folder, folder / "run", "--extrapolate.block-cells", "1000")
    assert other["region"]["regions"] == numbers["region"]["regions"]
    new = {json.loads(line)["stage"] for line in manifest.read_text().removeprefix(before).splitlines()}
    assert new == {"cells"}


def test_a_stopped_run_goes_on_from_its_blocks(folder, numbers, tmp_path, monkeypatch):
    import shutil

    from eo_cate.steps import region_cells

    shutil.copytree(folder / "run", tmp_path / "run")
    manifest = tmp_path / "run" / "store" / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    cells = [i for i, line in enumerate(lines) if json.loads(line)["stage"] == "cells"]
    manifest.write_text("".join(line for i, line in enumerate(lines) if i not in cells[-2:]))
    done, real = [], region_cells.predict_block
    monkeypatch.setattr(region_cells, "predict_block", lambda shard: done.append(len(shard.cell_ids)) or real(shard))
    again = run_command("extrapolate", folder, tmp_path / "run")
    assert again["region"] == numbers["region"]
    assert 1 <= len(done) <= 2


def test_workers_give_the_same_figures(folder, numbers):
    assert run_command("extrapolate", folder, folder / "dask", "--executor", "dask")["region"] == numbers["region"]


def test_no_site_is_told(folder, numbers):
    """Neither page nor tables hold a village's coordinate to four decimals, in degrees or metres."""
    units = pd.read_csv(folder / "units.csv").drop_duplicates("village")
    run = folder / "run"
    text = "".join((run / name).read_text() for name in ("maps/region.html", "tables/regions.csv", "numbers.json"))
    for lon, lat in units[["lon", "lat"]].itertuples(index=False):
        assert f"{lon:.4f}" not in text
        assert f"{lat:.4f}" not in text
    page = (run / "maps" / "region.html").read_text()
    assert not re.search(r"(?:src|href)\s*=|https?://(?!www\.w3\.org/2000/svg)", page)


def test_the_report_shows_it_and_a_run_without_a_region_takes_it_away(folder, numbers):
    page = (folder / "run" / "report.html").read_text()
    assert "Beyond the trial" in page
    assert page.count(numbers["region"]["assumption"][:60]) >= 1
    (folder / "plain.yaml").write_text(yaml.safe_dump(merge(CONTENT, SECTIONS)))
    command = ["run", str(folder / "plain.yaml"), "--run-dir", str(folder / "dask"), "--quiet"]
    cli.app(command, result_action="return_value")
    assert not (folder / "dask" / "maps" / "region.tif").exists()
    assert not (folder / "dask" / "maps" / "region.zarr").exists()
    assert "Beyond the trial" not in (folder / "dask" / "report.html").read_text()
    with pytest.raises(ConfigError, match="no region is named"):
        cli.app(["extrapolate", *command[1:]], result_action="return_value")


def _population(folder, value):
    profile = {"driver": "GTiff", "height": 50, "width": 50, "count": 1, "dtype": "float32", "crs": CRS,
               "transform": rasterio.Affine(100, 0, LEFT, 0, -100, TOP)}  # fmt: skip
    pixels = np.full((50, 50), 1.0, dtype=np.float32)
    pixels[:, :25] = value
    with rasterio.open(folder / "people.tif", "w", **profile) as sink:
        sink.write(pixels, 1)


def test_bad_input_is_refused_before_work(folder, tmp_path):
    far = districts().set_geometry(districts().translate(1e6))
    far.to_file(folder / "far.gpkg", driver="GPKG")
    _population(folder, -1.0)
    for options, message in (
        (["--region", str(folder / "far.gpkg")], "none of the region's .* cells lies on the imagery"),
        (["--resolution-m", "1", "--extrapolate.max-cells", "1000"], r"cells of 1 m.*max_cells \(1,000\)"),
        (["--extrapolate.population", "people.tif"], "cells have a negative population"),
    ):
        with pytest.raises(ImageryError, match=message):
            run_command("extrapolate", folder, tmp_path / "run", *options)
        assert not (tmp_path / "run" / "store" / "manifest.jsonl").exists()


def test_people_weigh_and_fine_cells_warn(folder, numbers, capsys):
    _population(folder, 9.0)
    found = run_command(
        "extrapolate", folder, folder / "run", "--extrapolate.population", "people.tif", "--resolution-m", "150"
    )
    assert "finer than the smallest scale" in found["region"]["notes"][0]
    south = next(r for r in found["region"]["regions"] if r["region"] == "south")
    with rasterio.open(folder / "run" / "maps" / "region.tif") as source:
        bands = {name: source.read(i + 1) for i, name in enumerate(source.descriptions)}
        rows, cols = np.nonzero((bands["region"] == 3) & np.isin(bands["supported"], (0, 3)))
        x, y = rasterio.transform.xy(source.transform, rows, cols)
        points = gpd.points_from_xy(x, y, crs=source.crs).to_crs(CRS)
    people = np.where(np.asarray(points.x) < LEFT + 2500, 9.0, 1.0)
    tau = bands["tau_hat"][rows, cols]
    assert south["synthetic"] == pytest.approx(np.average(tau, weights=people), rel=1e-5)
    assert abs(np.average(tau, weights=people) - tau.mean()) > 1e-6


def test_bands_say_what_they_rest_on_and_orders_are_compared(folder, numbers):
    """Villages were randomised whole: untreated ones tell the luck, or the report says why not; polygons were left out."""
    region, page = numbers["region"], (folder / "run" / "report.html").read_text()
    bands, notes = region["bands"], " ".join(region["bands_notes"])
    assert "3 polygons with units of the trial were left out too, each in turn" in notes or "gave no band" in notes
    assert (bands["effect_error"] is None) == ("arms were not compared" in notes)
    if bands["district_width"] is not None:
        assert (np.array(bands["width"]) >= np.array(bands["district_width"])).all()
    orders = pd.DataFrame(region["risk_coverage"]["orders"])
    assert len(orders) == 6  # two losses, three orders
    assert (orders["best"] <= orders[["ordered", "random"]].min(axis=1) + 1e-12).all()
    for words in ("Lower by more than a tenth", "No order lowers it by a tenth"):
        if words in page:
            break
    else:
        pytest.fail("the report does not say what the orders are worth")
    assert "image-only variant" in page or region["transported"] is None
