"""Addresses of a catalogue: which are followed, which are refused."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit, urlunsplit
from urllib.request import url2pathname

import requests
from pystac_client.stac_api_io import StacApiIO
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from eo_cate.errors import ImageryError
from eo_cate.imagery.remote.hosts import HostPolicy

CheckUrl = Callable[[str], object]
"""Raises ImageryError for an address that must not be asked, as `remote.hosts.HostPolicy.check` does."""

TIMEOUT_S = (10.0, 60.0)
_RETRIED = (429, 500, 502, 503, 504)
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


class _CheckedSession(requests.Session):
    """A session that checks every request, those after a redirect and those of a next page included."""

    def __init__(self, home: str, check_url: CheckUrl | None) -> None:
        super().__init__()
        self._home, self._check_url = home, check_url

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        url = request.url or ""
        check_address(url, home=self._home)
        if urlsplit(url).netloc != urlsplit(self._home).netloc:
            _refuse_private(url, self._home)
            if self._check_url is not None:
                self._check_url(url)
        return super().send(request, **kwargs)


def _refuse_private(url: str, home: str) -> None:
    host = urlsplit(url).hostname or ""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return  # no such host: the request fails by itself
    for number in found:
        _policy(url, home).check_address(ipaddress.ip_address(number.partition("%")[0]), host)


def open_session(home: str, *, check_url: CheckUrl | None = None, retries: int = 5) -> StacApiIO:
    """A reader of JSON over HTTP for a catalogue at ``home``.

    429 and 5xx and lost connections are tried again with growing pauses and jitter, as Retry-After says where it does.
    The catalogue's own host (and port) may be anything the user named; where it redirects or links to must be public.

    Raises
    ------
    ImageryError
        When the address is not one that is read.
    """
    check_address(home, home=home)
    io = StacApiIO(timeout=TIMEOUT_S, max_retries=None)
    io.session = _CheckedSession(home, check_url)
    retry = Retry(
        total=retries,
        status_forcelist=_RETRIED,
        allowed_methods=None,  # a search by POST changes nothing: it may be repeated
        backoff_factor=0.5,
        backoff_jitter=0.5,
        raise_on_status=False,
    )
    for scheme in ("http://", "https://"):
        io.session.mount(scheme, HTTPAdapter(max_retries=retry))
    return io
