"""The ledger: every configuration ever fitted against an outcome, so that later tests can pay for earlier tries."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eo_cate.evaluation.configurations import blocks_key
from eo_cate.store import digest
from eo_cate.types import FeatureBlocks


class Ledger:
    """Lines of JSON in a store's folder: when, which outcome, which features and settings.

    Parameters
    ----------
    root : Path
        Folder of the store; ``ledger.jsonl`` is appended to and never rewritten.
    """

    def __init__(self, root: Path) -> None:
        self.path = Path(root) / "ledger.jsonl"

    def record(self, outcome: str, configurations: Mapping[str, FeatureBlocks], settings: Mapping[str, Any]) -> None:
        """Add configurations that are not there yet; a configuration is its features together with its settings."""
        known = {(line["outcome"], line["configuration"]) for line in self._read()}
        lines = []
        for name, X in configurations.items():
            address = digest(blocks_key(X), dict(settings))
            if (outcome, address) not in known:
                line = {"time": time.time(), "outcome": outcome, "configuration": address, "name": name}
                lines.append("\n" + json.dumps(line | {"settings": dict(settings)}, default=str))
        if lines:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.writelines(lines)
                stream.flush()
                os.fsync(stream.fileno())

    def count(self, outcome: str) -> int:
        """Distinct configurations ever fitted against this outcome."""
        return len({line["configuration"] for line in self._read() if line["outcome"] == outcome})

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        lines = []
        for text in self.path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue  # blank, or the torn last line of a killed run: that one is recorded again
        return lines


def ledger_p(p: float, *, tried: int, corrected: int) -> float:
    """min(1, p x configurations ever tried / configurations that p already pays for)."""
    return min(1.0, p * max(tried, corrected) / corrected)
