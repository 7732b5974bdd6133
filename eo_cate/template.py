"""A commented YAML and a JSON schema, both written from the models of `eo_cate.config`."""

from __future__ import annotations

import json
import textwrap
from typing import Any, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from eo_cate.config import RunConfig

HEADER = """\
# One trial, from its table of units to its report.
#   eo-cate validate THIS_FILE     says every problem at once, before any work
#   eo-cate run THIS_FILE          makes runs/NAME/report.html
# Options behind a # have the value shown (or none) unless you set them. Paths are relative to this file's folder
# (or to --data-dir). Option names work on the command line too: --embeddings.scales 16 --embeddings.scales 64
"""


def yaml_template() -> str:
    """A YAML file with every option, its description and its default; required options hold an example."""
    return HEADER + "\n".join(_lines(RunConfig, indent=0)) + "\n"


def json_schema() -> str:
    """JSON schema of the YAML file, for editors."""
    return json.dumps(RunConfig.model_json_schema(), indent=2)


def _lines(model: type[BaseModel], *, indent: int) -> list[str]:
    lines: list[str] = []
    for name, field in model.model_fields.items():
        part = nested_model(field)
        if part is None:
            lines += _option(name, field, indent=indent)
            continue
        optional = field.default is None
        below = _lines(part, indent=indent + 2)
        lines += ["", *_comment((part.__doc__ or "").strip(), indent)]
        lines += _commented([f"{name}:", *below]) if optional else [f"{name}:", *below]
    return lines


def nested_model(field: FieldInfo) -> type[BaseModel] | None:
    """The nested model of a field, also behind Optional; a list of models is a plain option."""
    if get_origin(field.annotation) is tuple:
        return None
    candidates = (field.annotation, *getattr(field.annotation, "__args__", ()))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _option(name: str, field: FieldInfo, *, indent: int) -> list[str]:
    examples = field.examples or []
    default = None if field.default_factory is not None else field.default
    shown = examples[0] if examples else default
    set_here = field.default is PydanticUndefined or (bool(examples) and field.default_factory is None)
    if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("rarely_set"):
        set_here = False
    line = f"{name}: {_scalar(shown)}" if shown not in (None, PydanticUndefined, ()) else f"{name}:"
    return [*_comment(field.description or "", indent), " " * indent + ("" if set_here else "# ") + line]


def _scalar(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1000)
    return text.removesuffix("...\n").strip()


def _comment(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent=" " * indent + "# ", subsequent_indent=" " * indent + "# ")


def _commented(lines: list[str]) -> list[str]:
    return [f"# {line}".rstrip() for line in lines]
