"""Counts and metrics against scikit-learn and literal loops, whatever a coder answers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from icdtune.data.labels import LabelRule, LabelSpace, Task
from icdtune.data.predictions import Prediction, Predictions, read_predictions
from icdtune.data.schema import Corpus, Note
from icdtune.data.writer import CorpusWriter
from icdtune.errors import IcdtuneError
from icdtune.evaluation.counts import PRECISION_AT, Counts, average, count
from icdtune.evaluation.evaluate import evaluate
from icdtune.evaluation.metrics import METRICS, whole
from icdtune.evaluation.slices import FREQUENCY_BINS, frequency_masks

SYSTEMS = {"diagnosis": "icd10cm", "procedure": "icd10pcs"}

# "E11.98" is well formed but no code; "E11" is a category: known, though it does not bill.
GOLD = ("I10", "E11.9", "J18.9", "N17.9", "I50.9", "E11", "E11.98", "Z79.4", "0FT44ZZ", "5A1955Z")
NEVER_GOLD = ("K35.80", "F32.9", "A00.0", "Z00.98", "02703DZ")
UNKNOWN = {"E11.98", "Z00.98"}
MALFORMED = ("", "diabetes", "I1.0", "XYZ", "E11.9, I10", "1234567890", "A00-B")
SPELLINGS = {
    **{code: code for code in (*GOLD, *NEVER_GOLD, *MALFORMED)},
    "I10.": "I10",
    " i10 ": "I10",
    "e119": "E11.9",
    "E11.9.": "E11.9",
    "j18.9": "J18.9",
    "N179": "N17.9",
    "z794": "Z79.4",
    "E1198": "E11.98",
    "0ft44zz": "0FT44ZZ",
    "k3580": "K35.80",
}
"""What a coder may write -> the code it means; what means no code means itself."""

SPLITS = {"one": 1, "nothing": 3, "few": 5, "some": 12}
BIN_CODES = {"I10": 60, "E11.9": 50, "J18.9": 49, "N17.9": 10, "I50.9": 9, "Z79.4": 1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Splits of random gold, some notes coded as nothing; a train split of known counts."""
    rng = random.Random(7)
    path = tmp_path_factory.mktemp("metrics") / "corpus"
    with _writer(path) as writer:
        for row in range(max(BIN_CODES.values())):
            codes = tuple(code for code, times in BIN_CODES.items() if row < times)
            writer.add("train", Note(f"train-{row}", f"train-subject-{row}", "A note.", codes))
        for split, notes in SPLITS.items():
            for row in range(notes):
                size = 0 if split == "nothing" or rng.random() < 0.3 else rng.randint(1, 6)
                codes = tuple(rng.sample(GOLD, size))
                subject = f"{split}-subject-{rng.randrange(max(1, notes // 2))}"
                writer.add(split, Note(f"{split}-{row}", subject, "A note.", codes))
    return Corpus(path)


def _writer(path: Path) -> CorpusWriter:
    return CorpusWriter(
        path, name="tiny", code_systems=SYSTEMS, source="a test", options={}, protected=False
    )


def make_task(corpus: Corpus, codes: Iterable[str], empty_notes: str = "keep") -> Task:
    rule = LabelRule(kind="file", source="codes.txt")
    space = LabelSpace(name="space", rule=rule, empty_notes=empty_notes, codes=list(codes))
    return Task(corpus, space)


def predict(task: Task, split: str, codes: Sequence[str] = ()) -> Predictions:
    """The same answer for every note."""
    return Predictions([Prediction(note_id, tuple(codes)) for note_id in task.gold(split)[0]])


def values_of(counts: Counts) -> dict[str, float]:
    totals = whole(counts)
    return {name: float(metric(totals)[0]) for name, metric in METRICS.items()}


@dataclass(frozen=True)
class Case:
    split: str
    codes: tuple[str, ...]
    empty_notes: str
    answers: list[list[str]]
    rankings: list[list[str] | None]


