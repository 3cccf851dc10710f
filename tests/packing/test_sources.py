"""Sources are a table that another package adds to, each with options that its help and its recipe files have."""

import importlib
import sys
from dataclasses import fields, is_dataclass

import pytest

from avbench.arguments import option_texts
from avbench.cli import main
from avbench.dataset import Dataset
from avbench.errors import DatasetError, RecipeError
from avbench.packing.out_folder import claim
from avbench.packing.recipes.files import WORK_FOLDER
from avbench.packing.recipes.reading import load_recipe
from avbench.packing.recipes.recipe import Recipe, source_of, stored
from avbench.packing.recipes.sources import SOURCES
from tests.packing.make_video import make_labelled_folder

ELSEWHERE = """
from dataclasses import dataclass

from avbench.packing.clips import Clip, encoded_key
from avbench.packing.recipes.base import Found, Source


@dataclass(frozen=True)
class Config:
    labels: tuple[str, ...] = ("x", "y")
    \"\"\"The labels, in turn.\"\"\"
    last: int = 4
    \"\"\"How many videos.\"\"\"


class Turns(Source):
    \"\"\"Videos whose labels take turns.\"\"\"

    kind = "turns"
    Config = Config
    media_default = "./videos"

    @property
    def class_names(self):
        return self.config.labels

    def default_media(self, out):
        return out.with_name("videos")

    def clips(self, media):
        names = sorted(path.name for path in media.glob("*.mp4"))[: self.config.last]
        labels = self.config.labels
        return Found(
            tuple(
                Clip(encoded_key(name), labels[number % len(labels)], None, media / name, name)
                for number, name in enumerate(names)
            ),
            notes=("labels take turns",),
        )


class Wrong:
    pass


class Nameless(Source):
    Config = Config

    def clips(self, media): ...


class Thawed(Source):
    kind = "thawed"
    Config = dict

    def clips(self, media): ...


class Empty(Source):
    kind = "empty"
    Config = Config
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder to be in, and an installed package with sources."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "elsewhere_turns", raising=False)
    importlib.invalidate_caches()
    site = tmp_path / "site"
    information = site / "elsewhere_turns-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "elsewhere_turns.py").write_text(ELSEWHERE)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere-turns\nVersion: 1.0\n")
    names = {"turns": "Turns", "wrong": "Wrong", "nameless": "Nameless", "thawed": "Thawed", "empty": "Empty"}
    lines = [f"{kind} = elsewhere_turns:{name}" for kind, name in {**names, "gone": "NotThere"}.items()]
    (information / "entry_points.txt").write_text("\n".join(["[avbench.sources]", *lines]) + "\n")
    sys.path.insert(0, str(site))
    return tmp_path


def test_a_source_of_an_installed_package_packs_and_has_help(elsewhere, capsys, monkeypatch):
    make_labelled_folder(elsewhere / "videos", {f"v{number}": "" for number in range(6)})
    (elsewhere / "mine.toml").write_text('kind = "turns"\nshort_side = 32\ntest_fraction = 0\n[turns]\nlast = 5\n')
    main(["pack", "mine.toml", "--out", "out", "--workers", "1", "--turns.last", "3", "--val-fraction", "0"])
    assert "labels take turns" in capsys.readouterr().err
    dataset = Dataset(elsewhere / "out")
    assert dataset.description["clips"]["train"] == 3 and dataset.classes == ("x", "y")
    assert dataset.description["recipe"]["turns"] == {"labels": ["x", "y"], "last": 3}
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        main(["pack", "mine.toml", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--turns.last INT" in text and "How many videos. (default: 5)" in text
    assert "(default: ./videos)" in text and "mine.toml: Videos whose labels take turns." in text


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("turn", "unknown kind 'turn'; did you mean 'turns'"),
        ("wrong", "source 'wrong' of the entry point elsewhere_turns:Wrong is no subclass of avbench.packing.recipes"),
        ("nameless", "class Nameless does not say its kind: kind = 'nameless'"),
        ("thawed", "Config of class Thawed is no frozen dataclass"),
        ("empty", "class Empty has no method clips"),
        ("gone", "source 'gone' of the entry point elsewhere_turns:NotThere cannot be imported"),
    ],
)
def test_an_installed_source_that_is_none_is_refused_in_one_line(elsewhere, kind, message):
    (elsewhere / "mine.toml").write_text(f'kind = "{kind}"\n')
    with pytest.raises(RecipeError) as caught:
        load_recipe("mine.toml")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", sorted(SOURCES))
def test_every_source_says_its_options_and_what_it_packs(kind):
    source = SOURCES[kind]
    assert source.kind == kind and is_dataclass(source.Config)
    assert source.__doc__.splitlines()[0].endswith(".")
    texts = option_texts(source.Config)
    assert len(texts) >= 1 and all(text.endswith(".") for text in texts.values()), texts
    own = {one.name for one in fields(Recipe)}
    assert source.table() not in own and (source.table() or not own & set(texts))


def test_recipes_are_stored_as_they_always_were():
    """In this order: datasets and half-packed folders of any version compare."""
    kept = {"classes": [], "window_seconds": 0.0, "val_fraction": 0.1, "test_fraction": 0.1, "audio_suffix": "flac"}
    kept |= {"stft_preset": "", "sample_rate_hz": 48000, "short_side": 256, "jpeg_quality": 90}
    kept |= {"frame_phase_seconds": 0.0, "clips_per_shard": 64, "seed": 0}
    folder = {"kind": "folder", "name": "folder", "labels": "labels.csv", **kept, "planted": None}
    assert list(stored(load_recipe("folder")).items()) == list(folder.items())
    planted = load_recipe("planted", {"planted.test": 24})
    names = {"classes": list(planted.source.class_names), "clips_per_shard": 60}
    table = {"classes": 5, "train": 480, "val": 100, "test": 24, "seconds": 2.0, "size": 64, "seed": 0, "bias": 0.0}
    table |= {"concentration": 0.5, "distractor": 0.4, "audio_noise": 0.5, "visual_noise": 0.35}
    expected = {**folder, **names, "kind": "planted", "name": "planted", "planted": table}
    assert list(stored(planted).items()) == list(expected.items())


@pytest.mark.parametrize(
    ("begun", "message"),
    [
        ({"name": "other"}, "begun with name 'other', not 'folder'"),
        ({"kind": "list", "labels": None, "list": {}}, "begun with kind 'list', not 'folder'"),
        ({"of_a_later_version": 3}, "begun with of_a_later_version 3, not None"),
    ],
)
def test_a_pack_that_was_begun_with_another_recipe_is_refused_in_one_line(tmp_path, begun, message):
    (tmp_path / WORK_FOLDER).mkdir()
    recipe = stored(load_recipe("folder"))
    claim(tmp_path, "recipe", {**recipe, **begun})
    claim(tmp_path, "recipe", {**recipe, **begun})
    with pytest.raises(DatasetError, match=message) as caught:
        claim(tmp_path, "recipe", recipe)
    assert "\n" not in str(caught.value)


def test_the_media_folder_is_the_sources_business(tmp_path):
    assert source_of(load_recipe("planted")).default_media(tmp_path / "out") == tmp_path / "out-media"
    assert source_of(load_recipe("folder")).default_media(tmp_path / "out") is None
