from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from fqonnx.frames import Frame, FusionFrame, HarmonicFrame, IdentityFrame
from fqonnx.frames.hadamard import kronecker_orders
from fqonnx.packing import choose_block_size, pack_codes
from fqonnx.runtime_ops import build_function
from operator_cases import (
    CASES,
    INT8_ACTIVATIONS,
    TETRIS,
    TRELLIS_CASES,
    UNIFORM,
    WIDE_TETRIS,
    Case,
    allowed,
    build_model,
    dequant_reference,
    hadamard,
    joined,
    matmul_reference,
    naive_model,
    relative_error,
    run_onnxruntime,
)
from support import MatMulNBits, fusion_frame


class Evaluator(ReferenceEvaluator):
    """ONNX's own evaluator, with MatMulNBits inside functions too."""

    def __init__(self, proto: Any, **arguments: Any) -> None:
        super().__init__(proto, **(arguments | {"new_ops": [MatMulNBits]}))


def run_reference(model: onnx.ModelProto, **x: Any) -> Any:
    return joined(Evaluator(model).run(None, x))


@pytest.mark.parametrize("case", CASES + TRELLIS_CASES, ids=str)
def test_matmul_computes_what_the_format_says(case: Case) -> None:
    arrays, x = case.arrays(), case.x()
    wanted = matmul_reference(case, arrays, x)
    bias = arrays["bias"] if case.bias else np.zeros(case.frame_out.dim, x.dtype)
    weight = dequant_reference(case, arrays).astype(x.dtype)
    tolerance = {
        run: allowed(run(naive_model(case.dtype), x=x, w=weight, b=bias), wanted)
        for run in (run_reference, run_onnxruntime)
    }

    for contrib in (True, False):
        model = build_model(case.spec("FrameMatMul", contrib=contrib), arrays, x.ndim)
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        for run in (run_reference, run_onnxruntime):
            found = run(model, x=x)
            assert (found.shape, found.dtype) == (wanted.shape, x.dtype)
            int8 = contrib and run is run_onnxruntime
            limit = INT8_ACTIVATIONS if int8 else tolerance[run]
            assert relative_error(found, wanted) <= limit, (run.__name__, contrib)


@pytest.mark.parametrize("case", CASES + TRELLIS_CASES, ids=str)
def test_dequant_computes_what_the_format_says(case: Case) -> None:
    arrays = case.arrays()
    wanted = dequant_reference(case, arrays)
    tolerance = allowed(wanted.astype(case.dtype.numpy()), wanted)
    model = build_model(case.spec("FrameDequant", contrib=True), arrays, 1)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    for run in (run_reference, run_onnxruntime):
        found = run(model)
        assert (found.shape, found.dtype) == (wanted.shape, case.dtype.numpy())
        assert relative_error(found, wanted) <= tolerance, run.__name__


FRAMES = [
    pytest.param(IdentityFrame(100), IdentityFrame(24), id="identity"),
    pytest.param(hadamard(100), IdentityFrame(24), id="hadamard"),
    pytest.param(hadamard(33), IdentityFrame(24), id="one-factor"),
    pytest.param(hadamard(100), hadamard(33), id="hadamard-both"),
    pytest.param(FusionFrame.create(64), UNIFORM, id="fusion"),
    pytest.param(HarmonicFrame.create(100, 3.0), HarmonicFrame.create(33), id="harmonic"),
]


@pytest.mark.parametrize(
    ("frame_in", "frame_out"), [*FRAMES, pytest.param(WIDE_TETRIS, TETRIS, id="tetris")]
)
@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16])
@pytest.mark.parametrize("contrib", [True, False])
def test_vector_gives_a_vector(
    frame_in: Frame, frame_out: Frame, dtype: ir.DataType, contrib: bool
) -> None:
    case = Case(frame_in, frame_out, 2, dtype=dtype, bias=True, batch=())
    arrays, x = case.arrays(), case.x()
    wanted = matmul_reference(case, arrays, x)
    model = build_model(case.spec("FrameMatMul", contrib=contrib), arrays, 1)
    for run in (run_reference, run_onnxruntime):
        found = run(model, x=x)
        assert found.shape == (frame_out.dim,)
        assert relative_error(found, wanted) <= INT8_ACTIVATIONS


