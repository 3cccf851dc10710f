"""Where the numbers of a report come from: data, code, libraries, machines and commands of every launch, with digests.

Run folders are joined only where they are of one dataset, the same classes, clips and preset.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from avbench.analysis.measures.origin import NOT_RECORDED, Fact, with_changes, with_differences
from avbench.analysis.reading.results import ReadFolder
from avbench.description import VIEW_VERSION
from avbench.errors import RunError
from avbench.vocabulary import SPLITS

_SHORT = 12  # digits of a digest that a reader compares

# How bytes of clips become samples: two datasets of one index that differ here are two.
_HOW_READ = ("audio_suffix", "spectrogram", "frame_phase_seconds")


def check_same_data(folders: Sequence[ReadFolder]) -> None:
    """Raises RunError where two run folders are of different datasets or name the classes otherwise."""
    first = folders[0]
    for other in folders[1:]:
        one, two = first.dataset, other.dataset
        if not is_one_content(one, two):
            raise RunError(
                f"{first.path} and {other.path} were trained on different datasets "
                f"({one['name']} {one['index_sha256'][:8]}, {two['name']} {two['index_sha256'][:8]}); "
                f"evaluate them apart"
            )
        if list(one["classes"]) != list(two["classes"]):
            raise RunError(
                f"{first.path} and {other.path} were trained on different classes ({_unlike_classes(one, two)}); "
                f"evaluate them apart"
            )
        for name in _HOW_READ:
            # An absent spectrogram says something; of the others absence is an older folder's.
            if one.get(name) != two.get(name) and (name == "spectrogram" or (name in one and name in two)):
                raise RunError(
                    f"{first.path} and {other.path} were trained on different datasets: {name} is "
                    f"{_brief(one.get(name))} and {_brief(two.get(name))}; evaluate them apart"
                )


def is_one_content(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    """Whether two descriptions are of the same clips: by their fingerprints, or where an older one has none by the
    index's checksum. A view and the shards that it was written out to have one fingerprint and two indexes.
    """
    same_content = "fingerprint" in one and one.get("fingerprint") == two.get("fingerprint")
    return same_content or one["index_sha256"] == two["index_sha256"]


def check_same_view(folders: Sequence[ReadFolder]) -> None:
    """Raises RunError where two run folders used other clips of their dataset, or looked at them by other presets."""
    for place, other in enumerate(folders):
        for first in folders[:place]:
            presets = [folder.settings.get("preset") for folder in (first, other)]
            if None not in presets and presets[0] != presets[1]:
                raise RunError(
                    f"{first.path} and {other.path} were trained with different presets ({presets[0]} and "
                    f"{presets[1]}); evaluate them apart"
                )
            one, two = _clips_of(first), _clips_of(other)
            for split in SPLITS:
                if split in one and split in two and one[split]["sha256"] != two[split]["sha256"]:
                    raise RunError(
                        f"{first.path} and {other.path} were trained on different clips: of {split} "
                        f"{_counted(one[split])} and {_counted(two[split])} (--classes, --fraction or a quarantine); "
                        f"evaluate them apart"
                    )


def _unlike_classes(one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    """Where two lists of names part first."""
    names = [list(dataset["classes"]) for dataset in (one, two)]
    if len(names[0]) != len(names[1]):
        return f"{len(names[0])} and {len(names[1])}"
    number = next(number for number, (a, b) in enumerate(zip(*names, strict=True)) if a != b)
    return f"number {number} is {names[0][number]!r} and {names[1][number]!r}"


def _clips_of(folder: ReadFolder) -> Mapping[str, Mapping[str, Any]]:
    """What the newest launch says of the clips of each split."""
    return _clips(_launches(folder)[-1])


def _clips(launch: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    said = launch.get("clips")
    if not isinstance(said, Mapping):
        return {}
    return {split: of for split, of in said.items() if isinstance(of, Mapping) and {"clips", "sha256"} <= of.keys()}


def _counted(clips: Mapping[str, Any]) -> str:
    return f"{clips['clips']:,} (digest {str(clips['sha256'])[:8]})"


def _brief(value: Any) -> str:
    if value is None:
        return "not said"
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_origin(folders: Sequence[ReadFolder], names: Sequence[str]) -> tuple[Fact, ...]:
    """Every fact of every launch, marked where it differs. names: of the folders, as they are told apart."""
    facts = [
        fact for folder, name in zip(folders, names, strict=True) for fact in with_changes(list(_facts(folder, name)))
    ]
    return tuple(with_differences(facts))


def _facts(folder: ReadFolder, name: str) -> Iterator[Fact]:
    launches = _launches(folder)
    for number, launch in enumerate(launches, start=1):
        for what, value, digest in _told(folder, launch):
            yield Fact(name, number, len(launches), what, value or NOT_RECORDED, digest)


def _of_view(dataset: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Of a view, or of what it was written out to: which datasets its clips are from, and by which rule."""
    said = dataset.get("origin")
    origins = [origin for origin in said if isinstance(origin, Mapping)] if isinstance(said, list) else []
    for number, origin in enumerate(origins, start=1):
        which = f" ({number} of {len(origins)})" if len(origins) > 1 else ""
        yield f"view of{which}", _brief_origin(origin), str(origin.get("fingerprint") or "")
    if isinstance(dataset.get("rule"), Mapping):
        yield "rule of the view", _brief_rule(dataset["rule"]), ""


