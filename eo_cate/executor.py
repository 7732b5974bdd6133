"""Where shards run: in this process, or on dask.distributed. The only place that knows of workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController, threadpool_limits
from tqdm import tqdm

from eo_cate.errors import ConfigError

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True)
class Executor:
    """A place to run shards: ``client`` is None (this process) or a `distributed.Client`."""

    client: Any = None


@contextmanager
def open_executor(where: str = "inline") -> Iterator[Executor]:
    """Open ``inline``, ``dask`` (one single-threaded process per core on this machine) or a scheduler's address.

    Raises
    ------
    ConfigError
        When the address does not answer within ten seconds.
    """
    if where == "inline":
        yield Executor()
        return
    from distributed import Client, LocalCluster

    if where == "dask":
        with (
            LocalCluster(
                n_workers=os.cpu_count() or 1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
            ) as cluster,
            Client(cluster) as client,
        ):
            yield Executor(client)
        return
    try:
        client = Client(where, timeout=10)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(
            f"executor: no dask scheduler answers at {where} ({type(error).__name__}: {error})"
        ) from error
    with client:
        yield Executor(client)


def map_shards(
    fn: Callable[[S], R], shards: Sequence[S], executor: Executor, *, description: str, progress: bool = True
) -> Iterator[tuple[int, R]]:
    """Yield (index, ``fn(shards[index])``) as results come; ``fn`` and shards must pickle, and ``fn`` be deterministic.

    The order is the shards' own in this process and that of completion on dask; a failing shard raises its own error.
    """
    with tqdm(total=len(shards), desc=description, disable=not progress, unit="shard", dynamic_ncols=True) as bar:
        for index, result in _results(fn, shards, executor):
            bar.update()
            yield index, result


def _results(fn: Callable[[S], R], shards: Sequence[S], executor: Executor) -> Iterator[tuple[int, R]]:
    if executor.client is None:
        # Two BLAS threads on busy cores took 30 times the time of one; and one thread gives a worker's very bits.
        controller = ThreadpoolController()
        for index, shard in enumerate(shards):
            with controller.limit(limits=1, user_api="blas"):
                result = fn(shard)
            yield index, result
        return
    from distributed import as_completed

    futures = {executor.client.submit(_on_worker, fn, shard, pure=False): i for i, shard in enumerate(shards)}
    for future in as_completed(list(futures)):
        yield futures[future], future.result()
        future.release()


def _on_worker(fn: Callable[[S], R], shard: S) -> R:
    """Run one shard with one thread, so that workers do not fight for cores."""
    import torch

    torch.set_num_threads(1)
    with threadpool_limits(limits=1):
        return fn(shard)
