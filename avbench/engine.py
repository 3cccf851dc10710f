"""Plain training and DDP behind the same few verbs; with distributed.py the only importer of torch.distributed.

A method calls the verbs and never knows which engine it runs under. Under each, gradients that a method reads or
rewrites are already averaged over ranks, and every parameter has one (zero where it took no part).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from avbench.batch import Batch, Outputs
from avbench.distributed import World, current_world, sum_over_ranks
from avbench.errors import UsageError

Precision = Literal["auto", "float32", "bfloat16", "float64"]


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and schedule; the defaults are those of OGM-GE's published code (methods share one set).

    The learning rate is never rescaled by batch or world size.
    """

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 1e-4
    schedule: Literal["step", "cosine", "one-cycle", "constant"] = "step"
    """step: times `decay` after every `decay_epochs`; cosine: to 0; one-cycle: linear up over `warmup`, then cosine."""
    decay_epochs: int = 70
    decay: float = 0.1
    warmup: float = 0.3
    """Share of all steps in which one-cycle rises."""
    clip_norm: float = 0.0
    """Largest norm of a run's whole gradient; 0: never clipped."""

    def __post_init__(self) -> None:
        for name, low in (("learning_rate", 0.0), ("momentum", 0.0), ("weight_decay", 0.0), ("clip_norm", 0.0)):
            if not getattr(self, name) >= low:
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}, expected a number >= {low:g}")
        if self.decay_epochs < 1:
            raise UsageError(f"decay-epochs is {self.decay_epochs}, expected at least 1")
        if not 0.0 <= self.warmup < 1.0:
            raise UsageError(f"warmup is {self.warmup}, expected a share of all steps in [0, 1)")

    def learning_rate_at(self, step: int, *, total_steps: int, epoch: int) -> float:
        """The learning rate of an optimizer step, a pure function of where the run is (so nothing to checkpoint)."""
        progress = step / max(total_steps, 1)
        if self.schedule == "step":
            return self.learning_rate * self.decay ** (epoch // self.decay_epochs)
        if self.schedule == "cosine":
            return self.learning_rate * _half_cosine(progress)
        if self.schedule == "one-cycle":
            if progress < self.warmup:
                return self.learning_rate * (step + 1) / (self.warmup * total_steps + 1)
            return self.learning_rate * _half_cosine((progress - self.warmup) / (1.0 - self.warmup))
        return self.learning_rate

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The torch optimizer over these parameters."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                parameters, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
            )
        kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return kind(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)


def _half_cosine(progress: float) -> float:
    return 0.5 * (1.0 + float(torch.cos(torch.tensor(progress * torch.pi, dtype=torch.float64))))


def pick_precision(wanted: Precision, device: torch.device) -> Precision:
    """What networks compute in; `auto` is bfloat16 where the processor has instructions for it, else float32.

    Raises UsageError for bfloat16 on a GPU that has none. A CPU without them emulates bf16, slowly: allowed when named.
    """
    if wanted == "auto":
        return "bfloat16" if has_bfloat16(device) else "float32"
    if wanted == "bfloat16" and device.type == "cuda" and not has_bfloat16(device):
        raise UsageError("precision is bfloat16, which this GPU does not have; use --precision float32")
    return wanted


