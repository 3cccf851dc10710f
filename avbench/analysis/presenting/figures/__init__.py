"""One file a figure, drawn from arrays: PNG for reading, SVG for papers. The same input gives the same bytes.

The heatmap and the thresholds are figures 1 and 2 of Xia et al., "Balanced Audiovisual Dataset for Imbalance Analysis",
CVPR workshop 2023 (arXiv 2302.10912). Names that a user chose (runs, classes) may be of any length and hold any letter.
"""

import logging

# What matplotlib says while it is imported where a home folder is missing or cannot be written, in several lines on
# configuration folders, and while it lists the fonts for the first time. It then goes on as if nothing were: these are
# no news of a report.
_NOISE = ("mkdir -p failed", "is not a writable directory", "temporary cache directory", "building the font cache")


def _is_news(record: logging.LogRecord) -> bool:
    return not any(noise in record.getMessage() for noise in _NOISE)


for _name in ("matplotlib", "matplotlib.font_manager"):
    logging.getLogger(_name).addFilter(_is_news)
