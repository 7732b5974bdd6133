"""`fetch` while servers, links, files and the disk misbehave: three states, never two, and a retry that mends all."""

import re
import resource
from pathlib import Path

import numpy as np
import pytest
import rasterio
from helpers_fetch import (
    CENTRE,
    OFFSETS,
    QUICK,
    along_plane,
    make_middle_archive,
    moved,
    read_table,
    serve_trial,
    sites_under,
    states,
    stored_bytes,
)
from rasterio.transform import from_origin

from eo_cate.errors import ImageryError
from eo_cate.imagery.remote import PlanetaryComputerSigner, RetryPolicy
from eo_cate.simulation.range_server import TOKEN_PATH, Fault
from eo_cate.steps.inputs import open_inputs

PLACES = along_plane(CENTRE, OFFSETS)
BROKEN = "middle/scenes/LE07_L2SP_171060_20000410_02_T1/red.tif"
"""A file of the middle scene."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    return folder, make_middle_archive(folder / "scenes" / "middle", months=(1, 4), cloud_share=0.05)


@pytest.fixture(scope="module")
def module_trial(archive):
    folder, items = archive
    with serve_trial(folder, {"middle": items}, PLACES) as served:
        yield served


@pytest.fixture
def trial(module_trial):
    """The servers of all tests here: links, and so the store's bytes, are the same in each."""
    module_trial.pixels.set_faults([])
    module_trial.pixels.log.clear()
    yield module_trial
    module_trial.pixels.set_faults([])
    module_trial.pixels.tokens = False


