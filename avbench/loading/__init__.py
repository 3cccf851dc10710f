"""Shards to batches, while training."""
