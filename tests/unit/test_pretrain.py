"""Continued pretraining: it learns, is the same on any day, goes on where it stopped, and sees pixels only."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from helpers_embeddings import BANDS, STRETCH, ArrayReader
from helpers_run import run_command, write_run
from safetensors.torch import load_file, save_file

from eo_cate.config import load_config, merge
from eo_cate.embeddings import embed_sites, encoder_spec, open_encoder, open_spec
from eo_cate.embeddings.masked import MaskedAutoencoder
from eo_cate.embeddings.pretrain import ChipPool, Recipe, pretrain_vit
from eo_cate.embeddings.pretrained import CARD
from eo_cate.errors import EmbeddingError, TrialError, WeightsError
from eo_cate.executor import Executor
from eo_cate.run import pretrain_trial
from eo_cate.steps.pretrain import find_places
from eo_cate.store import file_digest

NAME, SIDE = "timm-random:test_vit", 64
RECIPE = Recipe(scales=(16, 32), bands=BANDS, stretch=STRETCH, input_px=SIDE, seed=4, batch_size=16)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def striped_chips(seed=0):
    """Stripes of some direction and width: what is hidden can be guessed from what is shown."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    waves = [
        np.sin((np.cos(a) * x + np.sin(a) * y) * 2 * np.pi / w)
        for a, w in zip(rng.uniform(0, 3, 40), rng.uniform(6, 12, 40), strict=True)
    ]
    return (1000 + 400 * np.array(waves)[:, None] * np.array([1, 0.5, 0.8])[:, None, None]).astype(np.float32)


@dataclass(frozen=True)
class StoppingReader(ArrayReader):
    """Stops the run at the n-th read, as a user does."""

    reads_left: tuple[int, ...] = ()

    def read_chips(self, site_ids, size_px):
        counter = self.reads_left[0]
        _LEFT[counter] -= 1
        if _LEFT[counter] < 0:
            raise KeyboardInterrupt
        return super().read_chips(site_ids, size_px)


_LEFT: dict[int, int] = {}


def pool(reader=None, count=40):
    return ChipPool({"before": reader or ArrayReader(striped_chips())}, tuple(f"s{i}" for i in range(count)))


def train(*, steps, recipe=RECIPE, chips=None, **options):
    base = open_encoder(NAME, input_px=SIDE, seed=1)
    return pretrain_vit(chips or pool(), base, recipe, steps=steps, progress=False, **options)


def same(first, second):
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_the_loss_falls_and_the_weights_move():
    found = train(steps=40, recipe=replace(RECIPE, learning_rate=1e-3))
    assert np.mean(found.losses[-10:]) < 0.9 * np.mean(found.losses[:5])
    base = open_encoder(NAME, input_px=SIDE, seed=1).copy_module().state_dict()
    moved = [name for name, value in found.weights.items() if not torch.equal(value, base[name])]
    assert {"cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= set(moved)
    assert all(torch.isfinite(value).all() for value in found.weights.values())


def test_a_seed_fixes_every_bit_and_a_longer_run_begins_alike():
    first, second = train(steps=6), train(steps=6)
    assert first.losses == second.losses
    assert same(first.weights, second.weights)
    assert train(steps=9).losses[:6] == first.losses
    assert not same(train(steps=6, recipe=replace(RECIPE, seed=5)).weights, first.weights)
    assert train(steps=None, seconds=1e-9).losses == first.losses[:1]


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path):
    undisturbed = train(steps=7)
    checkpoint = tmp_path / "checkpoint.safetensors"
    options = {"checkpoint": checkpoint, "checkpoint_seconds": 0.0}
    _LEFT[0] = 9  # a step reads twice, once per scale: it stops inside the fifth
    with pytest.raises(KeyboardInterrupt):
        train(steps=7, chips=pool(StoppingReader(striped_chips(), reads_left=(0,))), **options)
    written = file_digest(checkpoint)
    resumed = train(steps=7, chips=pool(), **options)
    assert file_digest(checkpoint) != written
    assert resumed.losses == undisturbed.losses
    assert same(resumed.weights, undisturbed.weights)
    with pytest.raises(EmbeddingError, match="another recipe"):
        train(steps=7, recipe=replace(RECIPE, seed=9), **options)


