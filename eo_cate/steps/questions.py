"""The refit tests that every report answers, and the paired contrasts: does the image see it, or is it the place?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eo_cate import evaluation
from eo_cate.evaluation import OutcomeModel, PairedContrast, RateGain, RefitTest, TrialVectors
from eo_cate.evaluation.flips import FlipProblem, pose_flips
from eo_cate.evaluation.refit import Given, run_refit
from eo_cate.evaluation.refit_tests import REFIT_TREES, resolve_learner, tenth_of_extent
from eo_cate.steps.context import FULL, IMAGE, Run, derive_seed
from eo_cate.steps.encoders import pretrained_pairs
from eo_cate.steps.estimators import ENGINE, build_ridge
from eo_cate.steps.evaluate import Evaluated
from eo_cate.steps.features import WITHIN
from eo_cate.types import FeatureBlocks

FOREST_BLOCK = 20
"""Draws of a forest per unit of resumable work."""


@dataclass(frozen=True)
class Answer:
    """One refit test: its question, the configuration tested, what was held fixed (empty: nothing), the result."""

    question: str
    configuration: str
    given: str
    test: RefitTest


@dataclass(frozen=True)
class Answers:
    """Tests, and differences of RATE by estimator.

    Parameters
    ----------
    tests : list of Answer
    gains : dict
        Estimator -> multi-scale against the single scale chosen on training folds.
    contrasts : dict
        Estimator -> (first, second) -> difference.
    """

    tests: list[Answer]
    gains: dict[str, RateGain]
    contrasts: dict[str, dict[tuple[str, str], PairedContrast]]


def ask(run: Run, features: Mapping[str, FeatureBlocks], evaluated: Evaluated) -> Answers:
    """Run every test and contrast."""
    with run.timed("refit tests"):
        tests = _test(run, features, evaluated)
    with run.timed("contrasts"):
        gains, contrasts = _compare(run, evaluated)
    return Answers(tests, gains, contrasts)


def pose(outcome: OutcomeModel, vectors: TrialVectors) -> FlipProblem:
    """The null of every refit test of this trial."""
    return pose_flips(
        vectors.Y,
        vectors.W,
        propensity=vectors.propensity,
        Y_hat=outcome.m_hat,
        ATE_hat=outcome.ATE_hat,
        groups=vectors.groups,
        strata=vectors.strata,
        sample_weights=vectors.weights,
    )


def refit_options(run: Run, description: str) -> dict[str, Any]:
    """Keyword arguments of `run_refit` with the configured learner."""
    name = run.config.evaluation.refit_learner
    learner, _, minimum = resolve_learner(name)
    settings = {"engine": ENGINE, "trees": REFIT_TREES}
    if name == "ridge":
        learner, settings = build_ridge(run.config)
    return {
        "learner": learner,
        "name": name,
        "settings": settings,
        "min_flip_units": minimum,
        "block": None if name == "ridge" else FOREST_BLOCK,
        "num_draws": run.config.evaluation.num_draws,
        "seed": derive_seed(run.config.seed, "flips"),
        "description": description,
        **run.shards,
    }


def _test(run: Run, features: Mapping[str, FeatureBlocks], evaluated: Evaluated) -> list[Answer]:
    problem = pose(evaluated.outcome, evaluated.folds.vectors)
    options = refit_options(run, "refit tests")

    def ask_one(question: str, name: str, given: str = "", fixed: Given | None = None) -> Answer:
        test = run_refit(problem, {name: features[name]}, given=fixed, **options)
        return Answer(question, name, given, test)

    places = features["location"]
    coordinates = FeatureBlocks.from_array(places.site[:, :2], site_index=places.site_index)
    answers = [ask_one("Do all scales together predict the effect?", IMAGE)]
    if "tabular" in features:
        answers += [
            ask_one("Do covariates predict it?", "tabular"),
            ask_one("Do all scales with covariates?", FULL),
        ]
    answers += [
        ask_one("Does location alone?", "location"),
        ask_one(
            "Image or place? The image beyond a smooth map", IMAGE, "location",
            Given(coordinates, tenth_of_extent(coordinates)),
        ),
    ]  # fmt: skip
    if "tabular" in features:
        answers.append(ask_one("The image beyond covariates", IMAGE, "tabular", Given(features["tabular"])))
    return answers


def _compare(
    run: Run, evaluated: Evaluated
) -> tuple[dict[str, RateGain], dict[str, dict[tuple[str, str], PairedContrast]]]:
    gains, contrasts, folds = {}, {}, evaluated.folds
    options: dict[str, Any] = {"num_replicates": run.config.evaluation.num_replicates, **folds.design}
    for estimator, ranked in evaluated.ranked.items():
        singles = {n: r for n, r in ranked.items() if n.removeprefix("image_").isdigit()}
        gains[estimator] = evaluation.pool_gain(folds.tasks, folds.scores, ranked[IMAGE], singles, **options)
        wanted = [(IMAGE, "location"), (f"{IMAGE}+location", "location"), (IMAGE, "mean_colour"), (IMAGE, "random_vit")]
        wanted += [(f"{IMAGE}, {name}", f"{IMAGE}, {base}") for name, base in pretrained_pairs(run)]
        contrasts[estimator] = {
            (first, second): evaluation.pool_contrast(
                folds.tasks,
                folds.scores,
                [r.priorities for r in ranked[first]],
                [r.priorities for r in ranked[second]],
                **options,
            )
            for first, second in wanted
        }
    permuted = {name: r for name, r in evaluated.shuffled.items() if name.startswith(WITHIN)} or evaluated.shuffled
    if permuted:
        name = WITHIN if next(iter(permuted)).startswith(WITHIN) else "shuffled"
        contrasts["ridge"][IMAGE, f"mean {name}"] = evaluation.pool_over_mean(
            folds.tasks,
            folds.scores,
            [r.priorities for r in evaluated.ranked["ridge"][IMAGE]],
            [[r.priorities for r in found] for found in permuted.values()],
            **options,
        )
    return gains, contrasts
