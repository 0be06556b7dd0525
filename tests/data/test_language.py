"""Language identification on texts whose language is known, short and long."""

from __future__ import annotations

import pytest

from mojiang.data._language import identify


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Hello", "en"),
        ("x", "en"),
        ("The cat sat on the mat.", "en"),
        ("Install with pip install mojiang", "en"),
        ("你好", "zh"),
        ("猫", "zh"),
        ("床前明月光，疑是地上霜。", "zh"),
        ("使用 apt-get install 安装软件包，然后运行 systemctl restart nginx。", "zh"),
        ("漢字寫的繁體中文", "zh"),
        ("日本語のテキストです", "ja"),
        ("안녕하세요", "ko"),
        ("Bonjour tout le monde, comment allez-vous", "fr"),
        ("Guten Tag, wie geht es Ihnen heute?", "de"),
        ("Привет, как дела сегодня?", "ru"),
        ("مرحبا بالعالم", "ar"),
        ("12345 !?", "und"),
        ("", "und"),
    ],
)
def test_short_texts(text: str, language: str) -> None:
    assert identify(text) == language


def test_long_english_with_some_chinese_is_english_and_the_other_way_round() -> None:
    english = "The Chinese word for cat is 猫, and there are many proverbs about it. " * 500
    chinese = "这一章介绍 Python 的 asyncio 模块以及 event loop 的用法，并给出一些例子。" * 500
    assert identify(english) == "en"
    assert identify(chinese) == "zh"


def test_a_licence_header_does_not_decide_for_a_long_text() -> None:
    header = "Permission is hereby granted, free of charge, to any person obtaining a copy of this software. " * 15
    assert identify(header + "这里才是正文，内容完全是中文写成的，而且比许可证长得多。" * 400) == "zh"
