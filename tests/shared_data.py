"""Where the shared test inputs lie; absent, tests skip with a reason, or fail when EO_CATE_REQUIRE_SHARED=1."""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


def shared_path(relative: str) -> Path:
    """A path under the shared folder, or a skip (a failure when the folder is required)."""
    path = Path(os.environ.get("EO_CATE_SHARED", REPO.parent / "shared")) / relative
    if not path.exists():
        reason = f"{relative} not found: set EO_CATE_SHARED to the folder that holds it"
        if os.environ.get("EO_CATE_REQUIRE_SHARED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
