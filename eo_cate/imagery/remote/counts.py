"""What was read from remote files so far, for progress bars and tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReadCounts:
    """A snapshot of the counters.

    Parameters
    ----------
    requests, retries : int
        HTTP requests sent (all of them, redirects and tokens too); those that repeated a failed one, or fetched a
        block again that did not decode.
    header_bytes, block_bytes : int
        Body bytes received for headers and for blocks, repeated ones included.
    needed_bytes : int
        Compressed bytes of the blocks that were asked for (0 for JPEG 2000, which does not say).
    blocks_needed, blocks_fetched, blocks_decoded, blocks_sparse, blocks_failed : int
        Asked for; fetched, as often as they were; decoded; not in the file, so all nodata; failed after all retries.
    """

    requests: int = 0
    retries: int = 0
    header_bytes: int = 0
    block_bytes: int = 0
    needed_bytes: int = 0
    blocks_needed: int = 0
    blocks_fetched: int = 0
    blocks_decoded: int = 0
    blocks_sparse: int = 0
    blocks_failed: int = 0
