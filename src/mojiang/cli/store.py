"""Commands on the store: ls, show, lineage, diff, alias, rm, gc, export, import."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import uuid
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.tree import Tree

from mojiang.cli.execute import open_store
from mojiang.cli.render import duration, number, print_report, size, stderr, stdout, table
from mojiang.core.artifact import MANIFEST, Artifact, Kind, Manifest, file_entries, read_manifest, software_versions
from mojiang.core.config import digest
from mojiang.core.errors import BadInput, BadUsage, NotFound
from mojiang.core.files import explained_os_errors, remove_tree
from mojiang.core.report import Report
from mojiang.core.store import PROTECTED_ALIASES, Store, now


def ls(args: argparse.Namespace) -> dict[str, Any]:
    """List artifacts, newest last."""
    store = open_store(args)
    aliases = store.aliases()
    artifacts = store.artifacts(args.kind)
    rows = [
        [a.ref, " ".join(f"@{x}" for x in aliases.get(a.fingerprint, [])), a.kind, a.manifest.recipe, size(a.bytes),
         a.manifest.created.replace("T", " ")[:16], a.fingerprint[:12]]
        for a in artifacts
    ]  # fmt: skip
    if rows:
        table(["artifact", "alias", "kind", "recipe", "size", "created (UTC)", "fingerprint"], rows)
    else:
        stderr().print("nothing here yet; `mojiang quickstart` makes a model end to end")
    return {"artifacts": [_record(a) | {"aliases": aliases.get(a.fingerprint, [])} for a in artifacts]}


def show(args: argparse.Namespace) -> dict[str, Any]:
    """Everything about one artifact."""
    store = open_store(args)
    artifact = store.get(args.ref)
    if args.why_dropped:
        return {"answer": print_why_dropped(store, artifact, args.why_dropped)}
    manifest, console = artifact.manifest, stdout()
    made = f"{manifest.recipe}, run {manifest.run}, {duration(manifest.seconds)}, {manifest.created}"
    console.print(f"[bold]{artifact.ref}[/] {artifact.kind}\n  path         {escape(str(artifact.path))}")
    console.print(f"  fingerprint  {artifact.fingerprint}\n  made by      {made}")
    for field, parent in [(f, p) for f, group in manifest.parents.items() for p in group]:
        found = store.by_fingerprint(parent)
        console.print(f"  {field:<12} {found.ref if found else parent[:12] + ' (not in this store)'}")
    console.print()
    table(
        ["setting", "value"],
        [[k, v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)] for k, v in manifest.config.items()],
    )
    console.print()
    table(["file", "bytes", "sha256"], [[n, e.bytes, e.sha256[:16]] for n, e in manifest.files.items()])
    if (artifact.path / "report.json").is_file():
        console.print()
        print_report(Report.load(artifact.path))
    elif manifest.metrics:
        console.print()
        table(["metric", "value"], [[name, value] for name, value in manifest.metrics.items()])
    return _record(artifact) | {"manifest": manifest.model_dump(mode="json")}


def print_why_dropped(store: Store, artifact: Artifact, document: str) -> list[dict[str, str]]:
    """Say at which step a document was dropped and why, or that it was kept."""
    from mojiang.data._accounting import why_dropped

    chain = [a for a in reversed(store.lineage(artifact)) if a.kind == "dataset"]
    answer = why_dropped(chain, document)
    if all(fate.outcome == "not seen" for fate in answer):
        raise NotFound(
            f"no document {document!r} was seen by any step before {artifact.ref}", hint="give its path or id"
        )
    records = [asdict(fate) for fate in answer]
    table(list(records[0]), [[str(value) for value in record.values()] for record in records])
    return records


def lineage(args: argparse.Namespace) -> dict[str, Any]:
    """The tree of ancestors, each artifact explained once, down to the source files."""
    store = open_store(args)
    artifact = store.get(args.ref)
    if args.why_dropped:
        return {"answer": print_why_dropped(store, artifact, args.why_dropped)}
    seen: set[str] = set()

    def grow(node: Artifact, tree: Tree, field: str) -> None:
        label = f"[dim]{field}[/] [bold]{node.ref}[/] {node.manifest.recipe} [dim]{node.fingerprint[:12]}[/]"
        branch = tree.add(label + (" [dim](above)[/]" if node.fingerprint in seen else ""))
        if node.fingerprint in seen:
            return
        seen.add(node.fingerprint)
        for line in _sources(node):
            branch.add(escape(line))
        for name, group in node.manifest.parents.items():
            for parent in group:
                found = store.by_fingerprint(parent)
                if found:
                    grow(found, branch, name)
                else:
                    branch.add(f"{name} {parent[:12]} (not in this store)")

    root = Tree("", hide_root=True)
    grow(artifact, root, "")
    stdout().print(root)
    ancestors = store.lineage(artifact)
    return {"lineage": [_record(a) | {"parents": a.manifest.parents, "sources": _sources(a)} for a in ancestors]}


def _sources(artifact: Artifact) -> list[str]:
    """For an artifact made from outside the store: its source, licences and a few files."""
    if any(artifact.manifest.parents.values()) or artifact.kind != "dataset":
        return []
    lines = [f"source: {artifact.manifest.config.get('source', artifact.manifest.recipe)}"]
    if (artifact.path / "report.json").is_file():
        report = Report.load(artifact.path)
        lines += [
            f"{t.title}: " + ", ".join(str(row[0]) for row in t.rows[:6])
            for t in report.tables
            if "licence" in t.title.lower()
        ]
    from mojiang.data._documents import read_documents

    paths: list[str] = []
    for batch in read_documents(artifact.path, columns=["path"]):
        paths += batch.column("path").to_pylist()
    shown = paths[:5] + ([f"… {len(paths) - 5:,} more"] if len(paths) > 5 else [])
    return lines + [f"files: {', '.join(shown)}"]


def diff(args: argparse.Namespace) -> dict[str, Any]:
    """What differs between two artifacts: settings, inputs (back to the first cause), metrics."""
    store = open_store(args)
    first, second = store.get(args.ref), store.get(args.other)
    rows = _differences(store, first, second, "")
    if rows:
        table(["what", first.ref, second.ref], rows)
    else:
        stderr().print(f"{first.ref} and {second.ref} have the same recipe, settings and inputs")
    return {"differences": [{"what": row[0], first.ref: row[1], second.ref: row[2]} for row in rows]}


def _differences(store: Store, first: Artifact, second: Artifact, where: str) -> list[list[Any]]:
    """Rows of (what, here, there); a parent that differs is explained by its own differences, down to the cause."""
    if first.fingerprint == second.fingerprint:
        return []
    a, b = first.manifest, second.manifest
    rows = [
        [f"{where}{key}", x, y] for key, x, y in (("recipe", a.recipe, b.recipe), ("seed", a.seed, b.seed)) if x != y
    ]
    for title, left, right in (("", a.config, b.config), ("metric ", a.metrics, b.metrics)):
        different = [key for key in sorted({*left, *right}) if left.get(key) != right.get(key)]
        rows += [[f"{where}{title}{key}", _cell(left.get(key)), _cell(right.get(key))] for key in different]
    for field in sorted({*a.parents, *b.parents}):
        for pair in zip_longest(a.parents.get(field, []), b.parents.get(field, []), fillvalue=""):
            found = [store.by_fingerprint(parent) for parent in pair]
            if found[0] and found[1]:
                rows += _differences(store, found[0], found[1], f"{where}{field} › ")
            elif pair[0] != pair[1]:
                rows.append([f"{where}{field}", pair[0][:12], pair[1][:12]])
    return list({str(row): row for row in rows}.values())


def _cell(value: Any) -> str:
    return (
        number(value)
        if isinstance(value, int | float)
        else ""
        if value is None
        else json.dumps(value, ensure_ascii=False)
    )


def alias(args: argparse.Namespace) -> dict[str, Any]:
    """Point an alias at an artifact."""
    store = open_store(args)
    artifact = store.stored(args.ref)
    if args.name in PROTECTED_ALIASES:
        raise BadUsage(
            f"@{args.name} is given by evidence, not by hand",
            hint=f"`mojiang promote {args.ref} {args.name}` asks the gate",
        )
    store.alias(artifact, args.name)
    stderr().print(f"{artifact.name}@{args.name} is now {artifact.ref}")
    return _record(artifact) | {"alias": args.name}


def rm(args: argparse.Namespace) -> dict[str, Any]:
    """Remove one artifact."""
    store = open_store(args)
    artifact = store.stored(args.ref)
    store.remove(artifact, args.force)
    stderr().print(f"removed {artifact.ref} ({size(artifact.bytes)})")
    return {"removed": artifact.ref}


def gc(args: argparse.Namespace) -> dict[str, Any]:
    """Remove artifacts nothing refers to, and stray folders."""
    store = open_store(args)
    artifacts, strays = store.gc(args.dry_run)
    freed = sum(artifact.bytes for artifact in artifacts)
    word = "would remove" if args.dry_run else "removed"
    for artifact in artifacts:
        stderr().print(f"{word} {artifact.ref}")
    stderr().print(f"{word} {len(artifacts)} artifacts ({size(freed)}) and {len(strays)} stray folders")
    return {"artifacts": [a.ref for a in artifacts], "folders": [str(p) for p in strays], "bytes": freed}


def export(args: argparse.Namespace) -> dict[str, Any]:
    """Copy an artifact out, its checksums compared."""
    artifact = open_store(args).get(args.ref)
    artifact.verify()
    target = Path(args.dir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadUsage(f"{target} is there already", hint="give a new or empty folder")
    part = target.with_name(f".{target.name}.{os.getpid()}")  # whole or not there, also on a full disk
    try:
        with explained_os_errors(f"exporting {artifact.ref}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(artifact.path, part)
            if target.exists():
                target.rmdir()
            os.rename(part, target)
    finally:
        remove_tree(part)
    stderr().print(f"exported {artifact.ref} to {target}")
    return _record(artifact) | {"path": str(target.absolute())}


def import_(args: argparse.Namespace) -> dict[str, Any]:
    """Bring a folder in: an exported artifact keeps its history, any other folder begins one."""
    store, source = open_store(args), Path(args.dir)
    if not source.is_dir():
        raise NotFound(f"there is no folder {args.dir!r}", hint="check the path")
    manifest = read_manifest(source) if (source / MANIFEST).is_file() else None
    if manifest is None:
        manifest = _outside_manifest(source, args.name or source.absolute().name)
    else:
        Artifact(manifest, source).verify()
    existing = store.by_fingerprint(manifest.fingerprint)
    if existing:
        stderr().print(f"{existing.ref} is that already")
        return _record(existing)
    manifest = manifest.model_copy(update={"name": args.name or manifest.name})
    copy = store.workspace / "tmp" / f"import-{uuid.uuid4().hex}-{os.getpid()}"
    try:
        with explained_os_errors(f"importing {source}"):
            shutil.copytree(source, copy)
            artifact = store.commit(copy, manifest)
    finally:
        remove_tree(copy)
    stderr().print(f"imported {artifact.ref}")
    return _record(artifact)


def _outside_manifest(folder: Path, name: str) -> Manifest:
    files = file_entries(folder)
    kinds: list[tuple[Kind, str]] = [
        ("model", "config.json"),
        ("tokenizer", "tokenizer.json"),
        ("report", "report.json"),
    ]
    kind = next((kind for kind, mark in kinds if mark in files), None)
    if kind is None:
        raise BadInput(
            f"{folder} is neither an exported artifact nor a Hugging Face folder",
            hint="a model has config.json, a tokenizer tokenizer.json; raw text comes in by `mojiang data load`",
        )
    content = {file: entry.sha256 for file, entry in files.items()}
    return Manifest(
        kind=kind, name=name, version=1, fingerprint=digest({"import": content}), recipe="import",
        config={"source": str(folder.absolute())}, parents={}, run="", seed=None, created=now(), seconds=0.0,
        metrics={}, files=files, software=software_versions(),
    )  # fmt: skip


def _record(artifact: Artifact) -> dict[str, Any]:
    return {
        "artifact": artifact.ref,
        "kind": artifact.kind,
        "fingerprint": artifact.fingerprint,
        "path": str(artifact.path),
        "recipe": artifact.manifest.recipe,
        "metrics": artifact.metrics,
        "created": artifact.manifest.created,
    }