def test_hidden_patches_are_not_seen():
    """A patch's target has mean 0: raising all of a hidden patch changes nothing, unless the network looks at it."""
    network = MaskedAutoencoder(open_encoder(NAME, input_px=SIDE, seed=1), mask_share=0.75, seed=0).eval()
    images = np.random.default_rng(0).uniform(0.2, 0.6, (2, 3, SIDE, SIDE)).astype(np.float32)
    noise = np.tile(np.arange(16.0), (2, 1))  # the first row of four patches is shown
    hidden, shown = images.copy(), images.copy()
    hidden[:, :, 48:, 48:] += 0.25
    shown[:, :, :16, :16] += 0.25
    with torch.inference_mode():
        losses = [float(network(one, noise)) for one in (images, hidden, shown)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert abs(losses[2] - losses[0]) > 1e-5


def test_targets_are_patches_row_by_row():
    network = MaskedAutoencoder(open_encoder(NAME, input_px=SIDE, seed=1), mask_share=0.75, seed=0)
    pixels = np.random.default_rng(0).normal(size=(2, 3, SIDE, SIDE))
    found = network._cut(torch.from_numpy(pixels)).numpy()
    for place in (0, 1, 4, 15):
        i, j = divmod(place, 4)
        patch = pixels[1, :, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16].ravel()
        np.testing.assert_allclose(found[1, place], (patch - patch.mean()) / np.sqrt(patch.var() + 1e-6), atol=1e-12)


@pytest.mark.parametrize("name", ["mean_colour", "timm-random:test_convnext"])
def test_what_is_no_vit_is_refused(name):
    with pytest.raises(EmbeddingError, match="cannot be pretrained further"):
        pretrain_vit(
            pool(),
            open_encoder(name, input_px=SIDE),
            replace(RECIPE, input_px=open_encoder(name, input_px=SIDE).input_px),
            steps=1,
        )


def write_card(path, *, bands=BANDS, **changes):
    """The base's own weights, as if a run of no steps had written them."""
    base = open_encoder(NAME, input_px=SIDE, seed=1)
    save_file({k: v.contiguous() for k, v in base.copy_module().state_dict().items()}, path)
    card = {
        "architecture": "test_vit", "bands": list(bands), "base_encoder": NAME, "dim": 64, "input_px": SIDE,
        "licence": "l", "normalisation": base.normalisation, "patch": 16, "sha256": file_digest(path), **changes,
    }  # fmt: skip
    assert set(CARD) <= set(card)
    path.with_suffix(".json").write_text(json.dumps(card))
    return base


def test_the_file_is_an_encoder_with_the_weights_features(tmp_path):
    path = tmp_path / "own.safetensors"
    base = write_card(path)
    images = np.random.default_rng(0).random((3, 3, SIDE, SIDE), dtype=np.float32)
    spec = encoder_spec(f"pretrained:{path}", weights_sha256=file_digest(path))
    opened = open_spec(spec, SIDE, 0)
    np.testing.assert_array_equal(opened.encode(images), base.encode(images))
    assert (spec.name, spec.base, spec.dim, spec.patch) == ("pretrained:own", NAME, 64, 16)
    assert open_spec(spec, 96, 0).encode(np.zeros((1, 3, 96, 96), dtype=np.float32)).shape == (1, 64)
    with pytest.raises(EmbeddingError, match="multiple of 16"):
        open_spec(spec, 40, 0)
    found = embed_sites(
        ArrayReader(striped_chips()), ["s0", "s1"], encoder=spec, scales=[16], bands=BANDS, stretch=STRETCH, input_px=SIDE,
        store=None, executor=Executor(), progress=False,
    )  # fmt: skip
    assert found.attrs["weights_sha256"] == file_digest(path)


def test_wrong_files_are_refused(tmp_path):
    path = tmp_path / "own.safetensors"
    with pytest.raises(WeightsError, match="no such file"):
        encoder_spec(f"pretrained:{path}")
    write_card(path)
    with pytest.raises(EmbeddingError, match="trained on 3 bands, 4 are shown"):
        encoder_spec(f"pretrained:{path}", bands=4)
    with pytest.raises(WeightsError, match="weights_sha256"):
        encoder_spec(f"pretrained:{path}", weights_sha256="0" * 64)
    spec = encoder_spec(f"pretrained:{path}")
    write_card(path, architecture="test_vit2")
    with pytest.raises(WeightsError, match="do not fit test_vit2"):
        open_spec(encoder_spec(f"pretrained:{path}"), SIDE, 5)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(WeightsError, match="its card says"):
        encoder_spec(f"pretrained:{path}")
    with pytest.raises(WeightsError, match="another sha256"):
        spec.build(SIDE, 0)
    path.with_suffix(".json").unlink()
    with pytest.raises(WeightsError, match="no card"):
        encoder_spec(f"pretrained:{path}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sections = {
        "embeddings": {"encoder": NAME, "input_px": 32, "batch_size": 8},
        "map": {"spacing_px": 64, "mask": "land.tif"},
    }
    return write_run(tmp_path_factory.mktemp("small"), **sections)


def pretrain(folder, run_dir, steps=3):
    text = pretrain_trial(
        load_config(folder / "small.yaml"), data_dir=folder, run_dir=run_dir, steps=steps, progress=False
    )
    return text, run_dir / "pretrained" / "timm-random_test_vit.safetensors"


def test_no_outcome_can_enter(folder, tmp_path):
    units = pd.read_csv(folder / "units.csv")
    text, weights = pretrain(folder, tmp_path / "whole")
    card = json.loads(weights.with_suffix(".json").read_text())
    assert card["sha256"] == file_digest(weights)
    assert card["sha256"] in text
    places = find_places(load_config(folder / "small.yaml"), folder, tmp_path)
    assert card["places"] == places.counts
    assert places.counts["sites"] == units["village"].nunique()
    assert places.counts["cells"] > 0
    assert card["chips"] == 2 * len(places.site_ids)
    assert "Y" in units
    assert {"base_encoder", "base_sha256", "method", "chips_source", "seed", "steps", "loss_curve", "licence"} <= set(
        card
    )
    shuffled = units.assign(**{c: np.random.default_rng(0).permutation(units[c]) for c in ("Y", "W", "x1", "tau")})
    bare = units[["village", "lon", "lat"]]
    for name, table in {"shuffled": shuffled, "bare": bare}.items():
        own = tmp_path / name
        own.mkdir()
        for path in folder.iterdir():
            (own / path.name).symlink_to(path)
        (own / "units.csv").unlink()
        table.to_csv(own / "units.csv", index=False)
        assert file_digest(pretrain(own, tmp_path / f"run_{name}")[1]) == card["sha256"], name
    units.drop(columns="lat").to_csv(own / "units.csv", index=False)
    with pytest.raises(TrialError, match="latitude column 'lat' is absent"):
        pretrain(own, tmp_path / "run_lost")


def test_what_is_done_is_kept_and_other_steps_are_not(folder, tmp_path):
    _, weights = pretrain(folder, tmp_path)
    stamp = weights.stat().st_mtime_ns
    assert pretrain(folder, tmp_path)[1].stat().st_mtime_ns == stamp
    before = load_file(weights)
    assert not same(load_file(pretrain(folder, tmp_path, steps=4)[1]), before)
    assert sorted(path.name for path in weights.parent.iterdir()) == [
        f"timm-random_test_vit.{e}" for e in ("json", "safetensors")
    ]
    with pytest.raises(EmbeddingError, match="name one of embeddings"):
        pretrain_trial(load_config(folder / "small.yaml"), data_dir=folder, run_dir=tmp_path, encoder="random_vit")


@pytest.mark.slow
def test_from_the_command_line_to_the_report(folder, tmp_path, capsys):
    from eo_cate import cli

    command = ["pretrain", str(folder / "small.yaml"), "--run-dir", str(tmp_path / "run"), "--quiet", "--steps", "4"]
    cli.app(command, result_action="return_value")
    shown = capsys.readouterr().out
    weights = tmp_path / "run" / "pretrained" / "timm-random_test_vit.safetensors"
    assert f'"pretrained:{weights}"' in shown
    pair = [f"pretrained:{weights.stem}", NAME]
    sections = {
        "embeddings": {"encoder": [NAME, f"pretrained:{weights}"]},
        "estimators": {"num_trees": 20},
        "evaluation": {"num_orders": 1, "num_draws": 19, "num_permutations": 1},
    }
    content = merge(yaml.safe_load((folder / "small.yaml").read_text()), sections)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content))
    numbers = run_command("run", tmp_path, tmp_path / "run", "--data-dir", str(folder))
    rows = {row["configuration"] for row in numbers["rate"]}
    assert {f"image_multi, {name}" for name in pair} <= rows
    found = [
        row
        for row in numbers["contrasts"]
        if (row["first"], row["second"]) == tuple(f"image_multi, {name}" for name in pair)
    ]
    assert {row["estimator"] for row in found} == {"ridge", "forest"}
    assert all(np.isfinite(row["std_err"]) for row in found)
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"AUTOC of {pair[0]} over that of {pair[1]}, all scales together: with RidgeR" in page
    exported = json.loads((tmp_path / "run" / "embeddings" / f"pretrained_{weights.stem}.json").read_text())
    assert exported["properties"]["embedding:weights_sha256"] == file_digest(weights)
