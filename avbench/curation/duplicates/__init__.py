"""Clips that come twice: with the same bytes, or encoded again, scaled or shifted, under other names."""
