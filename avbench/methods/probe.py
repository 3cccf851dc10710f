"""Gradient-Blending's measuring: branches of a network, each trained alone for some epochs, and their losses.

It may be left between any two batches and gone on with: what it has done so far is in its state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from avbench.batch import Batch
from avbench.distributed import current_world, gather_objects
from avbench.engine.plain import Engine
from avbench.methods.base import Part, RunView, global_mean


@dataclass(frozen=True, slots=True)
class Losses:
    """Mean losses of one branch at one moment, on the clips that estimates train on and on those held out."""

    estimation: float
    held_out: float

    @property
    def overfitting(self) -> float:
        """O: how much higher the loss is on clips that were not trained on."""
        return self.held_out - self.estimation


class Probe:
    """One estimate's passes over data, as far as they have come.

    epochs: that each branch is trained for. fills: whether batch norm's statistics are filled by a pass first: before a
    run's first step they are 0 and 1, those of no data, so losses in evaluation mode would be those of another network
    than the one that trains, and their fall would be taken for a gain.
    """

    def __init__(self, *, epochs: int, fills: bool) -> None:
        self.epochs = epochs
        self.fills = fills
        self.done = 0  # passes
        self.batch = 0  # the next one of the pass under way
        self._measured: list[list[float]] = []  # by measuring pass the branches' mean losses
        # Of the measuring pass under way, of this rank: losses of each branch, and clips.
        self._sums: Tensor | None = None

    def go_on(self, run: RunView, branches: Mapping[str, Engine]) -> tuple[dict[str, Losses], dict[str, Losses]]:
        """Make the passes that are left; each branch's losses before and after its training. A collective.

        branches: as they were when this probe's state was saved; of a new one, forks of the run's network.
        """
        passes = self._passes()
        for make in passes[self.done :]:
            make(run, branches)
            self.done, self.batch = self.done + 1, 0
        names, sides = list(branches), [self._measured[:2], self._measured[2:]]
        before, after = ({name: Losses(*of) for name, *of in zip(names, *side, strict=True)} for side in sides)
        return before, after

    def state_dict(self) -> dict[str, Any]:
        """How far it has come; the same on every rank. A collective."""
        return {
            "epochs": self.epochs,
            "fills": self.fills,
            "done": self.done,
            "batch": self.batch,
            "measured": [list(of_pass) for of_pass in self._measured],
            "sums": gather_objects([] if self._sums is None else self._sums.tolist()),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Probe:
        """The probe that `state_dict` was of. On another number of ranks each takes up the sums of some of the old."""
        probe = cls(epochs=state["epochs"], fills=state["fills"])
        probe.done, probe.batch = state["done"], state["batch"]
        probe._measured = [list(of_pass) for of_pass in state["measured"]]
        world = current_world()
        own = [sums for rank, sums in enumerate(state["sums"]) if rank % world.size == world.rank and sums]
        if own:
            probe._sums = torch.tensor(own, dtype=torch.float64).sum(dim=0)
        return probe

    def _passes(self) -> list[Callable[[RunView, Mapping[str, Engine]], None]]:
        measuring = [_average, self._measure("estimation"), self._measure("held-out")]
        training = [self._train(ahead) for ahead in range(self.epochs)]
        return [*([self._fill] if self.fills else []), *measuring, *training, *measuring]

    def _fill(self, run: RunView, branches: Mapping[str, Engine]) -> None:
        """Let batch norm see a pass over the estimation part."""

        def look(branch: Engine) -> None:
            with torch.no_grad():
                branch.forward(batch)

        for batch in run.batches("estimation", epoch=0, training=False, first_batch=self.batch):
            run.each(_longest_first(branches), look)
            self.batch = batch.position + 1

    def _train(self, ahead: int) -> Callable[[RunView, Mapping[str, Engine]], None]:
        """An epoch of every branch on the estimation part, at the rates that the run itself is going to have."""

        def train(run: RunView, branches: Mapping[str, Engine]) -> None:
            epoch = run.clock.epoch + ahead
            first = run.clock.step + ahead * run.steps_per_epoch
            for batch in run.batches("estimation", epoch=epoch, training=True, first_batch=self.batch):
                # The part is smaller than train, so an epoch of it never outruns the run's own.
                rate = run.learning_rate_at(step=first + batch.position, epoch=epoch)

                def step(branch: Engine, batch: Batch = batch, rate: float = rate) -> None:
                    branch.set_learning_rate(rate)
                    for part in branch.micro_batches(batch):
                        losses = F.cross_entropy(branch.forward(part).logits, part.label, reduction="none")
                        branch.backward(global_mean(losses, part, branch))
                    branch.step()

                run.each(_longest_first(branches), step)
                self.batch = batch.position + 1

        return train

    def _measure(self, part: Part) -> Callable[[RunView, Mapping[str, Engine]], None]:
        """Mean losses of every branch on a part, in evaluation mode; the same on every rank."""

        def measure(run: RunView, branches: Mapping[str, Engine]) -> None:
            sums = torch.zeros(len(branches) + 1, dtype=torch.float64, device=run.engine.device)
            if self._sums is not None:
                sums += self._sums.to(sums)
            self._sums = sums

            def add(numbered: tuple[int, Engine]) -> None:
                number, branch = numbered
                with branch.evaluating(), torch.no_grad():
                    logits = branch.forward(batch).logits
                    sums[number] += F.cross_entropy(logits, batch.label, reduction="sum").double()

            for batch in run.batches(part, epoch=0, training=False, first_batch=self.batch):
                if len(batch):
                    sums[-1] += len(batch)
                    run.each(list(enumerate(branches.values())), add)
                self.batch = batch.position + 1
            *losses, clips = run.engine.mean(sums).tolist()
            # Where no clip of a part is whole there is no loss; `blend` then keeps the weights.
            self._measured.append([loss / clips if clips else float("nan") for loss in losses])
            self._sums = None

        return measure


def _average(run: RunView, branches: Mapping[str, Engine]) -> None:
    """Batch norm's statistics over ranks, which measuring wants; a pass of its own, so that it is done once."""
    for branch in branches.values():
        branch.average_buffers()


def _longest_first(branches: Mapping[str, Engine]) -> list[Engine]:
    return sorted(branches.values(), key=lambda branch: len(branch.parameters), reverse=True)
