"""The policy callback and its context: SPEC.md 4 and 5."""
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import sandlock
from sandlock import (ExitReason, LivePolicy, Policy, PolicyError, PolicyFnError, Sandbox, SyscallCategory,
                      SyscallEvent, SYSTEM_PATHS, UnsupportedError, Verdict)
from support import box, clean, compiled, eventually, free_port, requires_abi, requires_program, snapshot, rounds

pytestmark = requires_abi(1)


def watched(fn, events=("file", "network", "process"), **fields):
    return box(policy_fn=fn, policy_events=events, **fields)


class Recorder(list):
    """A callback that keeps every event; `decide` gives the verdict."""

    def __init__(self, decide=None):
        super().__init__()
        self.decide = decide

    def __call__(self, event, ctx):
        self.append(event)
        return self.decide(event, ctx) if self.decide else None


def test_events_tell_who_does_what(tmp_path):
    seen = Recorder()
    code = ("import os, sys, socket, mmap, threading\n"
            "def work():\n    open(sys.argv[1], 'w').close()\n"
            "t = threading.Thread(target=work); t.start(); t.join()\n"
            "os.chdir(os.path.dirname(sys.argv[1])); open('../' + os.path.basename(os.getcwd()) + '/./file').close()\n"
            "os.symlink('file', 'link'); open('link').close()\n"
            "s = socket.socket(); s.connect_ex(('127.0.0.1', 9))\n"
            "mmap.mmap(-1, 3 << 20)\n"
            "if os.fork() == 0: os.execv('/bin/echo', ['echo', 'a b', ''])\n"
            "os.wait(); print(os.getpid())")
    sandbox = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], policy_fn=seen,
                      policy_events=["file", "network", "process", "memory"])
    result = sandbox.run([sys.executable, "-S", "-c", code, str(tmp_path / "file")], timeout=30)
    assert result.success and not result.policy_errors, result
    pid = int(result.stdout.split()[-1])
    mine = [e for e in seen if e.path == str(tmp_path / "file")]
    assert len(mine) == 3 and {(e.syscall, e.category, e.pid, e.parent_pid, e.denied) for e in mine} == {
        ("openat", "file", pid, os.getpid(), False)}  # the thread's, too; the link's target
    connect, = (e for e in seen if e.syscall == "connect")
    assert (connect.category, connect.host, connect.port, connect.denied) == (
        SyscallCategory.NETWORK, "127.0.0.1", 9, True)
    assert any(e.syscall == "mmap" and e.category == "memory" and e.size == 3 << 20 and e.pid == pid for e in seen)
    clone, = (e for e in seen if e.syscall == "clone")
    execve, = (e for e in seen if e.syscall == "execve")
    assert clone.pid == pid and execve.parent_pid == pid and execve.pid != pid
    assert execve.path == os.path.realpath("/bin/echo") and execve.argv == ("echo", "a b", "")
    assert execve.path_contains("echo") and execve.argv_contains("a b") and not execve.argv_contains("zz")
    with pytest.raises(AttributeError):
        execve.path = "x"


def test_text_is_whole(tmp_path):
    seen = Recorder()
    name = "\udcff" + "n" * 254
    words = ["x" * 100000, "\udcfe", ""] + ["w%d" % i for i in range(3000)]
    sandbox = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], policy_fn=seen)
    deep = os.path.join(str(tmp_path), *["d" * 200] * 15)
    os.makedirs(deep)
    result = sandbox.run([sys.executable, "-S", "-c",
                          "import os, sys; open(os.path.join(sys.argv[1], sys.argv[2]), 'w').close(); "
                          "os.execv('/bin/true', ['true'] + sys.argv[3:])", deep, name] + words, timeout=30)
    assert result.success, result
    assert any(e.path == os.path.join(deep, name) for e in seen)
    execve, = (e for e in seen if e.syscall == "execve")
    assert execve.argv == ("true",) + tuple(words)


ONLY = [sys.executable, "-S", "-c", "import os, sys, errno\ntry: open(sys.argv[1]).close(); print('ok')\n"
        "except OSError as e: print(errno.errorcode[e.errno])"]


@pytest.mark.parametrize("verdict,outcome", [
    (None, "ok"), (0, "ok"), (False, "ok"), (Verdict.ALLOW, "ok"), (Verdict.AUDIT, "ok"), ("audit", "ok"), (-2, "ok"),
    (True, "EPERM"), (-1, "EPERM"), (Verdict.DENY, "EPERM"), (errno.ENOENT, "ENOENT"),
    (Verdict.deny_with(errno.EIO), "EIO"), (Verdict.deny_with(1), "EPERM"),
    ("deny", "EPERM"), (4096, "EPERM"), (-3, "EPERM"), (2.5, "EPERM"), ([], "EPERM"), (object(), "EPERM")])
def test_verdicts(verdict, outcome, tmp_path):
    target = tmp_path / "file"
    target.write_text("x")
    result = Sandbox(
        fs_readable=SYSTEM_PATHS + (tmp_path,), policy_events=["file"],
        policy_fn=lambda event, ctx: verdict if event.path == str(target) else None).run(ONLY + [str(target)])
    assert result.stdout.decode() == outcome + "\n", result
    audited = isinstance(verdict, (int, str)) and verdict in ("audit", -2)
    assert [e.path for e in result.audits] == [str(target)] * audited
    junk = isinstance(verdict, (float, list)) or type(verdict) is object or verdict in ("deny", 4096, -3)
    assert len(result.policy_errors) == junk
    assert [d.field for d in result.denials] == ["policy_fn"] * (outcome != "ok")


def test_deny_with_wants_an_errno():
    for bad in (0, -1, 4096, True, "x", None):
        with pytest.raises(PolicyFnError):
            Verdict.deny_with(bad)


def fail(event, ctx):
    raise KeyError("of the callback")


def leave(event, ctx):
    raise SystemExit


def interrupt(event, ctx):
    raise KeyboardInterrupt


def end_thread(event, ctx):
    import _thread
    _thread.exit()


def grant(event, ctx):
    ctx.restrict_network([])
    ctx.grant_network(["127.0.0.1"])


@pytest.mark.parametrize("fn,text", [(fail, "of the callback"), (leave, "SystemExit"), (interrupt, "KeyboardInterrupt"),
                                     (end_thread, "SystemExit"), (grant, "cannot grant restricted field: network")])
def test_a_callback_that_fails_denies(fn, text):
    before = snapshot()
    result = watched(fn, ["clone"]).run(["sh", "-c", "(true) && echo forked; true"])
    assert b"forked" not in result.stdout and text in result.policy_errors[0] and "clone" in result.policy_errors[0]
    assert result.denials[0].field == "policy_fn" and eventually(lambda: clean(before))
    assert watched(lambda event, ctx: None, ["clone"]).run(["sh", "-c", "(true) && echo forked"]).stdout == b"forked\n"


