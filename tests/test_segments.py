"""Models in segments give what they give in one."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fqonnx import CompileConfig, compile_model, segments
from fqonnx.calibrate import Calibration, Samples, synthetic_samples
from fqonnx.errors import ModelError
from fqonnx.model_file import load_model
from fqonnx.passes import SelectWeightsPass, normalize
from fqonnx.passes.split import split
from fqonnx.quantize_layers import by_weight
from fqonnx.segments import Relay, SegmentedModel, open_model
from fqonnx.session import Session
from support import mlp_model, model_from_text, shared_data

DIM = 4
WEIGHTS = 3


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Cut models at every layer; yield the folder between segments, which must end empty."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1)
    folder = tmp_path / "between"
    folder.mkdir()
    yield folder
    assert not list(folder.iterdir())


def branch(name: str, read: str, weight: str, element: str) -> str:
    return f"{name} () => ({element}[N, {DIM}] {name}_y) {{ {name}_y = MatMul({read}, {weight}) }}"


@st.composite
def graphs(draw: st.DrawFn) -> tuple[ir.Model, list[dict[str, np.ndarray]]]:
    """Draw a model of float32 or float16 with branches, shared weights, subgraphs and captures."""
    dtype = draw(st.sampled_from([np.float32, np.float16]))
    element = "float" if dtype is np.float32 else "float16"
    inputs = [f"x{i}" for i in range(draw(st.integers(1, 3)))]
    values, lines = list(inputs), ["flag = Constant <value = bool {1}> ()", "t = Transpose(w0)"]
    weights = [*(f"w{i}" for i in range(WEIGHTS)), "t"]
    for i in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(["MatMul", "MatMul", "Add", "Tanh", "If"]))
        a, b, w = (draw(st.sampled_from(pool)) for pool in (values, values, weights))
        if kind == "If":
            branches = (branch(f"{side}{i}", a, w, element) for side in ("then", "else"))
            then, other = branches
            call = f"If <then_branch = {then}, else_branch = {other}> (flag)"
        else:
            call = {"MatMul": f"MatMul({a}, {w})", "Add": f"Add({a}, {b})", "Tanh": f"Tanh({a})"}[
                kind
            ]
        values.append(f"v{i}")
        lines.append(f"v{i} = {call}")
    outputs = draw(st.lists(st.sampled_from(values[len(inputs) :]), min_size=1, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 99)))

    def shaped(names: list[str]) -> str:
        return ", ".join(f"{element}[N, {DIM}] {name}" for name in names)

    model = model_from_text(
        f"""<ir_version: 10, opset_import: ["": 20]>
        g ({shaped(inputs)}) => ({shaped(outputs)}) {{ {" ".join(lines)} }}""",
        **{f"w{i}": rng.standard_normal((DIM, DIM)).astype(dtype) / 2 for i in range(WEIGHTS)},
    )
    feeds = [
        {name: rng.standard_normal((rows, DIM)).astype(dtype) for name in inputs}
        for rows in (2, 1, 0)
    ]
    # Once more, so that subgraphs find the weights by name.
    return ir.from_proto(ir.to_proto(model)), feeds


@settings(deadline=None, max_examples=40)
@given(graphs(), st.integers(1, 300))
def test_any_graph_in_segments(
    drawn: tuple[ir.Model, list[dict[str, np.ndarray]]], most_bytes: int
) -> None:
    model, feeds = drawn
    names = [str(value.name) for value in model.graph.outputs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "SEGMENT_BYTES", most_bytes)
        found = list(SegmentedModel(model, "model").run_all(feeds, names))
    expected = list(Session(model, "model", frugal=True).run_all(feeds, names))
    for wanted, outputs in zip(expected, found, strict=True):
        for a, b in zip(wanted, outputs, strict=True):
            assert a.dtype == b.dtype  # sums of float32 go by how ONNX Runtime has aligned them
            np.testing.assert_allclose(
                a, b, atol=100 * np.finfo(a.dtype).eps * np.abs(b).max(initial=0)
            )


REAL = ["gpt_shakespeare", "kwt1", "resnet8_cifar10", "stories260k", "vit_tiny_in1k"]


@pytest.mark.parametrize("name", REAL)
def test_real_models_in_segments(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shared_data(name) / "model.onnx"
    model, whole = load_model(path), Session(path, name)
    feeds = synthetic_samples(model, whole.inputs, num_samples=2).feeds[:1]
    names = whole.numeric_outputs
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1 << 17)
    assert len(split(model, 1 << 17, names)) > 2
    cut = open_model(path, name)
    assert (cut.inputs, cut.output_names, cut.numeric_outputs) == (
        whole.inputs,
        whole.output_names,
        names,
    )
    (found,), (expected,) = cut.run_all(feeds, names), whole.run_all(feeds, names)
    (exact,) = Session(path, name, frugal=True).run_all(feeds, names)
    for a, b, c in zip(found, expected, exact, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


def moments(model: ir.Model, folder: Path | None = None) -> dict[str, tuple[Any, ...]]:
    normalize(model)
    selected = SelectWeightsPass()
    selected(model)
    x = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    samples = Samples.from_feeds("file", [{"x": x[:20]}, {"x": x[20:]}], 32)
    units = by_weight(selected.layers)
    found = {}
    for group, find in Calibration(samples, folder=folder).rounds(model, units):
        of_inputs = find()
        for unit in group:
            for layer in unit:
                m = of_inputs[layer.input]
                found[layer.name] = (m.hessian.numpy(), m.mean.numpy(), m.count)
    assert len(found) == len(selected.layers)
    return found


SHARED = """<ir_version: 10, opset_import: ["": 20]>
g (float[n, 64] x) => (float[n, 64] y) {
    a = MatMul(x, w0) b = Tanh(a) c = MatMul(b, w1) d = Tanh(c)
    e = MatMul(d, w0) f = MatMul(b, w2) h = Add(e, f) y = MatMul(h, w3)
}"""


def shared_weight_model() -> ir.Model:
    """Return a model whose first and fifth layer share a weight, and two layers an input."""
    rng = np.random.default_rng(1)
    weights = {f"w{i}": rng.standard_normal((64, 64)).astype(np.float32) / 8 for i in range(4)}
    return model_from_text(SHARED, **weights)


@pytest.mark.parametrize("build", [mlp_model, shared_weight_model])
def test_moments_in_segments(build: Any, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = moments(build(), small)
    monkeypatch.undo()
    expected = moments(build())
    assert found.keys() == expected.keys()
    for name, (hessian, mean, count) in expected.items():
        np.testing.assert_allclose(found[name][0], hessian, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[name][1], mean, rtol=1e-5, atol=1e-6)
        assert found[name][2] == count


def test_each_segment_runs_once_where_hessians_fit(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    original = Relay.run

    def run(relay: Relay, segment: Any, *arguments: Any) -> Any:
        runs.append(relay.segments.index(segment))
        return original(relay, segment, *arguments)

    monkeypatch.setattr(Relay, "run", run)
    moments(shared_weight_model(), small)
    assert runs == sorted(set(runs))


def test_rounds_within_a_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = moments(shared_weight_model())
    monkeypatch.setattr("fqonnx.calibrate.calibration._HESSIAN_BYTES", 1)
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 2 * 64 * 64 * 4)
    found = moments(shared_weight_model())
    for name, (hessian, *_) in expected.items():
        np.testing.assert_allclose(found[name][0], hessian, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"sequential": True}, {"lowering": "onnx"}])
def test_a_compilation_in_segments(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ir.save(mlp_model(), tmp_path / "float.onnx")
    x = np.random.default_rng(0).standard_normal((80, 64)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    reports = []
    for size in (1 << 30, 1):
        monkeypatch.setattr(segments, "SEGMENT_BYTES", size)
        folder = tmp_path / str(size)
        folder.mkdir()
        reports.append(
            compile_model(
                tmp_path / "float.onnx",
                folder / "out.onnx",
                CompileConfig(bits=2, **options),
                calibration=tmp_path / "data.npz",
            )
        )
        assert [path.name for path in folder.iterdir()] == ["out.onnx"]
    first, second = reports
    assert second.outputs[0].cosine == pytest.approx(first.outputs[0].cosine, abs=0.01)
    for one, other in zip(first.layers, second.layers, strict=True):
        assert other.output_rel_error == pytest.approx(one.output_rel_error, rel=0.05)


def test_what_is_on_disk_goes_when_a_run_is_left(small: Path) -> None:
    x = np.ones((3, 64), np.float32)
    outputs = SegmentedModel(mlp_model(), "mlp", folder=small).run_all([{"x": x}] * 2, ["y"])
    next(outputs)
    assert list(small.iterdir())
    outputs.close()


ENDED = """
import os, sys
from fqonnx import segments
from fqonnx.cli import main

