"""What the scripts of benchmarks/ share with `avbench bench`, which runs them: data, results, plans."""
