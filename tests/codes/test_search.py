import pytest

from icdtune.codes.search import search
from icdtune.codes.systems import SYSTEMS
from icdtune.codes.tables import load_table
from icdtune.errors import IcdtuneError


def test_a_diagnosis_in_words_is_found():
    best = search("acute systolic heart failure")[0]
    assert best.code == "I50.21"
    assert best.title == "Acute systolic (congestive) heart failure"
    assert best.billable


def test_word_order_case_and_plural_play_no_part():
    codes = [hit.code for hit in search("acute systolic heart failure")]
    assert [hit.code for hit in search("Heart FAILURES, systolic; acute")] == codes


def test_inclusion_terms_are_searched_too():
    (hit,) = search("MASLD")
    assert hit.code == "K76.0"
    assert "MASLD" not in hit.title


def test_hits_come_best_first_with_positive_scores():
    hits = search("fracture of radius", count=50)
    scores = [hit.score for hit in hits]
    assert len(hits) == 50
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0
    assert len({hit.code for hit in hits}) == 50


def test_the_billable_filter_fills_up_with_billable_codes():
    everything = search("systolic heart failure", count=20)
    assert not all(hit.billable for hit in everything)
    filtered = search("systolic heart failure", count=20, billable=True)
    assert len(filtered) == 20
    assert all(hit.billable for hit in filtered)
    kept = [hit.code for hit in everything if hit.billable]
    assert [hit.code for hit in filtered][: len(kept)] == kept


@pytest.mark.parametrize("query", ["", "   ", "the of and", "zzzzqqq", "?!"])
def test_a_query_without_known_words_finds_nothing(query):
    assert search(query) == []


def test_no_hits_are_given_where_none_are_asked_for():
    assert search("heart", count=0) == []


@pytest.mark.parametrize(
    ("system", "query", "code"),
    [
        (
            "icd10pcs",
            "tracheobronchial tree inspection, via natural opening, endoscopic",
            "0BJ08ZZ",
        ),
        ("icd9cm", "acute systolic heart failure", "428.21"),
        ("icd9proc", "injection of antibiotic", "99.21"),
    ],
)
def test_every_system_can_be_searched(system, query, code):
    hits = search(query, system, billable=True)
    assert code in [hit.code for hit in hits]
    assert all(hit.code in load_table(system) for hit in hits)
    assert all(SYSTEMS[system].canonical(hit.code) == hit.code for hit in hits)


def test_an_unknown_system_is_refused():
    with pytest.raises(IcdtuneError, match='"icd11"'):
        search("heart", "icd11")
