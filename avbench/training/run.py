"""One run of a pass: a configured method with one seed, its engine, its place in early stopping."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from avbench.batch import Batch, Clock, Outputs, true_label_confidence
from avbench.confidence.store import ConfidenceStore
from avbench.distributed import sum_over_ranks
from avbench.engine.batch_norm import over_the_global_batch
from avbench.engine.choice import build_engine
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.engine.optimizer import learning_rate_at
from avbench.engine.plain import Engine
from avbench.errors import UsageError
from avbench.methods.base import Method, Part, Step
from avbench.methods.choice import RunSpec
from avbench.models.resnet import Encoder
from avbench.models.width import WIDTH
from avbench.training.audit import Count
from avbench.vocabulary import MODALITIES, Modality

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
    """What a run has counted: loss sum, number correct and clips over all ranks; means of what its method logged.

    counted: which clips these were, over all ranks.
    """

    totals: list[float]
    log: dict[str, float]
    counted: Count


def collect_tallies(runs: Sequence[Run]) -> list[Taken]:
    """What these runs have counted since last asked, one a run; kept confidences are handed to their stores.

    A collective, and the one device synchronization of a logging interval, whatever the number of runs: all of it comes
    in one copy.
    """
    if not runs:
        return []
    sums = torch.stack([run.tally.sums for run in runs])
    # Written in place and pinned: a copy of Python's numbers to a GPU would be waited for.
    words = torch.empty(len(runs), 3, dtype=sums.dtype, pin_memory=sums.is_cuda)
    words.numpy()[:] = [run.take_counted().words() for run in runs]
    counted = words.to(sums.device, non_blocking=True)
    sums = sum_over_ranks(torch.cat([sums, counted], dim=1))
    kept = [run.kept_on_device() for run in runs]
    pieces = [sums.flatten(), *(piece for of_run in kept for piece in of_run)]
    arrived = iter(torch.cat(pieces).cpu().split([len(piece) for piece in pieces]))
    totals = next(arrived).view(len(runs), -1).tolist()
    return [
        run.settle(of_run, [next(arrived) for _ in pieces_of_run])
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
    counted: list[int] | None = field(
        default_factory=lambda: [0, 0]
    )  # of the open epoch: see audit.Count; None: unknown
    seconds: float = 0.0  # since training began until the run stopped, all launches together
    diverged: dict[str, float] | None = None  # in which epoch, by which step, at which learning rate

    def count(self, taken: Taken) -> None:
        """Add what was counted to the open epoch."""
        self.open_epoch = [a + b for a, b in zip(self.open_epoch, taken.totals, strict=True)]
        if self.counted is not None:
            total = Count(*self.counted) + taken.counted
            self.counted = [total.clips, total.mixed]

    def close_epoch(self) -> None:
        """Begin another epoch."""
        self.open_epoch, self.counted = [0.0, 0.0, 0.0], [0, 0]

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

    probabilities: float32 [B, classes]. log_probabilities: float32 [B, classes], no infinite ones. parts: int64 [B] for
    each modality, the class that the network's own unimodal part says, where it has such parts. uncertainty: [B], of
    methods that have one.
    """

    probabilities: Tensor
    log_probabilities: Tensor
    parts: dict[str, Tensor]
    uncertainty: Tensor | None


