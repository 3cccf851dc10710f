"""DeepSpeed behind the verbs: ZeRO 0, and ZeRO 1 and 2, whose optimizer state lies in parts on the ranks.

DeepSpeed is given a torch optimizer and float32 networks; bf16 is torch's autocast, as under the other engines. Several
of its engines live in one process and share the process group that avbench has joined.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from avbench.batch import Batch, Outputs
from avbench.distributed import gather_objects, world_from_environment
from avbench.engine.config import OptimizerConfig
from avbench.engine.optimizer import load_state
from avbench.engine.plain import Engine


def deepspeed_engine(
    model: nn.Module,
    *,
    optimizer: OptimizerConfig,
    device: torch.device,
    dtype: torch.dtype,
    accumulation: int,
    settings: Mapping[str, Any],
) -> DeepSpeedEngine:
    """The engine of the ZeRO stage that the settings (as `EngineConfig.settings` gives them) name. A collective."""
    kind = PartitionedEngine if settings["zero_optimization"]["stage"] > 0 else DeepSpeedEngine
    return kind(model, optimizer=optimizer, device=device, dtype=dtype, accumulation=accumulation, settings=settings)


class DeepSpeedEngine(Engine):
    """DeepSpeed at ZeRO stage 0: whole gradients and optimizer on every rank, averaged after backward."""

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: OptimizerConfig,
        device: torch.device,
        dtype: torch.dtype,
        accumulation: int,
        settings: Mapping[str, Any],
    ) -> None:
        _join_process_group(device)
        super().__init__(model, optimizer=optimizer, device=device, dtype=dtype, accumulation=accumulation)
        self._settings = settings
        # DeepSpeed reads parameters as bytes, which channels-last memory does not allow.
        self.model.to(memory_format=torch.contiguous_format)
        # Not the network itself: DeepSpeed hangs hooks on what it is given, and forks copy the network.
        self._deepspeed, *_ = _deepspeed(device).initialize(
            model=_Autocasting(self.model, self._autocast),
            optimizer=self.optimizer,
            config=_complete(settings),
            dist_init_required=False,
        )
        self._callable = self._deepspeed
        if not self._deepspeed.zero_optimization():  # which lays parameters end to end
            self.model.to(memory_format=torch.channels_last)

    def forward(self, batch: Batch) -> Outputs:
        """As of every engine. Autocast begins within DeepSpeed, which would end one from outside."""
        return self._callable(batch) if self.model.training else super().forward(batch)

    def release(self) -> None:
        """Free the optimizer's state and the gradients: no step is to follow. The network stays."""
        self._deepspeed.destroy()
        super().release()
        self.model.zero_grad(set_to_none=True)
        del self._deepspeed

    def _anew(self, model: nn.Module) -> Engine:
        return type(self)(
            model,
            optimizer=self._config,
            device=self.device,
            dtype=self.dtype,
            accumulation=self.accumulation,
            settings=self._settings,
        )

    def _differentiate(self, loss: Tensor) -> None:
        self._deepspeed.set_gradient_accumulation_boundary(self._is_last)
        # The loss of each micro-batch is its share of the step's mean already.
        self._deepspeed.backward(loss, scale_wrt_gas=False)

    def _update(self) -> None:
        self._deepspeed.step()


@dataclass(frozen=True, slots=True)
class _Fragment:
    """What this rank's partition holds of a parameter.

    number: the parameter's. first, end: which of its elements, in their order. offset: of the first in the partition.
    values: a view of the partition, which the optimizer steps as if it were a parameter.
    """

    number: int
    first: int
    end: int
    offset: int
    values: nn.Parameter

    def of(self, partition: Tensor) -> Tensor:
        """This fragment of a tensor that lies as the partition does."""
        return partition[self.offset : self.offset + self.end - self.first]


