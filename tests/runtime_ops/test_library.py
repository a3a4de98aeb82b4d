"""The native library in ONNX Runtime, against the reference and the bodies that it replaces."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.external_data_helper import set_external_data

from fqonnx import native
from fqonnx.errors import LibraryError
from fqonnx.frames import Frame, FusionFrame, HarmonicFrame, IdentityFrame
from fqonnx.packing import choose_block_size, pack_codes
from fqonnx.runtime_ops import instruction_set, library_path, register
from operator_cases import (
    CASES,
    INT8_ACTIVATIONS,
    TETRIS,
    WIDE_TETRIS,
    Case,
    allowed,
    build_model,
    dequant_reference,
    hadamard,
    make_session,
    matmul_reference,
    naive_model,
    relative_error,
    run_onnxruntime,
)

pytestmark = pytest.mark.skipif(library_path() is None, reason="the native library was not built")


def run_native(model: onnx.ModelProto, **x: Any) -> Any:
    return run_onnxruntime(model, native=True, **x)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matmul_computes_what_the_format_says(case: Case) -> None:
    arrays, x = case.arrays(), case.x()
    wanted = matmul_reference(case, arrays, x)
    bias = arrays["bias"] if case.bias else np.zeros(case.frame_out.dim, x.dtype)
    weight = dequant_reference(case, arrays).astype(x.dtype)
    naive = run_onnxruntime(naive_model(case.dtype), x=x, w=weight, b=bias)
    for contrib, limit in ((True, INT8_ACTIVATIONS), (False, allowed(naive, wanted))):
        model = build_model(case.spec("FrameMatMul", contrib=contrib), arrays, x.ndim)
        found = run_native(model, x=x)
        assert (found.shape, found.dtype) == (wanted.shape, x.dtype)
        assert relative_error(found, wanted) <= limit, contrib


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dequant_computes_what_the_format_says(case: Case) -> None:
    arrays = case.arrays()
    wanted = dequant_reference(case, arrays)
    tolerance = allowed(wanted.astype(case.dtype.numpy()), wanted)
    found = run_native(build_model(case.spec("FrameDequant", contrib=True), arrays, 1))
    assert (found.shape, found.dtype) == (wanted.shape, case.dtype.numpy())
    assert relative_error(found, wanted) <= tolerance


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 9, 17, 200])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("group_size", [None, 128])
@pytest.mark.parametrize("contrib", [True, False])
def test_any_number_of_rows(rows: int, bits: int, group_size: int | None, contrib: bool) -> None:
    frames = hadamard(640), IdentityFrame(70)
    case = Case(*frames, bits, bias=True, group_size=group_size, batch=(rows,))
    arrays, x = case.arrays(), case.x()
    model = build_model(case.spec("FrameMatMul", contrib=contrib), arrays, 2)
    error = relative_error(run_native(model, x=x), matmul_reference(case, arrays, x))
    assert error <= (INT8_ACTIVATIONS if contrib else 1e-6)


def test_more_rows_than_are_held_at_once() -> None:
    case = Case(hadamard(33), IdentityFrame(24), 2, bias=True, splits=(16, 8), batch=(3, 3000))
    arrays, x = case.arrays(), case.x()
    model = build_model(case.spec("FrameMatMul", contrib=False), arrays, 3)
    assert relative_error(run_native(model, x=x), matmul_reference(case, arrays, x)) <= 1e-6


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("batch", [(), (1,), (40,)], ids=str)
def test_codes_beyond_the_last_vector_are_ignored(bits: int, batch: tuple[int, ...]) -> None:
    case = Case(hadamard(131), IdentityFrame(24), bits, batch=batch)
    arrays, x = case.arrays(), case.x()
    num_vectors = case.frame_in.num_vectors
    padding = -num_vectors % 16
    full = np.zeros((24, num_vectors + padding), np.uint8)
    full[:, num_vectors:] = (1 << bits) - 1
    codes = arrays["codes"]
    assert codes is not None
    arrays["codes"] = codes | pack_codes(full, bits, choose_block_size(num_vectors))
    wanted = matmul_reference(case, case.arrays(), x)
    model = build_model(case.spec("FrameMatMul", contrib=False), arrays, x.ndim)
    assert relative_error(run_native(model, x=x), wanted) <= 2e-6


@pytest.mark.parametrize("batch", [(0,), (0, 3), (2, 0, 3)], ids=str)
@pytest.mark.parametrize(
    ("frame_in", "frame_out"),
    [(hadamard(100), IdentityFrame(24)), (WIDE_TETRIS, TETRIS), (hadamard(33), hadamard(7))],
)
@pytest.mark.parametrize("contrib", [True, False])
def test_empty_batch_gives_an_empty_result(
    batch: tuple[int, ...], frame_in: Frame, frame_out: Frame, contrib: bool
) -> None:
    case = Case(frame_in, frame_out, 2, bias=True, batch=batch)
    model = build_model(case.spec("FrameMatMul", contrib=contrib), case.arrays(), len(batch) + 1)
    assert run_native(model, x=case.x()).shape == (*batch, frame_out.dim)


def test_vector_gives_a_vector() -> None:
    case = Case(hadamard(100), hadamard(33), 2, bias=True, batch=())
    arrays, x = case.arrays(), case.x()
    model = build_model(case.spec("FrameMatMul", contrib=False), arrays, 1)
    found = run_native(model, x=x)
    assert found.shape == (33,)
    assert relative_error(found, matmul_reference(case, arrays, x)) <= 1e-6


@pytest.mark.parametrize("rows", [1, 20])
@pytest.mark.parametrize("contrib", [True, False])
def test_rows_of_zeros_and_of_no_numbers(rows: int, contrib: bool) -> None:
    case = Case(hadamard(128), IdentityFrame(40), 2, bias=True, batch=(rows,))
    arrays, x = case.arrays(), case.x()
    model = build_model(case.spec("FrameMatMul", contrib=contrib), arrays, 2)
    x[0] = 0
    np.testing.assert_array_equal(run_native(model, x=x)[0], arrays["bias"])
    x[0, 5] = np.inf
    found = run_native(model, x=x)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1:]).all()
    x[0] = 0
    x[0, 5] = 1e-42  # subnormal: nothing to scale by
    np.testing.assert_allclose(run_native(model, x=x)[0], arrays["bias"])


@pytest.mark.parametrize("contrib", [True, False])
def test_large_layer_is_as_exact_as_float(contrib: bool) -> None:
    case = Case(hadamard(4096), IdentityFrame(64), 2, batch=(1,))
    arrays, x = case.arrays(), case.x()
    model = build_model(case.spec("FrameMatMul", contrib=contrib), arrays, 2)
    error = relative_error(run_native(model, x=x), matmul_reference(case, arrays, x))
    assert error <= (INT8_ACTIVATIONS if contrib else 1e-6)


def test_sessions_and_runs_at_once() -> None:
    """Sessions of all kinds and threads, some of which end meanwhile, disturb no sum."""
    cases = [
        Case(hadamard(384), hadamard(100), 2, bias=True, batch=(40,)),
        Case(hadamard(131), IdentityFrame(200), 3, group_size=128, zero_points=True, batch=(40,)),
        Case(HarmonicFrame(131, 400), IdentityFrame(24), 4, ir.DataType.FLOAT16, batch=(40,)),
        Case(WIDE_TETRIS, TETRIS, 1, batch=(40,)),
    ]
    models = [
        build_model(case.spec("FrameMatMul", contrib=contrib), case.arrays(), 2)
        for case in cases
        for contrib in (True, False)
    ]
    inputs = [case.x() for case in cases for _ in range(2)]
    sessions = [make_session(model, native=True, threads=4) for model in models]
    sizes = (1, 2, 7, 40)
    quiet = {
        (i, rows): session.run(None, {"x": inputs[i][:rows]})[0]
        for i, session in enumerate(sessions)
        for rows in sizes
    }

    def run(task: int) -> None:
        i, rows = task % len(models), sizes[task // len(models) % len(sizes)]
        session = sessions[i]
        if task % 11 == 0:
            session = make_session(models[i], native=True, threads=1 + task % 4)
        found = session.run(None, {"x": inputs[i][:rows]})[0]
        np.testing.assert_array_equal(found, quiet[i, rows])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(run, range(600)))


@pytest.mark.parametrize("group_size", [None, 128])
@pytest.mark.parametrize("rows", [1, 9])
def test_weights_at_any_byte_of_a_file(tmp_path: Path, group_size: int | None, rows: int) -> None:
    case = Case(
        hadamard(384),
        hadamard(100),
        3,
        bias=True,
        zero_points=True,
        group_size=group_size,
        batch=(rows,),
    )
    model = build_model(case.spec("FrameMatMul", contrib=False), case.arrays(), 2)
    wanted = run_native(model, x=case.x())
    with (tmp_path / "weights").open("wb") as weights:
        for tensor in model.graph.initializer:
            weights.write(bytes(1 + -weights.tell() % 64))
            set_external_data(tensor, "weights", weights.tell(), len(tensor.raw_data))
            weights.write(tensor.raw_data)
            tensor.ClearField("raw_data")
    onnx.save(model, tmp_path / "model.onnx")
    options = ort.SessionOptions()
    register(options)
    session = ort.InferenceSession(
        tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    np.testing.assert_array_equal(session.run(None, {"x": case.x()})[0], wanted)


SPOILED: list[tuple[str, Any, str]] = [
    ("layout", 2, "layout 2"),
    ("codebook", "lattice", "codebook"),
    ("frame_in", "wavelet", "unknown frame"),
    ("bits", 5, "bits 5"),
    ("bits", 0, "bits 0"),
    ("block_size", 24, "block_size 24"),
    ("group_size", 64, "group_size 64"),
    ("dim_in", 0, "dim"),
    ("dim_in", -5, "dim"),
    ("num_vectors_in", 50, "vectors"),
    ("num_vectors_in", 1 << 40, "vectors"),
    ("num_vectors_in", 67 * 16, "odd part"),
    ("accuracy", "none", "accuracy"),
    ("frame_out", "hadamard", "signs_out"),
    ("dim_in", 99, "dim_in"),
    ("num_vectors_in", 512, "codes"),
    ("bits", 4, "codes"),
    ("group_size", 128, "scales"),
]


@pytest.mark.parametrize(("name", "value", "message"), SPOILED)
def test_spoiled_attribute_is_an_error_that_names_the_node(
    name: str, value: Any, message: str
) -> None:
    case = Case(hadamard(200), IdentityFrame(24), 2, batch=(2,))
    model = build_model(case.spec("FrameMatMul", contrib=True), case.arrays(), 2)
    (node,) = model.graph.node
    (attribute,) = (a for a in node.attribute if a.name == name)
    attribute.CopyFrom(onnx.helper.make_attribute(name, value))
    node.name = "spoiled"
    with pytest.raises(Exception, match=f"spoiled: .*{message}"):
        run_native(model, x=case.x())


@pytest.mark.parametrize(
    "subspaces", [(), (7, 4), (7, 4, 19), (7, 4, 16), (1, 28, 18), (4, 7, 18), (-7, -4, 18)]
)
def test_impossible_fusion_frame_is_an_error(subspaces: tuple[int, ...]) -> None:
    case = Case(TETRIS, IdentityFrame(24), 2, batch=(2,))
    model = build_model(case.spec("FrameMatMul", contrib=True), case.arrays(), 2)
    (node,) = model.graph.node
    (attribute,) = (a for a in node.attribute if a.name == "subspaces_in")
    del attribute.ints[:]
    attribute.ints.extend(subspaces)
    with pytest.raises(Exception, match="fusion frame"):
        run_native(model, x=case.x())


@pytest.mark.parametrize("splits", [(24, 1), (23,), (24, 24), (0, 24), (-1, 25), (2**62, 24)])
def test_splits_that_do_not_cut_the_outputs_are_an_error(splits: tuple[int, ...]) -> None:
    case = Case(hadamard(200), IdentityFrame(24), 2, splits=(8, 16), batch=(2,))
    model = build_model(case.spec("FrameMatMul", contrib=True), case.arrays(), 2)
    (attribute,) = (a for a in model.graph.node[0].attribute if a.name == "splits")
    del attribute.ints[:]
    attribute.ints.extend(splits)
    with pytest.raises(Exception, match="splits must be at most 64, positive, sum to dim_out"):
        run_native(model, x=case.x())


def test_more_outputs_than_splits_are_an_error() -> None:
    case = Case(hadamard(200), IdentityFrame(24), 2, splits=(8, 16), batch=(2,))
    model = build_model(case.spec("FrameMatMul", contrib=True), case.arrays(), 2)
    (attribute,) = (a for a in model.graph.node[0].attribute if a.name == "splits")
    model.graph.node[0].attribute.remove(attribute)
    with pytest.raises(Exception, match="has 2 outputs, expected 1"):
        run_native(model, x=case.x())


@pytest.mark.parametrize("name", ["codes", "scales", "zero_points", "signs_in", "bias"])
def test_input_of_another_shape_is_an_error(name: str) -> None:
    case = Case(hadamard(200), IdentityFrame(24), 2, bias=True, zero_points=True, batch=(2,))
    arrays = case.arrays()
    array = arrays[name]
    assert array is not None
    arrays[name] = array[:-1]
    model = build_model(case.spec("FrameMatMul", contrib=True), arrays, 2)
    with pytest.raises(Exception, match=f"input {name} has the shape"):
        run_native(model, x=case.x())


@pytest.mark.parametrize(
    "frames",
    [(HarmonicFrame.create(2048, 3.0), IdentityFrame(8)), (FusionFrame.create(2048), hadamard(40))],
    ids=["harmonic", "fusion"],
)
def test_large_frames_lose_no_digits(frames: tuple[Frame, Frame]) -> None:
    case = Case(*frames, 2, batch=(4,))
    arrays, x = case.arrays(), case.x()
    model = build_model(case.spec("FrameMatMul", contrib=False), arrays, 2)
    assert relative_error(run_native(model, x=x), matmul_reference(case, arrays, x)) <= 2e-6


@pytest.mark.parametrize("name", ["portable", "avx2"])
def test_every_instruction_set_gives_the_same(name: str) -> None:
    environment = os.environ | {"FQONNX_INSTRUCTION_SET": name}
    script = "from fqonnx.runtime_ops import instruction_set; print(instruction_set())"
    command = [sys.executable, "-P", "-c", script]
    chosen = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    if chosen.stdout.strip() != name or os.environ.get("FQONNX_INSTRUCTION_SET"):
        pytest.skip(f"this processor has no {name}, or these tests run with one already")
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-q",
        "-x",
        __file__,
        "-k",
        "computes_what or number_of_rows",
    ]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:]


ONE_RUN = """
import sys
import numpy as np
import onnxruntime as ort

