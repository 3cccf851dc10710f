"""That what help says of methods without importing them is what their classes say."""

import dataclasses
import inspect
from pathlib import Path

import pytest

import avbench.methods
from avbench.cli import main
from avbench.errors import UsageError
from avbench.methods import METHODS, PLACES
from avbench.methods.base import Method
from avbench.methods.catalogue import all_facts, facts_of
from avbench.methods.described import described
from avbench.vocabulary import MODALITIES


def test_what_is_read_from_sources_is_what_classes_say() -> None:
    for method in described():
        kind = METHODS[method.name]
        assert method.summary == inspect.getdoc(kind).splitlines()[0]
        fields = [(field.name, field.default) for field in dataclasses.fields(kind.Config)]
        assert [(option.name, option.default) for option in method.options] == fields
        assert all(option.text.endswith(".") for option in method.options), method.name


def test_every_class_of_the_folder_with_a_name_is_in_the_table() -> None:
    folder = Path(avbench.methods.__file__).parent
    for name, (module, kind) in PLACES.items():
        assert (folder / f"{module}.py").exists() and METHODS[name].name == name and METHODS[name].__name__ == kind

    def below(kind: type[Method]) -> list[type[Method]]:
        return [kind, *(inner for each in kind.__subclasses__() for inner in below(each))]

    ours = {kind.name for kind in below(Method) if kind.__module__.startswith("avbench.") and "name" in vars(kind)}
    assert ours == set(METHODS)


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_says_everything_of_itself(name: str) -> None:
    facts = facts_of(name)
    assert facts["mechanism"].endswith(".") and facts["network"] and facts["compiles"].startswith("yes")
    assert facts["paper"] or name == "baseline", f"{name} names no paper: give its class a `paper`"
    assert facts["costs"]["encoders"] == (1 if name in MODALITIES else 2)


def test_the_command_lists_methods_and_shows_one(capsys: pytest.CaptureFixture[str]) -> None:
    main(["methods"])
    listed = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{listed}" for name in METHODS)
    main(["methods", "tmc:pseudo_view=true"])
    shown = capsys.readouterr().out
    assert "one on both" in shown and "annealing_epochs" in shown and "2102.02051" in shown
    with pytest.raises(SystemExit) as stop:
        main(["methods", "tmcc"])
    assert stop.value.code == 2 and "did you mean 'tmc'" in capsys.readouterr().err


def test_a_method_of_ones_own_is_shown_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_shown.py").write_text(
        "from avbench.methods.baseline import Baseline\n\n"
        "class Mine(Baseline):\n"
        '    """Mine."""\n\n'
        '    name = "mine"\n'
        '    mechanism = "Does nothing new."\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    facts = facts_of("mine_shown:Mine")
    assert (facts["name"], facts["summary"], facts["mechanism"]) == ("mine", "Mine.", "Does nothing new.")
    assert [option["name"] for option in facts["options"]] == ["fusion"]
    with pytest.raises(UsageError):
        facts_of("mine_shown:Yours")


def test_facts_are_plain() -> None:
    for facts in all_facts():
        assert all(isinstance(value, str | list | dict | None) for value in facts.values())
