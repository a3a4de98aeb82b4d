"""Runs a model in a process of its own, as a service would: only ONNX Runtime and NumPy are in it.

So memory is that of the model, and a library that crashes takes nothing else with it. This file is
also the script of that process.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MIN_RUNS, _MIN_SECONDS = 5, 0.5
# A library may wait for ever when it is loaded; a large model on a slow machine does not take this.
LIMIT_SECONDS = 600.0

# Config entries of a session: what depends on constants alone is computed at each run.
UNFOLDED = {"optimization.disable_specified_optimizers": "ConstantFolding"}


@dataclass(frozen=True)
class Request:
    """What to run.

    Attributes:
        model: The model file.
        library: Library of operators to register.
        providers: Execution providers, in order.
        session_config: Config entries of the session.
    """

    model: str
    library: str | None = None
    providers: list[str] = field(default_factory=lambda: ["CPUExecutionProvider"])
    session_config: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of it. Memory is counted from before the model was loaded.

    Attributes:
        providers: Execution providers that the session has.
        kernels: Nodes that ran, by operator and provider: ``"FrameMatMul CPUExecutionProvider"``;
            with a library of operators those that loading would fold are among them.
        load_s: Seconds to make the session.
        first_run_s: Of the first run.
        run_s: Of a run, the median of those that followed.
        peak_bytes: The most memory that was resident at a time.
        private_bytes: What is resident after the runs and the process's own.
        mapped_bytes: What of files is resident then, which processes share.
        outputs: By name.
    """

    providers: list[str]
    kernels: dict[str, int]
    load_s: float
    first_run_s: float
    run_s: float
    peak_bytes: int
    private_bytes: int
    mapped_bytes: int
    outputs: dict[str, NDArray[Any]]


class ProbeError(Exception):
    """A model did not run.

    Attributes:
        stage: ``import``, ``register``, ``load`` or ``run``.
    """

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage


def probe(request: Request, feed: Mapping[str, NDArray[Any]]) -> Outcome:
    """Run a model in a process of its own.

    Args:
        request: What to run.
        feed: An array for each input, by name.

    Raises:
        ProbeError: It did not run to the end.
    """
    with tempfile.TemporaryDirectory(prefix="fqonnx-probe-") as name:
        folder = Path(name)
        (folder / "request.json").write_text(json.dumps(asdict(request)), encoding="utf-8")
        _save(folder / "inputs.npz", feed)
        command = [sys.executable, "-P", __file__, name]
        done = None
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=LIMIT_SECONDS
            )
        result = folder / "result.json"
        said = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
        stage = said.pop("stage", "import")
        if done is None:
            raise ProbeError(stage, f"it did not end within {LIMIT_SECONDS:g} s, and was stopped")
        if done.returncode < 0:
            ended = signal.Signals(-done.returncode).name
            raise ProbeError(stage, f"the process was ended by {ended}")
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise ProbeError(stage, said.get("error", last))
        outputs = _load(folder / "outputs.npz")
    return Outcome(outputs=outputs, **said)


def _run(folder: Path) -> None:
    """Do what the request in a folder says; ``result.json`` has how far it came."""
    result: dict[str, Any] = {}

    def enter(stage: str) -> None:
        result["stage"] = stage
        _write(folder / "result.json", result)

    enter("import")
    try:
        import onnxruntime as ort

        request = Request(**json.loads((folder / "request.json").read_text(encoding="utf-8")))
        ort.set_default_logger_severity(4)
        if "CUDAExecutionProvider" in request.providers and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # CUDA and cuDNN, where pip installed them

        def options() -> Any:
            made = ort.SessionOptions()
            if request.library is not None:
                made.register_custom_ops_library(request.library)
            for key, value in request.session_config.items():
                made.add_session_config_entry(key, value)
            return made

        enter("register")
        chosen = options()
        enter("load")
        feed = _load(folder / "inputs.npz")
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins here
        before = _memory()
        start = time.perf_counter()
        session = ort.InferenceSession(request.model, chosen, providers=request.providers)
        result["load_s"] = time.perf_counter() - start
        result["providers"] = session.get_providers()
        enter("run")
        times: list[float] = []
        end = time.perf_counter() + _MIN_SECONDS
        while len(times) <= _MIN_RUNS or start < end:
            start = time.perf_counter()
            outputs = session.run(None, feed)
            times.append(time.perf_counter() - start)
        after = _memory()
        result["first_run_s"], result["run_s"] = times[0], float(np.median(times[1:]))
        result["peak_bytes"] = after["VmHWM"] - before["VmRSS"]
        result["private_bytes"] = after["RssAnon"] - before["RssAnon"]
        result["mapped_bytes"] = after["RssFile"] - before["RssFile"]
        names = [value.name for value in session.get_outputs()]
        _save(folder / "outputs.npz", dict(zip(names, outputs, strict=True)))
        del session
        profiled = options()
        if request.library is not None:  # else no kernel is seen to unpack a weight
            for key, value in UNFOLDED.items():
                profiled.add_session_config_entry(key, value)
        profiled.enable_profiling = True
        profiled.profile_file_prefix = str(folder / "profile")
        session = ort.InferenceSession(request.model, profiled, providers=request.providers)
        session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        result["kernels"] = _kernels(events)
    except Exception as error:
        result["error"] = (str(error).strip() or type(error).__name__).splitlines()[0][:400]
        _write(folder / "result.json", result)
        sys.exit(1)
    _write(folder / "result.json", result)


def _kernels(events: list[dict[str, Any]]) -> dict[str, int]:
    """Count the nodes of a profile by operator and provider."""
    nodes = {
        event["name"]: f"{event['args']['op_name']} {event['args']['provider']}"
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    }
    return dict(Counter(nodes.values()))


def _memory() -> dict[str, int]:
    """Return the bytes of this process, by the names of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    said = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    return {key: int(said[key][0]) << 10 for key in ("VmHWM", "VmRSS", "RssAnon", "RssFile")}


def _save(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    # np.savez has parameters of its own, which names of inputs may be too.
    np.savez(path, **{f"_{name}": array for name, array in arrays.items()})  # type: ignore[arg-type]


def _load(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return {key.removeprefix("_"): file[key] for key in file.files}


def _write(path: Path, result: dict[str, Any]) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(result), encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    _run(Path(sys.argv[1]))
