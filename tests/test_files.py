"""Files that are written whole, hashed, and held."""

from __future__ import annotations

from pathlib import Path

import pytest

from fqonnx.errors import ConfigError
from fqonnx.files import sha256, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_report_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    write_whole(path, b"old", "Try")
    with pytest.raises(ConfigError, match=r"cannot be written: .* Choose another"):
        write_whole(tmp_path / "absent" / "report.json", b"new", "Choose another")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ConfigError, match="No space left"):
        write_whole(path, b"new", "Try")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["report.json"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_whole(link, b"new", "Try")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256(tmp_path / "f").startswith("ba7816bf8f01cfea414140de5dae2223b00361a396177a9c")
