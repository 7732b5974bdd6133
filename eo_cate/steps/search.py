"""Which scales? Single scales, pairs and chosen larger sets, with p that pay for the search (METHODS.md, section 4)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from eo_cate import evaluation
from eo_cate.evaluation import FoldRank, OutcomeModel, RateGain, RefitTest, SequentialRate
from eo_cate.evaluation.ledger import Ledger
from eo_cate.evaluation.refit import run_refit
from eo_cate.steps.context import IMAGE, Run
from eo_cate.steps.estimators import build_ridge
from eo_cate.steps.evaluate import Folds, pool, rank, record
from eo_cate.steps.questions import pose, refit_options
from eo_cate.types import FeatureBlocks


@dataclass(frozen=True)
class ScaleSearch:
    """A family of sets of scales, tested together.

    Parameters
    ----------
    sets : dict
        Configuration -> its scales, in pixels.
    everything : RefitTest
        The one test of all scales together, which leads.
    family : RefitTest
        All sets, family-wise.
    rates : dict
        Configuration -> sequential AUTOC with RidgeR; the best of them, picked afterwards, is optimistic.
    gain : RateGain
        All scales against the single scale that the training folds chose, with RidgeR; None below 40 groups.
    tried : int
        Distinct configurations ever fitted against this outcome in this run folder.
    """

    sets: dict[str, tuple[int, ...]]
    everything: RefitTest
    family: RefitTest
    rates: dict[str, SequentialRate]
    gain: RateGain | None
    tried: int


def search_scales(run: Run, features: Mapping[str, FeatureBlocks], outcome: OutcomeModel, folds: Folds) -> ScaleSearch:
    """Test all scales at once, then every single scale, pair and chosen set; with RidgeR."""
    sets = list_sets(run.config.embeddings.scales, run.config.multiscale.sets)
    configurations = {name: take_scales(features[IMAGE], scales) for name, scales in sets.items()}
    model, problem = build_ridge(run.config), pose(outcome, folds.vectors)
    with run.timed("scale search"):
        options = refit_options(run, "scale search")
        everything = run_refit(problem, {IMAGE: features[IMAGE]}, **options)
        family = run_refit(problem, configurations, **options)
        wanted = configurations | {IMAGE: features[IMAGE]}
        record(run, outcome, wanted, model[1])
        ranked = rank(run, folds, wanted, model, "ridge, scale search") if folds.tasks else {}
        own = {name: found for name, found in ranked.items() if name in sets}
        rates = {name: found["AUTOC"] for name, found in pool(run, folds, own, targets=("AUTOC",)).items()}
        gain = _gain(run, folds, ranked, sets) if ranked else None
    tried = Ledger(run.store.root).count(outcome.key)
    return ScaleSearch(sets, everything, family, rates, gain, tried)


def _gain(
    run: Run, folds: Folds, ranked: Mapping[str, list[FoldRank]], sets: Mapping[str, tuple[int, ...]]
) -> RateGain:
    return evaluation.pool_gain(
        folds.tasks,
        folds.scores,
        ranked[IMAGE],
        {name: ranked[name] for name, scales in sets.items() if len(scales) == 1},
        num_replicates=run.config.evaluation.num_replicates,
        **folds.design,
    )


def list_sets(scales: tuple[int, ...], larger: tuple[tuple[int, ...], ...]) -> dict[str, tuple[int, ...]]:
    """Single scales, pairs and larger sets by name, as in ``image_16+64``."""
    found = [*itertools.combinations(scales, 1), *itertools.combinations(scales, 2), *map(tuple, map(sorted, larger))]
    return {f"image_{'+'.join(map(str, s))}": tuple(s) for s in dict.fromkeys(found)}


def take_scales(X: FeatureBlocks, scales: tuple[int, ...]) -> FeatureBlocks:
    """The columns of some scales."""
    kept = [j for j, block in enumerate(X.blocks) if int(block.split("_")[1]) in scales]
    return FeatureBlocks(
        site=X.site[:, kept],
        unit=X.unit[:, :0],
        site_index=X.site_index,
        names=tuple(X.names[j] for j in kept),
        blocks=tuple(X.blocks[j] for j in kept),
    )
