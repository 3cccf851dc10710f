"""The verbs of an engine, in one process."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from avbench.batch import Batch, Outputs
from avbench.distributed import World, current_world, sum_over_ranks
from avbench.engine.compiled import CompiledNetwork
from avbench.engine.config import OptimizerConfig
from avbench.engine.optimizer import build_optimizer, load_state
from avbench.engine.random_state import random_state, set_random_state
from avbench.errors import UsageError


class Engine:
    """A network and its optimizer in one process; the other engines are the same over many.

    model: float32 network, `forward(batch) -> Outputs`. dtype: what it computes in: bfloat16 is autocast, float64
    converts the network. accumulation: micro-batches a step, see `micro_batches`. compiles: the network's forward and
    backward in training, when it is first called.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: OptimizerConfig,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        accumulation: int = 1,
        compiles: bool = False,
    ) -> None:
        self.world: World = current_world()
        self.device = device
        self.dtype = dtype
        self.accumulation = accumulation
        self._config = optimizer
        if dtype == torch.float64:
            model = model.double()
        self.model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = build_optimizer(optimizer, self.parameters)
        self._frozen: set[nn.Parameter] = set()
        self._callable: nn.Module = CompiledNetwork(self.model) if compiles else self.model
        self._is_cutting = False  # whether forward and backward see micro-batches, of which the next is
        self._is_first = self._is_last = True

    def micro_batches(self, batch: Batch) -> Iterator[Batch]:
        """This rank's slice in the parts that one step's gradients are accumulated over, for a forward and backward of
        each; before the step there is nothing else to do. One part, the slice itself, unless accumulation is asked for.

        All ranks get the same number of parts, no more than a rank holds clips on average, rounded up. So a part may be
        empty on some ranks, never on all: batch norm over the global batch always has clips. A collective: every rank
        goes through it to its end.
        """
        parts = self._cut(batch)
        self._is_cutting = True
        try:
            for number, part in enumerate(parts):
                self._is_first, self._is_last = number == 0, number == len(parts) - 1
                yield part
        finally:
            self._is_cutting, self._is_first, self._is_last = False, True, True

    def forward(self, batch: Batch) -> Outputs:
        """The network's outputs; in training one call a backward. Outputs are float32 (float64 in a float64 run)."""
        module = self._callable if self.model.training else self.model
        with self._autocast(), self._synchronization():
            return module(batch)

    def backward(self, loss: Tensor) -> None:
        """Gradients of `loss`, averaged over ranks, into `.grad`; of a step's micro-batches, added up.

        Raises UsageError where gradients are to be accumulated and the method takes no notice.
        """
        if self.accumulation > 1 and not self._is_cutting:
            raise UsageError(
                f"--accumulation is {self.accumulation}, and one of the methods trains on its whole slice at once: its "
                f"train_step has to go over engine.micro_batches(batch); until then leave --accumulation out"
            )
        if self._is_first:
            self._clear_grads()
        self._differentiate(loss)
        if self._is_last:
            self._complete_grads()

    def step(self) -> None:
        """Clip where configured, then one optimizer step. Frozen parameters stay exactly as they are, once."""
        for parameter in self._frozen:
            parameter.grad = None
        self._update()
        self._frozen.clear()

    def read_grads(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """These parameters' averaged gradients, between backward and step, to be read and not written to.

        A collective under ZeRO: every rank calls it on the same parameters in the same order.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if len(gradients) < len(parameters) or not self._frozen.isdisjoint(parameters):
            raise ValueError("gradients are read after backward, of parameters that are not frozen")
        return gradients

    def update_grads(self, parameters: Sequence[nn.Parameter], fn: Callable[[list[Tensor]], Sequence[Tensor]]) -> None:
        """Replace these parameters' averaged gradients by `fn` of them, between backward and step.

        Every rank calls it on the same parameters in the same order (it may be a collective).
        """
        gradients = self.read_grads(parameters)
        for gradient, rewritten in zip(gradients, fn(gradients), strict=True):
            gradient.copy_(rewritten)  # in place: under DDP the gradients are views of its buckets

    def loss_grads(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Gradients of one loss alone, averaged over ranks, leaving `.grad` and the graph as they are.

        Of one micro-batch's loss, that micro-batch's: for the step's, they are added up over `micro_batches`.
        """
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        return [self.mean(gradient) for gradient in gradients]

    def freeze(self, parameters: Iterable[nn.Parameter]) -> None:
        """Keep these parameters, and their optimizer state, exactly as they are in the next step."""
        self._frozen.update(parameters)

    @property
    def rescales_gradients(self) -> bool:
        """Whether the optimizer divides a constant factor of the gradients out again, as Adam does."""
        return self._config.optimizer in ("adam", "adamw")

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean of a tensor over ranks, the same on every rank. A collective."""
        return sum_over_ranks(tensor) / self.world.size

    def snapshot(self) -> dict[str, Any]:
        """A copy of all that training changes: parameters, optimizer, buffers, torch's random state.

        A collective under ZeRO, as `state_dict` is.
        """
        return copy.deepcopy({**self.state_dict(), "random": random_state(self.device)})

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a snapshot."""
        state = copy.deepcopy(snapshot)
        set_random_state(state.pop("random"), self.device)
        self.load_state_dict(state)

    def fork(self, part: Callable[[nn.Module], nn.Module]) -> Engine:
        """An engine over a copy of a part of the network, its optimizer in the state that it has here.

        part: of the network, a module that shares its parameters: itself, or one made of some of its modules. What the
        fork does leaves this engine as it is: so a method tries out what it does not mean to keep. A collective. It is
        not compiled: it does not live long enough.
        """
        original = part(self.model)
        fork = self._anew(copy.deepcopy(original))
        whole = self._optimizer_state()
        number_of = {parameter: number for number, parameter in enumerate(self.parameters)}
        numbers = [number_of[parameter] for parameter in original.parameters() if parameter.requires_grad]
        state = {number: whole["state"][mine] for number, mine in enumerate(numbers) if mine in whole["state"]}
        (group,) = whole["param_groups"]
        # Copied: torch's load_state_dict keeps the very tensors where it can.
        fork._load_optimizer_state(
            copy.deepcopy({"state": state, "param_groups": [{**group, "params": list(range(len(numbers)))}]})
        )
        return fork

    def _anew(self, model: nn.Module) -> Engine:
        return Engine(
            model, optimizer=self._config, device=self.device, dtype=self.dtype, accumulation=self.accumulation
        )

    # What follows is the trainer's, not a method's.

    def set_learning_rate(self, rate: float) -> None:
        """For the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def release(self) -> None:
        """Free the optimizer's state and the gradients: no step is to follow. The network stays."""
        self.optimizer.state.clear()
        self.optimizer.zero_grad(set_to_none=True)
        self._callable = self.model  # under DDP, its buckets are a copy of all gradients

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode. Gradients are the caller's to leave out: that is a matter of threads, not of networks."""
        self.model.eval()
        try:
            yield
        finally:
            self.model.train()

    def average_buffers(self) -> None:
        """Make batch norm's running statistics the mean over ranks, as evaluating and saving want. A collective."""
        if self.world.size == 1:
            return
        for buffer in self.model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(self.mean(buffer))

    def state_dict(self) -> dict[str, Any]:
        """Model and optimizer, whole, in torch's own form: the same under every engine and on any number of ranks.

        The same on every rank except for batch norm's buffers between averagings. A collective under ZeRO.
        """
        return {"model": self.model.state_dict(), "optimizer": self._optimizer_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, of whichever engine. Every rank calls it with the same."""
        self.model.load_state_dict(state["model"])
        self._load_optimizer_state(state["optimizer"])

    # What follows differs between engines.

    def _optimizer_state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def _load_optimizer_state(self, state: dict[str, Any]) -> None:
        load_state(self.optimizer, state)

    def _synchronization(self) -> AbstractContextManager[Any]:
        """What the forward and backward of a micro-batch run in."""
        return nullcontext()

    def _clear_grads(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def _differentiate(self, loss: Tensor) -> None:
        with self._synchronization():
            loss.backward()

    def _complete_grads(self) -> None:
        """A zero gradient for parameters that took no part."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def _update(self) -> None:
        if self._config.clip_norm > 0:
            nn.utils.clip_grad_norm_(self.parameters, self._config.clip_norm)
        self.optimizer.step()

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def _cut(self, batch: Batch) -> list[Batch]:
        if self.accumulation == 1:
            return [batch]
        if batch.global_valid is None:
            raise ValueError("the trainer counts a batch's valid clips over all ranks before a method sees it")
        # The fullest rank has at least the mean number of clips, so each of its parts has one. Of several ranks the
        # processor waits for this one number.
        clips = len(batch) if self.world.size == 1 else int(batch.global_valid)
        count = max(1, min(self.accumulation, math.ceil(clips / self.world.size)))
        bounds = [number * len(batch) // count for number in range(count + 1)]
        return [batch.select(slice(first, end)) for first, end in pairwise(bounds)]
