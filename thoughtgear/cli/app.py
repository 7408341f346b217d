"""The application that the commands belong to."""

from __future__ import annotations

from typing import Annotated

import typer

from thoughtgear import __version__

app = typer.Typer(
    name="thoughtgear",
    help="Durable language-model agents: transcripts in your database, iterations driven by Temporal.",
    epilog="TARGET is module:attribute or path/to/file.py:attribute: a PromptHandler, a list of them, or a "
    "function that makes one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"thoughtgear {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...
