"""From a run folder's files to subsets, tables, heatmap and report. Imports no torch: a report is made anywhere."""
