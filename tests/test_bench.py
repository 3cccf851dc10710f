"""`avbench bench`: its plan by hand-computed cases, its command by what it prints and refuses."""

import json
import re

import pytest

from avbench.benchmarking.plan import (
    Costs,
    Machines,
    advice,
    bytes_per_second,
    chosen_methods,
    costs_of,
    make_plan,
    read_costs,
)
from avbench.cli import main
from avbench.errors import UsageError
from avbench.machine import describe, processor_name, summary
from avbench.methods import METHODS
from avbench.vocabulary import MODALITIES
from tests.synthetic import make_dataset

# 10 ms of loading; 1 ms and 3 ms of a step on a GPU. With WAV half the CPU time and twice the bytes.
COSTS = Costs(
    preset="paper",
    read_bytes={"flac": 500_000, "wav": 1_000_000},
    load_cpu_seconds={"flac": 0.010, "wav": 0.005},
    step_seconds={"audio": 0.001, "visual": 0.003},
    steps_on_gpu=True,
    load_gpu_seconds=0.0005,
    estimated=("wav",),
)
BOTH = MODALITIES
MEASURED = {
    "preset": "paper",
    "audio_suffix": "flac",
    "floor_cpu_seconds": {"flac": 0.004, "wav": 0.001},
    "audio_bytes": {"flac": 400_000, "wav": 960_000},
    "picture_bytes": 20_000,
    "pipeline": {"audio + visual": {"cpu_seconds": 0.006, "wall_seconds": 0.007}},
    "device": "cpu",
    "steps": {"audio": 0.2, "visual": 0.05},
}


def test_the_plan_is_the_slowest_of_the_stages_computed_by_hand():
    plan = make_plan(COSTS, Machines(4, 6, 1e9), methods=BOTH, codec="flac")
    assert plan.rates == pytest.approx(
        {
            "storage": 2000,  # 1e9 / 5e5
            "cores": 2000,  # 4 x (6 - 1) / 0.01
            "loader": 8000,  # 4 / 0.0005
            "steps": 1000,  # 4 / (0.001 + 0.003)
        }
    )
    assert (plan.binds, plan.clips_per_second) == ("steps", pytest.approx(1000))
    assert plan.hours(200_000) == pytest.approx(200 / 3600)


@pytest.mark.parametrize(
    ("gpus", "cores", "storage", "methods", "binds", "rate"),
    [
        (64, 12, 2e9, BOTH, "storage", 4000),  # cores 64 x 11 / 0.01 = 70,400, steps 16,000
        (64, 2, 1e12, ("audio",), "cores", 6400),  # steps 64,000, loader 128,000
        (1, 64, 1e12, ("audio",), "steps", 1000),
    ],
)
def test_what_binds_moves_with_the_machines(gpus, cores, storage, methods, binds, rate):
    plan = make_plan(COSTS, Machines(gpus, cores, storage), methods=methods, codec="flac")
    assert (plan.binds, plan.clips_per_second) == (binds, pytest.approx(rate))


def test_on_cpus_loading_and_steps_share_the_cores():
    costs = costs_of(MEASURED)
    plan = make_plan(costs, Machines(0, 2, 1e9), methods=BOTH, codec="flac")
    assert plan.rates["cores"] == pytest.approx(2 / (0.006 + 0.25)) and plan.binds == "cores"
    assert not plan.unknown_steps


def test_steps_of_a_cpu_are_not_taken_for_a_gpus():
    plan = make_plan(costs_of(MEASURED), Machines(8, 12, 1e9), methods=BOTH, codec="flac")
    assert plan.unknown_steps and "steps" not in plan.rates
    with pytest.raises(UsageError, match="measured on a GPU"):
        make_plan(COSTS, Machines(0, 12, 1e9), methods=BOTH, codec="flac")


def test_the_other_codecs_cost_is_the_measured_one_with_the_decoder_exchanged():
    costs = costs_of(MEASURED)
    assert costs.load_cpu_seconds == pytest.approx({"flac": 0.006, "wav": 0.003})  # 6 - 4 + 1 ms
    assert costs.read_bytes == {"flac": 420_000, "wav": 980_000}
    assert costs.estimated == ("wav",) and costs.load_gpu_seconds is None


