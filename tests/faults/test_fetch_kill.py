"""kill -9 at any moment: a resumed fetch leaves the bytes of an undisturbed one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers_pixel_store import fetch, hash_files, sites_at, write_scene

TESTS = Path(__file__).resolve().parent.parent
WEST, NORTH = 499_995, 100_005
COUNT = 25

CHILD = """
import pickle, sys
from pathlib import Path
from helpers_pixel_store import fetch
folder = Path(sys.argv[1])
scenes, sites = pickle.loads((folder / "input.pickle").read_bytes())
print("ready", flush=True)
sys.stdin.readline()
fetch(scenes, sites, folder)
print("done", flush=True)
"""


def start(folder: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.slow
def test_killed_and_resumed_is_undisturbed(tmp_path):
    import pickle

    scenes = [write_scene(tmp_path, f"a{day}", day=day, shape=(1300, 1300)) for day in (1, 2, 3)]
    rng = np.random.default_rng(0)
    places = rng.integers(40, 1260, (12, 2))
    sites = sites_at([(WEST + 30 * int(c), NORTH - 30 * int(r)) for r, c in places])
    (tmp_path / "input.pickle").write_bytes(pickle.dumps((scenes, sites)))
    store = tmp_path / "store"
    fetch(scenes, sites.iloc[:4], tmp_path)  # a first run that the killed ones grow
    shutil.move(store, tmp_path / "grown_from")
    fetch(scenes, sites, tmp_path)
    undisturbed = hash_files(store)

    def measure() -> float:
        shutil.rmtree(store)
        shutil.copytree(tmp_path / "grown_from", store)
        child, begin = start(tmp_path), time.monotonic()
        child.communicate("go\n")
        assert hash_files(store) == undisturbed
        return time.monotonic() - begin

    duration = min(measure() for _ in range(2))
    killed_midway, waiting = 0, start(tmp_path)
    for k, share in enumerate(rng.random(COUNT)):
        shutil.rmtree(store)
        if k % 2:
            shutil.copytree(tmp_path / "grown_from", store)
        child, waiting = waiting, start(tmp_path)
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
        time.sleep(share * duration)
        os.kill(child.pid, signal.SIGKILL)
        output = child.communicate()[0]
        killed_midway += "done" not in output and store.exists() and hash_files(store) != undisturbed
        fetch(scenes, sites, tmp_path)
        assert hash_files(store) == undisturbed, f"killed after {share:.2f} of a run"
    waiting.kill()
    waiting.communicate()
    assert killed_midway >= COUNT // 5, "kills come by the clock: on busy cores fewer land inside the fetch (10 seen)"