spelling = st.sampled_from(sorted(SPELLINGS))
answer = st.lists(spelling, max_size=8)
ranking = st.none() | st.lists(spelling, max_size=20)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    split = draw(st.sampled_from(sorted(SPLITS)))
    notes = SPLITS[split]
    space = st.lists(st.sampled_from((*GOLD, *NEVER_GOLD)), min_size=1, max_size=15, unique=True)
    return Case(
        split,
        tuple(draw(space)),
        draw(st.sampled_from(("keep", "drop"))),
        draw(st.lists(answer, min_size=notes, max_size=notes)),
        draw(st.lists(ranking, min_size=notes, max_size=notes)),
    )


def build(
    corpus: Corpus, case: Case
) -> tuple[Task, Predictions, list[set[str]], list[set[str]], list[list[str]]]:
    """The task and predictions of a case and, counted apart, gold, answers and rankings a note."""
    task = make_task(corpus, case.codes, case.empty_notes)
    rows, gold, predicted, ranked = [], [], [], []
    notes = list(corpus.notes(case.split))
    for note, codes, ranking in zip(notes, case.answers, case.rankings, strict=True):
        longer = None if ranking is None else tuple(ranking)
        rows.append(Prediction(note.note_id, tuple(codes), ranked_codes=longer))
        kept = {code for code in note.codes or () if code in case.codes}
        if kept or case.empty_notes == "keep":
            gold.append(kept)
            predicted.append({SPELLINGS[raw] for raw in codes})
            ranked.append([SPELLINGS[raw] for raw in (codes if ranking is None else ranking)])
    return task, Predictions(rows[::-1]), gold, predicted, ranked


def indicator(sets: list[set[str]], columns: list[str]) -> npt.NDArray[np.int64]:
    return np.array([[int(code in codes) for code in columns] for codes in sets])


def average_precision(gold: set[str], ranked: list[str]) -> float:
    found: set[str] = set()
    total = 0.0
    for rank, code in enumerate(ranked, 1):
        if code in gold and code not in found:
            found.add(code)
            total += len(found) / rank
    return total / len(gold)


def precision_at(k: int, gold: set[str], ranked: list[str]) -> float:
    return len(gold & set(ranked[:k])) / k


def share(part: int, total: int) -> float:
    return part / total if total else 0.0


def expected_values(
    space: Sequence[str],
    gold: list[set[str]],
    predicted: list[set[str]],
    ranked: list[list[str]],
) -> dict[str, float]:
    notes = len(gold)
    others = sorted(set().union(*predicted) - set(space))
    # A column that nobody uses keeps scikit-learn from reading one column as a binary task.
    columns = [*space, *others, "unused"]
    truth, guess = indicator(gold, columns), indicator(predicted, columns)
    expected: dict[str, float] = {}

    def add(kind: str, suffix: str, average: str, labels: list[int]) -> None:
        scores: Sequence[float | None] = (0.0, 0.0, 0.0, None)
        if labels:
            scores = precision_recall_fscore_support(
                truth, guess, labels=labels, average=average, zero_division=0
            )
        for name, score in zip(("precision", "recall", "f1"), scores[:3], strict=True):
            expected[f"{kind}_{name}{suffix}"] = score

    present = [i for i, code in enumerate(columns) if any(code in codes for codes in gold)]
    add("micro", "", "micro", list(range(len(columns))))
    add("macro", "", "macro", list(range(len(space))))
    add("macro", "_present", "macro", present)
    add("micro", "_published", "micro", present)
    del expected["micro_precision_published"], expected["micro_recall_published"]

    expected["sample_f1"] = f1_score(truth, guess, average="samples", zero_division=1)
    expected["exact_match"] = accuracy_score(truth, guess)
    coded = [(g, r) for g, r in zip(gold, ranked, strict=True) if g]
    expected["map"] = share(sum(average_precision(g, r) for g, r in coded), len(coded))
    for k in PRECISION_AT:
        hits = [precision_at(k, g, r) for g, r in zip(gold, ranked, strict=True)]
        expected[f"precision_at_{k}"] = sum(hits) / notes

    said = [code for codes in predicted for code in codes]
    invalid = [code for code in said if code in UNKNOWN or code in MALFORMED]
    expected["invalid_rate"] = share(len(invalid), len(said))
    expected["off_label_rate"] = share(sum(code not in space for code in said), len(said))
    expected["codes_per_note"] = len(said) / notes
    expected["gold_codes_per_note"] = sum(len(codes) for codes in gold) / notes
    return expected


