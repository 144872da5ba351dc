# ruff: noqa: E501  # programs, one line each
"""Two hundred programs that try to break out of the sandbox, or to break the grader.

Each defines ``add``, which its tests call, and a list ``escaped`` of its successful attempts. The
tests demand an empty list. A program that is killed has succeeded in nothing.
"""

import textwrap

HEAD = "escaped = []\ndef add(a, b):\n    return a + b\n"

ATTEMPTS = {
    "fork bomb": (
        "import os\nfor _ in range({n}):\n    try:\n        os.fork()\n    except OSError:\n        pass",
        [5, 10, 20, 50, 100, 1000, 10**5, 10**6],
    ),
    "endless fork bomb": ("import os\nwhile True:\n    try:\n        {n}\n    except OSError:\n        pass", [
        "os.fork()", "os.fork() or os.setsid()", "os.posix_spawn('/python/bin/python3.11', ['x'], {{}})",
        "os.forkpty()",
    ]),
    "threads": (
        "import threading, time\nfor _ in range({n}):\n    threading.Thread(target=time.sleep, "
        "args=(60,)).start()",
        [40, 400, 4000, 10**6],
    ),
    "memory": ("held = {n}", [
        "bytearray(2**33)", "[0] * 10**10", "'x' * 10**11", "list(range(10**10))",
        "b'x' * 2**34", "2 ** (10**11)", "[bytearray(2**24) for _ in range(10**4)]",
        "{{i: str(i) * 1000 for i in range(10**9)}}",
    ]),
    "memory over forks": (
        "import os, time\nfor _ in range({n}):\n    if os.fork() == 0:\n        held = bytearray(b'x') "
        "* (200 * 2**20)\n        time.sleep(60)\ntime.sleep(60)",
        [2, 4, 8, 16],
    ),
    "endless loop": ("{n}", [
        "while True: pass", "import itertools\nfor _ in itertools.count(): pass",
        "def f():\n    while True: yield\nlist(f()) if False else [None for _ in f()]",
        "import re\nre.match('(a+)+$', 'a' * 40 + 'b')", "sum(1 for _ in iter(int, 1))",
        "x = 3\nwhile x: x = x * x % (10**50 + 7) + 1", "import time\nwhile True: time.time()",
        "9 ** 9 ** 9",
    ]),
    "sleep": ("import time, select, threading\n{n}", [
        "time.sleep(10**6)", "select.select([], [], [], 10**6)", "threading.Event().wait()",
        "threading.Lock().acquire() and threading.Lock().acquire()\ntime.sleep(10**6)",
        "import os\nos.read(os.pipe()[0], 1)", "import signal\nsignal.pause()",
    ]),
    "ignored signals": (
        "import signal, time\nfor number in range(1, 65):\n    try:\n        signal.signal(number, "
        "signal.SIG_IGN)\n    except (OSError, ValueError):\n        pass\n{n}",
        ["while True: pass", "time.sleep(10**6)", "import os\nos.fork()\nwhile True: pass"],
    ),
    "kill": ("import os, signal\nfor number in ({n}):\n    try:\n        os.kill(number, signal.SIGKILL)\n"
             "    except OSError:\n        pass", [
        "-1,", "1, 2, 3", "os.getppid(),", "range(1, 400)", "0,", "-os.getppid(),", "2,", "range(400, 1, -1)",
    ]),
    "stop": ("import os, signal\nfor number in ({n}):\n    try:\n        os.kill(number, signal.SIGSTOP)\n"
             "    except OSError:\n        pass", ["-1,", "os.getppid(),", "os.getpid(),", "range(1, 100)"]),
    "exit": ("{n}", [
        "import os\nos._exit(0)", "import sys\nsys.exit(0)", "raise SystemExit(0)", "quit = exit = None\n1/0",
        "import os, signal\nos.kill(os.getpid(), 9)", "import os\nos.abort()", "raise KeyboardInterrupt",
        "import ctypes\nctypes.string_at(0)",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        "import os\nos.execv('/python/bin/python3.11', ['python', '-c', 'pass'])",
    ]),
    "output": ("import os, sys\n{n}", [
        "while True: print('x' * 10**6)", "while True: sys.stderr.write('y' * 10**6)",
        "while True: os.write(1, b'z' * 10**6)", "while True: os.write(3, b'z' * 10**6)",
        "for fd in range(64):\n    try:\n        os.write(fd, b'{{\"ended\": \"done\"}}' * 10**5)\n    except OSError:\n        pass",
        "print('x' * 10**9)", "sys.stdout.buffer.write(bytes(10**9))",
        "import threading\nfor _ in range(4): threading.Thread(target=lambda: [print('x' * 10**5) for _ in iter(int, 1)]).start()",
    ]),
    "forged verdict": ("import os\ndef add(a, b):\n    return None\nfor fd in range(3, 64):\n    try:\n"
                       "        os.write(fd, {n})\n    except OSError:\n        pass\nos._exit(0)", [
        "b'[true, \"\"]'", "b'0' * 32 + b'[true, \"\"]'", "b'\\x00\\x00\\x00\\x10' + b'{{\"ended\":\"done\"}}'",
        "b'\\x00\\x00\\x00\\x02{{}}'",
    ]),
    "files": ("import os\nfor i in range({n}):\n    with open('/tmp/' + str(i), 'wb') as file:\n"
              "        file.write(bytes(2**20))", [10, 100, 1000, 10**5]),
    "one large file": ("import os\nwith open('/tmp/large', 'wb') as file:\n    {n}", [
        "while True: file.write(bytes(2**22))", "os.truncate(file.fileno(), 2**40)",
        "os.posix_fallocate(file.fileno(), 0, 2**38)", "file.seek(2**40); file.write(b'x')",
    ]),
    "deep folders": ("import os\nfor _ in range({n}):\n    os.mkdir('d')\n    os.chdir('d')\nos.chmod('.', 0)",
                     [10, 1000, 20000]),
    "locked files": ("import os\nos.mkdir('/tmp/locked')\nopen('/tmp/locked/x', 'w').close()\n"
                     "os.chmod('/tmp/locked', {n})", ["0", "0o100", "0o444"]),
    "write outside": ("import os\nfor folder in ({n}):\n    try:\n        open(os.path.join(folder, 'w'), 'w')"
                      ".close()\n        escaped.append('wrote ' + folder)\n    except OSError:\n        pass", [
        "'/', '/usr', '/usr/lib'", "'/python/lib', '/python/bin'", "'/leyden', '/leyden/inside'",
        "'/dev', '/proc', '/sys'", "'/etc', '/root', '/home', '/var', '/var/tmp'", "{tmp!r},", "{home!r},",
        "'/packages', '/packages/numpy'",
    ]),
    "remove": ("import os, shutil\nfor path in ({n}):\n    try:\n        (shutil.rmtree if os.path.isdir(path) "
               "else os.remove)(path)\n        escaped.append('removed ' + path)\n    except OSError:\n"
               "        pass", ["'/leyden',", "'/python/lib/python3.11/json',", "{secret!r},", "{tmp!r},"]),
    "read the host": ("import os\nfor path in ({n}):\n    try:\n        data = os.listdir(path) if "
                      "os.path.isdir(path) else open(path, 'rb').read()\n        if data: "
                      "escaped.append('read ' + path)\n    except OSError:\n        pass", [
        "'/etc/passwd', '/etc/shadow', '/etc/hostname'", "{secret!r},", "{home!r},", "'/root', '/home', '/work'",
        "'/var/log', '/var/lib', '/run'", "'/proc/1/environ', '/proc/2/environ', '/proc/2/mem'",
        "'/sys', '/boot', '/mnt'", "'/proc/1/root/etc', '/proc/2/root/etc', '/proc/1/cwd/..'",
    ]),
    "environment": ("import os, glob\n{n}\nif {token!r} in text: escaped.append('environment')", [
        "text = str(os.environ)",
        "text = ''\nfor p in glob.glob('/proc/*/environ'):\n    try:\n        text += open(p).read()\n    except OSError:\n        pass",
        "text = ''\nfor p in glob.glob('/proc/*/cmdline'):\n    try:\n        text += open(p).read()\n    except OSError:\n        pass",
        "import subprocess\ntry:\n    text = subprocess.run(['env'], capture_output=True, text=True).stdout\nexcept OSError:\n    text = ''",
    ]),
    "network": ("import socket\nfor place in ({n}):\n    try:\n        socket.create_connection(place, timeout=0.3)\n"
                "        escaped.append(str(place))\n    except OSError:\n        pass", [
        "('127.0.0.1', {port}),", "('1.1.1.1', 53),", "('8.8.8.8', 443),", "('localhost', {port}),",
        "('::1', {port}), ('0.0.0.0', {port})", "('169.254.169.254', 80),", "('10.0.0.1', 22), ('192.168.0.1', 80)",
        "('pypi.org', 443),",
    ]),
    "sockets": ("import socket\ntry:\n    s = socket.socket({n})\n    escaped.append('socket')\nexcept (OSError, "
                "AttributeError):\n    pass", [
        "socket.AF_PACKET, socket.SOCK_RAW", "socket.AF_INET, socket.SOCK_RAW, 1", "40, socket.SOCK_STREAM",
        "socket.AF_NETLINK, socket.SOCK_RAW", "38, socket.SOCK_SEQPACKET",
    ]),
    "datagrams": ("import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ntry:\n"
                  "    s.sendto(b'x', {n})\n    escaped.append('sent')\nexcept OSError:\n    pass",
                  ["('192.0.2.1', 53)", "('8.8.8.8', 53)", "('255.255.255.255', 9)"]),
    "system calls": ("import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nif libc.syscall({n}) != -1: "
                     "escaped.append('system call')", [
        "272, 0x10000000", "272, 0x00020000", "165, b'/tmp', b'/usr', 0, 4096, 0", "161, b'/tmp'",
        "319, b'x', 0", "29, 0, 2**30, 0o1600", "101, 16, 2, 0, 0", "425, 8, 0", "321, 0, 0, 0",
        "298, 0, 0, -1, -1, 0", "323, 0", "310, 2, 0, 0, 0, 0, 0", "248, 0, 0, 0, 0, 0", "175, 0, 0, 0",
        "105, 0", "308, 0, 0", "56, 0x10000011, 0, 0, 0, 0",
    ]),
    "become root": ("import os\ntry:\n    {n}\n    escaped.append('root')\nexcept OSError:\n    pass", [
        "os.setuid(0)", "os.setresuid(0, 0, 0)", "os.setgid(0)", "os.setgroups([0])", "os.chroot('/tmp')",
        "os.nice(-10)", "os.sethostname('x')", "os.chown('/tmp', 0, 0)", "os.mknod('/tmp/d', 0o60600, 0x800)",
    ]),
    "raise limits": ("import resource\nfor name in ({n}):\n    try:\n        resource.setrlimit(name, (2**40, 2**40))"
                     "\n        escaped.append('limit')\n    except (OSError, ValueError):\n        pass", [
        "resource.RLIMIT_AS,", "resource.RLIMIT_NPROC,", "resource.RLIMIT_CPU,", "resource.RLIMIT_FSIZE,",
        "resource.RLIMIT_NOFILE,",
    ]),
    "leave children": ("import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        "
                       "{n}", ["time.sleep(10**6)", "while True: pass",
                               "while True:\n            try:\n                os.fork()\n            except OSError:\n                pass"]),
    "descriptors": ("import os\nheld = []\ntry:\n    while True: held.append({n})\nexcept OSError:\n    pass",
                    ["os.open('/dev/null', 0)", "os.pipe()", "__import__('socket').socketpair()"]),
    "commands": ("import os, subprocess\ntry:\n    {n}\n    escaped.append('command')\nexcept OSError:\n    pass", [
        "subprocess.run(['/bin/sh', '-c', 'id'], check=True)", "subprocess.run('id', shell=True, check=True)",
        "os.execv('/bin/sh', ['sh'])", "os.posix_spawn('/usr/bin/id', ['id'], {{}})",
        "subprocess.Popen(['/usr/bin/python3'])",
    ]),
    "links": ("import os\ntry:\n    os.{n}\n    if open('/tmp/link').read(): escaped.append('link')\nexcept OSError:\n    pass", [
        "symlink('/etc/passwd', '/tmp/link')", "symlink({secret!r}, '/tmp/link')",
        "link('/python/bin/python3.11', '/tmp/link')", "symlink('/proc/1/root/etc/passwd', '/tmp/link')",
        "symlink('/proc/2/environ', '/tmp/link')",
    ]),
    "shared memory": ("from multiprocessing import shared_memory\ntry:\n    held = [shared_memory.SharedMemory(create=True, "
                      "size={n}) for _ in range(1000)]\n    escaped.append('shared memory')\nexcept OSError:\n    pass",
                      ["2**20", "2**26", "2**30"]),
    "small things that grow": ("{n}", [
        "import zlib\nd = zlib.compressobj()\nblob = b''.join(d.compress(bytes(2**24)) for _ in range(64)) + d.flush()\n"
        "held = [zlib.decompress(blob) for _ in range(100)]",
        "x = [1]\nwhile True: x += x", "x = 'ab'\nwhile True: x = x.replace('a', 'aa')",
        "import json\njson.loads('[' * 10**6)", "int('9' * 10**7) if hasattr(int, 'x') else '9' * 10**11",
        "eval('+'.join(['1'] * 10**6))", "import itertools\nlist(itertools.permutations(range(15)))",
    ]),
    "priorities": ("import os\n{n}", [
        "os.sched_setaffinity(0, {{0}})", "os.nice(19)\nwhile True: pass",
        "try:\n    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))\n    escaped.append('real time')\nexcept OSError:\n    pass",
    ]),
    "odd programs": ("{n}", [
        "(" * 300 + ")" * 300, "x = " + "-" * 5000 + "1", "\x00", "x = '\ud800'".encode("unicode_escape").decode(),
        "def add(a, b):\n    return add", "add = type('A', (), {{'__call__': lambda s, *a: 1/0}})()",
        "import gc, sys\nsys.settrace(lambda *a: 1/0)", "import builtins\nbuiltins.print = builtins.len = None",
        "import sys\nsys.modules.clear()", "del __builtins__",
    ]),
}  # fmt: skip


def programs(**places: object) -> list[tuple[str, str]]:
    """(name, program) for each. ``places`` are the secret, tmp, home, port and token to reach."""
    result = []
    for name, (body, variants) in ATTEMPTS.items():
        for variant in variants:
            shape = body if "{n}" in body else "{n}"
            text = shape.replace("{n}", str(variant))
            for place, value in places.items():
                text = text.replace("{" + place + "!r}", repr(value))
                text = text.replace("{" + place + "}", str(value))
            text = text.replace("{{", "{").replace("}}", "}")
            result.append((f"{name}: {str(variant)[:40]}", HEAD + textwrap.dedent(text) + "\n"))
    return result