def _brief_origin(origin: Mapping[str, Any]) -> str:
    """A dataset that clips are from, on one line; of a view also its own origin and rule."""
    text = f"{origin.get('name')}, {origin.get('clips')} clips"
    if isinstance(origin.get("rule"), Mapping):
        text += f", itself a view by {_brief_rule(origin['rule'])}"
    deeper = [_brief_origin(each) for each in origin.get("origin") or () if isinstance(each, Mapping)]
    return f"{text} of ({'; '.join(deeper)})" if deeper else text


def _brief_rule(rule: Mapping[str, Any]) -> str:
    """A view's rule on one line: its files with their counts, and in brackets the start of their SHA-256."""
    words = []
    for name, told in rule.items():
        if not isinstance(told, Mapping):
            words.append(f"{name.replace('_', ' ')} {' '.join(map(str, told)) if isinstance(told, list) else told}")
            continue
        counts = [f"{value} {what}" for what, value in told.items() if type(value) is int]
        counts += [f"{len(value)} {what.replace('_', ' ')}" for what, value in told.items() if isinstance(value, list)]
        words.append(
            f"{name.replace('_', ' ')} {told.get('file')} ({', '.join([*counts, str(told.get('sha256'))[:_SHORT]])})"
        )
    return "; ".join(words) or "every clip"


def _launches(folder: ReadFolder) -> list[Mapping[str, Any]]:
    """Of environment.json, at least one, which says nothing where none is there."""
    said = folder.environment.get("launches") if isinstance(folder.environment, Mapping) else None
    launches: list[Mapping[str, Any]] = (
        [launch for launch in said if isinstance(launch, Mapping)] if isinstance(said, list) else []
    )
    return launches or [{}]


def _told(folder: ReadFolder, launch: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What, in words, and its digest, in the order of the page."""
    dataset = folder.dataset
    yield "dataset", str(dataset["name"]), str(dataset.get("fingerprint") or dataset["index_sha256"])
    yield from _of_view(dataset)
    contents = str(dataset.get("contents_sha256", ""))
    # Of a view it says where shards lie, so it differs from that of its written-out shards, whose clips are the same.
    what = "description" if dataset.get("version") != VIEW_VERSION else "description of the view"
    yield what, folder.files.dataset.name if contents else "", contents
    yield "classes", f"{len(dataset['classes']):,}, names in order", classes_digest(dataset["classes"])
    clips = _clips(launch)
    for split in SPLITS:
        of = clips.get(split, {})
        yield f"clips of {split}", f"{of['clips']:,}" if of else "", str(of.get("sha256", ""))
    yield "preset", str(folder.settings.get("preset") or ""), ""
    yield from _code(launch)
    yield "libraries", _versions(launch), ""
    yield "precision", str(launch.get("precision") or ""), ""
    yield "hardware", _hardware(launch), ""
    yield "ranks", str(launch.get("world_size") or ""), ""
    command = launch.get("command")
    yield "command", shlex.join(map(str, command)) if isinstance(command, list) else "", ""
    yield "started", str(launch.get("started") or ""), ""


def classes_digest(classes: Sequence[str]) -> str:
    """SHA-256 of the names in order, as a JSON list."""
    return hashlib.sha256(json.dumps(list(classes)).encode()).hexdigest()


def _code(launch: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The version, and the sources that ran; where they lay in a checkout, its commit."""
    version = _version_of(launch, "avbench")
    yield "version", f"avbench {version}" if version else "", ""
    code = launch.get("code")
    code = code if isinstance(code, Mapping) else {}
    digest, commit = str(code.get("source_sha256") or ""), str(code.get("commit") or "")
    words = "no checkout" if digest else ""
    if commit:
        words = f"commit {commit[:_SHORT]}" + (" with uncommitted changes" if code.get("uncommitted") else "")
    yield "code", words, digest


def _versions(launch: Mapping[str, Any]) -> str:
    """All but avbench's own, in the order of the record."""
    versions = launch.get("versions")
    versions = versions if isinstance(versions, Mapping) else {}
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version and name != "avbench")


def _version_of(launch: Mapping[str, Any], package: str) -> str:
    versions = launch.get("versions")
    return str(versions.get(package) or "") if isinstance(versions, Mapping) else ""


def _hardware(launch: Mapping[str, Any]) -> str:
    device, cpu, cores = (launch.get(name) for name in ("device", "cpu", "cores"))
    words = [str(device)] if device and device != "cpu" else []
    words += [f"{cpu}, {cores} cores" if cores else str(cpu)] if cpu else []
    words += [str(launch["platform"])] if launch.get("platform") else []
    return "; ".join(words)
