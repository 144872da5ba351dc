"""The ways to contain a program on this machine: each is the command that starts a nursery."""

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
    """``command`` starts a nursery; slots have their own ``uid``, since processes are counted by
    user. Without ``own_environment`` the command itself is given the environment of the caller."""

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
    """The backend, or why it cannot be had. Source: bwrap(1)."""
    found = shutil.which("bwrap")
    if found is None:
        return "bwrap is not installed (Debian's package is bubblewrap)"
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    version = tuple(int(n) for n in re.findall(r"\d+", said)[:2])
    if version < OLDEST_BUBBLEWRAP:
        return f"{said.strip() or found} is older than {'.'.join(map(str, OLDEST_BUBBLEWRAP))}"
    root = os.geteuid() == 0
    start = [f"{INNER_PYTHON}/bin/{python().name}", *FLAGS, "-c", START, INNER]
    command = [found, *_namespaces(root), *_files(), *start]
    return Backend("bubblewrap", tuple(command), uid=first_uid() if root else 0)


def first_uid() -> int:
    """Users that exist nowhere, a block of 64 per process of ours; within a usual id map."""
    return 20_000 + (os.getpid() * 64) % 40_000


def python() -> Path:
    """The interpreter itself, not the virtual environment's link to it."""
    return Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"


def _namespaces(root: bool) -> list[str]:
    """Root keeps what it takes to become somebody else; others get a user namespace."""
    kept = [f"CAP_{name}" for name in CAPABILITIES]
    as_root = ["--cap-drop", "ALL", *(word for cap in kept for word in ("--cap-add", cap))]
    as_user = ["--unshare-user", "--disable-userns", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    own = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    return [
        *(as_root if root else as_user),
        *own,
        *("--hostname", "sandbox", "--die-with-parent", "--new-session", "--clearenv"),
        "--as-pid-1",  # else the first process is bwrap's, which programs of our own user may enter
        *(word for pair in ENVIRONMENT.items() for word in ("--setenv", *pair)),
    ]


def _files() -> list[str]:
    """The C library, Python, our own files, all read-only, and a small ``/tmp``."""
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
    library = Path(sys.base_prefix) / "lib"  # perhaps below a folder that only its owner may enter
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
    """What programs may import beside the standard library."""
    for name in OPTIONAL_PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin:
            home = Path(spec.origin).parent
            for folder in (home, home.with_name(f"{name}.libs")):
                if folder.is_dir():
                    yield folder, f"/packages/{folder.name}"


def container(image: str, *, memory_bytes: int) -> Iterator[Backend | str]:
    """Docker or podman; ``image`` has a ``python3``. Source: docker-run(1)."""
    for tool in ("docker", "podman"):
        found = shutil.which(tool)
        if found is None:
            yield f"{tool} is not installed"
            continue
        limits = ["--network", "none", "--read-only", "--pids-limit", "256"]
        limits += ["--tmpfs", "/tmp:rw,size=64m,mode=1777", "--memory", str(memory_bytes + 2**28)]
        added = (word for name in CAPABILITIES for word in ("--cap-add", name))
        limits += ["--cap-drop", "ALL", *added]
        limits += ["--security-opt", "no-new-privileges", "--user", "0:0", "--pull", "never"]
        settings = [word for pair in ENVIRONMENT.items() for word in ("--env", "=".join(pair))]
        files = ["--volume", f"{INSIDE}:{INNER}/inside:ro", "--workdir", "/tmp"]
        for outer, inner in _packages():  # which load where the image has this version of Python
            files += ["--volume", f"{outer}:{inner}:ro"]
        command = [found, "run", "--rm", "--interactive", *limits, *settings, *files, image]
        command += ["python3", *FLAGS, "-c", START, INNER]
        yield Backend(tool, tuple(command), uid=first_uid(), own_environment=False)


def bare() -> Backend:
    """No containment at all, only limits: for machines that are a sandbox themselves."""
    return Backend("none", (str(python()), *FLAGS, "-c", START, str(INSIDE.parent)), own_pids=False)
