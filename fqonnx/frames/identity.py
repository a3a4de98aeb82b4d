"""The frame that changes nothing: what plain round-to-nearest and GPTQ work in."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fqonnx.frames.base import Frame, FrameSpec


@dataclass(frozen=True, eq=False)
class IdentityFrame(Frame):
    """The standard basis of R^dim."""

    num_vectors: int = -1  # follows from dim

    def __post_init__(self) -> None:
        if self.num_vectors == -1:
            object.__setattr__(self, "num_vectors", self.dim)
        if self.num_vectors != self.dim:
            raise ValueError(
                f"an identity frame has num_vectors == dim, got {self.num_vectors} and {self.dim}"
            )
        super().__post_init__()

    @property
    def spec(self) -> FrameSpec:
        """The frame: it has no signs."""
        return FrameSpec("identity", self.dim, self.num_vectors)

    def analysis(self, x: Tensor) -> Tensor:
        """Return x."""
        return x

    def synthesis(self, coeffs: Tensor) -> Tensor:
        """Return coeffs."""
        return coeffs
