"""The first process in the sandbox: it forks a limited child per job and reports how it ended.

Starting Python takes longer than most tests, so this process starts once, imports the modules that
solutions use, and forks for every job. The child gives up its privileges before it reads a line of
the program. When it has ended, everything that it started is killed and ``/tmp`` is emptied; where
that fails, this process ends and a new sandbox is made.

Messages in both directions: four bytes of length, big-endian, then JSON.

    python -c "from inside import nursery; nursery.main()" FOLDER UID OWN_PIDS

UID: run programs as this user (0: as who we are). OWN_PIDS: "yes" where every other process that
can be seen is a program's.
"""

import contextlib
import ctypes
import importlib
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

from . import programs, seccomp
from .watch import Watch, others

PR_SET_DUMPABLE = 4
PRELOADED = (  # the imports of most solutions
    "bisect", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq",
    "itertools", "math", "operator", "re", "statistics", "string", "typing",
)  # fmt: skip
SETUP_FAILED = 120  # exit code of a child that failed before its program
STACK_BYTES = 64 * 2**20
MOST_TO_REMOVE = 2000  # files in /tmp; with more, a new sandbox is made instead
MOST_SAID = 500  # characters of an error
PACKAGES = "/packages"


def main() -> None:
    """Serve jobs from the pipe until it is closed."""
    uid, own_pids = int(sys.argv[2]), sys.argv[3] == "yes"
    sys.path.remove(sys.argv[1])  # the folder of our own files
    # If memory runs out, the kernel kills this process and its children first.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # programs cannot look into this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in PRELOADED:
        importlib.import_module(name)
    requests, replies = take_over_streams()
    filters = seccomp.program() if seccomp.supported() else b""
    nursery = Nursery(uid, own_pids, filters)
    while (job := read_message(requests)) is not None:
        code = job["program"] + job.get("tests", "") + job.get("setup", "")
        if "numpy" in code and os.path.isdir(PACKAGES):
            preload_numpy()
        reply = nursery.run(job)
        reply["clean"] = nursery.clean_up() and reply["ended"] != "setup"
        write_message(replies, reply)
        if not reply["clean"]:
            return
        del job, reply  # the next program must not find them


def take_over_streams() -> tuple[int, int]:
    """Move our two pipes away from the standard streams, which are empty for programs."""
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    return requests, replies


def preload_numpy() -> None:
    """Import numpy once, so that no forked program has to."""
    if PACKAGES not in sys.path:
        sys.path.append(PACKAGES)
        with contextlib.suppress(ImportError):  # the program will meet the error itself
            import numpy  # noqa: F401