@pytest.mark.parametrize("batch", [(0,), (0, 3), (3, 0), (2, 0, 3), (2, 3, 0)], ids=str)
@pytest.mark.parametrize(("frame_in", "frame_out"), FRAMES)
@pytest.mark.parametrize("contrib", [True, False])
def test_empty_batch_gives_an_empty_result(
    batch: tuple[int, ...], frame_in: Frame, frame_out: Frame, contrib: bool
) -> None:
    case = Case(frame_in, frame_out, 2, bias=True, batch=batch)
    model = build_model(case.spec("FrameMatMul", contrib=contrib), case.arrays(), len(batch) + 1)
    assert run_reference(model, x=case.x()).shape == (*batch, frame_out.dim)
    try:
        found = run_onnxruntime(model, x=case.x())
    except Fail:  # ONNX Runtime does not broadcast or reduce all that is empty: no wrong answer
        return
    assert found.shape == (*batch, frame_out.dim)


@pytest.mark.parametrize("contrib", [True, False])
def test_empty_batch_of_overlapping_blocks_does_not_kill_the_process(
    contrib: bool, tmp_path: Path
) -> None:
    case = Case(WIDE_TETRIS, TETRIS, 2, batch=(0,))
    model = build_model(case.spec("FrameMatMul", contrib=contrib), case.arrays(), 2)
    assert run_reference(model, x=case.x()).shape == (0, TETRIS.dim)
    onnx.save(model, tmp_path / "model.onnx")
    script = """
import sys
import numpy as np
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
try:
    session.run(None, {"x": np.zeros((0, int(sys.argv[2])), np.float32)})
except Fail:
    pass
"""
    command = [sys.executable, "-c", script, tmp_path / "model.onnx", str(WIDE_TETRIS.dim)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("op_type", ["FrameMatMul", "FrameDequant"])
@pytest.mark.parametrize("opset", [13, 26])
@pytest.mark.parametrize("contrib", [True, False])
@pytest.mark.parametrize(
    ("frame_in", "frame_out", "group_size"),
    [
        pytest.param(hadamard(100, 1.3), IdentityFrame(24), None, id="hadamard"),
        pytest.param(WIDE_TETRIS, TETRIS, None, id="fusion"),
        pytest.param(HarmonicFrame(100, 300), HarmonicFrame(33, 40), None, id="harmonic"),
        pytest.param(IdentityFrame(200), IdentityFrame(24), 128, id="groups"),
    ],
)
def test_oldest_and_newest_opset(
    op_type: str,
    opset: int,
    contrib: bool,
    frame_in: Frame,
    frame_out: Frame,
    group_size: int | None,
) -> None:
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip("this onnx is older")
    case = Case(frame_in, frame_out, 3, bias=True, zero_points=True, group_size=group_size)
    arrays, x = case.arrays(), case.x()
    model = build_model(case.spec(op_type, contrib=contrib), arrays, x.ndim, opset)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    if op_type == "FrameMatMul":
        found, wanted = run_onnxruntime(model, x=x), matmul_reference(case, arrays, x)
    else:
        found, wanted = run_onnxruntime(model), dequant_reference(case, arrays)
    exact = op_type == "FrameDequant" or not contrib
    assert relative_error(found, wanted) <= (1e-6 if exact else INT8_ACTIVATIONS)


@pytest.mark.parametrize("op_type", ["FrameMatMul", "FrameDequant"])
@pytest.mark.parametrize("contrib", [True, False])
@pytest.mark.parametrize("opset", [13, 17, 23])
def test_trellis_in_every_opset(op_type: Any, opset: int, contrib: bool) -> None:
    case = Case(hadamard(100), IdentityFrame(70), 3, bias=True, trellis=True)
    arrays, x = case.arrays(), case.x()
    model = build_model(case.spec(op_type, contrib=contrib), arrays, x.ndim, opset)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    if op_type == "FrameMatMul":
        found, wanted = run_onnxruntime(model, x=x), matmul_reference(case, arrays, x)
    else:
        found, wanted = run_onnxruntime(model), dequant_reference(case, arrays)
    exact = op_type == "FrameDequant" or not contrib
    assert relative_error(found, wanted) <= (1e-6 if exact else INT8_ACTIVATIONS)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16])
