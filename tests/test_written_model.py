"""Model files: under their names only when they are whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import fqonnx.written_model
from fqonnx.errors import ConfigError, ModelError
from fqonnx.model_file import check_file, file_bytes, load_model
from fqonnx.session import Session
from fqonnx.written_model import output_files, written_model
from support import model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'


def linear(scale: float = 1.0) -> ir.Model:
    return model_from_text(
        f"{HEADER} g (float[N, 32] x) => (float[N, 32] y) {{ y = MatMul(x, w) }}",
        w=scale * np.eye(32, dtype=np.float32),
    )


def scale_of(path: Path) -> float:
    """Run a saved `linear` and return its scale."""
    (y,) = Session(path, str(path)).run({"x": np.ones((1, 32), np.float32)})
    return float(y[0, 0])


def accept(path: Path) -> None:
    assert path.is_file()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model whose weight is in ``model.data`` beside it."""
    path = tmp_path / "model.onnx"
    ir.save(linear(), path, external_data="model.data")
    return path


def save_model(model: ir.Model, path: Path, check: Callable[[Path], None]) -> None:
    with written_model(model, path) as temporary:
        check(temporary)


def test_model_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save_model(linear(2.0), path, lambda path: check_file(path, "the model"))
    assert names(tmp_path) == ["model.onnx"]
    assert scale_of(path) == 2.0


def test_folders_above_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "model.onnx"
    save_model(linear(), path, accept)
    assert names(path.parent) == ["model.onnx"]


def test_check_sees_the_finished_file_before_it_has_its_name(tmp_path: Path) -> None:
    path, seen = tmp_path / "model.onnx", []

    def check(temporary: Path) -> None:
        assert not path.exists()
        seen.append(scale_of(temporary))

    save_model(linear(3.0), path, check)
    assert seen == [3.0]


@pytest.mark.parametrize(
    "error", [ModelError("a", "b", "c"), ValueError("no"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("limit", [1 << 30, 100])
def test_check_that_raises_leaves_nothing(
    error: BaseException, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fqonnx.written_model, "_EXTERNAL_BYTES", limit)

    def check(path: Path) -> None:
        raise error

    with pytest.raises(type(error)) as info:
        save_model(linear(), tmp_path / "model.onnx", check)
    assert info.value is error
    assert names(tmp_path) == []


@pytest.mark.parametrize("limit", [1 << 30, 100])
def test_check_that_raises_leaves_the_file_that_was_there(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fqonnx.written_model, "_EXTERNAL_BYTES", limit)
    path = tmp_path / "model.onnx"
    save_model(linear(2.0), path, accept)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}

    def check(path: Path) -> None:
        raise ModelError("a", "b", "c")

    with pytest.raises(ModelError):
        save_model(linear(3.0), path, check)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    assert scale_of(path) == 2.0


def test_file_that_was_there_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for scale in (2.0, 3.0):
        save_model(linear(scale), path, accept)
        assert scale_of(path) == scale
    assert names(tmp_path) == ["model.onnx"]


def test_large_model_gets_an_external_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fqonnx.written_model, "_EXTERNAL_BYTES", 100)
    path = tmp_path / "model.onnx"
    for scale in (2.0, 3.0):
        save_model(linear(scale), path, lambda path: check_file(path, "the model"))
        (data,) = tmp_path.glob("model.onnx.*.data")
        assert names(tmp_path) == ["model.onnx", data.name]
        assert scale_of(path) == scale
        assert file_bytes(path) == sum(p.stat().st_size for p in tmp_path.iterdir())
        assert data.stat().st_size == 32 * 32 * 4


@pytest.mark.parametrize("damage", [b"\0" * 32 * 32 * 4, b"short"])
def test_data_that_were_damaged_are_written_again(
    damage: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fqonnx.written_model, "_EXTERNAL_BYTES", 100)
    path = tmp_path / "model.onnx"
    save_model(linear(2.0), path, accept)
    (data,) = tmp_path.glob("model.onnx.*.data")
    data.write_bytes(damage)
    save_model(linear(2.0), path, accept)
    assert scale_of(path) == 2.0
    assert names(tmp_path) == ["model.onnx", data.name]


def test_a_model_that_cannot_get_its_name_leaves_the_data_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fqonnx.written_model, "_EXTERNAL_BYTES", 100)
    path = tmp_path / "model.onnx"
    save_model(linear(2.0), path, accept)
    for scale in (2.0, 3.0):
        with (
            pytest.raises(ModelError, match="cannot be written"),
            monkeypatch.context() as patch,
            written_model(linear(scale), path) as temporary,
        ):
            patch.setattr(fqonnx.written_model, "sync", lambda folder: temporary.unlink())
        assert scale_of(path) == 2.0
        assert len(names(tmp_path)) == 2


def test_strings_stay_in_a_message_whose_weights_are_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fqonnx.written_model, "_EXTERNAL_BYTES", 100)
    model = model_from_text(
        f"{HEADER} g (float[N, 32] x) => (float[N, 32] y, string[2] z) "
        "{ y = MatMul(x, w) z = Identity(s) }",
        w=np.eye(32, dtype=np.float32),
    )
    words = model.graph.node(1).inputs[0]
    assert words is not None
    words.const_value = ir.StringTensor([b"one", b"two"], shape=ir.Shape([2]), name="s")
    model.graph.register_initializer(words)
    save_model(model, tmp_path / "model.onnx", lambda path: check_file(path, "the model"))
    y, z = Session(tmp_path / "model.onnx", "model").run({"x": np.ones((1, 32), np.float32)})
    assert (y == 1.0).all()
    assert list(z) == ["one", "two"]


@pytest.mark.parametrize("limit", [1 << 30, 100])
def test_model_with_external_weights_is_saved_elsewhere(
    limit: int, external: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fqonnx.written_model, "_EXTERNAL_BYTES", limit)
    path = external.parent / "elsewhere" / "copy.onnx"
    save_model(load_model(external), path, lambda path: check_file(path, "the model"))
    assert scale_of(path) == 1.0
    assert len(names(path.parent)) == 1 + (limit == 100)
    assert scale_of(external) == 1.0


def test_model_is_not_changed_by_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fqonnx.written_model, "_EXTERNAL_BYTES", 100)
    model = linear()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    save_model(model, tmp_path / "model.onnx", accept)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "model.onnx"
    with pytest.raises(ModelError) as info:
        save_model(linear(), path, accept)
    assert str(info.value).startswith(f"{path}: cannot be written")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_stays(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    make(path)
    mode = path.stat().st_mode
    with pytest.raises(ConfigError, match="it is a"):
        output_files(path)
    with pytest.raises(ConfigError, match="Name a file"):
        save_model(linear(), path, accept)
    assert names(tmp_path) == ["model.onnx"]
    assert path.stat().st_mode == mode


def test_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: File name too long"):
        output_files(tmp_path / ("m" * 300))
