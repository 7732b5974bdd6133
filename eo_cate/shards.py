"""Shards that are computed where the executor says and stored as they come: the one seam of resumable work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from numpy.typing import NDArray

from eo_cate.executor import Executor, map_shards
from eo_cate.store import Store

S = TypeVar("S")
Arrays = Mapping[str, NDArray[Any]]


def compute_stored(
    fn: Callable[[S], Arrays],
    shards: Sequence[S],
    keys: Sequence[str],
    stage: str,
    *,
    store: Store | None,
    executor: Executor,
    description: str,
    progress: bool = True,
) -> list[Arrays]:
    """Results of ``fn`` for every shard: from the store where they are, else computed and stored at once.

    Without a store everything is computed, and equal keys once.

    Parameters
    ----------
    fn : callable
        Deterministic and picklable: a shard to named arrays.
    shards, keys : sequences of equal length
        Work, and its content address (`Store.key`); equal keys are computed once.
    stage : str
        Name in the store's manifest.
    """
    found: dict[str, Arrays] = {}
    for key in dict.fromkeys(keys):
        stored = store.load(key) if store else None
        if stored is not None:
            found[key] = stored
    todo = {key: shard for key, shard in zip(keys, shards, strict=True) if key not in found}
    names = list(todo)
    if todo:
        for index, result in map_shards(fn, list(todo.values()), executor, description=description, progress=progress):
            if store:
                store.save(names[index], stage, result)
            found[names[index]] = result
    return [found[key] for key in keys]
