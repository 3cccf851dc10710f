"""One pass over the data, many runs: the trainer and what it leaves behind. Names no method."""
