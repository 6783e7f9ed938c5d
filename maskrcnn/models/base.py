"""What every detector of this package has in common: how it is called, and what it checks, resizes and maps back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from maskrcnn.geometry import resize_boxes
from maskrcnn.models.images import Detection, ImageList, Target
from maskrcnn.models.targets import check_images, check_proposals, check_targets
from maskrcnn.models.transform import MASK_FORMATS, GeneralizedRCNNTransform, map_back
from maskrcnn.models.weights import upgrade_keys


class BaseDetector(nn.Module):
    """A backbone between a transform and heads, which a subclass adds with :meth:`predict`.

    Args:
        backbone: ``[N, 3, H, W] -> {name: [N, C, H_i, W_i]}`` (or one map), finest first.
        transform: images and targets to the batch.
        mask_format: how ``masks`` are returned, see :attr:`mask_format`.
    """

    def __init__(
        self, backbone: nn.Module, transform: GeneralizedRCNNTransform, *, mask_format: str = "full"
    ) -> None:
        super().__init__()
        self.transform = transform
        self.backbone = backbone
        self.mask_format = mask_format

    @property
    def mask_format(self) -> str:
        """How ``masks`` are returned: ``"full"``, ``"bool"``, ``"roi"`` or ``"rle"``."""
        return self._mask_format

    @mask_format.setter
    def mask_format(self, value: str) -> None:
        if value not in MASK_FORMATS:
            raise ValueError(f"mask_format: expected one of {MASK_FORMATS}, got {value!r}")
        self._mask_format = value

    @property
    def mask_convention(self) -> str:
        """One of :data:`maskrcnn.models.masks.MASK_CONVENTIONS`."""
        return "continuous"

    @property
    def shared_head(self) -> nn.Module | None:
        """The part of the backbone that works on regions; None: nothing."""
        return None

    @property
    def takes_proposals(self) -> bool:
        """Whether regions must be given with the images."""
        return False

    @property
    def num_classes(self) -> int | None:
        """K with background; None where it is not known."""
        return None

    @property
    def num_keypoints(self) -> int | None:
        """Keypoints of each object; None for a detector without them."""
        return None

    @property
    def target_keys(self) -> list[str]:
        """What a training target needs beside boxes and labels: of ``"masks"``, ``"keypoints"``."""
        raise NotImplementedError

    def predict(
        self, images: ImageList, features: dict[str, Tensor], targets: list[Target] | None
    ) -> tuple[list[Detection], dict[str, Tensor]]:
        """Return (detections, {}) in evaluation, ([], losses) in training; all in the pixels of the batch.

        A detection's ``masks`` are probabilities ``[D, 1, M, M]`` relative to its boxes.
        """
        raise NotImplementedError

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target] | None = None,
        proposals: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor] | list[Detection]:
        """Losses in training, detections in evaluation (``targets`` are then ignored); see the class.

        Args:
            images, targets: see the class.
            proposals: only for a model that :attr:`takes_proposals`, see
                :class:`~maskrcnn.models.relatives.FastRCNN`.

        Raises:
            ValueError, TypeError: malformed images, targets or proposals; the message names the image, the key and
            the value.
        """
        check_images(images, len(self.transform.image_mean))
        if self.training:
            check_targets(targets, images, self.num_classes, self.target_keys, self.num_keypoints)
        given = self._given(images, targets, proposals)
        batch, batch_targets = self.transform(images, targets if self.training else None)
        features = self.backbone(batch.tensors)
        if isinstance(features, Tensor):
            features = {"0": features}
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        if given is not None:
            batch.proposals = [
                resize_boxes(*each) for each in zip(given, sizes, batch.image_sizes, strict=True)
            ]
        detections, losses = self.predict(batch, features, batch_targets)
        if self.training:
            return losses
        return map_back(detections, batch.image_sizes, sizes, self.mask_format, self.mask_convention)

    def _given(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None, proposals: Sequence[Tensor] | None
    ) -> list[Tensor] | None:
        """The proposals that came with the images, checked, float32; None for a model that makes its own."""
        if not self.takes_proposals:
            if proposals is not None:
                raise ValueError("proposals: expected none, as this model proposes regions itself")
            return None
        if proposals is None and self.training and targets is not None:
            proposals = [target["proposals"] for target in targets if "proposals" in target] or None
        check_proposals(proposals, images)
        return [boxes.float() for boxes in proposals or ()]

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As :meth:`torch.nn.Module.load_state_dict`, after :func:`~maskrcnn.models.weights.upgrade_keys`."""
        return super().load_state_dict(upgrade_keys(state_dict), strict=strict, assign=assign)


def out_channels(backbone: nn.Module) -> int:
    """Channels of every feature map, as the backbone tells them; a ``ValueError`` where it does not."""
    channels = getattr(backbone, "out_channels", None)
    if channels is None:
        raise ValueError(
            "backbone: expected an attribute out_channels (of every feature map), "
            f"got a {type(backbone).__name__} without it"
        )
    return int(channels)
