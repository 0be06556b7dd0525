"""Under which licence is a document? Its SPDX header first, then the LICENSE file of its folder, then what was said.

Names are SPDX identifiers (https://spdx.org/licenses). A licence file is recognised by sentences that only it has;
one that is not recognised changes nothing, since a wrong licence is worse than "unknown".
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

UNKNOWN: Final = "unknown"
_HEADER_CHARACTERS: Final = 4096
_SPDX: Final = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+\-() ]+)")
_FILE_NAME: Final = re.compile(r"(UN)?LICEN[SC]E|COPYING", re.IGNORECASE)

# The order matters: LGPL and AGPL quote the GPL, BSD-3 contains BSD-2.
_SENTENCES: Final = (
    ("Apache-2.0", "apache license version 2.0"),
    ("MulanPSL-2.0", "木兰宽松许可证 第2版"),
    ("MulanPSL-2.0", "木兰宽松许可证, 第2版"),
    ("AGPL-3.0-or-later", "gnu affero general public license version 3"),
    ("LGPL-3.0-or-later", "gnu lesser general public license version 3"),
    ("LGPL-2.1-or-later", "gnu lesser general public license version 2.1"),
    ("GPL-3.0-or-later", "gnu general public license version 3"),
    ("GPL-2.0-or-later", "gnu general public license version 2"),
    ("GFDL-1.3-or-later", "gnu free documentation license version 1.3"),
    ("MPL-2.0", "mozilla public license version 2.0"),
    ("CC-BY-SA-4.0", "attribution-sharealike 4.0 international"),
    ("CC-BY-4.0", "attribution 4.0 international"),
    ("CC-BY-SA-3.0", "attribution-sharealike 3.0"),
    ("CC0-1.0", "cc0 1.0 universal"),
    ("PSF-2.0", "python software foundation license version 2"),
    ("Unlicense", "this is free and unencumbered software released into the public domain"),
    ("ISC", "permission to use, copy, modify, and/or distribute this software for any purpose"),
    ("BSD-3-Clause", "may be used to endorse or promote products derived"),
    ("BSD-2-Clause", "redistributions in binary form must reproduce"),
    ("MIT", "permission is hereby granted, free of charge, to any person obtaining a copy"),
)  # fmt: skip

SPDX_NAMES: Final = {name.lower(): name for name, _ in _SENTENCES}
"""SPDX identifiers by their small letters, as model hubs write them."""


def spdx_header(text: str) -> str | None:
    """The SPDX expression a file carries near its top, or None.

    >>> spdx_header("# SPDX-License-Identifier: Apache-2.0\\nimport os")
    'Apache-2.0'
    """
    found = _SPDX.search(text[:_HEADER_CHARACTERS])
    return (found[1].strip() or None) if found else None


def recognise(text: str) -> str | None:
    """SPDX identifier of a licence text, or None when it is none that we know."""
    # Spaces and commas vary from copy to copy. What comes first names the licence; the rest may quote others.
    flat = re.sub(r"\s+", " ", text[:20000]).lower().replace("license, version", "license version")
    best: tuple[int, str] | None = None
    for name, sentence in _SENTENCES:
        at = flat.find(sentence)
        if at >= 0 and best is not None and {best[1], name} == {"BSD-3-Clause", "BSD-2-Clause"}:
            continue  # the longer one contains the shorter
        if at >= 0 and (best is None or at < best[0]):
            best = (at, name)
    return best[1] if best else None


def folder_licence(folder: Path) -> str | None:
    """What the LICENSE or COPYING file in this very folder is, or None."""
    try:
        names = sorted(p for p in folder.iterdir() if _FILE_NAME.match(p.name) and p.is_file())
        for path in names:
            with open(path, "rb") as file:
                found = recognise(file.read(40000).decode("utf-8", "replace"))
            if found:
                return found
    except OSError:
        return None  # the file itself is a document too, and will be counted as unreadable there
    return None
