"""Addresses of a catalogue: which are followed, which are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urljoin, urlsplit, urlunsplit
from urllib.request import url2pathname

from eo_cate.errors import ImageryError
from eo_cate.imagery.remote.hosts import HostPolicy

CheckUrl = Callable[[str], object]
"""Raises ImageryError for an address that must not be asked, as `remote.hosts.HostPolicy.check` does."""

_SIGNATURES = {"sig", "signature", "x-amz-signature", "x-goog-signature"}


def check_address(url: str, *, home: str) -> None:
    """Refuse what is neither https nor, for a catalogue on this machine itself, loopback http.

    Parameters
    ----------
    url : str
        What is to be read. Any public host may be named; which hosts pixels come from is the fetch's own allow-list.
    home : str
        The catalogue: an address, or the path of a local file.

    Raises
    ------
    ImageryError
        Naming the address without its query.
    """
    _policy(url, home).check(url)


def _policy(url: str, home: str) -> HostPolicy:
    if urlsplit(url).scheme == "s3":
        raise ImageryError(
            f"{url.partition('?')[0]!r}: pixels in a bucket whose readers sign or pay (s3:) are not read; take an API "
            "that serves them over https (Landsat: planetary_computer)"
        )
    return HostPolicy.from_catalog(home if is_web(home) else "http://localhost", hosts=[urlsplit(url).hostname or ""])


def is_web(address: str) -> bool:
    """Whether a catalogue is on the web rather than on disk."""
    return urlsplit(address).scheme in ("http", "https")


def unsigned(href: str) -> str:
    """The link without the signature that a catalogue may have added: links are signed when they are read."""
    parts = urlsplit(href)
    if {key.lower() for key, _ in parse_qsl(parts.query)} & _SIGNATURES:
        return urlunsplit(parts._replace(query=""))
    return href


def resolve_href(href: str, base: str) -> str:
    """An asset's link, absolute; relative ones hang on the item.

    Parameters
    ----------
    href : str
        As the item has it.
    base : str
        The item's own address: http(s), or the path of a local file.

    Raises
    ------
    ImageryError
        For GDAL paths (/vsi...), for files named by a catalogue on the web, and for files outside of the item's
        catalogue (see `check_local`).
    """
    if "/vsi" in href.lower():
        raise ImageryError(f"{href.partition('?')[0]!r}: GDAL paths from a catalogue are refused")
    scheme = urlsplit(href).scheme
    if is_web(base) or scheme not in ("", "file"):
        absolute = urljoin(base, href) if is_web(base) else href
        check_address(absolute, home=base)
        return unsigned(absolute)
    path = Path(url2pathname(urlsplit(href).path)) if scheme == "file" else Path(href)
    return str((Path(base).parent / path).resolve())


def check_local(path: str | Path, root: Path) -> None:
    """Refuse a local file outside of the catalogue's folder, links followed.

    Raises
    ------
    ImageryError
        Naming the path.
    """
    if not Path(path).resolve().is_relative_to(root):
        raise ImageryError(f"{path}: lies outside of the catalogue's folder {root}, and is not read")