def test_a_callback_that_takes_too_long_denies_and_all_behind_it_too():
    release, calls, before = threading.Event(), [], snapshot()

    def slow(event, ctx):
        calls.append(event)
        if len(calls) == 1:
            release.wait(30)
    code = ("import ctypes, os, sys, threading, time\n"
            "try: ctypes.CDLL('libgcc_s.so.1')  # glibc opens it at the end of a thread, and aborts if it is denied\n"
            "except OSError: pass\n"
            "def work():\n    try: open('/etc/hostname').close(); os.write(1, b'ok\\n')\n    except OSError as e: os.write(1, b'%d\\n' % e.errno)\n"
            "threads = [threading.Thread(target=work) for _ in range(8)]\n"
            "[t.start() for t in threads]; [t.join() for t in threads]\n"
            "os.write(1, b'True\\n'); os.read(0, 1); work()")
    sandbox = Sandbox(fs_readable=SYSTEM_PATHS, policy_fn=lambda e, c: slow(e, c) if e.path == os.path.realpath("/etc/hostname") else None,
                      policy_events=["openat"], policy_timeout=0.3)
    process = sandbox.popen([sys.executable, "-S", "-c", code], stdin=1, stdout=1)
    lines = [process.stdout.readline() for _ in range(9)]
    assert sorted(lines[:8]) == [b"1\n"] * 8 and lines[8] == b"True\n"
    release.set()
    assert eventually(lambda: not process._supervisor.callback._late)
    process.stdin.close()
    result = process.wait(20)
    assert result.success and result.stdout == b"ok\n"  # once the callback is free again
    assert any("longer than 0.3 s" in line for line in result.policy_errors)
    process = None
    assert len(calls) == 2 and eventually(lambda: clean(before))


def test_a_host_that_computes_gets_a_shorter_switch_interval_for_that_long(monkeypatch):
    before, stop, seen, waits = sys.getswitchinterval(), [], [], []
    notice = sandlock._Callback._notice_contention
    monkeypatch.setattr(sandlock._Callback, "_notice_contention", lambda self, waited: (waits.append(waited), notice(self, waited)))
    def spin():
        while not stop:
            continue
    command = ["sh", "-c", "i=0; while [ $i -lt 300 ]; do : < /etc/hostname; i=$((i+1)); done"]
    sandbox = watched(lambda e, c: seen.append(sys.getswitchinterval()), ["openat"])
    assert sandbox.run(command).success and sys.getswitchinterval() == before
    thread = threading.Thread(target=spin)
    thread.start()
    try:
        seen.clear()
        for _ in range(6):  # a machine that is busy with something else hides it now and then
            assert sandbox.run(command, timeout=60).success and len(seen) >= 300
            assert sys.getswitchinterval() == before
            if min(seen) < before:
                break
        # What shares the cores with us may keep the thread from computing: then nobody has to wait for it.
        assert min(seen) < before or sum(waited > 2e-3 for waited in waits) < len(waits) / 20
    finally:
        stop.append(1)
        thread.join()


def test_a_hanging_callback_does_not_keep_the_run():
    release, before = threading.Event(), snapshot()
    sandbox = Sandbox(fs_readable=SYSTEM_PATHS, policy_fn=lambda e, c: release.wait(60), policy_events=["clone"],
                      policy_timeout=0.5)
    result = sandbox.run(["sh", "-c", "(true); echo over"], timeout=30)
    assert result.reason == ExitReason.EXITED and result.duration < 20
    release.set()
    assert eventually(lambda: clean(before))


def test_a_slow_callback_delays_nothing_that_it_did_not_ask_for():
    """While one task waits for its verdict, forks and refused connects of another go on."""
    entered, release = threading.Event(), threading.Event()

    def slow(event, ctx):
        if event.path == os.path.realpath("/etc/hostname"):
            entered.set()
            release.wait(20)
    code = ("import os, socket, sys, threading, time\n"
            "t = threading.Thread(target=lambda: open('/etc/hostname').close()); t.start(); sys.stdin.read(1)\n"
            "for _ in range(20):\n    pid = os.fork()\n    if pid == 0: os._exit(0)\n    os.waitpid(pid, 0)\n"
            "print(socket.socket().connect_ex(('127.0.0.1', 9))); sys.stdout.flush(); t.join(); print('end')")
    process = Sandbox(fs_readable=SYSTEM_PATHS, policy_fn=slow, policy_events=["openat"], policy_timeout=25).popen(
        [sys.executable, "-S", "-c", code], stdin=1, stdout=1)
    assert entered.wait(20)
    process.stdin.write(b"x")
    assert process.stdout.readline() == b"%d\n" % errno.ECONNREFUSED and not release.is_set()
    release.set()
    assert process.wait(20).stdout == b"end\n"


def test_a_task_killed_while_it_is_judged_leaves_nothing_behind():
    held, before = [], snapshot()

    def judge(event, ctx):
        if event.path == os.path.realpath("/etc/hostname"):
            held.append(event.pid)
            os.kill(event.pid, signal.SIGKILL)
            time.sleep(0.1)
    result = watched(judge, ["openat"]).run(["sh", "-c", "for i in 1 2 3; do cat /etc/hostname; done; cat /etc/passwd >/dev/null && echo on"])
    assert len(held) == 3 and result.stdout == b"on\n" and result.error is None
    assert eventually(lambda: clean(before))


MANY = r"""
#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) {
    for (int i = 0; i < 64; i++) if (fork() == 0) _exit(open("/etc/hostname", O_RDONLY) < 0);
    int s, good = 0; while (wait(&s) > 0) good += s == 0;
    printf("%d\n", good); return 0;
}"""


def test_64_tasks_wait_at_once():
    waiting, release = [], threading.Event()

    def judge(event, ctx):
        if event.path == os.path.realpath("/etc/hostname"):
            waiting.append(event.pid)
            release.wait(20)
    payload = compiled(MANY)
    process = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), policy_fn=judge, policy_events=["openat"],
                      max_processes=100, policy_timeout=30).popen([payload], stdout=1)
    held = lambda: sum(sandlock._syscall_of(pid) == sandlock._NR["openat"] for pid in process.processes())
    assert eventually(lambda: held() == 64)
    release.set()
    assert process.wait(30).stdout == b"64\n" and len(waiting) == 64


