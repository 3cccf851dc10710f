"""`avbench bench`: the scripts of benchmarks/ behind one command, and plans made from what they measure."""
