"""The golden inputs again, on each provider: who ran what, what came of it, and how fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fqonnx.bundle import Manifest
from fqonnx.doctor.finding import Finding
from fqonnx.golden import Golden, rel_error
from fqonnx.native_file import loading_mend
from fqonnx.probe import Outcome, ProbeError, Request, probe

_WHERE = {
    "import": "ONNX Runtime does not start",
    "register": "the library of operators does not register",
    "load": "the model does not load",
    "run": "the model does not run",
}
_MENDS = {
    "import": "Install ONNX Runtime and NumPy in this Python",
    "register": "Deploy it again with this version of ONNX Runtime, or with an older library",
    "load": "Deploy it again; if the files are as deployed, please report this",
    "run": "Deploy it again; if the files are as deployed, please report this",
}

# What a compiled layer runs by: a kernel of the library, or the product in a function body.
_LAYERS = ("FrameMatMul", "FrameDequant", "MatMulNBits")


def replay(folder: Path, manifest: Manifest, providers: Sequence[str]) -> Iterator[Finding]:
    """Run the golden inputs.

    Args:
        folder: The bundle's.
        manifest: What it says of itself.
        providers: The first of them is the one that is tried.

    Raises:
        DataError: The golden outputs cannot be read.
    """
    golden = Golden.read(folder / manifest.golden)
    name = providers[0]
    library = None if manifest.library is None else str((folder / manifest.library.path).resolve())
    request = Request(
        str(folder / manifest.model), library, list(providers), manifest.session_config
    )
    try:
        outcome = probe(request, golden.inputs)
    except ProbeError as error:
        yield Finding(name, f"{_WHERE[error.stage]}: {error}", _mend(error))
        return
    if name not in outcome.providers:
        said = f"it does not load: the session has {', '.join(outcome.providers)}"
        mend = (
            "Install the CUDA and cuDNN that onnxruntime-gpu asks for; LD_LIBRARY_PATH finds them"
        )
        yield Finding(name, said, mend)
        return
    yield from check_kernels(manifest, name, outcome.kernels)
    yield from check_outputs(manifest, name, golden, outcome)
    yield Finding(
        f"{name}, cost",
        f"session {outcome.load_s * 1e3:.0f} ms, first run {outcome.first_run_s * 1e3:.1f} ms, "
        f"then {outcome.run_s * 1e3:.1f} ms; memory {outcome.peak_bytes / 1e6:.0f} MB at most, "
        f"{outcome.private_bytes / 1e6:.0f} MB after, {outcome.mapped_bytes / 1e6:.0f} MB mapped",
    )


def check_kernels(manifest: Manifest, provider: str, kernels: dict[str, int]) -> Iterator[Finding]:
    """Hold the nodes that ran to the provider and to the library.

    Which compiled layers run in branches and loops depends on the inputs.

    Args:
        manifest: What the bundle says of itself.
        provider: Where compiled layers should run.
        kernels: Nodes that ran, by operator and provider.
    """
    where = f"{provider}, kernels"
    elsewhere = {key: n for key, n in kernels.items() if not key.endswith(f" {provider}")}
    said = f"{sum(kernels.values()) - sum(elsewhere.values())} nodes"
    if elsewhere:
        others = ", ".join(f"{n} {key}" for key, n in sorted(elsewhere.items()))
        said += f"; elsewhere {others}"
    layers = manifest.main_operators if manifest.library is not None else {}
    wanted = sum(layers.values())
    found = sum(min(kernels.get(f"{op} {provider}", 0), n) for op, n in layers.items())
    by_library = sum(kernels.get(f"{op} {provider}", 0) for op in manifest.operators)
    fallen = sum(n for key, n in elsewhere.items() if key.split()[0] in _LAYERS)
    if found < wanted:
        said = f"{found} of {wanted} compiled layers run by the library there; {said}"
        mend = (
            "Build the library with -C cmake.define.FQONNX_CUDA=ON and deploy the model again"
            if provider == "CUDAExecutionProvider"
            else "Deploy the model again"
        )
        yield Finding(where, said, mend)
    elif fallen:
        said = f"{fallen} compiled layers run elsewhere; {said}"
        lowest = manifest.onnxruntime_tested
        mend = f"Install ONNX Runtime {lowest} or later, or deploy it with the library of operators"
        yield Finding(where, said, mend)
    else:
        said = f"{by_library} compiled layers by the library, of {said}" if by_library else said
        yield Finding(where, said)


def _mend(error: ProbeError) -> str:
    linked = loading_mend(str(error)) if error.stage == "register" else None
    return linked or _MENDS[error.stage]


def check_outputs(
    manifest: Manifest, provider: str, golden: Golden, outcome: Outcome
) -> Iterator[Finding]:
    """Hold outputs to the golden ones, and to the float model's where these are there."""
    for output in manifest.outputs:
        where = f"{provider}, {output.name}"
        found = outcome.outputs.get(output.name)
        if found is None or output.name not in golden.compiled:
            yield Finding(where, "there is no such output", "Deploy the model again")
            continue
        error = rel_error(found, golden.compiled[output.name])
        said = f"error {error:.2e} against the golden output, tolerance {output.tolerance:.2e}"
        against = None
        if output.name in golden.float and output.float_rel_error is not None:
            against = rel_error(found, golden.float[output.name])
            said += f"; {against:.3f} against float, {output.float_rel_error:.3f} where deployed"
        mend = "Copy the bundle again; if the files are as deployed, please report this"
        yield Finding(where, said, None if error <= output.tolerance else mend)
