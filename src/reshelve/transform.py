"""The transform hook: what SQL can't say about a document, said in Python."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import orjson

from reshelve.errors import UsageError


class TransformFailed(ValueError):
    """The hook raised, or returned what is not a document. The message goes to the reject."""


def load_transform(reference: str, folder: str) -> Callable[[dict[str, Any]], object]:
    """The function that `package.module:function` names, looked for in the spec's folder, the working
    directory and the installed packages. Raises UsageError when there is none."""
    module_name, _, function_name = reference.partition(":")
    for place in (folder, ""):
        if place not in sys.path:
            sys.path.insert(0, place)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:
        raise UsageError(
            f"cannot load the transform {reference}",
            where=folder,
            why=f"{type(error).__name__}: {error}",
            remedy="name it as package.module:function, importable from the spec's folder",
        ) from error
    if not callable(function):
        raise UsageError(f"the transform {reference} is not callable", where=folder, remedy="name a function")
    loaded: Callable[[dict[str, Any]], object] = function
    return loaded


def apply_transform(transform: Callable[[dict[str, Any]], object], document: bytes) -> bytes | None:
    """The transformed document as JSON, or None to leave it out. Raises TransformFailed.

    Integers pass exactly up to 64 bits, decimals as doubles."""
    try:
        result = transform(orjson.loads(document))
        if result is None:
            return None
        if not isinstance(result, dict):
            raise TransformFailed(f"the transform returned {type(result).__name__}, not dict or None")
        return orjson.dumps(result)
    except TransformFailed:
        raise
    except Exception as error:
        raise TransformFailed(f"{type(error).__name__}: {error}") from error
