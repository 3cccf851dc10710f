"""The documents of the repository as tests read them: their sections, commands and tables."""

import re
import shlex

from tests.conftest import REPOSITORY

FOLDERS = ("avbench", "benchmarks", "launch", "shards")
_IN_FOLDERS = sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("README.md"))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *(path.relative_to(REPOSITORY).as_posix() for path in _IN_FOLDERS))


def text_of(document: str) -> str:
    return (REPOSITORY / document).read_text(encoding="utf-8")


def section(document: str, heading: str) -> str:
    """What stands below a heading of the second level; "" is what stands before the first."""
    sections = re.split(r"^## ", text_of(document), flags=re.MULTILINE)
    if not heading:
        return sections[0]
    (found,) = [text for text in sections[1:] if text.partition("\n")[0] == heading]
    return found


def headings(document: str) -> list[str]:
    """Those of the second level, after "" for what stands before the first."""
    return ["", *re.findall(r"^## (.*)$", text_of(document), re.MULTILINE)]


def commands(document: str, heading: str, program: str = "avbench") -> list[list[str]]:
    """The words after the program's name of each of its commands that stands on a line of its own, in their order."""
    text = re.sub(r" \\\n +", " ", section(document, heading))
    lines = re.findall(rf"^    ({re.escape(program)} .*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


def spans(document: str) -> list[str]:
    """Everything between single backticks, and every command on a line of its own, line breaks as spaces."""
    text = re.sub(r"^```.*?^```", "", text_of(document), flags=re.MULTILINE | re.DOTALL)
    inline = [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text)]
    own = [
        " ".join([program, *words])
        for heading in headings(document)
        for program in ("avbench", "python", "bash", "make", "pip")
        for words in commands(document, heading, program)
    ]
    return [*inline, *own]


def first_column(document: str, heading: str) -> set[str]:
    """What stands between backticks in the first column of a section's tables."""
    rows = re.findall(r"^\| ([^|]*) \|", section(document, heading), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