class PartitionedEngine(DeepSpeedEngine):
    """DeepSpeed at ZeRO stage 1 or 2: each rank holds and steps an equal part of all parameters laid end to end.

    DeepSpeed hands the optimizer its part as one tensor. Here the optimizer is given that tensor's fragments, one a
    parameter, instead: so a frozen parameter's state stays, steps are counted for each, and what is saved is what the
    other engines save.

    Reading gradients gathers all of them, once a step however often they are read; rewriting them is local. The cost,
    measured with OGM-GE (which rewrites nearly all): benchmarks/engines.py.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: OptimizerConfig,
        device: torch.device,
        dtype: torch.dtype,
        accumulation: int,
        settings: Mapping[str, Any],
    ) -> None:
        super().__init__(
            model, optimizer=optimizer, device=device, dtype=dtype, accumulation=accumulation, settings=settings
        )
        self._zero = self._deepspeed.optimizer
        self._partition: Tensor = self._zero.single_partition_of_fp32_groups[0]
        self._fragments = self._cut_partition()
        self._reduction = ExitStack()  # of a step's gradients, when closed
        self._gathered: list[Tensor] | None = None  # this step's gradients, whole, by number of their parameter
        self._number_of = {parameter: number for number, parameter in enumerate(self.parameters)}
        (group,) = self.optimizer.param_groups
        group["params"] = [fragment.values for fragment in self._fragments]
        self.optimizer.register_step_pre_hook(lambda *_: self._hand_out_grads())

    def read_grads(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """These parameters' averaged gradients; a collective the first time in a step."""
        local = self._zero.averaged_gradients.get(0)
        if local is None or not self._frozen.isdisjoint(parameters):
            raise ValueError("gradients are read after backward, of parameters that are not frozen")
        if self._gathered is None:
            self._gathered = self._whole(torch.cat([gradient.flatten() for gradient in local]))
        return [self._gathered[self._number_of[parameter]] for parameter in parameters]

    def update_grads(self, parameters: Sequence[nn.Parameter], fn: Callable[[list[Tensor]], Sequence[Tensor]]) -> None:
        """Replace these parameters' averaged gradients by `fn` of them; every rank keeps its part of the result."""
        gradients = self.read_grads(parameters)
        for gradient, rewritten in zip(gradients, fn(gradients), strict=True):
            gradient.copy_(rewritten)
        whole = {self._number_of[each]: gradient for each, gradient in zip(parameters, gradients, strict=True)}
        for fragment, local in self._local_grads():
            if fragment.number in whole:
                local.copy_(whole[fragment.number].flatten()[fragment.first : fragment.end].view_as(local))

    def release(self) -> None:
        """Free the optimizer's state and the gradients: no step is to follow. The network stays."""
        super().release()
        self._gathered = None
        self._fragments.clear()
        del self._zero, self._partition

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, of whichever engine. Every rank calls it with the same."""
        self.model.load_state_dict(state["model"])
        self._zero.refresh_fp32_params()  # what is stepped is a copy of what computes
        self._load_optimizer_state(state["optimizer"])

    def _optimizer_state(self) -> dict[str, Any]:
        """The whole optimizer's state as torch has it, gathered: one collective for each kind of tensor it keeps."""
        held = {fragment.number: self.optimizer.state.get(fragment.values, {}) for fragment in self._fragments}
        outlines = {
            number: {name: _PIECE if _is_piece(name, value) else value for name, value in state.items()}
            for number, state in held.items()
        }
        states: dict[int, dict[str, Any]] = {}
        for of_rank in gather_objects(outlines):  # a parameter that two ranks share is in the same state on both
            states |= {number: dict(state) for number, state in of_rank.items() if state}
        for name in sorted({name for state in states.values() for name, value in state.items() if value == _PIECE}):
            local = torch.zeros_like(self._partition, requires_grad=False)
            for fragment in self._fragments:
                if name in held[fragment.number]:
                    fragment.of(local).copy_(held[fragment.number][name])
            for number, whole in enumerate(self._whole(local)):
                if name in states.get(number, {}):
                    states[number][name] = whole.clone(memory_format=_memory_format(whole))
        (group,) = self.optimizer.param_groups
        return {
            "state": dict(sorted(states.items())),
            "param_groups": [{**group, "params": list(range(len(self.parameters)))}],
        }

    def _load_optimizer_state(self, state: dict[str, Any]) -> None:
        pieces = {
            position: {
                name: value.flatten()[fragment.first : fragment.end].clone() if _is_piece(name, value) else value
                for name, value in state["state"][fragment.number].items()
            }
            for position, fragment in enumerate(self._fragments)
            if fragment.number in state["state"]
        }
        (group,) = state["param_groups"]
        params = list(range(len(self._fragments)))
        load_state(self.optimizer, {"state": pieces, "param_groups": [{**group, "params": params}]})

    def _differentiate(self, loss: Tensor) -> None:
        """Gradients stay on their rank until the step's last backward; then they are reduced in the parameters' order.

        Left alone, DeepSpeed reduces them in buckets as backward yields them, and trusts that all ranks' do so in one
        order. A rank without clips yields those of batch norm in another (its weight's and bias's change places), and
        one rank's gradients of a weight would be added to another's of a bias, without a word.
        """
        if self._is_first:
            self._gathered = None
            self._reduction.enter_context(self._deepspeed.coalesce_grad_reduction())
        self._deepspeed.backward(loss, scale_wrt_gas=False)
        if self._is_last:
            super()._complete_grads()  # on every rank, or they would be reduced with others
            self._reduction.close()

    def _complete_grads(self) -> None:
        """Done before they were reduced."""

    def _update(self) -> None:
        for fragment, local in self._local_grads():
            if self.parameters[fragment.number] in self._frozen:
                local.zero_()  # it counts nowhere in the norm that is clipped
        super()._update()
        self._gathered = None
        self.optimizer.zero_grad(set_to_none=True)
        if self._zero.overflow:
            # DeepSpeed leaves a step out where the norm to clip is not finite. Under every other engine the network is
            # not finite afterwards, and the run is seen to have diverged: so it is here.
            for values in (self._partition, *self.parameters):
                values.data.fill_(float("nan"))

    def _cut_partition(self) -> list[_Fragment]:
        """This rank's fragments, in the order of their parameters."""
        size = len(self._partition)
        start = self.world.rank * size
        fragments = []
        for number, (parameter, offset) in enumerate(zip(self.parameters, self._offsets(), strict=True)):
            first, end = max(start - offset, 0), min(start + size - offset, parameter.numel())
            if first < end:
                inside = offset + first - start
                values = nn.Parameter(self._partition.detach()[inside : inside + end - first])
                fragments.append(_Fragment(number, first, end, inside, values))
        return fragments

    def _offsets(self) -> list[int]:
        """Where each parameter begins among all laid end to end."""
        (offsets,) = self._zero.round_robin_bit16_offsets
        return offsets

    def _local_grads(self) -> list[tuple[_Fragment, Tensor]]:
        """DeepSpeed's averaged gradient of each fragment; its list ends with what pads the partition."""
        return list(zip(self._fragments, self._zero.averaged_gradients[0], strict=False))

    def _hand_out_grads(self) -> None:
        """Before the optimizer steps: to each fragment its part of the gradient that DeepSpeed gave the partition."""
        assert self._partition.grad is not None, "DeepSpeed steps its optimizer with gradients"
        for fragment in self._fragments:
            is_frozen = self.parameters[fragment.number] in self._frozen
            fragment.values.grad = None if is_frozen else fragment.of(self._partition.grad)

    def _whole(self, partition: Tensor) -> list[Tensor]:
        """Every parameter's whole tensor, from each rank's partition of them; views of one. A collective."""
        flat = partition.new_empty(self.world.size * len(partition))
        dist.all_gather_into_tensor(flat, partition)
        return [
            flat[offset : offset + parameter.numel()].view(parameter.shape)
            for parameter, offset in zip(self.parameters, self._offsets(), strict=True)
        ]


