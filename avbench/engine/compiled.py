"""A network whose forward in training, and with it its backward, torch has compiled.

Compiled is the network alone, as one graph: losses, gradients that a method rewrites, the optimizer and evaluation stay
as they are. Where torch would go on without a word and compile less (a graph break, too many variants of one network)
it is an error here, so what was asked to be compiled is.
"""

from __future__ import annotations

import functools
import importlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from avbench.batch import Batch, Outputs
from avbench.distributed import current_world, gather_objects
from avbench.engine.batch_norm import GlobalBatchNorm2d
from avbench.errors import STOP_SIGNALS, UsageError

BACKEND = "inductor"

# Of one `forward`: networks of one class with other parts (fusions), a method's modes, on a CPU batches on either side
# of 16 clips. Torch's own limit, 8, is meant for one network.
_MOST_VARIANTS = 64
_LEAST_CLIPS = 2  # torch would compile batches of 0 and of 1 each for itself


class CompiledNetwork(nn.Module):
    """A network as it trains: the same parameters, and the same outputs up to rounding.

    One code serves batches of all sizes from two clips on, and all seeds of a run; smaller ones, which are rare, go
    through the network itself.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        with _signals_spare_compilers():  # torch starts those that it will ask
            self._dynamo = _configured_dynamo()
        self.network = network
        # Random numbers, where a network draws any, are those that it draws when it is not compiled.
        if BACKEND == "inductor":
            self._compiled = torch.compile(network.forward, fullgraph=True, options={"fallback_random": True})
        else:
            self._compiled = torch.compile(network.forward, fullgraph=True, backend=BACKEND)

    def forward(self, batch: Batch) -> Outputs:
        """Raises UsageError where torch cannot compile the network as a whole."""
        if len(batch) < _LEAST_CLIPS:
            return self.network(batch)
        for tensor in (batch.audio, batch.frames, batch.label, batch.clip_id, batch.valid):
            if tensor is not None:
                self._dynamo.maybe_mark_dynamic(tensor, 0)
        try:
            with _signals_spare_compilers():
                return self._compiled(batch)
        except (self._dynamo.exc.TorchDynamoException, self._dynamo.exc.FailOnRecompileLimitHit) as error:
            raise UsageError(
                f"compile is asked for, and torch cannot compile {type(self.network).__name__} as a whole "
                f"({_said(error)}); leave --compile out"
            ) from error


def check_compiles(model: nn.Module, device: torch.device) -> None:
    """Raises UsageError, on every rank, for what torch cannot compile, or not so that ranks agree. A collective."""
    kinds = (GlobalBatchNorm2d, nn.SyncBatchNorm)
    if current_world().size > 1 and any(isinstance(module, kinds) for module in model.modules()):
        # A compiled graph may reorder its reductions, and a rank with less than two clips keeps the network's order.
        raise UsageError(
            "compile is asked for, and --batch-norm global cannot be compiled over several ranks; leave one of them out"
        )
    for error in gather_objects(_why_nothing_compiles(device) if BACKEND == "inductor" else ""):
        if error:
            raise UsageError(
                f"compile is asked for, and torch can compile nothing here ({error}); it wants a C++ compiler and "
                f"Python's headers, on a GPU Triton too: install what is missing, or leave --compile out"
            )


@functools.cache
def _why_nothing_compiles(device: torch.device) -> str:
    """What is wrong with the compiler here, found by trying it; empty where it works."""
    try:
        with _signals_spare_compilers():
            torch.compile(_anything, fullgraph=True)(torch.ones(2, device=device))
    except Exception as error:  # whatever compilers and linkers come up with
        return _said(error)
    return ""


def _anything(tensor: Tensor) -> Tensor:
    return tensor.sin() + 1.0


@contextmanager
def _signals_spare_compilers() -> Iterator[None]:
    """Meanwhile what this thread starts does not hear the signals that ask a training to stop.

    A terminal's Ctrl-C, a batch system and `kill -- -GROUP` send them to compilers too. One that died of it would look
    like a network that cannot be compiled, and end a training that was only to stop. Processes inherit what their
    starter's thread blocks; this process itself hears of a signal by its other threads, or afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _configured_dynamo() -> Any:
    """torch._dynamo, which takes a second to import, so that only who compiles waits for it.

    Configured for the whole process: torch has these as no options of one compilation.
    """
    dynamo = importlib.import_module("torch._dynamo")
    dynamo.config.recompile_limit = _MOST_VARIANTS
    # It would cut the network where DDP's buckets end, and there would be more than one graph.
    dynamo.config.optimize_ddp = False
    # Else backward would free what a second one, as of `Engine.loss_grads`, needs.
    functorch: Any = importlib.import_module("torch._functorch.config")
    functorch.donated_buffer = False
    return dynamo


def _said(error: BaseException) -> str:
    """What torch says first, without the pages that follow."""
    inner = getattr(error, "inner_exception", error)  # of a compiler's, of which dynamo says only that there was one
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(inner).__name__
