"""From a run folder's files to subsets, tables, heatmap and report. Imports no torch: a report is made anywhere."""

import logging

# What matplotlib says while it is imported where a home folder is missing or cannot be written, in several lines on
# configuration folders, and while it lists the fonts for the first time. It then goes on as if nothing were: these are
# no news of a report.
_NOISE = ("mkdir -p failed", "is not a writable directory", "temporary cache directory", "building the font cache")


def _is_news(record: logging.LogRecord) -> bool:
    return not any(noise in record.getMessage() for noise in _NOISE)


for _name in ("matplotlib", "matplotlib.font_manager"):
    logging.getLogger(_name).addFilter(_is_news)
