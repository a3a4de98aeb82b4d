"""Mutated files: each is compiled, or refused in one line; none crashes, hangs or fills the memory.

A crash would be the end of pytest, so the cases run in a child process, which says what each is
before it runs it. One alone: ``python -P tests/test_mutated_models.py SEED 1``.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import Message
from onnx.numpy_helper import to_array

from fqonnx import CompileConfig, compile_model
from fqonnx.diff_models import diff_models
from fqonnx.errors import FqonnxError
from fqonnx.model_file import load_model
from fqonnx.model_pair import ModelPair
from fqonnx.passes import SelectWeightsPass, normalize
from support import conv_model, mlp_model, model_from_text

CASES = int(os.environ.get("FQONNX_FUZZ_CASES", "240"))
SECONDS = 20  # of one case; a sound one takes a tenth of a second
MEMORY = 12 << 30
INTEGERS = (0, 1, 2, 3, 7, 16, 64, 1000, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 63) - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 3e38, np.inf, -np.inf, np.nan)
HEADER = '<ir_version: 10, opset_import: ["": 20, "d": 1]>'


def draw(*shape: int) -> np.ndarray:
    return (np.random.default_rng(3).standard_normal(shape) / 8).astype(np.float32)


def branches() -> ir.Model:
    return model_from_text(
        f"""{HEADER} g (float[N, 32] x, bool c) => (float[N, 32] y) {{
            h = If (c) <then_branch = t () => (float[N, 32] p) {{ p = MatMul(x, w) }},
                        else_branch = e () => (float[N, 32] q) {{ q = Relu(x) }}>
            y = d.F(h)
        }}
        <domain: "d", opset_import: ["": 20]> F (a) => (b) {{ b = Tanh(a) }}""",
        w=draw(32, 32),
    )


def tied() -> ir.Model:
    return model_from_text(
        f"""{HEADER} g (int64[N, 4] ids) => (float[N, 4, 40] logits) {{
            h = Gather(table, ids)
            n = LayerNormalization <axis = -1> (h, scale)
            c = Cast <to = 1> (v)
            m = MatMul(n, c)
            t = Transpose <perm = [1, 0]> (table)
            logits = MatMul(m, t)
        }}""",
        table=draw(40, 32),
        scale=np.ones(32, np.float32),
        v=draw(32, 32).astype(np.float16),
    )


MODELS: dict[str, Callable[[], ir.Model]] = {
    "mlp": mlp_model,
    "half": lambda: mlp_model(np.float16),
    "conv": lambda: conv_model(draw(16, 8, 3, 3), "6, 6", "pads = [1, 1, 1, 1]", draw(16)),
    "branches": branches,
    "tied": tied,
}


def parts(message: Message) -> Iterator[tuple[Message, Any, Any]]:
    """Yield each field that is set, of a message and of those in it: holder, field, value."""
    for field, value in message.ListFields():
        yield message, field, value
        for inner in value if hasattr(value, "add") else [value]:
            if isinstance(inner, Message):
                yield from parts(inner)


def mutate_field(proto: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Change one field of a message: its value, its number of entries, or whether it is there."""
    found = list(parts(proto))
    holder, field, value = found[rng.integers(len(found))]
    texts = [text for *_, text in found if isinstance(text, str)]

    def other(old: Any) -> Any:
        if isinstance(old, bool | int):
            sign = int(rng.choice([1, -1]))
            return int(rng.choice([old + sign, sign * INTEGERS[rng.integers(len(INTEGERS))]]))
        if isinstance(old, float):
            return FLOATS[rng.integers(len(FLOATS))]
        if isinstance(old, str):
            return ("", "\x00", "a" * 1000, "..", *texts)[rng.integers(4 + len(texts))]
        cut = int(rng.integers(len(old) + 1))
        return (old[:cut], old + b"\xff" * 4, b"\xff" * len(old))[rng.integers(3)]

    name = field.name
    try:
        if hasattr(value, "append") and len(value):
            i, kind = int(rng.integers(len(value))), rng.integers(4)
            if kind == 0:
                del value[i]
            elif kind == 1:
                value.append(value[i])
            elif kind == 2 or isinstance(value[i], Message):
                holder.ClearField(name)
            else:
                value[i] = other(value[i])
        elif isinstance(value, Message) or rng.integers(4) == 0:
            holder.ClearField(name)
        else:
            setattr(holder, name, other(value))
    except (ValueError, OverflowError, TypeError):
        holder.ClearField(name)  # no field of this type holds that