def test_advice_where_cores_bind_is_another_codec_and_the_cores_that_suffice():
    # Cores 6,400 with FLAC and 12,800 with WAV; steps 64,000 would want 64,000 x 0.01 / 64 = 10 cores and one to train.
    lines = advice(COSTS, Machines(64, 2, 1e12), methods=("audio",), codec="flac")
    assert lines[0].startswith("11 cores a GPU") and "64,000 clips/s (x10.0)" in lines[0]
    assert lines[1].startswith("pack audio as wav (2.0 times the bytes, CPU time estimated)")
    assert "12,800 clips/s (x2.0)" in lines[1]


def test_advice_where_storage_binds_names_the_bandwidth_and_no_bigger_codec():
    # Storage 4,000; the next is steps, 16,000, which want 16,000 x 0.5 MB = 8 GB/s.
    lines = advice(COSTS, Machines(64, 12, 2e9), methods=BOTH, codec="flac")
    assert len(lines) == 1 and lines[0].startswith("storage of 8 GB/s") and "16,000 clips/s (x4.0)" in lines[0]


def test_advice_where_steps_bind_is_smaller_crops_of_methods_that_look():
    # 112 x 112 is a quarter of the pixels: 3 -> 0.75 ms; 4 / (1 + 0.75) ms = 2,286 clips/s. Sound is as it was.
    lines = advice(COSTS, Machines(4, 64, 1e12), methods=BOTH, codec="flac")
    assert lines[0].startswith("crops of 112 x 112") and "2,286 clips/s (x2.3)" in lines[0]
    assert len(lines) == 4
    nothing = advice(COSTS, Machines(4, 64, 1e12), methods=("audio",), codec="flac")
    assert nothing == ["steps binds; no other codec, number of cores or crop helps, only more GPUs"]


def test_a_gpus_only_core_cannot_load():
    with pytest.raises(UsageError, match="--cores-per-gpu 1: one core trains, so loading needs at least 2"):
        make_plan(COSTS, Machines(8, 1, 1e9), methods=BOTH, codec="flac")


@pytest.mark.parametrize(
    ("text", "rate"),
    [("2GB/s", 2e9), ("500 MiB/s", 500 * 2**20), ("25Gbit/s", 25e9 / 8), ("1.5tb/s", 1.5e12), ("8kbps", 8e3)],
)
def test_rates_of_storage(text, rate):
    assert bytes_per_second(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["", "fast", "2", "2GB", "0GB/s", "-1GB/s", "1.2.3GB/s", "2XB/s"])
def test_a_rate_of_storage_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError, match="expected a rate like 2GB/s"):
        bytes_per_second(text)


def test_methods_by_number_and_by_name():
    assert chosen_methods("2") == MODALITIES and len(chosen_methods(str(len(METHODS)))) == len(METHODS)
    assert chosen_methods("ogm-ge, audio") == ("ogm-ge", "audio")
    for wrong in ("0", str(len(METHODS) + 1), "", ","):
        with pytest.raises(UsageError, match="expected 1 to 7"):
            chosen_methods(wrong)
    with pytest.raises(UsageError, match="did you mean 'ogm-ge'"):
        chosen_methods("ogm-gee")


def test_costs_are_read_from_the_command_s_json_and_from_the_script_s(tmp_path):
    (tmp_path / "script.json").write_text(json.dumps(MEASURED))
    (tmp_path / "command.json").write_text(json.dumps({"results": {"floors": MEASURED}}))
    assert read_costs(tmp_path / "script.json") == read_costs(tmp_path / "command.json") == costs_of(MEASURED)
    for name, text in (("broken.json", "{"), ("other.json", '{"results": {"store": {}}}'), ("list.json", "[]")):
        (tmp_path / name).write_text(text)
        with pytest.raises(UsageError, match="holds no stage costs"):
            read_costs(tmp_path / name)


