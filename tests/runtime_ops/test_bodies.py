from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator
from onnx_ir.tape import Tape
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from fqonnx.frames import HadamardFrame
from fqonnx.frames.hadamard import kronecker_orders
from fqonnx.packing import choose_block_size, pack_codes, pack_signs
from fqonnx.reference import frame_dequant, frame_matmul
from fqonnx.runtime_ops import DOMAIN, FrameOpSpec, build_function
from support import MatMulNBits

INT8_ACTIVATIONS = 1.5e-2  # relative error that MatMulNBits may make at accuracy level 4

Arrays = dict[str, np.ndarray | None]


@dataclass(frozen=True)
class Case:
    """One operator with packed data, and the x that it is tried on."""

    dim_in: int
    bits: int
    redundancy: float | None = 1.0  # None: the identity frame
    dim_out: int = 24
    dtype: ir.DataType = ir.DataType.FLOAT
    bias: bool = False
    zero_points: bool = False
    batch: tuple[int, ...] = (3, 5)

    def __str__(self) -> str:
        frame = "identity" if self.redundancy is None else f"hadamard{self.redundancy}"
        flags = "-bias" * self.bias + "-zp" * self.zero_points
        batch = "x".join(map(str, self.batch))
        return (
            f"{frame}-{self.dim_in}x{self.dim_out}-{self.bits}bit-{self.dtype.name}"
            f"{flags}-batch{batch}"
        )

    @property
    def num_vectors(self) -> int:
        if self.redundancy is None:
            return self.dim_in
        return HadamardFrame.create(self.dim_in, self.redundancy).num_vectors

    def spec(self, op_type: Any, *, contrib: bool) -> FrameOpSpec:
        return FrameOpSpec(
            op_type=op_type,
            dim_in=self.dim_in,
            dim_out=self.dim_out,
            num_vectors=self.num_vectors,
            bits=self.bits,
            block_size=choose_block_size(self.num_vectors),
            frame_in="identity" if self.redundancy is None else "hadamard",
            dtype=self.dtype,
            has_bias=self.bias and op_type == "FrameMatMul",
            has_zero_points=self.zero_points,
            contrib=contrib,
        )

    def arrays(self) -> Arrays:
        rng = np.random.default_rng(self.dim_in * 5 + self.bits)
        codes = rng.integers(0, 1 << self.bits, (self.dim_out, self.num_vectors), dtype=np.uint8)
        signs = rng.choice(np.array([-1, 1], np.int8), self.dim_in)
        zero_points = rng.integers(0, 1 << self.bits, self.dim_out, dtype=np.uint8)
        bias = rng.standard_normal(self.dim_out).astype(self.dtype.numpy())
        return {
            "codes": pack_codes(codes, self.bits, choose_block_size(self.num_vectors)),
            "scales": rng.uniform(0.02, 0.05, self.dim_out).astype(np.float16),
            "zero_points": zero_points if self.zero_points else None,
            "signs_in": None if self.redundancy is None else pack_signs(signs),
            "bias": bias if self.bias else None,
        }

    def x(self) -> np.ndarray:
        rng = np.random.default_rng(1)
        return rng.standard_normal((*self.batch, self.dim_in)).astype(self.dtype.numpy())

    def attributes(self) -> dict[str, Any]:
        return {
            "frame_in": "identity" if self.redundancy is None else "hadamard",
            "dim_in": self.dim_in,
            "num_vectors": self.num_vectors,
            "bits": self.bits,
        }


def _cases() -> list[Case]:
    """Return every dim with every frame and every bits; the rest is drawn."""
    rng = random.Random(0)
    return [
        Case(
            dim_in,
            bits,
            redundancy,
            dim_out=rng.choice((1, 7, 24, 33, 40)),
            dtype=rng.choice((ir.DataType.FLOAT, ir.DataType.FLOAT, ir.DataType.FLOAT16)),
            bias=rng.random() < 0.5,
            zero_points=rng.random() < 0.5,
            batch=rng.choice(((8,), (4, 6), (2, 3, 4))),
        )
        for dim_in in (1, 7, 33, 100, 131, 384)
        for redundancy in (None, 1.0, 1.3)
        for bits in (1, 2, 3, 4)
    ]


CASES = _cases()


