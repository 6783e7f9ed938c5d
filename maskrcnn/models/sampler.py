"""Random choice of positives and negatives in a fixed proportion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maskrcnn.models.waiting import waits_for


@dataclass(frozen=True)
class Sample:
    """What was chosen of an image: slots, those for positives first.

    Attributes:
        index: int64 ``[S]``.
        filled: bool ``[S]``. Without waiting nobody knows how many elements there are to choose from; slots that are
            left over hold any index.
        positives: P, the number of slots for positives. Some may hold negatives or nothing, but no positive is behind.
    """

    index: Tensor
    filled: Tensor
    positives: int


@dataclass(frozen=True)
class BalancedSampler:
    """Chooses up to ``size`` elements of an image, at most ``positive_fraction`` of them positive.

    Draws from torch's global generator of the labels' device, so that a seed fixes the choice: on a CPU one permutation
    of the positives, then one of the negatives, as torchvision does; on a GPU, without waiting for their numbers, one
    number for each element.
    """

    size: int
    positive_fraction: float

    @property
    def most_positives(self) -> int:
        """Of a sample."""
        return int(self.size * self.positive_fraction)

    def __call__(self, labels: Tensor) -> Sample:
        """Choose among ``labels [B]``: above 0, 0, or -1 (never chosen)."""
        return self._by_number(labels) if waits_for(labels) else self._by_permutation(labels)

    def _by_permutation(self, labels: Tensor) -> Sample:
        positive = torch.where(labels >= 1)[0]
        negative = torch.where(labels == 0)[0]
        num_positive = min(len(positive), self.most_positives)
        num_negative = min(len(negative), self.size - num_positive)
        index = torch.cat([_choose(positive, num_positive), _choose(negative, num_negative)])
        return Sample(index, torch.ones_like(index, dtype=torch.bool), num_positive)

    def _by_number(self, labels: Tensor) -> Sample:
        """Those of the largest numbers are chosen; chosen positives then rank before all negatives."""
        positives = min(self.most_positives, len(labels))
        draw = torch.rand(labels.shape, device=labels.device)
        first = torch.where(labels >= 1, draw, -1.0).topk(positives)
        rank = torch.where(labels == 0, draw, -1.0)
        rank[first.indices] = torch.where(first.values >= 0, first.values + 1, rank[first.indices])
        best = rank.topk(min(self.size, len(labels)))
        return Sample(best.indices, best.values >= 0, positives)


def _choose(candidates: Tensor, count: int) -> Tensor:
    return candidates[torch.randperm(len(candidates), device=candidates.device)[:count]]
