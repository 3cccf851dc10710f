"""Which clips are kept so that the modality discrepancy is as uniform as possible, overall and in each class.

`choice.choose` is pure: arrays in, a `Choice` out.

* `constraints`: what is wanted, and which wishes contradict each other.
* `candidates`: which clips can be used. Clips without confidence, clips both of whose confidences are below the noise
  bound, and clips outside of the range are dropped and counted. The others lie in cells of one class, one bin of 0.01
  and, where shares of pools are bounded, one pool.
* `counting`: how many clips of each cell are kept, and in which order bounds are loosened where they cannot all hold.
  `program` has the linear and integer programs behind it, `rounding` makes totals of classes whole.
* `evenness`: distances from uniform, before and after.

Of a cell, the clips are kept whose keys have the smallest hashes (XXH3, seeded). So the choice is a function of
confidences, constraints, seed and the version of SciPy, and not of the order of rows, of ranks or of time.

Bounds of Kolmogorov-Smirnov distances are kept at the edges of bins. The distance of the values themselves may be
larger by the width of a bin, which is 0.0083 of the default range.

Choosing 34,000 of 1 million candidates of 30 classes takes 7 CPU seconds and 0.1 GB beside the candidates
(benchmarks/README.md, which also has 200 classes).
"""
