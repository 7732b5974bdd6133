"""Where a catalogue's pixels are read from: hosts that may serve them, and how their links are signed."""

from __future__ import annotations

from pathlib import Path

from eo_cate.config import ImageryConfig
from eo_cate.errors import ImageryError
from eo_cate.imagery.local_blocks import LocalBlocks
from eo_cate.imagery.remote import HostPolicy, PlanetaryComputerSigner, RemoteBlocks, RetryPolicy, Signer
from eo_cate.imagery.stac import COLLECTIONS, CollectedScenes, find_api
from eo_cate.imagery.stac.links import is_web
from eo_cate.imagery.stac.presets import api_address
from eo_cate.store import digest

_TOKEN_HOST = "planetarycomputer.microsoft.com"


def sensor_resolution(config: ImageryConfig) -> float | None:
    """Side of a pixel in metres, as configured or as the collection's preset has it; None: the files will tell."""
    preset = COLLECTIONS.get(config.collection or "")
    return config.resolution_m or (preset.resolution_m if preset else None)


def source_name(config: ImageryConfig) -> str:
    """Name of the folder of pixels: what determines them beside scenes and sites."""
    # what is not the default is added, so that pixels of earlier versions keep their folder
    reduced = [] if config.composite == "median" else [config.composite]
    return digest("pixels-1", config.collection, list(config.bands), config.resolution_m, *reduced)[:16]


def open_blocks(
    config: ImageryConfig, data_dir: Path, *, retry: RetryPolicy | None = None, signer: Signer | None = None
) -> RemoteBlocks | LocalBlocks:
    """A source of blocks for the configured catalogue; enter it (``async with``) to read.

    Parameters
    ----------
    config : ImageryConfig
        Of a source ``stac`` or ``stac_catalog``.
    data_dir : Path
        Folder that a local catalogue's path is relative to.
    retry, signer
        As in `RemoteBlocks`; None: the defaults, and the signer of the API's preset.
    """
    if config.source == "stac_catalog" and not is_web(config.catalog or ""):
        return LocalBlocks((data_dir / (config.catalog or "")).resolve().parent)
    policy, signing = _policy(config)
    return RemoteBlocks(policy, signer=signer or (PlanetaryComputerSigner() if signing else None), retry=retry)


def check_links(config: ImageryConfig, collected: CollectedScenes) -> None:
    """Refuse links to hosts that pixels may not come from, before anything is read.

    Raises
    ------
    ImageryError
        With the number of links and the reason for the first.
    """
    if config.source == "stac_catalog" and not is_web(config.catalog or ""):
        return
    policy, _ = _policy(config)
    scenes = [scene for found in collected.scenes.values() for scene in found]
    assets = [a for scene in scenes for a in (*scene.assets.values(), *([scene.mask] if scene.mask else []))]
    refused = []
    for asset in assets:
        try:
            policy.check(asset.href)
        except ImageryError as error:
            refused.append(str(error))
    if refused:
        raise ImageryError(f"{len(refused)} of {len(assets)} links to pixels are refused: {refused[0]}")


def _policy(config: ImageryConfig) -> tuple[HostPolicy, bool]:
    """Hosts of the catalogue, its preset and the configuration; whether links are signed."""
    address = api_address(config.api or "") if config.source == "stac" else config.catalog or ""
    preset = find_api(config.api or "") if config.source == "stac" else None
    signing = preset is not None and preset.signing == "planetary_computer"
    hosts = [*config.hosts, *(preset.hosts if preset else ()), *([_TOKEN_HOST] if signing else [])]
    return HostPolicy.from_catalog(address, hosts=hosts), signing
