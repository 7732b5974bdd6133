"""What every step of one run needs, and where options become numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eo_cate.config import RunConfig
from eo_cate.executor import Executor
from eo_cate.store import Store

FULL = "image_multi+tabular"
"""The pre-specified configuration, and the features of the outcome model."""

IMAGE = "image_multi"
"""The configuration of the map: places without a survey have no covariates."""


@dataclass(frozen=True)
class Run:
    """Options, folders, and where results are computed and kept."""

    config: RunConfig
    data_dir: Path
    run_dir: Path
    store: Store
    executor: Executor
    progress: bool
    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds spent inside to ``timings``."""
        start = time.perf_counter()
        yield
        self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - start

    @property
    def shards(self) -> dict[str, Any]:
        """Keyword arguments of what runs as shards on the executor."""
        return {"store": self.store, "executor": self.executor, "progress": self.progress}

    @property
    def here(self) -> dict[str, Any]:
        """Keyword arguments of a single fit that is stored: in this process, with all its threads."""
        return {"store": self.store, "executor": Executor(), "progress": self.progress}


def derive_seed(seed: int, *path: str | int) -> int:
    """A seed of its own for every use, derived from the run's."""
    entropy = [seed, *(int.from_bytes(str(part).encode(), "little") for part in path)]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
