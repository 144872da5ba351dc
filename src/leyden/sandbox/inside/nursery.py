"""The first process in the sandbox: forks one limited child per job and says how it ended.

Starting Python costs more than most tests do, so this process starts once, with the modules that
solutions use already imported, and every job gets a fork of it. The child gives up its privileges
before it reads a line of the program. When it has ended, everything it started is killed and
``/tmp`` is emptied; where that fails this process ends, and a new sandbox is made.

Messages in both directions: four bytes of length, big-endian, then JSON.

    python -c "from inside import nursery; nursery.main()" FOLDER UID OWN_PIDS

UID: run programs as this user (0: as who we are). OWN_PIDS: "yes" where every other process that
can be seen is a program's.
"""

# What solutions import most, imported once.
import bisect  # noqa: F401
import ctypes
import json
import math  # noqa: F401
import os
import resource
import select
import shutil
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

from . import programs, seccomp

PR_SET_DUMPABLE = 4
POLL_SECONDS = 0.05
PACKAGES = "/packages"


def main() -> None:
    uid, own_pids = int(sys.argv[2]), sys.argv[3] == "yes"
    sys.path.remove(sys.argv[1])  # where we came from
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # programs cannot look into this process
    requests, replies = take_over_streams()
    filters = seccomp.program() if seccomp.supported() else b""
    nursery = Nursery(uid, own_pids, filters)
    while (job := read_message(requests)) is not None:
        if "numpy" in job["program"] + job.get("tests", "") and os.path.isdir(PACKAGES):
            preload_numpy()
        reply = nursery.run(job)
        reply["clean"] = nursery.clean_up()
        write_message(replies, reply)
        if not reply["clean"]:
            return


def take_over_streams() -> tuple[int, int]:
    """Move our two pipes out of the way of programs, whose own streams are empty."""
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    return requests, replies


def preload_numpy() -> None:
    if PACKAGES not in sys.path:
        sys.path.append(PACKAGES)
        import numpy  # noqa: F401


