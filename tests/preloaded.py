"""What the server of processes.py imports, once for all ranks: each would need seconds for it."""

import os

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # as the ranks are; DeepSpeed would look for others

import deepspeed  # noqa: F401
import hypothesis  # noqa: F401
import pyarrow.parquet  # noqa: F401
import pytest  # noqa: F401
import soundfile  # noqa: F401
import torch._dynamo.repro.after_dynamo

# DeepSpeed's ZeRO imports the inductor at its start, and a network torchvision.
import torch._inductor.compile_fx  # noqa: F401
import torchvision  # noqa: F401

import avbench.training.fit
import avbench.training.trainer  # noqa: F401