def test_10000_events_none_lost_and_in_order():
    seen, each = Recorder(), rounds(2500)
    code = ("import os, sys\nfor w in range(4):\n    if os.fork() == 0:\n        for i in range(int(sys.argv[1])):\n"
            "            try: os.open('/etc/w%d-%d' % (w, i), os.O_RDONLY)\n            except OSError: pass\n        os._exit(0)\n"
            "[os.wait() for _ in range(4)]")
    result = watched(seen, ["openat"]).run([sys.executable, "-S", "-c", code, str(each)], timeout=60)
    assert result.success and not result.policy_errors
    for worker in range(4):
        mine = [e for e in seen if e.path and e.path.startswith("/etc/w%d-" % worker)]
        assert [e.path for e in mine] == ["/etc/w%d-%d" % (worker, i) for i in range(each)]
        assert len({e.pid for e in mine}) == 1


def test_unreadable_arguments_are_eperm_and_told():
    seen = Recorder()
    code = ("import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
            "print(libc.syscall(257, -100, 8, 0), ctypes.get_errno())" if os.uname().machine == "x86_64" else
            "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nprint(libc.syscall(56, -100, 8, 0), ctypes.get_errno())")
    result = watched(seen, ["openat"]).run([sys.executable, "-c", code])
    assert result.stdout == b"-1 1\n" and "cannot be read" in result.policy_errors[0]
    assert watched(seen, ["connect"]).run([sys.executable, "-c", code]).stdout == b"-1 14\n"  # not asked for


# -- the context -----------------------------------------------------------------------------------

def test_the_ceiling_is_the_static_policy():
    with box(net_allow=["127.0.0.1:80", "10.0.0.0/8", "tcp://[::1]:5"], max_processes=7).popen(["sleep", "50"]) as process:
        ctx = process.policy
        assert ctx.ceiling() == ctx.current() == LivePolicy(
            allowed_ips={"127.0.0.1", "10.0.0.0/8", "::1"}, max_processes=7) or ctx.ceiling().allowed_ips == frozenset(
                {"127.0.0.1", "10.0.0.0/8", "::1"})
        ctx.grant_network(["8.8.8.8"])
        ctx.grant_max_processes(100)
        assert ctx.current() == ctx.ceiling()  # beyond it is ignored
        ctx.restrict_network(["10.1.0.0/16", "192.168.0.0/16", "::1"])
        assert ctx.current().allowed_ips == frozenset({"10.1.0.0/16", "::1"})
        ctx.restrict_network(["10.0.0.0/8"])
        assert ctx.current().allowed_ips == frozenset({"10.1.0.0/16"})
        for _ in range(2):
            with pytest.raises(PolicyFnError, match="cannot grant restricted field: network"):
                ctx.grant_network(["10.1.0.0/16"])
        ctx.restrict_max_processes(5)
        ctx.restrict_max_processes(6)
        assert ctx.current().max_processes == 5
        with pytest.raises(PolicyFnError, match="max_processes"):
            ctx.grant_max_processes(6)
        ctx.restrict_network([])
        assert ctx.current().allowed_ips == frozenset()
        for bad in (["x"], ["10.0.0.0/99"], "10.0.0.0", [None], ["*"], ["host.example"]):
            with pytest.raises(PolicyError):
                ctx.restrict_network(bad)
        for bad in (0, -1, "5", True):
            with pytest.raises(PolicyError):
                ctx.restrict_max_processes(bad)
        assert ctx.ceiling().max_processes == 7
    for fields, expected in (({}, frozenset()), (dict(net_deny=["10.0.0.0/8"]), {"0.0.0.0/0", "::/0"}),
                             (dict(net_allow=[":80"]), {"0.0.0.0/0", "::/0"}), (dict(net_allow=["unix://"]), frozenset())):
        with box(**fields).popen(["sleep", "50"]) as process:
            assert process.policy.ceiling().allowed_ips == expected
            process.policy.restrict_network([])
            assert process.policy.current().allowed_ips == frozenset()


LOOP = """if True:
    import errno, socket, sys
    for line in sys.stdin:
        host, port = line.split()
        with socket.socket() as s:
            e = s.connect_ex((host, int(port))); print(errno.errorcode.get(e, 'ok'), flush=True)"""


class Prober:
    """A program that connects when told to."""

    def __init__(self, sandbox):
        self.process = sandbox.popen([sys.executable, "-c", LOOP], stdin=1, stdout=1)

    def connect(self, host, port):
        self.process.stdin.write(("%s %d\n" % (host, port)).encode())
        return self.process.stdout.readline().decode().strip()


def listener():
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(128)
    return server


def test_the_network_is_cut_from_another_thread():
    with listener() as server:
        port = server.getsockname()[1]
        prober = Prober(box(net_allow=["127.0.0.0/8"]))
        with prober.process as process:
            assert prober.connect("127.0.0.1", port) == "ok"
            process.policy.restrict_network(["127.0.0.2"])
            assert prober.connect("127.0.0.1", port) == "ECONNREFUSED"
            process.policy.restrict_network([])
            assert prober.connect("127.0.0.2", port) == "ECONNREFUSED"
            process.stdin.close()
            assert {d.reason for d in process.wait(10).denials} == {"restrict_network"}


def test_a_list_for_one_process():
    with listener() as server:
        port = server.getsockname()[1]
        code = "import os, sys\nif os.fork() == 0: pass\n" + LOOP.replace("if True:\n", "").replace("    import", "import", 1)
        sandbox = box(net_allow=["127.0.0.0/8"])
        one, two = Prober(sandbox), Prober(sandbox)
        with one.process, two.process:
            ctx = one.process.policy
            with pytest.raises(PolicyFnError, match="not in the sandbox"):
                ctx.restrict_pid_network(two.process.pid, [])
            with pytest.raises(PolicyFnError):
                ctx.restrict_pid_network(os.getpid(), [])
            ctx.restrict_pid_network(one.process.pid, ["127.0.0.9"])
            assert one.connect("127.0.0.1", port) == "ECONNREFUSED" and two.connect("127.0.0.1", port) == "ok"
            ctx.clear_pid_override(one.process.pid)
            assert one.connect("127.0.0.1", port) == "ok"
            ctx.restrict_network(["127.0.0.2"])
            ctx.restrict_pid_network(one.process.pid, ["127.0.0.1"])
            assert one.connect("127.0.0.1", port) == "ECONNREFUSED"  # tighter, never wider


SCRIPTS = [b"#!/bin/echo\n", b"#!/bin/echo a b \t\n", b"#! \t/bin/echo\ta\n", b"#!/bin/echo", b"#!/bin/echo ", b"#!/bin/echo a ", b"#!/bin/echo \0x\n", b"#!/bin/echo\0x\n", b"#!/bin/echo a\0b\n",
           b"#!/bin/echo " + b"a" * 250, b"#!/bin/echo " + b"a" * 240 + b"  b\n", b"#!/bin/echo " + b"a" * 243 + b"\n", b"#!" + b" " * 240 + b"/bin/echo\n", b"#!" + b" " * 260 + b"/bin/echo\n",
           b"#!/bin/" + b"x" * 300, b"#!", b"#!\n", b"#! \t \n", b"#!\0/bin/echo\n", b"#!/bin/echo a\nb", b"#!/bin/echo\n\0"]


