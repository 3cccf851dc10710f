"""Recipes: where clips come from, and what is kept of each of them.

To be read in this order: `base` (what a source is), `sources` (which there are, each in a file: `folder`, `planted`,
`lists`), `recipe` (what a recipe says), `reading` (a recipe from a TOML file and the command line), `videos` (its clips
and their splits). These import neither PyAV nor NumPy, but for `videos`; sources import what does when they look for
clips: `labels` and `rows` (labels.csv), `list_config`, `list_values`, `list_rows` and `list_files` (published lists),
`matching` and `files` (the media folder), `rendering` (planted clips).
"""