def mutate_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    array, kind = np.frombuffer(content, np.uint8).copy(), rng.integers(4)
    i, j = sorted(int(k) for k in rng.integers(0, len(array), 2))
    if kind == 0:
        return array[:i].tobytes()
    if kind == 1:
        return np.concatenate([array[:i], array[j:]]).tobytes()
    # Most of a file is weights: half of the changes go to its first and last kilobyte.
    for _ in range(rng.integers(1, 8)):
        end = int(rng.integers(min(1024, len(array))))
        place = (int(rng.integers(len(array))), end, len(array) - 1 - end)[rng.integers(3)]
        array[place] = rng.integers(256)
    return array.tobytes()


def mutated(proto: onnx.ModelProto, rng: np.random.Generator) -> bytes:
    if rng.integers(3) == 0:
        return mutate_bytes(proto.SerializeToString(), rng)
    clone = onnx.ModelProto()
    clone.CopyFrom(proto)
    for _ in range(rng.integers(1, 4)):
        mutate_field(clone, rng)
    return clone.SerializeToString()


def run_case(seed: int, folder: Path) -> str:
    """Compile a mutated model, or compare a mutated compiled model; return what came of it."""
    rng = np.random.default_rng(seed)
    name = list(MODELS)[rng.integers(len(MODELS))]
    path, out = folder / "model.onnx", folder / "out.onnx"
    ir.save(MODELS[name](), path)
    lowering = str(rng.choice(["fused", "onnx"]))
    config = CompileConfig(bits=int(rng.choice([2, 4])), lowering=lowering)  # type: ignore[arg-type]
    spoils_output = rng.integers(3) == 0
    if spoils_output:
        compile_model(path, out, config, calibration="none")
        out.write_bytes(mutated(onnx.load(out), rng))
    else:
        path.write_bytes(mutated(onnx.load(path), rng))
    print(seed, name, config, "compiled file" if spoils_output else "", flush=True)
    try:
        if spoils_output:
            diff_models(ModelPair.load(path, out), [])
            return "compared"
        model = load_model(path)
        normalize(model)
        SelectWeightsPass()(model)
        compile_model(path, out, config, calibration="none")
    except FqonnxError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 3000
        assert spoils_output or not out.exists()
        return "refused"
    finite = all(np.isfinite(to_array(t)).all() for t in onnx.load(out).graph.initializer)
    assert finite or not all(
        np.isfinite(to_array(t)).all() for t in onnx.load(path).graph.initializer
    )
    return "compiled"


def run_cases(first: int, number: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    outcomes: dict[str, int] = {}
    for seed in range(first, first + number):
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        with tempfile.TemporaryDirectory() as folder:
            outcome = run_case(seed, Path(folder))
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    faulthandler.cancel_dump_traceback_later()
    print(outcomes)
    if number >= CASES:
        assert min(outcomes.get(kind, 0) for kind in ("compared", "refused", "compiled")) > 0


def test_mutated_models_are_refused_or_compiled() -> None:
    tests = str(Path(__file__).parent)
    run = subprocess.run(
        [sys.executable, "-P", "-W", "error::RuntimeWarning", __file__, "0", str(CASES)],
        env=os.environ | {"PYTHONPATH": tests},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-1000:] + run.stderr[-6000:]


if __name__ == "__main__":
    run_cases(int(sys.argv[1]), int(sys.argv[2]))
