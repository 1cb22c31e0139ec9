import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from icdtune.codes.systems import ICD9CM, ICD9PROC, ICD10CM, ICD10PCS, SYSTEMS, get_system
from icdtune.codes.tables import load_table
from icdtune.errors import IcdtuneError

BLOCK_OR_CHAPTER = re.compile(r"\d{1,2}|[A-Z]\w\w-[A-Z]\w\w")


def codes_of(system):
    """Every node of a table that is written as a code: ICD-10-CM's chapters and blocks are not."""
    codes = load_table(system).codes
    if system == "icd10cm":
        return [code for code in codes if BLOCK_OR_CHAPTER.fullmatch(code) is None]
    return codes


@st.composite
def table_codes(draw):
    system = draw(st.sampled_from(sorted(SYSTEMS)))
    return SYSTEMS[system], draw(st.sampled_from(codes_of(system)))


@st.composite
def notations(draw):
    """A code of a table, written with any case, with or without its dot, space and a final dot."""
    system, code = draw(table_codes())
    text = draw(st.sampled_from([code, code.replace(".", "")]))
    lower = draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
    text = "".join(c.lower() if low else c for c, low in zip(text, lower, strict=True))
    before, after = draw(st.sampled_from(["", " ", "\t"])), draw(st.sampled_from(["", ".", ". "]))
    return system, code, before + text + after


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_code_of_a_table_is_its_own_canonical_form(name):
    system = SYSTEMS[name]
    assert [code for code in codes_of(name) if system.canonical(code) != code] == []


@settings(deadline=None)
@given(notations())
def test_every_notation_of_a_code_has_the_same_canonical_form(written):
    system, code, text = written
    assert system.canonical(text) == code


@settings(deadline=None)
@given(st.sampled_from(sorted(SYSTEMS)), st.text("abeEV0123456789. ", max_size=9))
def test_canonical_form_is_idempotent(name, text):
    code = SYSTEMS[name].canonical(text)
    assert code is None or SYSTEMS[name].canonical(code) == code


@settings(deadline=None)
@given(st.sampled_from(sorted(SYSTEMS)), st.text(max_size=9))
@example("icd10cm", "ı50.21")
@example("icd10cm", "ſ52.501A")
@example("icd10pcs", "0ſJ08ZZ")
def test_canonical_form_changes_only_case_dots_and_outer_space(name, text):
    code = SYSTEMS[name].canonical(text)
    if code is not None:
        assert code.replace(".", "").lower() == text.strip().replace(".", "").lower()


@settings(deadline=None)
@given(table_codes(), st.data())
def test_a_dot_in_the_wrong_place_is_malformed(pair, data):
    system, code = pair
    bare = code.replace(".", "")
    right = code.find(".") if "." in code else len(bare)
    wrong = [at for at in range(len(bare)) if at != right]
    at = data.draw(st.sampled_from(wrong))
    assert system.canonical(f"{bare[:at]}.{bare[at:]}") is None


@pytest.mark.parametrize(
    ("system", "text"),
    [
        (ICD10CM, ""),
        (ICD10CM, "."),
        (ICD10CM, "E1"),
        (ICD10CM, "11.9"),
        (ICD10CM, "EE1.9"),
        (ICD10CM, "E11.99999"),
        (ICD10CM, "E11..9"),
        (ICD10CM, "E1.19"),
        (ICD10CM, "E11 9"),
        (ICD10CM, "E11-9"),
        (ICD10CM, "E11.9,I10"),
        (ICD10CM, "A00-A09"),
        (ICD10PCS, "0BJ.08ZZ"),
        (ICD10PCS, "0BJ08ZI"),
        (ICD10PCS, "0BJ08ZO"),
        (ICD10PCS, "0B"),
        (ICD10PCS, "0BJ08ZZZ"),
        (ICD9CM, "25"),
        (ICD9CM, "250.000"),
        (ICD9CM, "2500.0"),
        (ICD9CM, "E80.01"),
        (ICD9CM, "V1.01"),
        (ICD9CM, "E11.9"),
        (ICD9PROC, "9"),
        (ICD9PROC, "992.1"),
        (ICD9PROC, "99.211"),
    ],
)
def test_malformed_text_has_no_canonical_form(system, text):
    assert system.canonical(text) is None


@pytest.mark.parametrize(
    ("system", "bare", "dotted"),
    [
        (ICD10CM, "I10", "I10"),
        (ICD10CM, "E119", "E11.9"),
        (ICD10CM, "S52501A", "S52.501A"),
        (ICD10PCS, "0BJ08ZZ", "0BJ08ZZ"),
        (ICD9CM, "250", "250"),
        (ICD9CM, "25000", "250.00"),
        (ICD9CM, "V1011", "V10.11"),
        (ICD9CM, "E800", "E800"),
        (ICD9CM, "E8001", "E800.1"),
        (ICD9PROC, "99", "99"),
        (ICD9PROC, "9921", "99.21"),
    ],
)
def test_each_system_has_its_own_place_for_the_dot(system, bare, dotted):
    assert system.canonical(bare) == dotted
    assert system.canonical(bare.lower() + ".") == dotted


def test_an_unknown_system_is_refused_with_the_known_ones():
    with pytest.raises(IcdtuneError, match=r'"icd11".*icd10cm, icd10pcs, icd9cm, icd9proc'):
        get_system("icd11")
