from __future__ import annotations

import pytest
import torch

from fqonnx.frames import (
    Frame,
    FrameSpec,
    FusionFrame,
    HadamardFrame,
    HarmonicFrame,
    IdentityFrame,
    SignedFrame,
    frame_from_spec,
)
from support import fusion_frame

FRAMES = [
    IdentityFrame(48),
    HarmonicFrame.create(48, 3.0),
    HadamardFrame.create(48, 1.25, seed=3),
    FusionFrame.create(48, 1.1, seed=4),
    fusion_frame(48, (7, 12, 54)),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.spec.kind)
def test_a_frame_comes_back(frame: Frame) -> None:
    found = frame_from_spec(frame.spec, frame.signs if isinstance(frame, SignedFrame) else None)
    assert type(found) is type(frame)
    assert found.spec == frame.spec
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.analysis(x), frame.analysis(x))


@pytest.mark.parametrize("frame", FRAMES[2:], ids=lambda frame: frame.spec.kind)
def test_missing_signs_are_refused(frame: Frame) -> None:
    with pytest.raises(ValueError, match=f"a {frame.spec.kind} frame has signs"):
        frame_from_spec(frame.spec)


@pytest.mark.parametrize("kind", ["fusion", "wavelet"])
def test_other_frames_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="no frame"):
        frame_from_spec(FrameSpec(kind, 4, 4), torch.ones(4, dtype=torch.int8))  # type: ignore[arg-type]
