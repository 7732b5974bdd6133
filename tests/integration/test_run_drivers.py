"""The section "What drives it" of a small run, with and without covariates, bands that are named, and the gallery."""

import re

import numpy as np
import pandas as pd
import pytest
import rasterio
from helpers_run import run_command, write_run

from eo_cate.errors import ImageryError

SECTIONS = {
    "embeddings": {"encoder": "mean_colour", "scales": [8, 16], "input_px": 28},
    "estimators": {"num_trees": 20},
    "evaluation": {"num_orders": 1, "num_permutations": 1, "num_draws": 19},
}
IMAGERY = {
    "common_names": {"red": "B04", "green": "B03", "blue": "B02", "nir": "B08"},
    "land_cover": "classes.tif",
    "land_cover_names": {1: "bright"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("drivers")


@pytest.fixture(scope="module")
def numbers(folder):
    write_run(folder, imagery=IMAGERY, report={"gallery": True}, **SECTIONS)
    with rasterio.open(folder / "scene" / "B04.tif") as source:
        classes, profile = (source.read(1) > 1000).astype(np.uint8), source.profile
    with rasterio.open(folder / "classes.tif", "w", **(profile | {"dtype": "uint8", "nodata": None})) as target:
        target.write(classes, 1)
    return run_command("run", folder, folder / "run")


def test_every_observable_has_a_row_with_both_estimators(numbers):
    names = ["NDVI", "NDWI", "brightness", "texture", "class 0", "bright"]
    labels = ["x1", "x2", *(f"{name}, {side} m" for name in names for side in (80, 160))]
    found = pd.DataFrame(numbers["drivers"]["drivers"])
    assert found["label"].tolist() == 2 * labels
    assert found["estimator"].tolist() == len(labels) * ["forest"] + len(labels) * ["ridge"]
    assert set(found["kind"]) == {"covariate", "image", "land cover"}
    differences = found["quartile_4"] - found["quartile_1"]
    np.testing.assert_allclose(found["difference"], differences, atol=1e-10 * differences.abs().max())
    assert (found["adjusted_p"] >= found["p"]).all()
    # the classes are two: their shares sum to 1 in every quartile
    shares = found[found["kind"] == "land cover"].groupby(["estimator", "scale"])[["quartile_1", "quartile_4"]].sum()
    np.testing.assert_allclose(shares, 1, rtol=1e-12)
    assert any("NDBI (swir16 and nir)" in note for note in numbers["drivers"]["notes"])


def test_quantities_are_those_of_the_scene_at_the_sites(folder, numbers):
    """Brightness by the pixels themselves: the mean of all units seen, weighted by the quartiles, is theirs."""
    units = pd.read_csv(folder / "units.csv")
    folds = pd.read_csv(folder / "run" / "tables" / "folds.csv").set_index("unit_id")["order_1"]
    seen = units[folds.loc[units["unit"]].to_numpy() > 1]
    from pyproj import Transformer

    with rasterio.open(folder / "scene" / "B04.tif") as source:
        bands = [source.read(1)]
        x, y = Transformer.from_crs(4326, source.crs, always_xy=True).transform(seen["lon"], seen["lat"])
        col, row = (np.rint(v).astype(int) for v in ~source.transform * (np.asarray(x), np.asarray(y)))
    for name in ("B03", "B02"):
        with rasterio.open(folder / "scene" / f"{name}.tif") as source:
            bands.append(source.read(1))
    light = np.mean(np.stack(bands).astype(np.float64), axis=0)
    values = np.array([light[r - 8 : r + 8, c - 8 : c + 8].mean() for r, c in zip(row, col, strict=True)])
    effects = pd.DataFrame(numbers["drivers"]["drivers_effects"])
    effects = effects[effects["label"] == "brightness, 160 m"]
    assert effects["units"].sum() == len(seen)
    assert np.average(effects["mean"], weights=effects["units"]) == pytest.approx(values.mean(), rel=1e-6)
    assert effects["mean"].is_monotonic_increasing


def test_curves_are_of_the_covariates(numbers):
    curves = pd.DataFrame(numbers["drivers"]["drivers_curves"])
    assert set(curves["covariate"]) == {"x1", "x2"}
    assert (curves["low"] <= curves["high"]).all()
    importance = curves.groupby("covariate")["importance"].first()
    assert ((importance >= 0) & (importance <= 1)).all()
    assert all(table["value"].is_monotonic_increasing for _, table in curves.groupby("covariate"))


def test_the_gallery_tells_no_place(folder, numbers):
    page = (folder / "run" / "report.html").read_text()
    assert "The sites that respond most and least" in page
    assert {path.name for path in (folder / "run" / "figures").glob("gallery*")} == {"gallery.png", "gallery.pdf"}
    units = pd.read_csv(folder / "units.csv")
    text = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    section = text[
        text.index('<section id="drivers">') : text.index("</section>", text.index('<section id="drivers">'))
    ]
    assert len(section) > 2000
    for column in ("lon", "lat"):
        digits = {f"{value:.4f}" for value in units[column]}
        assert not any(d in text for d in digits)
    words = set(re.findall(r"[\w.]+", re.sub(r"<[^>]+>", " ", section)))
    assert not words & set(units["village"].astype(str))
    raw = (folder / "run" / "figures" / "gallery.pdf").read_bytes()
    assert b"CreationDate" not in raw


def test_without_covariates_bands_or_consent_there_is_less(folder, numbers):
    write_run(folder, trial={"covariates": []}, **SECTIONS)
    found = run_command("run", folder, folder / "run")["drivers"]
    assert {row["observable"] for row in found["drivers"]} == {"brightness", "texture"}
    assert found["drivers_curves"] == []
    page = (folder / "run" / "report.html").read_text()
    assert 'id="drivers"' in page
    assert "over the covariates</h3>" not in page
    assert "The sites that respond most and least" not in page
    names = {path.name for path in (folder / "run").rglob("*") if path.suffix in (".png", ".pdf", ".csv", ".tex")}
    assert "drivers.png" in names
    assert not any(name.startswith(("gallery", "drivers_curves")) for name in names)


def test_imagery_of_embeddings_has_no_brightness(folder, numbers, tmp_path):
    embeddings = {**SECTIONS["embeddings"], "encoder": "precomputed", "stretch": []}
    write_run(folder, **(SECTIONS | {"embeddings": embeddings, "report": {"gallery": True}}))
    found = run_command("run", folder, tmp_path / "run")["drivers"]
    assert {row["kind"] for row in found["drivers"]} == {"covariate"}
    assert found["drivers_effects"] == []
    assert any("not light" in note for note in found["notes"])
    assert not list((tmp_path / "run" / "figures").glob("gallery*"))


def test_land_cover_that_is_no_raster_of_classes_is_refused_before_any_work(folder, numbers, tmp_path):
    write_run(folder, imagery={"land_cover": "scene/B04.tif"}, **SECTIONS)
    with pytest.raises(ImageryError, match="whole numbers"):
        run_command("run", folder, tmp_path / "refused")
    assert not (tmp_path / "refused" / "config.yaml").exists()
