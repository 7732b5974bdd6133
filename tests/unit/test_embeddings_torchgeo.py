"""torchgeo's models: real architectures with random weights, from files in the layout of the published ones."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers_embeddings import ArrayReader, check_contract
from helpers_rasters import make_places, write_raster
from safetensors.torch import load_file, save_file

from eo_cate.config import EmbeddingsConfig
from eo_cate.embeddings import Pixels, embed_sites, encoder_spec, open_spec
from eo_cate.errors import EmbeddingError, EoCateError, WeightsError
from eo_cate.executor import Executor
from eo_cate.imagery import RasterReader
from eo_cate.steps.encoders import open_specs, pixels_of
from eo_cate.store import Store, file_digest

DOCS = Path(__file__).resolve().parents[2] / "docs" / "encoders.md"
L2A = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
L1C = (*L2A[:10], "B10", *L2A[10:])
ETM = ("blue", "green", "red", "nir08", "swir16", "swir22")
MOCO = "vit_small_patch16_224.sentinel2_all_moco"
CASES = {
    "dofa_small_patch16_224": (("B04", "B03", "B02", "B08", "B11"), 32),
    "panopticon_vitb14": (("red", "nir", "cirrus"), 28),
    "croma_base": (L2A[::-1], 24),
    MOCO: (L1C, 32),
    "vit_small_patch14_dinov2.sentinel2_all_softcon": (L1C, 28),
    "resnet50.sentinel2_all_seco_eco": (L2A, 32),
    "resnet18.landsat_etm_sr_moco": (ETM, 32),
}
FILED = ("dofa_small_patch16_224", "panopticon_vitb14", "croma_base", MOCO)


def shown(bands, **changes):
    return Pixels(**{"bands": tuple(bands), "stretch": ((0.0, 10_000.0),) * len(bands), **changes})


def spec_for(name, bands, random=True, **options):
    pixels = options.pop("pixels", None) or shown(bands)
    family = "torchgeo-random" if random else "torchgeo"
    return encoder_spec(f"{family}:{name}", bands=len(pixels.bands), pixels=pixels, **options)


def make_module(name):
    """torchgeo's own module at the side of its published weights, every tensor drawn."""
    from torchgeo.models import api

    torch.manual_seed(3)
    model = name.partition(".")[0]
    options = {
        "panopticon_vitb14": {"img_size": 518},
        "croma_base": {"modalities": ["optical"], "image_size": 24},
        "vit_small_patch16_224": {"in_chans": 13, "num_classes": 5},
    }
    module = api.get_model(model, **options.get(model, {}))
    for parameter in module.parameters():
        if parameter.abs().max() < 1e-3:  # biases, positions, LayerScale: at 0 they could be lost unseen
            torch.nn.init.normal_(parameter, std=0.02)
    return module


