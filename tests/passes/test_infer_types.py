from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fqonnx.passes.infer_types import infer_types
from support import model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'


def test_sequences_and_optionals_keep_their_types() -> None:
    model = model_from_text(
        f"""{HEADER} g (float[2, 3] x, int64 i) => (float[p, q] y) {{
            s = SequenceConstruct(x, x)
            o = Optional(s)
            t = OptionalGetElement(o)
            y = SequenceAt(t, i)
        }}"""
    )
    infer_types(model)
    types = {str(v.name): type(v.type) for node in model.graph for v in node.outputs}
    assert types["s"] is types["t"] is ir.SequenceType
    assert types["o"] is ir.OptionalType
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_types_that_cannot_be_inferred_stay_as_they_are() -> None:
    model = model_from_text(f"{HEADER} g (float[2, 3] x) => (float[2, 9] y) {{ y = Relu(x) }}")
    infer_types(model)
    assert model.graph.outputs[0].shape == ir.Shape([2, 9])


@pytest.mark.parametrize("declared", ["float[N, 9] y", "float[N, 4] y, float[N, 9] h"])
def test_wrong_shape_hides_no_other_type(declared: str) -> None:
    model = model_from_text(
        f"""{HEADER} g (float[N, 32] x) => ({declared}) {{
            t = Transpose(w) h = MatMul(x, t) r = Relu(h) y = MatMul(r, v) }}""",
        w=np.ones((64, 32), np.float32),
        v=np.ones((64, 4), np.float32),
    )
    infer_types(model)
    values = ir.convenience.create_value_mapping(model.graph)
    assert values["t"].shape == ir.Shape([32, 64])
    assert values["r"].dtype == ir.DataType.FLOAT
    assert [value.shape[-1] for value in model.graph.outputs][-1] == 9