store = segments.Relay._store

def store_and_end(*arguments):
    store(*arguments)
    os.kill(os.getpid(), int(sys.argv[1]))

segments.SEGMENT_BYTES, segments.Relay._store = 1, store_and_end
main(sys.argv[2:])
"""


def ended(folder: Path, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Send a process a signal when it has activations on disk."""
    script = [sys.executable, "-P", "-c", ENDED, str(int(number))]
    command = ["compile", str(folder / "mlp.onnx"), "-o", str(folder / "out.onnx")]
    return subprocess.run([*script, *command], capture_output=True, text=True, check=False)


def test_nothing_stays_on_disk_of_a_command_that_is_asked_to_end(tmp_path: Path) -> None:
    ir.save(mlp_model(), tmp_path / "mlp.onnx")
    found = ended(tmp_path, signal.SIGTERM)
    assert found.returncode == 130, found.stderr
    assert "interrupted" in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mlp.onnx"]


def test_what_a_killed_command_leaves_goes_with_the_next(tmp_path: Path) -> None:
    ir.save(mlp_model(), tmp_path / "mlp.onnx")
    assert ended(tmp_path, signal.SIGKILL).returncode == -signal.SIGKILL
    left = {"mlp.onnx", ".out.onnx.layers"}
    assert {path.name for path in tmp_path.iterdir()} == left
    compile_model(tmp_path / "mlp.onnx", tmp_path / "out.onnx", calibration="none")
    assert {path.name for path in tmp_path.iterdir()} == {"mlp.onnx", "out.onnx"}


