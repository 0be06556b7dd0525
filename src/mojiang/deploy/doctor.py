"""What this machine can do, what is missing, and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

import psutil

from mojiang.core.engine import cpu_count
from mojiang.core.report import Cell, Finding, Report, Table

# Instruction sets that decide which kernels PyTorch picks, as Linux names them.
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")

PACKAGES = {
    "torch": "core",
    "tokenizers": "core",
    "safetensors": "core",
    "pyarrow": "core",
    "fastapi": "core",
    "openai": "core",
    "psycopg": "postgres",
    "transformers": "test",
    "compressed-tensors": "test",
}

LEAST_FREE_DISK = 2e9
LEAST_FREE_MEMORY = 2e9


def diagnose(workspace: Path) -> Report:
    """Look at processor, memory, disk, GPU, compiler and packages.

    >>> diagnose(Path("/tmp")).tables[0].title
    'machine'
    """
    findings: list[Finding] = []
    machine: list[list[Cell]] = [
        ["python", platform.python_version()],
        ["system", f"{platform.system()} {platform.release()} {platform.machine()}"],
        ["processor", _processor()],
        ["cores usable", cpu_count()],
        ["instruction sets", " ".join(feature for feature in CPU_FEATURES if feature in _cpu_flags()) or "none known"],
        *_memory(findings),
        *_disk(workspace, findings),
        *_torch(findings),
        *_compiler(findings),
    ]
    packages: list[list[Cell]] = []
    for package, extra in PACKAGES.items():
        version = _version(package)
        packages.append([package, version or "missing", "" if version else f"pip install '{_target(extra)}'"])
        if version is None and extra == "core":
            findings.append(Finding(level="error", text=f"{package} is missing: pip install '{_target(extra)}'"))
    bad = [finding for finding in findings if finding.level != "info"]
    verdict = "Ready." if not bad else f"{len(bad)} thing(s) to look at."
    tables = [
        Table(title="machine", columns=["what", "found"], rows=machine),
        Table(title="packages", columns=["package", "version", "how to get it"], rows=packages),
    ]
    return Report(title="What this machine can do", tables=tables, findings=findings, verdict=verdict)


def _target(extra: str) -> str:
    return "mojiang" if extra == "core" else f"mojiang[{extra}]"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    for line in lines:
        if line.startswith(("flags", "Features")):
            return set(line.partition(":")[2].split())
    return set()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or "unknown"
    return platform.processor() or "unknown"


def _memory(findings: list[Finding]) -> list[list[Cell]]:
    memory = psutil.virtual_memory()
    if memory.available < LEAST_FREE_MEMORY:
        text = f"only {memory.available / 1e9:.1f} GB of memory are free; quickstart wants 2 GB: close other programs"
        findings.append(Finding(level="warning", text=text))
    return [["memory", f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB free"]]


def _disk(workspace: Path, findings: list[Finding]) -> list[list[Cell]]:
    disk = shutil.disk_usage(workspace)
    if disk.free < LEAST_FREE_DISK:
        text = f"only {disk.free / 1e9:.1f} GB are free at {workspace}: `mojiang gc`, or choose another --workspace"
        findings.append(Finding(level="warning", text=text))
    return [["disk", f"{disk.free / 1e9:.1f} GB free at {workspace}"]]


def _torch(findings: list[Finding]) -> list[list[Cell]]:
    if _version("torch") is None:
        return []
    import torch

    rows: list[list[Cell]] = [["torch threads", torch.get_num_threads()]]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            rows.append([f"cuda:{index}", f"{device.name}, {device.total_memory / 1e9:.0f} GB"])
    else:
        built = torch.version.cuda
        rows.append(["gpu", f"none seen (this PyTorch is built for {'CUDA ' + built if built else 'the CPU'})"])
        if shutil.which("nvidia-smi") and not built:
            text = "there is an NVIDIA driver, and this PyTorch is a CPU build: pip install torch from the CUDA index"
            findings.append(Finding(level="warning", text=text))
    return rows


def _compiler(findings: list[Finding]) -> list[list[Cell]]:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        text = "no C++ compiler: training works, without torch.compile; `apt-get install g++` makes it faster"
        findings.append(Finding(level="warning", text=text))
    return [["C++ compiler", compiler or "none"]]