@settings(max_examples=700, deadline=None)  # some leave no note to score
@given(case=cases())
def test_every_metric_equals_scikit_learn_or_a_literal_loop(corpus: Corpus, case: Case) -> None:
    task, predictions, gold, predicted, ranked = build(corpus, case)
    if not gold:
        with pytest.raises(IcdtuneError, match="no notes in this label space"):
            count(task, case.split, predictions)
        return
    found = values_of(count(task, case.split, predictions))
    assert found == pytest.approx(expected_values(case.codes, gold, predicted, ranked), abs=1e-12)


def test_a_prediction_equal_to_the_gold_scores_one(corpus: Corpus) -> None:
    task = make_task(corpus, GOLD)
    ids, _, gold = task.gold("some")
    found = values_of(count(task, "some", Predictions(map(Prediction, ids, gold))))
    for name in ("micro_f1", "macro_f1_present", "sample_f1", "exact_match", "map"):
        assert found[name] == 1.0
    assert found["codes_per_note"] == found["gold_codes_per_note"]


def test_one_code_in_three_spellings_is_one_prediction(corpus: Corpus) -> None:
    task = make_task(corpus, GOLD)
    thrice = count(task, "some", predict(task, "some", ["I10.", " i10 ", "I10"]))
    once = count(task, "some", predict(task, "some", ["I10"]))
    assert values_of(thrice)["codes_per_note"] == 1.0
    assert values_of(thrice)["micro_f1"] == values_of(once)["micro_f1"]


def test_a_repeat_in_the_ranking_takes_a_place_and_hits_nothing(corpus: Corpus) -> None:
    task = make_task(corpus, GOLD)
    ids, _, gold = task.gold("some")
    at = next(row for row, codes in enumerate(gold) if len(codes) == 2)
    first, second = gold[at]
    ranked = {ids[at]: (first, first, second)}
    rows = [Prediction(note_id, (), ranked_codes=ranked.get(note_id, ())) for note_id in ids]
    sums = count(task, "some", Predictions(rows)).sums
    assert sums["precision_at_5"].sum() == pytest.approx(2 / 5)
    assert sums["average_precision"].sum() == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_headings_of_the_code_tables_are_not_valid_codes(corpus: Corpus) -> None:
    task = make_task(corpus, GOLD)
    counts = count(task, "some", predict(task, "some", ["22", "A00-A09", "I10"]))
    assert values_of(counts)["invalid_rate"] == pytest.approx(2 / 3)


def test_the_order_of_the_prediction_rows_does_not_matter(corpus: Corpus) -> None:
    task = make_task(corpus, GOLD)
    ids = task.gold("some")[0]
    rows = [Prediction(note_id, (GOLD[i % 10], "XYZ")) for i, note_id in enumerate(ids)]
    forward, backward = (count(task, "some", Predictions(r)) for r in (rows, rows[::-1]))
    assert values_of(forward) == values_of(backward)


def test_a_prediction_for_a_note_of_another_split_is_refused(corpus: Corpus) -> None:
    task = make_task(corpus, GOLD)
    rows = [*predict(task, "some"), Prediction("few-2", ("I10",))]
    with pytest.raises(IcdtuneError, match='row 12: field "note_id": few-2 is not a note of') as e:
        count(task, "some", Predictions(rows))
    assert '"some"' in str(e.value)


def test_predictions_of_another_split_are_refused(corpus: Corpus) -> None:
    task = make_task(corpus, GOLD)
    with pytest.raises(IcdtuneError, match="12 of 12 notes .* missing, first some-0"):
        count(task, "some", predict(task, "few"))


