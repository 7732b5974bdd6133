"""The HTTP session of a catalogue's documents: the pixels' own host policy and retry policy, on requests."""

from __future__ import annotations

import ipaddress
import socket
import time
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import requests
from pystac_client.stac_api_io import StacApiIO
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.util.connection import create_connection

from eo_cate.errors import ImageryError
from eo_cate.imagery.remote.hosts import HostPolicy, describe
from eo_cate.imagery.remote.retry import TRANSIENT_STATUS, RetryPolicy, parse_retry_after
from eo_cate.imagery.stac.links import CheckUrl, check_address

_PASSING = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


def open_session(
    home: str, *, check_url: CheckUrl | None = None, policy: HostPolicy | None = None, retry: RetryPolicy | None = None
) -> StacApiIO:
    """A reader of JSON over HTTP for a catalogue at ``home``.

    Every address is checked before it is asked, those of redirects and next pages too, and once more what its name
    resolves to, at the connection itself. Proxies of the environment are not used: they would resolve names.

    Parameters
    ----------
    home : str
        The catalogue's address.
    check_url : callable, optional
        Raises ImageryError for addresses, other than the catalogue's own host and port, that must not be asked.
    policy : HostPolicy, optional
        Which addresses names may resolve to; None: public ones, and loopback where the catalogue is on it.
    retry : RetryPolicy, optional
        When 408, 425, 429, 5xx and lost connections are tried again; None: as for pixels.

    Raises
    ------
    ImageryError
        When the address is not one that is read.
    """
    check_address(home, home=home)
    retry = retry or RetryPolicy()
    io = StacApiIO(timeout=(retry.connect_timeout_s, retry.timeout_s), max_retries=None)
    io.session = _CheckedSession(home, check_url, retry)
    for scheme in ("http://", "https://"):
        io.session.mount(scheme, _CheckedAdapter(policy or HostPolicy.from_catalog(home)))
    return io


class _CheckedSession(requests.Session):
    """Checks every request, those after a redirect and those of a next page included, and repeats what may pass."""

    def __init__(self, home: str, check_url: CheckUrl | None, retry: RetryPolicy) -> None:
        super().__init__()
        self._home, self._check_url, self._retry = home, check_url, retry
        self._rng = np.random.default_rng(retry.seed)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        url = request.url or ""
        check_address(url, home=self._home)
        if self._check_url is not None and urlsplit(url).netloc != urlsplit(self._home).netloc:
            self._check_url(url)
        for attempt in range(1, self._retry.attempts + 1):
            retry_after_s = None
            try:
                response = super().send(request, **{**kwargs, "proxies": {}})
                if response.status_code not in TRANSIENT_STATUS:
                    return response
                reason = f"status {response.status_code}"
                retry_after_s = parse_retry_after(response.headers.get("Retry-After"))
            except requests.exceptions.SSLError as error:
                raise ImageryError(
                    f"{describe(url)}: no secure connection (is the certificate one that REQUESTS_CA_BUNDLE knows?)"
                ) from error
            except _PASSING as error:
                reason = f"the connection failed ({type(error).__name__})"
            if attempt < self._retry.attempts:
                time.sleep(self._retry.wait_s(attempt, retry_after_s, self._rng))
        raise ImageryError(f"{describe(url)}: {self._retry.describe_end(reason, attempt, retry_after_s)}")


class _CheckedAdapter(HTTPAdapter):
    """Connects to checked addresses only."""

    def __init__(self, policy: HostPolicy) -> None:
        self._policy = policy
        super().__init__(max_retries=0)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        kind = _TlsConnection if pool.scheme == "https" else _PlainConnection
        pool.ConnectionCls = partial(kind, policy=self._policy)
        return pool  # type: ignore[no-any-return]


class _PlainConnection(HTTPConnection):
    def __init__(self, *args: Any, policy: HostPolicy, **kwargs: Any) -> None:
        self._policy = policy
        super().__init__(*args, **kwargs)

    def _new_conn(self) -> socket.socket:
        return _connect(self, self._policy)


class _TlsConnection(HTTPSConnection):
    def __init__(self, *args: Any, policy: HostPolicy, **kwargs: Any) -> None:
        self._policy = policy
        super().__init__(*args, **kwargs)

    def _new_conn(self) -> socket.socket:
        return _connect(self, self._policy)


def _connect(connection: HTTPConnection, policy: HostPolicy) -> socket.socket:
    """Resolve once, check, and connect to what was checked; one refused address refuses the name."""
    host, port = connection.host, connection.port
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        policy.check_address(ipaddress.ip_address(address.partition("%")[0]), host)
    options: dict[str, Any] = {
        "timeout": connection.timeout,
        "source_address": connection.source_address,
        "socket_options": connection.socket_options,
    }
    for address in addresses[:-1]:
        with suppress(OSError):
            return create_connection((address, port), **options)
    return create_connection((addresses[-1], port), **options)
