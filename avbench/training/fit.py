"""A training from its beginning, or from where it was interrupted, to its end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from avbench.distributed import on_main
from avbench.errors import RunError
from avbench.training.closing import all_diverged, is_without_checkpoints, tidied
from avbench.training.held_folder import HeldFolder
from avbench.training.out_of_memory import memory_refused_in_one_line
from avbench.training.trainer import Trainer
from avbench.training.training import Training


def train(
    training: Training,
    folder: HeldFolder,
    *,
    save_config: Callable[[Path], None],
    resume: bool = False,
    overwrite: bool = False,
) -> str:
    """Train every run in one pass, into a run folder that is new or, with `resume`, interrupted. A collective.

    save_config writes config.toml. overwrite: an earlier run in the folder is removed, once nothing can refuse the new.
    Returns what a person wants to read at the end: a table of the runs, what is kept, what to do next.
    Raises RunError, UsageError or DatasetError, on every rank, with the folder as it was; AllDiverged, with it
    complete, where no run is left.
    """
    where, config = str(folder.path), training.config
    on_main(where, folder.check_resumable if resume else partial(folder.check_new, overwrite=overwrite))
    if resume and (text := on_main(where, lambda: all_diverged(folder))):
        raise RunError(text)
    keep = config.keep_checkpoints
    if resume and on_main(where, lambda: is_without_checkpoints(folder, epochs=config.epochs, keep_checkpoints=keep)):
        return on_main(where, lambda: tidied(folder, epochs=config.epochs, save_config=save_config))
    with ExitStack() as stack:
        stack.enter_context(memory_refused_in_one_line())
        trainer = Trainer(training, folder)
        on_main(where, lambda: stack.enter_context(folder.locked()))
        if overwrite and not resume:
            on_main(where, folder.clear)
        return trainer.fit(resume=resume, save_config=save_config)
    raise AssertionError("the stack swallows no exception")
