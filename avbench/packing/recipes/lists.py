"""The source `list`: a list as its authors publish it, whose columns and file names a recipe describes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avbench.errors import RecipeError
from avbench.packing.clips import Clip, encoded_key
from avbench.packing.recipes.base import Found, NotUsed, Source
from avbench.packing.recipes.list_config import ListConfig, expected_counts
from avbench.packing.recipes.list_rows import Row, rows_in, rows_of

if TYPE_CHECKING:
    from avbench.packing.recipes.list_files import Finder, Place


class ListSource(Source):
    """The videos of a published list, whose columns and file names the recipe describes.

    Clips are in the order of the lists' rows. A row whose video is not there stays among them, to be rejected.
    """

    kind = "list"
    Config = ListConfig
    config: ListConfig

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of numbered classes, or the classes that are wanted."""
        return _names(self.config.names) if self.config.names else self.config.keep

    def about(self) -> str:
        """What the recipe says of its dataset, else what any recipe of this kind packs."""
        config = self.config
        licence = f", {config.licence}" if config.licence else ""
        told = [config.particular, f"List: {config.published}{licence}." if config.published else ""]
        return " ".join(filter(None, told)) or super().about()

    def clips(self, media: Path) -> Found:
        """The clip of each row, and the videos that are in no row."""
        from avbench.packing.recipes.files import Tally
        from avbench.packing.recipes.list_files import Finder, duration_notes

        tally = Tally()
        every = self._rows(media)
        rows = self._wanted(every, tally)
        finder = Finder(self.config, media)
        found, notes = _with_sounds(_placed(rows, finder, repeats=self.config.repeats), finder)
        finder.files.check_compressed([clip for _, clip, _ in found])
        if all(place.looked_for for _, _, place in found):
            raise RecipeError(finder.none_fits(rows[0], len(rows)))
        finder.files.tally(tally, {clip.path for _, clip, _ in found})
        if self.config.split_by:
            notes.append(f"published splits are left aside: all splits are cut anew, by {self.config.split_by}")
        elif self.config.split_in_name and any(row.split is None for row in rows):
            notes.append("no word in the name of a list says its split, so its clips are split here")
        if self.config.whole:
            notes += duration_notes([one for one in found if not one[2].looked_for])
        return Found(
            tuple(clip for _, clip, _ in found),
            tally.entries(),
            (*notes, *_count_notes(rows, self.config.expected)),
            tuple(_not_used(every, {row.where for row in rows})),
        )

    def stored(self) -> dict[str, Any]:
        """The options; those that are newer than the first version only where they say something."""
        return {self.kind: self.config.stored()}

    def _rows(self, media: Path) -> list[Row]:
        """All rows. Raises RecipeError, which names another recipe where that one reads the list."""
        try:
            return list(rows_of(self.config, media))
        except RecipeError as error:
            folder = Path() if self.config.lists else media
            others = [name for given in self.config.given for name in _recipes_of(folder / given)]
            hint = f"; `avbench pack {others[0]}` reads such a list" if others and self.config.lists else ""
            raise RecipeError(f"{error}{hint}") from None

    def _wanted(self, rows: Sequence[Row], tally: Any) -> list[Row]:
        """The rows that have a label, and one that is wanted; the others are counted."""
        config = self.config
        lists = " and ".join(config.given)
        labelled = [row for row in rows if row.label]
        tally.add("no label", (row.name for row in rows if not row.label))
        if not labelled:
            raise RecipeError(f"{lists}: none of its {len(rows)} rows has a label; give a list that has some, too")
        if config.names:
            names = self.class_names
            labelled = [_named(row, names) for row in labelled]
        if not config.keep:
            return labelled
        kept = [row for row in labelled if row.label in config.keep]
        if not kept:
            raise RecipeError(
                f"{lists}: none of its {len(rows)} rows has a class of this recipe; the first has "
                f"{labelled[0].label!r}, the classes are {', '.join(config.keep)}"
            )
        tally.add("other class", (row.name for row in labelled if row.label not in config.keep))
        return kept