def publish(name, module):
    """Its tensors as they are published: see the strict loading in torchgeo's own builders."""
    state = dict((module.model if name == "panopticon_vitb14" else module).state_dict())
    if name.startswith("dofa"):
        return {k: v for k, v in state.items() if not k.startswith(("fc_norm", "head"))}
    if name == "panopticon_vitb14":
        return state | {"mask_token": torch.zeros(1, 768)}
    if name == "croma_base":
        return {k: v for k, v in state.items() if k != "attn_bias"} | {"s1_encoder.linear_input.bias": torch.zeros(2)}
    return state


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Name -> (weight file, torchgeo's module with the same tensors)."""
    where = tmp_path_factory.mktemp("torchgeo")
    found = {}
    for name in FILED:
        module = make_module(name).eval()
        save_file({k: v.contiguous() for k, v in publish(name, module).items()}, where / f"{name}.safetensors")
        found[name] = (where / f"{name}.safetensors", module)
    return found


def draw_images(bands, px, count=5, seed=0):
    """Images of a stretch from 0 to 10,000: reflectance below .4, a smooth surface and noise."""
    rng = np.random.default_rng(seed)
    return (rng.random((count, bands, 1, 1)) * 0.2 + rng.random((count, bands, px, px)) * 0.2).astype(np.float32)


def published_normalize(name):
    from torchgeo.models import api

    model, _, tag = name.partition(".")
    entry = api.get_model_weights(model)[tag.upper()]
    return next(step for step in entry.transforms if type(step).__name__ == "Normalize")


def statistics(*sides):
    return tuple(torch.tensor(side).view(1, -1, 1, 1) for side in sides)


def place(module, px, patch, old):
    """Positions of another side, as torchgeo resizes them."""
    from torchgeo.models.copernicusfm import resize_abs_pos_embed

    module.pos_embed.data = resize_abs_pos_embed(module.pos_embed.data, px // patch, old)


def run_torchgeo(name, module, numbers):
    """Features by torchgeo's own functions of Sentinel-2's numbers (reflectance x 10,000), as the sources say."""
    px = numbers.shape[-1]
    if name == MOCO:
        module.patch_embed.strict_img_size = False
        place(module, px, 16, 14)
        return module.forward_head(module.forward_features(published_normalize(name)(numbers.clone())), pre_logits=True)
    if name == "croma_base":
        numbers = numbers.flip(1)  # its bands are shown in the reverse of its order
        mean, sd = statistics(
            [752.40087073, 884.29673756, 1144.16202635, 1297.47289228, 1624.90992062, 2194.6423161, 2422.21248945,
             2517.76053101, 2581.64687018, 2645.51888987, 2368.51236873, 1805.06846033],
            [1108.02887453, 1155.15170768, 1183.6292542, 1368.11351514, 1370.265037, 1355.55390699, 1416.51487101,
             1474.78900051, 1439.3086061, 1582.28010962, 1455.52084939, 1343.48379601],
        )  # fmt: skip
        low, high = mean - 2 * sd, mean + 2 * sd
        return module(x_optical=((numbers - low) / (high - low)).clip(0, 1))["optical_GAP"]
    if name == "panopticon_vitb14":
        place(module.model, px, 14, 37)
        mean, sd = statistics([1408.1113, 2033.4019, 16.7465], [994.7734, 1170.9979, 15.1294])
        waves = torch.tensor([[665.0, 842.0, 1375.0]]).repeat(len(numbers), 1)
        return module({"imgs": (numbers - mean) / sd, "chn_ids": waves})
    place(module, px, 16, 14)
    torch.nn.init.ones_(module.fc_norm.weight)  # the published file has none: as torchgeo leaves them
    torch.nn.init.zeros_(module.fc_norm.bias)
    mean, sd = statistics(
        [114.1099739, 114.81779093, 126.63977424, 101.435633, 72.32804172],
        [77.84352553, 69.96844919, 67.42465279, 60.29744676, 47.88519516],
    )
    top = torch.tensor([3558.0, 3558.0, 3558.0, 8160.0, 8160.0]).view(1, 5, 1, 1)
    bytes_ = (numbers / top).clip(0, 1) * 255
    return module.forward_features((bytes_ - mean) / sd, [0.665, 0.56, 0.49, 0.842, 1.61])


@pytest.mark.parametrize("name", CASES)
def test_every_model_keeps_the_contract_and_gives_torchgeos_features(name, files):
    """From a file: published layout, statistics of bands and the side of positions, against torchgeo's functions."""
    bands, px = CASES[name]
    numbers = draw_images(len(bands), px) * 10_000
    pixels = shown(bands, stretch=((-500.0, 9_000.0),) * len(bands))
    images = (numbers + 500) / 9_500
    if name not in files:
        check_contract(spec_for(name, bands, pixels=pixels), px, images)
        return
    file, module = files[name]
    spec = spec_for(name, bands, random=False, weights=file, pixels=pixels)
    assert (spec.weights_sha256, spec.where) == (file_digest(file), "file")
    found = check_contract(spec, px, images)
    with torch.inference_mode():
        expected = run_torchgeo(name, module, torch.from_numpy(numbers)).numpy()
    # images are float32: 1e-7 of the stretch, enlarged by its width over the smallest sd (9,500 / 15 for cirrus)
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


def test_random_weights_follow_the_seed(files):
    images = draw_images(13, 32)
    drawn = [spec_for(MOCO, L1C).build(32, seed) for seed in (1, 1, 2)]
    one, again, other = (encoder.encode(images) for encoder in drawn)
    np.testing.assert_array_equal(one, again)
    assert drawn[0].digest == drawn[1].digest
    filed = spec_for(MOCO, L1C, random=False, weights=files[MOCO][0]).build(32, 1)
    for different in (other, filed.encode(images)):
        assert not np.allclose(one, different, rtol=0.1)
    assert len({drawn[0].digest, drawn[2].digest, filed.digest}) == 3


@pytest.mark.parametrize("name", [MOCO, "resnet18.landsat_etm_sr_moco"])
def test_bands_are_brought_to_the_models_order(name):
    bands, px = CASES[name]
    images = draw_images(len(bands), px)
    stretch = tuple((10.0 * j, 10_000.0 + 100 * j) for j in range(len(bands)))
    mixed = np.random.default_rng(1).permutation(len(bands))
    one = open_spec(spec_for(name, bands, pixels=shown(bands, stretch=stretch)), px, 1)
    other = open_spec(
        spec_for(name, bands, pixels=shown([bands[j] for j in mixed], stretch=tuple(stretch[j] for j in mixed))), px, 1
    )
    features = one.encode(images)
    np.testing.assert_array_equal(other.encode(np.ascontiguousarray(images[:, mixed])), features)
    assert not np.allclose(one.encode(np.ascontiguousarray(images[:, mixed])), features, rtol=1e-3)


def test_names_of_bands_are_one_table():
    by_name = spec_for("croma_base", L2A)
    common = ("coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "nir09", "swir16", "swir22")  # fmt: skip
    measured = (442.7, 492.4, 559.8, 664.6, 704.1, 740.5, 782.8, 832.8, 864.7, 945.1, 1613.7, 2202.4)
    unnamed = shown([f"band_{j}" for j in range(12)], wavelengths_nm=measured)
    own = [name.replace("B0", "B") for name in L2A]  # as torchgeo names them
    for pixels in (shown(common), shown(own), unnamed):
        assert spec_for("croma_base", L2A, pixels=pixels).build.order == by_name.build.order
    landsat = spec_for("resnet18.landsat_etm_sr_moco", [f"SR_B{j}" for j in (7, 5, 4, 3, 2, 1)])
    assert landsat.build.order == (5, 4, 3, 2, 1, 0)
    assert spec_for("resnet18.landsat_etm_sr_moco", ETM).gsd_m == 30


def test_cirrus_may_be_left_out_and_is_reflectance_0():
    images = draw_images(13, 32)
    images[:, L1C.index("B10")] = 0
    whole = open_spec(spec_for(MOCO, L1C), 32, 1)
    without = open_spec(spec_for(MOCO, L2A), 32, 1)
    kept = np.ascontiguousarray(images[:, [L1C.index(band) for band in L2A]])
    np.testing.assert_array_equal(without.encode(kept), whole.encode(images))
    assert without.digest != whole.digest


def test_landsat_is_brought_to_the_8_bit_scale_of_its_training():
    """torchgeo's experiments/ssl4eo: reflectance 0 to .3 becomes 0 to 256 of a byte, its transforms divide by 255."""
    images = draw_images(6, 32) * 1.5  # reflectance up to .6: some lie above .3
    pixels = shown(ETM, stretch=((0.2 / 2.75e-5, 1.2 / 2.75e-5),) * 6, reflectance=(0.2 / 2.75e-5, 1.2 / 2.75e-5))
    encoder = open_spec(spec_for("resnet18.landsat_etm_sr_moco", ETM, pixels=pixels), 32, 1)
    expected = np.clip(images / 0.3, 0, 1) * 256 / 255
    with torch.inference_mode():
        features = encoder.copy_module().model(torch.from_numpy(expected)).numpy()
    np.testing.assert_allclose(encoder.encode(images), features, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def rasters(tmp_path_factory):
    """Five bands of made-up land as GeoTIFFs of Sentinel-2's numbers, 200 to 3,000."""
    where = tmp_path_factory.mktemp("rasters")
    rng = np.random.default_rng(7)
    names = CASES["dofa_small_patch16_224"][0]
    paths = {}
    for name in names:
        coarse = np.kron(rng.uniform(500, 2500, (15, 15)), np.ones((6, 6)))
        pixels = (coarse + rng.uniform(-300, 300, coarse.shape)).round().astype(np.uint16)
        paths[name] = write_raster(where / f"{name}.tif", pixels)
    return RasterReader(paths, make_places([(30, 40), (60, 25), (45, 70)]))


def embed(rasters, bands, stretch, tmp_path, file, **changes):
    options = {"scales": (16, 32), "input_px": 32, "shard_size": 2, "progress": False}
    pixels = Pixels(tuple(bands), tuple(stretch))
    spec = spec_for("dofa_small_patch16_224", bands, random=False, weights=file, pixels=pixels)
    return embed_sites(
        rasters, ["s0", "s1", "s2"], encoder=spec, bands=bands, stretch=stretch, store=Store(tmp_path),
        executor=Executor(), **{**options, **changes},
    )  # fmt: skip


def test_dofa_end_to_end_depends_on_neither_the_order_of_bands_nor_the_stretch(rasters, tmp_path, files):
    file, bands = files["dofa_small_patch16_224"][0], CASES["dofa_small_patch16_224"][0]
    wide = [(0.0, 10_000.0)] * 5
    found = embed(rasters, bands, wide, tmp_path, file)
    assert found.shape == (3, 2, 1, 384)
    assert found.attrs["weights_sha256"] == file_digest(file)
    spread = found.values.std(axis=0).mean()
    other = embed(rasters, bands[::-1], [(-1_000.0 - j, 5_000.0 + 700 * j) for j in range(5)], tmp_path, file)
    # sums over bands in another order, pixels rounded to 6e-8 of a stretch of 6,000 to 9,800 where an sd is 900 to
    # 1,900: 1e-6 of an input, far below what tells places apart
    np.testing.assert_allclose(other.values, found.values, atol=1e-4 * np.abs(found.values).max())
    assert spread > 1e-2 * np.abs(found.values).max()
    clipped = embed(rasters, bands, [(0.0, 1_000.0)] * 5, tmp_path, file)  # does not cover them: what is lost is lost
    assert np.abs(clipped.values - found.values).max() > spread


def test_what_was_made_for_other_bands_is_refused(rasters, tmp_path, files):
    file, bands = files["dofa_small_patch16_224"][0], CASES["dofa_small_patch16_224"][0]
    spec = spec_for("dofa_small_patch16_224", bands, random=False, weights=file)
    options = {"scales": [16], "input_px": 32, "store": None, "executor": Executor(), "progress": False}
    for shown_bands, stretch in ((bands[::-1], [(0, 10_000)] * 5), (bands, [(0, 9_000)] * 5)):
        with pytest.raises(EmbeddingError, match="was made for bands"):
            embed_sites(rasters, ["s0"], encoder=spec, bands=shown_bands, stretch=stretch, **options)
    named = embed_sites(rasters, ["s0"], encoder="torchgeo-random:resnet18.sentinel2_rgb_moco",
                        bands=["B02", "B03", "B04"], stretch=[(0, 4_000)] * 3, **options)  # fmt: skip
    assert named.shape == (1, 1, 1, 512)


@pytest.mark.parametrize(
    ("name", "pixels", "message"),
    [
        ("dofa_smal_patch16_224", shown(["B04"]), "did you mean dofa_small_patch16_224"),
        ("vit_small_patch16_224", shown(L1C), r"did you mean vit_small_patch16_224\.landsat_etm_sr_moco"),
        ("swin_v2_b.sentinel2_mi_ms_satlas", shown(L1C), "not known here"),
        ("croma_base", shown(L2A[:4]), r"takes 12 bands: B01 \(443 nm\), .*B12 \(2190 nm\); 4 are shown"),
        ("croma_base", shown(L1C), "takes 12 bands"),
        (MOCO, shown(L1C[:11]), r"takes 13 bands \(B10 may be left out\)"),
        ("croma_base", shown((*L2A[:11], "B10")), r"shown in vain: \['B10'\], lacking: \['B12'\]"),
        ("croma_base", shown((*L2A[:11], "B01")), r"shown in vain: \['B01'\], lacking: \['B12'\]"),
        ("dofa_small_patch16_224", shown(["B4", "elevation"]), r"\['B4', 'elevation'\] are not known .*wavelengths_nm"),
        (
            "dofa_small_patch16_224",
            shown(["B04", "B10"]),
            r"none within 30 nm of \['B10'\]: give embeddings.statistics",
        ),
        ("croma_base", shown(L2A, statistics=((1.0, 1.0),) * 12), "leave out embeddings.statistics"),
        ("dofa_small_patch16_224", shown(["B04"], statistics=((1.0, 0.0),)), "sd above 0"),
        ("dofa_small_patch16_224", shown(["B04"], wavelengths_nm=(665.0, 560.0)), "wavelengths_nm has 2 entries"),
        ("dofa_small_patch16_224", shown(["B04"], stretch=()), "stretch has 0 entries"),
        ("dofa_small_patch16_224", shown(["B04"], stretch=((3.0, 3.0),)), "low below high"),
        ("dofa_small_patch16_224", shown(["B04"], stretch=((0.0, np.inf),)), "two finite pixel values"),
        ("dofa_small_patch16_224", shown(["B04"], stretch=((0.0, 0.3),)), r"\[0, 1\] \(as fetched from a catalogue\)"),
        ("dofa_small_patch16_224", shown(["B04"], reflectance=(0.0, 1.0)), "which no surface has"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(name, pixels, message):
    with pytest.raises(EmbeddingError, match=message):
        spec_for(name, pixels.bands, pixels=pixels)


def test_sides_and_options_that_do_not_fit_are_refused():
    with pytest.raises(EmbeddingError, match="multiples of 16: 96 or 112"):
        open_spec(spec_for(MOCO, L1C), 100, 0)
    with pytest.raises(EmbeddingError, match=r"leave out embeddings\.normalisation"):
        spec_for(MOCO, L1C, normalisation="half")
    with pytest.raises(EmbeddingError, match="pixels=Pixels"):
        encoder_spec(f"torchgeo-random:{MOCO}", bands=13)


def test_statistics_of_ones_own():
    bands, images = ("B04", "B10"), draw_images(2, 32)
    given = ((1_500.0, 800.0), (20.0, 15.0))
    dn = open_spec(spec_for("dofa_small_patch16_224", bands, pixels=shown(bands, statistics=given)), 32, 1)
    unit = shown(
        bands,
        stretch=((0.0, 1.0),) * 2,
        reflectance=(0.0, 1.0),
        statistics=tuple((mean / 1e4, sd / 1e4) for mean, sd in given),
    )
    same = open_spec(spec_for("dofa_small_patch16_224", bands, pixels=unit), 32, 1)
    np.testing.assert_allclose(same.encode(images), dn.encode(images), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dn.normalisation, ((0.15, 0.002), (0.08, 0.0015)), rtol=1e-12)


def test_bad_weight_files_are_refused(tmp_path, files):
    file = files[MOCO][0]
    with pytest.raises(WeightsError, match=r"needs embeddings\.weights.*torchgeo-random:"):
        spec_for(MOCO, L1C, random=False)
    with pytest.raises(EmbeddingError, match=r"leave out embeddings\.weights"):
        spec_for(MOCO, L1C, weights=file)
    (tmp_path / "w.pth").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"\.safetensors only"):
        spec_for(MOCO, L1C, random=False, weights=tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="says 000"):
        spec_for(MOCO, L1C, random=False, weights=file, weights_sha256="0" * 64)
    with pytest.raises(WeightsError, match="is it the checkpoint of another model"):
        spec_for("resnet50.sentinel2_all_moco", L1C, random=False, weights=file).build(32, 0)
    with pytest.raises(WeightsError, match="do not fit"):
        spec_for("resnet18.sentinel2_rgb_moco", L1C[3:0:-1], random=False, weights=thin_resnet(tmp_path)).build(32, 0)
    state = publish(MOCO, files[MOCO][1])
    part = {k: v.contiguous() for k, v in state.items() if not k.startswith("blocks.11.mlp.fc2")}
    save_file(part, tmp_path / "part.safetensors")
    spec = spec_for(MOCO, L1C, random=False, weights=tmp_path / "part.safetensors")
    with pytest.raises(WeightsError, match=r"2 tensors of the model are not in it \(blocks\.11\.mlp\.fc2"):
        spec.build(32, 0)
    (tmp_path / "part.safetensors").write_bytes(file.read_bytes()[:4000])
    with pytest.raises(WeightsError, match="changed since"):
        spec.build(32, 0)
    with pytest.raises(WeightsError, match=r"not a readable \.safetensors"):
        spec_for(MOCO, L1C, random=False, weights=tmp_path / "part.safetensors").build(32, 0)


def thin_resnet(where):
    """A ResNet-18 of 13 bands, for a model of three."""
    import timm

    module = timm.create_model("resnet18", pretrained=False, in_chans=13)
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, where / "thin.safetensors")
    return where / "thin.safetensors"


def test_the_documented_configuration_is_valid():
    text = DOCS.read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"\n\n((?:    .*\n)+)", text) if "torchgeo:dofa" in b]
    settings = EmbeddingsConfig(**yaml.safe_load(block)["embeddings"])
    pixels = pixels_of(settings)
    assert spec_for("dofa_small_patch16_224", settings.bands, pixels=pixels).pixels.bands == settings.bands


def test_the_documented_recipe_writes_what_is_read(tmp_path, monkeypatch):
    """CROMA's published layout: a dictionary for each part."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (recipe,) = [block for block in blocks if "published.pth" in block]
    parts = {"s1_encoder": {"norm.weight": torch.ones(2)}, "s2_GAP_FFN": {"0.weight": torch.arange(6.0).view(2, 3).T}}
    torch.save(parts, tmp_path / "published.pth")
    monkeypatch.chdir(tmp_path)
    exec(compile(recipe, "recipe", "exec"), {})
    found = load_file(tmp_path / "weights.safetensors")
    assert set(found) == {"s1_encoder.norm.weight", "s2_GAP_FFN.0.weight"}
    assert torch.equal(found["s2_GAP_FFN.0.weight"], parts["s2_GAP_FFN"]["0.weight"])


def test_without_the_package_the_extra_is_named(monkeypatch):
    for name in [m for m in sys.modules if m.partition(".")[0] == "torchgeo"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchgeo", None)
    for name in (MOCO, "rcf"):
        with pytest.raises(EmbeddingError, match=r'needs torchgeo: pip install "eo-cate\[torchgeo\]"'):
            encoder_spec(f"torchgeo-random:{name}", bands=13, pixels=shown(L1C))


def test_random_convolutions_are_those_of_the_paper():
    spec = encoder_spec("torchgeo-random:rcf_64", bands=4)
    images = draw_images(4, 16)
    encoder = spec.build(224, 0)
    assert (encoder.input_px, encoder.dim) == (None, 64)
    check_contract(spec, 16, images)
    filters = encoder.copy_module().weights
    assert filters.shape == (32, 4, 3, 3)
    maps = torch.nn.functional.conv2d(torch.from_numpy(images), filters) - 1.0
    expected = torch.cat([maps.clamp_min(0).mean((2, 3)), (-maps).clamp_min(0).mean((2, 3))], dim=1)
    np.testing.assert_allclose(encoder.encode(images), expected.numpy(), atol=1e-6)
    assert len({spec.build(224, seed).digest for seed in (0, 1, 2)}) == 3
    assert encoder_spec("torchgeo-random:rcf", bands=4).dim == 512
    for name, message in (("torchgeo-random:rcf_63", "must be even"), ("torchgeo:rcf", "write torchgeo-random:rcf")):
        with pytest.raises(EmbeddingError, match=message):
            encoder_spec(name, bands=4)


def test_random_convolutions_see_chips_at_their_own_size(tmp_path):
    chips = np.random.default_rng(0).uniform(0, 3000, (4, 2, 20, 20)).astype(np.float32)
    bands, stretch = ("A", "B"), ((0.0, 3000.0),) * 2
    found = embed_sites(ArrayReader(chips, bands=bands), [f"s{i}" for i in range(4)], encoder="torchgeo-random:rcf_8",
                        scales=(10, 20), bands=bands, stretch=stretch, input_px=224, store=Store(tmp_path),
                        executor=Executor(), progress=False)  # fmt: skip
    assert found.attrs["input_px"] == 0
    whole = encoder_spec("torchgeo-random:rcf_8", bands=2).build(224, 0).encode(chips / np.float32(3000))
    np.testing.assert_allclose(found.sel(scale=20).values[:, 0], whole, atol=1e-6)


def test_the_configuration_reaches_the_model(tmp_path, files):
    (tmp_path / "w.safetensors").write_bytes(files["dofa_small_patch16_224"][0].read_bytes())
    settings = EmbeddingsConfig(
        encoder="torchgeo:dofa_small_patch16_224",
        weights="w.safetensors",
        bands=["SR_B3", "SR_B4"],
        stretch=[[7_000, 20_000], [7_000, 30_000]],
        reflectance=[7_273, 43_636],
        wavelengths_nm=[660, 835],
        scales=[16],
    )
    (spec,) = open_specs(settings, tmp_path)
    assert [band.nm for band in spec.build.bands] == [660, 835]
    assert spec.pixels.reflectance == (7_273, 43_636)
    assert spec.weights_sha256 == file_digest(tmp_path / "w.safetensors")
    with pytest.raises(EoCateError, match="wavelengths_nm"):
        open_specs(settings.model_copy(update={"wavelengths_nm": ()}), tmp_path)
    for wrong, message in (
        ({"wavelengths_nm": [660]}, "2 bands but 1 entries of wavelengths_nm"),
        ({"encoder": "mean_colour", "weights": None}, "is for encoders torchgeo"),
        ({"encoder": ["torchgeo:croma_base", "timm:test_vit"]}, "one encoder of timm:, torchgeo:, terratorch:"),
    ):
        with pytest.raises(ValueError, match=message):
            EmbeddingsConfig(**{**settings.model_dump(), **wrong})
