"""Every benchmark runs on a few clips, so that none rots."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avbench.benchmarking.data import made_up
from avbench.errors import UsageError
from avbench.methods import METHODS
from tests.synthetic import make_dataset

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def run(name: str, *arguments: object, timeout: float = 300) -> str:
    """The output of a benchmark script, run as its docstring says."""
    command = [sys.executable, str(BENCHMARKS / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("benchmarks") / "data", clips={"train": 6}, seconds=1.5)


def test_the_loaders_benchmark_compares_all_contenders_in_all_cases(dataset, tmp_path):
    pytest.importorskip("librosa", reason="peers are not installed")
    peers = ("webdataset", "webdataset, no worker", "DALI", "DALI, tuned")
    output = run(
        "loader.py", dataset, "--clips", 8, "--rounds", 1, "--batch-size", 4, "--peers", ",".join(peers),
        "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert "CPU ms a clip" in output and "DALI, tuned" in output
    written = json.loads((tmp_path / "out.json").read_text())
    assert {(one["case"], one["contender"]) for one in written["results"]} == {
        (case, contender) for case in ("audio + visual", "audio", "visual") for contender in ("avbench", *peers)
    }
    assert all(one["clips"] == 8 and one["cpu_seconds"] > 0 for one in written["results"])
    assert written["machine"]["versions"]["librosa"] and written["config"]["batch_size"] == 4


@pytest.mark.parametrize(
    ("peer", "module"), [("SPDL", "spdl"), ("LitData", "litdata"), ("MosaicML Streaming", "streaming")]
)
def test_a_peer_gives_the_clips_that_we_give(peer, module, dataset, tmp_path):
    pytest.importorskip(module, reason="not installed", exc_type=ImportError)
    arguments = ("--clips", 8, "--rounds", 1, "--batch-size", 4, "--peers", peer, "--json", tmp_path / "out.json")
    run("loader.py", dataset, *arguments)  # which asserts shapes, and compares the clips' spectrograms
    written = json.loads((tmp_path / "out.json").read_text())
    assert {one["contender"] for one in written["results"]} == {"avbench", peer} and not written["left_out"]


def test_a_peer_that_cannot_run_is_left_out_with_a_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peers

    def why(media: Path | None, **changes: object) -> str | None:
        monkeypatch.setitem(peers.PEERS, "torchcodec", replace(peers.PEERS["torchcodec"], **changes))
        return peers.why_left_out("torchcodec", media=media)

    missing = "torchcodec: left out, no_such_package not installed; pip install 'avbench[peers]'"
    assert why(tmp_path, packages=("no_such_package",)) == missing
    assert "--media" in why(None, packages=())
    unloadable = why(tmp_path, packages=(), module="no_such_module")
    assert unloadable.startswith("torchcodec: left out, does not load here: ") and "\n" not in unloadable
    assert why(tmp_path, packages=(), module="plain_dali") is None


def test_names_of_peers_may_have_commas(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peers

    assert peers.peers_of(["DALI", "DALI", "tuned", "SPDL"]) == ("DALI", "DALI, tuned", "SPDL")
    assert peers.peers_of(["webdataset", "no worker", "webdataset"]) == ("webdataset, no worker", "webdataset")
    assert peers.peers_of(peers.PEERS) == tuple(peers.PEERS)
    for words in (["tuned"], ["DALI", "no worker"], ["Dali"]):
        with pytest.raises(UsageError, match="unknown peer"):
            peers.peers_of(words)
    # Those that have a worker process are also shown without.
    for name, peer in peers.PEERS.items():
        if peer.workers == 1 and not peer.needs_media:
            assert peers.PEERS[f"{name}, no worker"] == replace(peer, workers=0)


def test_a_contender_that_lost_a_clip_or_changed_one_is_found_out(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import loader

    shape = loader.AUDIO_SHAPE
    good = loader.examine([(torch.stack([torch.zeros(shape), torch.ones(shape)]), None)])
    swapped = loader.examine([(torch.ones(1, *shape), None), (torch.zeros(1, *shape), None)])
    loader.compare("SPDL", "audio", swapped, good)  # in any order
    for wrong in ([torch.ones(1, *shape)], [torch.full((1, *shape), 0.1), torch.ones(1, *shape)]):
        with pytest.raises(AssertionError, match="SPDL, audio"):
            loader.compare("SPDL", "audio", loader.examine([(audio, None) for audio in wrong]), good)
    with pytest.raises(AssertionError):
        loader.examine([(torch.zeros(1, *shape[:-1], shape[-1] - 1), None)])


def test_work_that_goes_on_after_the_last_batch_is_waited_for(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import loader

    def work() -> None:
        while time.thread_time() < 0.3:
            pass

    before, thread = loader.cpu_seconds(), threading.Thread(target=work)
    thread.start()
    after, _ = loader.settled()
    assert after - before >= 0.25 and not thread.is_alive()


def test_looking_whether_work_goes_on_is_not_counted(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import loader

    looks = iter([True] * 20 + [False] * 5)

    def look() -> bool:
        begun = time.thread_time()
        while time.thread_time() - begun < 0.01:
            pass
        return next(looks)

    monkeypatch.setattr(loader, "any_thread_works", look)
    before = loader.cpu_seconds()
    after, _ = loader.settled()
    assert after - before < 0.05  # of the 0.2 s that it took to look


def test_the_loaders_benchmark_measures_memory(dataset, tmp_path):
    pytest.importorskip("librosa", reason="peers are not installed")
    few = ("--clips", 6, "--batch-size", 4)
    output = run("loader.py", dataset, "--memory-epochs", 3, *few, "--json", tmp_path / "out.json")
    assert "peak over what the imports take, batches of 4: " in output
    sizes = json.loads((tmp_path / "out.json").read_text())["results"]
    assert len(sizes) == 3
    # Four spectrograms alone are 4 MB; with DALI's libraries at work it is more, and the highest point never falls.
    assert 4e6 < sizes[0]["peak"] <= sizes[1]["peak"] <= sizes[2]["peak"] < 2e9


@pytest.mark.slow
def test_the_floors_benchmark_measures_every_stage(dataset, tmp_path):
    output = run(
        "floors.py", dataset, "--clips", 4, "--rounds", 1, "--batch-size", 2, "--steps", 1, "--step-batch", 2,
        "--preset", "tiny", "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert "over sum" in output
    written = json.loads((tmp_path / "out.json").read_text())
    assert set(written["steps"]) == set(METHODS) and all(value > 0 for value in written["steps"].values())
    floors = written["floor_cpu_seconds"]
    spectrograms = {f"{name} spectrogram" for name in ("real FFT", "torch", "SciPy")}
    decoders = {"flac", "wav", "flac, soundfile", "wav, soundfile"}  # DALI's, and the other
    assert {*spectrograms, *decoders, "JPEG", "resize", "normalize"} < set(floors)
    assert all(value > 0 for value in floors.values()) and floors["flac"] > floors["wav"]
    # A stage's floor is the fastest way, and the whole is theirs together.
    fastest = min(floors["flac"], floors["flac, soundfile"]), min(floors[name] for name in spectrograms)
    audio = written["pipeline"]["audio"]
    assert audio["floor_sum"] == pytest.approx(sum(fastest) + floors["checksum of flac"])
    # 1.5 s of 48 kHz and 16 bit.
    assert written["audio_bytes"]["wav"] == pytest.approx(144_000, rel=0.01)
    assert set(written["pipeline"]) == {"audio + visual", "audio", "visual"}


def test_what_the_floors_benchmark_cannot_measure_is_refused(dataset):
    command = [sys.executable, str(BENCHMARKS / "floors.py"), str(dataset), "--preset", "kinetics-sound-ogm"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("avbench: --preset kinetics-sound-ogm: ") and refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_results_are_written_from_the_json_of_the_command(dataset, tmp_path):
    few = ("--clips", 4, "--rounds", 1, "--batch-size", 2, "--json")
    run("loader.py", dataset, "--peers", "DALI,torchcodec", *few, tmp_path / "loader.json")
    run("floors.py", dataset, "--steps", 0, *few, tmp_path / "floors.json")
    run("store.py", "--clips", 1000, "--rounds", 1, "--json", tmp_path / "store.json")
    results = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("loader", "floors", "store")}
    results["loader"]["results"] = []  # by hand: two rounds of two clips each
    for contender, seconds in (("avbench", 0.4), ("avbench", 0.6), ("DALI", 1.0), ("DALI", 1.0)):
        row = {"case": "audio", "contender": contender, "clips": 2, "cpu_seconds": seconds, "wall_seconds": 1.0}
        results["loader"]["results"].append(row)
    record = {"machine": results["floors"]["machine"], "target": "all", "quick": False, "results": results}
    (tmp_path / "here.json").write_text(json.dumps(record))
    run("results.py", tmp_path / "here.json", "--out", tmp_path / "RESULTS.md")
    written = (tmp_path / "RESULTS.md").read_text()
    assert "## here" in written and record["machine"]["processor"] in written
    assert "| audio | avbench | 250.00 | 20% | 2 |  |" in written
    assert "| audio | DALI | 500.00 | 0% | 2 | 0.50 |" in written
    assert "torchcodec: left out" in written and "### ConfidenceStore" in written and "over sum" in written


def test_sections_that_were_not_measured_again_stay(tmp_path):
    def record(processor: str, seconds: float) -> str:
        row = {"what": "one worker", "clips": 2, "cpu_seconds": seconds, "wall_seconds": 1.0}
        machine = {
            "processor": processor,
            "cores": 1,
            "memory_bytes": 0,
            "gpus": [],
            "load": 0,
            "date": "",
            "versions": {},
        }
        return json.dumps({"machine": machine, "quick": False, "results": {"pack": {"results": [row]}}})

    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(record(f"old {name}", 2.0))
    out = tmp_path / "RESULTS.md"
    run("results.py", tmp_path / "a.json", tmp_path / "b.json", "--out", out)
    first = out.read_text()
    (tmp_path / "a.json").write_text(record("new a", 4.0))
    (tmp_path / "c.json").write_text(record("new c", 4.0))
    run("results.py", tmp_path / "a.json", tmp_path / "c.json", "--out", out, "--update")
    updated = out.read_text()
    assert [line for line in updated.splitlines() if line.startswith("## ")] == ["## a", "## b", "## c"]
    assert "new a" in updated and "old a" not in updated and "new c" in updated
    assert first[first.index("## b") :] in updated.replace("\n## c", "## c")
    assert "a.json b.json c.json" in updated


def test_results_of_a_quick_run_are_refused(tmp_path):
    (tmp_path / "quick.json").write_text(json.dumps({"machine": {"processor": ""}, "quick": True, "results": {}}))
    for name, message in (("quick.json", "--quick"), ("missing.json", "no such file")):
        command = [sys.executable, str(BENCHMARKS / "results.py"), str(tmp_path / name)]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ, check=False)
        assert refused.returncode == 2 and message in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_packing_options_are_compared_in_bytes_time_and_accuracy(tmp_path):
    media = made_up(tmp_path / "made-up", quick=True).media
    output = run(
        "packing_options.py", "--media", media, "--options", "flac-256,stft-64", "--clips", 4, "--rounds", 1,
        "--batch-size", 2, "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert "Absolute differences from flac-256" in output
    written = json.loads((tmp_path / "out.json").read_text())
    flac, stft = written["results"]
    assert set(flac["difference"].values()) == {0.0} and stft["audio_bytes"] == 1001 * 257
    assert stft["picture_bytes"] < flac["picture_bytes"] and 0 < stft["difference"]["picture_mean"] < 60
    # A byte is 0.085 wide: rounding to it is off by a quarter of that on average, but for the silence after 2 s, 0.
    assert 0.2 * 0.085 / 4 * 0.8 < stft["difference"]["spectrogram_mean"] < 0.2 * 0.085 / 4 * 1.2
    assert all(len(costs) == 1 and costs[0] > 0 for row in written["results"] for costs in row["cpu_seconds"].values())


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_trained_network_is_tested_on_what_each_option_of_packing_keeps(tmp_path):
    output = run(
        "packing_accuracy.py", "--sounds", "flac,stft", "--sides", "256,224", "--seeds", 1, "--clips", 4,
        "--seconds", 2, "--classes", 2, "--epochs", 1, "--batch-size", 2, "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert "predictions changed" in output
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [(row["method"], *row["option"]) for row in results] == [
        ("audio", "flac", 256), ("audio", "stft", 256), ("visual", "flac", 256), ("visual", "flac", 224),
    ]  # fmt: skip
    for row in results:
        (seed,) = row["seeds"]
        assert seed["accuracy"] in (0.0, 0.25, 0.5, 0.75, 1.0)
        if row["option"] == ["flac", 256]:
            assert (seed["changed"], seed["confidence_difference"]) == (0, 0)
        else:
            assert 0 < seed["confidence_difference"] < 0.5


@pytest.mark.slow
def test_the_packing_benchmark_packs_with_one_worker_and_with_all(real_clips, tmp_path):
    output = run("pack.py", real_clips, "--clips", 2, "--json", tmp_path / "out.json")
    assert "decoding alone" in output
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [one["clips"] for one in results] == [2] * len(results)
    alone, packed = results[0], results[1]
    assert alone["cpu_seconds"] > 0 and packed["cpu_seconds"] > 0 and packed["what"] == "pack, 1 worker"


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_methods_benchmark_times_own_work(tmp_path):
    run("methods.py", "--preset", "tiny", "--rounds", 1, "--batch-size", 2, "--json", tmp_path / "out.json")
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert {row["method"] for row in results} == {"baseline", "ogm-ge", "tmc", "greedy", "gradient-blending"}
    assert all(row["plain_seconds"] > 0 and row["method_seconds"] > 0 for row in results)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_steps_benchmark_compares_with_a_plain_loop_that_learns_the_same(tmp_path):
    output = run(
        "step.py", "--preset", "tiny", "--rounds", 1, "--batch-size", 4, "--steps", 3, "--json", tmp_path / "o"
    )
    assert "times as fast" in output
    results = json.loads((tmp_path / "o").read_text())["results"]
    assert [row["method"] for row in results] == ["baseline", "ogm-ge"]
    for row in results:
        assert {"plain loop", "avbench, float32"} <= set(row["contenders"])
        assert all(one["cpu_seconds"] > 0 and one["ratio"] > 0 for one in row["contenders"].values())
        assert len(set(row["losses"]["plain loop, float64"])) == 3  # it learns
        assert row["largest_difference_of_losses"]["avbench, float64"] < 1e-9
    losses = [row["losses"]["plain loop, float64"] for row in results]
    assert losses[0][0] == losses[1][0] and losses[0][2] != losses[1][2]  # modulation slows


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_methods_benchmark_times_one_pass_and_separate_runs(tmp_path):
    dataset = make_dataset(tmp_path / "data", clips={"train": 8, "val": 3, "test": 3}, seconds=1.5)
    output = run(
        "methods.py", "--dataset", dataset, "--preset", "tiny", "--rounds", 1, "--batch-size", 4,
        "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert "all seven in one pass" in output
    (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert len(result["alone"]) == 7 and result["decoding"]["cpu_seconds"] > 0
    # Only loaders' threads count: the loader alone takes about as much of them as of the process, a training far less.
    assert 0 < result["decoding"]["loading_seconds"] < 1.02 * result["decoding"]["cpu_seconds"]
    assert 0 < result["together"]["loading_seconds"] < 0.5 * result["together"]["cpu_seconds"]
    assert sum(one["loading_seconds"] for one in result["alone"].values()) > 2 * result["together"]["loading_seconds"]


def test_only_threads_that_load_count_as_loading_and_ended_ones_too(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import methods

    def work() -> None:
        while time.thread_time() < 0.3:
            pass

    with methods.loading_threads() as seconds:
        for name in ("avbench-loader", "another"):
            thread = threading.Thread(target=work, name=name)
            thread.start()
            thread.join()
    assert sum(seconds.values()) == pytest.approx(0.3, abs=0.1)


@pytest.mark.slow
def test_the_fed_benchmark_trains_on_the_loader_and_on_a_resident_batch(dataset, tmp_path):
    few = ("--batch-size", 4, "--steps", 2, "--rounds", 2, "--methods", "audio,baseline")
    output = run("fed.py", dataset, *few, "--json", tmp_path / "out.json")
    assert "fed over resident, CPU time" in output
    written = json.loads((tmp_path / "out.json").read_text())
    assert len(written["results"]) == 2
    for one in written["results"]:
        assert set(one) == {"resident", "fed", "loader"}
        assert all(0 <= timing["waiting_seconds"] <= timing["wall_seconds"] for timing in one.values())
        assert one["resident"]["waiting_seconds"] < 0.01 * one["resident"]["wall_seconds"]
        assert one["loader"]["thread_seconds"] < 0.5 * one["resident"]["thread_seconds"]  # it trains nothing


@pytest.mark.slow
def test_the_stores_benchmark_measures_two_ranks_and_extrapolates(tmp_path):
    output = run(
        "store.py", "--clips", 1000, 5000, "--rounds", 1, "--target-clips", 10_000, "--target-ranks", 4, 1000,
        "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert "peak, MB a rank" in output and "1,000 ranks" in output
    written = json.loads((tmp_path / "out.json").read_text())
    for result, clips in zip(written["results"], (1000, 5000), strict=True):
        assert result["clips"] == clips and len(result["of_ranks"]) == 2
        assert all(result["wall_seconds"].values()) and all(result["cpu_seconds"].values())
        assert result["saved_bytes"] > 32 * clips and result["history_bytes"] > 4 * clips
        # Half of what a rank recorded is its own; 12 bytes a value, and who sends how much.
        assert 0.8 < result["sent_bytes"] / (12 * clips / 4) < 1.2
        assert 0 < result["peak_bytes"] < 32 * clips / 2 + 200e6
    at_four, at_thousand = written["forecasts"]
    between = [result["cpu_seconds"]["exchange"] for result in written["results"]]  # of 500 and 2,500 clips a rank
    assert at_four["exchange_seconds"]["processor"] == pytest.approx(between[1])
    assert at_thousand["exchange_seconds"]["processor"] == pytest.approx(between[0])
    assert at_thousand["exchange_seconds"]["rounds"] == pytest.approx(250 * at_four["exchange_seconds"]["rounds"])
    assert at_four["saved_bytes"] == pytest.approx(2 * written["results"][1]["saved_bytes"])


def test_the_index_benchmark_finishes_opens_checks_and_verifies(tmp_path):
    output = run("index.py", "--clips", 40, 80, "--clips-per-shard", 8, "--rounds", 1, "--json", tmp_path / "out.json")
    assert "CPU s (us a clip)" in output and "80 clips" in output
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [(one["clips"], one["shards"]) for one in results] == [(40, 5), (80, 10)]
    for one in results:
        assert set(one["phases"]) == {"finish", "open", "look", "check", "verify", "view", "open view"}
        assert one["phases"]["verify"]["shards_verified"] == one["shards"] - 1
        assert all(phase["cpu_seconds"] >= 0 for phase in one["phases"].values())
        assert one["phases"]["verify"]["cpu_seconds"] > 0


def test_the_stores_benchmark_refuses_what_memory_cannot_hold():
    command = [sys.executable, str(BENCHMARKS / "store.py"), "--clips", str(10**12)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("avbench: 1,000,000,000,000 clips need 40000.") and refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_evaluates_benchmark_measures_memory_and_temporary_files_and_extrapolates(tmp_path):
    few = ("--resamples", 20, "--memory-gb", 0.5, "--target", "80000x2x2", "--folder", tmp_path)
    sizes = ("--sizes", "2000x3x1", "40000x2x1")
    output = run("evaluate.py", *sizes, *few, "--json", tmp_path / "out.json", timeout=900)
    assert "extrapolated" in output
    written = json.loads((tmp_path / "out.json").read_text())
    small, large = written["results"]
    assert all(result["cpu_seconds"] > 0 and result["left_behind"] == [] for result in (small, large))
    assert small["temporary_bytes"] == 0  # fits into memory
    assert large["temporary_bytes"] == 40_000 * 309 * 4  # one run's at a time
    assert large["peak_bytes"] < 0.5e9
    assert written["extrapolated"]["cpu_seconds"] == pytest.approx(4 * large["cpu_seconds"])
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_evaluates_benchmark_refuses_a_size_that_is_none():
    command = [sys.executable, str(BENCHMARKS / "evaluate.py"), "--sizes", "1000x1x3"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ, check=False)
    assert refused.returncode == 2
    assert "'1000x1x3': expected CLIPSxRUNSxSEEDS with two runs or more" in refused.stderr


def test_choosings_benchmark_says_what_was_kept_and_how_uniform_it_is(tmp_path):
    few = ("--clips", 3000, "--classes", 2, 3, "--size", 300, "--minimum", 20)
    output = run("choose.py", *few, "--json", tmp_path / "out.json")
    assert "2 classes" in output and "3 classes" in output
    for result in json.loads((tmp_path / "out.json").read_text())["results"]:
        assert 0.95 * result["possible"] <= result["kept"] <= min(result["possible"], 300)
        assert result["ks_after"] <= 0.1 + 1 / 120 < result["ks_before"]
        assert result["cpu_seconds"] > 0 and result["loosened"] == []


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_engines_benchmark_times_modulation_under_each(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [BENCHMARKS / "engines.py", "--preset", "tiny", "--batch-size", "2", "--rounds", "2"]
    command += ["--json", tmp_path / "out.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["ranks"] == 2
    assert {row["engine"] for row in written["results"]} == {"ddp", "zero0", "zero1", "zero2"}
    assert len(written["results"]) == 12 and all(row["seconds"] > 0 for row in written["results"])


@pytest.fixture(scope="module")
def many_steps(tmp_path_factory) -> Path:
    """16 steps of four clips: enough to be killed and resumed in between, and to have checkpoints written beside."""
    clips = {"train": 64, "val": 3, "test": 3}
    return make_dataset(tmp_path_factory.mktemp("many") / "data", clips=clips, seconds=1.5)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two ranks need two cores")
def test_the_ranks_benchmark_measures_ranks_checkpoints_and_resuming(many_steps, tmp_path):
    # The first checkpoint comes after step 8: steps 2 to 8 are usual ones, and in the ninth it was copied.
    few = ("--methods", "audio", "--batch-size", 4, "--rounds", 1, "--checkpoint-steps", 8)
    output = run("ranks.py", many_steps, *few, "--json", tmp_path / "out.json", timeout=900)
    assert "clips/s of two ranks over one's" in output
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    ((ranks,), (checkpoint,), (resume,)) = (results[name] for name in ("ranks", "checkpoint", "resume"))
    assert ranks["ratio"] == pytest.approx(ranks["two"] / ranks["one"]) and ranks["one"] > 0
    assert checkpoint["steps"]["usual"] >= 6 and checkpoint["steps"]["saving"] >= 1 and checkpoint["ratio"] > 0
    assert resume["seconds"] > 0


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two ranks need two cores")
def test_the_plan_is_checked_against_trainings_of_one_and_of_two_ranks(many_steps, tmp_path):
    few = ("--methods", "audio", "--batch-size", 4, "--clips", 8, "--rounds", 1)
    output = run("plan.py", many_steps, *few, "--json", tmp_path / "out.json", timeout=900)
    assert "predicted over it" in output
    one, two = json.loads((tmp_path / "out.json").read_text())["results"]
    assert (one["ranks"], two["ranks"]) == (1, 2)
    for result in (one, two):
        costs = result["load_cpu_seconds"] + result["steps_cpu_seconds"]
        assert result["predicted"] == pytest.approx(result["ranks"] / costs)
        (measured,) = result["measured"]
        # Whatever else runs here: a core does no more than all of it can.
        assert 0 < measured["clips_per_second"] <= 1.05 * measured["of_own_cores"]
