from __future__ import annotations

import numpy as np
import pytest

from fqonnx.passes import normalize
from fqonnx.passes.faulty_constant import faulty_constant
from support import model_from_text

HEADER = '<ir_version: 10, opset_import: ["": 20]>'
MASK = np.float32([0, 0, 0, -np.inf])
GOOD = np.ones((4, 4), np.float32)

LAYERS = {
    "main graph": "t = Transpose(w) h = MatMul(x, t)",
    "If": """t = Transpose(w) h = If (yes) <
        then_branch = t () => (float[N, 4] p) { p = MatMul(x, t) },
        else_branch = e () => (float[N, 4] q) { q = Identity(x) }>""",
    "Loop": """h = Loop (two, yes, x) <body = b (int64 i, bool go, float[N, 4] s)
        => (bool on, float[N, 4] n) { on = Identity(go) r = Relu(s) n = MatMul(r, w) }>""",
}


def faulty(name: str, layer: str = "main graph", **arrays: np.ndarray) -> str | None:
    """Look in a model with a masked softmax behind a layer, and another layer behind that."""
    model = model_from_text(
        f"""{HEADER} g (float[N, 4] x) => (float[N, 4] y) {{
            two = Constant <value = int64 {{2}}> () yes = Constant <value = bool {{1}}> ()
            {LAYERS[layer]} m = Add(h, mask) z = Softmax(m) y = MatMul(z, v) }}""",
        **{"w": GOOD, "v": GOOD, "mask": MASK} | arrays,
    )
    normalize(model)
    return faulty_constant(model, name)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("layer", LAYERS)
def test_weight_in_front_of_a_value_is_found(layer: str, bad: float) -> None:
    assert faulty("z", layer, w=bad * GOOD) == "w"


def test_state_of_a_loop_depends_on_its_body() -> None:
    assert faulty("r", "Loop", w=np.nan * GOOD) == "w"


def test_what_is_behind_a_value_is_not_to_blame() -> None:
    assert faulty("z", v=np.nan * GOOD) is None
    assert faulty("y", v=np.nan * GOOD) == "v"


def test_infinity_is_a_fault_of_weights_alone() -> None:
    assert faulty("y") is None
    assert faulty("y", mask=np.nan * MASK) == "mask"


def test_inputs_depend_on_nothing() -> None:
    assert faulty("x", w=np.nan * GOOD) is None
