from __future__ import annotations

import numpy as np
import pytest

from fqonnx.passes import normalize
from support import model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'


@pytest.mark.parametrize(
    "node",
    ["Transpose <perm = [2, 1]> (w)", "Transpose <perm = [0, 1, 2]> (w)", "Cast <to = 99> (w)"],
)
def test_nodes_that_compute_nothing_stay(node: str) -> None:
    text = f"{HEADER} g (float[2, 8] x) => (float[2, 8] y) {{ t = {node} y = MatMul(x, t) }}"
    model = model_from_text(text, w=np.ones((8, 8), np.float32))
    normalize(model)
    assert [n.op_type for n in model.graph] == [node.split()[0], "MatMul"]