@pytest.mark.parametrize("contrib", [True, False])
def test_trellis_folds_to_8_bits(
    bits: int, dtype: ir.DataType, contrib: bool, tmp_path: Path
) -> None:
    case = Case(hadamard(384), IdentityFrame(96), bits, dtype, bias=True, trellis=True)
    model = build_model(case.spec("FrameMatMul", contrib=contrib), case.arrays(), 3)
    run_onnxruntime(model, save_as=tmp_path / "optimized.onnx", x=case.x())
    found = onnx.load(tmp_path / "optimized.onnx").graph.initializer
    large = [tensor for tensor in found if math.prod(tensor.dims) >= 384 * 96 / 4]
    byte = onnx.TensorProto.UINT8 if contrib else onnx.TensorProto.INT8
    assert [tensor.data_type for tensor in large] == [byte]
    assert math.prod(large[0].dims) == 384 * 96


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dim_in", [100, 131])
def test_codes_beyond_the_last_vector_are_ignored(bits: int, dim_in: int) -> None:
    assert_padding_is_ignored(Case(hadamard(dim_in), IdentityFrame(24), bits))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_codes_beyond_the_last_group_are_ignored(bits: int) -> None:
    frames = IdentityFrame(200), IdentityFrame(24)
    assert_padding_is_ignored(Case(*frames, bits, zero_points=True, group_size=128))


def assert_padding_is_ignored(case: Case) -> None:
    arrays, x, bits = case.arrays(), case.x(), case.bits
    codes, num_vectors = arrays["codes"], case.frame_in.num_vectors
    assert codes is not None
    size, padding = choose_block_size(num_vectors), -num_vectors % 16
    assert padding
    full = np.zeros((case.frame_out.num_vectors, num_vectors + padding), np.uint8)
    full[:, num_vectors:] = (1 << bits) - 1
    arrays["codes"] = codes | pack_codes(full, bits, size)
    wanted = matmul_reference(case, case.arrays(), x)
    for contrib in (True, False):
        model = build_model(case.spec("FrameMatMul", contrib=contrib), arrays, x.ndim)
        exact = relative_error(run_reference(model, x=x), wanted)
        assert exact <= 2e-6
        limit = INT8_ACTIVATIONS if contrib else 2e-6
        assert relative_error(run_onnxruntime(model, x=x), wanted) <= limit
    model = build_model(case.spec("FrameDequant", contrib=True), arrays, 1)
    assert relative_error(run_onnxruntime(model), dequant_reference(case, case.arrays())) <= 2e-6


@pytest.mark.parametrize("contrib", [True, False])
def test_zero_points_at_both_ends(contrib: bool) -> None:
    case = Case(hadamard(64), IdentityFrame(24), 2, zero_points=True)
    arrays, x = case.arrays(), case.x()
    arrays["zero_points"] = np.linspace(0, 3, 24).astype(np.uint8)[:, None]
    wanted = matmul_reference(case, arrays, x)
    model = build_model(case.spec("FrameMatMul", contrib=contrib), arrays, x.ndim)
    assert relative_error(run_reference(model, x=x), wanted) <= 2e-6
    model = build_model(case.spec("FrameDequant", contrib=contrib), arrays, 1)
    assert relative_error(run_onnxruntime(model), dequant_reference(case, arrays)) <= 2e-6


@pytest.mark.parametrize("contrib", [True, False])
def test_scale_of_zero_gives_zero(contrib: bool) -> None:
    case = Case(hadamard(100), IdentityFrame(24), 2)
    arrays, x = case.arrays(), case.x()
    assert arrays["scales"] is not None
    arrays["scales"][::2] = 0
    model = build_model(case.spec("FrameMatMul", contrib=contrib), arrays, x.ndim)
    for run in (run_reference, run_onnxruntime):
        found = run(model, x=x)
        assert not found[..., ::2].any()
        assert found[..., 1::2].all()


@pytest.mark.parametrize("contrib", [True, False])
@pytest.mark.parametrize(
    ("frame_in", "frame_out"),
    [
        (hadamard(2560), IdentityFrame(8)),
        (IdentityFrame(8), hadamard(2560)),
        (FusionFrame.create(2048), IdentityFrame(8)),
    ],
    ids=["in", "out", "fusion"],
)
def test_layer_of_several_kronecker_factors(
    frame_in: Frame, frame_out: Frame, contrib: bool
) -> None:
    case = Case(frame_in, frame_out, 2, batch=(4,))
    arrays, x = case.arrays(), case.x()
    size = max(frame_in.num_vectors, frame_out.num_vectors)
    assert len(kronecker_orders(size)) == 3
    wanted = matmul_reference(case, arrays, x)
    model = build_model(case.spec("FrameMatMul", contrib=contrib), arrays, x.ndim)
    limit = INT8_ACTIVATIONS if contrib else 2e-6
    assert relative_error(run_onnxruntime(model, x=x), wanted) <= limit