def has_bfloat16(device: torch.device) -> bool:
    """Whether the processor computes in bf16 by itself (AVX512-BF16 or AMX on x86)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class Engine:
    """A network and its optimizer in one process; `DDPEngine` is the same over many.

    model: float32 network, `forward(batch) -> Outputs`. dtype: what it computes in: bfloat16 is autocast, float64
    converts the network.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: OptimizerConfig,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.world: World = current_world()
        self.device = device
        self.dtype = dtype
        self._config = optimizer
        if dtype == torch.float64:
            model = model.double()
        self.model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = optimizer.build(self.parameters)
        self._frozen: set[nn.Parameter] = set()
        self._callable: nn.Module = self.model

    def forward(self, batch: Batch) -> Outputs:
        """The network's outputs; in training one call a backward. Outputs are float32 (float64 in a float64 run)."""
        module = self._callable if self.model.training else self.model
        with self._autocast():
            return module(batch)

    def backward(self, loss: Tensor) -> None:
        """Gradients of `loss`, averaged over ranks, into `.grad`."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._complete_grads()

    def step(self) -> None:
        """Clip where configured, then one optimizer step. Frozen parameters stay exactly as they are, once."""
        if self._config.clip_norm > 0:
            nn.utils.clip_grad_norm_(self.parameters, self._config.clip_norm)
        self.optimizer.step()
        self._frozen.clear()

    def read_grads(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """These parameters' averaged gradients, between backward and step, to be read and not written to.

        A collective under ZeRO: every rank calls it on the same parameters in the same order.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if len(gradients) < len(parameters):
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
        """Gradients of one loss alone, averaged over ranks, leaving `.grad` and the graph as they are."""
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
        """A copy of all that training changes: parameters, optimizer, buffers, torch's random state."""
        return copy.deepcopy({**self.state_dict(), "random": random_state(self.device)})

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a snapshot."""
        state = copy.deepcopy(snapshot)
        set_random_state(state.pop("random"), self.device)
        self.load_state_dict(state)

    def fork(self, part: Callable[[nn.Module], nn.Module]) -> Engine:
        """An engine over a copy of a part of the network, its optimizer in the state that it has here.

        part: of the network, a module that shares its parameters: itself, or one made of some of its modules. What the
        fork does leaves this engine as it is: so a method tries out what it does not mean to keep. A collective.
        """
        original = part(self.model)
        fork = self._anew(copy.deepcopy(original))
        for mine, copied in zip(original.parameters(), fork.model.parameters(), strict=True):
            if mine in self.optimizer.state:
                fork.optimizer.state[copied] = copy.deepcopy(self.optimizer.state[mine])
        return fork

    def _anew(self, model: nn.Module) -> Engine:
        return Engine(model, optimizer=self._config, device=self.device, dtype=self.dtype)

    # What follows is the trainer's, not a method's.

    def set_learning_rate(self, rate: float) -> None:
        """For the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def release(self) -> None:
        """Free the optimizer's state and the gradients: no step is to follow."""
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
        """Model and optimizer; the same on every rank except for batch norm's buffers between averagings."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _complete_grads(self) -> None:
        """No gradient for frozen parameters, a zero one for those that took no part."""
        for parameter in self.parameters:
            if parameter in self._frozen:
                parameter.grad = None
            elif parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)


class DDPEngine(Engine):
    """The engine over a process group: DistributedDataParallel, gradients averaged while backward runs."""

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: OptimizerConfig,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        leaves_unused_parameters: bool = False,
    ) -> None:
        super().__init__(model, optimizer=optimizer, device=device, dtype=dtype)
        self._leaves_unused_parameters = leaves_unused_parameters
        self._callable = DistributedDataParallel(
            self.model,
            device_ids=[device] if device.type == "cuda" else None,
            # Without it a branch that gets no gradient is not averaged, silently in the first step.
            find_unused_parameters=leaves_unused_parameters,
            # Per-rank batch norm, as published; the statistics are averaged before evaluating and saving.
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )

    def _anew(self, model: nn.Module) -> Engine:
        return DDPEngine(
            model,
            optimizer=self._config,
            device=self.device,
            dtype=self.dtype,
            leaves_unused_parameters=self._leaves_unused_parameters,
        )

    def backward(self, loss: Tensor) -> None:
        """Gradients of `loss`, averaged over ranks, into `.grad`."""
        # The buckets are the gradients: they are zeroed, not dropped, or DDP would allocate them again.
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()
        self._complete_grads()


def build_engine(
    model: nn.Module,
    *,
    optimizer: OptimizerConfig,
    device: torch.device,
    dtype: torch.dtype,
    leaves_unused_parameters: bool,
) -> Engine:
    """The engine that fits: plain in one process, DDP in several."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return DDPEngine(
            model,
            optimizer=optimizer,
            device=device,
            dtype=dtype,
            leaves_unused_parameters=leaves_unused_parameters,
        )
    return Engine(model, optimizer=optimizer, device=device, dtype=dtype)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the global batch, on any device (torch's SyncBatchNorm refuses a CPU).

    Sums and counts are reduced over ranks before any ratio is taken, and the reduction is differentiable, so a step
    does not depend on how the batch is cut into ranks. Two reductions, mean first, then the centred squares: exact
    enough in float32. A rank without clips takes part.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalized input [B, C, H, W]."""
        if not self.training:
            return super().forward(input)
        values = input.double() if input.dtype == torch.float64 else input.float()
        axes = (0, 2, 3)
        count = sum_over_ranks(values.new_tensor(values.numel() / values.shape[1])).clamp(min=1.0)
        mean = _differentiable_sum(values.sum(axes)) / count
        centred = values - mean[:, None, None]
        variance = _differentiable_sum(centred.square().sum(axes)) / count
        self._update(mean.detach(), variance.detach(), count)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    def _update(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            raise ValueError("GlobalBatchNorm2d keeps running statistics with a momentum")
        unbiased = variance * (count / (count - 1.0).clamp(min=1.0))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


class _Sum(torch.autograd.Function):
    """Sum over ranks, whose gradient is the sum over ranks of the gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return sum_over_ranks(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return sum_over_ranks(gradient.contiguous())


def _differentiable_sum(value: Tensor) -> Tensor:
    return _Sum.apply(value)


def over_the_global_batch(module: nn.Module) -> nn.Module:
    """The module with every BatchNorm2d replaced by one over the global batch, parameters and buffers kept."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = GlobalBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum).to(child.weight)
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm)
        else:
            over_the_global_batch(child)
    return module


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's global generators, of the CPU and of the device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Put torch's global generators where `random_state` found them."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
