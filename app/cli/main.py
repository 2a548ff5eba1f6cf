"""The commands, each a thin layer: options in, one function of a neighbour called, its result shown, an exit status.

Tables and JSON go to standard output, everything else to standard error, so that output can be piped.
"""

import io
import sys
from typing import Annotated

import typer
from rich.console import Console

from app import VERSION
from app.cli import admin_key, classify, commands, evaluate, keys, reclassify, statistics, train, users

cli = typer.Typer(
    name="image-classifier",
    help="Classify photos, look at the statistics, and run the service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.command("classify")(classify.classify)
cli.command("stats")(statistics.stats)
cli.command("evaluate")(evaluate.evaluate)
cli.command("train")(train.train)
cli.command("serve")(commands.serve)
cli.command("migrate")(commands.migrate_database)
cli.command("purge-logs")(commands.purge_logs)
cli.command("reclassify")(reclassify.reclassify)
cli.command("forget")(commands.forget)
cli.command("create-admin")(admin_key.create_admin)
cli.add_typer(keys.keys_cli, name="keys")
cli.add_typer(users.users_cli, name="users")


def _show_version(wanted: bool) -> None:
    if wanted:
        Console().print(f"image-classifier {VERSION}", highlight=False)
        raise typer.Exit


@cli.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Classify photos, look at the statistics, and run the service."""


def main() -> None:
    """Run the command that the arguments name."""
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's or pipe's encoding does not have must not end the command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    cli()


if __name__ == "__main__":
    main()
