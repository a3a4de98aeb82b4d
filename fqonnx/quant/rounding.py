"""Rounding of coefficients to an alphabet: to nearest, with feedback, and by descent.

All take coefficients C (num_vectors, dim_out), return Ĉ of the same shape, and treat columns
independently. With a Hessian H (num_vectors, num_vectors) the objective
is the column's (ĉ − c)ᵀH(ĉ − c). H must be positive definite: see `damped`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fqonnx.quant.alphabet import UniformAlphabet

_BLOCK = 64  # rows handled one by one before their effect on the rest is applied as one product


def damped(hessian: Tensor, damping: float) -> Tensor:
    """Return H + damping · mean(diag H) · I, or I for a Hessian that is all zero."""
    level = hessian.diagonal().mean()
    if level <= 0:
        return torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    result = hessian.clone()
    result.diagonal().add_(damping * level)
    return result


def hessian_error(error: Tensor, hessian: Tensor) -> Tensor:
    """Return the objective of each column, (num_vectors, dim_out) → (dim_out,)."""
    return (error * (hessian.to(error.dtype) @ error)).sum(0)


def upper_factor(hessian: Tensor) -> Tensor:
    """Return M, upper triangular, with H = MMᵀ."""
    factor: Tensor = torch.linalg.cholesky(hessian.flip(0, 1))
    return factor.flip(0, 1)


def ldlq_feedback(hessian: Tensor) -> Tensor:
    """Return M_jk/M_kk of H = MMᵀ, M upper triangular: what `ldlq` feeds back of row j to row k.

    Args:
        hessian: H, float64, positive definite.

    Returns:
        (num_vectors, num_vectors), float32.
    """
    upper = upper_factor(hessian)
    return upper.div_(upper.diagonal().clone()).float()


def ldlq(coeffs: Tensor, feedback: Tensor, alphabet: UniformAlphabet) -> Tensor:
    """Round row after row, adding to each row the error of earlier rows that it can cancel.

    This is LDLQ (QuIP, arXiv 2307.13304, equation 2), the same recursion as GPTQ's
    (arXiv 2210.17323, algorithm 1) without the inverse of H. With H = MMᵀ, M upper triangular, the
    objective is ‖Mᵀ(ĉ − c)‖², whose k-th entry M_kk·((ĉ − c)_k + Σ_{j<k} M_jk/M_kk·(ĉ − c)_j)
    is made as small as the alphabet allows.

    Args:
        coeffs: C, float32.
        feedback: See `ldlq_feedback`.
        alphabet: The levels, float32.
    """
    error = torch.zeros_like(coeffs)  # c − ĉ of the rows that are done
    for start in range(0, len(coeffs), _BLOCK):
        stop = min(start + _BLOCK, len(coeffs))
        target = coeffs[start:stop] + feedback[:start, start:stop].T @ error[:start]
        within = feedback[start:stop, start:stop]
        for k in range(stop - start):
            level = alphabet.nearest(target[k : k + 1], start + k)[0]
            error[start + k] = coeffs[start + k] - level
            target[k + 1 :].addr_(within[k, k + 1 :], error[start + k])
    return coeffs - error


def coordinate_descent(
    coeffs: Tensor,
    quantized: Tensor,
    hessian: Tensor,
    alphabet: UniformAlphabet,
    sweeps: int,
) -> Tensor:
    """Re-round each row to the level that is best given all other rows, ``sweeps`` times over.

    No sweep increases the objective. LDLQ sees only earlier rows; this sees the later ones too.
    """
    quantized = quantized.clone()
    hessian = hessian.to(coeffs.dtype)
    curvature = hessian.diagonal()
    for _ in range(sweeps):
        for start in range(0, len(coeffs), _BLOCK):
            stop = min(start + _BLOCK, len(coeffs))
            gradient = hessian[start:stop] @ (quantized - coeffs)
            within = hessian[start:stop, start:stop]
            for k in range(stop - start):
                row = quantized[start + k]
                best = alphabet.nearest((row - gradient[k] / curvature[start + k])[None], start + k)
                gradient.addr_(within[:, k], best[0] - row)
                quantized[start + k] = best[0]
    return quantized
