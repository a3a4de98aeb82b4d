"""What `fqonnx.deploy.deploy` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from fqonnx.errors import ConfigError

ServerTarget: TypeAlias = Literal["ort", "triton", "genai"]
Device: TypeAlias = Literal["cpu", "cuda"]

PROVIDERS: dict[Device, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
}


@dataclass(frozen=True)
class DeployOptions:
    """Options of a bundle.

    Attributes:
        target: What serves it: a program with ONNX Runtime, Triton, or onnxruntime-genai.
        device: What it runs on there; None is ``cuda`` where the library has kernels for it.
        library: Whether the library of operators goes with it.
        keep_packed: Without the library: weights that are unpacked when a model is loaded stay
            packed instead, and are unpacked at each run.
        float_path: The float model, for its golden outputs.
        inputs: Samples (see `fqonnx.calibrate.load_samples`), or ``synthetic``.
        report: An accuracy report to go with it.
        mount: Where the server sees the folder; for Triton, which takes the library by an absolute
            path.
        previous: A bundle for Triton whose versions are served beside the new one.
        tokenizer: Folder of a tokenizer with ``genai_config.json`` or ``config.json``; for
            onnxruntime-genai.
    """

    target: ServerTarget = "ort"
    device: Device | None = None
    library: bool = True
    keep_packed: bool = False
    float_path: Path | None = None
    inputs: Path | str = "synthetic"
    report: Path | None = None
    mount: PurePosixPath | None = None
    previous: Path | None = None
    tokenizer: Path | None = None

    def __post_init__(self) -> None:
        if self.keep_packed and self.library:
            found = "with the library of operators weights stay packed anyway"
            raise ConfigError("--keep-packed", found, "Use it with --without-library")
        for name, value, target in (
            ("--mount", self.mount, "triton"),
            ("--previous", self.previous, "triton"),
            ("--tokenizer", self.tokenizer, "genai"),
        ):
            if value is not None and self.target != target:
                found = f"it is for --target {target}, not {self.target}"
                raise ConfigError(name, found, "Leave it out")
        if self.target == "triton" and self.keep_packed:
            found = "Triton passes no config entries to the session, which that takes"
            raise ConfigError("--keep-packed", found, "Leave it out")
        absolute = self.mount is not None and self.mount.is_absolute()
        if self.target == "triton" and self.library and not absolute:
            found = f"found {self.mount}, and Triton takes the library by an absolute path"
            hint = "Give the path of the folder as the server sees it: --mount /bundles/name"
            raise ConfigError("--mount", found, hint)
        if self.target == "genai" and self.tokenizer is None:
            hint = "Give the folder that onnxruntime-genai's model builder, or the export, wrote"
            raise ConfigError("--tokenizer", "onnxruntime-genai needs one", hint)
