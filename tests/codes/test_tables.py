import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icdtune.codes.build import NOTE_FIELDS
from icdtune.codes.systems import SYSTEMS
from icdtune.codes.tables import load_table, resolve
from icdtune.errors import IcdtuneError, UnknownCodeError


@pytest.fixture(scope="module", params=list(SYSTEMS))
def table(request):
    return load_table(request.param)


def test_no_node_is_an_orphan_and_none_stands_twice(table):
    assert len(set(table.codes)) == len(table)
    assert {table.parent(code) for code in table.codes} <= {None, *table.codes}


def test_every_node_is_a_child_of_its_parent(table):
    below = {(code, child) for code in table.codes for child in table.children(code)}
    above = {(table.parent(code), code) for code in table.codes}
    assert below == {(parent, code) for parent, code in above if parent is not None}


def test_exactly_the_leaves_are_billable(table):
    assert table.billable_codes() == [code for code in table.codes if not table.children(code)]


@pytest.mark.parametrize(
    ("name", "count"),
    [("icd10cm", 74_044), ("icd10pcs", 78_603), ("icd9cm", 14_567), ("icd9proc", 3_882)],
)
def test_a_table_holds_every_billable_code_of_its_edition(name, count):
    assert len(load_table(name).billable_codes()) == count


def test_every_billable_code_has_a_title(table):
    assert all(table.titles(table.billable_codes()))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_parent_children_ancestors_and_descendants_agree(data):
    table = load_table(data.draw(st.sampled_from(list(SYSTEMS))))
    code = data.draw(st.sampled_from(table.codes))
    children, above = table.children(code), table.ancestors(code)
    assert all(table.parent(child) == code for child in children)
    assert above[:1] == ([] if table.parent(code) is None else [table.parent(code)])
    assert all(code in table.descendants(node) for node in above)
    nested = [node for child in children for node in (child, *table.descendants(child))]
    assert table.descendants(code) == nested
    assert code not in nested
    assert table.billable(code) == (not children)


def test_the_tree_of_icd10cm_begins_at_its_chapters():
    table = load_table("icd10cm")
    tops = [code for code in table.codes if table.parent(code) is None]
    assert tops == [str(chapter) for chapter in range(1, 23)]


@pytest.mark.parametrize(
    ("name", "code", "above"),
    [
        ("icd10cm", "E11.9", ["E11", "E08-E13", "4"]),
        ("icd10cm", "S52.501A", ["S52.501", "S52.50", "S52.5", "S52", "S50-S59", "19"]),
        ("icd10pcs", "0BJ08ZZ", ["0BJ08Z", "0BJ08", "0BJ0", "0BJ"]),
        ("icd9cm", "250.00", ["250.0", "250"]),
        ("icd9cm", "E800.1", ["E800"]),
        ("icd9proc", "99.21", ["99.2", "99"]),
    ],
)
def test_ancestors_are_named_nearest_first(name, code, above):
    assert load_table(name).ancestors(code) == above


def test_inclusion_terms_are_lists_of_terms_not_strings():
    column = load_table("icd10cm").notes_column("inclusion_terms")
    assert len(column) == len(load_table("icd10cm"))
    assert all(isinstance(terms, list) for terms in column)
    wrong = [
        t for terms in column for t in terms if not (isinstance(t, str) and t == t.strip() != "")
    ]
    assert wrong == []
    assert sum(map(len, column)) > 10_000
    assert min(len(t) for terms in column for t in terms) > 1  # no string taken apart into letters


@pytest.mark.parametrize("name", NOTE_FIELDS)
def test_every_kind_of_coding_note_has_a_row_for_every_node(name):
    for system in SYSTEMS:
        assert len(load_table(system).notes_column(name)) == len(load_table(system))


def test_an_entry_inherits_the_notes_above_it_but_not_their_inclusion_terms():
    table = load_table("icd10cm")
    entry = table.entry("E11.9")
    for name in NOTE_FIELDS:
        own = table.note(name, "E11.9")
        inherited = [line for node in table.ancestors("E11.9") for line in table.note(name, node)]
        expected = own if name == "inclusion_terms" else [*own, *inherited]
        assert entry.notes.get(name, ()) == tuple(expected)
    assert table.note("use_additional", "E11")
    assert set(table.note("use_additional", "E11")) <= set(entry.notes["use_additional"])
    assert not table.note("use_additional", "E11.9")


