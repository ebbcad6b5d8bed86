"""Helpers of the tests: a BPF interpreter, payloads in C, listeners, ordinary users."""
import atexit
import contextlib
import functools
import gc
import hashlib
import os
import py_compile
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import pytest

import sandlock
from sandlock import Sandbox, SYSTEM_PATHS

ROOT = os.geteuid() == 0
# Fewer rounds: 1 for the second and third Python of .ci/run, a divisor for slow machines (emulators).
THIN = int(os.environ.get("SANDLOCK_TEST_THIN") or 0)


def rounds(count):
    return max(1, count // max(4, THIN)) if THIN else count


def once(*values):
    """Parameters of which a thin run takes the first alone."""
    return list(values[:1] if THIN else values)


TESTS = os.path.dirname(os.path.abspath(__file__))


def as_command():
    """Path of sandlock.py in compiled form, for tests that run it often: as a script it would be compiled each time."""
    folder = tempfile.mkdtemp(prefix="sandlock-command-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.chmod(folder, 0o755)
    return py_compile.compile(sandlock.__file__, os.path.join(folder, "sandlock.pyc"), doraise=True)


def requires_abi(abi):
    found = sandlock.landlock_abi_version()
    return pytest.mark.skipif(found < abi, reason="needs Landlock ABI %d, found %d" % (abi, found))


def requires_program(*names):
    missing = [name for name in names if not shutil.which(name)]
    return pytest.mark.skipif(bool(missing), reason="not installed: " + " ".join(missing))


requires_root = pytest.mark.skipif(not ROOT, reason="needs root")


def box(tmp=None, **fields):
    """A sandbox with --system-like reads and one writable directory."""
    fields.setdefault("fs_readable", list(SYSTEM_PATHS) + [TESTS])
    return Sandbox(fs_writable=[] if tmp is None else [str(tmp)], **fields)


def python(code, *args):
    """A command that runs Python code, with the running interpreter."""
    return [sys.executable, "-I", "-S", "-c", code] + list(args)


def interpret(program, nr, arch, args=(), ip=0):
    """Executes a BPF filter on one seccomp_data and returns its verdict."""
    data = struct.pack("=iIQ6Q", nr if nr < 1 << 31 else nr - (1 << 32), arch, ip,
                       *(tuple(args) + (0,) * 6)[:6])
    code = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        op, jt, jf, k = code[at]
        at += 1
        if op == 0x20:
            accumulator, = struct.unpack_from("=I", data, k)
        elif op == 0x54:
            accumulator &= k
        elif op == 0x05:
            at += k
        elif op == 0x06:
            return k
        else:
            test = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: accumulator & k}[op]
            at += jt if test else jf


@functools.lru_cache(maxsize=None)
def compiled(source, *flags):
    """Path of a compiled C payload, world-readable; skips the test where there is no compiler.
    SANDLOCK_TEST_PAYLOADS names a folder that keeps static ones, for machines without a compiler."""
    kept = os.environ.get("SANDLOCK_TEST_PAYLOADS")
    kept = kept and os.path.join(kept, hashlib.sha256("\0".join((source,) + flags).encode()).hexdigest()[:20])
    if not shutil.which("gcc") and not (kept and os.path.exists(kept)):
        pytest.skip("not installed: gcc")
    folder = tempfile.mkdtemp(prefix="sandlock-payload-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.chmod(folder, 0o755)
    file, out = os.path.join(folder, "payload.c"), os.path.join(folder, "payload")
    if kept and os.path.exists(kept):
        shutil.copy(kept, out)
        return out
    with open(file, "w") as f:
        f.write(source)
    linked = any(flag.startswith(("-Wl", "-static", "-nostdlib")) for flag in flags)
    subprocess.run(["gcc", "-O1", "-w", "-o", out, file] + list(flags) + ["-static"] * (bool(kept) and not linked), check=True)
    if kept:
        shutil.copy(out, kept)
    return out


@contextlib.contextmanager
def unix_listener(address, backlog=128, answer=None):
    """A listening Unix socket; with `answer` a thread sends that to whoever connects."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(backlog)
        try:
            with answering(server, answer) if answer else contextlib.nullcontext():
                yield server
        finally:
            server.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def answering(server, answer):
    thread = threading.Thread(target=_answer_all, args=(server, answer))
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)  # wakes accept()
        thread.join()


def _answer_all(server, answer):
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        with peer, contextlib.suppress(OSError):
            peer.sendall(answer)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def eventually(condition, seconds=10):
    """True as soon as the condition holds; False after a bound that only a failure reaches."""
    for _ in range(int(seconds * 200)):
        if condition():
            return True
        time.sleep(0.005)
    return bool(condition())


def exists(pid):
    """Whether a process lives (a zombie does not)."""
    return sandlock._is_alive(pid)


def snapshot():
    """What a host has open: descriptors, threads, children. What an earlier test left is collected first."""
    gc.collect()
    return _snapshot()


def _snapshot():
    me = os.getpid()
    kids = [pid for pid in sandlock._listed_processes()
            if (sandlock._proc_stat(pid) or [b"", b"0"])[1] == b"%d" % me]
    descriptors = {fd: os.readlink("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd")
                   if os.path.islink("/proc/self/fd/" + fd)}
    return (sorted(d for d in descriptors if "/proc/" not in descriptors[d]),
            len(os.listdir("/proc/self/task")), threading.active_count(), kids)


def clean(before):
    """Whether the host is as it was; if not, what differs is printed. A thread that was just ending at the
    first look may be gone by now, and the kernel lists one for a moment after it was joined."""
    now, end = _snapshot(), time.monotonic() + 1
    while now[1] > before[1] and time.monotonic() < end:
        time.sleep(.01)
        now = now[:1] + _snapshot()[1:2] + now[2:]
    if now[0] == before[0] and now[1] <= before[1] and now[2:] == before[2:]:
        return True
    print("before:", before, "\nnow:", now)
    return False
