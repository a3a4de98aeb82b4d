from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fqonnx.errors import ConfigError, ModelError
from fqonnx.model_file import (
    check_file,
    file_bytes,
    load_model,
)
from fqonnx.session import Session
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


def rejected(path: Path) -> str:
    """Return the one line that says why a file is not loaded."""
    with pytest.raises(ModelError) as info:
        load_model(path)
    assert str(info.value).startswith(f"{path}: ")
    assert "\n" not in str(info.value)
    return str(info.value)


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model whose weight is in ``model.data`` beside it."""
    path = tmp_path / "model.onnx"
    ir.save(linear(), path, external_data="model.data")
    return path


def set_external(path: Path, **entries: str) -> None:
    """Change entries of the external data of the only initializer of a file."""
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = entries.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())


# Loading.


def test_model_is_loaded(tmp_path: Path) -> None:
    ir.save(linear(), tmp_path / "model.onnx")
    model = load_model(tmp_path / "model.onnx")
    assert [node.op_type for node in model.graph] == ["MatMul"]


def test_external_weights_stay_on_disk(external: Path) -> None:
    tensor = load_model(external).graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    np.testing.assert_array_equal(tensor.numpy(), np.eye(32))


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in rejected(tmp_path / "none.onnx")


def test_folder(tmp_path: Path) -> None:
    assert "it is a folder" in rejected(tmp_path)


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="it is a device or a pipe, expected a file"):
        load_model(tmp_path / "pipe")


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("denied")

    monkeypatch.setattr(onnx, "load", refuse)
    assert "not readable: denied" in rejected(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"this is not a model\nbut text", b"\xff" * 64, b"\x00" * 64, bytes(range(256))],
    ids=["empty", "newline", "text", "ones", "zeros", "bytes"],
)
def test_garbage(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert "not an ONNX model" in rejected(path)


@pytest.mark.parametrize("part", [0.02, 0.1, 0.5, 0.9, 0.99])
def test_truncated_model(part: float, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    ir.save(linear(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    assert "not an ONNX model" in rejected(path)


def test_weight_with_fewer_bytes_than_its_shape_says(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    proto = ir.to_proto(linear())
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError):
        Session(path, str(path))


def test_graph_without_outputs(tmp_path: Path) -> None:
    proto = ir.to_proto(linear())
    del proto.graph.output[:]
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    assert "its graph has no outputs" in rejected(path)


@pytest.mark.parametrize("opset", [1, 11, 12])
def test_opset_that_is_too_old(opset: int, tmp_path: Path) -> None:
    proto = ir.to_proto(linear())
    proto.opset_import[0].version = opset
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    message = rejected(path)
    assert f"opset {opset}, expected 13 or later" in message
    assert "version_converter" in message


def test_oldest_opset_is_loaded(tmp_path: Path) -> None:
    proto = ir.to_proto(linear())
    proto.opset_import[0].version = 13
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    assert load_model(path).graph.opset_imports[""] == 13


def test_long_name_of_the_standard_domain(tmp_path: Path) -> None:
    proto = ir.to_proto(linear())
    proto.opset_import[0].domain = "ai.onnx"
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    onnx.checker.check_model(proto)
    assert load_model(path).graph.opset_imports[""] == 20


def test_external_data_that_is_missing(external: Path) -> None:
    (external.parent / "model.data").unlink()
    message = rejected(external)
    assert "'w'" in message
    assert "model.data, which is not there" in message


def test_external_data_that_is_a_folder(external: Path) -> None:
    (external.parent / "model.data").unlink()
    (external.parent / "model.data").mkdir()
    assert "model.data" in rejected(external)


def test_external_data_that_is_too_short(external: Path) -> None:
    data = external.parent / "model.data"
    data.write_bytes(data.read_bytes()[:-1])
    message = rejected(external)
    assert "'w' ends at byte 4096 of model.data, which has 4095" in message


def test_external_data_that_begins_too_late(external: Path) -> None:
    set_external(external, offset="4")
    assert "ends at byte 4100" in rejected(external)


@pytest.mark.parametrize("form", ["relative", "absolute"])
def test_external_data_outside_the_folder(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "model.onnx"
    ir.save(linear(), path, external_data="model.data")
    (folder / "model.data").rename(tmp_path / "secret")
    set_external(path, location="../secret" if form == "relative" else str(tmp_path / "secret"))
    message = rejected(path)
    assert "outside the model's folder" in message
    assert "secret" in message


def test_external_data_in_a_folder_below(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    ir.save(linear(), path, external_data="model.data")
    (tmp_path / "weights").mkdir()
    (tmp_path / "model.data").rename(tmp_path / "weights" / "model.data")
    set_external(path, location="weights/model.data")
    tensor = load_model(path).graph.initializers["w"].const_value
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), np.eye(32))


def test_external_data_behind_the_links_of_a_download_cache(external: Path) -> None:
    snapshot = external.parent / "snapshot"
    snapshot.mkdir()
    for name in ("model.onnx", "model.data"):
        (snapshot / name).symlink_to(f"../{name}")
    assert "cp -L" in rejected(snapshot / "model.onnx")


def test_external_data_of_a_subgraph_that_is_missing(tmp_path: Path) -> None:
    weight = ", ".join(["1.0"] * 1024)
    model = ir.from_onnx_text(
        f"""{HEADER} g (float[N, 32] x, bool c) => (float[N, 32] y) {{
            y = If (c) <
                then_branch = t () => (float[N, 32] p)
                    <float[32, 32] w = {{{weight}}}> {{ p = MatMul(x, w) }},
                else_branch = e () => (float[N, 32] q) {{ q = Identity(x) }}
            >
        }}"""
    )
    path = tmp_path / "model.onnx"
    ir.save(model, path, external_data="model.data")
    assert load_model(path)
    (tmp_path / "model.data").unlink()
    assert "model.data, which is not there" in rejected(path)


# Checking and counting.


def test_sound_file_passes_the_check(tmp_path: Path) -> None:
    ir.save(linear(), tmp_path / "model.onnx")
    check_file(tmp_path / "model.onnx", "the model")
    assert names(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2, 3] x) => (float[2, 4] y) { y = MatMul(x, x) }",
        "g (float[2, 3] x) => (float[2, 3] y) { y = Relu(z) }",
        "g (float[2, 3] x) => (float[2, 3] y) { y = Unheard(x) }",
        "g (float[2, 3] x) => (float[2, 4] y) { y = Relu(x) }",
    ],
    ids=["shapes", "undefined value", "unknown operator", "wrong output shape"],
)
def test_unsound_file_fails_the_check(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.parser.parse_model(f"{HEADER} {text}").SerializeToString())
    with pytest.raises(ModelError) as info:
        check_file(path, "the model")
    assert str(info.value).startswith("the model: onnx.checker rejects it: ")
    assert "\n" not in str(info.value)


def test_bytes_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    ir.save(linear(), path)
    assert file_bytes(path) == path.stat().st_size


def test_bytes_of_a_file_count_external_data_once(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = model_from_text(
        f"{HEADER} g (float[N, 32] x) => (float[N, 32] y) {{ h = MatMul(x, w) y = MatMul(h, v) }}",
        w=np.zeros((32, 32), np.float32),
        v=np.ones((32, 32), np.float32),
    )
    ir.save(model, path, external_data="model.data")
    assert file_bytes(path) == path.stat().st_size + 2 * 32 * 32 * 4
