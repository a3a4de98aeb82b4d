"""Parts of the docs that scripts write."""

from __future__ import annotations

from pathlib import Path


def write_part(page: Path, begin: str, end: str, text: str) -> None:
    """Put a text between two marks of a page, in the place of what is there.

    Raises:
        SystemExit: The page does not have each mark once, in this order.
    """
    content = page.read_text(encoding="utf-8")
    if content.count(begin) != 1 or content.count(end) != 1:
        raise SystemExit(f"{page}: expected {begin!r} and {end!r} once each")
    before, _, rest = content.partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise SystemExit(f"{page}: {end!r} comes before {begin!r}")
    page.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}", encoding="utf-8")
