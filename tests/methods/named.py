"""All methods of the table as `--methods` names them: a new one is in every test that goes over all of them."""

from avbench.methods import METHODS

IN_SHORT = {"gradient-blending": "super_epoch=1", "greedy": "warmup=1:window=2"}
"""By method, the options with which it acts within a training of two short epochs."""


def every_method(**options: str) -> str:
    """The value of `--methods`. options: of single methods, by name with _ for -, instead of those IN_SHORT."""
    chosen = IN_SHORT | {name.replace("_", "-"): text for name, text in options.items()}
    return ",".join(":".join(filter(None, (name, chosen.get(name)))) for name in METHODS)
