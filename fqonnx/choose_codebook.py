"""Scalar codes or those of a trellis, where a user asks for neither."""

from __future__ import annotations

MOST_TRELLIS_BITS = 3
# Redundancies from which on feedback, which a trellis lacks within its tiles, is worth more than
# what it gains (docs/redundancy.md).
_AT_ONE_BIT, _WITHOUT_DATA = 2.0, 3.0


def why_scalar(bits: int, redundancy: float, target: str, *, has_data: bool = True) -> str | None:
    """Return why scalar codes are better than those of a trellis; None where they are not.

    Args:
        bits: Bits a coefficient.
        redundancy: Frame vectors per dimension.
        target: See `fqonnx.config.CompileConfig`.
        has_data: Whether the weight has calibration data.
    """
    if target == "ort-stock":
        return "target 'ort-stock' has no library of operators, and unpacks those of a trellis"
    if bits > MOST_TRELLIS_BITS:
        return f"above {MOST_TRELLIS_BITS} bits those of a trellis are for codebook 'trellis' only"
    if bits == 1 and redundancy >= _AT_ONE_BIT:
        return f"from redundancy {_AT_ONE_BIT:g} on they err less at 1 bit"
    if not has_data and redundancy >= _WITHOUT_DATA:
        return f"from redundancy {_WITHOUT_DATA:g} on they err less without data"
    return None
