"""The state of a training run: the two halves of a step, and how all of it is saved and resumed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from maskrcnn import distributed
from maskrcnn.checkpoint import (
    WEIGHTS,
    CheckpointError,
    Metadata,
    ModelDescription,
    apply_weights,
    read_training_state,
    read_weights,
    write_checkpoint,
)
from maskrcnn.config import TrainingConfig, changed_fields
from maskrcnn.optim import WeightAverage, build_optimizer
from maskrcnn.output_folder import list_checkpoints

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class NonFiniteError(ArithmeticError):
    """A loss or gradient is NaN or infinite; the message names the step, the images and each loss."""


@dataclass
class Run:
    """Model, optimiser and company of one run in one process."""

    model: nn.Module
    network: nn.Module  # the model, or its DistributedDataParallel wrapper
    config: TrainingConfig
    metadata: Metadata
    dataset_digest: str
    device: torch.device
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: WeightAverage | None
    image_ids: list[int] = field(default_factory=list)  # of the current step, on this process
    grad_norm: Tensor | None = None  # of the last update; left on the device, so that nobody waits for it
    last_step: int = -1

    @classmethod
    def prepare(
        cls,
        model: nn.Module,
        dataset: Any,
        config: TrainingConfig,
        description: ModelDescription,
        device: torch.device,
    ) -> Run:
        """A run at its start: moves the model to the device and makes its optimiser."""
        model.to(device)
        if config.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.compile:
            model.get_submodule("backbone").compile()
        model.train()
        categories = tuple(dataset.categories)
        return cls(
            model=model,
            network=model,
            config=config,
            metadata=Metadata(description, categories, step=0),
            dataset_digest=_digest([list(dataset.image_ids), [[c.id, c.name] for c in categories]]),
            device=device,
            optimizer=build_optimizer(model, config),
            scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "float16"),
            average=WeightAverage(model, config.ema_decay) if config.ema_decay > 0 else None,
        )

    # ---- a step ------------------------------------------------------------------------------------------

    def backward(
        self, step: int, part: int, images: list[Tensor], targets: list[dict[str, Any]]
    ) -> dict[str, float]:
        """Add the gradient of one part to the step's; returns the losses' means over processes."""
        config = self.config
        ids = [int(target["image_id"]) for target in targets]
        images = [image.to(self.device, non_blocking=True) for image in images]
        targets = [_to_device(target, self.device) for target in targets]
        torch.manual_seed(step_seed(config.seed, step, part, distributed.rank()))
        with self._exchange_gradients(last=part == config.accumulation - 1):
            with self._autocast():
                losses = self.network(images, targets)
                total = torch.stack(list(losses.values())).sum()
            values = self._read(losses, step, ids)
            self.scaler.scale(total / config.accumulation).backward()
        self.image_ids = ids if part == 0 else self.image_ids + ids
        return values

    def update(self, step: int) -> None:
        """Change the weights by the accumulated gradient."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scaler.unscale_(self.optimizer)
        self.grad_norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.config.clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.config.clip_grad_norm, self.grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model, step)
        self.last_step = step

    def check_gradient(self) -> None:
        """Stop if the last update was by a gradient that is not finite (float16 skips such by itself)."""
        if self.grad_norm is None or self.scaler.is_enabled() or math.isfinite(float(self.grad_norm)):
            return
        ids = [i for process in distributed.gather_objects(self.image_ids) for i in process]
        norm = float(self.grad_norm)
        raise NonFiniteError(f"step {self.last_step + 1}: the gradient's norm is {norm}; images {ids}")

    def _read(self, losses: dict[str, Tensor], step: int, ids: list[int]) -> dict[str, float]:
        """The losses' means over processes as numbers; stops all processes where one is not finite.

        The one place where a step waits for the device: nothing may be changed by a loss that is not finite.
        """
        local = torch.stack([loss.detach().float() for loss in losses.values()])
        values = distributed.mean_across_processes(local).tolist()
        if all(map(math.isfinite, values)):
            return dict(zip(losses, values, strict=True))
        self.check_gradient()  # the cause may be the update before
        culprits = []
        for rank, (theirs, row) in enumerate(distributed.gather_objects((ids, local.tolist()))):
            if not all(map(math.isfinite, row)):
                each = ", ".join(f"{name} {value:g}" for name, value in zip(losses, row, strict=True))
                culprits.append(f"rank {rank}, images {theirs}: {each}")
        raise NonFiniteError(f"step {step + 1}: losses are not finite; " + "; ".join(culprits))

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        dtype = _AUTOCAST.get(self.config.precision)
        return contextlib.nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def _exchange_gradients(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Between parts of a step gradients stay with their process."""
        if last or not isinstance(self.network, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.network.no_sync()

    # ---- saving and resuming -----------------------------------------------------------------------------

    def writer(self, step: int) -> Callable[[Path], None]:
        """What fills the folder of the checkpoint after ``step`` updates."""
        weights = self.model.state_dict()
        training = {
            "step": step,
            "world_size": distributed.world_size(),
            "dataset": self.dataset_digest,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "weights": None if self.average is None else weights,  # model.safetensors has the average
        }
        metadata = Metadata(self.metadata.description, self.metadata.categories, step)
        shown = weights if self.average is None else self.average.state
        return lambda folder: write_checkpoint(folder, shown, metadata, training, self.config)

    def resume(self, output: Path, allowed: bool) -> int:
        """Take up the newest checkpoint, if any, then join the processes; returns the updates done."""
        checkpoints = list_checkpoints(output)
        start = 0
        if checkpoints and not allowed:
            raise CheckpointError(f"{output}: holds checkpoints already; resume, or choose another folder")
        if checkpoints:
            start, newest = checkpoints[-1]
            before = str(checkpoints[-2][1]) if len(checkpoints) > 1 else "the start"
            self._restore(newest, before)
        if distributed.world_size() > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.network = DistributedDataParallel(self.model, device_ids=ids)
        return start

    def _restore(self, checkpoint: Path, before: str) -> None:
        try:
            state, config = read_training_state(checkpoint)
            weights, metadata = read_weights(checkpoint / WEIGHTS)
        except CheckpointError as error:
            raise CheckpointError(
                f"cannot resume: {error}; if {checkpoint} is damaged, delete it to go on from {before}"
            ) from error
        self._check_same_run(checkpoint, state, config, metadata)
        if self.average is not None:
            self.average.load(weights)
            weights = state["weights"]
        apply_weights(self.model, weights, source=str(checkpoint / WEIGHTS))
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{checkpoint}: the optimiser's state does not fit ({error})") from error
        self.scaler.load_state_dict(state["scaler"])

    def _check_same_run(
        self, checkpoint: Path, state: Mapping[str, Any], config: TrainingConfig, metadata: Metadata | None
    ) -> None:
        changes = changed_fields(config, self.config)
        if state["world_size"] != distributed.world_size():
            changes.append(f"processes: {state['world_size']} -> {distributed.world_size()}")
        if metadata is None or not metadata.description.same_as(self.metadata.description):
            changes.append("model")
        if state["dataset"] != self.dataset_digest:
            changes.append("data set (image ids or categories)")
        if state["step"] > self.config.steps:
            changes.append(f"steps: {state['step']} are done -> {self.config.steps}")
        if changes:
            raise CheckpointError(
                f"cannot resume: {checkpoint} is of another run ({', '.join(changes)}); set these back, "
                "or choose another output folder"
            )


def step_seed(seed: int, step: int, part: int, rank: int) -> int:
    """Seed of torch's generator for one forward pass: distinct for every step, part and process."""
    state = np.random.SeedSequence((seed, step, part, rank)).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def _to_device(target: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in target.items()}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
