"""Where this machine lives: in a container, a sandbox, a unit of systemd, or on bare metal."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Mapping
from pathlib import Path

from toolkit.adapters.doctor.limits import text_in
from toolkit.adapters.host import hostname
from toolkit.core.doctor.facts import PlaceFacts

_UNIT = re.compile(r"/([^/]+\.service)(?:/|$)")


def place(environ: Mapping[str, str], *, terminal: bool, root: Path = Path("/")) -> PlaceFacts:
    """What can be seen of it.

    Args:
        environ: of this process.
        terminal: whether somebody sits before it.
        root: of the file system.
    """
    return PlaceFacts(
        host=hostname(),
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        container=_container(environ, root),
        virtual=_virtual(root),
        systemd_unit=_unit(text_in(root / "proc/self/cgroup") or ""),
        terminal=terminal,
        now_s=round(time.time(), 3),
    )


def _container(environ: Mapping[str, str], root: Path) -> str:
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if environ.get("APPTAINER_NAME") or environ.get("SINGULARITY_NAME"):
        return "apptainer"
    if (root / "run/.containerenv").exists():
        return "podman"
    if (root / ".dockerenv").exists():
        return "docker"
    groups = text_in(root / "proc/1/cgroup") or ""
    for sign, name in (
        ("kubepods", "kubernetes"),
        ("docker", "docker"),
        ("libpod", "podman"),
        ("/lxc", "lxc"),
    ):
        if sign in groups:
            return name
    return environ.get("container", "")


def _virtual(root: Path) -> str:
    version = (text_in(root / "proc/version") or "").lower()
    if "gvisor" in version:
        return "gVisor"
    return "WSL" if "microsoft" in version else ""


def _unit(cgroup: str) -> str:
    """The service that a process belongs to; empty for what users started in a session."""
    for line in cgroup.splitlines():
        path = line.split(":", 2)[-1]
        names = _UNIT.findall(path)
        if names and not names[-1].startswith(("user@", "docker", "containerd")):
            return str(names[-1])
    return ""
