import os
import subprocess
import sys

import numpy as np
import pytest

from eo_cate.errors import StoreError
from eo_cate.store import Store, digest, write_atomic


def test_what_was_saved_is_loaded_again_by_a_new_process(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["x", "y"])}
    key = Store.key("stage", 1, "input")
    Store(tmp_path).save(key, "stage", arrays)
    loaded = Store(tmp_path).load(key)
    assert loaded is not None
    np.testing.assert_array_equal(loaded["a"], arrays["a"])
    np.testing.assert_array_equal(loaded["b"], arrays["b"])
    assert Store(tmp_path).load(Store.key("stage", 2, "input")) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((np.float32([1, 2]),), (np.float64([1, 2]),)),
        ((np.zeros((2, 3)),), (np.zeros((3, 2)),)),
        (("ab", "c"), ("a", "bc")),
        ((1,), ("1",)),
        ((b"1",), ("1",)),
        (({"a": 1},), ({"a": 2},)),
    ],
)
def test_keys_tell_inputs_apart(one, other):
    assert digest(*one) != digest(*other)
    assert digest(*one) == digest(*one)


def test_a_damaged_result_is_quarantined_not_used(tmp_path):
    store, key = Store(tmp_path), Store.key("stage", 1)
    store.save(key, "stage", {"a": np.arange(3)})
    path = next((tmp_path / "objects").rglob("*.npz"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    assert Store(tmp_path).load(key) is None
    assert not path.exists()
    assert (tmp_path / "quarantine" / path.name).exists()


def test_a_torn_manifest_line_costs_one_result_and_nothing_else(tmp_path):
    store = Store(tmp_path)
    store.save("k1", "stage", {"a": np.arange(3)})
    store.save("k2", "stage", {"a": np.arange(4)})
    text = store.manifest.read_text()
    store.manifest.write_text(text[:-20])
    after = Store(tmp_path)
    assert after.load("k1") is not None
    assert after.load("k2") is None
    after.save("k2", "stage", {"a": np.arange(4)})
    assert Store(tmp_path).load("k2") is not None
    assert Store(tmp_path).stages() == {"stage": (2, after.stages()["stage"][1])}


def test_a_killed_writer_leaves_no_half_result(tmp_path):
    code = (
        "import sys, numpy as np; from pathlib import Path; from eo_cate.store import Store\n"
        "s = Store(Path(sys.argv[1])); i = 0\n"
        "while True:\n    s.save(f'k{i}', 'stage', {'a': np.full(20000, i)}); print(i, flush=True); i += 1\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        process.kill()
    store = Store(tmp_path)
    number = store.stages()["stage"][0]
    assert number >= 19
    for i in range(number):
        loaded = store.load(f"k{i}")
        assert loaded is not None
        np.testing.assert_array_equal(loaded["a"], np.full(20000, i))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_that_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "f"
    write_atomic(target, b"old")
    temporary = target.with_name(f".f.{os.getpid()}.tmp")
    temporary.symlink_to("/dev/full")
    with pytest.raises(StoreError, match="untouched"):
        write_atomic(target, b"new" * 10000)
    assert target.read_bytes() == b"old"