def test_scripts_are_read_as_the_kernel_reads_them(tmp_path):
    code = ("import os, sys\nfor n in range(%d):\n    pid = os.fork()\n    if not pid:\n"
            "        try: os.execv('./s%%d' %% n, ['x', 'arg'])\n        except OSError as e: os.write(1, b'%%d\\n' %% e.errno)\n        os._exit(1)\n"
            "    os.write(1, b'%%d\\n' %% os.waitpid(pid, 0)[1])" % len(SCRIPTS))
    for n, head in enumerate(SCRIPTS):
        (tmp_path / ("s%d" % n)).write_bytes(head)
        (tmp_path / ("s%d" % n)).chmod(0o755)
    alone = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, stdout=subprocess.PIPE).stdout
    assert alone.count(b"s1 arg") == 1 and alone.count(b"256") > 3
    watched = Sandbox(fs_readable=SYSTEM_PATHS + (tmp_path,), cwd=tmp_path, policy_fn=lambda event, ctx: None, policy_events=["execve"]).run([sys.executable, "-S", "-c", code])
    assert watched.stdout == alone, [row for row in zip(alone.split(b"\n"), watched.stdout.split(b"\n")) if row[0] != row[1]]


def test_a_list_for_one_process_without_a_supervisor(monkeypatch):
    monkeypatch.setattr(sandlock, "_kernel_flags", lambda: sandlock._KernelFlags(marks_ranges=True))
    with box(best_effort=True).popen(["sleep", "20"]) as process:
        process.policy.restrict_pid_network(process.pid, [])
        begun = time.monotonic()
        with pytest.raises(PolicyFnError, match="not in the sandbox"):
            process.policy.restrict_pid_network(os.getpid(), [])
        assert time.monotonic() - begun < 5
        process.kill()


def test_an_override_ends_with_its_process():
    seen = []

    def judge(event, ctx):
        if event.syscall == "connect":
            seen.append((event.pid, event.denied))
            ctx.restrict_pid_network(event.pid, [])
    with listener() as server:
        code = ("import os, socket, sys, threading\nfor _ in range(2):\n    if os.fork() == 0:\n"
                "        def go(): print(socket.socket().connect_ex(('127.0.0.1', %d)), flush=True)\n"
                "        go(); t = threading.Thread(target=go); t.start(); t.join(); os._exit(0)\n    os.wait()" % server.getsockname()[1])
        result = watched(judge, ["connect"], net_allow=["127.0.0.1"]).run([sys.executable, "-c", code], timeout=20)
    # The change holds for the event being judged, and for all threads of that process.
    assert result.stdout.split() == [b"111"] * 4 and len({pid for pid, _ in seen}) == 2
    assert [denied for _, denied in seen] == [False, True] * 2


def test_a_change_in_the_callback_holds_for_the_very_event(tmp_path):
    (tmp_path / "secret").write_text("x")
    os.link(tmp_path / "secret", tmp_path / "alias")
    os.symlink("secret", tmp_path / "symlink")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "deep").write_text("y")

    def judge(event, ctx):
        if event.path == str(tmp_path / "secret"):
            ctx.deny_path(str(tmp_path / "secret"))
            ctx.deny_path(tmp_path / "folder")
    names = ["secret", "alias", "symlink", "folder/deep", "folder/../folder/deep", "folder/none", "folder"]
    code = ("import errno, os, sys\nos.chdir(sys.argv[1])\nfor n in sys.argv[2:]:\n"
            "    try: os.open(n, os.O_RDONLY); print('ok')\n    except OSError as e: print(errno.errorcode[e.errno])")
    command = [sys.executable, "-S", "-c", code, str(tmp_path)] + names
    fields = dict(fs_readable=SYSTEM_PATHS + (tmp_path,), policy_events=["file"])
    result = Sandbox(policy_fn=judge, **fields).run(command)
    assert result.stdout.split() == [b"EACCES"] * 7, result
    assert {d.reason for d in result.denials} == {"deny_path"}
    control = Sandbox(policy_fn=lambda e, c: None, **fields).run(command)
    assert control.stdout.split() == [b"ok"] * 5 + [b"ENOENT", b"ok"]


def test_deny_and_allow_path_from_another_thread(tmp_path):
    target = tmp_path / "file"
    target.write_text("x")
    code = ("import sys\nfor line in sys.stdin:\n    try: open(sys.argv[1]).close(); print('ok', flush=True)\n"
            "    except OSError as e: print(e.errno, flush=True)")
    with Sandbox(fs_readable=SYSTEM_PATHS + (tmp_path,), policy_fn=lambda e, c: None, policy_events=["file"]).popen(
            [sys.executable, "-S", "-c", code, str(target)], stdin=1, stdout=1) as process:
        def tried():
            process.stdin.write(b"\n")
            return process.stdout.readline()
        assert tried() == b"ok\n"
        process.policy.deny_path(target)
        assert tried() == b"13\n"
        process.policy.allow_path(target)
        assert tried() == b"ok\n"
    for fields in ({}, dict(policy_fn=lambda e, c: None, policy_events=["openat", "stat"])):  # a rename would evade it
        with box(**fields).popen(["sleep", "50"]) as process:
            with pytest.raises(PolicyFnError, match="policy_events"):
                process.policy.deny_path(target)


def test_a_denied_program_is_not_executed_nor_as_an_interpreter(tmp_path):
    for name in ("tool", "other"):
        shutil.copy("/bin/echo", tmp_path / name)
    (tmp_path / "script").write_text("#!%s/tool\n" % tmp_path)
    (tmp_path / "script").chmod(0o755)
    os.link(tmp_path / "tool", tmp_path / "hardlink")

    def judge(event, ctx):
        ctx.deny_path(tmp_path / "tool")
    command = ["sh", "-c", "cd %s; for n in tool other script hardlink; do ./$n ran; done" % tmp_path]
    fields = dict(fs_readable=SYSTEM_PATHS + (tmp_path,), policy_events=["file", "execve"])
    result = Sandbox(policy_fn=judge, **fields).run(command)
    assert result.stdout == b"ran\n" and result.stderr.count(b"Permission denied") == 3, result
    assert Sandbox(policy_fn=lambda e, c: None, **fields).run(command).stdout.count(b"ran") == 4


LINKS = """
import os, sys
os.link("secret/key", "copy")
sys.stdin.readline()
try: print(open("copy").read())
except PermissionError: print("denied")
"""