def test_an_entry_tells_title_place_and_children():
    entry = load_table("icd10cm").entry("E11")
    assert (entry.system, entry.code, entry.billable) == ("icd10cm", "E11", False)
    assert entry.title == "Type 2 diabetes mellitus"
    assert [code for code, _ in entry.ancestors] == ["4", "E08-E13"]
    children = dict(entry.children)
    assert children["E11.9"] == "Type 2 diabetes mellitus without complications"
    assert all(title for title in children.values())


@pytest.mark.parametrize(
    ("raw", "system", "code"),
    [
        ("i5021", "icd10cm", "I50.21"),
        ("I50.21.", "icd10cm", "I50.21"),
        ("0bj08zz", "icd10pcs", "0BJ08ZZ"),
        ("250.00", "icd9cm", "250.00"),
        ("e8001", "icd9cm", "E800.1"),
        ("99.21", "icd9proc", "99.21"),
    ],
)
def test_resolve_finds_a_code_written_in_any_fashion(raw, system, code):
    entry = resolve(raw)
    assert (entry.system, entry.code) == (system, code)


@pytest.mark.parametrize(
    ("raw", "nearest"), [("E11.99", "E11.9"), ("A005", "A00.0"), ("i50219", "I50.21")]
)
def test_an_unknown_code_is_refused_with_the_nearest_valid_ones(raw, nearest):
    with pytest.raises(UnknownCodeError) as caught:
        resolve(raw)
    assert re.search(rf"\(closest: [^)]*\b{re.escape(nearest)}\b", str(caught.value))
    assert "ICD-10-CM 2024" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nearest_codes_exist_and_are_found_quickly(table):
    started = time.monotonic()
    for code in ("0ZZ", "0ZZZZZZ", "Z99.ZZZ", "E999.9", "99.99", ""):
        assert all(near in table for near in table.nearest(code))
    assert time.monotonic() - started < 5


def test_text_that_is_no_code_is_refused_with_a_way_out():
    with pytest.raises(
        UnknownCodeError, match='"heart failure" is not written like a code.*search'
    ):
        resolve("heart failure")


def test_resolve_looks_only_in_the_systems_asked_for():
    assert resolve("V10.1").system == "icd10cm"
    assert resolve("V10.1", ["icd9cm"]).system == "icd9cm"
    with pytest.raises(UnknownCodeError, match="ICD-10-PCS"):
        resolve("0ZZZZZZ", ["icd10pcs"])
    with pytest.raises(IcdtuneError, match='"icd11"'):
        resolve("E11.9", ["icd11"])


@pytest.mark.parametrize(
    ("name", "raw", "standing", "code"),
    [
        ("icd10cm", "e119", "exact", "E11.9"),
        ("icd10cm", "e11", "prefix", "E11"),
        ("icd10cm", "S52.501", "prefix", "S52.501"),
        ("icd10cm", "E11.99", "unknown", "E11.99"),
        ("icd10cm", "11.9", "malformed", "11.9"),
        ("icd10cm", "A00-A09", "malformed", "A00-A09"),
        ("icd10pcs", "0bj0", "prefix", "0BJ0"),
        ("icd10pcs", "0BJ08ZZ", "exact", "0BJ08ZZ"),
        ("icd10pcs", "0ZZZZZZ", "unknown", "0ZZZZZZ"),
        ("icd9cm", "250", "prefix", "250"),
        ("icd9cm", "E8001", "exact", "E800.1"),
        ("icd9proc", "9921", "exact", "99.21"),
    ],
)
def test_standing_is_exact_prefix_unknown_or_malformed(name, raw, standing, code):
    assert load_table(name).standing(raw) == (standing, code)


def test_the_first_category_of_a_block_is_unknown_unless_codes_begin_with_it():
    """The block U00-U49 is in the tree, the category U00 is not."""
    assert load_table("icd10cm").standing("U00") == ("unknown", "U00")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_prefix_is_the_beginning_of_a_billable_code(data):
    name = data.draw(st.sampled_from(list(SYSTEMS)))
    table, system = load_table(name), SYSTEMS[name]
    near = data.draw(st.sampled_from(table.billable_codes())).replace(".", "")
    cut = data.draw(st.integers(2, len(near)))
    raw = near[:cut] + data.draw(st.text("0123456789AXZ", max_size=2))
    standing, code = table.standing(raw)
    begins = [b for b in table.billable_codes() if b.startswith(code)]
    if system.canonical(raw) is None:
        assert (standing, code) == ("malformed", raw)
    elif code in begins:
        assert standing == "exact"
    else:
        assert standing == ("prefix" if begins else "unknown")