options = ort.SessionOptions()
options.intra_op_num_threads = 2
options.register_custom_ops_library(sys.argv[1])
session = ort.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
x = np.ones((4, 1 << 20), np.float16)
for _ in range(40):
    try:
        session.run(None, {"x": x})
    except Exception as error:
        print(error)
"""


@pytest.mark.skipif("ASAN_OPTIONS" not in os.environ, reason="the sanitizer limits allocations")
@pytest.mark.parametrize("megabytes", [9, 14])  # enough for neither; for all but what tasks take
def test_no_memory_is_an_error_that_names_the_node(tmp_path: Path, megabytes: int) -> None:
    case = Case(hadamard(1 << 20), IdentityFrame(1), 1, dtype=ir.DataType.FLOAT16, batch=(4,))
    model = build_model(case.spec("FrameMatMul", contrib=False), case.arrays(), 2)
    model.graph.node[0].name = "starved"
    onnx.save(model, tmp_path / "model.onnx")
    limit = f"allocator_may_return_null=1:max_allocation_size_mb={megabytes}"
    environment = os.environ | {"ASAN_OPTIONS": f"{os.environ['ASAN_OPTIONS']}:{limit}"}
    command = [
        sys.executable,
        "-P",
        "-c",
        ONE_RUN,
        str(library_path()),
        str(tmp_path / "model.onnx"),
    ]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("starved: std::bad_alloc") == 40


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library_path", lambda: None)
    for call in (instruction_set, lambda: register(ort.SessionOptions())):
        with pytest.raises(LibraryError, match="not built"):
            call()
