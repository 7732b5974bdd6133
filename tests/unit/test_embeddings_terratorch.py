"""Prithvi through terratorch, where it is installed (it is not in requirements.lock): random weights, real architecture."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from helpers_embeddings import check_contract
from safetensors.torch import save_file

from eo_cate.embeddings import Pixels, encoder_spec
from eo_cate.errors import EmbeddingError, WeightsError
from eo_cate.store import file_digest

NAME = "prithvi_eo_v2_tiny_tl"
SHOWN = ("B12", "B04", "B8A", "B02", "B03", "B11")  # its order is blue, green, red, narrow infrared, both short-wave
PIXELS = Pixels(SHOWN, ((-200.0, 8_000.0),) * 6)
needs_terratorch = pytest.mark.skipif(importlib.util.find_spec("terratorch") is None, reason="terratorch is optional")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file with the tensors of the whole autoencoder, as they are published, and the autoencoder."""
    from terratorch.models.backbones import prithvi_vit

    torch.manual_seed(4)
    module = prithvi_vit.prithvi_eo_v2_tiny_tl_mae(pretrained=False, num_frames=4).eval()
    for parameter in module.parameters():
        if parameter.abs().max() < 1e-3:
            torch.nn.init.normal_(parameter, std=0.02)
    file = tmp_path_factory.mktemp("terratorch") / "prithvi.safetensors"
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, file)
    return file, module


@needs_terratorch
def test_prithvi_keeps_the_contract_and_gives_terratorchs_features(published):
    from terratorch.models.backbones import prithvi_vit

    file, module = published
    spec = encoder_spec(f"terratorch:{NAME}", bands=6, pixels=PIXELS, weights=file)
    assert (spec.dim, spec.gsd_m, spec.weights_sha256) == (192, 30.0, file_digest(file))
    numbers = np.random.default_rng(0).uniform(0, 4_000, (5, 6, 32, 32)).astype(np.float32)
    found = check_contract(spec, 32, (numbers + 200) / 8_200)
    whole = prithvi_vit.prithvi_eo_v2_tiny_tl(pretrained=False, num_frames=1, img_size=32).eval()
    state = module.state_dict()
    own = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    whole.load_state_dict(own | {"pos_embed": whole.pos_embed}, strict=True)
    mean, std = (torch.tensor(v).view(1, 6, 1, 1) for v in (prithvi_vit.PRITHVI_V2_MEAN, prithvi_vit.PRITHVI_V2_STD))
    ordered = torch.from_numpy(numbers[:, [SHOWN.index(b) for b in ("B02", "B03", "B04", "B8A", "B11", "B12")]])
    with torch.inference_mode():
        expected = whole.forward_features((ordered - mean) / std)[-1][:, 1:].mean(dim=1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@needs_terratorch
def test_random_weights_follow_the_seed():
    spec = encoder_spec(f"terratorch-random:{NAME}", bands=6, pixels=PIXELS)
    images = np.random.default_rng(0).random((2, 6, 32, 32), dtype=np.float32)
    one, again, other = (spec.build(32, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.encode(images), again.encode(images))
    assert one.digest == again.digest != other.digest


@needs_terratorch
def test_what_does_not_fit_is_refused(tmp_path, published):
    for name, pixels, message in (
        ("prithvi_eo_v2_30", PIXELS, "did you mean prithvi_eo_v2_300"),
        (NAME, Pixels(SHOWN[:5], PIXELS.stretch[:5]), r"takes 6 bands: blue \(490 nm\)"),
        (NAME, Pixels((*SHOWN[:5], "B01"), PIXELS.stretch), "lacking: .*swir16"),
        (NAME, None, "pixels=Pixels"),
    ):
        with pytest.raises(EmbeddingError, match=message):
            encoder_spec(f"terratorch-random:{name}", bands=6, pixels=pixels)
    with pytest.raises(WeightsError, match=r"needs embeddings\.weights"):
        encoder_spec(f"terratorch:{NAME}", bands=6, pixels=PIXELS)
    with pytest.raises(EmbeddingError, match="multiples of 16"):
        encoder_spec(f"terratorch-random:{NAME}", bands=6, pixels=PIXELS).build(40, 0)
    state = {k: v.contiguous() for k, v in published[1].state_dict().items()}
    for left_out in ("encoder.blocks.3.", "encoder.patch_embed."):
        part = tmp_path / f"{left_out}safetensors"
        save_file({k: v for k, v in state.items() if not k.startswith(left_out)}, part)
        with pytest.raises(WeightsError, match=r"tensors of the model are not in it|no checkpoint of prithvi"):
            encoder_spec(f"terratorch:{NAME}", bands=6, pixels=PIXELS, weights=part).build(32, 0)


def test_without_the_package_the_extra_is_named(monkeypatch):
    for name in [m for m in sys.modules if m.partition(".")[0] == "terratorch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "terratorch", None)
    with pytest.raises(EmbeddingError, match=r'needs terratorch: pip install "eo-cate\[terratorch\]"'):
        encoder_spec(f"terratorch:{NAME}", bands=6, pixels=PIXELS)