def test_the_machine_is_described(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some Processor 9000\n")
    assert processor_name(tmp_path / "cpuinfo") == "Some Processor 9000"
    assert processor_name(tmp_path / "missing")
    machine = describe(["pytest", "no-such-package"])
    assert machine["cores"] >= 1 and machine["memory_bytes"] > 1e8 and machine["versions"]["torch"]
    assert "pytest" in machine["versions"] and "no-such-package" not in machine["versions"]
    assert machine["gpus"] or machine["why_no_gpu"].startswith("NVML: ")
    assert machine["processor"] in summary(machine)


def test_the_command_plans_from_a_file(tmp_path, capsys):
    (tmp_path / "costs.json").write_text(json.dumps({**MEASURED, "steps": dict.fromkeys(chosen_methods("7"), 0.1)}))
    where = ["--from", str(tmp_path / "costs.json"), "--json", str(tmp_path / "plan.json")]
    main(["bench", "plan", "--gpus", "64", "--cores-per-gpu", "12", "--storage", "2GB/s", *where])
    assert "steps were measured on a CPU" in capsys.readouterr().out
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["binds"] == "storage" and "steps" not in written["clips_per_second"]
    assert written["clips_per_second"]["storage"] == pytest.approx(2e9 / 420_000)
    main(["bench", "plan", "--gpus", "4", "--storage", "2GB/s", "--step-ms", "8", *where])
    assert "steps binds: 500 clips/s, 0.11 hours an epoch of 200,000 clips" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loadr"], "unknown target of bench 'loadr'; did you mean 'loader'"),
        (["loader", "missing"], "missing: no such dataset folder"),
        (["loader", "--preset", "papr"], "unknown preset 'papr'"),
        (["loader", "--preset", "kinetics-sound-ogm"], "no Fourier transform alone"),
        (["loader", "--media", "."], "name the dataset too"),
        (["loader", "--media", "nowhere"], "--media nowhere: no such folder"),
        (["store", "--json", "no/such/folder/out.json"], "--json no/such/folder/out.json"),
        (["plan", "--from", "missing.json"], "--from missing.json: no such file"),
        (["plan", "--storage", "2"], "--storage '2': expected a rate"),
        (["plan", "--gpus", "-1"], "--gpus -1: expected 0 or more"),
        (["plan", "--methods", "8"], "--methods 8: expected 1 to 7"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("avbench: ") and message in error and error.count("\n") == 1


def test_a_script_s_own_refusal_is_the_command_s(tmp_path, capfd):
    dataset = make_dataset(tmp_path / "data", clips={"train": 2}, seconds=0.5, sample_rate=16_000)
    with pytest.raises(SystemExit) as stop:
        main(["bench", "loader", str(dataset), "--quick"])
    assert stop.value.code == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("avbench: ")]
    assert len(errors) == 1 and "peers do not resample" in errors[0]


def test_help_lists_the_targets(capsys):
    main(["bench"])
    options, _, _ = capsys.readouterr().out.partition("examples:")
    targets = re.findall(r"^  (\w+)", options, re.MULTILINE)
    assert targets == ["loader", "training", "store", "pack", "all", "plan"]


def test_a_target_s_results_are_gathered_with_the_machine(tmp_path, capfd):
    main(["bench", "store", "--quick", "--json", str(tmp_path / "out.json")])
    assert "peak, MB a rank" in capfd.readouterr().out
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["quick"] and written["target"] == "store" and written["machine"]["cores"]
    assert [one["clips"] for one in written["results"]["store"]["results"]] == [1000, 5000]


@pytest.mark.slow
def test_everything_runs_quickly_on_made_up_clips(tmp_path):
    main(["bench", "all", "--quick", "--preset", "tiny", "--json", str(tmp_path / "out.json")])
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert set(results) == {"loader", "floors", "methods", "one pass", "store", "pack"}
    assert read_costs(tmp_path / "out.json").load_cpu_seconds["flac"] > 0
