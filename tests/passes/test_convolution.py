"""Patches of a convolution as PyTorch cuts them, and as views of the activation."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx_ir.tape import Tape

from fqonnx.passes.constants import Names
from fqonnx.passes.convolution import Convolution, channels_first, row_view, unfold
from fqonnx.session import Session
from support import conv_model


def draw(*shape: int, dtype: type = np.float32, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def convolution(model: ir.Model) -> Convolution:
    node = model.graph[0]
    return Convolution.of(node, tuple(node.inputs[1].shape))


def run_instead(model: ir.Model, record: object, x: np.ndarray) -> np.ndarray:
    """Run the model with what ``record(tape, x, convolution)`` gives as its output."""
    tape, names = Tape(model.graph), Names(model.graph)
    output = record(tape, model.graph.inputs[0], convolution(model))
    for node in tape.nodes:
        node.outputs[0].name = names.fresh("recorded")
    output.dtype = output.dtype or ir.DataType.from_numpy(x.dtype)
    output.shape = output.shape or ir.Shape([None] * x.ndim)
    model.graph.outputs[:] = [output]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return Session(model, "model").run({"x": x})[0]


@pytest.mark.parametrize(
    ("attributes", "torch_options"),
    [
        ("", {}),
        ("strides = [2, 1]", {"stride": (2, 1)}),
        ("pads = [1, 2, 1, 2]", {"padding": (1, 2)}),
        ("dilations = [2, 1]", {"dilation": (2, 1)}),
        (
            "strides = [2, 3], pads = [2, 1, 2, 1], dilations = [1, 2]",
            {"stride": (2, 3), "padding": (2, 1), "dilation": (1, 2)},
        ),
        ("auto_pad = 'VALID'", {}),
        ("auto_pad = 'SAME_UPPER'", {"padding": (1, 1)}),
        ("auto_pad = 'SAME_LOWER', strides = [3, 3]", {"padding": 0, "stride": 3}),
    ],
    ids=str,
)
def test_patches_are_those_of_pytorch(attributes: str, torch_options: dict) -> None:
    model = conv_model(draw(4, 5, 3, 3), "9, H", attributes)
    x = draw(2, 5, 9, 12)
    rows = run_instead(model, unfold, x)
    patches = torch.nn.functional.unfold(torch.from_numpy(x), 3, **torch_options)
    np.testing.assert_array_equal(rows.reshape(2, -1, 45), patches.numpy().transpose(0, 2, 1))


@pytest.mark.parametrize(
    ("weight", "sizes", "attributes"),
    [
        ((6, 4, 5), (11,), "strides = [2], pads = [3, 1]"),
        ((6, 2, 3), (8,), "group = 3, auto_pad = 'SAME_UPPER', strides = [2]"),
        ((6, 4, 2, 3, 2), (5, 6, 4), "pads = [1, 0, 1, 0, 1, 0], dilations = [1, 2, 1]"),
        ((8, 3, 1, 2, 3), (3, 4, 5), "group = 2, strides = [1, 2, 1]"),
        ((6, 4, 3, 3), (7, 5), "pads = [0, 0, 1, 1], strides = [2, 2]"),
        ((8, 4, 2, 3), (6, 7), "group = 4, auto_pad = 'SAME_LOWER'"),
        ((6, 4, 1, 1), (5, 6), "strides = [2, 1]"),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_patches_times_weight_are_the_convolution(
    weight: tuple[int, ...], sizes: tuple[int, ...], attributes: str, dtype: type
) -> None:
    kernel = draw(*weight, dtype=dtype)
    dims = ", ".join(map(str, sizes))
    conv = convolution(conv_model(kernel, dims, attributes))
    x = draw(3, conv.channels, *sizes, dtype=dtype, seed=2)
    wanted = Session(conv_model(kernel, dims, attributes), "model").run({"x": x})[0]
    patches = run_instead(conv_model(kernel, dims, attributes), unfold, x)
    assert patches.dtype == np.float32
    assert conv.dim_in == prod(weight[1:])
    rows = patches.reshape(*patches.shape[:-1], conv.group, 1, conv.dim_in)
    matrix = kernel.reshape(conv.group, -1, conv.dim_in).transpose(0, 2, 1).astype(np.float32)
    found = np.moveaxis((rows @ matrix).reshape(*patches.shape[:-1], -1), -1, 1)
    tolerance = 1e-5 if dtype is np.float32 else 1e-2
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


ROW_PRODUCTS = [
    ((6, 4, 1), (9,), ""),
    ((6, 4, 1, 1), (5, 7), "auto_pad = 'SAME_UPPER', strides = [2, 3]"),
    ((6, 4, 1, 1), (5, 7), "dilations = [2, 2], auto_pad = 'VALID'"),
    ((6, 4, 1, 1, 1), (3, 4, 5), "strides = [1, 2, 1]"),
    ((6, 3, 4, 4), (8, 12), "strides = [4, 4]"),
    ((6, 3, 2, 5), (6, 10), "strides = [2, 5], auto_pad = 'SAME_LOWER'"),
    ((6, 3, 1, 4), (5, 8), "strides = [1, 4]"),
    ((6, 3, 4), (8,), "strides = [4]"),
    ((6, 3, 2, 3, 2), (4, 3, 6), "strides = [2, 3, 2]"),
]


@pytest.mark.parametrize(("weight", "sizes", "attributes"), ROW_PRODUCTS, ids=str)
def test_rows_are_a_view_where_no_patches_overlap(
    weight: tuple[int, ...], sizes: tuple[int, ...], attributes: str
) -> None:
    def model() -> ir.Model:
        return conv_model(draw(*weight), ", ".join(map(str, sizes)), attributes)

    conv, x = convolution(model()), draw(2, weight[1], *sizes, seed=2)
    assert conv.is_row_product(model().graph.inputs[0])
    np.testing.assert_array_equal(
        run_instead(model(), row_view, x), run_instead(model(), unfold, x)
    )

    def there_and_back(tape: Tape, x: ir.Value, conv: Convolution) -> ir.Value:
        return channels_first(tape, row_view(tape, x, conv), conv)

    if prod(weight[2:]) * prod(conv.strides) == 1:
        np.testing.assert_array_equal(run_instead(model(), there_and_back, x), x)


@pytest.mark.parametrize(
    ("weight", "sizes", "attributes"),
    [
        ((6, 4, 3, 3), "6, 6", ""),
        ((6, 4, 1, 1), "6, 6", "pads = [0, 1, 0, 0]"),
        ((6, 4, 1, 1), "6, 6", "group = 2"),
        ((6, 4, 2, 2), "6, H", "strides = [2, 2]"),
        ((6, 4, 2, 2), "6, 7", "strides = [2, 2]"),
        ((6, 4, 2, 2), "6, 7", "strides = [2, 2], auto_pad = 'SAME_UPPER'"),
        ((6, 4, 2, 2), "6, 6", "strides = [2, 2], dilations = [2, 2]"),
        ((6, 4, 2, 2), "6, 6", "strides = [2, 2], pads = [0, 0, 2, 2]"),
        ((6, 4, 2, 2), "6, 6", "strides = [2, 1]"),
    ],
    ids=str,
)
def test_rows_are_no_view(weight: tuple[int, ...], sizes: str, attributes: str) -> None:
    model = conv_model(draw(*weight), sizes, attributes)
    assert not convolution(model).is_row_product(model.graph.inputs[0])


def test_input_of_unknown_rank_is_no_view_of_its_patches() -> None:
    conv = convolution(conv_model(draw(6, 4, 2, 2), "6, 6", "strides = [2, 2]"))
    assert not conv.is_row_product(ir.Value(name="x"))
