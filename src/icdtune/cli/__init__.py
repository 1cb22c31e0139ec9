"""The command line: one thin command per verb; everything heavy is imported inside a command."""

from __future__ import annotations

import signal
import sys

import typer

import icdtune
from icdtune.cli import codes, coding, corpus, prepare, study
from icdtune.errors import IcdtuneError

app = typer.Typer(
    name="icdtune",
    help="Post-train language models into medical coders, and prove how good they are.",
    epilog="Start with: icdtune demo    Docs: docs/ in the repository",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
) -> None:
    if version:
        typer.echo(icdtune.__version__)
        raise typer.Exit


study.register(app)
prepare.register(app)
corpus.register(app)
coding.register(app)
app.add_typer(codes.app, name="codes")


def main() -> None:
    """Run the command line; bad input ends with one line on standard error and status 2."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up, as for an interruption
    try:
        app()
    except IcdtuneError as error:
        _fail(str(error))
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}. Check the path, its permissions and free space")
    except KeyboardInterrupt:
        typer.echo("Stopped. Run the same command again to go on.", err=True)
        sys.exit(130)


def _fail(message: str) -> None:
    typer.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(2)
