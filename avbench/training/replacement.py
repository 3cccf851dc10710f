"""What a network predicts without one of its modalities: that modality's features replaced by their mean over train.

What a network and its branches use of each modality, and the modalities' Shapley values, are computed from these
predictions (analysis/measures/utilization.py). Which features carry a modality the method says (`feature_modules`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from avbench.batch import Batch
from avbench.distributed import gather_objects
from avbench.loading.loader import Loader
from avbench.training.parallel import longest_first
from avbench.training.passes import Passes
from avbench.training.run import Prediction, Run
from avbench.vocabulary import Modality

# For each modality, the mean output of each of its feature modules, without the batch's axis.
Means = Mapping[Modality, Sequence[Tensor]]


def is_joint(run: Run) -> bool:
    """Whether the run reads more than one modality, so that there is one to replace."""
    return len(run.method.modalities) > 1


def feature_means(loader: Loader, runs: Sequence[Run], passes: Passes) -> dict[str, Means]:
    """Mean features of every run over the loader's valid clips, in evaluation mode, by run name. A collective.

    A run whose network computes its features without calling the modules that its method names is left out.
    """
    sums: dict[str, dict[Modality, list[Tensor]]] = {run.name: {} for run in runs}
    clips = 0

    def add(run: Run, batch: Batch) -> None:
        modules = run.method.feature_modules(run.engine.model)
        with ExitStack() as stack:
            outputs = {name: stack.enter_context(_observed(of_modality)) for name, of_modality in modules.items()}
            run.predict(batch)
        if any(len(outputs[name]) < len(of_modality) for name, of_modality in modules.items()):
            sums.pop(run.name, None)
            return
        for modality, tensors in outputs.items():
            found = [tensor.double().sum(dim=0) for tensor in tensors]
            before = sums[run.name].get(modality)
            sums[run.name][modality] = found if before is None else [a + b for a, b in zip(before, found, strict=True)]

    for batch in passes.batches(loader, runs):
        clips += len(batch)
        if len(batch):
            passes.side_by_side.each(longest_first(run for run in runs if run.name in sums), partial(add, batch=batch))
    gathered = gather_objects((clips, {name: _to_cpu(of_run) for name, of_run in sums.items()}))
    of_ranks = [(count, of_rank) for count, of_rank in gathered if count]
    names = [run.name for run in runs if all(run.name in of_rank for _, of_rank in of_ranks)]
    return {name: _mean([(count, of_rank[name]) for count, of_rank in of_ranks]) for name in names}


def predict_without_each(run: Run, batch: Batch, means: Means) -> dict[str, Prediction]:
    """Predictions by what is replaced: "none", and each of the modalities.

    Without a modality the network's part of the other one says something of its own only where parts see each other.
    """
    modules = run.method.feature_modules(run.engine.model)
    everything = [module for of_modality in modules.values() for module in of_modality]
    with _observed(everything) as outputs:
        predictions = {"none": run.predict(batch)}
    dtypes = {id(module): output.dtype for module, output in zip(everything, outputs, strict=True)}
    # An encoder's features hang on nothing but the batch, so they are computed once.
    encoders = {id(encoder) for encoder in cast(nn.ModuleDict, run.engine.model.encoders).values()}
    kept = [(module, output) for module, output in zip(everything, outputs, strict=True) if id(module) in encoders]
    for modality in modules:
        with ExitStack() as stack:
            for module, output in kept:
                stack.enter_context(_returning(module, output))
            for module, mean in zip(modules[modality], means[modality], strict=True):
                constant = mean.to(dtypes[id(module)]).expand(len(batch), *mean.shape)
                stack.enter_context(_returning(module, constant.to(batch.label.device)))
            prediction = run.predict(batch)
        others = [name for name in prediction.parts if name != modality and run.method.parts_see_each_other]
        predictions[modality] = replace(prediction, parts={name: prediction.parts[name] for name in others})
    return predictions


@contextmanager
def _observed(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """The outputs of these modules, in their order, once they were called; fewer where some were not."""
    outputs: dict[int, Tensor] = {}
    found: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, number=number: outputs.update({number: output}))
        for number, module in enumerate(modules)
    ]
    try:
        yield found
        found.extend(outputs[number] for number in sorted(outputs))
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _returning(module: nn.Module, output: Tensor) -> Iterator[None]:
    """The module returns this, whatever it is given."""
    before = module.__dict__.get("forward")
    module.forward = lambda *_inputs: output
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _to_cpu(sums: Mapping[Modality, Sequence[Tensor]]) -> dict[Modality, list[Tensor]]:
    return {modality: [tensor.cpu() for tensor in tensors] for modality, tensors in sums.items()}


def _mean(of_ranks: Sequence[tuple[int, Mapping[Modality, Sequence[Tensor]]]]) -> Means:
    """Sums and counts over ranks first, then the ratio."""
    clips = sum(count for count, _ in of_ranks)
    first = of_ranks[0][1]
    return {
        modality: [
            torch.stack([sums[modality][number] for _, sums in of_ranks]).sum(dim=0) / clips
            for number in range(len(first[modality]))
        ]
        for modality in first
    }
