"""What several tests need: shared data, tiny models, and operators of ONNX Runtime in NumPy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx.reference.op_run import OpRun

from fqonnx import CompileConfig, compile_model
from fqonnx.config import Method
from fqonnx.frames import (
    Frame,
    FrameSpec,
    FusionFrame,
    HadamardFrame,
    HarmonicFrame,
    IdentityFrame,
    SignedFrame,
)
from fqonnx.model_pair import ModelPair
from fqonnx.packing import choose_block_size, pack_codes, pack_signs, pack_tiles
from fqonnx.quant import QuantizedWeight, SquaredErrors
from fqonnx.quant.trellis import trellis_code
from fqonnx.reference import frame_dequant, frame_matmul

_DATA = Path(
    os.environ.get("FQONNX_TEST_DATA", Path(__file__).parents[1].parent / "shared" / "data")
)


def shared_data(name: str) -> Path:
    """Return the path of real test data, or skip the test: users do not have them."""
    path = _DATA / name
    if not path.exists():
        pytest.skip(f"needs the test data {name!r}; FQONNX_TEST_DATA names their folder")
    return path


def model_from_text(text: str, **initializers: np.ndarray) -> ir.Model:
    """Parse ONNX text into a model, giving the named initializers their arrays.

    The text declares an initializer as a plain name; it must not be a graph input.
    """
    proto = onnx.parser.parse_model(text)
    for name, array in initializers.items():
        proto.graph.initializer.append(ir.to_proto(ir.tensor(array, name=name)))
    return ir.from_proto(proto)


def conv_model(
    weight: np.ndarray, sizes: str, attributes: str = "", bias: np.ndarray | None = None
) -> ir.Model:
    """Return y = Conv(x, w) or Conv(x, w, b) of x (N, channels, *sizes), node ``layer``.

    Strings among the attributes are in single quotes.
    """
    options = f"<{attributes}>".replace("'", '"') if attributes else ""
    arrays = {"w": weight} | ({} if bias is None else {"b": bias})
    model = model_from_text(
        f"""<ir_version: 10, opset_import: ["": 20]> g (float x) => (float y) {{
            [layer] y = Conv {options} (x, {", ".join(arrays)})
        }}""",
        **arrays,
    )
    channels = weight.shape[1] * model.graph[0].attributes.get_int("group", 1)
    given = [int(size) if size.strip().isdigit() else size for size in sizes.split(",")]
    unknown = [f"{size}_out" for size in "PQR"[: len(given)]]
    for value, shape in (
        (model.graph.inputs[0], ["N", channels, *given]),
        (model.graph.outputs[0], ["N", len(weight), *unknown]),
    ):
        value.dtype, value.shape = ir.DataType.from_numpy(weight.dtype), ir.Shape(shape)
    return model


def model_pair(
    model: ir.Model, folder: Path, feed: dict[str, np.ndarray], **options: Any
) -> ModelPair:
    """Compile a model with options of `CompileConfig`, calibrated on a batch; return both."""
    ir.save(model, folder / "float.onnx")
    np.savez(folder / "data.npz", **feed)
    config = CompileConfig(**options)
    paths = [folder / name for name in ("float.onnx", "compiled.onnx", "data.npz")]
    compile_model(*paths[:2], config, calibration=paths[2])
    return ModelPair.load(*paths)


def fusion_frame(dim: int, subspaces: tuple[int, int, int], seed: int = 0) -> FusionFrame:
    """Return a fusion frame of R^dim of (num_subspaces, subspace_dim, padded_dim)."""
    signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), dim)
    num_vectors = subspaces[0] * subspaces[1]
    return FusionFrame(dim, num_vectors, torch.from_numpy(signs), *subspaces)


def frame_for(method: Method, dim: int, redundancy: float = 1.0, seed: int = 0) -> Frame:
    """Return the frame of R^dim that a method wants; those without signs do without the seed."""
    if method.frame == "identity":
        return IdentityFrame(dim)
    if method.frame == "harmonic":
        return HarmonicFrame.create(dim, redundancy)
    kind = FusionFrame if method.frame == "fusion" else HadamardFrame
    return kind.create(dim, redundancy, seed)


def random_weight(
    frame_in: Frame,
    frame_out: Frame | int,
    bits: int = 2,
    *,
    zero_points: bool = False,
    group_size: int | None = None,
    bias_shift: np.ndarray | None = None,
    trellis: bool = False,
    seed: int = 5,
) -> QuantizedWeight:
    """Return codes and scales that stand for no weight in particular.

    A number in the place of the output frame is dim_out, without a frame.
    """
    frame_out = IdentityFrame(frame_out) if isinstance(frame_out, int) else frame_out
    rng = np.random.default_rng(seed)
    rows, columns = frame_out.num_vectors, frame_in.num_vectors
    groups = 1 if group_size is None else -(-columns // group_size)
    padded = (rows + -rows % 64, columns + -columns % 4) if trellis else (rows, columns)
    codes = rng.integers(0, 1 << bits, padded, dtype=np.uint8)
    scales = rng.uniform(0.1, 0.3, (rows, groups)).astype(np.float16)
    zeros = rng.integers(0, 1 << bits, (rows, groups), dtype=np.uint8)
    return QuantizedWeight(
        frame_in=frame_in,
        frame_out=frame_out,
        bits=bits,
        codes=torch.from_numpy(codes),
        scales=torch.from_numpy(scales),
        zero_points=torch.from_numpy(zeros) if zero_points else None,
        group_size=group_size,
        bias_shift=None if bias_shift is None else torch.from_numpy(bias_shift),
        errors=SquaredErrors(0.0, 1.0),
        trellis=trellis_code(bits) if trellis else None,
    )


def packed(weight: QuantizedWeight) -> dict[str, np.ndarray | None]:
    """Return the inputs of an operator, but for the activation and the bias."""
    codes, trellis = weight.codes.numpy(), weight.trellis
    if trellis is None:
        codes = pack_codes(codes, weight.bits, choose_block_size(weight.frame_in.num_vectors))
    else:
        codes = pack_tiles(codes, weight.bits)
    frames = {"signs_in": weight.frame_in, "signs_out": weight.frame_out}
    return (
        {
            "codes": codes,
            "scales": weight.scales.numpy(),
            "zero_points": None if weight.zero_points is None else weight.zero_points.numpy(),
        }
        | {
            name: pack_signs(frame.signs.numpy()) if isinstance(frame, SignedFrame) else None
            for name, frame in frames.items()
        }
        | {"levels": None if trellis is None else trellis.levels}
    )


def described(weight: QuantizedWeight) -> dict[str, Any]:
    """Return what the reference wants to know beside `packed`."""
    return {
        "frame_in": weight.frame_in.spec,
        "frame_out": weight.frame_out.spec,
        "bits": weight.bits,
        "group_size": weight.group_size or 0,
        "multiplier": 0 if weight.trellis is None else weight.trellis.multiplier,
    }


class MatMulNBits(OpRun):
    """``com.microsoft.MatMulNBits`` for `onnx.reference`: exact, whatever the accuracy level."""

    op_domain = "com.microsoft"

    def _run(
        self,
        a,
        packed,
        scales,
        zero_points=None,
        g_idx=None,
        bias=None,
        K=None,  # noqa: N803
        N=None,  # noqa: N803
        bits=None,
        block_size=None,
        accuracy_level=None,
    ):
        assert zero_points is None
        assert g_idx is None
        assert bias is None
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes = (packed[..., None] >> shifts & np.uint8((1 << bits) - 1)).reshape(N, -1)
        scale = np.repeat(scales.reshape(N, -1), block_size, axis=1)
        weight = (codes.astype(np.float64) - (1 << bits - 1)) * scale
        return ((a.astype(np.float64) @ weight[:, :K].T).astype(a.dtype),)


def mlp_model(dtype: type = np.float32) -> ir.Model:
    """Return x (n, 64) → 96 → 80 → 48 with a Gemm, a MatMul+Add and a MatMul, ReLU between."""
    rng = np.random.default_rng(7)
    name = "float16" if dtype is np.float16 else "float"
    text = f"""
    <ir_version: 10, opset_import: ["": 20]>
    mlp ({name}[n, 64] x) => ({name}[n, 48] y) {{
      h1 = Gemm <transB = 1> (x, w1, b1)
      r1 = Relu(h1)
      p2 = MatMul(r1, w2)
      h2 = Add(b2, p2)
      r2 = Relu(h2)
      y = MatMul(r2, w3)
    }}
    """

    def draw(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(dtype)

    arrays = {
        "w1": draw(96, 64),
        "b1": draw(96),
        "w2": draw(96, 80),
        "b2": draw(80),
        "w3": draw(80, 48),
    }
    model = model_from_text(text, **arrays)
    names = {"Gemm": ["first"], "MatMul": ["second", "third"]}
    for node in model.graph:
        if node.op_type in names:
            node.name = names[node.op_type].pop(0)
    return model


def mlp_by_the_reference(path: Path, x: np.ndarray) -> np.ndarray:
    """Return the output of compiled layers in a row, ReLU between, by the format alone.

    Their frames have no signs, and their biases are constants or FrameDequant nodes.
    """
    model = onnx.load(path)
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type == "FrameMatMul"]
    for node in model.graph.node:
        inputs = [values.get(name) for name in node.input]
        if node.op_type == "FrameDequant":
            values[node.output[0]] = frame_dequant(*inputs, **_attributes(node))
        elif node.op_type == "Reshape":
            values[node.output[0]] = inputs[0].ravel()
        elif node.op_type == "FrameMatMul":
            x = frame_matmul(x, *inputs[1:], **_attributes(node))
            x = x if node is layers[-1] else np.maximum(x, 0)
    return x


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    names = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {"bits": names["bits"]} | {
        f"frame_{side}": FrameSpec(
            names.get(f"frame_{side}", b"identity").decode(),
            names[f"dim_{side}"],
            names[f"num_vectors_{side}"],
        )
        for side in ("in", "out")
    }