def test_a_value_goes_from_disk_behind_its_last_reader(small: Path) -> None:
    model = mlp_model()
    with Relay(model, [{"x": np.ones((3, 64), np.float32)}], ["y"], where="m", folder=small) as r:
        assert len(r.segments) > 2
        for segment in r.segments:
            r.pass_on(segment)
        (place,) = small.iterdir()
        assert len(list(place.iterdir())) == 2  # what the last segment read, and the output


def test_a_model_that_fits_is_a_session() -> None:
    assert isinstance(open_model(mlp_model(), "mlp"), Session)


def test_a_feed_that_does_not_fit_is_an_error(small: Path) -> None:
    model = SegmentedModel(mlp_model(), "mlp", folder=small)
    with pytest.raises(ModelError, match="ONNX Runtime failed on inputs x float32"):
        list(model.run_all([{"x": np.ones((3, 63), np.float32)}], ["y"]))


def test_a_folder_that_cannot_be_written_is_an_error(small: Path) -> None:
    model = SegmentedModel(mlp_model(), "mlp", folder=small / "none")
    with pytest.raises(ModelError, match="no place for the weights of mlp"):
        list(model.run_all([{"x": np.ones((3, 64), np.float32)}], ["y"]))


@pytest.mark.parametrize(
    ("there", "back"),
    [
        ("SequenceConstruct(a, x)", "SequenceAt(s, zero)"),
        ("Cast <to = 16> (a)", "Cast <to = 1> (s)"),
    ],
    ids=["sequence", "bfloat16"],
)
def test_no_cut_where_numpy_cannot_follow(
    there: str, back: str, small: Path, tmp_path: Path
) -> None:
    draw = np.random.default_rng(0).standard_normal
    model = model_from_text(
        f"""<ir_version: 10, opset_import: ["": 20]>
        g (float[N, 4] x) => (float[N, 4] y) {{
            zero = Constant <value_int = 0> () a = MatMul(x, w0) s = {there} b = MatMul(a, w1)
            c = {back} d = Add(b, c) y = MatMul(d, w2) }}""",
        **{f"w{i}": draw((4, 4)).astype(np.float32) for i in range(3)},
    )
    ir.save(model, tmp_path / "model.onnx")
    cut = open_model(tmp_path / "model.onnx", "model", folder=small)
    assert isinstance(cut, SegmentedModel)
    feeds = [{"x": draw((2, 4)).astype(np.float32)}]
    (found,) = cut.run_all(feeds, ["y"])
    (expected,) = Session(tmp_path / "model.onnx", "model").run_all(feeds, ["y"])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)


@pytest.mark.parametrize("kind", ["string[N]", "seq(float[N])"])
def test_what_is_no_tensor_of_numbers_is_no_input(kind: str) -> None:
    model = model_from_text(
        f"""<ir_version: 10, opset_import: ["": 20]>
        g ({kind} s) => ({kind} y) {{ y = Identity(s) }}"""
    )
    segmented = SegmentedModel(model, "model")
    assert segmented.numeric_outputs == []
    with pytest.raises(ModelError, match="input 's' is"):
        _ = segmented.inputs
