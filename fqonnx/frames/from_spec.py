"""The frame that a spec and its signs describe."""

from __future__ import annotations

from torch import Tensor

from fqonnx.frames.base import Frame, FrameSpec
from fqonnx.frames.fusion import FusionFrame
from fqonnx.frames.hadamard import HadamardFrame
from fqonnx.frames.harmonic import HarmonicFrame
from fqonnx.frames.identity import IdentityFrame


def frame_from_spec(spec: FrameSpec, signs: Tensor | None = None) -> Frame:
    """Return a frame.

    Args:
        spec: Which.
        signs: Its signs (dim,), int8, each +1 or -1, for a frame that has any.

    Raises:
        ValueError: There is no such frame, or its signs are missing.
    """
    if spec.kind == "identity":
        return IdentityFrame(spec.dim)
    if spec.kind == "harmonic":
        return HarmonicFrame(spec.dim, spec.num_vectors)
    if signs is None:
        raise ValueError(f"a {spec.kind} frame has signs")
    if spec.kind == "hadamard":
        return HadamardFrame(spec.dim, spec.num_vectors, signs)
    if spec.kind == "fusion" and spec.subspaces is not None:
        return FusionFrame(spec.dim, spec.num_vectors, signs, *spec.subspaces)
    raise ValueError(f"no frame {spec}")
