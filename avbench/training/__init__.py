"""One pass over the data, many runs: the trainer and what it leaves behind. Names no method.

What proves later that all went well: records of kind "epoch" in metrics.jsonl count which clips a run was trained on
(audit.py); the launches of environment.json name dataset, clips, preset and code by digest (origin.py).
"""
