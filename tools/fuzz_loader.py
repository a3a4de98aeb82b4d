"""Coverage-guided fuzzing of what reads a model: atheris, from the extra ``fuzz``.

    python tools/fuzz_loader.py CORPUS [-max_total_time=SECONDS] [libFuzzer's options]

Bytes become a file, which is loaded, normalized and searched for layers, as by ``fqonnx inspect``.
Anything but success and FqonnxError is a find: its bytes are left in the file crash-*. CORPUS gets
sound models to begin with where it is not there.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fqonnx", "onnx_ir"]):
    import onnx
    from onnx.backend.test.loader import DATA_DIR

    from fqonnx.errors import FqonnxError
    from fqonnx.model_file import load_model
    from fqonnx.passes import SelectWeightsPass, normalize
    from fqonnx.passes.verify import frame_faults

OPSET = 21
LARGEST = 20_000  # bytes of a model to begin with
LINEAR = """<ir_version: 10, opset_import: ["": 20, "d": 1]>
g (float[N, 32] x, bool c) => (float[N, 8] y) <float[32, 32] w = {%s}, float[8, 32] v = {%s}> {
  h = MatMul(x, w)
  t = Transpose <perm = [1, 0]> (w)
  i = If (c) <then_branch = a () => (float[N, 32] p) { p = MatMul(h, t) },
              else_branch = b () => (float[N, 32] q) { q = d.F(h) }>
  y = Gemm <alpha = 0.5, transB = 1> (i, v)
}
<domain: "d", opset_import: ["": 20]> F (a) => (b) { b = Tanh(a) }"""


def main() -> None:
    corpus = Path(sys.argv[1])
    if not corpus.exists():
        corpus.mkdir(parents=True)
        fill(corpus)
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        atheris.Setup(sys.argv, lambda data: read(path, data))
        atheris.Fuzz()


def read(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        model = load_model(path)
        list(frame_faults(model))
        normalize(model)
        SelectWeightsPass()(model)
    except FqonnxError:
        pass


def fill(corpus: Path) -> None:
    """Write models to begin with: one of all forms, and the small ones of ONNX's own tests."""
    weights = tuple(", ".join(["0.5"] * size) for size in (32 * 32, 8 * 32))
    linear = onnx.parser.parse_model(LINEAR % weights)
    (corpus / "linear.onnx").write_bytes(linear.SerializeToString())
    for path in Path(DATA_DIR).rglob("model.onnx"):
        if path.stat().st_size > LARGEST:
            continue
        try:
            model = onnx.version_converter.convert_version(onnx.load(path), OPSET)
        except (RuntimeError, onnx.version_converter.ConvertError):
            continue
        (corpus / f"{path.parent.name}.onnx").write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main()
