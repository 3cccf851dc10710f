"""The report folder: which folders may be replaced, and how, so that nobody loses a file that is not a report's.

A report is derived, so a new one takes its place whole. What belongs to it is what its manifest lists.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from avbench.errors import UsageError

PAGE_FILE = "index.html"
MARKDOWN_FILE, LATEX_FILE = "tables.md", "tables.tex"
MANIFEST = "report.json"
_FORMAT, _VERSION = "avbench-report", 1

# Reports of versions that wrote no manifest: these two were always there, and every file has one of these names.
_ALWAYS_THERE = ("accuracy.csv", "index.html")
_OLD_NAMES = re.compile(
    r"index\.html|tables\.(md|tex)"
    r"|(accuracy|accuracy_planted|seeds|cross_seed|parts|metrics|significance|utilization|published|per_class)\.csv"
    r"|(heatmap|discrepancy|methods-[0-9.e-]+|thresholds|classes|class-confidences|diagnostics-[\w.-]+|uncertainty)"
    r"\.(png|svg)"
)


def check_report_folder(folder: Path) -> None:
    """Refuse, before any work, a folder that a report cannot be put in place of. Raises UsageError.

    It may be absent, empty, or hold a report and nothing else; files can be made beside it.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder}: is a file; give a folder for the report with --out")
        _check_writable(folder)
        if folder.is_dir():
            _check_only_a_report(folder)
    except OSError as error:
        raise UsageError(
            f"{folder}: no report can be written there ({error.strerror}); choose another folder with --out"
        ) from None


def _check_writable(folder: Path) -> None:
    """Make a folder where the report's will be made, and take it away again."""
    place = folder.resolve().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"{folder}: {place} is a file, so no folder can be made in it; choose another with --out")
    Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=place)).rmdir()


def _check_only_a_report(folder: Path) -> None:
    there = sorted(folder.iterdir())
    listed = _listed(folder)
    foreign = [path for path in there if path.name not in listed or not path.is_file()]
    if foreign:
        raise UsageError(
            f"{folder}: holds other things than a report, such as {foreign[0].name!r}, which would be lost; choose "
            f"another folder with --out, or move them away"
        )


def _listed(folder: Path) -> frozenset[str]:
    """Names of the files that belong to the report in a folder; none where it holds no report."""
    manifest = folder / MANIFEST
    if manifest.is_file():
        try:
            content = json.loads(manifest.read_text(encoding="utf-8"))
        except ValueError:
            return frozenset()
        if isinstance(content, dict) and content.get("format") == _FORMAT and isinstance(content.get("files"), list):
            return frozenset(map(str, content["files"]))
        return frozenset()
    if not all((folder / name).is_file() for name in _ALWAYS_THERE):
        return frozenset()
    return frozenset(path.name for path in folder.iterdir() if _OLD_NAMES.fullmatch(path.name))


def replace_report(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put a folder with these files, and a manifest of them, in place of the old report; on an error that one stays.

    Raises UsageError, as `check_report_folder`, where something else came into the folder in the meantime.
    """
    folder = folder.resolve()  # a link stays one
    folder.parent.mkdir(parents=True, exist_ok=True)
    check_report_folder(folder)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        fresh = partial / "new"
        fresh.mkdir()
        for name, content in {**files, MANIFEST: _manifest(files)}.items():
            (fresh / name).write_bytes(content)
        if folder.exists():
            folder.rename(partial / "old")
        fresh.rename(folder)
    except OSError as error:
        # The file in it has a name of the moment, and where a disk is full the error names none.
        raise OSError(error.errno, error.strerror, str(folder)) from None
    finally:
        if (partial / "old").exists() and not folder.exists():
            (partial / "old").rename(folder)
        shutil.rmtree(partial)


def _manifest(files: Mapping[str, bytes]) -> bytes:
    content = {"format": _FORMAT, "version": _VERSION, "files": sorted([*files, MANIFEST])}
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
