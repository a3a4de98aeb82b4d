"""onnxruntime-genai on a bundle: first token, decode steps and tokenizer, in a process of its own.

This file is also the script of that process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fqonnx.bundle import Manifest
from fqonnx.doctor.finding import Finding
from fqonnx.golden import rel_error
from fqonnx.probe import LIMIT_SECONDS

_PROMPT, _STEPS = 32, 8  # tokens
_MENDS = {
    "import": "Install it: pip install onnxruntime-genai",
    "load": "Deploy it again with a genai_config.json of this version of onnxruntime-genai",
    "tokenizer": "Deploy it again with the --tokenizer of this model",
    "run": "Deploy it again; if the files are as deployed, please report this",
}


def check_genai(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    """Let onnxruntime-genai write a few tokens behind the golden prompt.

    A prompt at a time and the same one whose last token is a decode step, on the cache of the
    others, have to end in the same logits.
    """
    what = "onnxruntime-genai"
    command = [sys.executable, "-P", __file__, str(folder), manifest.golden]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=LIMIT_SECONDS
        )
    except subprocess.TimeoutExpired:
        said = f"it did not end within {LIMIT_SECONDS:g} s, and was stopped"
        yield Finding(what, said, _MENDS["run"])
        return
    last = (done.stdout.splitlines() or ["import"])[-1]
    if done.returncode:
        said = (done.stderr.strip() or f"it ends with code {done.returncode}").splitlines()[-1]
        yield Finding(what, said, _MENDS.get(last, _MENDS["run"]))
        return
    told = json.loads(last)
    yield Finding(
        what,
        f"{told['version']} writes text; behind {told['prompt']} tokens the first takes "
        f"{told['first_s'] * 1e3:.1f} ms, later ones {told['step_s'] * 1e3:.1f} ms each",
    )
    tolerance = next((o.tolerance for o in manifest.outputs if o.name == "logits"), 0.0)
    said = f"error {told['error']:.2e} against the whole prompt, tolerance {tolerance:.2e}"
    holds = told["error"] <= tolerance
    yield Finding(f"{what}, decode step", said, None if holds else _MENDS["run"])


def _write(folder: str, golden: str) -> None:
    """Print the stages that are entered, then a line of JSON with what came of it."""

    def enter(stage: str) -> None:
        print(stage, flush=True)

    enter("import")
    import onnxruntime_genai as og

    with np.load(Path(folder, golden), allow_pickle=False) as file:
        ids = file["input/input_ids"].reshape(-1)[:_PROMPT]
    prompt = np.resize(ids, max(len(ids), 2)).astype(np.int32)
    enter("load")
    model = og.Model(folder)
    enter("tokenizer")
    tokenizer = og.Tokenizer(model)
    enter("run")

    def generator(*parts: Any) -> Any:
        params = og.GeneratorParams(model)
        length = len(prompt) + _STEPS
        params.set_search_options(min_length=length, max_length=length, do_sample=False)
        made = og.Generator(model, params)
        for part in parts:
            made.append_tokens(part)
        return made

    def last_logits(made: Any) -> Any:
        logits = np.array(made.get_logits(), np.float32)
        return logits.reshape(-1, logits.shape[-1])[-1]

    start = time.perf_counter()
    whole = generator(prompt)
    expected = last_logits(whole)
    times = []
    while not whole.is_done():
        whole.generate_next_token()
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
    tokenizer.decode(whole.get_sequence(0))
    stepped = last_logits(generator(prompt[:-1], prompt[-1:]))
    said = {
        "version": og.__version__,
        "prompt": len(prompt),
        "first_s": times[0],
        "step_s": float(np.median(times[1:])),
        "error": rel_error(stepped, expected),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    _write(*sys.argv[1:])
