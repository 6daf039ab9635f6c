"""Alignment of adapters with a reference, with their product unchanged: (B R)(R^T A) = B A for every orthogonal R."""

import torch
from torch import Tensor

__all__ = ["aligned"]


def aligned(a: Tensor, b: Tensor, reference: Tensor, side: str, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """The pair R^T a and b R, with the orthogonal R that brings one side nearest to the reference.

    R = U V^T of the singular value decomposition of a reference^T, or of b^T reference (orthogonal Procrustes). Below
    strength 1, R is made a rotation by excluding reflections, and replaced by the orthogonal matrix nearest to
    (1 - strength) I + strength R.

    Args:
        a: (r, in).
        b: (out, r).
        reference: target of the aligned side, of its shape.
        side: the aligned side, ``"A"`` or ``"B"``.
        strength: in [0, 1]; 0 returns the arguments.

    Returns:
        (r, in) and (out, r), in the dtype of the arguments; give float64.
    """
    if not strength:
        return a, b
    u, _, vh = torch.linalg.svd(a @ reference.T if side == "A" else b.T @ reference)
    turn = u @ vh
    if strength < 1:
        if torch.linalg.det(turn) < 0:
            u[:, -1] = -u[:, -1]
            turn = u @ vh
        u, _, vh = torch.linalg.svd(torch.eye(len(turn), dtype=turn.dtype).lerp(turn, strength))
        turn = u @ vh
    return turn.T @ a, b @ turn
