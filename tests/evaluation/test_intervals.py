"""Bootstrap and paired test against literal recounts of the drawn and swapped subjects."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest

from icdtune.data.labels import LabelRule, LabelSpace, Task
from icdtune.data.predictions import Prediction, Predictions
from icdtune.data.schema import Corpus, Note
from icdtune.data.writer import CorpusWriter
from icdtune.errors import IcdtuneError
from icdtune.evaluation.counts import Counts, Floats, Totals, average, count
from icdtune.evaluation.evaluate import evaluate
from icdtune.evaluation.intervals import BATCH, PAIRED, bootstrap, compare, resample_weights
from icdtune.evaluation.metrics import METRICS, macro_f1_present, whole

CODES = (
    *("I10", "E11.9", "J18.9", "N17.9", "I50.9", "Z79.4", "K35.80", "F32.9", "A00.0", "J44.9"),
    *("I48.91", "D64.9"),
)
EIGHT = "eight"  # few enough subjects to try every swap
Answers = Mapping[str, Iterable[str]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """40 subjects with 1 to 4 notes, 8 with one or two, and the 40 again with every note thrice."""
    path = tmp_path_factory.mktemp("intervals") / "corpus"
    rng = random.Random(11)
    with _writer(path) as writer:
        for subject in range(40):
            for note in range(rng.randint(1, 4)):
                codes = _gold(rng)
                for split, copies in (("test", 1), ("thrice", 3)):
                    for copy in range(copies):
                        note_id = f"{split}-{subject}-{note}-{copy}"
                        owner = f"{split}-{subject:02}"
                        writer.add(split, Note(note_id, owner, "A note.", codes))
        for subject in range(8):
            for note in range(1 + subject % 2):
                codes = _gold(rng)
                writer.add(EIGHT, Note(f"e-{subject}-{note}", f"e-{subject}", "A note.", codes))
    return Corpus(path)


def _gold(rng: random.Random) -> tuple[str, ...]:
    return tuple(code for rank, code in enumerate(CODES, 1) if rng.random() < 0.9 / rank)


def _writer(path: Path) -> CorpusWriter:
    systems = {"diagnosis": "icd10cm"}
    return CorpusWriter(
        path, name="tiny", code_systems=systems, source="a test", options={}, protected=False
    )


def make_task(corpus: Corpus, codes: Iterable[str] = CODES, empty_notes: str = "keep") -> Task:
    rule = LabelRule(kind="file", source="codes.txt")
    space = LabelSpace(name="space", rule=rule, empty_notes=empty_notes, codes=list(codes))
    return Task(corpus, space)


def answers(task: Task, split: str, keep: float, add: float, seed: int) -> dict[str, list[str]]:
    """A coder that finds each gold code with probability `keep`, and adds others and "XYZ"."""
    rng = random.Random(seed)
    ids, _, gold = task.gold(split)
    return {
        note_id: [
            code for code in (*CODES, "XYZ") if rng.random() < (keep if code in codes else add)
        ]
        for note_id, codes in zip(ids, gold, strict=True)
    }


def counted(task: Task, split: str, given: Answers) -> Counts:
    rows = [Prediction(note_id, tuple(codes)) for note_id, codes in given.items()]
    return count(task, split, Predictions(rows))


def notes_of(corpus: Corpus, split: str) -> dict[str, list[Note]]:
    """Subject -> notes."""
    found: dict[str, list[Note]] = {}
    for note in corpus.notes(split):
        found.setdefault(note.subject_id, []).append(note)
    return found


def recount(
    notes: Iterable[Note], given: Answers, columns: Iterable[str]
) -> list[tuple[int, int, int]]:
    """True positives, predictions and gold of each column over a list of notes, with repeats."""
    sets = [(set(given[note.note_id]), set(note.codes or ())) for note in notes]
    return [
        (
            sum(code in said and code in true for said, true in sets),
            sum(code in said for said, _ in sets),
            sum(code in true for _, true in sets),
        )
        for code in columns
    ]


def f1(true_positive: float, predicted: float, gold: float) -> float:
    return 2 * true_positive / (predicted + gold) if predicted + gold else 0.0


def drawn_subjects(subjects: int, resamples: int, seed: int) -> Floats:
    """(subjects, resamples): how often the bootstrap of that seed draws each subject."""
    batches = resample_weights(subjects, resamples, np.random.default_rng(seed))
    return np.concatenate(list(batches), axis=1)


def totals_of(counts: Counts, resamples: int, seed: int) -> list[Totals]:
    """The totals that the bootstrap hands to its metrics, after those of the whole split."""
    seen: list[Totals] = []

    def remember(totals: Totals) -> Floats:
        seen.append(totals)
        return np.asarray(totals.sums["notes"])

    bootstrap(counts, {"remember": remember}, resamples, seed)
    return seen[1:]


def test_every_resample_draws_as_many_subjects_as_there_are() -> None:
    batches = list(resample_weights(30, BATCH + 7, np.random.default_rng(0)))
    assert [batch.shape for batch in batches] == [(30, BATCH), (30, 7)]
    weights = np.concatenate(batches, axis=1)
    assert (weights.sum(axis=0) == 30).all()
    assert weights.max() > 1
    assert len({column.tobytes() for column in weights.T}) == BATCH + 7


def test_the_totals_of_a_resample_are_those_of_the_drawn_subjects_notes(corpus: Corpus) -> None:
    task = make_task(corpus)
    given = answers(task, "test", keep=0.6, add=0.1, seed=1)
    counts = counted(task, "test", given)
    by_subject = notes_of(corpus, "test")
    assert set(counts.subjects) == set(by_subject)
    weights = drawn_subjects(len(counts.subjects), 60, seed=5)
    batches = totals_of(counts, 60, seed=5)
    found = np.concatenate(
        [np.stack([t.true_positive, t.predicted, t.gold], axis=1) for t in batches], axis=2
    )
    notes = np.concatenate([t.sums["notes"] for t in batches])
    exact = np.concatenate([t.sums["exact_match"] for t in batches])
    for resample, times in enumerate(weights.T):
        drawn = [
            note
            for subject, n in zip(counts.subjects, times, strict=True)
            for note in by_subject[subject] * int(n)
        ]
        assert found[:, :, resample].tolist() == [
            list(row) for row in recount(drawn, given, counts.codes)
        ]
        assert notes[resample] == len(drawn)
        assert exact[resample] == sum(set(given[n.note_id]) == set(n.codes or ()) for n in drawn)


def centred(values: Iterable[float], value: float) -> dict[str, float]:
    """The 95 % percentile interval of resampled values, their mean moved onto the value."""
    values = np.array(list(values))
    low, high = np.quantile(values, [0.025, 0.975]) - values.mean() + value
    return {"value": value, "low": low, "high": high}


def test_a_macro_interval_is_that_of_the_resamples_moved_onto_the_value(corpus: Corpus) -> None:
    task = make_task(corpus, [*CODES, "N39.0", "R07.9"])  # two codes nobody has or predicts
    given = answers(task, EIGHT, keep=0.5, add=0.05, seed=2)
    counts = counted(task, EIGHT, given)
    by_subject = notes_of(corpus, EIGHT)
    space = counts.codes[:14]

    def macro(times: Iterable[float]) -> tuple[float, float, int]:
        """Macro-F1 over the label space, over the codes with gold in the resample; their number."""
        drawn = [
            note
            for subject, n in zip(counts.subjects, times, strict=True)
            for note in by_subject[subject] * int(n)
        ]
        rows = recount(drawn, given, space)
        present = [f1(*row) for row in rows if row[2]]
        return sum(f1(*row) for row in rows) / 14, sum(present) / len(present), len(present)

    value, present_value, present = macro([1] * len(counts.subjects))
    resampled = [macro(times) for times in drawn_subjects(len(counts.subjects), 200, seed=0).T]
    assert sum(r[2] < present for r in resampled) > 20  # many resamples lose a code
    found = bootstrap(counts, METRICS, 200, seed=0)
    expected = centred((r[0] for r in resampled), value)
    assert found["macro_f1"] == pytest.approx(expected, abs=1e-12)
    expected = centred((r[1] for r in resampled), present_value)
    assert found["macro_f1_present"] == pytest.approx(expected, abs=1e-12)


def test_the_interval_of_a_share_stays_between_zero_and_one(corpus: Corpus) -> None:
    present = [code for code in CODES if any(code in (n.codes or ()) for n in corpus.notes(EIGHT))]
    perfect = {note.note_id: note.codes or () for note in corpus.notes(EIGHT)}
    counts = counted(make_task(corpus, present), EIGHT, perfect)
    for name, entry in bootstrap(counts, METRICS, 200, seed=0).items():
        if not name.endswith("codes_per_note"):
            assert 0 <= entry["low"] <= entry["value"] <= entry["high"] <= 1, name


def test_the_point_value_is_that_of_the_whole_split(corpus: Corpus) -> None:
    task = make_task(corpus)
    counts = counted(task, "test", answers(task, "test", keep=0.6, add=0.1, seed=3))
    found = bootstrap(counts, METRICS, resamples=20, seed=0)
    base = whole(counts)
    for name, metric in METRICS.items():
        assert found[name]["value"] == metric(base)[0]


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_holds_the_point_value(corpus: Corpus, seed: int) -> None:
    task = make_task(corpus)
    counts = counted(task, "test", answers(task, "test", keep=0.6, add=0.1, seed=seed))
    for name, entry in bootstrap(counts, METRICS, resamples=200, seed=seed).items():
        assert entry["low"] <= entry["value"] <= entry["high"], name
    micro = bootstrap(counts, METRICS, resamples=200, seed=seed)["micro_f1"]
    assert 0.02 < micro["high"] - micro["low"] < 0.25


def test_the_same_seed_gives_the_same_interval_and_another_seed_another(corpus: Corpus) -> None:
    task = make_task(corpus)
    counts = counted(task, "test", answers(task, "test", keep=0.6, add=0.1, seed=4))
    first, again, other = (bootstrap(counts, METRICS, 120, seed) for seed in (1, 1, 2))
    assert first == again
    assert first["micro_f1"]["low"] != other["micro_f1"]["low"]
    rows = [Prediction(n, tuple(c)) for n, c in answers(task, "test", 0.6, 0.1, 4).items()]
    contents = [evaluate(task, "test", [Predictions(rows)], resamples=120, seed=1) for _ in "ab"]
    assert contents[0] == contents[1]
    assert {name: contents[0]["metrics"][name] for name in METRICS} == first


def test_a_wider_level_gives_a_wider_interval(corpus: Corpus) -> None:
    task = make_task(corpus)
    counts = counted(task, "test", answers(task, "test", keep=0.6, add=0.1, seed=4))
    narrow, wide = (bootstrap(counts, METRICS, 300, 0, level)["micro_f1"] for level in (0.5, 0.99))
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


def test_no_resamples_give_point_values_only(corpus: Corpus) -> None:
    task = make_task(corpus)
    counts = counted(task, "test", answers(task, "test", keep=0.6, add=0.1, seed=4))
    assert all(set(e) == {"value"} for e in bootstrap(counts, METRICS, 0, seed=0).values())


def test_copies_of_a_subjects_notes_do_not_narrow_the_interval(corpus: Corpus) -> None:
    task = make_task(corpus)
    given = answers(task, "test", keep=0.6, add=0.1, seed=5)
    copied = {
        note.note_id: given["test" + note.note_id.removeprefix("thrice")[:-1] + "0"]
        for note in corpus.notes("thrice")
    }
    once = bootstrap(counted(task, "test", given), METRICS, 100, seed=0)
    thrice = bootstrap(counted(task, "thrice", copied), METRICS, 100, seed=0)
    for name in METRICS:
        assert thrice[name] == pytest.approx(once[name], abs=1e-12)


def test_identical_predictions_differ_by_nothing_with_p_one(corpus: Corpus) -> None:
    task = make_task(corpus)
    given = answers(task, "test", keep=0.6, add=0.1, seed=6)
    found = compare(counted(task, "test", given), counted(task, "test", given), resamples=100)
    assert set(found) == set(PAIRED)
    for entry in found.values():
        assert entry["first"] == entry["second"]
        assert (entry["difference"], entry["low"], entry["high"], entry["p"]) == (0, 0, 0, 1)


def test_a_clearly_better_coder_has_a_positive_interval_and_a_small_p(corpus: Corpus) -> None:
    task = make_task(corpus)
    worse, better = (
        counted(task, "test", answers(task, "test", keep, add, seed=7))
        for keep, add in ((0.4, 0.15), (0.9, 0.02))
    )
    for name, entry in compare(worse, better, resamples=500).items():
        assert entry["first"] < entry["second"], name
        assert 0 < entry["low"] < entry["difference"] < entry["high"], name
        assert entry["p"] == 1 / 501, name


def test_coders_of_equal_skill_are_not_told_apart(corpus: Corpus) -> None:
    task = make_task(corpus)
    p_values = [
        compare(
            counted(task, "test", answers(task, "test", 0.6, 0.1, seed)),
            counted(task, "test", answers(task, "test", 0.6, 0.1, seed + 100)),
            resamples=100,
        )["micro_f1"]["p"]
        for seed in range(20)
    ]
    assert sum(p < 0.05 for p in p_values) <= 4
    assert sum(p < 0.5 for p in p_values) >= 4


def test_swapped_arguments_negate_the_difference(corpus: Corpus) -> None:
    task = make_task(corpus)
    one, two = (
        counted(task, "test", answers(task, "test", keep, 0.1, seed))
        for keep, seed in ((0.55, 8), (0.6, 9))
    )
    there, back = compare(one, two, resamples=200), compare(two, one, resamples=200)
    for name in PAIRED:
        assert back[name]["difference"] == -there[name]["difference"]
        assert back[name]["low"] == pytest.approx(-there[name]["high"], abs=1e-12)
        assert back[name]["high"] == pytest.approx(-there[name]["low"], abs=1e-12)
        assert back[name]["p"] == pytest.approx(there[name]["p"])


def test_the_difference_is_that_of_the_point_values(corpus: Corpus) -> None:
    task = make_task(corpus)
    one, two = (
        counted(task, "test", answers(task, "test", keep, 0.1, seed=10)) for keep in (0.5, 0.7)
    )
    for name, entry in compare(one, two, resamples=50).items():
        assert entry["first"] == METRICS[name](whole(one))[0]
        assert entry["second"] == METRICS[name](whole(two))[0]
        assert entry["difference"] == entry["second"] - entry["first"]


def test_a_paired_resample_draws_the_same_subjects_for_both_coders(corpus: Corpus) -> None:
    task = make_task(corpus)
    one, two = (
        counted(task, "test", answers(task, "test", keep, 0.1, seed=10)) for keep in (0.5, 0.7)
    )
    values = []
    for counts in (one, two):
        micro = [METRICS["micro_f1"](totals) for totals in totals_of(counts, 150, seed=3)]
        values.append(np.concatenate(micro))
    found = compare(one, two, resamples=150, seed=3)["micro_f1"]
    expected = centred(values[1] - values[0], found["difference"])
    assert (found["low"], found["high"]) == pytest.approx((expected["low"], expected["high"]))


def exact_p(corpus: Corpus, first: list[Answers], second: list[Answers]) -> dict[str, float]:
    """Share of all swaps of the subjects' answers that differ as much as the answers given.

    Several runs of a coder count by their mean, as in `average`.
    """
    by_subject = notes_of(corpus, EIGHT)
    columns = (*CODES, "XYZ")
    one, two = (
        {
            subject: np.mean([recount(notes, run, columns) for run in runs], axis=0)
            for subject, notes in by_subject.items()
        }
        for runs in (first, second)
    )
    differences: dict[str, list[float]] = {"micro_f1": [], "macro_f1": [], "macro_f1_present": []}
    for swap in itertools.product((False, True), repeat=len(by_subject)):
        kept, swapped = [], []
        for subject, changed in zip(by_subject, swap, strict=True):
            kept.append((two if changed else one)[subject])
            swapped.append((one if changed else two)[subject])
        scores = []
        for rows in (np.sum(kept, axis=0), np.sum(swapped, axis=0)):
            rows[np.abs(rows) < 1e-9] = 0
            by_code = [f1(*row) for row in rows[:-1]]  # "XYZ" is outside the label space
            present = [score for score, row in zip(by_code, rows[:-1], strict=True) if row[2]]
            scores.append((f1(*rows.sum(axis=0)), np.mean(by_code), np.mean(present)))
        for name, a, b in zip(differences, *scores, strict=True):
            differences[name].append(b - a)
    return {
        name: float(np.mean(np.abs(values) >= abs(values[0]) - 1e-9))
        for name, values in differences.items()
    }


@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1", "macro_f1_present"])
@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize(("keep", "add", "seed"), [(0.9, 0.0, 1), (0.6, 0.1, 2), (0.8, 0.05, 3)])
def test_p_estimates_the_share_of_swaps_that_differ_as_much(
    corpus: Corpus, metric: str, runs: int, keep: float, add: float, seed: int
) -> None:
    task = make_task(corpus)
    # The first coder predicts many codes that the second never does.
    first = [answers(task, EIGHT, 0.7, 0.3, seed + 10 * run) for run in range(runs)]
    second = [answers(task, EIGHT, keep, add, seed + 10 * run + 50) for run in range(runs)]
    coders = [average([counted(task, EIGHT, run) for run in coder]) for coder in (first, second)]
    found = compare(*coders, resamples=2000, names=(metric,))
    assert found[metric]["p"] == pytest.approx(exact_p(corpus, first, second)[metric], abs=0.04)


@pytest.mark.parametrize("runs", [1, 3])
def test_coders_that_differ_on_one_subject_have_p_one(corpus: Corpus, runs: int) -> None:
    task = make_task(corpus)
    first = [answers(task, "test", 0.6, 0.1, seed) for seed in range(runs)]
    ones = notes_of(corpus, "test")["test-00"]
    second = [{**run, **{note.note_id: CODES[:2] for note in ones}} for run in first]
    coders = [average([counted(task, "test", run) for run in coder]) for coder in (first, second)]
    for name, entry in compare(*coders, resamples=200).items():
        assert entry["p"] == 1, name


def test_averages_of_runs_can_be_compared(corpus: Corpus) -> None:
    task = make_task(corpus)
    worse, better = (
        [counted(task, "test", answers(task, "test", keep, 0.1, seed)) for seed in (1, 2, 3)]
        for keep in (0.4, 0.8)
    )
    found = compare(average(worse), average(better), resamples=200)
    for entry in found.values():
        assert entry["p"] == 1 / 201
        assert entry["low"] > 0
    same = compare(average(worse), average(worse[::-1]), resamples=200)
    for entry in same.values():
        assert entry["difference"] == pytest.approx(0, abs=1e-6)


def test_a_code_that_one_coder_alone_predicts_counts_for_that_coder_alone(corpus: Corpus) -> None:
    task = make_task(corpus, CODES[:3])
    given = answers(task, "test", keep=0.6, add=0.1, seed=6)
    plain = {note_id: [c for c in codes if c in CODES[:3]] for note_id, codes in given.items()}
    one, two = counted(task, "test", plain), counted(task, "test", given)
    assert len(one.codes) == 3 < len(two.codes)
    found = compare(one, two, resamples=50)["micro_f1"]
    assert found["first"] == METRICS["micro_f1"](whole(one))[0]
    assert found["second"] == METRICS["micro_f1"](whole(two))[0]


def test_coders_of_different_notes_are_not_compared(corpus: Corpus) -> None:
    task = make_task(corpus)
    one, two = (
        counted(task, split, answers(task, split, 0.6, 0.1, seed=1)) for split in ("test", EIGHT)
    )
    for function in (lambda: compare(one, two), lambda: average([one, two])):
        with pytest.raises(IcdtuneError, match="different notes or label spaces"):
            function()


def test_coders_of_the_same_subjects_but_different_notes_are_not_compared(corpus: Corpus) -> None:
    keeping, dropping = (make_task(corpus, ["I10"], rule) for rule in ("keep", "drop"))
    assert set(dropping.gold("test")[1]) == set(keeping.gold("test")[1])
    assert len(dropping.gold("test")[0]) < len(keeping.gold("test")[0])
    given = {note.note_id: ["I10"] for note in corpus.notes("test")}
    one, two = counted(keeping, "test", given), counted(dropping, "test", given)
    with pytest.raises(IcdtuneError, match="different notes or label spaces"):
        compare(one, two)


@pytest.mark.parametrize("other", [CODES[:-1], CODES[::-1], (*CODES[:-1], "N39.0")])
def test_coders_of_different_label_spaces_are_not_compared(
    corpus: Corpus, other: tuple[str, ...]
) -> None:
    task, second = make_task(corpus), make_task(corpus, other)
    given = answers(task, "test", keep=0.6, add=0.1, seed=1)
    one, two = counted(task, "test", given), counted(second, "test", given)
    for pair in ((one, two), (two, one)):
        for function in (compare, lambda *runs: average(runs)):
            with pytest.raises(IcdtuneError, match="different notes or label spaces"):
                function(*pair)


def test_macro_over_present_codes_leaves_out_codes_lost_in_the_resample(corpus: Corpus) -> None:
    task = make_task(corpus)
    perfect = {note.note_id: note.codes or () for note in corpus.notes(EIGHT)}
    found = bootstrap(
        counted(task, EIGHT, perfect), {"macro": macro_f1_present}, resamples=100, seed=0
    )
    assert found == {"macro": {"value": 1.0, "low": 1.0, "high": 1.0}}
