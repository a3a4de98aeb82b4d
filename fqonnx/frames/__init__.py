"""Frames: the bases, redundant or not, in which weights are quantized."""

from fqonnx.frames.base import Frame, FrameSpec, SignedFrame
from fqonnx.frames.from_spec import frame_from_spec
from fqonnx.frames.fusion import FusionFrame, fusion_blocks, fusion_redundancy, fusion_size
from fqonnx.frames.hadamard import HadamardFrame, hadamard_columns, hadamard_size
from fqonnx.frames.harmonic import HarmonicFrame, harmonic_factors, harmonic_size
from fqonnx.frames.identity import IdentityFrame

__all__ = [
    "Frame",
    "FrameSpec",
    "FusionFrame",
    "HadamardFrame",
    "HarmonicFrame",
    "IdentityFrame",
    "SignedFrame",
    "frame_from_spec",
    "fusion_blocks",
    "fusion_redundancy",
    "fusion_size",
    "hadamard_columns",
    "hadamard_size",
    "harmonic_factors",
    "harmonic_size",
]
