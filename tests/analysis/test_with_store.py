"""What the confidence store writes is what the analysis reads: the real store, the real dataset, no hand-made table."""

import numpy as np
import pytest

from avbench.analysis.reading.results import parse_epochs
from avbench.analysis.reading.runs import read_runs
from avbench.analysis.report import assess
from avbench.confidence.export import export
from avbench.confidence.store import ConfidenceStore
from avbench.dataset import Dataset
from avbench.records import write_json, write_text
from avbench.vocabulary import MODALITIES
from tests.analysis.make_run import write_predictions
from tests.synthetic import make_dataset

EPOCHS = 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder whose stores recorded three epochs, except that clip 40 was never and clip 41 only once recorded."""
    folder = tmp_path_factory.mktemp("trained")
    dataset = Dataset(make_dataset(folder / "dataset"))
    run = folder / "run"
    write_text(run / "config.toml", "")
    write_json(run / "environment.json", {})
    write_json(run / "dataset.json", dataset.summary())
    values = np.random.default_rng(0).random((2, EPOCHS, len(dataset))).astype(np.float32)
    stores = []
    for modality, by_epoch in zip(MODALITIES, values, strict=True):
        store = ConfidenceStore(len(dataset), modality=modality, seed=0, history=run / "confidence" / "history")
        for epoch, confidences in enumerate(by_epoch):
            seen = np.array([clip for clip in range(len(dataset)) if clip != 40 and (clip != 41 or epoch == 1)])
            store.record(seen, confidences[seen], confidences[seen] > 0.5, position=0)
            store.commit(epoch)
        stores.append(store)
    export(run / "confidence.parquet", stores=stores, dataset=dataset)
    test = dataset.clip_ids("test")
    for name in (*MODALITIES, "baseline"):
        write_predictions(
            run, run=name, method=name, seed=0, split="test", clip_ids=test, labels=dataset.labels[test].tolist(),
            correct=[True] * len(test), epoch=2,
        )  # fmt: skip
    return run, test, values


def test_exported_means_are_read_back_and_the_clip_never_seen_is_left_out(trained):
    run, test, values = trained
    results = read_runs([run], split="test", epochs="all")
    kept = test[test != 40]
    np.testing.assert_array_equal(results.clip_ids, kept)
    for modality, by_epoch in zip(MODALITIES, values.astype(np.float64), strict=True):
        expected = by_epoch.mean(axis=0)
        expected[41] = by_epoch[1, 41]
        np.testing.assert_allclose(results.confidence[modality], expected[kept], rtol=0, atol=1e-12)
    assert (results.coverage.listed, results.coverage.unrecorded) == (12, 1)
    assert results.planted is None


def test_the_whole_history_averages_to_what_was_exported(trained):
    run, _, _ = trained
    exported = read_runs([run], split="test", epochs="all").confidence
    averaged = read_runs([run], split="test", epochs=parse_epochs(f"0:{EPOCHS - 1}")).confidence
    for modality in exported:
        np.testing.assert_allclose(averaged[modality], exported[modality], rtol=0, atol=1e-12)


def test_best_reads_the_epoch_of_the_predictions(trained):
    run, _, values = trained
    results = read_runs([run], split="test", epochs="best")
    assert 41 not in results.clip_ids  # that epoch did not record it
    np.testing.assert_array_equal(results.confidence["audio"], values[0, 2, results.clip_ids].astype(np.float64))


def test_its_numbers_are_computed(trained):
    assert assess([trained[0]])[0].coverage.evaluated == 11
