"""From a run folder's files to subsets, tables, heatmap and report. Imports no torch: a report is made anywhere.

To be read in this order, each imports only from those before it:
`measures/`: arrays to numbers, each a pure function of arrays, with NumPy and SciPy and no file.
`reading/`: files to arrays, the run folders' and anybody's own. Every mistake of a file is found here, in one line.
`assessment.py`: every number of a report together, the record `Evaluation`. `notes.py`: what a reader must know of it.
`presenting/`: numbers to tables, figures (`figures/`, one file a figure), files and the page.
`report.py`: the door, `evaluate`, which does all of it; `export.py`: the subsets as a file of their own.
"""
