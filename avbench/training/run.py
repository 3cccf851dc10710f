"""One run of a pass: a configured method with one seed, its engine, its place in early stopping."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from avbench.batch import MODALITIES, Batch, Clock, Modality, Outputs, true_label_confidence
from avbench.confidence import ConfidenceStore
from avbench.distributed import sum_over_ranks
from avbench.engine import Engine, EngineConfig, OptimizerConfig, build_engine, over_the_global_batch
from avbench.errors import UsageError
from avbench.methods import RunSpec
from avbench.methods.base import Method, Step
from avbench.models.resnet import WIDTH, Encoder

DIVERGED = "diverged: loss or confidence not finite"


@dataclass(slots=True)
class Tally:
    """Sums over clips, on the device, until somebody wants to know: loss, correct, clips, confidences not finite."""

    sums: Tensor

    @classmethod
    def zero(cls, device: torch.device) -> Tally:
        """Nothing counted."""
        return cls(torch.zeros(4, dtype=torch.float64, device=device))

    def add(self, losses: Tensor, correct: Tensor, confidence: Tensor) -> None:
        """Count clips: losses [B], correct bool [B], true-label confidence [B]."""
        self.sums += torch.stack(
            [
                losses.sum().double(),
                correct.sum().double(),
                torch.full_like(self.sums[2], len(losses)),
                (~torch.isfinite(confidence)).sum().double(),
            ]
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """What a run has counted: loss sum, number correct and clips over all ranks; means of what its method logged."""

    totals: list[float]
    log: dict[str, float]


def take_tallies(runs: Sequence[Run]) -> list[Taken]:
    """What these runs have counted since last asked, one a run; kept confidences are handed to their stores.

    A collective, and the one device synchronization of a logging interval, whatever the number of runs: all of it comes
    in one copy.
    """
    if not runs:
        return []
    sums = sum_over_ranks(torch.stack([run.tally.sums for run in runs]))
    kept = [run.kept_on_device() for run in runs]
    pieces = [sums.flatten(), *(piece for of_run in kept for piece in of_run)]
    arrived = iter(torch.cat(pieces).cpu().split([len(piece) for piece in pieces]))
    totals = next(arrived).view(len(runs), -1).tolist()
    return [
        run.take_in(of_run, [next(arrived) for _ in pieces_of_run])
        for run, of_run, pieces_of_run in zip(runs, totals, kept, strict=True)
    ]


@dataclass(slots=True)
class Progress:
    """Where a run is in its training; the same on every rank, and all of it in a checkpoint."""

    step: int = 0
    best_accuracy: float = -1.0  # of validation; ties keep the earliest epoch
    best_epoch: int = -1
    finished: str = ""  # why the run trains no more; empty while it does
    open_epoch: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # loss sum, correct, clips so far

    def judge(self, *, epoch: int, accuracy: float, patience: int) -> bool:
        """Take in an epoch's validation accuracy; returns whether it is the best so far. patience 0: never stop."""
        better = accuracy > self.best_accuracy
        if better:
            self.best_accuracy, self.best_epoch = accuracy, epoch
        elif patience and epoch - self.best_epoch >= patience:
            self.finished = f"no better validation accuracy for {patience} epochs"
        return better


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a run says of a batch's clips.

    probabilities: float32 [B, classes]. parts: int64 [B] for each modality, the class that the network's own unimodal
    part says, where it has such parts. uncertainty: [B], of methods that have one.
    """

    probabilities: Tensor
    parts: dict[str, Tensor]
    uncertainty: Tensor | None


class Run:
    """A configured method under one seed while it trains.

    store: the confidence store that the run feeds, if its method is a unimodal network.
    """

    def __init__(
        self,
        spec: RunSpec,
        *,
        seed: int,
        classes: int,
        optimizer: OptimizerConfig,
        engine: EngineConfig,
        device: torch.device,
        dtype: torch.dtype,
        batch_norm: str,
        store: ConfidenceStore | None,
        width: int = WIDTH,
    ) -> None:
        self.spec = spec
        self.seed = seed
        self.store = store
        self.method = spec.method(spec.config, classes=classes, seed=seed)
        self.method.width = width
        # Only the seed decides the initialization, so a run is the same alone and among others.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.method.build_model()
        _check_network(self.method, model, spec.text)
        if batch_norm == "global":
            model = over_the_global_batch(model, device)
        self.engine: Engine = build_engine(
            model,
            optimizer=optimizer,
            device=device,
            dtype=dtype,
            leaves_unused_parameters=self.method.leaves_unused_parameters,
            engine=engine,
        )
        self._optimizer = optimizer
        self.progress = Progress()
        self.learning_rate = 0.0  # of the last step
        self.tally = Tally.zero(device)
        self._logged: dict[str, list[Tensor | float]] = {}
        self._unrecorded: list[tuple[Tensor, Tensor, Tensor, int]] = []
        self._is_checked = False  # what the method says of a batch

    @property
    def name(self) -> str:
        """The run's name and seed, as files and tables key it."""
        return f"{self.spec.name}-seed{self.seed}"

    @property
    def is_training(self) -> bool:
        """Whether the run takes part in the next step."""
        return not self.progress.finished

    def describe(self) -> dict[str, Any]:
        """What runs.json says of it, for whoever reads tables: method, network, what it reads and feeds, options."""
        return {
            "method": self.spec.method.name,
            "network": _network_text(self.method),
            "modalities": list(self.method.modalities),
            "confidence_of": self.method.confidence_of,
            "options": dataclasses.asdict(self.spec.config),
        }

    def train_step(self, batch: Batch, *, epoch: int, epochs: int, total_steps: int) -> None:
        """One optimizer step on this rank's slice of a global batch, tallied and kept for the store."""
        clock = Clock(epoch, self.progress.step, epochs)
        self.learning_rate = self._optimizer.learning_rate_at(clock.step, total_steps=total_steps, epoch=epoch)
        self.engine.set_learning_rate(self.learning_rate)
        step = self.method.train_step(self.engine, batch, clock)
        if not isinstance(step, Step):
            raise UsageError(f"--methods {self.spec.text}: train_step returned {type(step).__name__}, expected a Step")
        if not self._is_checked:
            with torch.no_grad():
                _check_said(self.method, batch, step, self.spec.text)
            self._is_checked = True
        check_log({name: value for name, value in step.log.items() if name not in self._logged}, self.spec.text)
        self.progress.step += 1
        for name, value in step.log.items():
            self._logged.setdefault(name, []).append(value)
        self._take_in(batch, step.outputs, step.losses)

    @torch.no_grad()
    def evaluate(self, batch: Batch, *, clock: Clock) -> None:
        """Tally an evaluation batch, and keep it for the store."""
        outputs = self.method.forward(self.engine, batch)
        self._take_in(batch, outputs, self.method.loss(outputs, batch, clock))

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """What the network in evaluation mode makes of a batch."""
        outputs = self.method.forward(self.engine, batch)
        probabilities = self.method.probabilities(outputs)
        uncertainty = self.method.uncertainty(outputs)
        return Prediction(
            probabilities=probabilities["prediction"].float(),
            parts={name: probabilities[name].argmax(dim=1) for name in MODALITIES if name in probabilities},
            uncertainty=None if uncertainty is None else uncertainty.float(),
        )

    def _take_in(self, batch: Batch, outputs: Outputs, losses: Tensor) -> None:
        with torch.no_grad():
            probabilities = self.method.probabilities(outputs)["prediction"]
            correct = probabilities.argmax(dim=1) == batch.label
            confidence = true_label_confidence(probabilities, batch.label)
            self.tally.add(losses.detach(), correct, confidence)
            if self.store is not None:
                self._unrecorded.append((batch.clip_id, confidence, correct, batch.position))

    def kept_on_device(self) -> list[Tensor]:
        """What this rank has counted and kept since last taken, float64 tensors: logged means, and of each batch.

        Of a batch kept for the store clip ids, confidences and correctness one after the other, [3 B]; all are exact in
        float64. One piece of a transfer, see `take_tallies`.
        """
        means = [torch.stack([self._on_device(value) for value in values]).mean() for values in self._logged.values()]
        logged = [torch.stack(means)] if means else []
        return logged + [torch.cat([part.double() for part in parts]) for *parts, _ in self._unrecorded]

    def _on_device(self, value: Tensor | float) -> Tensor:
        sums = self.tally.sums
        return value.to(sums) if isinstance(value, Tensor) else torch.full_like(sums[0], value)

    def take_in(self, sums: Sequence[float], kept: Sequence[Tensor]) -> Taken:
        """Take up what has come from the device. sums: the tally over all ranks. kept: as `kept_on_device` gave it.

        Where a loss or confidence is not finite on any rank, the sums say so on all, and the run is marked diverged:
        its open epoch is discarded.
        """
        *totals, not_finite = sums
        names, batches = list(self._logged), list(kept)
        log = dict(zip(names, batches.pop(0).tolist(), strict=True)) if names else {}
        if not_finite or not math.isfinite(totals[0]):
            self._diverge()
        if self.store is not None and self.is_training:
            for values, (*_, position) in zip(batches, self._unrecorded, strict=True):
                clip_id, confidence, correct = values.numpy().reshape(3, -1)
                # Back to what they were.
                self.store.record(
                    clip_id.astype(np.int64), confidence.astype(np.float32), correct != 0, position=position
                )
        self.tally.sums.zero_()
        self._logged.clear()
        self._unrecorded.clear()
        return Taken(totals, log)

    def release(self) -> None:
        """Give up what only training needs: a run that has stopped costs nothing more. Its network stays."""
        self.engine.release()
        self._logged.clear()

    def _diverge(self) -> None:
        self.progress.finished = DIVERGED
        self._unrecorded.clear()
        if self.store is not None:
            self.store.discard()

    def state_dict(self) -> dict[str, Any]:
        """All of the run; a finished one needs its network no more (the best is in a file of its own)."""
        progress = {name: getattr(self.progress, name) for name in Progress.__slots__}
        if not self.is_training:
            return {"progress": progress}
        return {"progress": progress, "engine": self.engine.state_dict(), "method": self.method.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.progress = Progress(**state["progress"])
        if "engine" in state:
            self.engine.load_state_dict(state["engine"])
            self.method.load_state_dict(state["method"])

    def buffers(self) -> dict[str, Tensor]:
        """Batch norm's buffers of this rank, by name."""
        return {name: buffer for name, buffer in self.engine.model.named_buffers() if buffer.is_floating_point()}


def _network_text(method: Method) -> str:
    """What the tables say the network is; of another width than the published one, that too."""
    width = "" if method.width == WIDTH else f", {method.width} channels in the first stage instead of {WIDTH}"
    return f"{method.network}{width}"


def _check_network(method: Method, model: nn.Module, text: str) -> None:
    """Raises UsageError for what would come out only when all training is done, or never."""
    widths = {module.width for module in model.modules() if isinstance(module, Encoder)} or {WIDTH}
    if widths != {method.width}:
        raise UsageError(
            f"--methods {text}: the network's encoders are {' and '.join(map(str, sorted(widths)))} channels wide, "
            f"but --width is {method.width}; let build_model pass width=self.width on to avbench's encoders"
        )
    if isinstance(method.modalities, str) or not method.modalities or not set(method.modalities) <= set(MODALITIES):
        raise UsageError(f"--methods {text}: modalities are {method.modalities!r}, expected a tuple of {MODALITIES}")
    try:
        modules = method.feature_modules(model)
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(
            f"--methods {text}: the network has no encoder a modality ({type(error).__name__}: {error}); give it "
            f".encoders, a ModuleDict by modality, or let the method override feature_modules"
        ) from None
    if set(modules) != set(method.modalities):
        raise UsageError(f"--methods {text}: feature_modules names {sorted(modules)}, not {sorted(method.modalities)}")


def _check_said(method: Method, batch: Batch, step: Step, text: str) -> None:
    """Raises UsageError where what a method says of its first batch is not of the shape that is counted and written.

    The same on every rank, also on one without clips.
    """
    clips = (len(batch),)
    probabilities = method.probabilities(step.outputs)
    if not isinstance(probabilities, Mapping) or "prediction" not in probabilities:
        names = sorted(probabilities) if isinstance(probabilities, Mapping) else type(probabilities).__name__
        raise UsageError(f"--methods {text}: probabilities gives {names}, expected 'prediction' among them")
    _check_shape(step.losses, clips, "the loss", "one number a clip", text)
    for name in ("prediction", *MODALITIES):
        if name in probabilities:
            what = f"probabilities of {name!r}"
            _check_shape(probabilities[name], (*clips, method.classes), what, "one number a clip and class", text)
    uncertainty = method.uncertainty(step.outputs)
    if uncertainty is not None:
        _check_shape(uncertainty, clips, "the uncertainty", "one number a clip", text)


def _check_shape(value: object, shape: tuple[int, ...], what: str, meaning: str, text: str) -> None:
    if not isinstance(value, Tensor) or value.shape != shape:
        found = f"has the shape {list(value.shape)}" if isinstance(value, Tensor) else f"is {type(value).__name__}"
        raise UsageError(f"--methods {text}: {what} {found}, expected a tensor of shape {list(shape)}: {meaning}")


def check_log(log: Mapping[str, object], text: str) -> None:
    """Raises UsageError for what a method logs under another name than group/name, or that is not one number.

    A plain name could be one that the trainer's records have already: epoch, seed, loss.
    """
    for name, value in log.items():
        group, _, rest = name.partition("/")
        if not group or not rest:
            raise UsageError(f"--methods {text}: logs {name!r}, expected a name of the form group/name")
        if not (isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)):
            found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UsageError(f"--methods {text}: logs {name!r} as {found}, expected one number")


def modalities_read(runs: Sequence[Run]) -> tuple[Modality, ...]:
    """What the loader has to decode for these runs, in the fixed order of MODALITIES."""
    return tuple(modality for modality in MODALITIES if any(modality in run.method.modalities for run in runs))