def build_model(spec: FrameOpSpec, arrays: Arrays, rank: int, opset: int = 20) -> onnx.ModelProto:
    """Return a model of one node of ``spec``, with its function."""
    x = ir.Value(name="x", type=ir.TensorType(spec.dtype))
    x.shape = ir.Shape([*(f"batch{i}" for i in range(rank - 1)), spec.dim_in])
    tape = Tape()
    inputs: list[ir.Value | None] = []
    for name in spec.input_names():
        array = arrays.get(name)
        if name == "X":
            inputs.append(x)
        elif array is None or (name == "bias" and not spec.has_bias):
            inputs.append(None)
        else:
            inputs.append(tape.initializer(ir.tensor(array, name=name)))
    # A node may end in absent inputs, and ONNX's evaluator wants to see them.
    y = tape.op(spec.op_type, inputs, spec.attributes(), domain=DOMAIN, overload=spec.overload)
    y.name, y.type = "y", ir.TensorType(spec.dtype)
    if spec.op_type == "FrameMatMul":
        y.shape = ir.Shape([*x.shape[:-1], spec.dim_out])
    else:
        y.shape = ir.Shape([spec.dim_in, spec.dim_out])
    graph = ir.Graph(
        [x] if spec.op_type == "FrameMatMul" else [],
        [y],
        nodes=tape.nodes,
        initializers=tape.initializers,
        opset_imports={"": opset, DOMAIN: 1, "com.microsoft": 1},
        name="main",
    )
    functions = [build_function(spec, opset)]
    return ir.to_proto(ir.Model(graph, ir_version=10, functions=functions))


def run_onnxruntime(model: onnx.ModelProto, *, save_as: Path | None = None, **x: Any) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if save_as is not None:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(save_as)
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, x)[0]


class Evaluator(ReferenceEvaluator):
    """ONNX's own evaluator, with MatMulNBits inside functions too."""

    def __init__(self, proto: Any, **arguments: Any) -> None:
        super().__init__(proto, **(arguments | {"new_ops": [MatMulNBits]}))


def run_reference(model: onnx.ModelProto, **x: Any) -> Any:
    return Evaluator(model).run(None, x)[0]


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return ‖found − wanted‖/‖wanted‖, or ‖found‖ where nothing is wanted."""
    error = np.linalg.norm(found.astype(np.float64) - wanted)
    return float(error / (np.linalg.norm(wanted) or 1.0))


def matmul_reference(case: Case, arrays: Arrays, x: np.ndarray) -> np.ndarray:
    names = ("codes", "scales", "zero_points", "signs_in", "bias")
    return frame_matmul(x, *(arrays[name] for name in names), **case.attributes())


def dequant_reference(case: Case, arrays: Arrays) -> np.ndarray:
    names = ("codes", "scales", "zero_points", "signs_in")
    return frame_dequant(*(arrays[name] for name in names), **case.attributes())


def allowed(naive: np.ndarray, wanted: np.ndarray) -> float:
    """Return twice the error of the naive path in the same precision, and two last places."""
    return 2 * relative_error(naive, wanted) + 2 * float(np.finfo(naive.dtype).eps)


@cache
def naive_model(dtype: ir.DataType) -> onnx.ModelProto:
    name = dtype.name.lower()
    return onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 20]>
        naive ({name}[] x, {name}[K, N] w, {name}[N] b) => ({name}[] y) {{
            h = MatMul(x, w)
            y = Add(h, b)
        }}"""
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matmul_computes_what_the_format_says(case: Case) -> None:
    arrays, x = case.arrays(), case.x()
    wanted = matmul_reference(case, arrays, x)
    bias = arrays["bias"] if case.bias else np.zeros(case.dim_out, x.dtype)
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


@pytest.mark.parametrize("case", CASES, ids=str)
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


@pytest.mark.parametrize("redundancy", [None, 1.0])
@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16])
@pytest.mark.parametrize("contrib", [True, False])
def test_vector_gives_a_vector(redundancy: float | None, dtype: ir.DataType, contrib: bool) -> None:
    case = Case(100, 2, redundancy, dtype=dtype, bias=True, batch=())
    arrays, x = case.arrays(), case.x()
    wanted = matmul_reference(case, arrays, x)
    model = build_model(case.spec("FrameMatMul", contrib=contrib), arrays, 1)
    for run in (run_reference, run_onnxruntime):
        found = run(model, x=x)
        assert found.shape == (24,)
        assert relative_error(found, wanted) <= INT8_ACTIVATIONS


