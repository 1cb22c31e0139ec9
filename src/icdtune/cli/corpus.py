"""`icdtune labels`, `icdtune corpus`: choose label spaces, look at corpora and check them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from icdtune.cli.output import print_corpus, print_json, print_table

inspect = typer.Typer(help="Describe or check a corpus.", no_args_is_help=True)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add this room's commands."""
    app.command(
        epilog="Examples: icdtune labels DIR --name top50 --top-k 50 | "
        "icdtune labels DIR --name mine --file codes.txt"
    )(labels)
    app.add_typer(inspect, name="corpus")


def labels(
    corpus: Annotated[Path, typer.Argument(help="Corpus folder.")],
    name: Annotated[str, typer.Option(help="Name of the label space.")] = "full",
    top_k: Annotated[int | None, typer.Option(min=1, help="Only the most frequent codes.")] = None,
    min_count: Annotated[int, typer.Option(min=1, help="Least notes a code.")] = 1,
    file: Annotated[Path | None, typer.Option(help="Text file, one code a line.")] = None,
    count_on: Annotated[str, typer.Option(help="Splits to count on, by comma.")] = "train",
    drop_empty: Annotated[
        bool, typer.Option("--drop-empty", help="Leave out notes without gold in the space.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Choose a label space and write labels/NAME.json into the corpus."""
    from pydantic import ValidationError

    from icdtune.data.labels import LabelRule, choose_labels, save_labels
    from icdtune.data.schema import Corpus, first_problem
    from icdtune.errors import IcdtuneError

    opened = Corpus(corpus)
    try:
        rule = LabelRule(
            kind="file" if file else "top_k" if top_k else "full",
            k=top_k,
            min_count=min_count,
            counted_on=[split.strip() for split in count_on.split(",")],
            source=str(file) if file else None,
        )
    except ValidationError as error:
        raise IcdtuneError(f"{first_problem(error)}. Leave one of the options out") from None
    space = choose_labels(opened, name, rule, "drop" if drop_empty else "keep")
    path = save_labels(opened, space, overwrite)
    if as_json:
        print_json({"path": str(path), "codes": len(space.codes)})
    else:
        typer.echo(f"{path}: {len(space.codes):,} codes")


@inspect.command(
    epilog="Examples: icdtune corpus describe corpora/syn | "
    "icdtune corpus describe corpora/syn --page corpora/syn.html"
)
def describe(
    corpus: Annotated[Path, typer.Argument(help="Corpus folder.")],
    page: Annotated[Path | None, typer.Option(help="Also write an HTML page with plots.")] = None,
    near: Annotated[
        bool,
        typer.Option("--near-duplicates/--no-near-duplicates", help="Compare texts across splits."),
    ] = True,
    as_json: Json = False,
) -> None:
    """What a corpus holds: lengths, codes and their long tail, unseen codes, leakage."""
    from icdtune.data.describe import describe as look
    from icdtune.data.schema import Corpus

    found = look(Corpus(corpus), near)
    if page is not None:
        from icdtune.data.describe_page import write_page

        write_page(found, page)
    if as_json:
        print_json({name: value for name, value in found.items() if name != "frequencies"})
        return
    print_corpus(corpus)
    _print_description(found)
    if page is not None:
        typer.echo(f"Page: {page}")


@inspect.command(epilog="Example: icdtune corpus check corpora/syn")
def check(
    corpus: Annotated[Path, typer.Argument(help="Corpus folder.")], as_json: Json = False
) -> None:
    """Read every row, check it, and compare the hash with corpus.json; evidence and labels too."""
    from icdtune.data.labels import read_labels
    from icdtune.data.schema import Corpus
    from icdtune.errors import IcdtuneError

    opened = Corpus(corpus)
    found = opened.row_hash()
    if found != opened.info.hash:
        raise IcdtuneError(
            f"{corpus}: the rows are not those that corpus.json describes (hash {found[:12]}, not "
            f"{opened.info.hash[:12]}). Prepare the corpus again"
        )
    opened.check_evidence()
    for path in sorted((corpus / "labels").glob("*.json")):
        read_labels(path, opened.info.code_systems)
    notes = sum(split.notes for split in opened.info.splits.values())
    if as_json:
        print_json({"ok": True, "notes": notes, "hash": found})
    else:
        typer.echo(f"{corpus}: {notes:,} notes in order (hash {found[:12]})")


def _print_description(found: dict[str, Any]) -> None:
    """Lengths, tail, unseen codes and leakage of a corpus."""
    rows = []
    for name, split in found["splits"].items():
        codes, words = split.get("codes"), split["words"]
        rows.append(
            [
                name,
                f"{codes['mean']:.1f}" if codes else "-",
                f"{codes['p50']:.0f}" if codes else "-",
                f"{words['mean']:,.0f}",
                f"{words['p50']:,.0f}",
                f"{words['p95']:,.0f}",
            ]
        )
    columns = ["split", "codes a note#", "median#", "words a note#", "median#", "95%#"]
    print_table("Lengths", columns, rows)
    if "tail" in found:
        rows = [
            [row["notes"], f"{row['codes']:,}", f"{row['mentions']:.1%}"]
            for row in found["tail"]["bins"]
        ]
        print_table("Codes by training notes", ["notes", "codes#", "mentions#"], rows)
        for seen, splits in found["unseen"].items():
            for split, share in splits.items():
                if split != "distinct_codes":
                    typer.echo(
                        f"{split}: {share['codes']:.1%} of its distinct codes and "
                        f"{share['mentions']:.1%} of its mentions are not among the "
                        f"{splits['distinct_codes']:,} codes of {seen}"
                    )
    if found["evidence"]:
        typer.echo(
            f"evidence: {found['evidence']['mentions']:,} mentions, "
            f"{found['evidence']['discontinuous']:.1%} in several pieces"
        )
    if found["unknown_codes"]:
        first = ", ".join(row["code"] for row in found["unknown_codes"][:10])
        typer.echo(f"codes in no table: {len(found['unknown_codes']):,} ({first})")
    same, near = found["duplicates"], found["near_duplicates"]
    line = f"texts in more than one split: {same['across_splits']:,}"
    if near is not None:
        line += f"; near-duplicates across splits: {near['pairs']:,} pairs"
    typer.echo(line)
