"""Licences from headers and files, on the real words of the licences."""

from __future__ import annotations

from pathlib import Path

import pytest

from mojiang.data._licence import folder_licence, recognise, spdx_header

MIT = (
    "MIT License\n\nCopyright (c) 2024\n\nPermission is hereby granted, free of charge, to any person obtaining a\ncopy"
)
BSD2 = "Redistributions in binary form must reproduce the above copyright notice"
BSD3 = BSD2 + "\nNeither the name nor contributors may be used to endorse or promote products derived from"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (MIT, "MIT"),
        (BSD2, "BSD-2-Clause"),
        (BSD3, "BSD-3-Clause"),
        ("                 Apache License\n           Version 2.0, January 2004", "Apache-2.0"),
        ("GNU LESSER GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007\n… GNU General Public License, version 3",
         "LGPL-3.0-or-later"),
        ("GNU GENERAL PUBLIC LICENSE\n   Version 2, June 1991", "GPL-2.0-or-later"),
        ("木兰宽松许可证, 第2版", "MulanPSL-2.0"),
        ("All rights reserved.", None),
    ],
)  # fmt: skip
def test_licence_texts(text: str, name: str | None) -> None:
    assert recognise(text) == name


def test_spdx_header_near_the_top_only() -> None:
    assert spdx_header("// SPDX-License-Identifier: GPL-2.0-only OR MIT\nint x;") == "GPL-2.0-only OR MIT"
    assert spdx_header("x\n" * 5000 + "# SPDX-License-Identifier: MIT") is None


def test_folder_licence_reads_the_file(tmp_path: Path) -> None:
    assert folder_licence(tmp_path) is None
    (tmp_path / "LICENSE.txt").write_text(MIT)
    assert folder_licence(tmp_path) == "MIT"
