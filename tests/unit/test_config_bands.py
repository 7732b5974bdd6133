"""Bands of assets with several: ranges, and the examples of docs/encoders.md."""

import re
from pathlib import Path

import pytest
import yaml

from eo_cate.config import ImageryConfig, RunConfig, dump_config, load_config, merge
from eo_cate.errors import ConfigError
from eo_cate.imagery.sources import source_name

DOCS = Path(__file__).resolve().parents[2] / "docs" / "encoders.md"
TRIAL = {
    "units": "u.csv", "outcome": "Y", "treatment": "W", "cluster": "v", "propensity": 0.5,
    "treatment_start": "2019-01-01",
}  # fmt: skip
EXAMPLES = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)]


def read(tmp_path, **sections):
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump({"name": "t", "trial": TRIAL, **sections}))
    return load_config(path)


@pytest.mark.parametrize(("number", "bands"), [(0, 64), (1, 129)])
def test_the_examples_of_the_docs_are_valid_and_read_back_equal(tmp_path, number, bands):
    assert len(EXAMPLES) == 2
    config = read(tmp_path, **EXAMPLES[number])
    assert config.imagery.bands == config.embeddings.bands
    assert len(set(config.imagery.bands)) == bands
    again = tmp_path / "again.yaml"
    again.write_text(dump_config(config))
    assert load_config(again) == config


@pytest.mark.parametrize(
    ("name", "expanded"),
    [
        ("e:A00-A02", ["e:A00", "e:A01", "e:A02"]),
        ("e:9-11", ["e:9", "e:10", "e:11"]),
        ("e:b-1-b-2", ["e:b-1", "e:b-2"]),
        ("e:A00-B02", ["e:A00-B02"]),
        ("B08-B09", ["B08-B09"]),
        ("e:A00", ["e:A00"]),
    ],
)
def test_ranges_of_bands(tmp_path, name, expanded):
    example = merge(EXAMPLES[1], {"imagery": {"bands": [name, "scale"]}, "embeddings": {"bands": [name, "scale"]}})
    assert list(read(tmp_path, **example).imagery.bands) == [*expanded, "scale"]


@pytest.mark.parametrize("name", ["e:3-3", "e:9-1", "e:0-512"])
def test_ranges_that_do_not_rise_or_are_endless_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="a range of bands rises, by 512 bands at most"):
        read(tmp_path, **merge(EXAMPLES[1], {"imagery": {"bands": [name]}}))


def test_quantised_embeddings_of_a_catalogue_need_the_newest_scene(tmp_path):
    for example in EXAMPLES:
        with pytest.raises(ConfigError, match=r"must not be averaged .* set imagery\.composite: newest"):
            read(tmp_path, **merge(example, {"imagery": {"composite": "median"}}))
        plain = {"imagery": {"composite": "median"}, "embeddings": {"encoder": "precomputed"}}
        assert isinstance(read(tmp_path, **merge(example, plain)), RunConfig)


def test_pixels_of_earlier_versions_keep_their_folder_and_newest_has_its_own():
    periods = [{"name": "before", "start": "2000-01-01", "end": "2000-12-31"}]
    landsat = {"source": "stac", "api": "x", "collection": "landsat-c2-l2", "bands": ["red"], "periods": periods}
    names = [source_name(ImageryConfig(**landsat, composite=composite)) for composite in ("median", "newest")]
    assert names[0] == OLD
    assert names[1] != OLD


OLD = "3385bde9a59b7c7c"
