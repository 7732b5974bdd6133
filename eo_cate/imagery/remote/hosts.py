"""Which hosts pixels may come from: an allow-list, checked on the address and again on what its name resolves to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from eo_cate.errors import ImageryError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_PRIVATE = "is at an address of a private or local network; pixels come from public hosts only"
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class HostRefusedError(ImageryError):
    """An address that the host policy does not allow."""


def describe(href: str) -> str:
    """File name and host of an address, for messages: never its query, which may hold a signature."""
    try:
        url = URL(href, encoded=True)
    except ValueError:
        return "an address that cannot be parsed"
    return f"{url.name or 'a file'} at {url.host or 'no host'}"


@dataclass(frozen=True)
class HostPolicy:
    """Hosts that may be read from.

    Parameters
    ----------
    hosts : tuple of str
        Exact names, or ``.suffix`` for every subdomain of a name.
    loopback : bool
        Whether the listed hosts may be this machine (tests, a local catalogue), then also by plain http.
    """

    hosts: tuple[str, ...]
    loopback: bool = False

    @classmethod
    def from_catalog(cls, href: str, *, hosts: Iterable[str] = ()) -> HostPolicy:
        """A catalogue's own host (none: a local file) and further ones; loopback only when the catalogue is on it."""
        host = (URL(href, encoded=True).host or "").lower()
        listed = dict.fromkeys(h.lower() for h in (host, *hosts) if h)
        return cls(hosts=tuple(listed), loopback=_is_loopback(host))

    def check(self, href: str) -> URL:
        """The parsed address, when it may be read.

        Raises
        ------
        HostRefusedError
            (an ImageryError) For another scheme than https (http to loopback under a loopback policy), a host that is
            not listed, or an address of a private network. ``file://`` and GDAL's ``/vsi`` paths are refused so.
        """
        try:
            url = URL(href, encoded=True)
            url.port  # noqa: B018  (a port that is not a number is found only here)
        except ValueError as error:
            raise HostRefusedError("an address in the catalogue cannot be parsed; only https:// is read") from error
        refusal = _find_refusal(self, url.scheme, (url.host or "").lower())
        if refusal:
            raise HostRefusedError(f"{describe(href)}: {refusal}")
        return url

    def check_address(self, address: _Address, host: str) -> None:
        """Refuse private, link-local, loopback, multicast and reserved addresses (loopback as the policy says)."""
        if not self._allows(address, host):
            raise HostRefusedError(f"host {host} {_PRIVATE}")

    def _allows(self, address: _Address, host: str) -> bool:
        inner = _embedded(address)
        if inner.is_loopback and self.loopback:
            return _is_loopback(host)
        return inner.is_global and not inner.is_multicast


class CheckedResolver(AbstractResolver):
    """Resolves names for aiohttp and hands on checked addresses only, so that what was checked is what is connected to.

    One refused address among several refuses the name: which one a connection takes is not ours to choose.
    """

    def __init__(self, policy: HostPolicy) -> None:
        self._policy = policy
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Addresses of a host; HostRefusedError when one is refused."""
        found = await self._resolver.resolve(host, port, family)
        for entry in found:
            self._policy.check_address(ipaddress.ip_address(entry["host"].split("%")[0]), host)
        return found

    async def close(self) -> None:
        """Close the resolver."""
        await self._resolver.close()


@lru_cache(maxsize=1024)
def _find_refusal(policy: HostPolicy, scheme: str, host: str) -> str | None:
    """Why a host is refused; None when it is not. Kept: it is asked twice for every request."""
    local = policy.loopback and _is_loopback(host)
    if scheme != "https" and not (scheme == "http" and local):
        return f"scheme {scheme or 'none'!r} is not read, only https://"
    if not host or not any(host == h or (len(h) > 1 and h[0] == "." and host.endswith(h)) for h in policy.hosts):
        allowed = ", ".join(policy.hosts)
        return f"the host is not among those allowed ({allowed}); if you trust it, add it to imagery.hosts"
    address = _parse_ip(host)
    return f"its host {_PRIVATE}" if address is not None and not policy._allows(address, host) else None


def _is_loopback(host: str) -> bool:
    address = _parse_ip(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def _parse_ip(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return None


def _embedded(address: _Address) -> _Address:
    """The IPv4 address inside a mapped, 6to4 or NAT64 one: a private address must not hide there."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