def _placed(rows: Sequence[Row], finder: Finder, *, repeats: bool) -> list[tuple[Row, Clip, Place]]:
    """Each row's clip and where its video is. Raises RecipeError where two rows are one clip.

    repeats: several rows may be one part of a video, under different names.
    """
    found = []
    row_of: dict[object, Row] = {}  # of each clip's name, and of each video or part of one
    for row in rows:
        if (before := row_of.setdefault(row.name, row)) is not row:
            labels = f" with the label {row.label!r} and there {before.label!r}" if row.label != before.label else ""
            again = "keep one, or give list.key a pattern that tells them apart"
            raise RecipeError(f"{row.where}: is called {row.name!r}, as is {before.where}{labels}; {again}")
        place = finder.place(row)
        clip = _clip(row, place)
        part = (clip.path, clip.start_seconds, clip.seconds)
        if not place.looked_for and not repeats and (before := row_of.setdefault(part, row)) is not row:
            name = row.candidates[0].path
            raise RecipeError(f"{row.where}: {name!r} is the video of {before.where} again; keep one")
        found.append((row, clip, place))
    return found


def _with_sounds(
    found: list[tuple[Row, Clip, Place]], finder: Finder
) -> tuple[list[tuple[Row, Clip, Place]], list[str]]:
    """The rows with the files that have their sound, where the recipe names some, and what is to be said of them."""
    from avbench.packing.recipes.list_files import sound_notes

    if not any(row.sound for row, _, _ in found):
        return found, []
    places = [finder.with_sound(row, place) for row, _, place in found]
    if not any(place.sound for place in places):
        return found, [f"no file {found[0][0].sound} is there, so the sound is the videos' own"]
    made = [
        (row, replace(clip, sound=place.sound, looked_for=place.looked_for), place)
        for (row, clip, _), place in zip(found, places, strict=True)
    ]
    return made, sound_notes([clip for _, clip, _ in made if not clip.looked_for])


def _clip(row: Row, place: Place) -> Clip:
    return Clip(
        key=encoded_key(row.name),
        label=row.label,
        split=row.split,
        path=place.path,
        source=row.source,
        start_seconds=row.start_seconds if place.is_whole else 0.0,
        file_start_seconds=0.0 if place.is_whole else row.start_seconds,
        seconds=row.seconds if place.is_whole else None,
        looked_for=place.looked_for,
        name=row.name,
        group=row.group,
    )


def _not_used(every: Sequence[Row], used: Set[str]) -> Iterator[NotUsed]:
    """The rows that have no label, or one that is not wanted. used: where the others stand."""
    for row in every:
        if row.where not in used:
            clip = Clip(encoded_key(row.name), row.label, row.split, Path(), row.source, row.start_seconds)
            yield NotUsed(clip, "other class" if row.label else "no label")


def _names(path: str) -> tuple[str, ...]:
    """The names of numbered classes. Raises RecipeError where the file cannot be read, or has a name twice."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"[list] names is the file {path}, which cannot be read: {error}") from None
    names = [line.strip() for line in lines if line.strip()]
    for name, count in Counter(names).items():
        if count > 1:
            raise RecipeError(f"{path}: has the class {name!r} {count} times; keep one")
    return tuple(names)


def _named(row: Row, names: Sequence[str]) -> Row:
    if not (row.label.isascii() and row.label.isdigit() and int(row.label) < len(names)):
        raise RecipeError(f"{row.where}: the label is {row.label!r}; list.names has the classes 0 to {len(names) - 1}")
    return replace(row, label=names[int(row.label)])


def _count_notes(rows: Sequence[Row], expected: Sequence[str]) -> list[str]:
    """Where the lists have other counts than were published; of splits, only those that a list has."""
    splits = Counter(row.split for row in rows)
    counts = {
        "rows": len(rows),
        "videos": len({row.source for row in rows}),
        "classes": len({row.label for row in rows}),
        **{split: count for split, count in splits.items() if split},
    }
    differ = [
        f"{what} {counts[what]:,}, published {count:,}"
        for what, count in expected_counts(expected).items()
        if what in counts and counts[what] != count
    ]
    return [f"the list has other counts than its authors': {'; '.join(differ)}"] if differ else []


def _recipes_of(path: Path) -> list[str]:
    """The shipped recipes that read the first row of a list."""
    from avbench import shipped
    from avbench.packing.recipes.reading import load_recipe

    found = []
    for file in sorted(shipped("shards").glob("*.toml")):
        recipe = load_recipe(file.stem)
        if recipe.kind == ListSource.kind:
            try:
                next(rows_in(path, recipe.source, None))
            except (RecipeError, OSError, StopIteration):
                continue
            found.append(file.stem)
    return found
