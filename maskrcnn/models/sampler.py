"""Random choice of positives and negatives in a fixed proportion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BalancedSampler:
    """Chooses up to ``size`` elements of an image, at most ``positive_fraction`` of them positive.

    Draws one permutation of the positives, then one of the negatives, from torch's global generator of the
    labels' device, so that a seed fixes the choice.
    """

    size: int
    positive_fraction: float

    def __call__(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return indices (positives, negatives) for ``labels [B]``: above 0, 0, or -1 (never chosen)."""
        positive = torch.where(labels >= 1)[0]
        negative = torch.where(labels == 0)[0]
        num_positive = min(len(positive), int(self.size * self.positive_fraction))
        num_negative = min(len(negative), self.size - num_positive)
        return _choose(positive, num_positive), _choose(negative, num_negative)


def _choose(candidates: Tensor, count: int) -> Tensor:
    return candidates[torch.randperm(len(candidates), device=candidates.device)[:count]]
