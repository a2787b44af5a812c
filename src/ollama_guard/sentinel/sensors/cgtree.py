"""Where a process' memory cgroup is on this machine: v1, v2 and hybrid trees, seen from any namespace."""

from __future__ import annotations

from dataclasses import dataclass

from ollama_guard.cgmounts import Mount, parse_mounts
from ollama_guard.sentinel.sensors.files import slurp

_STANDARD_ROOT = "/sys/fs/cgroup"
_DELETED = " (deleted)"
# Levels looked at above a process. systemd and Kubernetes nest about 8; a hostile tree may go on for ever.
DEPTH_LIMIT = 16


@dataclass(frozen=True, slots=True)
class Place:
    """A process' memory cgroup: directories from its own up to the highest that can be seen.

    ``directories`` is empty where it can't be told, and ``reason`` says why. ``pressure`` is the PSI file of
    the process' own cgroup ("" if none).
    """

    version: int = 0
    directories: tuple[str, ...] = ()
    path: str = ""
    pressure: str = ""
    reason: str = ""


def parse_membership(data: bytes) -> dict[str, str]:
    """A /proc/PID/cgroup text as controller -> path; the v2 tree's controller is ""."""
    found: dict[str, str] = {}
    for line in data.decode("utf-8", "backslashreplace").split("\n"):
        number, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if not (number.isdecimal() and separator and path.startswith("/")):
            continue
        for controller in controllers.split(","):
            found.setdefault(controller, path)
    return found


def is_under(path: str, prefix: str) -> bool:
    """Whether a cgroup path is ``prefix`` or below it, whole names compared."""
    prefix = "/" + prefix.strip("/")
    return prefix in ("/", path) or path.startswith(prefix + "/")


class CgroupTrees:
    """The cgroup mounts of this process, read again by `refresh` alone."""

    def __init__(self, proc: str, cgroup_root: str) -> None:
        self._proc = proc
        self._cgroup_root = cgroup_root
        self.mounts: tuple[Mount, ...] = ()
        self._freezers: tuple[Mount, ...] = ()
        self.refresh()

    def refresh(self) -> None:
        """Read the mounts again (a tree may be mounted after the guard's start)."""
        mountinfo = slurp(f"{self._proc}/self/mountinfo") or b""
        self.mounts = parse_mounts(mountinfo)
        self._freezers = parse_mounts(mountinfo, b"freezer")

    @property
    def kind(self) -> str:
        """``v2``, ``v1``, ``hybrid`` or ``none``: where the memory controller can be read."""
        versions = {mount.version for mount in self.mounts}
        return {frozenset(): "none", frozenset({1}): "v1", frozenset({2}): "v2"}.get(
            frozenset(versions), "hybrid"
        )

    def place(self, membership: bytes) -> Place:
        """Where the process with this /proc/PID/cgroup text is; v1's memory controller wins over v2."""
        paths = parse_membership(membership)
        version, path = (1, paths["memory"]) if "memory" in paths else (2, paths.get("", ""))
        if not path:
            return Place(reason="the process is in no memory cgroup")
        if path.endswith(_DELETED):
            return Place(reason=f"the cgroup {path} was removed")
        found = self._find(self.mounts, version, path)
        if found is None:
            return Place(reason=f"the cgroup {path} is outside of what is mounted here")
        pressure_in = found[0] if version == 2 else self._unified(paths.get("", "/"))
        pressure = f"{pressure_in}/memory.pressure" if pressure_in else ""
        return Place(version, _upwards(*found), path, pressure)

    def freezers(self, membership: bytes) -> tuple[str, ...]:
        """The files that tell whether the process with this /proc/PID/cgroup text is frozen, in either tree.

        Both tell of a cgroup above that is frozen, too. The root cgroups have no such file.
        """
        paths = parse_membership(membership)
        v2 = self._unified(paths.get("", "/"))
        v1 = self._find(self._freezers, 1, paths["freezer"]) if paths.get("freezer", "/") != "/" else None
        return (
            *((f"{v2}/cgroup.events",) if v2 else ()),
            *((f"{v1[0]}/freezer.state",) if v1 is not None else ()),
        )

    def _unified(self, path: str) -> str:
        """The directory of a v2 cgroup; the root's PSI is the host's, so it doesn't count."""
        found = self._find(self.mounts, 2, path) if path != "/" else None
        return found[0] if found is not None else ""

    def _find(self, mounts: tuple[Mount, ...], version: int, path: str) -> tuple[str, str] | None:
        """(directory of the cgroup, directory of the highest one that is mounted)."""
        for mount in mounts:
            if mount.version != version or ".." in path.split("/") + mount.root.split("/"):
                continue
            if not is_under(path, mount.root):
                continue
            point = self._moved(mount.point)
            inside = path[len(mount.root.rstrip("/")) :].strip("/")
            return (f"{point}/{inside}" if inside else point, point)
        return None

    def _moved(self, point: str) -> str:
        """A mount point below the standard place, as this guard was told to find it."""
        if is_under(point, _STANDARD_ROOT):
            return (self._cgroup_root + point[len(_STANDARD_ROOT) :]).rstrip("/")
        return point.rstrip("/")


def _upwards(directory: str, top: str) -> tuple[str, ...]:
    levels = [directory]
    while levels[-1] != top and len(levels) < DEPTH_LIMIT:
        levels.append(levels[-1].rpartition("/")[0])
    return tuple(levels)
