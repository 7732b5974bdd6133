"""Blocks of remote rasters: allowed hosts, bounded sizes, retries, signatures, and three answers, never two."""

from eo_cate.imagery.remote.client import RangeClient
from eo_cate.imagery.remote.cog import RemoteBlocks
from eo_cate.imagery.remote.counts import ReadCounts
from eo_cate.imagery.remote.hosts import HostPolicy, HostRefusedError
from eo_cate.imagery.remote.retry import RetryPolicy
from eo_cate.imagery.remote.signing import PlanetaryComputerSigner, Signer

__all__ = [
    "HostPolicy",
    "HostRefusedError",
    "PlanetaryComputerSigner",
    "RangeClient",
    "ReadCounts",
    "RemoteBlocks",
    "RetryPolicy",
    "Signer",
]
