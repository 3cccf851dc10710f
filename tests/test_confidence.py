"""ConfidenceStore with real processes: the same bits at any world size, nothing lost, nothing counted twice.

The oracle is a dictionary and a loop over the global order. State is compared through what `save` writes.
"""

import itertools
import json
import math
import os
import resource
import signal
import sys
import tracemalloc
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avbench.confidence import export as exporting
from avbench.confidence import store as confidence
from avbench.confidence.export import export
from avbench.confidence.store import ROW, ConfidenceStore, owned_range
from avbench.dataset import INDEX_FILE, INDEX_SCHEMA, QUARANTINE_FILE, Dataset
from avbench.distributed import World, all_to_all, barrier, current_world
from avbench.errors import RunError
from avbench.records import CONFIDENCE_SCHEMA, HISTORY_SCHEMA
from tests.processes import RanksFailed, run_on_ranks
from tests.synthetic import make_dataset

WORLD_SIZES = (1, 2, 3)
Value = tuple[int, float, bool]  # clip id, confidence, correct


@dataclass(frozen=True)
class Plan:
    """What a store of some clips is given: epochs of global batches of values, in global order."""

    clips: int
    epochs: list[list[list[Value]]]
    exchanges: frozenset[int]  # batches after which an exchange is made, beside those that must be
    buffer_bytes: int


values = st.tuples(
    st.integers(0, 10**9), st.floats(0, 1, width=32) | st.sampled_from([0.0, -0.0, 1.0, 2.0**-149]), st.booleans()
)


@st.composite
def plans(draw):
    clips = draw(st.integers(1, 12) | st.just(300))
    epochs = draw(st.lists(st.lists(st.lists(values, max_size=9), max_size=5), min_size=1, max_size=3))
    within = [[[(clip % clips, *rest) for clip, *rest in batch] for batch in epoch] for epoch in epochs]
    # From a value a round to all in one.
    return Plan(clips, within, draw(st.frozensets(st.integers(0, 4))), draw(st.sampled_from([1, 500, 1 << 20])))


def store_of(plan, folder, **options):
    return ConfidenceStore(
        plan.clips, modality="audio", seed=7, history=folder, buffer_bytes=plan.buffer_bytes, **options
    )