@requires_abi(2)  # ABI 1 links nothing across directories
def test_a_link_that_is_under_way_is_no_way_around_deny_path(tmp_path, monkeypatch):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("key")
    slow, begun = sandlock._slow, threading.Event()

    def late(nr, *args):  # a directory of which the program holds the lock
        if nr == sandlock._NR["linkat"]:
            begun.set()
            time.sleep(1)
        return slow(nr, *args)
    monkeypatch.setattr(sandlock, "_slow", late)
    with box(tmp_path, cwd=tmp_path, policy_fn=lambda event, ctx: None).popen([sys.executable, "-S", "-c", LINKS], stdin=1, stdout=1) as process:
        assert begun.wait(60)
        process.policy.deny_path(tmp_path / "secret")
        process._supervisor.denied.look(lambda: False)  # as an event of a file with several names does
        process.stdin.write(b"\n")
        result = process.wait(timeout=60)
    assert result.stdout == b"denied\n" and result.denials, result


def test_programs_with_odd_names_run_where_they_are_judged(tmp_path):
    for name in "x\\012y", "x\ny", "x (deleted)", " x ", "x\\ty":
        shutil.copy(os.path.realpath(shutil.which("true")), tmp_path / name)
        result = box(tmp_path, cwd=tmp_path, fs_denied=["/etc/hostname"], policy_fn=lambda event, ctx: None).run(
            ["sh", "-c", 'exec "$1"', "-", "./" + name])
        assert result.success and not result.policy_errors, (name, result)


def test_whoever_is_refused_a_process_is_told_by_that_of_its_thread():
    code = ("import os, threading\ndef fork():\n    try: os.fork()\n    except BlockingIOError: print(os.getpid(), os.getppid())\n"
            "thread = threading.Thread(target=fork)\nthread.start()\nthread.join()")
    for fields in {}, dict(policy_fn=lambda event, ctx: None):
        result = box(max_processes=1, **fields).run([sys.executable, "-S", "-W", "ignore", "-c", code])
        event = result.denials[0].event
        assert (event.syscall, [event.pid, event.parent_pid]) == ("clone", [int(word) for word in result.stdout.split()]), result


def test_max_processes_live():
    code = ("import os, sys, time\nfor line in sys.stdin:\n    try:\n        pid = os.fork()\n"
            "        if pid == 0: time.sleep(100)\n        print('forked', flush=True)\n    except OSError as e: print(e.errno, flush=True)")
    with box(max_processes=4).popen([sys.executable, "-c", code], stdin=1, stdout=1) as process:
        def fork():
            process.stdin.write(b"\n")
            return process.stdout.readline()
        assert fork() == b"forked\n"
        process.policy.restrict_max_processes(3)
        assert [fork(), fork()] == [b"forked\n", b"%d\n" % errno.EAGAIN]
        process.policy.restrict_max_processes(1)
        assert fork() == b"%d\n" % errno.EAGAIN


