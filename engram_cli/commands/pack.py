"""`engram pack`: units assembled for a prompt, and packs of the past made again."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engramd.protocol import render
from engramd.protocol.errors import EngramError
from engramd.protocol.packs import LABEL

from .. import calls
from .. import common as c
from ..client import Client
from ..output import note
from .search import PATIENCE

COLUMNS = ("pack", "seq", "lane", "why", "size", "kept", "of")
MAX_NUMBER = 2**63
MAX_DEPTH = 8  # of a policy file's tables
HASH_LABEL = "pack"  # the label with the hash, by which a recorded manifest is found
_HASH = re.compile("[0-9a-f]{64}")


def run(
    common: c.Common,
    contexts: list[str],
    budget: int | None,
    given: Mapping[str, Any],
    policy: str | None,
    record: bool,
    manifest: str | None,
) -> None:
    """Print a pack, its manifest, or why each unit is in or out."""
    if not contexts or budget is None:
        raise EngramError("invalid", "CONTEXT and --budget are needed, or --verify HASH; see: engram help pack")
    out = common.output()
    options = {name: value for name, value in given.items() if value is not None}
    if policy is not None:
        options["policy"] = _table(policy) if "/" in policy or policy.endswith(".toml") else policy
    if common.seconds is not None:
        options["wait"] = int(common.seconds * PATIENCE * 1000)
    names = [c.context(name) for name in contexts]
    with common.client() as client:
        made = client.pack(*names, budget=budget, **options)
        written = render.json_line(made.manifest)
        recorded = _record(client, names[0], made) if record else None
    if manifest is not None:
        try:
            Path(manifest).write_text(f"{written}\n")
        except OSError as error:
            raise EngramError("invalid", f"--manifest {manifest}: {error.strerror}") from error
    if given["explain"]:
        out.table(_explained(made.manifest), COLUMNS)
    elif out.json:
        out.line(written)
    else:
        out.raw(render.for_terminal(made.text.decode()).encode() if out.human else made.text)
    out.flush()
    _say(made.manifest, recorded)


def _table(path: str) -> dict[str, Any]:
    """A policy file."""
    try:
        table = tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise EngramError("invalid", f"--policy {path}: {getattr(error, 'strerror', None) or error}") from error
    except RecursionError:
        raise EngramError("invalid", f"--policy {path}: its tables are nested too deep") from None
    _check(path, "", table, MAX_DEPTH)
    return table


def _check(path: str, key: str, value: Any, depth: int) -> None:
    """Refuse what cannot travel; everything else is for the daemon to judge."""
    if isinstance(value, dict | list) and depth:
        for name, member in value.items() if isinstance(value, dict) else enumerate(value):
            _check(path, f"{key}.{name}" if key else str(name), member, depth - 1)
    elif not isinstance(value, str | bool | float) and not (isinstance(value, int) and abs(value) < MAX_NUMBER):
        raise EngramError("invalid", f"--policy {path}: {key}: no rule takes such a value")


def _record(client: Client, context: str, made: calls.Pack) -> calls.PutResult:
    """Put the manifest. A pack is recorded once in a context, however often it is made."""
    known = made.manifest["hash"]
    labels = dict([LABEL]) | {HASH_LABEL: known}
    return client.put(context, render.json_line(made.manifest), type="system", meta=labels, dedupe=f"pack-{known}")


def _say(manifest: Mapping[str, Any], recorded: calls.PutResult | None) -> None:
    inputs, left = manifest["inputs"], manifest["left_out"]
    if not manifest["units"]:
        note(f"engram: no unit of {', '.join(inputs['contexts'])} is in the pack ({left['count']} did not fit)")
    elif sys.stderr.isatty():
        size = f"{manifest['used']} of {inputs['budget']} {inputs['unit']}"
        note(f"engram: {len(manifest['units'])} units, {size}, as of seq {inputs['at']}; {left['count']} did not fit")
    if recorded is not None:
        note(f"engram: recorded as unit {recorded.seq}; make it again with: engram pack --verify {manifest['hash']}")


def _explained(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each unit that was looked at, in log order."""
    rows = [{"pack": "in", **unit} for unit in manifest["units"]] + [{"pack": "out", **unit} for unit in manifest["left_out"]["units"]]
    return [{name: row[name] for name in COLUMNS if name in row} for row in sorted(rows, key=lambda row: int(row["seq"]))]


