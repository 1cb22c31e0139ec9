"""Progressive hint injection: rounds over what is missed, and no hint outside training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icdtune.coders.base import load_coder, run_coder, train_coder
from icdtune.coders.generative import GenerativeCoder
from icdtune.data.labels import LabelSpace, Task
from icdtune.data.predictions import read_predictions
from icdtune.data.schema import Note
from icdtune.errors import IcdtuneError
from icdtune.files import read_json, write_json
from icdtune.posttrain.curriculum import Visit, hinted_round
from icdtune.posttrain.phi import PHI, Curriculum, Rounds, parent, read_added
from icdtune.posttrain.rollouts import Plan
from icdtune.prompts.hints import render_hint

MARK = render_hint(["A00.0"], lambda code: "").splitlines()[0]
SMALL = {"visits": 2, "group": 2}
SYSTEMS = {"diagnosis": "icd10cm"}
NOTES = [
    Note("a", "s", "t", ("A00.0", "A01.0")),
    Note("b", "s", "t", ("A00.0",)),
    Note("c", "s", "t", ()),
    Note("d", "s", "t", ("A02.0", "A03.0", "A04.0")),
    Note("e", "s", "t", ("A01.0", "A05.0")),
]
# What a model predicts before the first round and after each: first b is mastered, then a and d but b
# not, at last all but one code of e.
PREDICTED = [
    {"a": ["A00.0"], "b": ["A00.0"], "c": ["Z99.2"], "d": [], "e": ["A05.0"]},
    {"a": ["A01.0", "A00.0"], "b": [], "c": [], "d": ["A02.0", "A03.0", "A04.0"], "e": []},
    {
        "a": ["A00.0", "A01.0"],
        "b": ["A00.0"],
        "c": [],
        "d": ["A02.0", "A03.0", "A04.0"],
        "e": ["A01.0"],
    },
]


class Model:
    """A plain function over codes, and how often it was asked."""

    def __init__(self, answers: Sequence[dict[str, list[str]]] = PREDICTED) -> None:
        self.answers = answers
        self.asked = 0

    def __call__(self, notes: Sequence[Note]) -> tuple[dict[str, list[str]], int]:
        found = self.answers[self.asked]
        self.asked += 1
        return {note.note_id: found[note.note_id] for note in notes}, 10 * self.asked


def rounds(work: Path, predict: Callable[..., Any], steps: int = 10, count: int = 2) -> Rounds:
    return Rounds(NOTES, Curriculum(count, steps, 2, seed=1), work, predict)


def test_a_round_is_one_epoch_over_the_notes_with_something_missed(tmp_path: Path) -> None:
    """First a, d and e: two steps of two visits, the last filled up. Then b and e: one step."""
    made = rounds(tmp_path, Model())
    assert made.steps(1) == 2
    first, second = made.plan(0), made.plan(1)
    assert sorted(v.note.note_id for v in [*first, second[0]]) == ["a", "d", "e"]
    assert second[1] == first[0]
    assert made.steps(2) == 1
    assert sorted(v.note.note_id for v in made.plan(2)) == ["b", "e"]
    with pytest.raises(IndexError, match="step 3 is after the last round"):
        made.plan(3)
    assert [made.finished(step) for step in range(4)] == [False, False, False, True]


def test_hints_of_a_round_are_codes_missed_before_it(tmp_path: Path) -> None:
    for seed in range(30):
        made = Rounds(NOTES, Curriculum(2, 10, 2, seed), tmp_path / str(seed), Model())
        for turn in (1, 2):
            pools = made.pools(turn - 1)
            assert made.visits(turn) == hinted_round(NOTES, pools, seed, turn, 20)
            for visit in made.visits(turn):
                found = PREDICTED[turn - 1][visit.note.note_id]
                assert set(visit.hint) <= set(visit.note.codes or ()) - set(found)


def test_the_most_steps_of_a_round_cut_its_epoch(tmp_path: Path) -> None:
    made = rounds(tmp_path, Model(), steps=1)
    assert made.steps(1) == made.steps(2) == 1
    assert len(made.visits(1)) == 2
    assert [made.finished(step) for step in range(3)] == [False, False, True]


def test_pools_are_refreshed_when_a_round_ends_and_not_before(tmp_path: Path) -> None:
    """Predicting earlier would be with weights that are still being trained."""
    model = Model()
    made = rounds(tmp_path, model)
    assert model.asked == 0
    made.plan(0)
    assert not made.finished(1)
    made.plan(1)
    assert model.asked == 1
    assert not made.finished(2)
    assert model.asked == 2
    made.plan(2)
    assert made.finished(3)
    assert model.asked == 2  # the last refresh is for the report
    made.report()
    assert model.asked == 3


def test_pools_are_kept_in_the_work_folder_and_read_again(tmp_path: Path) -> None:
    model = Model()
    made = rounds(tmp_path, model)
    visits = [made.plan(step) for step in range(3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pools-0.json", "pools-1.json"]
    assert read_json(tmp_path / "pools-1.json")["predicted"] == PREDICTED[1]
    again = rounds(tmp_path, model)
    assert [again.plan(step) for step in range(3)] == visits
    assert again.finished(3)
    assert model.asked == 2
    assert again.report() == made.report()


def test_nothing_missed_needs_no_round(tmp_path: Path) -> None:
    gold = {note.note_id: list(note.codes or ()) for note in NOTES}
    made = rounds(tmp_path, Model([gold] * 3))
    assert made.finished(0)
    assert [entry["pool"] for entry in made.report()] == [0, 0, 0]


def test_the_report_by_hand(tmp_path: Path) -> None:
    """Of eight gold codes five are missed at first: one of a, three of d, one of e."""
    made = rounds(tmp_path, Model())
    zero, one, two = made.report()
    assert zero.pop("seconds") >= 0
    assert zero == {
        "round": 0,
        "notes": 5,
        "unmastered": 3,
        "pool": 5,
        "recall": round(1 - 5 / 8, 6),
        "tokens": 10,
    }
    assert (one["unmastered"], one["pool"], one["tokens"], one["steps"]) == (2, 3, 20, 2)
    assert (two["unmastered"], two["pool"], two["tokens"], two["steps"]) == (1, 1, 30, 1)
    for turn, entry in ((1, one), (2, two)):
        shown = {(visit.note.note_id, code) for visit in made.visits(turn) for code in visit.hint}
        later = PREDICTED[turn]
        learned = sum(code in later[note_id] for note_id, code in shown)
        assert entry["hinted"] == len(shown)
        assert entry["hinted_recall"] == (round(learned / len(shown), 6) if shown else None)
    assert one["hinted"] + two["hinted"] > 0


# Beyond the study


def test_a_code_missed_twice_in_a_row_is_shown_as_its_parent(tmp_path: Path) -> None:
    """d misses all three codes at every refresh, a misses A01.0 at the first alone."""
    answers = [PREDICTED[0], PREDICTED[1] | {"d": []}, PREDICTED[2]]
    families: set[tuple[str, str]] = set()
    for seed in range(40):
        rules = Curriculum(2, 10, 2, seed, ancestors_after=2, parent=lambda code: code[:3])
        made = Rounds(NOTES, rules, tmp_path / str(seed), Model(answers))
        assert not any(visit.families for visit in made.visits(1))
        for visit in made.visits(2):
            families |= {(visit.note.note_id, family) for family in visit.families}
            if visit.note.note_id == "d":
                assert not visit.hint
            else:
                assert not visit.families or visit.note.note_id == "e"
    # e misses A01.0 at first and both codes after it: A01.0 twice.
    assert families == {("d", "A02"), ("d", "A03"), ("d", "A04"), ("e", "A01")}


def test_rounds_end_when_macro_f1_stalls(tmp_path: Path) -> None:
    nothing: dict[str, list[str]] = {note.note_id: [] for note in NOTES}

    def made(scores: list[float], patience: int | None, name: str, count: int = 6) -> Rounds:
        left = iter(scores)
        rules = Curriculum(count, 1, 2, seed=1, patience=patience)
        model = Model([nothing] * 5)
        return Rounds(NOTES, rules, tmp_path / name, model, (), lambda predicted: next(left))

    one = made([0.2, 0.3, 0.3], 1, "one")  # the second round gains nothing
    assert [one.finished(step) for step in range(3)] == [False, False, True]
    assert [entry.get("macro_f1") for entry in one.report()] == [0.2, 0.3, 0.3]
    two = made([0.2, 0.1, 0.25, 0.2, 0.1], 2, "two")  # a better one within two, then none
    assert [two.finished(step) for step in range(5)] == [False] * 4 + [True]
    assert len(two.report()) == 5  # of six rounds
    never = made([], None, "never", 4)
    assert [never.finished(step) for step in range(5)] == [False] * 4 + [True]
    assert "macro_f1" not in never.report()[-1]


def test_pools_of_another_step_are_refused(tmp_path: Path) -> None:
    made = rounds(tmp_path, Model())
    made.plan(0)
    made.plan(2)
    write_json(tmp_path / "pools-1.json", read_json(tmp_path / "pools-1.json") | {"step": 1})
    with pytest.raises(IcdtuneError, match="was made at step 1, round 1 ends at 2.*train again"):
        rounds(tmp_path, Model()).plan(2)


def test_pools_that_are_gone_are_not_made_with_later_weights(tmp_path: Path) -> None:
    made = Rounds(NOTES, Curriculum(2, 10, 1, seed=1), tmp_path, Model())
    for step in range(4):
        made.plan(step)
    assert made.steps(1) == 3
    (tmp_path / "pools-1.json").unlink()
    with pytest.raises(IcdtuneError, match="is gone, and the coder has gone on since, to step 4"):
        Rounds(NOTES, Curriculum(2, 10, 1, seed=1), tmp_path, Model()).plan(4)


@pytest.fixture
def small_codes(small_task: Task) -> Task:
    """The task with the codes of NOTES as label space."""
    codes = sorted({code for note in NOTES for code in note.codes or ()} | {"A09"})
    return replace(
        small_task, labels=LabelSpace(**small_task.labels.model_dump() | {"codes": codes})
    )


def test_what_reviewers_added_is_read_from_a_table(tmp_path: Path, small_codes: Task) -> None:
    """Other notes and codes outside the label space are left out."""
    path = tmp_path / "added.csv"
    path.write_text("note_id,code,by\na,a010,x\nd,A02.0,x\nother,I10,x\nd,A03.0,y\na,I10,x\n")
    added = read_added(path, NOTES, small_codes)
    assert added == {"a": {"A01.0"}, "d": {"A02.0", "A03.0"}}
    rules = Curriculum(1, 10, 2, seed=1, added=added)
    made = Rounds(NOTES, rules, tmp_path, Model(PREDICTED[2:] * 2))
    assert made.pools(0).pools == {
        "a": ("A01.0",),
        "b": (),
        "c": (),
        "d": ("A02.0", "A03.0"),
        "e": ("A05.0",),
    }
    # What was answered is not missed, though it may still be shown.
    assert made.pools(0).missed == {("e", "A05.0")}
    assert [entry["recall"] for entry in made.report()] == [round(1 - 1 / 8, 6)] * 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("note_id,code\nb,A00.0\nb,A01.0\n", 'data row 2: field "code": note b has no such code'),
        ("note_id,code\nb,\n", 'data row 1: field "code": note b has no such code'),
        ("note_id,code\nx,A00.0\n", "has no row about a note of the curriculum"),
        ("note,code\nb,A00.0\n", 'has no column "note_id"'),
    ],
)
def test_what_reviewers_cannot_have_added_is_refused(
    tmp_path: Path, small_codes: Task, text: str, problem: str
) -> None:
    (tmp_path / "added.csv").write_text(text)
    with pytest.raises(IcdtuneError, match=problem):
        read_added(tmp_path / "added.csv", NOTES, small_codes)


def test_a_parent_is_a_code_of_the_tables() -> None:
    found = [parent(SYSTEMS, code) for code in ("I50.21", "I50", "X99.99", "0DTJ4ZZ")]
    assert found == ["I50.2", None, None, None]


def test_a_coder_takes_all_of_it(tuned: Path, small_task: Task, tmp_path: Path) -> None:
    visited: list[list[Visit]] = []
    rounds: list[Rounds] = []

    class Seen(PHI):
        def reinforce(self, plan: Plan, *rest: Any, **options: Any) -> None:
            rounds.append(plan.__self__)  # type: ignore[attr-defined]

            def watched(step: int) -> Sequence[Visit]:
                visited.append(list(plan(step)))
                return visited[-1]

            super().reinforce(watched, *rest, **options)

    notes = [note for note in small_task.notes("train") if note.codes]
    rows = "".join(f"{note.note_id},{(note.codes or ())[0]}\n" for note in notes)
    (tmp_path / "added.csv").write_text(f"note_id,code\n{rows}")
    coder = Seen(
        tuned,
        rounds=3,
        steps=4,
        anneal=True,
        ancestors_after=1,
        patience=3,
        reviewed=tmp_path / "added.csv",
        **SMALL,
    )
    coder.fit(small_task, 1, tmp_path / "work")
    rules = rounds[0]._rules
    assert (rules.anneal, rules.ancestors_after, rules.patience) == (True, 1, 3)
    assert rules.added.keys() == {note.note_id for note in notes}
    assert all(0 <= entry["macro_f1"] <= 1 for entry in coder.training["rounds"])
    assert len(visited) == 12
    assert any(visit.hinted for visits in visited for visit in visits)
    # Missed once is enough: a code that has a parent and is shown itself was answered.
    for step, visits in enumerate(visited):
        missed = rounds[0].pools(step // 4).missed
        for visit in visits:
            for code in visit.hint:
                assert parent(SYSTEMS, code) is None or (visit.note.note_id, code) not in missed
            assert {name[:3] for name in visit.families} <= {c[:3] for c in visit.note.codes or ()}


def test_a_training_ends_when_macro_f1_stalls(
    tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    """At a rate of next to nothing the coder answers as before: one round of four, then the end."""
    coder = PHI(tuned, rounds=4, steps=1, patience=1, learning_rate=1e-12, **SMALL)
    coder.fit(small_task, 1, tmp_path)
    first, second = coder.training["rounds"]
    assert first["macro_f1"] == second["macro_f1"]
    assert coder.training["steps"] == len(coder.training["history"]) == 1


def test_a_reviewed_table_that_is_not_there_is_said_at_once(tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(IcdtuneError, match="added.csv does not exist. Check the path"):
        PHI(tuned, reviewed=tmp_path / "added.csv")


def test_an_annealed_round_is_filled_up_without_hints(tmp_path: Path) -> None:
    """Three notes, two visits a step: the last visit comes again, and hints have ended."""
    for seed in range(20):
        rules = Curriculum(1, 10, 2, seed, anneal=True)
        made = Rounds(NOTES, rules, tmp_path / str(seed), Model())
        first, last = made.plan(0), made.plan(1)
        assert last[1] == Visit(first[0].note)


def test_refilled_visits_are_refused(tuned: Path) -> None:
    with pytest.raises(IcdtuneError, match="Leave it to grpo"):
        PHI(tuned, refill=1)


# The coder


class Watched(PHI):
    """Keeps the prompts of every answer that is not a rollout."""

    def answer(self, prompts: Sequence[Sequence[int]], *rest: Any) -> Any:
        self.asked = [*getattr(self, "asked", []), *prompts]
        return super().answer(prompts, *rest)


@pytest.fixture(scope="module")
def phi(tuned: Path, small_task: Task, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """Two rounds of at most three steps."""
    coder = Watched(tuned, rounds=2, steps=3, notes=20, **SMALL)
    coder.fit(small_task, 1, tmp_path_factory.mktemp("phi"))
    return coder


def test_nothing_is_hinted_when_pools_are_refreshed_or_notes_are_predicted(
    phi: Watched, small_task: Task
) -> None:
    assert sum(row["hinted"] for row in phi.training["history"]) > 0  # training saw hints
    assert len(phi.asked) >= 3 * 20
    phi.predict(small_task.notes("test"))
    for prompt in [*phi.asked, *phi.prompts(note.text for note in small_task.notes("train"))]:
        assert MARK not in phi.tokenizer.decode(prompt)


def test_training_json_tells_of_every_round(phi: Watched, tmp_path: Path) -> None:
    phi.save(tmp_path)
    training = read_json(tmp_path / "training.json")
    found = training["rounds"]
    assert [entry["round"] for entry in found] == [0, 1, 2]
    assert [entry["notes"] for entry in found] == [20, 20, 20]
    assert all(entry["unmastered"] <= entry["pool"] for entry in found)
    assert found[0]["pool"] > 0
    assert training["steps"] == sum(entry["steps"] for entry in found[1:])
    assert 3 < training["steps"] == len(training["history"])
    rollouts = sum(row["prompt_tokens"] + row["answer_tokens"] for row in training["history"])
    assert training["tokens"] == rollouts + sum(entry["tokens"] for entry in found)


def test_the_last_pools_are_those_of_the_coder_that_is_kept(
    phi: Watched, small_task: Task, tmp_path: Path
) -> None:
    phi.save(tmp_path)
    loaded = GenerativeCoder.load(tmp_path)
    chosen = phi.asked[:20]
    notes = [n for n in small_task.notes("train") if phi.prompts([n.text])[0] in chosen]
    assert len(notes) == 20
    missed = sum(
        len(set(note.codes or ()) - set(row.codes))
        for note, row in zip(notes, loaded.predict(notes), strict=True)
    )
    assert phi.training["rounds"][-1]["pool"] == missed


def test_plain_grpo_can_be_given_as_many_updates_as_phi_made(
    phi: Watched, tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    (tmp_path / "phi").mkdir()
    phi.save(tmp_path / "phi")
    options = {"start": str(tuned), "match": str(tmp_path / "phi"), "steps": 999, **SMALL}
    train_coder("grpo", small_task, tmp_path / "grpo", 1, options)
    assert read_json(tmp_path / "grpo" / "training.json")["steps"] == phi.training["steps"]


@pytest.mark.parametrize("rank", [0, 4])
def test_a_coder_that_misses_nothing_is_kept_as_it_is(
    tuned: Path, small_task: Task, tmp_path: Path, rank: int
) -> None:
    """Training notes without gold: none has a pool, no update is made, and none is to match."""
    bare = frozenset(note.note_id for note in small_task.notes("train") if not note.codes)
    start = tmp_path / "start"
    options = {"model": str(tuned), "steps": 2, "lora_rank": rank}
    train_coder("sft", small_task, start, 1, options | {"prompt_budget": 192, "answer_budget": 24})
    task = replace(small_task, only=bare)
    stage = {"start": str(start), **SMALL}
    train_coder("phi", task, tmp_path / "phi", 1, stage)
    train_coder("grpo", task, tmp_path / "grpo", 1, stage | {"match": str(tmp_path / "phi")})
    found = []
    for name in ("start", "phi", "grpo"):
        coder = load_coder(tmp_path / name)
        run_coder(coder, name, small_task, "test", 1, tmp_path / f"{name}-test")
        found.append(read_predictions(tmp_path / f"{name}-test")[0].table)
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])
    assert read_json(tmp_path / "phi" / "training.json")["steps"] == 0
