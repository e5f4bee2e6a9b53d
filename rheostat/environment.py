"""Where a study runs: versions, hardware, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import psutil

from rheostat.types import Environment

PACKAGES = ("rheostat", "torch", "numpy", "scipy", "scikit-learn", "safetensors")


def describe_environment(data_fingerprint: str = "") -> Environment:
    """What somebody needs to know who wants to repeat a study that begins here and now."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    hardware = {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu": _cpu_name(),
        "cores": str(os.cpu_count() or 1),
        "memory_bytes": str(psutil.virtual_memory().total),
    }
    return Environment(versions, hardware, _git_commit(), data_fingerprint)


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return platform.processor()


def _git_commit() -> str:
    """The commit of the working folder, with + where files differ from it; empty outside a repository."""
    try:
        arguments = ["git", "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=12"]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=2, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
