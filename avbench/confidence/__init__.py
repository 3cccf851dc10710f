"""What unimodal networks think of every clip, epoch by epoch: the store over ranks, and its table."""