class _Autocasting(nn.Module):
    """A network that computes in the engine's precision."""

    def __init__(self, network: nn.Module, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        super().__init__()
        self.network = network
        self._autocast = autocast

    def forward(self, batch: Batch) -> Outputs:
        with self._autocast():
            return self.network(batch)


_PIECE = "a piece of a tensor"


def _is_piece(name: str, value: Any) -> bool:
    """Whether a value of an optimizer's state has an element for each of the parameter's; torch, too, tells by name."""
    return isinstance(value, Tensor) and name != "step"


def _memory_format(tensor: Tensor) -> torch.memory_format:
    """What the other engines keep a parameter of this shape in."""
    return torch.channels_last if tensor.ndim == 4 else torch.contiguous_format


def _complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with what avbench says itself."""
    zero = dict(settings["zero_optimization"])
    if zero["stage"] > 0:
        # A norm that nothing is clipped by costs a reduction and a synchronization.
        zero["compute_grad_norm"] = settings["gradient_clipping"] > 0
    return {
        **settings,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # DeepSpeed wants sizes, for its own reports only: avbench cuts batches and says where a step ends.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # It synchronizes the device at every step.
        "timers": {"throughput": {"enabled": False}},
    }


def _deepspeed(device: torch.device) -> ModuleType:
    """The module, imported on first use, quiet, and without compiling anything.

    On a CPU it would compile a shared-memory reduction at its first start (half a minute to two), which it uses in
    inference only; and a run that is killed meanwhile leaves a lock in TORCH_EXTENSIONS_DIR on which all later ones
    wait for ever. It asks its table of operators whether that one can be built: the table here says no.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)  # it would take a GPU for granted where there is one
    import deepspeed
    import deepspeed.ops

    if device.type == "cpu":
        vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
    # It would clone the group: one more communicator, which knows nothing of the timeout that avbench has set.
    deepspeed.utils.groups._WORLD_GROUP = dist.group.WORLD
    deepspeed.utils.logger.setLevel(logging.WARNING)
    if _is_worth_saying not in deepspeed.utils.logger.filters:
        deepspeed.utils.logger.addFilter(_is_worth_saying)
    return deepspeed


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Not that torch's optimizers are untested with ZeRO: avbench's tests do that."""
    return "untested optimizer" not in record.getMessage()


def _join_process_group(device: torch.device) -> None:
    """DeepSpeed uses the process group that was joined; alone, it wants one too."""
    world = world_from_environment()
    os.environ.setdefault("LOCAL_RANK", str(world.local_rank))  # which srun does not set
    if dist.is_initialized():
        return
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=dist.HashStore(),
        rank=0,
        world_size=1,
        device_id=device if on_gpu else None,
    )
    atexit.register(dist.destroy_process_group)
