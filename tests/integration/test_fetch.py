"""`eo-cate fetch` with real parts: a STAC API (rustac), a server that knows ranges, COGs, the command in a process."""

import datetime as dt
import re

import numpy as np
import pytest
import rasterio
from helpers_fetch import (
    CENTRE,
    OFFSETS,
    SIZE_PX,
    along_plane,
    coordinate_digits,
    make_middle_archive,
    moved,
    read_table,
    serve_trial,
    states,
    stored_bytes,
)
from helpers_pixel_store import hash_files, quiet_median
from rasterio.windows import Window

from eo_cate import cli
from eo_cate.errors import ConfigError, ImageryError
from eo_cate.imagery.pixel_store import PixelStoreReader
from eo_cate.imagery.sources import source_name
from eo_cate.run import fetch_trial
from eo_cate.simulation.archive import ArchiveSpec, make_archive
from eo_cate.steps.inputs import open_inputs

PLACES = along_plane(CENTRE, OFFSETS)


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fetch")
    return folder, make_middle_archive(folder / "scenes" / "middle", months=(1, 4, 8))


@pytest.fixture(scope="module")
def trial(items):
    folder, archive = items
    with serve_trial(folder, {"middle": archive}, PLACES) as served:
        yield served


@pytest.fixture(scope="module")
def done(trial, tmp_path_factory):
    """The stage once, undisturbed."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    return run_dir, trial.fetch(run_dir)


def command(trial, run_dir, *arguments):
    """`eo-cate fetch` in this process."""
    begin = ["fetch", str(trial.config_file), "--data-dir", str(trial.folder), "--run-dir", str(run_dir), "--quiet"]
    cli.app([*begin, *arguments], result_action="return_value")


def counts(text, pattern):
    found = re.search(pattern, text)
    assert found, text
    return tuple(found.groups())


def test_the_command_from_a_dry_run_to_a_second_one(items, tmp_path):
    folder, archive = items
    run_dir = tmp_path / "run"
    with serve_trial(folder, {"middle": archive}, PLACES) as served:
        own = moved(served, tmp_path / "trial")
        planned = own.run_command(run_dir, "--dry-run")
        assert planned.returncode == 0, planned.stderr
        assert {path.name for path in run_dir.rglob("*") if path.is_file()} == {"scenes.json"}
        dry = counts(planned.stdout, r"([\d,]+) blocks of [\d,]+ scenes to fetch, ([\d.,]+) MB")
        shards = counts(planned.stdout, r"([\d,]+) shards to compute, 0 stored")
        headers = list(own.pixels.log)

        fetched = own.run_command(run_dir)
        assert fetched.returncode == 0, fetched.stderr
        assert counts(fetched.stdout, r"([\d,]+) blocks fetched, ([\d.,]+) MB; 0 of ([\d,]+) shards") == (*dry, *shards)
        assert "100%" in fetched.stderr
        assert "MB/s" in fetched.stderr
        table = read_table(run_dir)
        assert list(table["site_id"]) == list(PLACES)
        for state, number in table["state"].value_counts().items():
            assert counts(fetched.stdout, rf"before +{state} +(\d+)") == (str(number),)
        asked = [(entry.path, entry.start, entry.end) for entry in own.pixels.log[len(headers) :]]
        assert len(asked) == len(set(asked)), "a range was fetched twice"
        assert {entry.start for entry in headers} == {0}, "a dry run reads headers only"
        stored, number = hash_files(run_dir), len(own.pixels.log)

    # both servers are gone: a request to either would fail
    again = own.run_command(run_dir, "--quiet")
    assert again.returncode == 0, again.stderr
    assert again.stderr == ""
    assert "Scenes of an earlier search" in again.stdout
    assert f"0 blocks fetched, 0.0 MB; {shards[0]} of {shards[0]} shards stored already" in again.stdout
    assert hash_files(run_dir) == stored
    assert len(own.pixels.log) == number
    shown = planned.stdout + planned.stderr + fetched.stdout + fetched.stderr + again.stdout
    shown += (run_dir / "pixels" / "imagery_sites.csv").read_text() + " ".join(stored)
    assert not [digits for digits in coordinate_digits(PLACES) if digits in shown]


def test_refresh_searches_anew(trial, done, capsys):
    run_dir, _ = done
    before, number = hash_files(run_dir), len(trial.pixels.log)
    command(trial, run_dir, "--refresh")
    shown = capsys.readouterr().out
    assert "Searched: asked to search anew" in shown
    assert "changed on their server" not in shown
    assert hash_files(run_dir) == before, "the same scenes of the same files, whose versions stay noted"
    assert {entry.start for entry in trial.pixels.log[number:]} == {0}, "headers to compare, and nothing else"


def test_chips_are_those_of_a_composite_by_hand(trial, done):
    """rasterio's windows of every scene, scaled, masked and reduced by numpy."""
    _, fetched = done
    reader = fetched.readers["before"]
    scenes = fetched.collected.scenes["before"]
    for site, chip in zip(sorted(PLACES), reader.read_chips(sorted(PLACES), SIZE_PX), strict=True):
        a, _, west, _, e, north = reader.grid.transform
        row, col = reader.places.loc[site, ["row", "col"]]
        x, y = west + a * (col - SIZE_PX // 2), north + e * (row - SIZE_PX // 2)
        stack = []
        for scene in scenes:
            layers = []
            for asset in (scene.assets["red"], scene.assets["nir08"], scene.mask):
                path = trial.pixels.folder / asset.href.removeprefix(trial.pixels.address + "/")
                with rasterio.open(path) as source:
                    left, top = (round(v) for v in ~source.transform @ (x, y))
                    window = Window(left, top, SIZE_PX, SIZE_PX)
                    layers.append(source.read(1, window=window, boundless=True, fill_value=source.nodata))
            # fill, dilated cloud, cirrus, cloud, shadow, snow: bits 0 to 5
            clear = (layers[2] & 0b111111 == 0) & (layers[0] != 0) & (layers[1] != 0)
            values = np.stack(layers[:2]).astype(np.float32) * np.float32(2.75e-5) + np.float32(-0.2)
            stack.append(np.where(clear, values, np.float32(np.nan)))
        expected = quiet_median(np.stack(stack), axis=0)
        assert chip.tobytes() == expected.astype(np.float32).tobytes(), site


def test_a_site_added_in_a_searched_cell_fetches_what_is_new(trial, done, tmp_path):
    """It is the middle scene's, in a block that no site's chip has reached."""
    run_dir = tmp_path / "run"
    few = {name: PLACES[name] for name in ("west", "east")}
    first = moved(trial, tmp_path / "few", few)
    first.fetch(run_dir)
    number = len(trial.pixels.log)
    grown = moved(trial, tmp_path / "grown", {**few, "south": PLACES["south"]}).fetch(run_dir)
    assert grown.collected.searched == ""
    new = {(e.path, e.start) for e in trial.pixels.log[number:] if e.start}
    number, beside = len(trial.pixels.log), (PLACES["south"][0] + 1e-6, PLACES["south"][1])
    moved(trial, tmp_path / "alone", {"south": PLACES["south"], "beside": beside}).fetch(tmp_path / "alone_run")
    alone = {(e.path, e.start) for e in trial.pixels.log[number:] if e.start}
    assert new == alone
    assert len(new) > 0
    assert states(run_dir)["south"] == done[1].result.sites.set_index("site_id")["state"]["south"]
    with_far = moved(trial, tmp_path / "far", {**few, "far": (PLACES["west"][0] - 1.0, PLACES["west"][1])})
    found = with_far.fetch(run_dir)
    assert "degree cells that were not searched" in found.collected.searched
    assert states(run_dir)["far"] == "off imagery"


def test_other_bands_are_another_store(trial, done, tmp_path):
    run_dir = tmp_path / "run"
    narrow = {"imagery": {"bands": ["red"]}, "embeddings": {"bands": ["red"], "stretch": [[0.0, 0.3]]}}
    one = trial.fetch(run_dir, overrides=narrow)
    before = stored_bytes(trial, run_dir, narrow)
    both = trial.fetch(run_dir)
    assert both.collected.searched == "the frozen scenes were searched with other bands"
    names = {source_name(trial.config(o).imagery) for o in (narrow, {})}
    assert len(names) == 2
    assert {path.name for path in (run_dir / "pixels").iterdir() if path.is_dir()} == names
    assert stored_bytes(trial, run_dir, narrow) == before
    assert stored_bytes(trial, run_dir) == stored_bytes(trial, done[0])
    red = one.readers["before"].read_chips(["in1"], SIZE_PX)
    assert red.tobytes() == both.readers["before"].read_chips(["in1"], SIZE_PX)[:, :1].tobytes()


# before and after the treatment


def test_periods_that_reach_the_treatment_are_refused(trial):
    late = {"imagery": {"periods": [{"name": "during", "start": "2008-01-01", "end": "2008-07-01"}]}}
    with pytest.raises(ConfigError, match="treatment_start"):
        trial.config(late)
    with pytest.raises(ConfigError, match="treatment_start"):
        trial.config({"trial": {"treatment_start": None}})


def test_a_scene_that_ends_after_the_period_is_not_read(items, tmp_path):
    """Taken over midnight: its first moment is in the period, its last is the treatment's first day."""
    folder, archive = items
    days = {"datetime": None, "start_datetime": "2000-04-30T23:59:58Z", "end_datetime": "2000-05-01T00:00:09Z"}
    names = []

    def delay(features):
        late = [f for f in features if f["properties"]["datetime"].startswith("2000-04-10")]
        late[4]["properties"].update(days)
        names.append(late[4]["id"])

    period = [{"name": "before", "start": "2000-01-01", "end": "2000-04-30"}]
    with serve_trial(folder, {"middle": archive}, PLACES, edit=delay, periods=period) as served:
        found = served.fetch(tmp_path, overrides={"trial": {"treatment_start": "2000-05-01"}})
        asked = " ".join(entry.path for entry in served.pixels.log)
    acquired = [scene.acquired.date() for scene in found.collected.scenes["before"]]
    assert max(acquired) == dt.date(2000, 4, 10)
    assert names[0] not in asked
    assert "LE07_L2SP_170060_20000410_02_T1" in asked


def test_a_period_for_description_only_is_fetched_and_tabled_but_not_embedded(trial, tmp_path):
    config = trial.config(
        {
            "trial": {"treatment_start": "2000-06-01"},
            "imagery": {
                "periods": [
                    {"name": "before", "start": "2000-01-01", "end": "2000-05-31"},
                    {
                        "name": "after",
                        "start": "2000-06-01",
                        "end": "2000-12-31",
                        "post_treatment_for_description_only": True,
                    },
                ],
                "incomplete_sites": "drop",
            },
        }
    )
    text = fetch_trial(config, data_dir=trial.folder, run_dir=tmp_path, progress=False)
    assert "after" in text
    assert set(read_table(tmp_path)["period"]) == {"before", "after"}
    inputs = open_inputs(config, trial.folder, run_dir=tmp_path, progress=False)
    assert list(inputs.readers) == ["before"]
    source = source_name(config.imagery)
    after = PixelStoreReader(tmp_path / "pixels", source, "after", trial.sites(), size_px=SIZE_PX)
    assert np.isfinite(after.read_chips(sorted(PLACES), SIZE_PX)).any()


# places at the edges


def test_sites_at_every_kind_of_edge(items, tmp_path_factory):
    """One run over four archives; what is printed, written and said holds no coordinate."""
    folder, middle = items

    def archive(name, centre, day, cloud=0.0):
        spec = ArchiveSpec(
            *("landsat-c2-l2", centre, 9_000.0, [dt.date(2000, month, day) for month in (2, 5)], "landsat-7"),
            bands=("red", "nir08"),
            scene_px=400,
            cloud_share=cloud,
            ground="landscape",
        )
        return make_archive(folder / "scenes" / name, spec, seed=2)

    boundary, dateline, overcast = (36.0, 2.5), (180.0, -16.5), (33.0, -5.5)
    archives = {
        "middle": middle,
        "boundary": archive("boundary", boundary, 11),
        "dateline": archive("dateline", dateline, 12),
        "overcast": archive("overcast", overcast, 13, 1.0),
    }
    places = {
        "in1": PLACES["in1"],
        **along_plane(CENTRE, {"off": (60_123.4, 3_210.9), "edge": (0.0, 17_010.0)}),
        **along_plane(boundary, {"zone36": (-217.3, 111.7), "zone37": (233.1, -104.2)}),
        **along_plane(dateline, {"before180": (-341.9, 57.3), "after180": (287.7, -99.1)}),
        **along_plane(overcast, {"cloud": (123.7, 45.1)}),
        "pole": (33.123456, 85.654321),
    }
    with serve_trial(folder, archives, places, incomplete_sites="drop") as served:
        own = moved(served, tmp_path_factory.mktemp("edges"))
        run_dir = own.folder / "run"
        ran = own.run_command(run_dir)
        assert ran.returncode == 0, ran.stderr
        table = read_table(run_dir).set_index("site_id")
        inputs = open_inputs(own.config(), own.folder, run_dir=run_dir, progress=False)
        reader = inputs.readers["before"]
    expected = {
        "in1": "complete",
        "off": "off imagery",
        "edge": "partly covered",
        "zone36": "complete",
        "zone37": "complete",
        "before180": "complete",
        "after180": "complete",
        "cloud": "cloudy",
        "pole": "no UTM zone",
    }
    assert table["state"].to_dict() == dict(sorted(expected.items()))
    assert table["reason"]["off"] == "no scene reaches here"
    assert "pixels in no scene" in table["reason"]["edge"]
    assert 0 < table["uncovered"]["edge"] < 1
    assert table["reason"]["cloud"].startswith("100.0% of pixels never clear")
    assert table["reason"]["pole"] == "beyond 84 degrees of latitude, or without coordinates"
    assert reader.places["zone"][["zone36", "zone37", "before180", "after180"]].tolist() == [36, 37, 60, 1]
    crossing = table.loc[["zone36", "zone37", "before180", "after180"]]
    assert ((crossing["warped"] > 0) == crossing["reason"].str.contains("seen from another UTM zone only")).all()
    assert (crossing["warped"] > 0).any()
    assert sorted(inputs.trial.sites.index) == sorted(name for name, state in expected.items() if state == "complete")

    shown = ran.stdout + ran.stderr + table.to_csv() + " ".join(map(str, run_dir.rglob("*")))
    assert not [digits for digits in coordinate_digits(places) if digits in shown]
    with pytest.raises(ImageryError, match="complete") as caught:
        open_inputs(own.config({"imagery": {"incomplete_sites": "error"}}), own.folder, run_dir=run_dir, progress=False)
    assert not [digits for digits in coordinate_digits(places) if digits in str(caught.value)]
