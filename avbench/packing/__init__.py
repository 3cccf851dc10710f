"""Videos -> tar shards and an index, offline."""
