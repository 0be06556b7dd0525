"""Every `mojiang` command in the guides runs, in the order of the page."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "CONTRIBUTING.md", *GUIDES]


def bash_lines(page: Path) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_a_guide_runs_from_top_to_bottom(page: Path, cli, tmp_path: Path, texts: Path) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(texts, tmp_path / "texts")
    shutil.copytree(ROOT / "tests" / "fixtures" / "segmented", tmp_path / "segmented")
    lines = bash_lines(page)
    assert len(lines) > 5
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "mojiang", line
        cli(*words[1:], timeout=400)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readme_runs(name: str, quickstarted: dict[str, str], cli) -> None:  # type: ignore[no-untyped-def]
    lines = [shlex.split(line) for line in bash_lines(ROOT / name)]
    used = [words for words in lines if words[0] == "mojiang"]
    assert ["mojiang", "serve", "quickstart-int8@prod"] in used  # tests/e2e starts a server
    for words in used:
        if words[1] != "serve":
            assert cli(*words[1:], "--workspace", quickstarted["workspace"]).stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for line in bash_lines(page):
        if line.startswith("make"):
            assert shlex.split(line)[1] in targets, line


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "ARCHITECTURE.md"], ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_guides_come_in_both_languages() -> None:
    english = {p.name for p in GUIDES if not p.name.endswith(".zh.md")}
    assert {p.name.replace(".zh.md", ".md") for p in GUIDES if p.name.endswith(".zh.md")} == english
    for page in GUIDES:
        if page.name in english:
            chinese = page.with_name(page.name.replace(".md", ".zh.md"))
            assert bash_lines(page) == bash_lines(chinese)