@pytest.mark.parametrize("subspaces", [(4, 4, 16), (3, 2, 4), (2, 2, 4), (8, 8, 64)], ids=str)
def test_fusion_frame_of_few_coordinates_and_several_rows(subspaces: tuple[int, int, int]) -> None:
    frame = fusion_frame(subspaces[2] - 1, subspaces)
    case = Case(frame, frame, 2)
    arrays, x = case.arrays(), case.x()
    model = build_model(case.spec("FrameMatMul", contrib=False), arrays, x.ndim)
    for run in (run_reference, run_onnxruntime):
        assert relative_error(run(model, x=x), matmul_reference(case, arrays, x)) <= 2e-6


@pytest.mark.parametrize("op_type", ["FrameMatMul", "FrameDequant"])
@pytest.mark.parametrize("contrib", [True, False])
@pytest.mark.parametrize(
    "frame", [hadamard(4096), FusionFrame.create(4096, 1.1)], ids=["hadamard", "fusion"]
)
def test_body_holds_nothing_near_the_size_of_the_weight(
    op_type: Any, contrib: bool, frame: Frame
) -> None:
    function = build_function(Case(frame, frame, 2).spec(op_type, contrib=contrib), 20)
    constants = [node for node in function.graph if node.op_type == "Constant"]
    stored = sum(node.attributes["value"].as_tensor().nbytes for node in constants)
    assert 0 < stored < 0.02 * 4096**2


@pytest.mark.parametrize("op_type", ["FrameMatMul", "FrameDequant"])
@pytest.mark.parametrize("dim", [1, 100, 4096, 11008])
def test_body_of_a_harmonic_frame_holds_numbers_only(op_type: Any, dim: int) -> None:
    frame = HarmonicFrame.create(dim, 3.0)
    for frames in ((frame, IdentityFrame(8)), (IdentityFrame(8), frame)):
        function = build_function(Case(*frames, 2).spec(op_type, contrib=False), 20)
        constants = [node for node in function.graph if node.op_type == "Constant"]
        sizes = [node.attributes["value"].as_tensor().size for node in constants]
        assert max(sizes) <= 8


def test_sinusoids_of_a_large_harmonic_frame_lose_no_digits() -> None:
    frame = HarmonicFrame.create(2048, 3.0)
    case = Case(frame, IdentityFrame(8), 2, batch=(4,))
    arrays, x = case.arrays(), case.x()
    model = build_model(case.spec("FrameMatMul", contrib=False), arrays, x.ndim)
    assert relative_error(run_onnxruntime(model, x=x), matmul_reference(case, arrays, x)) <= 2e-6


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("frame_in", "frame_out", "group_size"),
    [
        pytest.param(IdentityFrame(384), IdentityFrame(96), None, id="None"),
        pytest.param(hadamard(384), IdentityFrame(96), None, id="1.0"),
        pytest.param(hadamard(384, 1.3), IdentityFrame(96), None, id="1.3"),
        pytest.param(hadamard(384), hadamard(96), None, id="both"),
        pytest.param(FusionFrame.create(384, 1.1), FusionFrame.create(96), None, id="fusion"),
        pytest.param(HarmonicFrame.create(384, 1.3), IdentityFrame(96), None, id="harmonic"),
        pytest.param(IdentityFrame(384), IdentityFrame(96), 128, id="groups"),
    ],
)
@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16])
@pytest.mark.parametrize("contrib", [True, False])
def test_no_float_weight_is_folded_at_load(
    bits: int,
    frame_in: Frame,
    frame_out: Frame,
    group_size: int | None,
    dtype: ir.DataType,
    contrib: bool,
    tmp_path: Path,
) -> None:
    # Only FrameQuant's frames and groups come with zero points.
    zero_points = group_size is not None or frame_in.spec.kind == "fusion"
    case = Case(frame_in, frame_out, bits, dtype, True, zero_points, group_size)
    model = build_model(case.spec("FrameMatMul", contrib=contrib), case.arrays(), 3)
    run_onnxruntime(model, save_as=tmp_path / "optimized.onnx", x=case.x())
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert not optimized.functions
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    sizes = {
        tensor.name: math.prod(tensor.dims)
        for tensor in optimized.graph.initializer
        if tensor.data_type in floats
    }
    assert max(sizes.values()) < frame_in.dim * frame_out.dim / 4, sizes
    if contrib:
        every = {t.name: math.prod(t.dims) for t in optimized.graph.initializer}
        assert max(every.values()) < frame_in.dim * frame_out.dim, every