def test_the_network_is_cut_in_the_middle_of_a_redis_benchmark(tmp_path):
    if not shutil.which("redis-server"):
        pytest.skip("not installed: redis-server")
    port, count = free_port(), [0]
    server = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
                              stdout=subprocess.DEVNULL)

    def cut(event, ctx):
        count[0] += 1
        if count[0] == 500:
            ctx.restrict_network([])
    try:
        assert eventually(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        command = ["redis-benchmark", "-p", str(port), "-k", "0", "-n", "3000", "-c", "5", "-t", "ping", "-q"]
        fields = dict(net_allow=["127.0.0.1"], policy_events=["connect"])
        result = box(policy_fn=cut, **fields).run(command, timeout=60)
        assert b"refused" in result.stderr + result.stdout and not (result.success and count[0] > 2000)
        refused = [d for d in result.denials if d.reason == "restrict_network"]
        assert refused and count[0] < 600
        assert box(policy_fn=lambda e, c: None, **fields).run(command, timeout=60).success
    finally:
        server.kill()
        server.wait()


AGENT = """
import socket, subprocess, sys
def talk(): return socket.socket().connect_ex(("127.0.0.1", int(sys.argv[1])))
print(talk())
subprocess.run(["git", "--version"], stdout=subprocess.DEVNULL)     # a tool that it knows
print(talk())
subprocess.run([sys.argv[2], "install me"])                         # what a poisoned page told it to run
print(talk())
"""


@requires_program("git")
def test_an_agent_loses_the_network_when_it_runs_an_unknown_program(tmp_path):
    """Prompt injection: the moment a binary that nobody vouched for is executed, the whole sandbox
    has no network any more, before the first instruction of it."""
    unknown = tmp_path / "helper"
    unknown.write_text("#!%s -S\nimport socket, sys\nprint('helper', socket.socket().connect_ex(('127.0.0.1', %%d)))\n"
                       % sys.executable)
    unknown.chmod(0o755)
    known = {os.path.realpath(shutil.which(p)) for p in ("git", "sh")} | {os.path.realpath(sys.executable)}

    def guard(event, ctx):
        if event.syscall == "execve" and event.path not in known and os.path.exists(event.path):
            ctx.restrict_network([])
            return "audit"
    with listener() as server:
        port = server.getsockname()[1]
        unknown.write_text(unknown.read_text() % port)
        command = [sys.executable, "-c", AGENT, str(port), str(unknown)]
        fields = dict(net_allow=["127.0.0.1:%d" % port], fs_readable=SYSTEM_PATHS + (tmp_path,))
        result = Sandbox(policy_fn=guard, **fields).run(command, timeout=30)
        assert result.stdout.split() == [b"0", b"0", b"helper", b"111", b"111"], result
        assert [e.path for e in result.audits] == [str(unknown)] and result.audits[0].argv == (str(unknown), "install me")
        assert Sandbox(**fields).run(command, timeout=30).stdout.split()[-1] == b"0"


# -- exec: what was approved is what runs --------------------------------------------------------------

def test_exec_forms_and_failures(tmp_path):
    for name, text in (("plain", "#!/bin/sh\necho plain \"$@\"\n"), ("argument", "#!/usr/bin/env -S sh\necho argument\n"),
                       ("nested", "#!%s/plain\n" % tmp_path), ("missing", "#!/no/such/interpreter\n"), ("text", "echo text\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "denied").write_text("x")
    script = """cd %s; ./plain 1 2; ./argument; ./nested 3; ./missing; ./text; ./denied; ./absent; plain; PATH=.:$PATH; plain 4
        (exec ./plain 5); exec 9<./plain; cd /; /proc/self/cwd/bin/echo cwd""" % tmp_path
    fields = dict(fs_readable=SYSTEM_PATHS + (tmp_path,), fs_writable=["/dev/null"])
    bare = Sandbox(**fields).run(["sh", "-c", script])
    seen = Recorder()
    result = Sandbox(policy_fn=seen, policy_events=["process"], **fields).run(["sh", "-c", script], timeout=30)
    assert (result.stdout, result.stderr, result.exit_code) == (bare.stdout, bare.stderr, bare.exit_code)
    assert not result.policy_errors and bare.stdout.count(b"plain") >= 4
    assert any(e.argv == ("./plain", "1", "2") and e.path == str(tmp_path / "plain") for e in seen)


EXECS = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static void *idle(void *x) { pause(); return 0; }
static void *run(void *x) { char *v[] = {"echo", "from a thread", 0}; execv("/bin/echo", v); return 0; }
int main(int n, char **a) {
    char *v[] = {"echo", "descriptor", 0}; int fd = open("/bin/echo", O_RDONLY | O_CLOEXEC);
    if (vfork() == 0) { syscall(SYS_execveat, fd, "", v, environ, 0x1000); _exit(1); } wait(0);
    int dir = open("/bin", O_PATH); v[1] = "directory"; if (fork() == 0) { syscall(SYS_execveat, dir, "echo", v, environ, 0); _exit(1); } wait(0);
    int m = memfd_create("m", MFD_CLOEXEC); char b[1 << 16]; ssize_t r; while ((r = read(fd, b, sizeof b)) > 0) write(m, b, r);
    v[1] = "memory"; if (fork() == 0) { fexecve(m, v, environ); _exit(1); } wait(0);
    if (vfork() == 0) { v[1] = "vfork"; execv("/bin/echo", v); _exit(1); } wait(0);
    v[0] = 0; if (fork() == 0) { execv("/bin/true", v); _exit(1); } int s; wait(&s); printf("%d\n", WEXITSTATUS(s)); fflush(stdout);
    pthread_t t; for (int i = 0; i < 5; i++) pthread_create(&t, 0, idle, 0);
    pthread_create(&t, 0, run, 0); pause(); return 0;
}"""


def test_exec_from_threads_vfork_descriptors_and_memory():
    payload = compiled(EXECS, "-pthread")
    fields = dict(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),))
    bare, seen = Sandbox(**fields).run([payload], timeout=20), Recorder()
    assert b"from a thread" in bare.stdout and b"descriptor" in bare.stdout and b"directory" in bare.stdout
    result = Sandbox(policy_fn=seen, policy_events=["process"], **fields).run([payload], timeout=20)
    assert result.stdout == bare.stdout and not result.policy_errors, result
    assert [e.argv[1:] for e in seen if e.syscall == "execve"][0] == ("descriptor",)


SWAP = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static char path[] = "/bin/true", word[] = "good"; static volatile int stop;
static void *flip(void *x) { while (!stop) {
    memcpy(path, "/bin/echo", 10); memcpy(word, "evil", 5); for (int i = 0; i < 20000; i++) asm volatile("" ::: "memory");
    memcpy(path, "/bin/true", 10); memcpy(word, "good", 5); for (int i = 0; i < 20000; i++) asm volatile("" ::: "memory"); } return 0; }
int main(int n, char **a) {
    pthread_t t; pthread_create(&t, 0, flip, 0);
    for (int i = 0; i < atoi(a[1]); i++) {
        if (vfork() == 0) { char *v[] = {"x", word, 0}; execv(path, v); _exit(3); }
        wait(0);
    }
    stop = 1; return 0;
}"""


def test_a_swapped_path_or_argument_never_runs():
    """The vfork child shares its memory with a thread that flips path and argument."""
    payload = compiled(SWAP, "-pthread")

    def judge(event, ctx):
        if event.syscall == "execve" and (event.path_contains("echo") or event.argv_contains("evil")):
            return True
    fields = dict(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),))
    result = Sandbox(policy_fn=judge, policy_events=["process"], **fields).run([payload, str(rounds(400))], timeout=100)
    assert result.success and result.stdout == b"" and result.error is None, result
    assert any(b"evil" in Sandbox(**fields).run([payload, str(rounds(400))], timeout=100).stdout for _ in range(10))  # the control


def test_1000_execs_in_a_row():
    seen, count = Recorder(), rounds(1000)
    code = "i=0; while [ $i -lt %d ]; do /bin/true || echo failed; i=$((i+1)); done; echo done" % count
    result = watched(seen, ["execve"]).run(["sh", "-c", code], timeout=60)
    assert result.stdout == b"done\n" and len(seen) == count and not result.policy_errors


# -- found by an attacker ----------------------------------------------------------------------------

OPENAT2 = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int n, char **a) {
    struct open_how how = {O_PATH}; int fd = syscall(437, AT_FDCWD, a[1], &how, sizeof how);
    printf("%d\n", fd < 0 ? errno : 0); how.flags = O_RDONLY; fd = syscall(437, AT_FDCWD, a[1], &how, sizeof how);
    printf("%d\n", fd < 0 ? errno : 0); fd = openat(AT_FDCWD, a[1], O_PATH); printf("%d\n", fd < 0 ? errno : 0); return 0;
}"""


def test_flags_in_memory_are_not_left_to_the_kernel():
    """openat2 with O_PATH is not continued, lest its flags are read again: it gives a descriptor to read."""
    payload = compiled(OPENAT2)
    fields = dict(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),))
    assert Sandbox(policy_fn=lambda e, c: None, **fields).run([payload, "/etc/hostname"]).stdout.split() == [b"0"] * 3
    assert Sandbox(**fields).run([payload, "/etc/hostname"]).stdout.split() == [b"38", b"38", b"0"]  # not there unless mediated


class Odd(int):
    def __bool__(self):
        raise ValueError("odd")

    def __eq__(self, other):
        raise ValueError("odd")
    __hash__ = int.__hash__


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("mute")


def mute(event, ctx):
    raise Mute


def test_odd_verdicts_and_exceptions_are_answered():
    command = ["sh", "-c", "(true) && echo forked; (true) && echo forked; true"]
    result = watched(lambda e, c: Odd(5), ["clone"]).run(command, timeout=20)
    assert b"forked" not in result.stdout and result.reason == ExitReason.EXITED
    result = watched(mute, ["clone"]).run(command, timeout=20)
    assert b"forked" not in result.stdout and result.reason == ExitReason.EXITED and "Mute" in result.policy_errors[0]


def test_a_creating_task_killed_in_mid_verdict_costs_nothing(tmp_path):
    before, killed = snapshot(), []

    def judge(event, ctx):
        if event.path_contains("/made"):
            killed.append(event.pid)
            os.kill(event.pid, signal.SIGKILL)
            time.sleep(0.1)
    sandbox = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], policy_fn=judge, policy_events=["openat"])
    result = sandbox.run(["sh", "-c", "for i in 1 2 3; do (: > %s/made$i); done; cat /etc/hostname > /dev/null && echo on" % tmp_path])
    assert len(killed) == 3 and result.stdout == b"on\n" and not os.listdir(tmp_path)
    assert eventually(lambda: clean(before))


def test_denied_paths_without_exec_events_interpreters_and_renames(tmp_path):
    tools, folder = tmp_path / "tools", tmp_path / "folder"
    tools.mkdir(), folder.mkdir()
    shutil.copy("/bin/echo", tools / "tool")
    (tmp_path / "script").write_text("#!%s/tool\n" % tools)
    (tmp_path / "script").chmod(0o755)
    (folder / "secret").write_text("secret")
    loader = compiled("int main(void) { return 0; }", "-Wl,--dynamic-linker,%s/tool" % tools)

    def judge(event, ctx):
        ctx.deny_path(tools)
        ctx.deny_path(folder)
    script = "cd %s; tools/tool ran; ./script; mv folder moved; cat moved/secret; %s; echo end" % (tmp_path, loader)
    fields = dict(fs_readable=SYSTEM_PATHS + (os.path.dirname(loader),), fs_writable=[tmp_path], policy_events=["file"])
    result = Sandbox(policy_fn=judge, **fields).run(["sh", "-c", script])
    assert result.stdout == b"end\n" and result.stderr.count(b"Permission denied") == 4, result
    assert folder.exists()
    control = Sandbox(policy_fn=lambda e, c: None, **fields).run(["sh", "-c", script])
    assert b"ran" in control.stdout and b"secret" in control.stdout and b"denied" not in control.stderr


KILLED = r"""
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) {
    int killed = 0, s;
    for (int i = 0; i < 300; i++) {
        pid_t p = fork();
        if (p == 0) { char *v[] = {"true", 0}; execv("/bin/true", v); _exit(1); }
        usleep(i % 60 * 20); kill(p, SIGKILL); if (waitpid(p, &s, 0) != p) return 1; killed += WIFSIGNALED(s);
    }
    printf("%d\n", killed > 0); return 0;
}"""


def test_an_exec_that_is_killed_is_its_parents_to_reap():
    payload = compiled(KILLED)
    result = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), policy_fn=lambda e, c: None,
                     policy_events=["execve"]).run([payload], timeout=60)
    assert result.stdout == b"1\n", result


def test_a_tab_in_a_scripts_first_line(tmp_path):
    (tmp_path / "script").write_text("#!/bin/echo\ta\tb c \n")
    (tmp_path / "script").chmod(0o755)
    command = [str(tmp_path / "script"), "x"]
    fields = dict(fs_readable=SYSTEM_PATHS + (tmp_path,))
    script = ["sh", "-c", "%s x" % (tmp_path / "script")]
    result = Sandbox(policy_fn=lambda e, c: None, **fields).run(script)
    assert result.stdout == Sandbox(**fields).run(script).stdout and not result.policy_errors and result.success
    assert Sandbox(**fields).run(command).success


def test_what_is_told_is_bounded_in_bytes():
    code = ("import os\nfor _ in range(40):\n    if os.fork() == 0:\n        try: os.execv('/bin/true', ['true'] + ['x' * 100000] * 15)\n"
            "        finally: os._exit(0)\n    os.wait()")
    result = watched(lambda e, c: True if e.syscall == "execve" else None, ["execve"]).run([sys.executable, "-S", "-c", code], timeout=60)
    assert 0 < len(result.denials) < 20


@pytest.mark.parametrize("other", ["WAITING", "LIMIT"])
def test_the_descriptors_of_waiting_calls_are_bounded_and_gone_at_the_end(other, monkeypatch):
    """Two bounds; each holds without the other."""
    monkeypatch.setattr(*{"WAITING": (sandlock._Callback, "WAITING"), "LIMIT": (sandlock._Held, "LIMIT")}[other], 10 ** 6)
    release, before = threading.Event(), snapshot()
    payload = compiled(MANY.replace("i < 64", "i < 400"))
    sandbox = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), policy_events=["openat"], policy_timeout=70.0,
                      max_processes=500, policy_fn=lambda e, c: e.path_contains("hostname") and release.wait(60) and None)
    with sandbox.popen([payload], stdout=1) as process:
        assert eventually(lambda: process._supervisor.held.count >= (400 if other == "WAITING" else 128))
        assert other == "LIMIT" or eventually(lambda: any("too many" in line for line in process._supervisor.faults), 50)
        time.sleep(0.5)
        assert len(os.listdir("/proc/self/fd")) < 3 * 256 + 64 + 60  # and what the broker keeps for each task
        assert other == "LIMIT" or process._supervisor.held.count <= 512
        release.set()
        result = process.wait(60)
    if other == "LIMIT":  # the rest waits where it is received, and is judged in its turn
        assert result.stdout == b"400\n" and not result.policy_errors, result
    else:
        assert 100 < int(result.stdout) < 400 and any("too many" in line for line in result.policy_errors)
    assert eventually(lambda: clean(before))


def far_interpreter(path, loader):
    """A copy of a program whose PT_INTERP names `loader`, in a string behind everything else."""
    import struct
    data = bytearray(open(compiled("int main(void) { return 0; }", "-Wl,-Bdynamic"), "rb").read())
    offset, (size, count) = struct.unpack_from("=Q", data, 32)[0], struct.unpack_from("=HH", data, 54)
    for at in range(offset, offset + size * count, size):
        if struct.unpack_from("=I", data, at)[0] == 3:
            text = os.fsencode(str(loader)) + b"\0"
            struct.pack_into("=Q", data, at + 8, len(data))
            struct.pack_into("=QQ", data, at + 32, len(text), len(text))
            data += text
    path.write_bytes(data)
    path.chmod(0o755)


def test_a_denied_loader_is_found_wherever_it_is_named(tmp_path):
    tool, far, hidden = tmp_path / "tool", tmp_path / "far", tmp_path / "hidden"
    shutil.copy("/bin/true", tool)
    far_interpreter(far, tool)
    shutil.copy("/bin/echo", hidden)
    hidden.chmod(0o111)  # of what cannot be read nobody can tell the loader
    command = ["sh", "-c", "%s || echo $?" % far]
    fields = dict(fs_readable=SYSTEM_PATHS + (tmp_path,), policy_events=["file"])
    assert Sandbox(policy_fn=lambda e, c: c.deny_path(tool), **fields).run(command).stdout == b"126\n"
    assert Sandbox(policy_fn=lambda e, c: None, **fields).run(command).stdout != b"126\n"
    if os.geteuid() != 0:
        command = ["sh", "-c", "%s ran || echo $?" % hidden]
        assert Sandbox(policy_fn=lambda e, c: c.deny_path(tool), **fields).run(command).stdout == b"126\n"
        # Watched it cannot open its libraries: its memory, with the paths, cannot be read. 126: it never ran.
        assert Sandbox(policy_fn=lambda e, c: None, **fields).run(command).stdout == b"127\n"
        assert Sandbox(fs_readable=fields["fs_readable"]).run(command).stdout == b"ran\n"


def test_nothing_is_made_or_watched_beneath_a_denied_directory_that_was_renamed(tmp_path):
    code = ("import ctypes, errno, os, socket\nlibc = ctypes.CDLL(None, use_errno=True)\nos.mkdir('den'); open('/etc/hostname').close()\n"
            "try: open('den2/new', 'w').close(); print('made')\nexcept OSError as e: print(e.errno)\n"
            "print(libc.inotify_add_watch(libc.inotify_init1(0), b'den2', 0xfff) < 0)\n"
            "s = socket.socket(socket.AF_UNIX)\ntry: s.bind('den2/s'); print('bound')\nexcept OSError as e: print(e.errno)")
    def judge(event, ctx):
        if event.path_contains("hostname"):
            ctx.deny_path(tmp_path / "den")
            os.rename(tmp_path / "den", tmp_path / "den2")  # the program itself may not

    def only_rename(event, ctx):
        if event.path_contains("hostname"):
            os.rename(tmp_path / "den", tmp_path / "den2")
    fields = dict(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], cwd=tmp_path,
                  policy_events=["file", "network"])
    command = [sys.executable, "-S", "-c", code]
    assert Sandbox(policy_fn=judge, **fields).run(command).stdout.split() == [b"13", b"True", b"13"]
    shutil.rmtree(tmp_path / "den2")
    assert Sandbox(policy_fn=only_rename, **fields).run(command).stdout.split() == [b"made", b"False", b"bound"]


def test_what_comes_while_a_payload_is_read_holds_for_it(monkeypatch):
    """Memory can take long to be read: what was judged before is judged again."""
    read = sandlock._Message._piece
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.3)
        code = "import socket, sys\ntry: print(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', %d)))\nexcept OSError as e: print(e.errno)" % server.getsockname()[1]
        for restricts in (False, True):
            process = box(net_allow=["udp://127.0.0.1"]).popen([sys.executable, "-S", "-c", "input()\n" + code], stdin=1, stdout=1)
            with process:
                if restricts:
                    monkeypatch.setattr(sandlock._Message, "_piece", lambda self, limit: (process.policy.restrict_network([]), read(self, limit))[1])
                process.stdin.write(b"\n")
                assert process.stdout.readline() == (b"%d\n" % errno.ECONNREFUSED if restricts else b"1\n")
            if not restricts:
                assert server.recv(1) == b"x"
        with pytest.raises(socket.timeout):
            server.recv(1)


def test_a_flood_of_denials_leaves_room_for_audits():
    code = ("import os\nfor i in range(3000):\n    try: os.stat('/none/%d' % i + '/yyyyyyyyyyyyyyyy' * 230)\n    except OSError: pass\n"
            "for _ in range(3):\n    try: os.unlink('/none/audited')\n    except OSError: pass")
    def judge(event, ctx):
        return Verdict.AUDIT if event.path.endswith("audited") else Verdict.DENY if "/none/" in event.path else None
    result = box(policy_fn=judge, policy_events=["stat", "unlinkat"]).run([sys.executable, "-S", "-c", code])
    assert len(result.audits) == 3 and len(result.denials) < 3000, (len(result.audits), len(result.denials))


@requires_abi(2)  # below, nothing is linked from one directory to another
def test_links_made_while_a_path_was_allowed_are_denied_with_it(tmp_path):
    (tmp_path / "den").mkdir()
    for name in ("den/secret", "a"):
        (tmp_path / name).write_text(name)
    os.link(tmp_path / "a", tmp_path / "b")
    code = ("import os\ndef tried(n):\n    try: print(open(n).read())\n    except OSError as e: print(e.errno)\n"
            "os.mkdir('deny1'); tried('den/secret'); tried('b')\nos.mkdir('allow'); os.link('den/secret', 'mine')\nos.mkdir('deny2'); tried('mine'); tried('b')")
    def judge(event, ctx):
        if event.syscall == "mkdirat":
            (ctx.allow_path if event.path.endswith("allow") else ctx.deny_path)(tmp_path / "den")
    result = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], cwd=tmp_path, policy_fn=judge, policy_events=["file"]).run([sys.executable, "-S", "-c", code])
    assert result.stdout.split() == [b"13", b"a", b"13", b"a"], result


def test_no_descriptor_is_left_by_calls_that_fail_or_end_with_the_run(tmp_path):
    (tmp_path / "x").write_text("x")
    before = snapshot()
    code = ("import ctypes, os\nlibc = ctypes.CDLL(None)\nmsg = ctypes.create_string_buffer(56)\n"
            "fd = os.open('/etc/hostname', os.O_RDONLY)\nfor _ in range(30): libc.sendmsg(fd, msg, 0)\nprint('end')")
    fields = dict(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], cwd=tmp_path, net_allow=["unix://"])
    for user in (None, "1234:1234") if os.geteuid() == 0 else (None,):
        command = ["/usr/bin/python3" if user else sys.executable, "-S", "-c", code]
        assert Sandbox(user=user, **dict(fields, cwd="/")).run(command).stdout == b"end\n"
    assert eventually(lambda: clean(before)), (before, snapshot())


def test_a_call_that_is_still_on_its_way_when_the_run_ends_leaves_nothing(tmp_path, monkeypatch):
    before = snapshot()
    monkeypatch.setattr(sandlock._Supervisor, "find_status", lambda self, call: None)  # it never comes to its turn
    result = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], policy_fn=lambda e, c: None, policy_events=["file"]).run(
        ["sh", "-c", "for i in 1 2 3 4; do : > %s/made$i & done; wait" % tmp_path], timeout=0.5)
    assert result.reason == ExitReason.TIMEOUT and not os.listdir(tmp_path)
    assert eventually(lambda: clean(before)), (before, snapshot())


HAMMER = r"""
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
static void *go(void *x) { for (;;) { void *p = mmap(0, 2 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); if (p != MAP_FAILED) munmap(p, 2 << 20); } }
int main(void) { pthread_t t; alarm(9); for (int i = 0; i < 48; i++) pthread_create(&t, 0, go, 0); pause(); return 0; }"""


def test_a_full_mailbox_delays_neither_timeout_nor_kill():
    payload = compiled(HAMMER, "-pthread")
    result = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), max_memory="4G").run([payload], timeout=1)
    assert result.reason == ExitReason.TIMEOUT and result.duration < 5


def test_a_callbacks_thread_that_begins_after_the_end_ends_too(monkeypatch):
    """On a busy machine a program may be over before that thread has run for the first time."""
    before, serve = snapshot(), sandlock._Callback._serve

    def late(self):
        time.sleep(0.5)
        serve(self)
    monkeypatch.setattr(sandlock._Callback, "_serve", late)
    assert box(policy_fn=lambda event, ctx: None, policy_events=["connect"]).run(["true"]).success
    assert eventually(lambda: clean(before)), snapshot()
