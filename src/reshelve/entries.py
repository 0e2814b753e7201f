"""An entry of the journal in a line, for people: the run log of a report, and `reshelve journal show`. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

_LONGEST: Final = 200
_SECRETIVE: Final = frozenset({"payload", "signature"})  # of no use to an eye


def entry_text(kind: str, data: Mapping[str, Any]) -> str:
    """What an entry says, without its time and kind."""
    match kind:
        case "planned":
            plan = data.get("plan") or {}
            documents = int((plan.get("source") or {}).get("estimated_documents", 0))
            text = f"{plan.get('index', '')}, about {documents:,} documents, hash {str(plan.get('hash', ''))[:12]}"
        case "started":
            text = f"process {data.get('pid', '?')} on {data.get('host', '?')}"
            text += ", goes on" if data.get("resumed") else ""
        case "stage":
            text = str(data.get("stage", ""))
        case "blocked" | "failed" | "error":
            text = ": ".join(filter(None, (str(data.get("what", "")), str(data.get("why") or ""))))
        case "validated" | "queries":
            text = str(data.get("summary", ""))
        case "gates":
            closed = [gate["name"] for gate in data.get("gates", ()) if not gate["open"]]
            text = f"closed: {', '.join(closed)}" if closed else "all open"
        case "approved" | "approval_used":
            text = f"{data.get('action')} by {data.get('by')}" + (f" ({data['key']})" if data.get("key") else "")
        case "notify_failed":
            text = f"{data.get('whom')}: {data.get('why') or data.get('what')}"
        case "checkpoint":
            text = f"{data.get('documents', 0):,} read, {data.get('indexed', 0):,} indexed, lag {data.get('lag', 0):,}"
        case "cutover" | "cutover_began":
            text = f"alias {data.get('alias')}: {data.get('from') or 'nothing'} → {data.get('to')}"
        case _:
            text = _plain(data)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _plain(data: Mapping[str, Any]) -> str:
    """Names with their short texts and numbers."""
    shown = {name: value for name, value in data.items() if name not in _SECRETIVE and _is_plain(value)}
    return " ".join(f"{name}={_value(value)}" for name, value in shown.items())


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float) and len(str(value)) <= _LONGEST // 2 and value != ""


def _value(value: str | int | float) -> str:
    return value if isinstance(value, str) and " " not in value else json.dumps(value, ensure_ascii=False)