class Nursery:
    def __init__(self, uid: int, own_pids: bool, filters: bytes) -> None:
        self.uid, self.own_pids, self.filters = uid, own_pids, filters

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Fork, run, watch; how it ended, what it answered and what it printed."""
        limits, token = job["limits"], os.urandom(16).hex()
        result_read, result_write = os.pipe()
        output_read, output_write = os.pipe()
        given = input_file(job.get("stdin", ""))
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            output = output_write if job["kind"] == "script" else None
            self.be_program(job, token, (given, output, result_write))
        for descriptor in (result_write, output_write, given):
            os.close(descriptor)
        watch = Watch(child, limits, began, self.own_pids, result_read, output_read)
        ended = watch.wait()
        self.kill_all(child)
        _, status, usage = os.wait4(child, 0)
        os.close(result_read)
        os.close(output_read)
        ended = ended or how(status, limits, usage)
        result, error = answer(bytes(watch.received[result_read]), token)
        return {
            "ended": ended,
            "result": result,
            "error": error,
            "output": bytes(watch.received[output_read]).decode("utf-8", "replace"),
            "seconds": time.monotonic() - began,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
        }

    def be_program(self, job: dict[str, Any], token: str, streams: tuple) -> None:
        """In the child: become nobody in particular, run, report, end."""
        code = 1
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
            result, error = programs.run(job)
            write_all(3, (token + json.dumps([result, error])).encode())
            code = 1 if error else 0
        finally:
            os._exit(code)

    def give_up_privileges(self, limits: dict[str, Any]) -> None:
        if self.uid:
            os.setgroups([])
            os.setresgid(self.uid, self.uid, self.uid)
            os.setresuid(self.uid, self.uid, self.uid)
        os.chdir("/tmp")
        os.umask(0o077)
        for name, value in {
            "RLIMIT_CPU": limits["cpu_seconds"],
            "RLIMIT_AS": limits["memory_bytes"],
            "RLIMIT_NPROC": limits["processes"],
            "RLIMIT_FSIZE": limits["file_bytes"],
            "RLIMIT_NOFILE": limits["open_files"],
            "RLIMIT_CORE": 0,
            "RLIMIT_MSGQUEUE": 0,
            "RLIMIT_MEMLOCK": 0,
        }.items():
            hard = value + 1 if name == "RLIMIT_CPU" else value
            resource.setrlimit(getattr(resource, name), (value, hard))
        for number in (signal.SIGXFSZ, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        if self.filters:
            seccomp.install(self.filters)

    def kill_all(self, child: int) -> None:
        """Kill the program and whatever it started, without a moment in which it could fork."""
        try:
            if self.own_pids:
                os.kill(-1, signal.SIGKILL)
            else:
                os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def clean_up(self) -> bool:
        """Nothing of the program is left: no process, no file."""
        if not self.own_pids:
            return True
        deadline = time.monotonic() + 1
        while others():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        if os.listdir("/tmp"):
            for path in Path("/tmp").iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        return not os.listdir("/tmp")


class Watch:
    """Collects what a child writes and notices when it has had enough time, memory or output."""

    def __init__(
        self,
        child: int,
        limits: dict[str, Any],
        began: float,
        own_pids: bool,
        *pipes: int,
    ) -> None:
        self.limits, self.own_pids, self.child = limits, own_pids, child
        self.deadline = began + limits["wall_seconds"]
        self.received = {pipe: bytearray() for pipe in pipes}
        self.ended: set[int] = set()  # pipes whose other end is closed
        self.exit = os.pidfd_open(child)

    def wait(self) -> str:
        """Until the child has ended ("") or must be; then why."""
        looked = time.monotonic()
        ready: list[int] = []
        try:
            while self.exit not in ready:
                ready, _, _ = select.select([self.exit, *self.open_pipes()], [], [], POLL_SECONDS)
                if not self.collect(ready):
                    return "output"
                now = time.monotonic()
                if now > self.deadline:
                    return "wall"
                if now - looked > POLL_SECONDS:
                    looked = now
                    if self.memory() > self.limits["memory_bytes"]:
                        return "memory"
            return "" if self.collect(self.open_pipes()) else "output"
        finally:
            os.close(self.exit)

    def open_pipes(self) -> list[int]:
        return [pipe for pipe in self.received if pipe not in self.ended]

    def collect(self, ready: list[int]) -> bool:
        """Read what is there; False when it is too much."""
        for pipe in ready:
            if pipe in self.received:
                os.set_blocking(pipe, False)
                self.drain(pipe)
                if len(self.received[pipe]) > self.limits["output_bytes"]:
                    return False
        return True

    def drain(self, pipe: int) -> None:
        most = self.limits["output_bytes"]
        while len(self.received[pipe]) <= most:
            try:
                data = os.read(pipe, 1 << 20)
            except BlockingIOError:
                return
            if not data:
                self.ended.add(pipe)
                return
            self.received[pipe] += data

    def memory(self) -> int:
        """Bytes resident in all processes of the program that are not files."""
        page, total = resource.getpagesize(), 0
        for pid in others() if self.own_pids else [self.child]:
            try:
                _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
            except OSError:  # it has ended meanwhile
                continue
            total += (int(resident) - int(shared)) * page
        return total


def others() -> list[int]:
    """Every process here but this one and the first, which only waits for orphans."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return [pid for pid in pids if pid not in (1, os.getpid())]


def how(status: int, limits: dict[str, Any], usage: resource.struct_rusage) -> str:
    """In a word, how a child ended that was not stopped by us."""
    if not os.WIFSIGNALED(status):
        return "exit" if os.WEXITSTATUS(status) else "done"
    number = os.WTERMSIG(status)
    spent = usage.ru_utime + usage.ru_stime >= limits["cpu_seconds"]
    if number == signal.SIGXCPU or (number == signal.SIGKILL and spent):
        return "cpu"
    return "file" if number == signal.SIGXFSZ else f"signal {number}"


def answer(data: bytes, token: str) -> tuple[Any, str]:
    """The child's own report: only with the token that it was given."""
    if not data.startswith(token.encode()):
        return None, ""
    try:
        result, error = json.loads(data[len(token) :])
    except (ValueError, RecursionError):
        return None, "its report was cut"
    return result, error


def input_file(text: str) -> int:
    """A descriptor to read ``text`` from; the file has no name."""
    descriptor = os.memfd_create("stdin") if text else os.open(os.devnull, os.O_RDONLY)
    if text:
        write_all(descriptor, text.encode("utf-8", "replace"))
        os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def read_message(descriptor: int) -> dict[str, Any] | None:
    head = read_exactly(descriptor, 4)
    if head is None:
        return None
    body = read_exactly(descriptor, struct.unpack(">I", head)[0])
    return None if body is None else json.loads(body)


def read_exactly(descriptor: int, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        more = os.read(descriptor, count - len(data))
        if not more:
            return None
        data += more
    return bytes(data)


def write_message(descriptor: int, value: dict[str, Any]) -> None:
    data = json.dumps(value).encode()
    write_all(descriptor, struct.pack(">I", len(data)) + data)


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
