"""Manifests and checksums."""

from __future__ import annotations

from pathlib import Path

import pytest

from mojiang.core.artifact import Artifact, Manifest, file_entries, read_manifest, software_versions
from mojiang.core.errors import Corrupted, NotFound


def manifest(folder: Path) -> Manifest:
    return Manifest(
        kind="dataset", name="n", version=2, fingerprint="f" * 64, recipe="data.load@1", config={}, parents={}, run="r",
        seed=None, created="2026-01-01T00:00:00+00:00", seconds=0.5, metrics={"x": 1}, files=file_entries(folder),
        software=software_versions(),
    )  # fmt: skip


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.bin").write_bytes(b"abc")
    (tmp_path / "b.txt").write_text("text")
    made = manifest(tmp_path)
    (tmp_path / "artifact.json").write_text(made.model_dump_json())
    return Artifact(made, tmp_path)


def test_round_trip(artifact: Artifact) -> None:
    assert read_manifest(artifact.path) == artifact.manifest
    assert set(artifact.manifest.files) == {"sub/a.bin", "b.txt"}
    assert (artifact.ref, artifact.recipe, artifact.bytes) == ("n@2", "data.load", 7)
    artifact.verify()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: (p / "sub" / "a.bin").write_bytes(b"abd"), "checksum of sub/a.bin"),
        (lambda p: (p / "sub" / "a.bin").write_bytes(b"ab"), "2 bytes instead of 3"),
        (lambda p: (p / "b.txt").unlink(), "b.txt is missing"),
    ],
)
def test_damage_is_named(artifact: Artifact, damage: object, said: str) -> None:
    damage(artifact.path)  # type: ignore[operator]
    with pytest.raises(Corrupted, match=said) as caught:
        artifact.verify()
    assert "mojiang rm n@2" in caught.value.hint


def test_bad_manifests(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_manifest(tmp_path)
    (tmp_path / "artifact.json").write_text("{")
    with pytest.raises(Corrupted):
        read_manifest(tmp_path)
