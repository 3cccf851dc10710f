"""What `avbench bench` measures, by name."""

from __future__ import annotations

TARGETS = {
    "loader": "what a clip costs on its way to tensors, beside peers and beside each stage's floor",
    "training": "what each method's step costs, and what one pass with all methods saves",
    "store": "what recording confidences costs an epoch, at size",
    "pack": "how fast videos become shards",
    "all": "all of these",
}
PLAN = "plan"