class Run:
    """A configured method under one seed while it trains.

    store: the confidence store that the run feeds, if its method is a unimodal network.
    trains_on: the part of train whose clips it is trained on, and which alone count in its training's numbers.
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
        store: ConfidenceStore | None,
        width: int = WIDTH,
    ) -> None:
        self.spec = spec
        self.seed = seed
        self.store = store
        self.method = spec.method(spec.config, classes=classes, seed=seed)
        self.method.width = width
        self.trains_on = _checked_part(self.method, spec.text)
        # Only the seed decides the initialization, so a run is the same alone and among others.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.method.build_model()
        _check_network(self.method, model, spec.text)
        if engine.batch_norm == "global":
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
        self.forks: dict[str, Engine] = {}  # that `before_epoch` has made, until it is done
        self._saved_forks: dict[str, dict[str, Any]] = {}  # those of the checkpoint that was gone on from
        self._saved_buffers: dict[str, Tensor] = {}  # theirs
        self.learning_rate = 0.0  # of the last step
        self.tally = Tally.zero(device)
        self._counted = Count()  # of this rank, since last taken
        self._epoch = 0  # of the last step
        self._logged: dict[str, list[Tensor | float]] = {}
        self._unrecorded: list[tuple[Tensor, Tensor, Tensor, int]] = []
        self._is_checked = False  # what the method says of a batch

    @property
    def name(self) -> str:
        """The run's name and seed, as files and tables key it."""
        return f"{self.spec.name}-seed{self.seed}"

    @property
    def key(self) -> dict[str, Any]:
        """By which records in metrics.jsonl are told apart."""
        return {"run": self.spec.name, "method": self.spec.method.name, "seed": self.seed}

    @property
    def is_training(self) -> bool:
        """Whether the run takes part in the next step."""
        return not self.progress.finished

    def describe(self) -> dict[str, Any]:
        """What runs.json says of it, for whoever reads tables: method, network, what it reads and feeds, options,
        where it was published, and what its curves mean."""
        return {
            "method": self.spec.method.name,
            "network": _network_text(self.method),
            "modalities": list(self.method.modalities),
            "confidence_of": self.method.confidence_of,
            "trains_on": self.trains_on,
            "options": dataclasses.asdict(self.spec.config),
            "paper": self.method.paper,
            "curves": self.method.curves,
            "legends": dict(self.method.legends),
        }

    def train_step(self, batch: Batch, *, epoch: int, epochs: int, total_steps: int) -> None:
        """One optimizer step on this rank's slice of a global batch, tallied and kept for the store."""
        clock = Clock(epoch, self.progress.step, epochs)
        self._epoch = epoch
        self.learning_rate = learning_rate_at(self._optimizer, clock.step, total_steps=total_steps, epoch=epoch)
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
        self._count(batch, step.outputs, step.losses)

    @torch.no_grad()
    def evaluate(self, batch: Batch, *, clock: Clock) -> None:
        """Tally an evaluation batch, and keep it for the store."""
        outputs = self.method.forward(self.engine, batch)
        self._count(batch, outputs, self.method.loss(outputs, batch, clock))

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """What the network in evaluation mode makes of a batch."""
        outputs = self.method.forward(self.engine, batch)
        probabilities = self.method.probabilities(outputs)
        uncertainty = self.method.uncertainty(outputs)
        return Prediction(
            probabilities=probabilities["prediction"].float(),
            # The logarithm of 0 is as low as can be, and a number.
            log_probabilities=self.method.log_probabilities(outputs).clamp(min=torch.finfo(torch.float32).min).float(),
            parts={name: probabilities[name].argmax(dim=1) for name in MODALITIES if name in probabilities},
            uncertainty=None if uncertainty is None else uncertainty.float(),
        )

    def _count(self, batch: Batch, outputs: Outputs, losses: Tensor) -> None:
        with torch.no_grad():
            probabilities = self.method.probabilities(outputs)["prediction"]
            correct = probabilities.argmax(dim=1) == batch.label
            confidence = true_label_confidence(probabilities, batch.label)
            self.tally.add(losses.detach(), correct, confidence)
            self._counted += Count.of(batch.rows.numpy())
            if self.store is not None:
                self._unrecorded.append((batch.clip_id, confidence, correct, batch.position))

    def kept_on_device(self) -> list[Tensor]:
        """What this rank has counted and kept since last taken, float64 tensors: logged means, and of each batch.

        Of a batch kept for the store clip ids, confidences and correctness one after the other, [3 B]; all are exact in
        float64. One piece of a transfer, see `collect_tallies`.
        """
        means = [torch.stack([self._on_device(value) for value in values]).mean() for values in self._logged.values()]
        logged = [torch.stack(means)] if means else []
        return logged + [torch.cat([part.double() for part in parts]) for *parts, _ in self._unrecorded]

    def take_counted(self) -> Count:
        """Which clips this rank has counted since last asked."""
        counted, self._counted = self._counted, Count()
        return counted

    def _on_device(self, value: Tensor | float) -> Tensor:
        sums = self.tally.sums
        return value.to(sums) if isinstance(value, Tensor) else torch.full_like(sums[0], value)

    def settle(self, sums: Sequence[float], kept: Sequence[Tensor]) -> Taken:
        """Take up what has come from the device.

        sums: the tally and the words of what was counted, over all ranks. kept: as `kept_on_device` gave it.

        Where a loss or confidence is not finite on any rank, the sums say so on all, and the run is marked diverged:
        its open epoch is discarded.
        """
        *totals, not_finite = sums[:-3]
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
        return Taken(totals, log, Count.from_words(*sums[-3:]))

    def fork(self, name: str, part: Callable[[nn.Module], nn.Module]) -> Engine:
        """A fork of the engine, part of the run's state until `forget_forks`; as it was saved, where it was. A
        collective.
        """
        fork = self.forks[name] = self.engine.fork(part)
        if name in self._saved_forks:
            fork.load_state_dict(self._saved_forks.pop(name))
            for buffer_name, buffer in _float_buffers(fork):
                buffer.copy_(self._saved_buffers[_of_fork(name, buffer_name)])
        return fork

    def forget_forks(self) -> None:
        """They have done what they were made for."""
        self.forks.clear()
        self._saved_forks.clear()
        self._saved_buffers.clear()

    def release(self) -> None:
        """Give up what only training needs: a run that has stopped costs nothing more. Its network stays."""
        self.engine.release()
        self._logged.clear()

    def _diverge(self) -> None:
        self.progress.finished = DIVERGED
        self.progress.diverged = {
            "epoch": self._epoch,
            "step": self.progress.step,
            "learning_rate": self.learning_rate,
        }
        self._unrecorded.clear()
        if self.store is not None:
            self.store.discard()

    def state_dict(self) -> dict[str, Any]:
        """All of the run; a finished one needs its network no more (the best is in a file of its own)."""
        progress = {name: getattr(self.progress, name) for name in Progress.__slots__}
        if not self.is_training:
            return {"progress": progress}
        state = {"progress": progress, "engine": self.engine.state_dict(), "method": self.method.state_dict()}
        if self.forks:
            state["forks"] = {name: fork.state_dict() for name, fork in self.forks.items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        # An avbench that did not count leaves an epoch of which it is not known which clips are done.
        is_unknown = "counted" not in state["progress"] and state["progress"]["open_epoch"][-1] > 0
        self.progress = Progress(**state["progress"])
        if is_unknown:
            self.progress.counted = None
        if "engine" in state:
            self.engine.load_state_dict(state["engine"])
            (group,) = state["engine"]["optimizer"]["param_groups"]
            self.learning_rate = float(group["lr"])
            self.method.load_state_dict(state["method"])
            self._saved_forks = dict(state.get("forks", {}))

    def buffers(self) -> dict[str, Tensor]:
        """Batch norm's buffers of this rank, by name; those of forks too."""
        own = dict(_float_buffers(self.engine))
        of_forks = {
            _of_fork(name, buffer_name): buffer
            for name, fork in self.forks.items()
            for buffer_name, buffer in _float_buffers(fork)
        }
        return {**own, **of_forks}

    def load_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        """Take up what `buffers` gave; those of forks once they are made again."""
        own = dict(_float_buffers(self.engine))
        for name, buffer in buffers.items():
            if name in own:
                own[name].copy_(buffer)
            else:
                self._saved_buffers[name] = buffer


def _float_buffers(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    return ((name, buffer) for name, buffer in engine.model.named_buffers() if buffer.is_floating_point())


def _of_fork(fork: str, buffer: str) -> str:
    return f"fork {fork}: {buffer}"


def _checked_part(method: Method, text: str) -> Part:
    """Which part of train a method is trained on. Raises UsageError where it names none."""
    part = method.trains_on
    if part not in get_args(Part):
        raise UsageError(f"--methods {text}: trains_on is {part!r}, expected one of {', '.join(get_args(Part))}")
    return part


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
    logarithms = method.log_probabilities(step.outputs)
    _check_shape(logarithms, (*clips, method.classes), "log_probabilities", "one number a clip and class", text)
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
