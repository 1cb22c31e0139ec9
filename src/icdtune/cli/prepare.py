"""`icdtune prepare SOURCE`: make a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from icdtune.cli.output import print_corpus, print_table

prepare = typer.Typer(help="Prepare a corpus from a source.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="Folder of the corpus.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Split = Annotated[
    str, typer.Option(help="published, published:FILE, stratified or random (by patient).")
]
CodeSystems = Annotated[str, typer.Option(help="auto, icd9 or icd10.")]
Invalid = Annotated[
    str, typer.Option(help="Notes with a bad code: quarantine, error or keep (unknown codes).")
]
Protected = Annotated[
    bool, typer.Option("--protected/--open", help="Patient data: no report shows notes.")
]
Normalise = Annotated[
    bool, typer.Option("--normalise", help="Lower case, letters and digits only.")
]


def register(app: typer.Typer) -> None:
    """Add this room's commands."""
    app.add_typer(prepare, name="prepare")


@prepare.command(
    epilog="Example: icdtune prepare synthetic --train 2000 --val 500 --test 1000 --out corpora/syn"
)
def synthetic(
    out: Out,
    train: Annotated[int, typer.Option(min=0, help="Training notes.")] = 2000,
    val: Annotated[int, typer.Option(min=0, help="Validation notes.")] = 500,
    test: Annotated[int, typer.Option(min=0, help="Test notes.")] = 1000,
    profile: Annotated[str, typer.Option(help="short, medium or long notes.")] = "short",
    seed: Annotated[int, typer.Option(help="Other seed, other patients.")] = 1,
    concepts: Annotated[int, typer.Option(min=1, help="Lexicon entries in use.")] = 700,
    lexicon: Annotated[Path | None, typer.Option(help="Lexicon folder of your own.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Invented patients with real codes and character-level evidence."""
    from icdtune.data.synthetic import prepare as make

    make(out, train, val, test, profile, seed, concepts, lexicon, overwrite)
    print_corpus(out)


@prepare.command(
    epilog="Examples: icdtune prepare codiesp --source codiesp/ --language es --task D --out "
    "corpora/codiesp-es | icdtune prepare codiesp --download --out corpora/codiesp-en"
)
def codiesp(
    out: Out,
    source: Annotated[Path | None, typer.Option(help="Unpacked CodiEsp folder.")] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the published archive.")
    ] = False,
    language: Annotated[str, typer.Option(help="en (translation) or es (original).")] = "en",
    task: Annotated[str, typer.Option(help="D diagnoses, P procedures, DP both.")] = "D",
    invalid_codes: Annotated[
        str, typer.Option(help="Codes in no table: keep, quarantine or error.")
    ] = "keep",
    overwrite: Overwrite = False,
) -> None:
    """Real clinical cases coded by professionals (CLEF eHealth 2020, CC BY 4.0)."""
    from icdtune.data.codiesp import download as fetch
    from icdtune.data.codiesp import prepare as make
    from icdtune.errors import IcdtuneError

    if download and source is None:
        source = fetch(out.parent / "codiesp-source")
    if source is None:
        raise IcdtuneError("give the unpacked CodiEsp folder with --source, or --download")
    make(out, source, language, task, invalid_codes, overwrite)  # type: ignore[arg-type]
    print_corpus(out)


@prepare.command(
    epilog="Examples: icdtune prepare mimic4 --hosp mimiciv/3.1/hosp --note mimic-iv-note/2.2/note "
    "--icd 10 --out corpora/mimic4 | icdtune prepare mimic4 --hosp fake/mimic4/hosp --note "
    "fake/mimic4/note --split stratified --out corpora/fake4"
)
def mimic4(
    out: Out,
    hosp: Annotated[Path, typer.Option(help="Folder with diagnoses_icd and procedures_icd.")],
    note: Annotated[Path, typer.Option(help="Folder with discharge.")],
    icd: Annotated[int, typer.Option(help="Codes of which version: 9 or 10.")] = 10,
    split: Split = "published",
    min_count: Annotated[int, typer.Option(min=1, help='Least notes of a code in "full".')] = 10,
    normalise: Normalise = False,
    keep_repeated: Annotated[
        bool, typer.Option("--keep-repeated", help="Keep texts that an admission has twice.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of stratified and random splits.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """MIMIC-IV discharge summaries (PhysioNet access needed), as Edin et al. 2023 prepare them."""
    from icdtune.data.mimic4 import prepare as make
    from icdtune.errors import IcdtuneError

    if icd not in (9, 10):
        raise IcdtuneError(f"--icd {icd}: choose 9 or 10")
    make(out, hosp, note, icd, split, min_count, normalise, keep_repeated, seed, overwrite)  # type: ignore[arg-type]
    print_corpus(out)


@prepare.command(
    epilog="Examples: icdtune prepare mimic3 --raw mimiciii/1.4 --variant clean --out corpora/mimic3 | "
    "icdtune prepare mimic3 --raw fake/mimic3 --split stratified --out corpora/fake3"
)
def mimic3(
    out: Out,
    raw: Annotated[Path, typer.Option(help="Folder with NOTEEVENTS and the codes.")],
    variant: Annotated[str, typer.Option(help="clean, full or 50.")] = "clean",
    split: Split = "published",
    min_count: Annotated[
        int | None,
        typer.Option(min=1, help='Least notes of a code in "full"; 10 for clean, else 1.'),
    ] = None,
    normalise: Normalise = False,
    drop_errors: Annotated[
        bool, typer.Option("--drop-errors", help="Leave out documents marked as errors.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of stratified and random splits.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """MIMIC-III discharge summaries (PhysioNet access needed), addenda joined."""
    from icdtune.data.mimic3 import Variant
    from icdtune.data.mimic3 import prepare as make
    from icdtune.errors import IcdtuneError

    if variant not in get_args(Variant):
        raise IcdtuneError(f'--variant "{variant}": choose one of {", ".join(get_args(Variant))}')
    make(out, raw, variant, split, min_count, normalise, drop_errors, seed, overwrite, _say)  # type: ignore[arg-type]
    print_corpus(out)


@prepare.command(
    epilog="Examples: icdtune prepare table notes.csv --text-column text --codes-column codes --out "
    "corpora/mine | icdtune prepare table notes.xlsx --text-column Note --codes-column ICD "
    "--encounter-column Stay --subject-column Patient --invalid-codes error --out corpora/mine"
)
def table(
    file: Annotated[Path, typer.Argument(help="CSV, TSV, JSON lines, parquet or spreadsheet.")],
    out: Out,
    text_column: Annotated[str, typer.Option(help="Column of the text.")],
    codes_column: Annotated[
        str | None, typer.Option(help="Column of the codes: a list, or separated text.")
    ] = None,
    codes_file: Annotated[
        Path | None, typer.Option(help="Second table, one code a row, with --codes-column.")
    ] = None,
    codes_key: Annotated[
        str | None, typer.Option(help="Encounter column of --codes-file, if named otherwise.")
    ] = None,
    subject_column: Annotated[str | None, typer.Option(help="Column of the patient.")] = None,
    encounter_column: Annotated[
        str | None, typer.Option(help="Column of the stay: its rows become one note.")
    ] = None,
    split_column: Annotated[str | None, typer.Option(help="Column of the split.")] = None,
    kind_column: Annotated[str | None, typer.Option(help="Column of the document's kind.")] = None,
    split: Annotated[
        str, typer.Option(help="stratified, random or published:FILE (by patient).")
    ] = "stratified",
    code_system: CodeSystems = "auto",
    invalid_codes: Invalid = "quarantine",
    protected: Protected = True,
    name: Annotated[str | None, typer.Option(help="Name of the corpus.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Your own notes and codes."""
    from icdtune.data.table import prepare as make

    make(
        out,
        file,
        text_column,
        codes_column,
        codes_file,
        codes_key,
        subject_column,
        encounter_column,
        split_column,
        kind_column,
        split,
        code_system,  # type: ignore[arg-type]
        invalid_codes,  # type: ignore[arg-type]
        protected,
        name,
        seed,
        overwrite,
        announce=_say,
    )
    print_corpus(out)
    _quarantine(out)


@prepare.command(
    epilog="Example: icdtune prepare hub USER/DATASET --text-column text --codes-column codes --out "
    "corpora/theirs"
)
def hub(
    dataset: Annotated[str, typer.Argument(help="Id on the hub, or a folder of datasets.")],
    out: Out,
    text_column: Annotated[str, typer.Option(help="Column of the text.")],
    codes_column: Annotated[str | None, typer.Option(help="Column of the codes.")] = None,
    subject_column: Annotated[str | None, typer.Option(help="Column of the patient.")] = None,
    encounter_column: Annotated[str | None, typer.Option(help="Column of the stay.")] = None,
    config: Annotated[str | None, typer.Option(help="Configuration of the data set.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    code_system: CodeSystems = "auto",
    invalid_codes: Invalid = "quarantine",
    protected: Protected = True,
    name: Annotated[str | None, typer.Option(help="Name of the corpus.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """A data set of a Hugging Face hub, its splits as they are."""
    from icdtune.data.hub import prepare as make

    make(
        out,
        dataset,
        text_column,
        codes_column,
        subject_column,
        encounter_column,
        config,
        revision,
        code_system,  # type: ignore[arg-type]
        invalid_codes,  # type: ignore[arg-type]
        protected,
        name,
        overwrite,
        announce=_say,
    )
    print_corpus(out)
    _quarantine(out)


@prepare.command(
    epilog="Example: icdtune prepare mdace --annotations MDACE/data/Inpatient/ICD-9/1.0 "
    "--corpus corpora/mimic3"
)
def mdace(
    annotations: Annotated[Path, typer.Option(help="Folder of MDACE's JSON files.")],
    corpus: Annotated[Path, typer.Option(help="MIMIC-III corpus that gets the evidence.")],
    overwrite: Overwrite = False,
) -> None:
    """Evidence that coders marked in MIMIC-III (Cheng et al. 2023), into a prepared corpus."""
    from icdtune.data.mdace import prepare as make

    counts = make(corpus, annotations, overwrite)
    print_table("MDACE", ["spans", "count#"], [(k.replace("_", " "), n) for k, n in counts.items()])


@prepare.command(
    name="fake-mimic",
    epilog="Example: icdtune prepare fake-mimic --admissions 2000 --out fake",
)
def fake_mimic(
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    admissions: Annotated[int, typer.Option(min=1, help="Of each data set.")] = 2000,
    characters: Annotated[int, typer.Option(min=200, help="Mean length of a note.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Other seed, other files.")] = 1,
    overwrite: Overwrite = False,
) -> None:
    """Invented files in the shape of MIMIC's, to try `prepare mimic3` and `mimic4` with."""
    from icdtune.data.fake_mimic import prepare as make

    make(out, admissions, characters, seed, overwrite)
    typer.echo(f"{out}/mimic3, {out}/mimic4/hosp, {out}/mimic4/note")


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _quarantine(path: Path, most: int = 20) -> None:
    """What was set aside, and why."""
    import pyarrow.parquet as pq

    file = path / "quarantine.parquet"
    if not file.exists():
        return
    rows = pq.read_table(file).to_pylist()
    shown = [(row["note_id"], row["code"] or "", row["reason"]) for row in rows[:most]]
    print_table(f"Set aside ({file})", ["note", "code", "reason"], shown)
    if len(rows) > most:
        typer.echo(f"and {len(rows) - most:,} more")
