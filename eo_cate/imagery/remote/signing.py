"""Signatures for links that need one, made when a file is read: they outlive no long run."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from yarl import URL

from eo_cate.errors import ImageryError

PLANETARY_COMPUTER_TOKENS = "https://planetarycomputer.microsoft.com/api/sas/v1/token"

GetBytes = Callable[[str], Awaitable[bytes]]
"""Fetches a small body under the client's host policy and retries."""


class Signer(Protocol):
    """Turns links into links that the server accepts."""

    async def sign(self, href: str, get: GetBytes, *, refused: str | None = None) -> str:
        """The signed link. ``refused``: the signed link that the server has just answered with 403."""
        ...


@dataclass(frozen=True)
class _Token:
    text: str
    expires: dt.datetime


class PlanetaryComputerSigner:
    """Shared-access tokens of Microsoft's Planetary Computer, one per storage container, renewed before they expire.

    Parameters
    ----------
    base : str
        Of the token endpoint: ``{base}/{account}/{container}`` answers ``{"token": ..., "msft:expiry": ...}``.
    storage : str
        Links to hosts that end so are signed (account = what stands before it), others are left alone.
    margin_s : float
        A token is renewed this long before its expiry.

    Raises
    ------
    ImageryError
        (from `sign`) When the endpoint cannot be reached or answers something else.
    """

    def __init__(
        self,
        base: str = PLANETARY_COMPUTER_TOKENS,
        *,
        storage: str = ".blob.core.windows.net",
        margin_s: float = 300.0,
    ) -> None:
        self._base = base.rstrip("/")
        self._storage = storage
        self._margin = dt.timedelta(seconds=margin_s)
        self._tokens: dict[str, _Token] = {}
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def sign(self, href: str, get: GetBytes, *, refused: str | None = None) -> str:
        """The link with a token that is valid now; a new one when ``refused`` carried the one at hand."""
        plain = href.partition("?")[0]
        url = URL(plain, encoded=True)
        host = url.host or ""
        if not host.endswith(self._storage) or len(url.parts) < 3:
            return href
        container = f"{host.removesuffix(self._storage) or host}/{url.parts[1]}"
        token = self._valid(container, refused)
        if token is None:
            async with self._locks[container]:
                token = self._valid(container, refused)
                if token is None:
                    token = self._tokens[container] = await self._renew(container, get)
        return f"{plain}?{token.text}"

    def _valid(self, container: str, refused: str | None) -> _Token | None:
        token = self._tokens.get(container)
        if token is None or token.expires - self._margin <= dt.datetime.now(dt.UTC):
            return None
        return None if refused is not None and refused.endswith(f"?{token.text}") else token

    async def _renew(self, container: str, get: GetBytes) -> _Token:
        body = await get(f"{self._base}/{container}")
        try:
            answer = json.loads(body)
            expires = dt.datetime.fromisoformat(answer["msft:expiry"])
            text = str(answer["token"]).lstrip("?")
        except (ValueError, KeyError, TypeError) as error:
            raise ImageryError(
                f"the token endpoint {URL(self._base).host} gave no token for container {container}; is the collection "
                "on the Planetary Computer?"
            ) from error
        return _Token(text, expires if expires.tzinfo else expires.replace(tzinfo=dt.UTC))
