"""Every shipped recipe reads rows as its authors publish them, finds videos by the names people give, and packs."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from avbench.cli import main
from avbench.dataset import Dataset
from avbench.errors import RecipeError
from avbench.packing.recipes.list_rows import rows_of
from avbench.packing.recipes.reading import load_recipe
from avbench.packing.recipes.videos import videos_of
from avbench.vocabulary import SPLITS
from tests.conftest import REPOSITORY
from tests.documents import commands
from tests.packing.make_video import make_video

SMALL = ("--short-side", "32", "--workers", "1")
KINETICS = "label,youtube_id,time_start,time_end,split\n"
# Of each recipe: the lists as they are published, shortened; the files as people have them; and what becomes of it:
# (key, source, class, split, place of the clip in the file in seconds).
PUBLISHED = {
    "vggsound": (
        {
            "vggsound.csv": '---g-f_I2yQ,1,people marching,train\n--0PQM4-hqg,30,"waterfall, burbling",train\n'
            '-b_cdefghij,0,"waterfall, burbling",train\nlmnopqrstuv,1,people marching,train\n',
            "test.csv": '_-g-f_I2yQ0_000300.mp4,people marching\n_-g-f_I2yQ0_000320.mp4,"waterfall, burbling"\n',
        },
        [
            *("---g-f_I2yQ_000001.mp4", "people marching/_-g-f_I2yQ0_000300.mp4", "_-g-f_I2yQ0_000300.mkv"),
            *("waterfall, burbling/--0PQM4-hqg_30.mkv", "b/-b_cdefghij_0_10000.mp4", "lmnopqrstuv.mp4"),
            "test/_-g-f_I2yQ0_320.avi",
        ],
        {
            ("---g-f_I2yQ_000001", "---g-f_I2yQ", "people marching", "train", 0.0),
            ("--0PQM4-hqg_000030", "--0PQM4-hqg", "waterfall, burbling", "train", 0.0),
            ("-b_cdefghij_000000", "-b_cdefghij", "waterfall, burbling", "train", 0.0),
            ("lmnopqrstuv_000001", "lmnopqrstuv", "people marching", "train", 1.0),
            ("_-g-f_I2yQ0_000300", "_-g-f_I2yQ0", "people marching", "test", 0.0),
            ("_-g-f_I2yQ0_000320", "_-g-f_I2yQ0", "waterfall, burbling", "test", 0.0),
        },
    ),
    "kinetics400": (
        {
            "train.csv": "label,youtube_id,time_start,time_end,split,is_cc\n"
            '"playing, loudly",a-000000000,5,15,train,0\nclapping,-b000000000,100,110,train,1\n',
            "val.csv": f'{KINETICS}"clapping","c0000000000","0","10","validate"\n',
            "test.csv": "youtube_id,time_start,time_end,split\nd0000000000,7,17,test\n",
        },
        [
            *("train/a-000000000_000005_000015.mp4", "replacement/replaced/a-000000000_000005_000015.mp4"),
            *("train/clapping/-b000000000_000100_000110.mp4", "val/c0000000000_000000_000010.mkv"),
            "test/d0000000000_000007_000017.mp4",
        ],
        {
            ("a-000000000_000005_000015", "a-000000000", "playing, loudly", "train", 0.0),
            ("-b000000000_000100_000110", "-b000000000", "clapping", "train", 0.0),
            ("c0000000000_000000_000010", "c0000000000", "clapping", "val", 0.0),
        },
    ),
    "kinetics_sound": (
        {
            "my_train.txt": "--4-0ihtnBU_000058_000068,10,4\n--6q_33gNew_000132_000142,10,27\n"
            "x6q_33gNew-_000001_000011,10,4\n",
            "my_test.txt": "-3Mwkq-7TV4_2,10,27\n-74csnCOiUs_0,10,4\n",
        },
        [
            *("train/--4-0ihtnBU_000058_000068.mp4", "27/--6q_33gNew_132.mp4", "x6q_33gNew-.webm"),
            *("test/-3Mwkq-7TV4_2.mp4", "-74csnCOiUs_000000_000010.mp4"),
        ],
        {
            ("--4-0ihtnBU_000058_000068", "--4-0ihtnBU", "4", "train", 0.0),
            ("--6q_33gNew_000132_000142", "--6q_33gNew", "27", "train", 0.0),
            ("x6q_33gNew-_000001_000011", "x6q_33gNew-", "4", "train", 1.0),
            ("-3Mwkq-7TV4_2", "-3Mwkq-7TV4", "27", "test", 0.0),
            ("-74csnCOiUs_0", "-74csnCOiUs", "4", "test", 0.0),
        },
    ),
    "kinetics_sound_31": (
        {
            "train.csv": f"{KINETICS}singing,a0000000000,0,10,train\nbowling,-b000000000,1,11,train\n"
            "strumming guitar,c,0,9,train\n"
        },
        ["a0000000000_000000_000010.mp4", "bowling/-b000000000_000001_000011.mp4"],
        {
            ("a0000000000_000000_000010", "a0000000000", "singing", "train", 0.0),
            ("-b000000000_000001_000011", "-b000000000", "bowling", "train", 0.0),
        },
    ),
    "kinetics_sound_32": (
        {
            "train.csv": f"{KINETICS}strumming guitar,a0000000000,0,10,train\nbowling,-b000000000,1,11,train\n"
            "abseiling,c,0,9,train\n"
        },
        ["a0000000000_000000_000010.mp4", "strumming_guitar/-b000000000_000001_000011.mp4"],
        {
            ("a0000000000_000000_000010", "a0000000000", "strumming guitar", "train", 0.0),
            ("-b000000000_000001_000011", "-b000000000", "bowling", "train", 0.0),
        },
    ),
    "balanced_av": (
        {
            "list.json": json.dumps(
                {
                    "labels": ["eating", "singing"],
                    "database": {
                        "-bcdefghijk_30": {"subset": "training", "label": "singing"},
                        "Abcdefghijk_000030_000040": {"subset": "validation", "label": "eating"},
                        "a_cdefghijk": {"subset": "testing", "label": "singing"},
                        "b_cdefghijk_7": {"subset": "testing", "label": "eating"},
                    },
                }
            )
        },
        ["-bcdefghijk_000030.mp4", "eating/Abcdefghijk_000030_000040.mp4", "a_cdefghijk.mkv", "b_cdefghijk_7.mp4"],
        {
            ("-bcdefghijk_30", "-bcdefghijk", "singing", "train", 0.0),
            ("Abcdefghijk_000030_000040", "Abcdefghijk", "eating", "val", 0.0),
            ("a_cdefghijk", "a_cdefghijk", "singing", "test", 0.0),
            ("b_cdefghijk_7", "b_cdefghijk", "eating", "test", 0.0),
        },
    ),
    "ave": (
        {
            "trainSet.txt": "Category&VideoID&Quality&StartTime&EndTime\nChurch bell&RUhOCu3LNXM&good&0&2\n"
            "Male speech, man speaking&RUhOCu3LNXM&good&0&2\n",
            "testSet.txt": "Church bell&-UhOCu3LNXM&good&1&2\nMale speech, man speaking&_UhOCu3LNXM&bad&0&2\n",
        },
        ["AVE/RUhOCu3LNXM.mp4", "AVE/-UhOCu3LNXM.mp4", "AVE/_UhOCu3LNXM.mp4"],
        {
            ("RUhOCu3LNXM_Church%20bell", "RUhOCu3LNXM", "Church bell", "train", 0.0),
            ("RUhOCu3LNXM_Male%20speech%2C%20man%20speaking", "RUhOCu3LNXM", "Male speech, man speaking", "train", 0.0),
            ("-UhOCu3LNXM_Church%20bell", "-UhOCu3LNXM", "Church bell", "test", 1.0),
            ("_UhOCu3LNXM_Male%20speech%2C%20man%20speaking", "_UhOCu3LNXM", "Male speech, man speaking", "test", 0.0),
        },
    ),
    "crema_d": (
        {
            "train.csv": "1088_IOM_NEU_XX,NEU\n1001_DFA_ANG_XX,ANG\n",
            "test.csv": "1088_IEO_ANG_HI,ANG\n1001_IEO_NEU_X,NEU\n",
        },
        [
            *("VideoFlash/1088_IOM_NEU_XX.flv", "1001_DFA_ANG_XX.mp4"),
            *("1088_IEO_ANG_HI.flv", "VideoFlash/1001_IEO_NEU_X.flv"),
        ],
        {
            ("1088_IOM_NEU_XX", "1088_IOM_NEU_XX", "NEU", "train", 0.0),
            ("1001_DFA_ANG_XX", "1001_DFA_ANG_XX", "ANG", "train", 0.0),
            ("1088_IEO_ANG_HI", "1088_IEO_ANG_HI", "ANG", "test", 0.0),
            ("1001_IEO_NEU_X", "1001_IEO_NEU_X", "NEU", "test", 0.0),
        },
    ),
    "music": (
        {
            "MUSIC_solo_videos.json": json.dumps(
                {"version": 1, "videos": {"flute": ["-bcdefghijk"], "tuba": ["a_cdefghijk"]}}
            )
        },
        ["flute/-bcdefghijk.mp4", "tuba/a_cdefghijk.webm"],
        {
            ("-bcdefghijk-000", "-bcdefghijk", "flute", "train", 0.0),
            ("-bcdefghijk-001", "-bcdefghijk", "flute", "train", 1.0),
            ("a_cdefghijk-000", "a_cdefghijk", "tuba", "train", 0.0),
            ("a_cdefghijk-001", "a_cdefghijk", "tuba", "train", 1.0),
        },
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """The bytes of a real video of two seconds."""
    path = make_video(tmp_path_factory.mktemp("video") / "it.mp4", seconds=2.0, fps=10, width=32, height=32)
    return path.read_bytes()


def published(folder, name, video):
    """The lists and the media folder of a recipe, with real videos."""
    lists, files, _ = PUBLISHED[name]
    for list_name, text in lists.items():
        (folder / list_name).write_text(text)
    for file in files:
        (folder / "media" / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "media" / file).write_bytes(video)
    return [str(folder / list_name) for list_name in lists], folder / "media"


def test_every_list_recipe_has_its_rows_here():
    kinds = {path.stem for path in (REPOSITORY / "shards").glob("*.toml") if load_recipe(path.stem).kind == "list"}
    assert kinds == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_list_and_files_as_people_have_them_are_packed(name, tmp_path, video, capsys):
    lists, media = published(tmp_path, name, video)
    words = ("--val-fraction", "0", "--test-fraction", "0", *(("--window-seconds", "1") if name == "music" else ()))
    main(["pack", name, "--list", *lists, "--media", str(media), "--out", str(tmp_path / "out"), *SMALL, *words])
    dataset = Dataset(tmp_path / "out")
    ids = range(len(dataset))
    columns = [dataset.column(column, ids).to_pylist() for column in ("source", "split", "start_seconds")]
    found = {
        (dataset.key(clip_id), source, dataset.classes[dataset.labels[clip_id]], SPLITS[split], start)
        for clip_id, source, split, start in zip(ids, *columns, strict=True)
    }
    assert found == PUBLISHED[name][2]
    assert not dataset.description["rejects"]
    stored = dataset.description["recipe"]["list"]
    assert stored["files"] == list(PUBLISHED[name][0]) and str(tmp_path) not in json.dumps(dataset.description)
    kept = load_recipe(name).classes
    assert dataset.classes == (
        kept or tuple(sorted({row[2] for row in found}, key=lambda label: (len(label) * label.isdigit(), label)))
    )
    assert list(kept) == sorted(kept)
    capsys.readouterr()


def test_the_readmes_command_packs_the_clips_of_a_list(tmp_path, monkeypatch, video):
    (shown,) = commands("shards/README.md", "The lists of known datasets")
    lists, media = published(tmp_path, "vggsound", video)
    monkeypatch.chdir(tmp_path)
    media.rename("VIDEOS")
    assert Path(lists[0]).name in shown
    # The list alone has rows of train only, so val and test are cut out of them.
    main([*shown, *SMALL, "--val-fraction", "0", "--test-fraction", "0"])
    assert Dataset(tmp_path / "DATASET").description["clips"]["train"] == 4


def test_what_a_recipe_leaves_out_and_what_differs_from_the_published_counts_is_said(tmp_path, video):
    lists, media = published(tmp_path, "kinetics400", video)
    videos = videos_of(load_recipe("kinetics400", {"list.lists": lists}), media)
    assert "1 row of the list has no label: d0000000000_000007_000017" in map(str, videos.left_out)
    assert "train 2, published 246,534; val 1, published 19,906; classes 2, published 400" in videos.notes[-1]
    broken = {clip.source: clip.path.relative_to(media).parts[0] for clip in videos.clips}
    assert broken == {"a-000000000": "replacement", "-b000000000": "train", "c0000000000": "val"}


def test_the_classes_of_the_kinetics_sounds_are_classes_of_kinetics_400():
    from torchvision.models.video import R3D_18_Weights

    names = set(R3D_18_Weights.KINETICS400_V1.meta["categories"])
    few, many = load_recipe("kinetics_sound_31").classes, load_recipe("kinetics_sound_32").classes
    assert (len(few), len(many)) == (31, 32) and set(few) < set(many) < names
    assert set(many) - set(few) == {"strumming guitar"}


def test_crema_d_is_split_by_actor_beside_the_published_split(tmp_path, video):
    rows = [f"{actor}_IEO_{label}_XX,{label}" for actor in range(1001, 1011) for label in ("ANG", "SAD")]
    (tmp_path / "train.csv").write_text("\n".join(rows[::2]) + "\n")
    (tmp_path / "test.csv").write_text("\n".join(rows[1::2]) + "\n")
    for row in rows:
        (tmp_path / f"{row.partition(',')[0]}.flv").write_bytes(video)
    words = ["pack", "crema_d", "--list", str(tmp_path / "train.csv"), str(tmp_path / "test.csv")]
    words += ["--media", str(tmp_path), *SMALL]
    main([*words, "--out", str(tmp_path / "clean"), "--split-by", "actor"])
    dataset = Dataset(tmp_path / "clean")
    assert dataset.description["clips"] == {"train": 16, "val": 2, "test": 2}
    actors = defaultdict(set)
    for split in SPLITS:
        for clip_id in dataset.clip_ids(split):
            actors[dataset.key(clip_id)[:4]].add(split)
    assert len(actors) == 10 and all(len(found) == 1 for found in actors.values())
    assert dataset.description["recipe"]["list"]["split_by"] == "actor"


def lists_of(annotations, *names):
    return [str(annotations / name) for name in names]


def split_once(recipe, tmp_path, rows, *, every):
    """The splits of each source, of a media folder that holds the video of one row in `every`."""
    for row in rows[::every]:
        (tmp_path / f"{row.name}.mp4").touch()
    splits = defaultdict(set)
    for clip in videos_of(recipe, tmp_path).clips:
        splits[clip.source].add(clip.split)
    return splits


def test_the_published_test_list_of_vgg_sound_has_its_counts_and_siblings_stay_together(annotations, tmp_path):
    lists = lists_of(annotations, "vggsound_test.csv")
    recipe = load_recipe("vggsound", {"list.lists": lists})
    rows = list(rows_of(recipe.source, Path()))
    assert Counter(row.split for row in rows) == {"test": 15446} and len({row.label for row in rows}) == 309
    assert len({row.name for row in rows}) == 15446 and len({row.source for row in rows}) == 14851
    assert sum(row.name.startswith("-") for row in rows) == 299
    # As a list without splits: val and test are cut out of it, and none of the 595 videos with two clips is torn.
    recipe = load_recipe("vggsound", {"list.lists": lists, "list.default_split": ""})
    splits = split_once(recipe, tmp_path, rows, every=1000)
    assert len(splits) == 14851 and all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == set(SPLITS)


def test_the_published_lists_of_kinetics_sound_have_their_counts_and_no_video_is_in_two_splits(annotations, tmp_path):
    lists = lists_of(annotations, "kinetics_sound_train.txt", "kinetics_sound_test.txt")
    recipe = load_recipe("kinetics_sound", {"list.lists": lists})
    rows = list(rows_of(recipe.source, Path()))
    assert Counter(row.split for row in rows) == {"train": 14799, "test": 2597}
    assert {row.label for row in rows} == set(map(str, range(31)))
    assert {row.seconds for row in rows} == {10.0}
    splits = split_once(recipe, tmp_path, rows, every=1000)
    assert len(splits) == 17396 and all(len(found) == 1 for found in splits.values())
    assert Counter(next(iter(found)) for found in splits.values())["test"] == 2597
    assert videos_of(recipe, tmp_path).classes == tuple(map(str, range(31)))


@pytest.mark.parametrize(
    ("recipe", "text", "parts"),
    [
        ("vggsound", "1088_IOM_NEU_XX,NEU\n", ["column name is '1088_IOM_NEU_XX'", "pack crema_d` reads"]),
        ("vggsound", "-3Mwkq-7TV4_2,10,23\n", ["line 1 has 3 values", "pack kinetics_sound` reads such"]),
        ("vggsound", "-3Mwkq-7TV4,10,x,tset\n", ["line 1: unknown split 'tset'", "did you mean 'test'"]),
        ("vggsound", "-3Mwkq-7TV4,ten,x,test\n", ["line 1: start is 'ten'"]),
        ("vggsound", "-3Mwkq-7TV4,,x,test\n", ["line 1 has no start"]),
        ("kinetics400", "Church bell&RUhOCu3LNXM&good&0&10\n", ["unknown column", "pack ave` reads such a list"]),
        ("kinetics_sound", '{"videos": {"flute": ["a"]}}', ["line 1", "`avbench pack music` reads such a list"]),
        ("kinetics_sound_31", f"{KINETICS}abseiling,a,0,10,train\n", ["none of its 1 rows has a class", "'abseiling'"]),
        ("ave", "-3Mwkq-7TV4_2,10,23\n", ["line 1 has no StartTime", "kinetics_sound"]),
        ("music", "-3Mwkq-7TV4_2,10,23\n", ["line 1, column 3 is no JSON", "kinetics_sound"]),
        ("balanced_av", '{"videos": {"flute": ["a"]}}', ["it has no 'database'; it has videos", "music"]),
        ("crema_d", "1088_IOM_NEU_XX,NEU\n1088_IOM_NEU_XX,SAD\n", ["line 2", "with the label 'SAD' and there 'NEU'"]),
        ("folder", "key,label\na,x\n", ["[list] is for recipes of kind 'list', this one is 'folder'"]),
    ],
)  # fmt: skip
def test_a_list_that_is_malformed_or_of_another_dataset_is_one_clear_line(recipe, text, parts, tmp_path):
    (tmp_path / "list.txt").write_text(text)
    (tmp_path / "1088_IOM_NEU_XX.flv").touch()
    with pytest.raises(RecipeError) as caught:
        videos_of(load_recipe(recipe, {"list.lists": [str(tmp_path / "list.txt")]}), tmp_path)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_lists_are_relative_to_the_working_folder_and_their_place_is_not_in_the_dataset(tmp_path, monkeypatch, video):
    lists, _ = published(tmp_path, "ave", video)
    monkeypatch.chdir(tmp_path)
    words = ["--media", "media", "--val-fraction", "0", *SMALL]
    main(["pack", "ave", *words, "--out", "one", "--list", *(Path(one).name for one in lists)])
    main(["pack", "ave", *words, "--list", *lists, "--out", "two"])
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    with pytest.raises(SystemExit) as stop:
        main(["pack", "ave", *words, "--out", "three", "--list", "none.txt"])
    assert stop.value.code == 2
    with pytest.raises(SystemExit) as stop:
        main(["pack", "ave", *words, "--out", "three"])
    assert stop.value.code == 2 and not (tmp_path / "three").exists()
