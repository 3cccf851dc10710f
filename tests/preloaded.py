"""What the server of all child processes imports, once for ranks and packing workers: each would need seconds."""

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

import avbench.packing.pack
import avbench.training.fit
import avbench.training.trainer  # noqa: F401
