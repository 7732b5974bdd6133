"""One definition of every option: YAML, command line and Python give an equal RunConfig."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import yaml

from eo_cate import cli
from eo_cate.config import RunConfig, dump_config, load_config
from eo_cate.errors import ConfigError
from eo_cate.template import json_schema, yaml_template

CONTENT = {
    "name": "t",
    "seed": 7,
    "trial": {
        "units": "u.csv",
        "outcome": "Y",
        "treatment": "W",
        "cluster": "v",
        "propensity": 0.3,
        "covariates": ["a", "b"],
    },
    "imagery": {"source": "rasters", "files": {"R": "r.tif", "G": "g.tif", "B": "b.tif"}},
    "embeddings": {"scales": [8, 16], "bands": ["R", "G", "B"], "stretch": [[1, 2], [3, 4], [5, 6]]},
    "map": {"spacing_px": 4},
}
ARGUMENTS = [
    *("--seed", "7", "--trial.propensity", "0.3", "--trial.covariates", "a", "b", "--embeddings.scales", "8", "16"),
    *("--embeddings.stretch", "1", "2", "3", "4", "5", "6", "--imagery.files.R", "r.tif"),
    *("--imagery.files.G", "g.tif", "--imagery.files.B", "b.tif", "--map.spacing-px", "4"),
]


def _write(folder: Path, content) -> Path:
    path = folder / "t.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _from_command_line(monkeypatch, path: Path, arguments) -> RunConfig:
    seen = []
    monkeypatch.setattr(cli, "load_config", lambda *a: seen.append(load_config(*a)) or seen[-1])
    monkeypatch.setattr("eo_cate.run.find_problems", lambda *a, **k: [])
    with redirect_stdout(io.StringIO()):
        cli.app(["validate", str(path), *arguments], result_action="return_value")
    return seen[0]


def test_yaml_command_line_and_python_give_the_same_config(tmp_path, monkeypatch):
    from_python = RunConfig.model_validate(CONTENT)
    assert load_config(_write(tmp_path, CONTENT)) == from_python
    other = CONTENT | {
        "seed": 1,
        "trial": CONTENT["trial"] | {"propensity": "column", "covariates": []},
        "embeddings": CONTENT["embeddings"] | {"scales": [4], "stretch": [[0, 1]] * 3},
        "imagery": {"source": "rasters", "files": {"R": "x", "G": "x", "B": "x"}},
        "map": None,
    }
    assert _from_command_line(monkeypatch, _write(tmp_path, other), ARGUMENTS) == from_python


def test_the_command_line_takes_one_encoder_or_several(tmp_path, monkeypatch):
    for names in (("mean_colour",), ("mean_colour", "random_vit_s14")):
        found = _from_command_line(monkeypatch, _write(tmp_path, CONTENT), ["--embeddings.encoder", *names])
        assert found.embeddings.encoders == names


def test_the_resolved_config_reads_back_equal(tmp_path):
    config = RunConfig.model_validate(CONTENT)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


def test_the_template_is_a_valid_config_and_names_every_option():
    template = yaml_template()
    RunConfig.model_validate(yaml.safe_load(template))

    def names(model):
        for name, field in model.model_fields.items():
            yield name
            for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(kind, type) and hasattr(kind, "model_fields"):
                    yield from names(kind)

    for name in names(RunConfig):
        assert f"{name}:" in template
    uncommented = "\n".join(
        line.replace("# ", "", 1)
        if line.startswith("  # ") and line.rstrip().endswith(("1", "0", "5", "2000"))
        else line
        for line in template.splitlines()
    )
    assert RunConfig.model_validate(yaml.safe_load(uncommented)).estimators.num_trees == 2000


def test_the_schema_names_every_section():
    schema = json.loads(json_schema())
    assert {"trial", "imagery", "embeddings"} <= set(schema["properties"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trial": {"propensity": 1.5}}, "strictly between 0 and 1"),
        ({"trial": {"outcom": "Y"}}, "trial.outcom"),
        ({"embeddings": {"scales": [16, 8]}}, "increase strictly"),
        ({"embeddings": {"scales": [0, 8]}}, "greater than 0"),
        ({"embeddings": {"bands": ["R", "G", "NIR"]}}, "NIR"),
        ({"embeddings": {"stretch": [[0, 1]]}}, "3 bands but 1 stretch"),
        ({"embeddings": {"stretch": [[2, 1], [0, 1], [0, 1]]}}, "low must be below high"),
        ({"executor": "slurm"}, "neither"),
        ({"imagery": {"source": "chips"}}, "path"),
        ({"imagery": {"acquired": "2012-01-01"}, "trial": {"treatment_start": "2010-01-01"}}, "must be older"),
        ({"estimators": {"num_trees": 251}}, "multiple of 2"),
        ({"name": "a/b"}, "pattern"),
    ],
)
def test_every_wrong_option_is_named(tmp_path, change, message):
    from eo_cate.config import merge

    with pytest.raises(ConfigError, match=message):
        load_config(_write(tmp_path, merge(CONTENT, change)))


def test_all_problems_are_said_at_once(tmp_path):
    content = CONTENT | {"seed": -1, "executor": 3, "wrong": 1}
    with pytest.raises(ConfigError) as caught:
        load_config(_write(tmp_path, content))
    for word in ("seed", "executor", "wrong", "3 problem"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- 1", "mapping"), ("!!python/object:os.system {}", "YAML")]
)
def test_files_that_are_no_mapping(tmp_path, text, message):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)
    with pytest.raises(ConfigError, match="eo-cate init"):
        load_config(tmp_path / "absent.yaml")