class Nursery:
    """Forks a process for every program, watches it, and cleans up after it."""

    def __init__(self, uid: int, own_pids: bool, filters: bytes) -> None:
        self.uid, self.own_pids, self.filters = uid, own_pids, filters

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Fork, run and watch; how the program ended, its report and its output."""
        limits, token = job["limits"], os.urandom(16).hex()
        result_read, result_write = os.pipe()
        output_read, output_write = os.pipe()
        given = input_file(job.get("stdin", ""))
        if self.uid:
            os.fchown(output_write, self.uid, -1)  # so that /dev/stdout can be opened
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            output = output_write if job["kind"] == "script" else None
            self.be_program(job, token, (given, output, result_write))
        for descriptor in (result_write, output_write, given):
            os.close(descriptor)
        caps = {result_read: limits["result_bytes"], output_read: limits["output_bytes"]}
        watch = Watch(child, limits, self.own_pids, caps)
        ended = watch.wait()
        self.kill_all(child)
        _, status, usage = os.wait4(child, 0)
        os.close(result_read)
        os.close(output_read)
        result, error = report_of(bytes(watch.received[result_read]), token)
        return {
            "ended": ended or how(status, limits, usage),
            "result": result,
            "error": error,
            "output": bytes(watch.received[output_read]).decode("utf-8", "replace"),
            "seconds": time.monotonic() - began,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
        }

    def be_program(self, job: dict[str, Any], token: str, streams: tuple) -> None:
        """In the child: give up privileges, run, report and end."""
        code = SETUP_FAILED
        try:
            given, output, report = streams
            os.setsid()
            os.dup2(given, 0)
            if output is not None:
                os.dup2(output, 1)
            os.dup2(report, 3)
            os.closerange(4, 4096)
            self.give_up_privileges(job["limits"])
            text = {"encoding": "utf-8", "errors": "replace", "closefd": False}
            sys.stdin, sys.stdout = os.fdopen(0, **text), os.fdopen(1, "w", **text)
            sys.__stdin__, sys.__stdout__ = sys.stdin, sys.stdout
            sys.argv[:] = sys.orig_argv[:] = ["program.py"]
            random.seed()  # a fork would continue the parent's sequence
            code = 1
            message = programs.run(job, token)
            write_all(3, message)
            code = 0 if message.endswith(b', ""]') else 1
        finally:
            os._exit(code)

    def give_up_privileges(self, limits: dict[str, Any]) -> None:
        if self.uid:
            os.setgroups([])
            os.setresgid(self.uid, self.uid, self.uid)
            os.setresuid(self.uid, self.uid, self.uid)
        os.chdir("/tmp")
        os.umask(0o077)
        # SIGXCPU at the soft limit says what happened. At a hard limit the kernel sends SIGKILL,
        # which is told from other kills by the time used, and that may be a tenth off its count.
        cpu = limits["cpu_seconds"]
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
        for name, value in {
            "RLIMIT_AS": limits["memory_bytes"],
            "RLIMIT_STACK": STACK_BYTES,
            "RLIMIT_NPROC": limits["processes"],
            "RLIMIT_FSIZE": limits["file_bytes"],
            "RLIMIT_NOFILE": limits["open_files"],
            "RLIMIT_SIGPENDING": 256,
            "RLIMIT_CORE": 0,
            "RLIMIT_MSGQUEUE": 0,
            "RLIMIT_MEMLOCK": 0,
        }.items():
            resource.setrlimit(getattr(resource, name), (value, value))
        for number in (signal.SIGXFSZ, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.filters:
            seccomp.install(self.filters)

    def kill_all(self, child: int) -> None:
        """Kill the program and everything it started, and leave it no moment to fork."""
        try:
            if self.own_pids:
                os.kill(-1, signal.SIGKILL)
            else:
                os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def clean_up(self) -> bool:
        """Remove the program's processes and files. False where some remain."""
        if not self.own_pids:
            return True
        deadline = time.monotonic() + 1
        while others():
            reap()
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        reap()
        try:
            os.chmod("/tmp", 0o1777)
            files = os.statvfs("/tmp")
            if files.f_files - files.f_ffree > MOST_TO_REMOVE:
                return False
            empty_folder(Path("/tmp"))
        except (OSError, RecursionError):
            return False
        return not os.listdir("/tmp")


def reap() -> None:
    """Wait for orphans, which become children of a sandbox's first process."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def empty_folder(folder: Path) -> None:
    """Remove everything in a folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def how(status: int, limits: dict[str, Any], usage: resource.struct_rusage) -> str:
    """One word for how a child ended that we did not stop."""
    if not os.WIFSIGNALED(status):
        codes = {0: "done", SETUP_FAILED: "setup"}
        return codes.get(os.WEXITSTATUS(status), "exit")
    number = os.WTERMSIG(status)
    spent = usage.ru_utime + usage.ru_stime >= 0.9 * limits["cpu_seconds"]
    if number == signal.SIGXCPU or (number == signal.SIGKILL and spent):
        return "cpu"
    return "file" if number == signal.SIGXFSZ else f"signal {number}"


def report_of(data: bytes, token: str) -> tuple[Any, str]:
    """The child's own report, believed only with the token that it was given."""
    if not data.startswith(token.encode()):
        return None, ""
    try:
        result, error = json.loads(data[len(token) :])
    except (ValueError, TypeError, RecursionError):
        return None, "its report cannot be read"
    return result, error[:MOST_SAID] if isinstance(error, str) else "its report cannot be read"


def input_file(text: str) -> int:
    """A descriptor to read ``text`` from, of a file without a name."""
    descriptor = os.memfd_create("stdin") if text else os.open(os.devnull, os.O_RDONLY)
    if text:
        write_all(descriptor, text.encode("utf-8", "replace"))
        os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def read_message(descriptor: int) -> dict[str, Any] | None:
    """The next JSON message; None where the pipe was closed."""
    head = read_exactly(descriptor, 4)
    if head is None:
        return None
    body = read_exactly(descriptor, struct.unpack(">I", head)[0])
    return None if body is None else json.loads(body)


def read_exactly(descriptor: int, count: int) -> bytes | None:
    """``count`` bytes; None where the pipe was closed before."""
    data = bytearray()
    while len(data) < count:
        more = os.read(descriptor, count - len(data))
        if not more:
            return None
        data += more
    return bytes(data)


def write_message(descriptor: int, value: dict[str, Any]) -> None:
    """Write a JSON message, its length in front."""
    data = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    write_all(descriptor, struct.pack(">I", len(data)) + data)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes. One call of the system may take only some of them."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
