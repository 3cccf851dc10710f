"""From arrays to numbers, with NumPy and SciPy alone: no path, no file."""
