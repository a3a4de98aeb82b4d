from __future__ import annotations

from itertools import islice

import numpy as np
import onnx
import pytest

from backend_models import CLOSE, GROUPS, REFUSED, SAME, WRONG, Case, cases, judge, rows

# `make backend` takes all of them, and those of the group "light", which take minutes.
PARTS = {"node": 16, "simple": 1, "pytorch-operator": 1, "pytorch-converted": 2}


@pytest.mark.parametrize("group", PARTS)
def test_models_compile_where_the_runtime_runs_them(group: str) -> None:
    outcomes = {}
    for case in islice(cases(group), 0, None, PARTS[group]):
        outcomes[case.name] = judge(case)
    wrong = {name: why for name, (outcome, why) in outcomes.items() if outcome == WRONG}
    assert wrong == {}
    found = [outcome for outcome, _ in outcomes.values()]
    assert found.count(SAME) + found.count(CLOSE) > len(found) / 2


def linear(scale: float) -> Case:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> '
        "g (float[N, 64] x) => (float[N, 64] y) { y = MatMul(x, w) }"
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(scale * weight, "w"))
    rows = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
    return Case("node", "linear", model, [rows])


def test_a_refusal_needs_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judge(linear(1.0)) == (CLOSE, "")
    outcome, why = judge(linear(np.nan))
    assert outcome == WRONG
    assert "NaN" in why
    case = linear(1.0)
    case.model.graph.node[0].op_type = "Unheard"
    assert judge(case)[0] == "does not run"


def test_every_outcome_has_a_column() -> None:
    head, _, *body = rows({("node", outcome): 1 for outcome in (SAME, CLOSE, *REFUSED, WRONG)})
    assert head.count("|") == len(REFUSED) + 6
    assert len(body) == len(GROUPS)
    assert body[0] == f"| node | {len(REFUSED) + 3} |" + " 1 |" * (len(REFUSED) + 3)
