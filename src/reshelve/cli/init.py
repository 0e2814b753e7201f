"""`reshelve init`: a commented spec to start from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from reshelve.cli.output import say
from reshelve.errors import UsageError
from reshelve.spec.published import example


def init(
    file: Annotated[Path, typer.Argument(help="The spec to write.")] = Path("reshelve.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Write over files that exist.")] = False,
) -> None:
    """Write a commented spec, and an index definition beside it."""
    named = re.fullmatch(r"[a-z][a-z0-9_-]{0,59}", file.stem) and file.stem != "reshelve"
    name = file.stem if named else "cities"
    texts = dict(zip((file, file.parent / f"{name}.index.json"), example(name), strict=True))
    existing = [str(path) for path in texts if path.exists()]
    if existing and not force:
        raise UsageError(
            f"{' and '.join(existing)} exist{'s' if len(existing) == 1 else ''} already",
            remedy="name another file, or write over with --force",
        )
    try:
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            "cannot write the spec", where=str(path), why=str(error.strerror), remedy="name another file"
        ) from error
    say(f"wrote {' and '.join(map(str, texts))}; edit them, then: reshelve check {file}")
