"""The ways to contain programs on this machine; each is a command that starts a nursery."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

INSIDE = Path(__file__).parent / "inside"
INNER, INNER_PYTHON = "/leyden", "/python"
NOBODY = 65534
OLDEST_BUBBLEWRAP = (0, 8)
ENVIRONMENT = {
    "PATH": "/usr/bin",
    "HOME": "/tmp",
    "USER": "nobody",
    "LD_LIBRARY_PATH": f"{INNER_PYTHON}/lib",  # where Python itself is a shared library
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
DEVICE_LINKS = {
    "shm": "../tmp",
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
CAPABILITIES = ("SETUID", "SETGID", "KILL", "DAC_OVERRIDE", "FOWNER", "CHOWN")  # of the nursery
FLAGS = ("-P", "-s", "-S", "-B")  # no site, no user packages, no folder of the script
START = "import sys; sys.path.insert(0, sys.argv[1]); from inside import nursery; nursery.main()"
OPTIONAL_PACKAGES = ("numpy",)  # the tests of HumanEval+ and MBPP+ import it


@dataclass(frozen=True)
class Backend:
    """A way to contain programs. ``command`` starts a nursery.

    Each slot has its own ``uid``, since processes are counted by user. Without ``own_environment``
    the command itself gets the environment of the caller.
    """

    name: str
    command: tuple[str, ...]
    uid: int = 0
    own_pids: bool = True
    own_environment: bool = True

    def start(self, slot: int) -> subprocess.Popen:
        """Start a nursery with pipes for its input and output."""
        uid = str(self.uid + slot if self.uid else 0)
        arguments = [*self.command, uid, "yes" if self.own_pids else "no"]
        return subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT if self.own_environment else None,
            start_new_session=True,
        )


def bubblewrap() -> Backend | str:
    """The bubblewrap backend, or the reason why there is none. Source: bwrap(1)."""
    if sys.platform != "linux":
        return "bubblewrap needs Linux"
    tool = shutil.which("bwrap")
    if tool is None:
        return "bwrap is not installed (Debian's package is bubblewrap)"
    asked = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False)
    version = tuple(int(n) for n in re.findall(r"\d+", asked.stdout)[:2])
    if version < OLDEST_BUBBLEWRAP:
        oldest = ".".join(map(str, OLDEST_BUBBLEWRAP))
        return f"{asked.stdout.strip() or tool} is older than {oldest}"
    root = os.geteuid() == 0
    start = [f"{INNER_PYTHON}/bin/{python().name}", *FLAGS, "-c", START, INNER]
    command = [tool, *_namespaces(root), *_files(), *start]
    return Backend("bubblewrap", tuple(command), uid=first_uid() if root else 0)


def first_uid() -> int:
    """The first of 64 user ids for this process. Nobody has them, and usual id maps hold them."""
    return 20_000 + (os.getpid() * 64) % 40_000


def python() -> Path:
    """The interpreter itself rather than the virtual environment's link to it."""
    return Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"


def _namespaces(root: bool) -> list[str]:
    """Arguments for namespaces. Root keeps the capabilities to change its user; other users get a
    user namespace."""
    kept = [f"CAP_{name}" for name in CAPABILITIES]
    as_root = ["--cap-drop", "ALL", *(word for cap in kept for word in ("--cap-add", cap))]
    as_user = ["--unshare-user", "--disable-userns", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    own = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    return [
        *(as_root if root else as_user),
        *own,
        *("--hostname", "sandbox", "--die-with-parent", "--new-session", "--clearenv"),
        "--as-pid-1",  # else bwrap is the first process, and programs of the same user may enter it
        *(word for pair in ENVIRONMENT.items() for word in ("--setenv", *pair)),
    ]


def _files() -> list[str]:
    """Arguments for files: the C library, Python and our own files, read-only, and a small
    ``/tmp``."""
    words: list[str] = []
    for folder in (
        "/usr",
        "/usr/share",
        INNER_PYTHON,
        f"{INNER_PYTHON}/bin",
        "/packages",
        "/dev",
        "/etc",
    ):
        words += ["--perms", "0755", "--dir", folder]
    for folder in ("/usr/lib", "/usr/lib64", "/lib", "/lib64"):
        if Path(folder).is_symlink():
            words += ["--symlink", os.readlink(folder), folder]
        elif Path(folder).is_dir():
            words += ["--ro-bind", folder, folder]
    # Bound by itself: it may lie below a folder that only its owner may enter.
    library = Path(sys.base_prefix) / "lib"
    words += ["--ro-bind", str(library), f"{INNER_PYTHON}/lib"]
    words += ["--ro-bind", str(python().resolve()), f"{INNER_PYTHON}/bin/{python().name}"]
    words += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for outer, inner in _packages():
        words += ["--ro-bind", str(outer), inner]
    for device in ("null", "random", "urandom"):
        words += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    for name, target in DEVICE_LINKS.items():
        words += ["--symlink", target, f"/dev/{name}"]
    words += ["--ro-bind-try", "/usr/share/zoneinfo", "/usr/share/zoneinfo"]
    words += ["--ro-bind", str(INSIDE), f"{INNER}/inside", "--proc", "/proc"]
    words += ["--size", str(64 * 2**20), "--perms", "1777", "--tmpfs", "/tmp"]
    return [*words, "--chdir", "/tmp", "--remount-ro", "/"]


def _packages() -> Iterator[tuple[Path, str]]:
    """The packages that programs may import beside the standard library."""
    for name in OPTIONAL_PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin:
            home = Path(spec.origin).parent
            for folder in (home, home.with_name(f"{name}.libs")):
                if folder.is_dir():
                    yield folder, f"/packages/{folder.name}"


def container(image: str, *, memory_bytes: int) -> Iterator[Backend | str]:
    """The docker or podman backend. ``image`` must hold a ``python3``. Source: docker-run(1)."""
    for tool in ("docker", "podman"):
        program = shutil.which(tool)
        if program is None:
            yield f"{tool} is not installed"
            continue
        limits = ["--network", "none", "--read-only", "--pids-limit", "256"]
        limits += ["--tmpfs", "/tmp:rw,size=64m,mode=1777", "--memory", str(memory_bytes + 2**28)]
        added = (word for name in CAPABILITIES for word in ("--cap-add", name))
        limits += ["--cap-drop", "ALL", *added]
        limits += ["--security-opt", "no-new-privileges", "--user", "0:0", "--pull", "never"]
        settings = [word for pair in ENVIRONMENT.items() for word in ("--env", "=".join(pair))]
        files = ["--volume", f"{INSIDE}:{INNER}/inside:ro", "--workdir", "/tmp"]
        for outer, inner in _packages():  # they load where the image has this version of Python
            files += ["--volume", f"{outer}:{inner}:ro"]
        command = [program, "run", "--rm", "--interactive", *limits, *settings, *files, image]
        command += ["python3", *FLAGS, "-c", START, INNER]
        yield Backend(tool, tuple(command), uid=first_uid(), own_environment=False)


def bare() -> Backend:
    """Limits without containment, for machines that are a sandbox themselves."""
    return Backend("none", (str(python()), *FLAGS, "-c", START, str(INSIDE.parent)), own_pids=False)
