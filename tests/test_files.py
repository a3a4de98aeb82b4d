"""Files that are written whole, hashed, and held."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fqonnx.bundle import read_manifest
from fqonnx.calibrate import load_labels, load_samples
from fqonnx.errors import ConfigError
from fqonnx.files import held, regular, sha256, write_whole
from fqonnx.overrides import load_overrides
from fqonnx.session import InputInfo


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


@pytest.mark.parametrize(
    "read",
    [
        sha256,
        load_overrides,
        lambda path: load_labels(path, 4),
        lambda path: load_samples(path, [InputInfo("x", np.dtype(np.float32), (None, 4))]),
        lambda path: read_manifest(path.parent),
    ],
)
def test_a_pipe_is_not_waited_for(read: Callable[[Path], object], tmp_path: Path) -> None:
    pipe = tmp_path / "bundle.json"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="it is a device or a pipe, expected a file"):
        read(pipe)


def test_what_is_not_there_is_for_the_reader_to_tell(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent", tmp_path / ("a" * 300)):
        assert regular(path) == path


def test_who_does_not_get_a_folder_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work"
    winner = held(folder, "busy", "Wait")
    mkdir = Path.mkdir

    def later(path: Path, *arguments: object, **options: object) -> None:
        monkeypatch.undo()
        winner.__enter__()
        mkdir(path, exist_ok=True)

    monkeypatch.setattr(Path, "mkdir", later)  # both found none
    with pytest.raises(ConfigError, match="busy"), held(folder, "busy", "Wait"):
        pass
    assert folder.is_dir()
    winner.__exit__(None, None, None)
    assert names(tmp_path) == []


def test_a_lock_of_a_folder_that_is_gone_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work"
    flock, calls = fcntl.flock, []

    def remove_first(descriptor: int, operation: int) -> None:
        flock(descriptor, operation)
        if not calls:
            folder.rmdir()  # as who had it before does
        calls.append(descriptor)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with held(folder, "busy", "Wait"):
        assert folder.is_dir()
    assert len(calls) == 2


def test_a_folder_whose_name_is_too_long(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"cannot be written: .*too long"),
        held(tmp_path / ("a" * 300), "busy", "Wait"),
    ):
        pass
