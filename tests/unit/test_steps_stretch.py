"""A stretch from percentiles: once for the whole trial, from its own pixels."""

import numpy as np
import pytest
import rasterio
import yaml
from helpers_run import CONTENT, MAP, write_run

from eo_cate.config import load_config
from eo_cate.errors import ConfigError, EmbeddingError
from eo_cate.steps.inputs import open_inputs
from eo_cate.steps.stretch import MOST_SITES, resolve_stretch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = write_run(tmp_path_factory.mktemp("stretch"), map=MAP)
    content = dict(CONTENT, embeddings={**CONTENT["embeddings"], "stretch_percentiles": [2, 98]})
    del content["embeddings"]["stretch"]
    (path / "small.yaml").write_text(yaml.safe_dump(content | {"map": MAP}))
    return path


def test_the_stretch_is_that_of_all_sites_pixels(folder):
    """By hand: windows of 64 px read with rasterio above every site; 64 x 64 pixels are all looked at."""
    inputs = open_inputs(load_config(folder / "small.yaml"), folder)
    settings = inputs.config.embeddings
    assert settings.stretch_percentiles is None
    places = inputs.reader.places.loc[inputs.trial.sites.index]
    assert len(places) <= MOST_SITES
    for band, pair in zip(settings.bands, settings.stretch, strict=True):
        with rasterio.open(folder / "scene" / f"{band}.tif") as source:
            scene = source.read(1)
        chips = [scene[r - 32 : r + 32, c - 32 : c + 32] for r, c in places[["row", "col"]].itertuples(index=False)]
        np.testing.assert_allclose(pair, np.percentile(np.stack(chips).astype(np.float32), [2, 98]), rtol=1e-6)
    assert "Pixels were stretched from percentiles 2 and 98 of the trial's own: B04 " in inputs.config.notes


def test_cells_of_the_map_and_missing_pixels_do_not_move_it(folder):
    config = load_config(folder / "small.yaml")
    with_map = open_inputs(config, folder).config.embeddings.stretch
    without = open_inputs(config.model_copy(update={"map": None}), folder).config.embeddings.stretch
    assert with_map == without


class Holes:
    """A reader whose every chip lacks its first row, and is flat in one band when asked."""

    bands, resolution_m, grid, digest = ("a", "b"), None, None, "holes"

    def __init__(self, flat):
        self.flat = flat

    def read_chips(self, site_ids, size_px):
        chips = np.random.default_rng(len(site_ids[0])).normal(size=(len(site_ids), 2, size_px, size_px))
        chips[:, :, 0] = np.nan
        if self.flat:
            chips[:, 1] = 7.0
        return chips.astype(np.float32)


def test_missing_pixels_are_left_out_and_a_flat_band_is_named(folder):
    config = load_config(folder / "small.yaml")
    embeddings = config.embeddings.model_copy(update={"bands": ("a", "b"), "scales": (16,)})
    config = config.model_copy(update={"embeddings": embeddings})
    found = resolve_stretch(config, {"before": Holes(flat=False)}, ["s1", "s22", "s333"])
    assert all(-3 < low < -1 < 1 < high < 3 for low, high in found.embeddings.stretch)
    with pytest.raises(EmbeddingError, match=r"bands \['b'\] have the same value at both percentiles"):
        resolve_stretch(config, {"before": Holes(flat=True)}, ["s1", "s22"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stretch": [[0, 1]] * 3}, "give stretch or stretch_percentiles"),
        ({"stretch_percentiles": [98, 2]}, "0 <= low < high <= 100"),
        ({"encoder": "torchgeo-random:dofa_small_patch16_224"}, "take pixels by their values"),
    ],
)
def test_what_does_not_fit_is_refused(folder, change, message):
    with pytest.raises(ConfigError, match=message):
        load_config(folder / "small.yaml", {"embeddings": change})