@pytest.mark.parametrize("batch", [(0,), (0, 3), (3, 0), (2, 0, 3), (2, 3, 0)], ids=str)
@pytest.mark.parametrize("dim_in", [33, 100])
@pytest.mark.parametrize("redundancy", [None, 1.0])
@pytest.mark.parametrize("contrib", [True, False])
def test_empty_batch_gives_an_empty_result(
    batch: tuple[int, ...], dim_in: int, redundancy: float | None, contrib: bool
) -> None:
    case = Case(dim_in, 2, redundancy, bias=True, batch=batch)
    model = build_model(case.spec("FrameMatMul", contrib=contrib), case.arrays(), len(batch) + 1)
    assert run_reference(model, x=case.x()).shape == (*batch, 24)
    try:
        found = run_onnxruntime(model, x=case.x())
    except Fail:  # ONNX Runtime does not broadcast or reduce all that is empty: no wrong answer
        return
    assert found.shape == (*batch, 24)


@pytest.mark.parametrize("op_type", ["FrameMatMul", "FrameDequant"])
@pytest.mark.parametrize("opset", [13, 26])
@pytest.mark.parametrize("contrib", [True, False])
def test_oldest_and_newest_opset(op_type: str, opset: int, contrib: bool) -> None:
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip("this onnx is older")
    case = Case(100, 3, 1.3, bias=True, zero_points=True)
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
@pytest.mark.parametrize("dim_in", [100, 131])
def test_codes_beyond_the_last_vector_are_ignored(bits: int, dim_in: int) -> None:
    case = Case(dim_in, bits, 1.0)
    arrays, x = case.arrays(), case.x()
    codes = arrays["codes"]
    assert codes is not None
    size, padding = choose_block_size(case.num_vectors), -case.num_vectors % 16
    assert padding
    full = np.zeros((case.dim_out, case.num_vectors + padding), np.uint8)
    full[:, case.num_vectors :] = (1 << bits) - 1
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
    case = Case(64, 2, 1.0, zero_points=True)
    arrays, x = case.arrays(), case.x()
    arrays["zero_points"] = np.linspace(0, 3, case.dim_out).astype(np.uint8)
    wanted = matmul_reference(case, arrays, x)
    model = build_model(case.spec("FrameMatMul", contrib=contrib), arrays, x.ndim)
    assert relative_error(run_reference(model, x=x), wanted) <= 2e-6
    model = build_model(case.spec("FrameDequant", contrib=contrib), arrays, 1)
    assert relative_error(run_onnxruntime(model), dequant_reference(case, arrays)) <= 2e-6


@pytest.mark.parametrize("contrib", [True, False])
def test_scale_of_zero_gives_zero(contrib: bool) -> None:
    case = Case(100, 2, 1.0)
    arrays, x = case.arrays(), case.x()
    assert arrays["scales"] is not None
    arrays["scales"][::2] = 0
    model = build_model(case.spec("FrameMatMul", contrib=contrib), arrays, x.ndim)
    for run in (run_reference, run_onnxruntime):
        found = run(model, x=x)
        assert not found[..., ::2].any()
        assert found[..., 1::2].all()


@pytest.mark.parametrize("contrib", [True, False])
def test_layer_of_several_kronecker_factors(contrib: bool) -> None:
    case = Case(9000, 2, 1.0, dim_out=8, batch=(4,))
    arrays, x = case.arrays(), case.x()
    assert len(kronecker_orders(case.num_vectors)) == 3
    wanted = matmul_reference(case, arrays, x)
    model = build_model(case.spec("FrameMatMul", contrib=contrib), arrays, x.ndim)
    limit = INT8_ACTIVATIONS if contrib else 2e-6
    assert relative_error(run_onnxruntime(model, x=x), wanted) <= limit


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("redundancy", [None, 1.0, 1.3])
@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16])
@pytest.mark.parametrize("contrib", [True, False])
def test_no_float_weight_is_folded_at_load(
    bits: int, redundancy: float | None, dtype: ir.DataType, contrib: bool, tmp_path: Path
) -> None:
    case = Case(384, bits, redundancy, dim_out=96, dtype=dtype, bias=True)
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
    assert max(sizes.values()) < case.dim_in * case.dim_out / 4, sizes
    if contrib:
        every = {t.name: math.prod(t.dims) for t in optimized.graph.initializer}
        assert max(every.values()) < case.dim_in * case.dim_out, every
