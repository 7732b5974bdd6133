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
import os, pickle, signal, sys, threading
from pathlib import Path
from helpers_pixel_store import fetch
folder, at, delay = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
scenes, sites = pickle.loads((folder / "input.pickle").read_bytes())
store, seen = str(folder / "store"), 0

def count(event, arguments):
    global seen
    if event not in ("open", "os.mkdir", "os.rename") or store not in str(arguments[0]):
        return
    if event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR):
        seen += 1
        if seen == at:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

print("ready", flush=True)
sys.stdin.readline()
sys.addaudithook(count)
fetch(scenes, sites, folder)
print("done", seen, flush=True)
"""
"""Kills itself a moment after it began to change a file of the store for the ``at``-th time (0: never)."""


def start(folder: Path, at: int = 0, delay: float = 0.0) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(at), str(delay)],
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

    def begin(grown: bool) -> None:
        shutil.rmtree(store)
        if grown:
            shutil.copytree(tmp_path / "grown_from", store)

    changes, seconds = {}, {}
    for grown in (False, True):
        begin(grown)
        child, started = start(tmp_path), time.monotonic()
        changes[grown] = int(child.communicate("go\n")[0].split()[1])
        seconds[grown] = time.monotonic() - started
        assert hash_files(store) == undisturbed
    killed_midway = 0
    for k, (share, moment) in enumerate(rng.random((COUNT, 2))):
        grown = bool(k % 2)
        begin(grown)
        at = 1 + int(share * changes[grown])
        child = start(tmp_path, at, delay=moment * seconds[grown] / changes[grown])
        output = child.communicate("go\n")[0]
        assert child.returncode == -signal.SIGKILL or "done" in output
        killed_midway += "done" not in output and store.exists() and hash_files(store) != undisturbed
        fetch(scenes, sites, tmp_path)
        assert hash_files(store) == undisturbed, f"killed after {at} changes of files"
    assert killed_midway >= COUNT // 2