def test_a_missing_prediction_is_named(corpus: Corpus) -> None:
    task = make_task(corpus, GOLD)
    rows = [row for row in predict(task, "some") if row.note_id not in ("some-3", "some-8")]
    with pytest.raises(IcdtuneError, match='2 of 12 notes of split "some" are missing, .*some-3'):
        count(task, "some", Predictions(rows))


def test_a_note_predicted_twice_is_named(corpus: Corpus) -> None:
    task = make_task(corpus, GOLD)
    rows = list(predict(task, "some"))
    with pytest.raises(IcdtuneError, match='field "note_id": some-4 stands twice'):
        count(task, "some", Predictions([*rows, rows[4]]))


def test_a_null_among_the_predicted_codes_is_an_error_with_its_row(
    corpus: Corpus, tmp_path: Path
) -> None:
    task = make_task(corpus, GOLD)
    ids = task.gold("few")[0]
    codes = [["I10"], ["I10", None], ["I10"], [], []]
    path = tmp_path / "predictions.parquet"
    pq.write_table(pa.table({"note_id": ids, "codes": codes}), path)
    with pytest.raises(IcdtuneError, match='row 1: field "codes"'):
        count(task, "few", read_predictions(path)[0])


def test_notes_that_the_label_space_drops_may_be_predicted_or_left_out(corpus: Corpus) -> None:
    dropping, keeping = (make_task(corpus, GOLD, rule) for rule in ("drop", "keep"))
    assert 0 < len(dropping.gold("some")[0]) < len(keeping.gold("some")[0])
    without = count(dropping, "some", predict(dropping, "some", ["I10"]))
    along = count(dropping, "some", predict(keeping, "some", ["I10"]))
    assert values_of(without) == values_of(along)


def test_the_average_of_one_run_is_the_run(corpus: Corpus) -> None:
    task = make_task(corpus, GOLD)
    run = count(task, "some", predict(task, "some", ["I10", "XYZ"]))
    assert values_of(average([run])) == values_of(run)


@settings(max_examples=50, deadline=None)
@given(answers=st.lists(st.lists(answer, min_size=12, max_size=12), min_size=2, max_size=2))
def test_the_average_of_two_runs_is_the_mean_of_their_counts(
    corpus: Corpus, answers: list[list[list[str]]]
) -> None:
    task = make_task(corpus, ["I10", "E11.9", "K35.80"])
    ids = task.gold("some")[0]
    runs = [count(task, "some", Predictions(map(Prediction, ids, run))) for run in answers]
    mean = average(runs)
    assert set(mean.codes) == set(runs[0].codes) | set(runs[1].codes)
    for name in ("true_positive", "predicted", "gold"):
        for at, code in enumerate(mean.codes):
            column = np.zeros(len(mean.subjects))
            for run in runs:
                if code in run.codes:
                    matrix = getattr(run, name).toarray()
                    column += matrix[:, run.codes.index(code)] / 2
            assert getattr(mean, name).toarray()[:, at].tolist() == column.tolist()
    for name, values in mean.sums.items():
        assert values == pytest.approx((runs[0].sums[name] + runs[1].sums[name]) / 2)


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_the_frequency_bins_partition_the_label_space(corpus: Corpus, case: Case) -> None:
    task = make_task(corpus, case.codes)
    counts = count(task, case.split, build(corpus, case)[1])
    masks = frequency_masks(counts, task.frequencies())
    assert list(masks) == ["0", "1-9", "10-49", ">=50"]
    assert (sum(mask.astype(int) for mask in masks.values()) == counts.in_space).all()


def test_a_code_is_binned_by_its_number_of_training_notes(corpus: Corpus) -> None:
    task = make_task(corpus, [*BIN_CODES, "K35.80"])
    counts = count(task, "some", predict(task, "some", ["I10", "F32.9"]))
    masks = frequency_masks(counts, task.frequencies())
    binned = {name: {counts.codes[i] for i in np.flatnonzero(mask)} for name, mask in masks.items()}
    assert binned == {
        "0": {"K35.80"},
        "1-9": {"I50.9", "Z79.4"},
        "10-49": {"J18.9", "N17.9"},
        ">=50": {"I10", "E11.9"},
    }


