"""Pages of docs/ that a program writes a part of: what stands outside the marks is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eo_cate.errors import EoCateError
from eo_cate.store import write_atomic


def replace_part(page: Path, part: str, text: str) -> None:
    """Put text between the lines ``<!-- PART: begin -->`` and ``<!-- PART: end -->`` of a page, atomically.

    Raises
    ------
    EoCateError
        When the page lacks one of the marks, or has them twice or in the wrong order.
    """
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    old = page.read_text(encoding="utf-8")
    if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
        raise EoCateError(f"{page}: lacks the lines {begin} and {end}, once and in this order: text goes between")
    before, after = old.split(begin)[0], old.split(end)[1]
    write_atomic(page, f"{before}{begin}\n{text.strip()}\n{end}{after}".encode())


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
