"""Frames: the bases, redundant or not, in which weights are quantized."""

from fqonnx.frames.base import Frame
from fqonnx.frames.hadamard import HadamardFrame, hadamard_size
from fqonnx.frames.identity import IdentityFrame

__all__ = ["Frame", "HadamardFrame", "IdentityFrame", "hadamard_size"]
