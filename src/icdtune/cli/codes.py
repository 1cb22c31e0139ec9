"""`icdtune codes`: look codes up, search them, check lists, map between editions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icdtune.cli.output import print_json, print_table

app = typer.Typer(
    help="ICD-10-CM, ICD-10-PCS and ICD-9-CM: show, search, check, map.", no_args_is_help=True
)

System = Annotated[
    str | None,
    typer.Option("--system", "-s", help="icd10cm, icd10pcs, icd9cm or icd9proc."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

NOTES = {
    "inclusion_terms": "Inclusion terms",
    "includes": "Includes",
    "excludes1": "Excludes 1 (never together)",
    "excludes2": "Excludes 2 (not included here)",
    "use_additional": "Use additional",
    "code_first": "Code first",
    "code_also": "Code also",
}


@app.command(epilog="Examples: icdtune codes show I50.21 | icdtune codes show 4019 --system icd9cm")
def show(code: str, system: System = None, as_json: Json = False) -> None:
    """Show a code with its place in the tree and its coding notes."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.tree import Tree

    from icdtune.codes.systems import get_system
    from icdtune.codes.tables import resolve

    entry = resolve(code, [system]) if system else resolve(code)
    if as_json:
        print_json(asdict(entry))
        return
    name = get_system(entry.system)
    top = Tree(f"{name.title} {name.version}")
    node = top
    for above, title in entry.ancestors:
        node = node.add(f"{above}  {title}")
    kind = "billable" if entry.billable else "not billable"
    node = node.add(f"{entry.code}  {entry.title}  ({kind})", style="bold")
    for below, title in entry.children:
        node.add(f"{below}  {title}", style="not bold")
    console = Console(highlight=False, markup=False)
    wide = not console.is_terminal
    console.print(top, soft_wrap=wide)
    for key, lines in entry.notes.items():
        console.print(f"\n{NOTES[key]}:", style="bold")
        for line in lines:
            console.print(f"  {line}", soft_wrap=wide)


@app.command(epilog="Examples: icdtune codes search acute systolic heart failure --billable")
def search(
    words: list[str],
    system: Annotated[str, typer.Option("--system", "-s", help="Code system.")] = "icd10cm",
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Hits at most.")] = 10,
    billable: Annotated[bool, typer.Option("--billable", help="Billable codes only.")] = False,
    as_json: Json = False,
) -> None:
    """Search titles and inclusion terms, best match first."""
    from dataclasses import asdict

    from icdtune.codes.search import search as find

    hits = find(" ".join(words), system, count, billable)
    if as_json:
        print_json([asdict(hit) for hit in hits])
        return
    if not hits:
        typer.echo(f"no title or inclusion term in {system} holds these words")
        return
    rows = [
        (hit.code, hit.title, "yes" if hit.billable else "no", f"{hit.score:.1f}") for hit in hits
    ]
    print_table("", ["code", "title", "billable", "score#"], rows)


@app.command(epilog="Examples: icdtune codes check I10 e119 | icdtune codes check --file codes.txt")
def check(
    codes: Annotated[list[str] | None, typer.Argument(help="Codes in any notation.")] = None,
    file: Annotated[Path | None, typer.Option(help="Text file, one code a line.")] = None,
    system: Annotated[str, typer.Option("--system", "-s", help="Code system.")] = "icd10cm",
    as_json: Json = False,
) -> None:
    """Check codes against the tables; status 2 where one is unknown or malformed."""
    from icdtune.codes.systems import get_system
    from icdtune.codes.tables import KNOWN, load_table
    from icdtune.errors import IcdtuneError, shown
    from icdtune.files import read_text

    given = list(codes or [])
    if file is not None:
        given += [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if not given:
        raise IcdtuneError("no codes given. Name them, or a file with --file")
    table = load_table(get_system(system).name)
    rows = []
    for raw in given:
        standing, code = table.standing(raw)
        known = code in table
        nearest = [] if standing in KNOWN else table.nearest(code)
        title = table.title(code) if known else ""
        rows.append(
            {"given": raw, "code": code, "standing": standing, "title": title, "nearest": nearest}
        )
    if as_json:
        print_json(rows)
    else:
        cells = [
            (r["given"], r["code"], r["standing"], r["title"], ", ".join(r["nearest"]))
            for r in rows
        ]
        print_table("", ["given", "code", "standing", "title", "closest"], cells)
    bad = [row for row in rows if row["standing"] in ("unknown", "malformed")]
    if bad:
        closest = ", ".join(table.nearest(str(bad[0]["code"]))) or "none"
        first = str(bad[0]["given"])
        where = f"{file}: " if file else ""
        raise IcdtuneError(
            f"{where}{len(bad)} of {len(rows)} codes are not in {table.system.title}, first "
            f"{shown(first)} (closest: {closest}). Correct them"
        )


@app.command("map", epilog="Examples: icdtune codes map 250.00 | icdtune codes map E11.9")
def map_(
    code: str,
    source: Annotated[
        str | None, typer.Option("--from", help="icd9cm or icd10cm; found out if left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Map a diagnosis between ICD-9-CM and ICD-10-CM (general equivalence maps)."""
    from dataclasses import asdict

    from icdtune.codes.maps import map_code
    from icdtune.codes.systems import ICD9CM, ICD10CM, get_system
    from icdtune.codes.tables import load_table, resolve
    from icdtune.errors import IcdtuneError, shown

    names = [source] if source else [ICD10CM.name, ICD9CM.name]
    known = [n for n in names if get_system(n).canonical(code) in load_table(n)]
    mapped = [n for n in known if map_code(str(get_system(n).canonical(code)), n)]
    if len(mapped) > 1:
        raise IcdtuneError(f"{shown(code)} is a code of both systems. Say which with --from")
    entry = resolve(code, mapped or known or names)
    target = ICD9CM if entry.system == ICD10CM.name else ICD10CM
    table = load_table(target.name)
    found = map_code(entry.code, entry.system)
    if as_json:
        print_json([asdict(m) | {"source": entry.code, "system": target.name} for m in found])
        return
    rows = [
        (
            entry.code,
            m.target,
            table.title(m.target) if m.target in table else "",
            "approximate" if m.approximate else "exact",
            m.scenario or "",
        )
        for m in found
    ]
    if not rows:
        typer.echo(f"{entry.code} ({entry.title}) has no map to {target.title}")
        return
    print_table("", [entry.system, target.name, "title", "match", "scenario#"], rows)
