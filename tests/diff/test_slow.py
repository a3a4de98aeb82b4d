from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fqonnx.diff import slow_paths
from layer_models import layer_feed, layer_model
from support import model_pair


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("mlp", {}, {}),
        ("convolutions", {}, {"a convolution that is no product of rows": "patches"}),
        ("mlp", {"bits": 3}, {"3 bits are two planes of codes": "first, second, third"}),
        ("mlp", {"method": "rtn"}, {"a scale for each group of codes": "first, second, third"}),
        ("mlp", {"lowering": "onnx"}, {"exact products": "first, second, third"}),
        (
            "convolutions",
            {"bits": 3, "lowering": "onnx"},
            {
                "a convolution that is no product of rows": "patches",
                "3 bits are two planes of codes": "rows, patches",
                "exact products": "rows",
            },
        ),
    ],
)
def test_reasons(name: str, options: dict[str, Any], found: dict[str, str], tmp_path: Path) -> None:
    pair = model_pair(layer_model(name), tmp_path, layer_feed(name), **options)
    lines = [line.split(": ") for line in slow_paths(pair.layers)]
    assert {line[0]: line[-1] for line in lines} == found


def test_no_layers() -> None:
    assert slow_paths([]) == []
