import numpy as np
import pytest

from eo_cate.errors import ConfigError, EoCateError
from eo_cate.executor import map_shards, open_executor


def _work(seed):
    A = np.random.default_rng(seed).standard_normal((60, 60))
    return np.linalg.inv(A @ A.T)


def _fail(seed):
    if seed == 3:
        raise EoCateError("shard 3 is bad")
    return seed


def test_dask_gives_the_bits_of_this_process():
    seeds = list(range(8))
    with open_executor("inline") as here:
        inline = dict(map_shards(_work, seeds, here, description="inline", progress=False))
    with open_executor("dask") as there:
        remote = dict(map_shards(_work, seeds, there, description="dask", progress=False))
        with pytest.raises(EoCateError, match="shard 3 is bad"):
            list(map_shards(_fail, seeds, there, description="failing", progress=False))
    assert sorted(remote) == seeds
    for seed in seeds:
        np.testing.assert_array_equal(inline[seed], remote[seed])


def test_the_address_of_a_running_scheduler_is_used():
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
        open_executor(cluster.scheduler_address) as executor,
    ):
        done = dict(map_shards(_fail, [0, 1, 2], executor, description="remote", progress=False))
    assert done == {0: 0, 1: 1, 2: 2}


def test_an_address_where_nobody_answers_is_a_clear_error():
    with (
        pytest.raises(ConfigError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:9"),
        open_executor("tcp://127.0.0.1:9"),
    ):
        pass