def verify(common: c.Common, contexts: list[str], known: str, others: Mapping[str, Any]) -> None:
    """Make a recorded pack again; exit code 1 if it is not what it was."""
    stray = [name for name, value in others.items() if value]
    if stray:
        option = {"since": "diff"}.get(stray[0], stray[0])
        raise EngramError("invalid", f"--verify takes everything from the recorded manifest; leave out --{option}")
    if not _HASH.fullmatch(known):
        raise EngramError("invalid", f"--verify {known[:80]!r}: a pack's hash has 64 hexadecimal digits")
    out = common.output()
    with common.client() as client:
        recorded = _recorded(client, [c.context(name) for name in contexts], known)
        made = _again(client, recorded).manifest
        differences = [] if made["hash"] == known else list(_differences(client, recorded, made))
    if out.json:
        out.object({"hash": known, "identical": not differences, "differences": differences})
    elif not differences:
        out.line("identical")
    else:
        out.table(differences, ("seq", "what"))
    if differences:
        out.flush()
        raise SystemExit(1)


def _recorded(client: Client, contexts: list[str], known: str) -> dict[str, Any]:
    """The manifest that was recorded under a hash."""
    for context in contexts or [row["id"] for row in client.context_list()]:
        for unit in client.list(context, type="system", meta=dict([LABEL]) | {HASH_LABEL: known}):
            try:
                found = json.loads(unit.text)
                if found["hash"] == known and _is_whole(found):
                    return dict(found)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue
    raise EngramError("not_found", f"no pack with the hash {known} was recorded" + (f" in {', '.join(contexts)}" if contexts else ""))


def _is_whole(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest has what it takes; the values of its inputs are for the daemon to judge."""
    units = all(isinstance(one["seq"], int) and isinstance(one["digest"], str) for one in manifest["units"])
    return units and {"contexts", "budget", "counter"} <= manifest["inputs"].keys() and isinstance(manifest["inputs"]["contexts"], list)


def _asked(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a pack was made with."""
    inputs = manifest["inputs"]
    taken = {name: inputs[name] for name in ("budget", "unit", "query", "policy", "at", "since", "format") if name in inputs}
    model = str(inputs["counter"]).startswith(("tokenizers:", "tiktoken:"))
    return {**taken, "counter": "tokenizer" if model else "estimate", "explain": True}


def _again(client: Client, manifest: Mapping[str, Any]) -> calls.Pack:
    return client.pack(*manifest["inputs"]["contexts"], **_asked(manifest))


def _differences(client: Client, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What of a pack is no longer as it was."""
    for name in sorted({*then["inputs"], *now["inputs"]}):
        if then["inputs"].get(name) != now["inputs"].get(name):
            yield {"seq": "-", "what": f"{name} was {then['inputs'].get(name)}, and is {now['inputs'].get(name)}"}
    found = list(_changes(client, then, now))
    yield from found
    if not found and then["inputs"] == now["inputs"]:
        yield {"seq": "-", "what": "the pack's hash differs: what it says was left out, or how packs are written, has changed"}


def _changes(client: Client, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Which units of a pack are no longer there, or as they were."""
    had, has = ({unit["seq"]: unit for unit in manifest["units"]} for manifest in (then, now))
    for seq, unit in had.items():
        if seq not in has:
            yield {"seq": seq, "what": _fate(client, seq) or "is no longer chosen"}
        elif has[seq]["digest"] != unit["digest"]:
            yield {"seq": seq, "what": _fate(client, seq) or "reads otherwise now: it is cut elsewhere"}
    for seq in has:
        if seq not in had:
            yield {"seq": seq, "what": "was not in it then"}


def _fate(client: Client, seq: int) -> str | None:
    """What has become of a unit; None when it is as it was."""
    try:
        (unit,) = client.get(seq)
    except EngramError as error:
        if error.code != "not_found":
            raise
        return "is gone from the log"
    return None if unit.redacted is None else f"was redacted by {unit.redacted['agent']}: {unit.redacted['reason']}"