@pytest.fixture(scope="module")
def undisturbed(module_trial, tmp_path_factory):
    """Bytes of the store, and the state of every site."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    module_trial.fetch(run_dir)
    return stored_bytes(module_trial, run_dir), states(run_dir)


@pytest.fixture(scope="module")
def under(archive):
    """Sites under the scene whose file is broken."""
    name = BROKEN.split("/")[2]
    (item,) = [item for item in archive[1] if item.id == name]
    found = sites_under(item, CENTRE, OFFSETS)
    assert found == {"in1", "in2", "both"}
    return found


# what passes


PASSING = {
    "429": Fault("status", status=429, retry_after="1", nth=(1, 5)),
    "500": Fault("status", status=500, nth=(1, 7, 8)),
    "503": Fault("status", status=503, probability=0.4, seed=1),
    "504": Fault("status", status=504, nth=(2, 3, 20)),
    "reset": Fault("reset", nth=(1, 15)),
    "truncate": Fault("truncate", nth=(2, 16)),
    "flip": Fault("flip", nth=(1, 4), from_byte=1),
    "drip": Fault("drip", bytes_per_s=20, nth=(3, 30)),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_leaves_no_trace(trial, undisturbed, tmp_path, name):
    trial.pixels.set_faults([PASSING[name]])
    retry = RetryPolicy(**{**QUICK.__dict__, "attempts": 15, "timeout_s": 0.5 if name == "drip" else 5.0})
    found = trial.fetch(tmp_path, retry=retry)
    asked = [(entry.path, entry.start, entry.end) for entry in trial.pixels.log]
    assert len(asked) > len(set(asked)), "nothing was retried: the fault did not happen"
    assert found.result.failures == {}
    assert stored_bytes(trial, tmp_path) == undisturbed[0]
    assert states(tmp_path) == undisturbed[1]


def test_a_signed_link_that_is_refused_is_signed_again(trial, undisturbed, tmp_path):
    trial.pixels.tokens = True
    trial.pixels.set_faults([Fault("status", status=403, nth=(5, 40))])
    given = trial.pixels.tokens_given
    signer = PlanetaryComputerSigner(trial.pixels.address + TOKEN_PATH, storage="127.0.0.1")
    trial.fetch(tmp_path, signer=signer)
    assert [entry.status for entry in trial.pixels.log].count(403) == 2
    assert trial.pixels.tokens_given - given >= 2
    assert stored_bytes(trial, tmp_path) == undisturbed[0]
    assert "sig=" not in (tmp_path / "pixels" / "scenes.json").read_text()


# what lasts, for one file


LASTING = {
    "403": (Fault("status", status=403), "refused the link"),
    "404": (Fault("status", status=404, from_byte=1), "status 404"),
    "429": (Fault("status", status=429, retry_after="0"), "status 429, in 6 attempts"),
    "500": (Fault("status", status=500), "status 500, in 6 attempts"),
    "503": (Fault("status", status=503, from_byte=1), "status 503, in 6 attempts"),
    "504": (Fault("status", status=504), "status 504, in 6 attempts"),
    "reset": (Fault("reset", from_byte=1), "connection failed|cut short"),
    "truncate": (Fault("truncate"), "cut short"),
    "flip": (Fault("flip", from_byte=1), "does not decode, fetched 3 times"),
    "drip": (Fault("drip", bytes_per_s=20, from_byte=1), "no answer in time"),
    "etag": (Fault("etag", from_byte=1), "changed on the server"),
    "private": (Fault("redirect", location="http://10.0.0.1/a.tif"), "redirected to an address that is refused"),
    "metadata": (
        Fault("redirect", location="http://169.254.169.254/latest/", from_byte=1),
        "redirected to an address that is refused",
    ),
}


@pytest.mark.parametrize("name", LASTING)
def test_a_fault_that_lasts_fails_the_sites_under_its_scene_alone(trial, undisturbed, under, tmp_path, name):
    fault, reason = LASTING[name]
    trial.pixels.set_faults([Fault(**{**fault.__dict__, "path": BROKEN})])
    retry = RetryPolicy(**{**QUICK.__dict__, "timeout_s": 0.4 if name == "drip" else 5.0})
    wanted = rf"pixels of {len(under)} of {len(PLACES)} sites failed to arrive, more than imagery.max_failed_share 0 "
    with pytest.raises(ImageryError, match=wanted) as caught:
        trial.fetch(tmp_path, retry=retry)
    assert re.search(reason, str(caught.value)), caught.value
    assert "sig=" not in str(caught.value)
    table = read_table(tmp_path).set_index("site_id")
    assert table["state"].to_dict() == {**undisturbed[1], **dict.fromkeys(under, "failed")}
    assert table.loc[sorted(under), "reason"].str.contains(reason).all()
    assert (table.loc[sorted(set(PLACES) - under), "failed"] == 0).all()

    trial.pixels.set_faults([])
    trial.pixels.log.clear()
    trial.fetch(tmp_path)
    retried = {(entry.path, entry.start) for entry in trial.pixels.log}
    assert states(tmp_path) == undisturbed[1]
    assert stored_bytes(trial, tmp_path) == undisturbed[0]
    assert retried <= requests_of(trial, under, tmp_path / "alone"), "more was fetched than the failed sites need"


def requests_of(trial, names, folder):
    """What a fetch of these sites alone asks for."""
    trial.pixels.log.clear()
    moved(trial, folder, {name: PLACES[name] for name in names}).fetch(folder / "run")
    return {(entry.path, entry.start) for entry in trial.pixels.log}


def test_files_that_changed_since_they_were_first_read_are_refused_before_anything_is_written(trial, tmp_path):
    run_dir = tmp_path / "run"
    first = moved(trial, tmp_path / "first", {name: PLACES[name] for name in ("west", "east")})
    first.fetch(run_dir)
    before = stored_bytes(first, run_dir)
    trial.pixels.set_faults([Fault("etag")])
    grown = moved(trial, tmp_path / "grown", PLACES)
    with pytest.raises(ImageryError, match=r"files changed on their server since they were first read; remove"):
        grown.fetch(run_dir)
    assert stored_bytes(first, run_dir) == before
    trial.pixels.set_faults([])
    grown.fetch(run_dir)
    assert len(states(run_dir)) == len(PLACES)


def test_refresh_fetches_again_what_lies_under_a_file_that_changed(trial, undisturbed, under, tmp_path):
    run_dir, few = tmp_path / "run", moved(trial, tmp_path / "few", {name: PLACES[name] for name in ("west", "in1")})
    few.fetch(run_dir)
    trial.pixels.set_faults([Fault("etag", path=BROKEN)])
    with pytest.raises(ImageryError, match=r"1 of \d+ files changed.*eo-cate fetch --refresh"):
        trial.fetch(run_dir)
    dry = trial.run_command(run_dir, "--dry-run", "--refresh")
    said = "1 files changed on their server: what lies under them is fetched again"
    assert said in dry.stdout, dry.stderr
    number = len(trial.pixels.log)
    done = trial.run_command(run_dir, "--refresh", "--quiet")
    assert said in done.stdout, done.stderr
    assert stored_bytes(trial, run_dir) == undisturbed[0], "the file's name for its version changed, its bytes did not"
    blocks = [entry for entry in trial.pixels.log[number:] if entry.start]
    assert any(BROKEN in entry.path for entry in blocks)
    again = trial.fetch(run_dir, refresh=True)
    assert (again.result.plan.files_changed, again.result.blocks_fetched) == (0, 0)
    assert trial.fetch(run_dir).result.blocks_fetched == 0


def test_a_file_that_cannot_be_asked_whether_it_changed_is_said(trial, tmp_path):
    trial.fetch(tmp_path)
    trial.pixels.set_faults([Fault("status", path=BROKEN, status=404)])
    done = trial.run_command(tmp_path, "--refresh", "--quiet")
    assert done.returncode == 0, done.stderr
    assert "1 files could not be asked whether they changed" in done.stdout


def test_the_command_exits_with_1_lists_what_failed_and_mends_it(trial, undisturbed, under, tmp_path):
    trial.pixels.set_faults([Fault("status", path=BROKEN, status=404)])
    failed = trial.run_command(tmp_path, "--quiet")
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"eo-cate: pixels of {len(under)} of {len(PLACES)} sites failed to arrive")
    assert "imagery.max_failed_share 0" in failed.stderr
    assert "imagery_sites.csv" in failed.stderr
    assert failed.stderr.count("\n") == 1, "one message, no traceback"
    trial.pixels.set_faults([])
    mended = trial.run_command(tmp_path, "--quiet")
    assert mended.returncode == 0, mended.stderr
    assert stored_bytes(trial, tmp_path) == undisturbed[0]


def test_a_share_of_failures_may_be_tolerated_and_its_sites_are_dropped(trial, undisturbed, under, tmp_path):
    trial.pixels.set_faults([Fault("status", path=BROKEN, status=404)])
    tolerant = {"imagery": {"max_failed_share": 0.5, "incomplete_sites": "drop"}}
    fetched = trial.fetch(tmp_path, overrides=tolerant)
    assert set(fetched.result.sites.query("state == 'failed'")["site_id"]) == under
    inputs = open_inputs(trial.config(tolerant), trial.folder, run_dir=tmp_path, progress=False)
    complete = {name for name, state in undisturbed[1].items() if state == "complete"} - under
    assert set(inputs.trial.sites.index) == complete
    assert complete
    with pytest.raises(ImageryError, match="max_failed_share"):
        trial.fetch(tmp_path, overrides={"imagery": {"max_failed_share": 0.49}})
    with pytest.raises(ImageryError, match="complete"):
        open_inputs(
            trial.config({"imagery": {"max_failed_share": 0.5}}), trial.folder, run_dir=tmp_path, progress=False
        )


# hostile catalogues and files


@pytest.mark.parametrize(
    "href",
    [
        "https://evil.example.org/a.tif",
        "file:///etc/passwd",
        "/vsicurl/https://evil.example.org/a.tif",
        "https://10.0.0.1/a.tif",
        "http://169.254.169.254/latest/meta-data",
        "ftp://127.0.0.1/a.tif",
        "s3://bucket/a.tif",
    ],
)
def test_links_of_a_hostile_catalogue_are_one_error_before_any_work(archive, tmp_path, href):
    folder, items = archive

    def plant(features):
        features[3]["assets"]["red"]["href"] = href

    with serve_trial(folder, {"middle": items}, PLACES, edit=plant) as own:
        with pytest.raises(ImageryError) as caught:
            own.fetch(tmp_path / "run")
        assert "\n" not in str(caught.value)
        assert own.pixels.log == []
    assert {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()} <= {"scenes.json"}


def write_vrt(path: Path) -> None:
    """What GDAL would take as a mosaic of a local file, under the name of a TIFF."""
    path.write_text(
        '<VRTDataset rasterXSize="464" rasterYSize="464"><SRS>EPSG:32636</SRS>'
        "<GeoTransform>499995, 30, 0, 300015, 0, -30</GeoTransform>"
        '<VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename relativeToVRT="0">'
        "/etc/passwd</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )


def write_bomb(path: Path) -> None:
    """A small file that declares 160 GB in blocks of 800 MB."""
    place = {"crs": "EPSG:32636", "transform": from_origin(499_995, 300_015, 30, 30)}
    shape = {"width": 200_000, "height": 200_000, "count": 1, "dtype": "uint32", "nodata": 0}
    blocks = {"tiled": True, "blockxsize": 16_000, "blockysize": 16_000, "compress": "deflate", "sparse_ok": True}
    with rasterio.open(path, "w", driver="GTiff", **place, **shape, **blocks) as target:
        target.write(np.ones((1, 16, 16), "uint32"), window=((0, 16), (0, 16)))
    assert path.stat().st_size < 2_000_000


@pytest.mark.parametrize(("write", "reason"), [(write_vrt, "TIFF"), (write_bomb, "declares")])
def test_a_hostile_file_fails_the_sites_under_it_alone(archive, undisturbed, under, tmp_path, write, reason):
    folder, items = archive
    file = folder / "scenes" / f"{write.__name__}.tif"
    write(file)

    def plant(features):
        (item,) = [f for f in features if f["id"] == BROKEN.split("/")[2]]
        address = item["assets"]["red"]["href"].partition("/middle/")[0]
        item["assets"]["red"]["href"] = f"{address}/{file.name}"

    wanted = f"pixels of {len(under)} of {len(PLACES)} sites"
    with (
        serve_trial(folder, {"middle": items}, PLACES, edit=plant) as own,
        pytest.raises(ImageryError, match=wanted) as caught,
    ):
        own.fetch(tmp_path)
    assert reason in str(caught.value)
    assert states(tmp_path) == {**undisturbed[1], **dict.fromkeys(under, "failed")}


def test_an_item_id_never_becomes_a_path(archive, undisturbed, tmp_path):
    folder, items = archive

    def rename(features):
        for k, feature in enumerate(features):
            feature["id"] = f"../../../climbed{k}"

    run_dir = tmp_path / "a" / "b" / "run"
    with serve_trial(folder, {"middle": items}, PLACES, edit=rename) as own:
        own.fetch(run_dir)
    assert states(run_dir) == undisturbed[1]
    assert [path for path in tmp_path.rglob("*") if "climbed" in path.name] == []
    assert {path.name for path in tmp_path.iterdir()} == {"a"}
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {"run"}


# the disk


def test_a_full_disk_is_one_error_and_a_resume_completes(trial, undisturbed, tmp_path):
    """The system refuses to let any file grow beyond a size that the largest shard needs."""
    trial.run_command(tmp_path, "--dry-run")  # the frozen scenes are longer than a shard
    shards = {n: path.stat().st_size for n, path in shard_files(trial, undisturbed, tmp_path / "whole").items()}
    limit = max(shards.values()) - 1
    full = trial.run_command(
        tmp_path, "--quiet", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    assert full.returncode == 1
    assert "cannot be written" in full.stderr
    assert "File too large" in full.stderr
    assert full.stderr.count("\n") == 1, full.stderr
    half = stored_bytes(trial, tmp_path)
    assert half != undisturbed[0]
    assert not [name for name in half if name.endswith(".tmp")]
    done = [name for name in shards if name in half]
    assert 0 < len(done) < len(shards), "some shards are stored, the largest is not"
    assert all(half[name] == undisturbed[0][name] for name in done)
    resumed = trial.run_command(tmp_path, "--quiet")
    assert resumed.returncode == 0, resumed.stderr
    assert stored_bytes(trial, tmp_path) == undisturbed[0]


def shard_files(trial, undisturbed, run_dir):
    trial.fetch(run_dir)
    root = next(path for path in (run_dir / "pixels").iterdir() if path.is_dir())
    return {name: root / name for name in undisturbed[0] if "/c/" in name}
