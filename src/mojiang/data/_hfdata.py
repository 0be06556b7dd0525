"""Data sets of the Hugging Face Hub, or in a folder laid out like one, streamed by the `datasets` library."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, Final

from mojiang.core.errors import BadInput, NotFound, Unavailable
from mojiang.data._licence import SPDX_NAMES
from mojiang.data._remote import Hub
from mojiang.data._snapshot import CHUNK_ROWS, Snapshot
from mojiang.data._sources import digest_of, open_source

_TRIES: Final = 5
_TEXTUAL: Final = ("string", "large_string", "Value", "List", "Sequence", "LargeList")
_CARD_LICENCE: Final = re.compile(r"^licen[sc]e:\s*(?:\n\s*-\s*)?['\"]?([\w.+-]+)", re.MULTILINE)


def located(source: str) -> tuple[str, str | None, Path | None]:
    """Name, revision and local folder of `hf:org/name@revision` or `hf:./folder`.

    >>> located("hf:org/name@v1")
    ('org/name', 'v1', None)
    """
    text = source.removeprefix("hf:")
    if text.startswith(("/", ".", "~")):
        path = Path(text).expanduser()
        if not path.is_dir():
            raise NotFound(f"{text} is no folder", hint="give hf:org/name, or hf: and a folder with a data set's files")
        return text, None, path
    name, _, revision = text.partition("@")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise BadInput(f"{source!r} names no data set of the Hub", hint="write hf:org/name or hf:org/name@revision")
    return name, revision or None, None


def identity_of(source: str) -> dict[str, Any]:
    """The commit a name of the Hub stands for now, or the content of a folder."""
    name, revision, folder = located(source)
    if folder is not None:
        return {"content": digest_of(open_source(str(folder)))}
    return {"repo": name, "commit": _info(name, revision)[0]}


def _info(name: str, revision: str | None) -> tuple[str, str | None]:
    """(commit, licence) of a data set on the Hub."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError as error:
        raise _missing("huggingface_hub") from error
    try:
        info = HfApi().dataset_info(name, revision=revision)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        where = f"{name}@{revision}" if revision else name
        raise NotFound(
            f"the Hub has no data set {where} that you may read", hint="check the name, or log in: hf auth login"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise Unavailable(f"the Hub does not answer: {error}", hint="check the network, or HF_ENDPOINT") from error
    card: Any = info.card_data
    licence = card.get("license") if card is not None else None
    return str(info.sha), _spdx(licence[0] if isinstance(licence, list) and licence else licence)


def _missing(name: str) -> Unavailable:
    return Unavailable(f"{name} is not installed", hint="pip install 'mojiang[hfdata]'")


def _spdx(licence: Any) -> str | None:
    if not isinstance(licence, str) or licence.lower() in ("", "unknown", "other"):
        return None
    return SPDX_NAMES.get(licence.lower(), licence)


def fetch_hub(
    source: str, hub: Hub, text_fields: tuple[str, ...], shot: Snapshot, check_stop: Callable[[], None],
    progress: Callable[[float, float], None],
) -> str | None:  # fmt: skip
    """Stream a data set into the snapshot; returns its licence.

    A connection that breaks is opened again at the row it broke at, since `datasets` can say where it is.

    Raises:
        Unavailable: the library is not installed, or the Hub does not answer.
        BadInput: there is no such split or configuration.
    """
    name, revision, folder = located(source)
    if folder is not None:
        commit, licence = None, _card_licence(folder)
    else:
        commit, licence = _info(name, revision)
    broken = 0
    while not shot.done:
        before = len(shot.chunks)
        try:
            _stream(str(folder or name), commit, hub, text_fields, shot, source, check_stop, progress)
        except (OSError, ConnectionError) as error:
            if isinstance(error, Unavailable):
                raise
            broken = broken + 1 if len(shot.chunks) == before else 0
            if broken >= _TRIES:
                raise Unavailable(f"{name} breaks off: {error}", hint="the same command continues from here") from error
    return licence


def _card_licence(folder: Path) -> str | None:
    card = folder / "README.md"
    found = _CARD_LICENCE.search(card.read_text(encoding="utf-8", errors="replace")) if card.exists() else None
    return _spdx(found[1]) if found else None


def _stream(
    name: str, commit: str | None, hub: Hub, text_fields: tuple[str, ...], shot: Snapshot, origin: str,
    check_stop: Callable[[], None], progress: Callable[[float, float], None],
) -> None:  # fmt: skip
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        import datasets
    except ImportError as error:
        raise _missing("datasets") from error
    try:
        stream: Any = datasets.load_dataset(name, hub.config, split=hub.split, revision=commit, streaming=True)
    except (ValueError, datasets.exceptions.DatasetsError) as error:
        hint = "choose with --hub.config and --hub.split"
        raise BadInput(f"{name}: {str(error).splitlines()[0]}", hint=hint) from error
    columns = list(stream.features or ())
    wanted = [c for c in columns if c in (*text_fields, "licence", "license")]
    if set(wanted) & set(text_fields):
        stream = stream.select_columns(wanted)  # the rest is not downloaded from files with columns
    position = shot.next
    if position is not None:
        stream.load_state_dict(position["state"])
    done = position["rows"] if position else 0
    rows = iter(stream)
    while True:
        left = CHUNK_ROWS if hub.rows is None else min(CHUNK_ROWS, hub.rows - done)
        chunk = list(islice(rows, left))
        done += len(chunk)
        last = len(chunk) < left or done == hub.rows
        shot.add(chunk, origin, None if last else {"rows": done, "state": stream.state_dict()})
        progress(done, hub.rows or done)
        check_stop()
        if last:
            return