@pytest.mark.parametrize("split", ["one", "nothing", "few", "some"])
@pytest.mark.parametrize("codes", [[], ["I10"], ["XYZ", "F32.9"], list(SPELLINGS)])
@pytest.mark.parametrize("resamples", [0, 60])
def test_metrics_are_plain_json_without_nan(
    corpus: Corpus, split: str, codes: list[str], resamples: int
) -> None:
    task = make_task(corpus, ["I10", "E11.9", "J18.9", "K35.80"])
    runs = [predict(task, split, codes), predict(task, split), predict(task, split, ["E11.9"])]
    for predictions in (runs[:1], runs):
        content = evaluate(task, split, predictions, resamples=resamples)
        assert json.loads(json.dumps(content, allow_nan=False)) == content
        keys = {"value", "low", "high"} if resamples else {"value"}
        assert set(content["metrics"]) == set(METRICS)
        assert all(set(entry) == keys for entry in content["metrics"].values())


def test_metrics_say_what_was_evaluated(corpus: Corpus) -> None:
    task = make_task(corpus, ["I10", "E11.9", "J18.9", "K35.80"])
    content = evaluate(task, "some", [predict(task, "some", ["I10", "XYZ"])], resamples=10, seed=3)
    subjects = {note.subject_id for note in corpus.notes("some")}
    carriers = sum("I10" in (note.codes or ()) for note in corpus.notes("some"))
    assert (content["notes"], content["subjects"], content["labels"]) == (12, len(subjects), 4)
    assert content["corpus_hash"] == corpus.info.hash
    assert content["bootstrap"] == {"unit": "subject", "resamples": 10, "seed": 3, "level": 0.95}
    assert sum(row["codes"] for row in content["by_frequency"]) == 4
    assert [row["bin"] for row in content["by_frequency"]] == [name for name, *_ in FREQUENCY_BINS]
    table = content["per_code"]
    row = table["code"].index("I10")
    assert (table["train"][row], table["gold"][row], table["predicted"][row]) == (60, carriers, 12)
    assert table["true_positive"][row] == carriers
    assert table["f1"][row] == pytest.approx(2 * carriers / (carriers + 12), abs=1e-6)
    assert table["gold"][table["code"].index("XYZ")] == 0


def test_a_frequency_bin_scores_its_codes_alone(corpus: Corpus) -> None:
    task = make_task(corpus, GOLD)
    predictions = predict(task, "some", ["I10", "E11.9", "J18.9", "XYZ", "F32.9"])
    content = evaluate(task, "some", [predictions], resamples=0)
    by_bin = {row["bin"]: row for row in content["by_frequency"]}
    frequent = {"I10", "E11.9"}
    gold = [frequent & set(note.codes or ()) for note in corpus.notes("some")]
    truth, guess = indicator(gold, sorted(frequent)), np.ones((len(gold), 2), int)
    for average_name in ("micro", "macro"):
        score = f1_score(truth, guess, average=average_name, zero_division=0)
        assert by_bin[">=50"][f"{average_name}_f1"]["value"] == pytest.approx(score)
    assert by_bin[">=50"]["mentions"] == truth.sum()


def test_averaged_runs_that_agree_score_like_one(corpus: Corpus) -> None:
    task = make_task(corpus, GOLD)
    one = count(task, "some", predict(task, "some", ["I10", "E11.9", "XYZ"]))
    for runs in (2, 3, 7):
        assert values_of(average([one] * runs)) == pytest.approx(values_of(one), abs=1e-6)


def test_an_unlabelled_split_is_refused(tmp_path: Path) -> None:
    with _writer(tmp_path / "corpus") as writer:
        writer.add("test", Note("a", "s", "A note.", ("I10",)))
        writer.add("test", Note("b", "s", "A note.", None))
    task = make_task(Corpus(tmp_path / "corpus"), ["I10"])
    predictions = Predictions([Prediction("a", ()), Prediction("b", ())])
    with pytest.raises(IcdtuneError, match="note b is unlabelled"):
        count(task, "test", predictions)
