"""Clips are chosen so that their discrepancy is uniform: as many as possible, or the bound that binds is named."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from avbench.curation.choosing.candidates import Candidates
from avbench.curation.choosing.choice import choose
from avbench.curation.choosing.constraints import Constraints
from avbench.curation.choosing.counting import count
from avbench.curation.choosing.evenness import evenness
from avbench.curation.choosing.program import Cells, Limits
from avbench.errors import DatasetError, UsageError

CLASSES, BINS = 2, 4
ROUNDING = 3e-6  # the solver keeps bounds to a millionth of a clip


def pool_of(clips: int, *, seed: int = 0, classes: int = 4, audio_share: float = 0.8) -> Candidates:
    """Clips of which a share prefers audio."""
    generator = np.random.default_rng(seed)
    side = np.where(generator.random(clips) < audio_share, 1, -1)
    discrepancy = side * generator.beta(1.5, 2.5, clips)
    middle = generator.uniform(np.abs(discrepancy) / 2, 1 - np.abs(discrepancy) / 2)
    return Candidates(
        keys=[f"clip{number:06d}" for number in range(clips)],
        pool_of=generator.integers(0, 2, clips),
        class_of=generator.choice(classes, clips, p=generator.dirichlet(np.full(classes, 3.0))),
        audio=middle + discrepancy / 2,
        visual=middle - discrepancy / 2,
        pools=("crawled", "listed"),
        classes=tuple(f"class {number}" for number in range(classes)),
    )


def in_order(candidates: Candidates, order: np.ndarray) -> Candidates:
    return replace(
        candidates,
        keys=[candidates.keys[row] for row in order],
        **{name: getattr(candidates, name)[order] for name in ("pool_of", "class_of", "audio", "visual")},
    )


def discrepancies(candidates: Candidates, rows: np.ndarray) -> np.ndarray:
    return (candidates.audio - candidates.visual)[rows]


# The integer program beside all choices that there are


class All:
    """Every choice there is from some cells, by trying all counts."""

    def __init__(self, cells: Cells) -> None:
        self.counts = np.array(list(itertools.product(*(range(held + 1) for held in cells.capacity))))
        table = np.zeros((len(self.counts), cells.classes, cells.bins), int)
        for number, place in enumerate(zip(cells.class_of, cells.bin_of, strict=True)):
            table[:, place[0], place[1]] += self.counts[:, number]
        self.of_class = table.sum(axis=2)
        self.total = self.of_class.sum(axis=1)
        self.distance_of_class = self.distance(table)
        self.overall = self.distance(table.sum(axis=1))
        pools = [self.counts[:, cells.pool_of == pool].sum(axis=1) for pool in range(cells.pools)]
        self.shares = np.stack(pools, axis=1) / np.maximum(self.total, 1)[:, None]

    @staticmethod
    def distance(table: np.ndarray) -> np.ndarray:
        totals = table.sum(axis=-1)
        uniform = np.arange(1, table.shape[-1] + 1) / table.shape[-1]
        return np.abs(np.cumsum(table, axis=-1) / np.maximum(totals, 1)[..., None] - uniform).max(axis=-1) * (
            totals > 0
        )

    def keeping(self, limits: Limits) -> np.ndarray:
        """Which choices keep the limits."""
        able = (self.of_class >= limits.least).all(axis=1) & (self.of_class <= limits.most).all(axis=1)
        able &= (self.total <= limits.size) & (self.total >= 1) & (self.overall <= limits.overall + ROUNDING)
        able &= (self.distance_of_class <= limits.of_class + ROUNDING).all(axis=1)
        if limits.shares is not None:
            able &= (
                (self.shares >= limits.shares[:, 0] - ROUNDING) & (self.shares <= limits.shares[:, 1] + ROUNDING)
            ).all(axis=1)
        return able

    def row(self, counts: np.ndarray) -> int:
        return int(np.flatnonzero((self.counts == counts).all(axis=1))[0])


@st.composite
def problems(draw: st.DrawFn) -> tuple[Cells, Limits]:
    with_pools = draw(st.booleans())
    bins = 2 if with_pools else BINS
    pools = 2 if with_pools else 1
    shape = (CLASSES, bins, pools)
    held = np.array(draw(st.lists(st.integers(0, 2), min_size=8, max_size=8))).reshape(shape)
    held[:, 0, 0] = np.maximum(held[:, 0, 0], 1)  # no class is empty
    class_of, bin_of, pool_of = np.nonzero(held)
    cells = Cells(class_of, bin_of, pool_of, held[class_of, bin_of, pool_of], *shape)
    least = draw(st.integers(0, 3))
    limits = Limits(
        size=draw(st.integers(2 * least or 1, 24)),
        least=np.full(CLASSES, least),
        most=np.full(CLASSES, draw(st.integers(max(least, 1), 12))),
        overall=draw(st.sampled_from([0.05, 0.1, 0.2, 0.3])),
        of_class=np.full(CLASSES, draw(st.sampled_from([0.1, 0.15, 0.3, 0.5]))),
        shares=np.array([[draw(st.sampled_from([0.0, 0.4])), 1.0], [0.0, draw(st.sampled_from([0.5, 1.0]))]])
        if with_pools
        else None,
    )
    return cells, limits


@settings(max_examples=30, deadline=None)
@given(problems())
def test_at_least_95_percent_of_the_largest_choice_are_kept_and_all_bounds_hold(problem: tuple[Cells, Limits]) -> None:
    cells, limits = problem
    every = All(cells)
    able = every.keeping(limits)
    answer = count(cells, limits)
    row = every.row(answer.counts)
    if able.any():
        assert able[row] and every.total[row] >= 0.95 * every.total[able].max()
        assert every.total[able].max() <= answer.possible + 1e-3
    else:
        assert every.keeping(answer.limits)[row]
        assert every.total[row] >= 0.95 * every.total[every.keeping(answer.limits)].max()


@settings(max_examples=30, deadline=None)
@given(problems())
def test_no_bound_is_loosened_while_a_less_important_one_would_do(problem: tuple[Cells, Limits]) -> None:
    cells, limits = problem
    every = All(cells)
    row = every.row(count(cells, limits).counts)
    # What there is of a class bounds its minimum, and nothing else does.
    held = cells.histogram(cells.capacity).sum(axis=1)
    limits = replace(limits, least=np.minimum(limits.least, held))
    assert (every.of_class[row] >= limits.least).all() and (every.of_class[row] <= limits.most).all()
    assert every.total[row] <= limits.size
    free = {"of_class": np.ones(CLASSES)}
    for kind, value in (("shares", None), ("overall", 1.0)):
        if every.keeping(replace(limits, **free)).any():
            assert every.keeping(replace(limits, **free))[row], kind
            return
        free[kind] = value


@settings(max_examples=30, deadline=None)
@given(problems())
def test_a_class_that_cannot_keep_its_bound_even_alone_gets_the_least_that_it_can(
    problem: tuple[Cells, Limits],
) -> None:
    cells, limits = problem
    # An empty class keeps every bound, so that one clip of each is wanted.
    least = np.maximum(limits.least, 1)
    limits = replace(limits, least=least, shares=None, overall=1.0, size=100)
    every = All(cells)
    row = every.row(count(cells, limits).counts)
    held = cells.histogram(cells.capacity).sum(axis=1)
    for number in range(CLASSES):
        totals = every.of_class[:, number]
        able = (totals >= min(limits.least[number], held[number])) & (totals <= limits.most[number])
        least = every.distance_of_class[able, number].min()
        assert every.distance_of_class[row, number] <= max(least, limits.of_class[number]) + 1e-5


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    audio_share=st.floats(0.5, 1.0),
    minimum=st.sampled_from([1, 40, 150]),
    bounds=st.sampled_from([(0.02, 0.05), (0.05, 0.15), (0.2, 0.1)]),
    shares=st.sampled_from([{}, {"crawled": (0.3, 0.4)}]),
)
def test_of_larger_pools_as_many_are_kept_and_what_is_exceeded_is_listed(
    seed: int, audio_share: float, minimum: int, bounds: tuple[float, float], shares: dict[str, tuple[float, float]]
) -> None:
    candidates = pool_of(2_000, seed=seed, classes=3, audio_share=audio_share)
    constraints = Constraints(minimum=minimum, overall=bounds[0], of_class=bounds[1], size=700, shares=shares)
    choice = choose(candidates, constraints, seed=0)
    assert 0.95 * choice.possible <= len(choice.rows) <= min(choice.possible, 700)
    listed = {(each.bound, each.name): each.reached for each in choice.loosened}
    kept, edges = discrepancies(candidates, choice.rows), np.linspace(-0.6, 0.6, 121)
    groups = {("overall", ""): (np.ones(len(kept), bool), bounds[0])}
    for number, name in enumerate(candidates.classes):
        of_class = candidates.class_of[choice.rows] == number
        groups["class", name] = (of_class, bounds[1])
        assert (("minimum", name) in listed) == (of_class.sum() < minimum)
    for bound, (mask, asked) in groups.items():
        below = np.array([(kept[mask] < edge).mean() for edge in edges])
        reached = np.abs(below - np.linspace(0, 1, 121)).max()
        assert (bound in listed) == (reached > asked + 1e-5)
        assert bound not in listed or listed[bound] == pytest.approx(reached)
    for name, (least, most) in shares.items():
        share = (candidates.pool_of[choice.rows] == candidates.pools.index(name)).mean()
        assert (("share", name) in listed) != (least - 1e-5 <= share <= most + 1e-5)


# Candidates


def test_skewed_pools_become_uniform_and_nothing_is_loosened() -> None:
    candidates = pool_of(20_000)
    choice = choose(candidates, Constraints(minimum=100, overall=0.05, of_class=0.1), seed=0)
    assert choice.loosened == () and len(choice.rows) >= 0.95 * choice.possible > 1_000
    kept = discrepancies(candidates, choice.rows)
    assert stats.kstest(kept, stats.uniform(-0.6, 1.2).cdf).statistic < 0.1
    assert choice.before.overall.kolmogorov_smirnov > 0.25 > 0.06 > choice.after.overall.kolmogorov_smirnov
    assert choice.after.overall.wasserstein < 0.2 * choice.before.overall.wasserstein
    assert choice.after.overall.entropy > 0.98 > choice.before.overall.entropy
    for number, (name, of_class) in enumerate(choice.after.of_class.items()):
        of_rows = kept[candidates.class_of[choice.rows] == number]
        assert name == f"class {number}" and of_class.clips == len(of_rows) >= 100
        assert stats.kstest(of_rows, stats.uniform(-0.6, 1.2).cdf).statistic < 0.1 + 1 / 120


def test_rows_in_any_order_give_the_same_clips_and_another_seed_gives_others() -> None:
    candidates = pool_of(3_000)
    constraints = Constraints(minimum=50, size=500, shares={"crawled": (0.6, 0.7)})
    rows = choose(candidates, constraints, seed=0).rows
    kept = {candidates.keys[row] for row in rows}
    assert 0.6 <= (candidates.pool_of[rows] == 0).mean() <= 0.7 and len(rows) >= 490
    shuffled = in_order(candidates, np.random.default_rng(1).permutation(3_000))
    assert {shuffled.keys[row] for row in choose(shuffled, constraints, seed=0).rows} == kept
    other = choose(candidates, constraints, seed=1).rows
    assert len(other) == len(rows) and {candidates.keys[row] for row in other} != kept


def test_the_same_key_in_two_pools_is_two_clips_in_any_order() -> None:
    candidates = pool_of(400, classes=1)
    candidates = replace(
        candidates, keys=[f"clip{row // 2}" for row in range(400)], pool_of=np.arange(400) % 2,
        audio=candidates.audio[np.arange(400) // 2 * 2], visual=candidates.visual[np.arange(400) // 2 * 2],
    )  # fmt: skip

    def kept(order: np.ndarray) -> set[tuple[str, int]]:
        given_so = in_order(candidates, order)
        rows = choose(given_so, Constraints(size=101), seed=0).rows
        return {(given_so.keys[row], int(given_so.pool_of[row])) for row in rows}

    assert kept(np.arange(400)) == kept(np.arange(400)[::-1]) != set()


def test_what_is_dropped_is_counted_by_the_first_reason() -> None:
    candidates = pool_of(2_000)
    audio, visual = candidates.audio.copy(), candidates.visual.copy()
    audio[:10] = np.nan
    audio[10:30], visual[10:30] = 0.05, 0.09
    audio[30:50], visual[30:50] = 0.05, 0.95
    audio[50:60], visual[50:60] = 0.05, 0.1  # not below the bound
    audio[60:], visual[60:] = np.clip(audio[60:], 0.3, 0.7), np.clip(visual[60:], 0.3, 0.7)
    choice = choose(replace(candidates, audio=audio, visual=visual), Constraints(noise=0.1), seed=0)
    assert (choice.dropped.unknown, choice.dropped.noise, choice.dropped.outside) == (10, 20, 20)
    assert choice.before.overall.clips == 1_950 and choice.rows.min() >= 50
    assert "20 as noise" in choice.dropped.text()


def test_what_was_loosened_is_named_with_its_class_and_by_how_much() -> None:
    candidates = pool_of(6_000, classes=3)
    of_one = candidates.class_of == 1
    # Class 1 has nothing but clips that prefer audio; class 2 has 40.
    audio = np.where(of_one, np.maximum(candidates.audio, candidates.visual), candidates.audio)
    visual = np.where(of_one, np.minimum(candidates.audio, candidates.visual), candidates.visual)
    few = np.flatnonzero((candidates.class_of == 2) & (np.abs(audio - visual) < 0.6))
    class_of = candidates.class_of.copy()
    class_of[class_of == 2] = 0
    class_of[few[:40]] = 2
    changed = replace(candidates, audio=audio, visual=visual, class_of=class_of)
    choice = choose(changed, Constraints(minimum=50, overall=0.1, of_class=0.25), seed=0)
    minimum, of_class = choice.loosened[0], {each.name: each for each in choice.loosened if each.bound == "class"}
    assert (minimum.bound, minimum.name, minimum.asked, minimum.reached) == ("minimum", "class 2", 50, 40)
    assert 0.49 < of_class["class 1"].reached < 0.52 and of_class["class 1"].asked == 0.25
    assert "class 0" not in of_class and not [each for each in choice.loosened if each.bound == "overall"]
    assert "distance of class 'class 1': 0.5" in of_class["class 1"].text()
    assert "minimum of class 'class 2': 40 clips in the place of 50" in minimum.text()


def test_pools_without_a_side_loosen_the_overall_bound() -> None:
    candidates = pool_of(2_000, audio_share=1.0)
    choice = choose(candidates, Constraints(minimum=20), seed=0)
    (overall,) = [each for each in choice.loosened if each.bound == "overall"]
    assert 0.48 < overall.reached < 0.51 and "overall: 0." in overall.text() and len(choice.rows) >= 80


def test_a_share_that_a_pool_cannot_fill_is_named() -> None:
    candidates = pool_of(2_000)
    scarce = np.where(np.arange(2_000) < 60, 0, 1)
    constraints = Constraints(minimum=100, shares={"crawled": (0.5, 1.0)})
    choice = choose(replace(candidates, pool_of=scarce), constraints, seed=0)
    share = next(each for each in choice.loosened if each.bound == "share")
    assert share.name == "crawled" and share.reached < 0.5 == share.asked


@pytest.mark.parametrize(
    ("constraints", "text"),
    [
        (Constraints(minimum=300, maximum=200), "a minimum of 200 holds, or a maximum of 300"),
        (Constraints(minimum=300, size=1_000), "a minimum of 250 holds, or a size of 1,200"),
        (Constraints(shares={"crawled": (0.8, 1), "listed": (0.4, 1)}), "these hold: crawled 0.667 listed 0.333"),
        (Constraints(shares={"crawled": (0, 0.2), "listed": (0, 0.3)}), "these hold: crawled 0.4 listed 0.6"),
        (Constraints(shares={"crawld": (0, 0.2)}), "did you mean 'crawled'"),
        (Constraints(shares={"listed": (0.5, 0.2)}), "pool 'listed': expected two ascending numbers"),
        (Constraints(low=0.6, high=-0.6), "two ascending numbers"),
        (Constraints(low=-0.6, high=0.605), "-0.6:0.6 is"),
        (Constraints(overall=0), "overall distance 0"),
        (Constraints(size=0), "size 0: expected 1 or more"),
        (Constraints(noise=2), "noise bound 2"),
    ],
)
def test_constraints_that_contradict_each_other_are_refused_with_the_nearest_that_hold(
    constraints: Constraints, text: str
) -> None:
    with pytest.raises(UsageError) as refused:
        choose(pool_of(100), constraints, seed=0)
    assert text in str(refused.value) and "\n" not in str(refused.value)


def test_candidates_that_cannot_be_used_are_refused_by_name() -> None:
    candidates = pool_of(100)
    twice = [*candidates.keys[:-1], candidates.keys[0]]
    with pytest.raises(DatasetError, match="clip 'clip000000' is twice in pool 'crawled'"):
        choose(replace(candidates, keys=twice, pool_of=np.zeros(100, int)), Constraints(), seed=0)
    with pytest.raises(DatasetError, match=r"no candidates of nobody: leave it out"):
        choose(replace(candidates, classes=(*candidates.classes, "nobody")), Constraints(), seed=0)
    with pytest.raises(DatasetError, match=r"audio confidence 1.5 of clip 'clip000003'"):
        choose(replace(candidates, audio=np.where(np.arange(100) == 3, 1.5, 0.5)), Constraints(), seed=0)
    with pytest.raises(DatasetError, match="no candidate is left: 0 clips without confidence, 100 as noise"):
        choose(replace(candidates, audio=np.zeros(100), visual=np.zeros(100)), Constraints(noise=0.5), seed=0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-0.6, 0.6), min_size=1, max_size=50))
def test_evenness_is_what_scipy_says(values: list[float]) -> None:
    measured = evenness(np.array(values), Constraints().edges)
    assert measured.kolmogorov_smirnov == pytest.approx(stats.kstest(values, stats.uniform(-0.6, 1.2).cdf).statistic)
    # A fine grid stands for the uniform distribution.
    grid = -0.6 + 1.2 * (np.arange(20_000) + 0.5) / 20_000
    assert measured.wasserstein == pytest.approx(stats.wasserstein_distance(values, grid), abs=1e-4)
    counts = np.histogram(values, Constraints().edges)[0]
    assert measured.entropy == pytest.approx(stats.entropy(counts) / np.log(120), abs=1e-12)
    assert 0 <= measured.kolmogorov_smirnov - measured.binned_kolmogorov_smirnov <= 1 / 120 + 1e-9


def test_a_clip_on_an_edge_is_in_the_bin_above_it_and_the_range_is_closed() -> None:
    edges = Constraints().edges
    assert edges[0] == -0.6 and edges[-1] == 0.6 and 0.29 in edges and len(edges) == 121
    assert evenness(np.array([-0.6, 0.6]), edges).clips == 2
