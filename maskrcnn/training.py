"""The training loop: one process or many, resumable at any step with the same result as an unbroken run."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn import distributed
from maskrcnn.checkpoint import ModelDescription
from maskrcnn.config import TrainingConfig
from maskrcnn.data import training_loader
from maskrcnn.metrics import MetricsLog, describe, progress_bar, step_record
from maskrcnn.optim import learning_rate, set_learning_rate
from maskrcnn.output_folder import OutputFolder, list_checkpoints
from maskrcnn.run import Run

Validation = Callable[[nn.Module], Mapping[str, float]]
Loader = Callable[..., Iterable[tuple[list[Tensor], list[dict[str, Any]]]]]


def train(
    model: nn.Module,
    dataset: Any,
    config: TrainingConfig,
    output: str | os.PathLike[str],
    *,
    description: ModelDescription,
    validation: Validation | None = None,
    resume: bool = True,
    device: torch.device | str | None = None,
    loader: Loader | None = None,
    progress: bool = True,
) -> Path:
    """Train a detector in place and return the folder of its last checkpoint.

    Under ``torchrun`` every process calls this with the same arguments and an ``output`` that all can read;
    only rank 0 writes there. The result is that of one process on the joint batch, as far as layers and
    sampling do not depend on how the batch is divided (batch norm does): losses are normalised by counts
    averaged over processes. Parts of an accumulated step are averaged with equal weight, so a loss whose
    normaliser differs between parts (the mask loss: positive regions; the others only where an image has
    fewer candidates than are sampled) weighs objects in sparse parts more than a joint batch would.

    A resumed run is the unbroken one, bit for bit where the kernels are deterministic (the CPU): the order of
    images, their augmentation and the sampling inside the model are functions of (seed, step, part, rank),
    and the rest is in the checkpoint. The global random generator of torch is re-seeded in every step.

    Args:
        model: in training mode ``model(images, targets)`` returns a dictionary of losses, each a scalar.
        dataset: with ``categories`` and ``image_ids``; what ``loader`` reads.
        config: the recipe.
        output: folder for checkpoints and ``metrics.jsonl``.
        description: the builder and arguments that made ``model``, stored so that ``load_model`` rebuilds it.
        validation: called on rank 0 with the model in evaluation mode (and averaged weights, if the run keeps
            them); returns figures by name, such as ``lambda m: evaluate(m, dataset).metrics()``.
        resume: go on from the newest checkpoint in ``output``, if there is one. With False, a folder that
            holds checkpoints is an error: nothing is overwritten.
        device: where to train; by default this process's GPU, or the CPU.
        loader: by default ``maskrcnn.data.training_loader``; one of the same signature.
        progress: show a progress bar (rank 0).

    Raises:
        ValueError: a field of ``config`` does not suit the device or the number of processes.
        CheckpointError: the newest checkpoint is unreadable, or belongs to another model, data set or recipe.
        NonFiniteError: a loss or gradient is NaN or infinite. All processes stop.
    """
    device = distributed.default_device() if device is None else torch.device(device)
    with contextlib.ExitStack() as stack:
        stack.enter_context(distributed.process_group(device))
        _check(config, device)
        folder = stack.enter_context(OutputFolder(output)) if distributed.rank() == 0 else None
        distributed.barrier()  # rank 0 has cleaned the folder before anyone looks for checkpoints
        run = Run.prepare(model, dataset, config, description, device)
        start = run.resume(Path(output), resume)
        log = bar = None
        if folder is not None:
            log = MetricsLog(folder.path, start, config.tensorboard)
            stack.callback(log.close)
            bar = stack.enter_context(progress_bar(start, config.steps, progress))
        batches = _batches(loader, dataset, config, start)
        if start > 0 and _due(start, config.evaluate_every, config.steps):
            _evaluate(
                run, log, start, validation
            )  # if a crash came between this checkpoint and its evaluation

        for step in range(start, config.steps):
            begun = time.perf_counter()
            images, targets = next(batches)
            waited = time.perf_counter() - begun
            lr = learning_rate(config, step)
            set_learning_rate(run.optimizer, lr)
            losses = [
                run.backward(step, part, images[chosen], targets[chosen])
                for part, chosen in enumerate(_parts(len(images), config.accumulation))
            ]
            run.update(step)

            done = step + 1
            if log is not None and bar is not None:
                record = step_record(done, losses, lr, run.grad_norm, config.batch_size, begun, waited)
                if done % config.log_every == 0:
                    log.write(record)
                bar.set_postfix_str(describe(record), refresh=False)
                bar.update()
            if _due(done, config.checkpoint_every, config.steps):
                run.check_gradient()
                if folder is not None and log is not None:
                    log.sync()
                    folder.publish(done, run.writer(done), config.keep_last)
            if _due(done, config.evaluate_every, config.steps):
                _evaluate(run, log, done, validation)
        distributed.barrier()
        return list_checkpoints(output)[-1][1]


def _batches(loader: Loader | None, dataset: Any, config: TrainingConfig, start: int) -> Iterator[Any]:
    """This process's share of each step's images, from step ``start`` on."""
    batches = (training_loader if loader is None else loader)(
        dataset,
        config.batch_size,
        steps=config.steps,
        seed=config.seed,
        start_step=start,
        flip=config.flip,
        vertical_flip=config.vertical_flip,
        aspect_ratio_grouping=config.aspect_ratio_grouping,
        num_workers=config.num_workers,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        replacement=config.replacement,
        keep_empty=config.keep_empty,
    )
    return iter(batches)


def _parts(images: int, accumulation: int) -> list[slice]:
    size = images // accumulation
    return [slice(part * size, (part + 1) * size) for part in range(accumulation)]


def _evaluate(run: Run, log: MetricsLog | None, step: int, validation: Validation | None) -> None:
    if validation is None:
        return
    if log is not None and not log.has_evaluation(step):
        averaged = contextlib.nullcontext() if run.average is None else run.average.applied(run.model)
        with averaged:
            run.model.eval()
            figures = validation(run.model)
            run.model.train()
        log.write({"step": step, "evaluation": {name: float(value) for name, value in figures.items()}})
    distributed.barrier()


def _due(done: int, every: int, steps: int) -> bool:
    return done == steps or (every > 0 and done % every == 0)


def _check(config: TrainingConfig, device: torch.device) -> None:
    if config.precision == "float16" and device.type != "cuda":
        raise ValueError(
            f"TrainingConfig.precision: expected 'float32' or 'bfloat16' on {device.type}, got 'float16'"
        )
    parts, processes = config.accumulation, distributed.world_size()
    if config.batch_size % (parts * processes):
        raise ValueError(
            "TrainingConfig.batch_size: expected a multiple of accumulation x processes "
            f"({parts} x {processes}), got {config.batch_size}"
        )