def record(store, batch, position):
    """Record this rank's consecutive slice of a global batch."""
    world = current_world()
    mine = batch[world.rank * len(batch) // world.size : (world.rank + 1) * len(batch) // world.size]
    ids, floats, right = zip(*mine, strict=True) if mine else ((), (), ())
    store.record(
        torch.tensor(ids, dtype=torch.int64),
        torch.tensor(floats, dtype=torch.float32),
        torch.tensor(right, dtype=torch.bool),
        position=position,
    )


def play(plans, folder):
    """Every plan through a store each, saved with the last epoch open."""
    for number, plan in enumerate(plans):
        store = store_of(plan, folder / str(number) / "history")
        for epoch, batches in enumerate(plan.epochs):
            for position, batch in enumerate(batches):
                record(store, batch, position)
                if position in plan.exchanges:
                    store.exchange()
            if epoch < len(plan.epochs) - 1:
                store.commit(epoch)
        store.save(folder / str(number))


def saved_rows(folder, name="audio-seed7"):
    """All rows of a save, in order of clip id, and the number of committed epochs."""
    manifest = json.loads((folder / f"{name}.json").read_text())
    return np.concatenate([np.fromfile(folder / entry["name"], ROW) for entry in manifest["files"]]), manifest["epochs"]


def first_values(batches):
    """Clip -> (confidence, correct) of one epoch: the first in global order."""
    firsts = {}
    for batch in batches:
        for clip, floating, right in batch:
            firsts.setdefault(clip, (float(np.float32(abs(floating))), right))
    return firsts


def totals(plan, epochs):
    """Per clip (sum, sum of squares, epochs, correct epochs), added up in the order of epochs."""
    sums = dict.fromkeys(range(plan.clips), (0.0, 0.0, 0, 0))
    for batches in plan.epochs[:epochs]:
        for clip, (value, right) in first_values(batches).items():
            total, squares, count, correct = sums[clip]
            sums[clip] = (total + value, squares + value * value, count + 1, correct + right)
    return [sums[clip] for clip in range(plan.clips)]


def check_saved(plan, folder, *, epochs):
    """The save holds these committed epochs' totals and the next epoch's values, bit for bit."""
    rows, committed = saved_rows(folder)
    assert committed == epochs
    got = [tuple(row) for row in rows[["sum", "sum_of_squares", "epochs", "correct_epochs"]].tolist()]
    assert got == totals(plan, epochs)
    still_open = first_values(plan.epochs[epochs]) if epochs < len(plan.epochs) else {}
    assert np.flatnonzero(rows["precedence"]).tolist() == sorted(still_open)
    for clip, (value, right) in still_open.items():
        assert rows["value"][clip] == np.float32(value).view(np.uint32) + (2**31 if right else 0)


def check_history(plan, folder, *, epochs, ranks):
    """Of each of these epochs there is a part a rank, and together they hold each recorded clip once, by clip id."""
    assert len(list(folder.iterdir())) == epochs * ranks, sorted(path.name for path in folder.iterdir())
    for epoch, batches in enumerate(plan.epochs[:epochs]):
        parts = [folder / f"audio-seed7-epoch{epoch:04d}-rank{rank:04d}.parquet" for rank in range(ranks)]
        table = pa.concat_tables(pq.read_table(part) for part in parts)
        assert table.schema == HISTORY_SCHEMA
        got = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
        assert got == [(clip, value, right) for clip, (value, right) in sorted(first_values(batches).items())]


@given(st.integers(1, 10**10), st.integers(1, 50))
def test_ranks_own_consecutive_ranges_that_differ_by_at_most_one_clip(clips, ranks):
    ranges = [owned_range(rank, ranks, clips=clips) for rank in range(ranks)]
    assert ranges[0][0] == 0 and ranges[-1][1] == clips
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    sizes = {stop - start for start, stop in ranges}
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("ranks", WORLD_SIZES)
def test_totals_open_epoch_and_history_are_the_same_bit_for_bit_at_any_world_size(tmp_path_factory, ranks):
    @settings(max_examples=5, deadline=None)  # of ten cases each: starting processes is what takes time
    @given(st.lists(plans(), min_size=10, max_size=10))
    def property_(several):
        folder = tmp_path_factory.mktemp("plans")
        run_on_ranks(ranks, play, several, folder)
        for number, plan in enumerate(several):
            check_saved(plan, folder / str(number), epochs=len(plan.epochs) - 1)
            if len(plan.epochs) > 1:
                check_history(plan, folder / str(number) / "history", epochs=len(plan.epochs) - 1, ranks=ranks)

    property_()


def play_part(plans, folder, number, parts):
    """Load what part `number` - 1 saved, record this part's share of each plan's only epoch, save."""
    for name, plan in enumerate(plans):
        store = store_of(plan, None)
        if number:
            store.load(folder / str(name))
        batches = plan.epochs[0]
        for position in range(number * len(batches) // parts, (number + 1) * len(batches) // parts):
            record(store, batches[position], position)
        if number == parts - 1:
            store.commit(0)
        store.save(folder / str(name))


def test_resharding_in_the_middle_of_an_epoch_loses_nothing_and_counts_nothing_twice(tmp_path_factory):
    one_epoch = plans().map(lambda plan: Plan(plan.clips, plan.epochs[:1], plan.exchanges, plan.buffer_bytes))

    @settings(max_examples=4, deadline=None)
    @given(st.lists(one_epoch, min_size=10, max_size=10))
    def property_(several):
        folder = tmp_path_factory.mktemp("parts")
        sizes = (4, 3, 1, 2)
        for number, ranks in enumerate(sizes):
            run_on_ranks(ranks, play_part, several, folder, number, len(sizes))
        for name, plan in enumerate(several):
            check_saved(plan, folder / str(name), epochs=1)

    property_()


def test_a_clip_in_two_slices_of_one_batch_counts_for_the_lower_rank_whenever_it_is_exchanged(tmp_path):
    for numbers, winner in (([1, 0], 0.25), ([0, 1], 0.25)):
        run_on_ranks(2, record_in_turn, tmp_path, numbers)
        rows, _ = saved_rows(tmp_path)
        assert rows["value"][0].view(np.float32) == winner


def record_in_turn(folder, order):
    """Rank 0 says 0.25 and rank 1 says 0.75 of clip 0 in one batch, an exchange after each."""
    store = ConfidenceStore(4, modality="audio", seed=7)
    for rank in order:
        if current_world().rank == rank:
            store.record(np.array([0]), np.array([0.25 + 0.5 * rank]), np.array([False]), position=3)
        store.exchange()
    store.save(folder)


@pytest.mark.parametrize("exchanges", [False, True])
def test_of_a_clip_recorded_twice_the_lower_position_counts_whichever_was_recorded_first(tmp_path, exchanges):
    store = one_rank_store()
    for position, value in ((5, 0.5), (3, 0.25), (3, 0.75), (4, 1.0)):
        put(store, [2, 1], [value, value], position=position)
        if exchanges:
            store.exchange()
    store.save(tmp_path)
    assert saved_rows(tmp_path)[0]["value"].view(np.float32).tolist() == [0, 0.25, 0.25, 0]


BUFFER_BYTES = 1 << 20


def store_with_small_buffers(clips, ids):
    """A store with small buffers in which this rank has recorded its share of these clips, in this order."""
    store = ConfidenceStore(clips, modality="audio", seed=7, buffer_bytes=BUFFER_BYTES)
    for position, batch in enumerate(np.array_split(ids[store.world.rank :: store.world.size], 50)):
        store.record(batch, np.full(len(batch), 0.5), np.zeros(len(batch), bool), position=position)
    return store


def exchange_counted(clips, ids):
    """Most bytes given to one all_to_all and got from one."""
    given_bytes, got_bytes = [], []

    def counting(outgoing):
        arrived = all_to_all(outgoing)
        for sizes, pieces in ((given_bytes, outgoing), (got_bytes, arrived)):
            sizes.append(sum(piece.nbytes for piece in pieces))
        return arrived

    confidence.all_to_all = counting  # in this process only
    store = store_with_small_buffers(clips, ids)
    store.exchange()
    assert not store._pending.take()
    recorded = np.zeros(clips, bool)
    recorded[ids] = True
    first, stop = owned_range(store.world.rank, store.world.size, clips=clips)
    np.testing.assert_array_equal(store._rows["precedence"] > 0, recorded[first:stop])
    return max(given_bytes), max(got_bytes)


MANY_ORDERS = {
    "shuffled": np.random.default_rng(5).permutation(400_000),
    "all of one owner": np.arange(100_000),
    "in order": np.arange(400_000),
}


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("order", MANY_ORDERS)
def test_an_exchange_sends_and_gets_a_bounded_number_of_bytes_at_a_time_wherever_the_clips_go(ranks, order):
    ids = MANY_ORDERS[order]
    for given_bytes, got_bytes in run_on_ranks(ranks, exchange_counted, 400_000, ids):
        assert given_bytes <= 12 * BUFFER_BYTES / 64
        assert got_bytes <= 2 * 12 * BUFFER_BYTES / 64 + 12 * ranks  # each piece may be rounded up by a value
        assert 12 * len(ids) / ranks > given_bytes, "one round would have been enough"


@pytest.mark.parametrize("order", MANY_ORDERS)
def test_an_exchange_takes_no_more_memory_than_its_buffers(order, monkeypatch):
    """As rank 0 of 4, to which the others send what it sends itself: real ranks have threads that upset tracemalloc."""

    def echoed(outgoing):
        joined = np.concatenate(outgoing)
        arrived = [outgoing[0].copy() for _ in outgoing]
        del joined
        return arrived

    monkeypatch.setattr(confidence, "current_world", lambda: World(rank=0, size=4))
    monkeypatch.setattr(confidence, "all_to_all", echoed)
    store = store_with_small_buffers(400_000, MANY_ORDERS[order])
    tracemalloc.start()
    store.exchange()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert BUFFER_BYTES / 2 < peak < BUFFER_BYTES


def test_many_rows_blocks_and_chunks_survive_resharding(tmp_path):
    """More clips than a chunk holds, so that every loop over chunks and blocks goes round, with ragged ends."""
    run_on_ranks(2, fill_many, tmp_path)
    run_on_ranks(3, load_many, tmp_path)
    rows, epochs = saved_rows(tmp_path, "visual-seed0")
    expected = many_values()
    assert epochs == 1
    np.testing.assert_array_equal(rows["sum"], expected.astype(np.float64))
    np.testing.assert_array_equal(rows["correct_epochs"], expected > 0.5)
    parts = sorted((tmp_path / "history").iterdir())
    table = pa.concat_tables(pq.read_table(part) for part in parts)
    np.testing.assert_array_equal(table["clip_id"], np.arange(len(expected)))
    np.testing.assert_array_equal(table["confidence"], expected)


MANY = 2 * (1 << 18) + 2 * 12345


def many_values():
    return np.random.default_rng(3).random(MANY, np.float32)


def fill_many(folder):
    world = current_world()
    store = ConfidenceStore(MANY, modality="visual", seed=0, history=folder / "history", buffer_bytes=1 << 20)
    ids = np.random.default_rng(4).permutation(MANY)[world.rank :: world.size]
    for position, batch in enumerate(np.array_split(ids, 10)):
        store.record(batch, many_values()[batch], many_values()[batch] > 0.5, position=position)
    store.commit(0)
    store.save(folder)


def load_many(folder):
    store = ConfidenceStore(MANY, modality="visual", seed=0)
    store.load(folder)
    store.save(folder)


def save_in_small_blocks(folder):
    confidence._BLOCK_ROWS = 4  # in this process only
    store = one_rank_store(120)
    put(store, range(120), [clip / 128 for clip in range(120)])
    store.commit(0)
    store.save(folder)


def test_a_rank_reads_the_blocks_that_its_clips_are_in_and_no_others(tmp_path, monkeypatch):
    """Saved by 4 ranks of 30 clips, loaded by 3 of 40: the middle one wants clips 40 to 79, of ranks 1 and 2."""
    run_on_ranks(4, save_in_small_blocks, tmp_path)
    wanted = {"rank0001": range(8, 30), "rank0002": range(20)}  # rows of a file: whole blocks of 4 that hold its clips
    for path in tmp_path.glob("*.rows"):
        rows = np.fromfile(path, ROW)
        useless = np.ones(len(rows), bool)
        useless[list(wanted.get(path.stem[-8:], ()))] = False
        rows["sum"][useless] = -1
        rows.tofile(path)
    monkeypatch.setattr(confidence, "current_world", lambda: World(rank=1, size=3))
    store = one_rank_store(120)
    store.load(tmp_path)
    assert store._rows["sum"].tolist() == [clip / 128 for clip in range(40, 80)]
    monkeypatch.setattr(confidence, "current_world", lambda: World(rank=0, size=3))
    with pytest.raises(RunError, match="damaged"):
        one_rank_store(120).load(tmp_path)


def test_saving_and_loading_make_no_second_copy_of_the_rows(tmp_path):
    store = one_rank_store(1 << 19)  # 16 MiB
    for action in (store.save, store.load):
        tracemalloc.start()
        action(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3 << 20  # a block is 1 MiB


def one_rank_store(clips=4, **options):
    return ConfidenceStore(clips, modality="audio", seed=7, **options)


def put(store, ids, floats, right=None, position=0):
    store.record(np.array(ids), np.array(floats), np.array(right or [False] * len(ids), bool), position=position)


def test_what_is_no_probability_is_refused_with_the_clip_and_keeps_nothing(tmp_path):
    store = one_rank_store(100)
    for bad in (math.nan, math.inf, -math.inf, 1.0000001, -0.001):
        with pytest.raises(RunError, match=rf"audio network, seed 7: .*clip 42: {bad}") as refused:
            put(store, [41, 42], [0.5, bad])
        assert "\n" not in str(refused.value)
    with pytest.raises(RunError, match=r"\(clip 0: nan, clip 1: nan, clip 2: nan and 47 more\)"):
        put(store, range(50), [math.nan] * 50)
    store.save(tmp_path)
    assert not saved_rows(tmp_path)[0]["precedence"].any()
    put(store, [0, 1], [0.0, 1.0])  # both ends are probabilities


def test_what_is_no_probability_is_refused_with_the_clips_key_where_keys_are_known():
    store = one_rank_store(100, key_of=lambda clip: f"video_{clip:03d}")
    with pytest.raises(RunError, match=r"\(clip 42 \(video_042\): nan\)"):
        put(store, [41, 42], [0.5, math.nan])


@pytest.mark.parametrize(
    ("ids", "floats", "right", "position", "message"),
    [
        ([0, 1], [0.5], [True], 0, "three arrays of one length"),
        ([[0]], [[0.5]], [[True]], 0, "three arrays of one length"),
        ([4], [0.5], [True], 0, "clip ids 4 to 4 are not all of the 4 clips"),
        ([-1], [0.5], [True], 0, "clip ids -1 to -1 are not all of the 4 clips"),
        ([0], [0.5], [True], -1, "position -1"),
        ([0], [0.5], [True], 2**32, "position 4294967296"),
    ],
)
def test_a_wrong_call_of_record_is_refused(ids, floats, right, position, message):
    with pytest.raises(ValueError, match=message):
        one_rank_store().record(np.array(ids), np.array(floats), np.array(right), position=position)


def test_an_epoch_is_committed_once_and_in_order(tmp_path):
    store = one_rank_store()
    put(store, [0], [0.5])
    with pytest.raises(ValueError, match="cannot commit epoch 1, none is committed; next is 0"):
        store.commit(1)
    store.commit(0)
    with pytest.raises(ValueError, match="cannot commit epoch 0, epochs 0 to 0 are committed; next is 1"):
        store.commit(0)
    assert store.epochs == 1
    store.save(tmp_path)
    again = one_rank_store()
    again.load(tmp_path)
    with pytest.raises(ValueError, match="next is 1"):
        again.commit(0)
    again.save(tmp_path)
    assert saved_rows(tmp_path)[0]["sum"].tolist() == [0.5, 0, 0, 0]


def test_discard_forgets_the_open_epoch_exchanged_or_not(tmp_path):
    store = one_rank_store()
    put(store, [0, 1], [0.5, 0.75], [True, False])
    store.commit(0)
    put(store, [0, 2], [0.1, 0.2])
    store.exchange()
    put(store, [3], [0.3])
    store.discard()
    put(store, [1], [0.25], [True])
    store.commit(1)
    store.save(tmp_path)
    rows, epochs = saved_rows(tmp_path)
    assert epochs == 2
    assert rows["sum"].tolist() == [0.5, 1.0, 0, 0]
    assert rows["epochs"].tolist() == [1, 2, 0, 0]
    assert rows["correct_epochs"].tolist() == [1, 1, 0, 0]


def die_at(event, count):
    """Kill this process with SIGKILL just before its `count`-th such operation on a file."""
    seen = 0

    def hook(name, _):
        nonlocal seen
        if name == event and (seen := seen + 1) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


OLD = Plan(5, [[[(0, 0.5, True), (4, 0.25, False), (2, 1.0, True)]]], frozenset(), 1 << 20)
NEW = Plan(5, [OLD.epochs[0], [[(1, 0.125, True), (4, 0.75, True), (3, 0.0, False)]]], frozenset(), 1 << 20)


def save_twice_and_die(folder, rank, event, count):
    store = store_of(OLD, None)
    record(store, OLD.epochs[0][0], 0)
    store.save(folder)
    store.commit(0)
    record(store, NEW.epochs[1][0], 0)
    if current_world().rank == rank:
        die_at(event, count)
    store.save(folder)


@pytest.mark.parametrize(
    ("rank", "event", "count", "survivor"),
    [
        (0, "os.rename", 1, OLD),  # before the rows of this rank have their name
        (1, "os.rename", 1, OLD),
        (0, "os.rename", 2, OLD),  # before the manifest has
        (0, "os.remove", 3, NEW),  # after: the first two removals are of temporary names, this one of the old rows
    ],
)
def test_killed_while_saving_a_whole_save_is_left_and_the_next_one_cleans_up(tmp_path, rank, event, count, survivor):
    with pytest.raises(RanksFailed) as failed:
        run_on_ranks(2, save_twice_and_die, tmp_path, rank, event, count)
    assert failed.value.causes[rank] == "killed by SIGKILL"
    store = store_of(OLD, None)
    store.load(tmp_path)
    assert len(list(tmp_path.iterdir())) > 3, "remains of the killed save"
    store.save(tmp_path)
    check_saved(survivor, tmp_path, epochs=len(survivor.epochs) - 1)
    assert len(list(tmp_path.iterdir())) == 2


def save_plan(plan, folder):
    store = store_of(plan, None)
    record(store, plan.epochs[0][0], 0)
    store.save(folder)


def refused_load(folder):
    """The one line with which a load is refused; the store is as a new one."""
    store = store_of(OLD, None)
    put(store, [1], [0.5])
    with pytest.raises(RunError) as refused:
        store.load(folder)
    assert store.epochs == 0
    store.commit(0)
    assert not store._rows.view(np.uint8).any()
    return str(refused.value)


def test_a_flipped_byte_anywhere_is_refused(tmp_path):
    run_on_ranks(2, save_plan, OLD, tmp_path)
    for path in tmp_path.iterdir():
        whole = path.read_bytes()
        meaning = json.loads(whole) if path.suffix == ".json" else None
        for place in range(len(whole)):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 8
            if meaning is not None and same_json(flipped, meaning):
                continue  # white space into white space
            path.write_bytes(flipped)
            message = refused_load(tmp_path)
            assert message.startswith(f"{path}: damaged") and message.endswith("resume from an earlier checkpoint")
        path.write_bytes(whole)
    store_of(OLD, None).load(tmp_path)


def same_json(data, meaning):
    try:
        return json.loads(bytes(data)) == meaning
    except ValueError:
        return False


def test_every_rank_refuses_damage_that_one_rank_sees(tmp_path):
    run_on_ranks(2, save_plan, OLD, tmp_path)
    (last,) = tmp_path.glob("*-rank0001.rows")
    whole = last.read_bytes()
    for damage, message in (
        (lambda: last.write_bytes(whole[:-1] + b"?"), "damaged (checksum of rows 0 to 2)"),
        (lambda: last.write_bytes(whole[:-1]), "has 95 bytes, was saved with 96 (truncated?)"),
        (lambda: last.unlink(), "missing"),
    ):
        damage()
        assert run_on_ranks(3, refused_load, tmp_path) == [f"{last}: {message}; resume from an earlier checkpoint"] * 3


def test_the_save_of_something_else_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"audio-seed7\.json: no saved confidences"):
        one_rank_store().load(tmp_path)
    one_rank_store().save(tmp_path)
    with pytest.raises(RunError, match="saved with clips 4, this run has 5"):
        one_rank_store(5).load(tmp_path)
    manifest = tmp_path / "audio-seed7.json"
    manifest.rename(tmp_path / "visual-seed7.json")
    with pytest.raises(RunError, match="saved with modality audio, this run has visual"):
        ConfidenceStore(4, modality="visual", seed=7).load(tmp_path)


def save_with_a_full_disk(folder):
    """The second save fails on rank 1 only, for want of space; a third succeeds. Returns the refusal."""
    store = ConfidenceStore(2000, modality="audio", seed=7)
    put(store, [current_world().rank], [0.5])
    store.save(folder)
    before = sorted(path.name for path in folder.iterdir())
    put(store, [5], [0.5])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if current_world().rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    with pytest.raises(RunError) as refused:
        store.save(folder)
    barrier()  # until the other rank too has removed what it wrote
    after = sorted(path.name for path in folder.iterdir())
    barrier()
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    ConfidenceStore(2000, modality="audio", seed=7).load(folder)
    store.save(folder)
    return str(refused.value), before == after


def test_a_rank_that_cannot_write_its_save_is_named_to_all_and_the_previous_one_stays(tmp_path):
    for message, unchanged in run_on_ranks(2, save_with_a_full_disk, tmp_path):
        assert message.startswith(f"{tmp_path}: cannot save confidences: [Errno 27] File too large")
        assert unchanged
    assert np.flatnonzero(saved_rows(tmp_path)[0]["precedence"]).tolist() == [0, 1, 5]


def commit_beside_a_folder(history):
    """Rank 1's part cannot be renamed over a folder; without it the same commit succeeds."""
    store = store_of(OLD, history)
    record(store, OLD.epochs[0][0], 0)
    with pytest.raises(RunError, match=r"cannot write the history of epoch 0: .*Is a directory"):
        store.commit(0)
    assert store.epochs == 0
    if current_world().rank == 0:
        (history / "audio-seed7-epoch0000-rank0001.parquet").rmdir()
    store.exchange()
    store.commit(0)
    store.save(history.parent)


def test_an_epoch_whose_history_cannot_be_written_is_not_counted(tmp_path):
    (tmp_path / "history" / "audio-seed7-epoch0000-rank0001.parquet").mkdir(parents=True)
    run_on_ranks(2, commit_beside_a_folder, tmp_path / "history")
    check_saved(OLD, tmp_path, epochs=1)
    check_history(OLD, tmp_path / "history", epochs=1, ranks=2)


def commit_epochs(plan, folder, first, death):
    """Resume after `first` epochs (0: start afresh), commit the rest, save each; die at a rename of the last commit."""
    store = store_of(plan, folder / "history")
    if first:
        store.load(folder)
        check_history(plan, folder / "history", epochs=first, ranks=3)  # what is newer than the save is gone
    for epoch in range(first, len(plan.epochs)):
        for position, batch in enumerate(plan.epochs[epoch]):
            record(store, batch, position)
        if death and epoch == len(plan.epochs) - 1:
            store.exchange()
            if current_world().rank == 1:
                die_at("os.rename", death)
        store.commit(epoch)
        if death and epoch == len(plan.epochs) - 1:
            os.kill(os.getpid(), signal.SIGKILL)  # before a checkpoint knows of the commit
        store.save(folder)


@pytest.mark.parametrize("death", [1, 2], ids=["before its part is whole", "after the commit"])
def test_a_commit_killed_before_its_checkpoint_is_repeated_with_fewer_ranks_and_leaves_no_stale_part(tmp_path, death):
    with pytest.raises(RanksFailed, match="SIGKILL"):
        run_on_ranks(3, commit_epochs, NEW, tmp_path, 0, death)
    assert list((tmp_path / "history").glob("*epoch0001*"))
    run_on_ranks(2, commit_epochs, NEW, tmp_path, 1, 0)
    check_saved(NEW, tmp_path, epochs=2)
    history = tmp_path / "history"
    names = sorted(path.name.removeprefix("audio-seed7-") for path in history.iterdir())
    first, second = ([f"epoch{epoch:04d}-rank{rank:04d}.parquet" for rank in range(n)] for epoch, n in ((0, 3), (1, 2)))
    assert names == first + second


def test_a_run_started_afresh_with_fewer_ranks_leaves_no_stale_part(tmp_path):
    run_on_ranks(3, commit_epochs, NEW, tmp_path, 0, 0)
    run_on_ranks(2, commit_epochs, NEW, tmp_path, 0, 0)
    check_history(NEW, tmp_path / "history", epochs=2, ranks=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Seven clips (train 0 to 2, val 3 and 4, test 5 and 6), planted qualities of some, clip 4 in quarantine."""
    path = make_dataset(
        tmp_path_factory.mktemp("dataset") / "seven",
        clips={"train": 3, "val": 2, "test": 2},
        seconds=0.5,
        size=(16, 16),
    )
    table = pa.ipc.open_file((path / INDEX_FILE).read_bytes()).read_all()
    planted = pa.array([0.25, None, 0.5, None, None, None, 1.0], pa.float64())
    table = table.set_column(table.schema.get_field_index("planted_visual"), "planted_visual", planted)
    with pa.ipc.new_file(path / INDEX_FILE, INDEX_SCHEMA) as writer:
        writer.write_table(table)
    (path / QUARANTINE_FILE).write_text('{"clip_id": 4, "key": "val-0001", "reason": "damaged"}\n')
    return path


def export_small(dataset_path, path):
    exporting.CHUNK_ROWS = 2  # in this process only: four row groups a seed, which cut across owners
    dataset = Dataset(dataset_path)
    stores = [
        ConfidenceStore(7, modality=modality, seed=seed)
        for modality, seed in (("audio", 1), ("audio", 0), ("visual", 0))
    ]
    audio, _, visual = stores
    if current_world().is_main:
        audio.record(np.array([0, 6]), np.array([0.25, 1.0]), np.array([False, True]), position=0)
        visual.record(np.array([5]), np.array([0.5]), np.array([True]), position=0)
    for store in stores:
        store.commit(0)
    if current_world().is_main:
        audio.record(np.array([0]), np.array([0.75]), np.array([True]), position=0)
    audio.commit(1)
    audio.record(np.array([3]), np.array([0.5]), np.array([True]), position=0)  # of an epoch never committed
    audio.exchange()
    return export(path, stores=stores, dataset=dataset)


@pytest.mark.parametrize("ranks", WORLD_SIZES)
def test_the_exported_table_equals_hand_computed_values(tmp_path, dataset, ranks):
    path = tmp_path / "confidence.parquet"
    missing = run_on_ranks(ranks, export_small, dataset, path)
    # Of seven clips one is in quarantine; audio of seed 1 recorded two, of seed 0 none, visual one.
    assert missing == [{"audio-seed1": 4, "audio-seed0": 6, "visual-seed0": 5}] * ranks
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    table = pq.read_table(path)
    assert table.schema.equals(CONFIDENCE_SCHEMA)
    assert pq.ParquetFile(path).num_row_groups == 8
    got = table.to_pydict()
    assert got["seed"] == [0] * 7 + [1] * 7
    assert got["clip_id"] == [*range(7)] * 2
    keys = ["train-0000", "train-0001", "train-0002", "val-0000", "val-0001", "test-0000", "test-0001"]
    assert got["key"] == keys * 2
    assert got["split"] == ["train"] * 3 + ["val"] * 2 + ["test"] * 2 + ["train"] * 3 + ["val"] * 2 + ["test"] * 2
    assert got["label"] == [0, 1, 2, 0, 1, 0, 1] * 2
    none = [None] * 7
    assert got["audio_mean"] == [*none, 0.5, *[None] * 5, 1.0]
    assert got["audio_std"] == [*none, 0.25, *[None] * 5, 0.0]
    assert got["audio_epochs"] == [0] * 7 + [2, 0, 0, 0, 0, 0, 1]
    assert got["audio_correct_epochs"] == [0] * 7 + [1, 0, 0, 0, 0, 0, 1]
    assert got["planted_audio"] == none * 2
    assert got["visual_mean"] == [*[None] * 5, 0.5, None, *none]
    assert got["visual_std"] == [*[None] * 5, 0.0, None, *none]
    assert got["visual_epochs"] == [0, 0, 0, 0, 0, 1, 0, *none]
    assert got["visual_correct_epochs"] == [0, 0, 0, 0, 0, 1, 0, *none]
    assert got["planted_visual"] == [0.25, None, 0.5, None, None, None, 1.0] * 2


def refused_export(dataset_path, path):
    with pytest.raises(RunError) as refused:
        export_small(dataset_path, path)
    return str(refused.value)


def test_an_export_that_cannot_be_written_is_refused_on_every_rank(tmp_path, dataset):
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / "confidence.parquet"
    (first, second) = run_on_ranks(2, refused_export, dataset, path)
    assert first == second
    assert first.startswith(f"{path}: cannot export confidences: ")


def test_export_refuses_stores_that_do_not_fit(tmp_path, dataset):
    opened = Dataset(dataset)
    with pytest.raises(ValueError, match="two stores of one modality and seed"):
        export(tmp_path / "table", stores=[one_rank_store(7), one_rank_store(7)], dataset=opened)
    with pytest.raises(ValueError, match="has 7 clips, other than the stores audio-seed7"):
        export(tmp_path / "table", stores=[one_rank_store(8)], dataset=opened)
