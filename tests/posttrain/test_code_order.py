"""Orders of the codes in a training answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icdtune.data.labels import Task
from icdtune.errors import IcdtuneError
from icdtune.posttrain.answer_loss import Respelled
from icdtune.posttrain.code_order import Order, code_order

ORDERS: tuple[Order, ...] = ("sorted", "frequency", "evidence", "shuffled")


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_states_the_same_set(order: Order, small_task: Task) -> None:
    ordered = code_order(order, small_task, 1)
    for note in small_task.notes("train"):
        codes = note.codes or ()
        for epoch in (0, 1):
            assert sorted(ordered(note.note_id, codes, epoch)) == sorted(codes)


def test_frequent_codes_come_first_and_ties_in_the_order_of_the_alphabet(small_task: Task) -> None:
    ordered = code_order("frequency", small_task, 1)
    frequency = small_task.frequencies()
    codes = ordered("any", small_task.labels.codes, 0)
    keys = [(-frequency[code], code) for code in codes]
    assert keys == sorted(keys)
    assert len({frequency[code] for code in codes}) > 1


def test_evidence_comes_as_the_note_has_it_and_codes_without_any_last(small_task: Task) -> None:
    ordered = code_order("evidence", small_task, 1)
    spans = [(s.note_id, s.code, s.start) for s in small_task.corpus.evidence()]
    several = 0
    for note in small_task.notes("train"):
        codes = ordered(note.note_id, [*(note.codes or ()), "Z99.9"], 0)
        starts = {
            code: min(start for n, c, start in spans if (n, c) == (note.note_id, code))
            for code in note.codes or ()
        }
        assert [starts[code] for code in codes[:-1]] == sorted(starts.values())
        assert codes[-1] == "Z99.9"
        several += codes[:-1] != sorted(codes[:-1])
    assert several


def test_a_corpus_without_evidence_has_no_order_of_it(small_task: Task, tmp_path: Path) -> None:
    from dataclasses import replace
    from shutil import copytree

    from icdtune.data.schema import Corpus

    bare = tmp_path / "bare"
    copytree(small_task.corpus.path, bare)
    (bare / "evidence.parquet").unlink()
    with pytest.raises(
        IcdtuneError, match="has no evidence for its training notes.*Give another order"
    ):
        code_order("evidence", replace(small_task, corpus=Corpus(bare)), 1)


@given(st.permutations([f"A{i:02d}" for i in range(8)]), st.integers(0, 50))
def test_a_shuffle_depends_on_the_set_the_note_and_the_epoch(codes: list[str], epoch: int) -> None:
    ordered = code_order("shuffled", None, 3)  # type: ignore[arg-type]
    first = ordered("n", codes, epoch)
    assert first == ordered("n", sorted(codes), epoch)
    assert len({tuple(ordered("n", codes, e)) for e in range(20)}) > 10
    assert len({tuple(ordered(str(n), codes, epoch)) for n in range(20)}) > 10


def test_answers_are_spelt_anew_in_every_epoch() -> None:
    def spell(note_id: str, codes: list[str], epoch: int) -> list[int]:
        return [int(code) + 100 * epoch for code in codes] + [9]

    collate = Respelled(0, spell)
    rows = [
        {
            "note_id": "a",
            "codes": ["1", "2"],
            "input_ids": [5, 6, 1, 2, 9],
            "labels": [-100] * 2 + [1, 2, 9],
        },
        {"note_id": "b", "codes": [], "input_ids": [7, 9], "labels": [-100, 9]},
    ]
    first = collate(rows)
    collate.epoch = 1
    second = collate(rows)
    assert first["input_ids"].tolist() == [[5, 6, 1, 2, 9], [0, 0, 0, 7, 9]]
    assert second["input_ids"].tolist() == [[5, 6, 101, 102, 9], [0, 0, 0, 7, 9]]
    assert second["labels"].tolist() == [[-100, -100, 101, 102, 9], [-100, -100, -100, -100, 9]]
    assert torch.equal(first["attention_mask"], second["attention_mask"])
