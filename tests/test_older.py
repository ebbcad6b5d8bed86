"""On a kernel with an older Landlock, as far as that can be told from this one: the same attacks fail."""
import errno
import os
import resource
import shutil
import socket
import subprocess
import sys
import time

import pytest

import sandlock
from sandlock import Sandbox, SYSTEM_PATHS
from support import TESTS, THIN, requires_abi


@requires_abi(6)
@pytest.mark.skipif(os.environ.get("SANDLOCK_TEST_OLDER", "0" if THIN else "1") != "1", reason="once is enough (SANDLOCK_TEST_THIN, SANDLOCK_TEST_OLDER)")
@pytest.mark.parametrize("abi", ["1"])  # make test-all of part 4 may run them all
def test_the_same_attacks_fail(abi):
    if os.environ.get("SANDLOCK_TEST_ABI"):
        pytest.skip("within itself")
    files = [os.path.join(TESTS, "test_%s.py" % name) for name in ("attacks", "landlock", "network")]
    result = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "attacks or landlock or bind or listen or stale"] + files,
                            env=dict(os.environ, SANDLOCK_TEST_ABI=abi, SANDLOCK_TEST_THIN="80"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    assert result.returncode == 0 and b" passed" in result.stdout, result.stdout.decode()[-3000:]


HIDING = r"""
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
print(libc.prctl(4, 0, 0, 0, 0), ctypes.get_errno())     # not to be looked at any more
os.chmod("hidden", 0o111)                                 # nor this program, once it runs
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv("./hidden", ["hidden", "100"])
    os._exit(0)
os.wait(); time.sleep(0.3)
"""


@requires_abi(1)
def test_nobody_hides_from_the_end(tmp_path, monkeypatch):
    """A daemon of a program that cannot be read, which no scope tells to be inside."""
    from support import box, eventually
    found = sandlock.landlock_abi_version()
    monkeypatch.setattr(sandlock, "landlock_abi_version", lambda: min(found, 5))
    tmp_path.chmod(0o755)
    shutil.copy("/bin/sleep", tmp_path / "hidden")
    result = box(tmp_path, cwd=tmp_path).run([sys.executable, "-S", "-c", HIDING])
    assert result.stdout == b"-1 1\n" and not result.error, result

    def alive():
        names = []
        for pid in sandlock._listed_processes():
            try:
                with open("/proc/%d/comm" % pid) as file:
                    names.append(file.read().strip())
            except OSError:
                continue
        return "hidden" in names
    assert eventually(lambda: not alive(), 3)
    process = subprocess.Popen([str(tmp_path / "hidden"), "100"])  # the control: it would be seen
    try:
        assert eventually(alive, 3)
    finally:
        process.kill()
        process.wait()


@requires_abi(1)
def test_no_descriptor_is_inherited_where_a_range_cannot_be_marked(monkeypatch):
    """Before 5.11; the control is that the host's own child has it."""
    from support import box
    found = sandlock._kernel_flags()
    flags = {name: getattr(found, name) for name in found._fields}
    monkeypatch.setattr(sandlock, "_kernel_flags", lambda: sandlock._KernelFlags(**dict(flags, marks_ranges=False)))
    fd = os.open("/etc/passwd", os.O_RDONLY)
    try:
        os.set_inheritable(fd, True)
        command = ["readlink", "/proc/self/fd/%d" % fd]
        assert subprocess.run(command, stdout=subprocess.PIPE, close_fds=False).stdout == b"/etc/passwd\n"
        assert box().run(command).exit_code == 1
        assert fd in [int(word) for word in os.listdir("/proc/self/fd")]  # of the host nothing was closed
    finally:
        os.close(fd)


SENDMMSG = r"""
import ctypes, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
names = [struct.pack("=H", 1) + b"\0" + name.encode() for name in sys.argv[1:]]
inside = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); inside.bind("\0" + sys.argv[1])
keep, headers = [], b""
for name in names:
    name, data = ctypes.create_string_buffer(name, len(name)), ctypes.create_string_buffer(b"x", 1)
    vector = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(data), 1))
    headers += struct.pack("=QIxxxxQQQQIxxxxQ", ctypes.addressof(name), len(name), ctypes.addressof(vector), 1, 0, 0, 0, 0)
    keep += [name, data, vector]
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for sent in libc.sendmmsg(sock.fileno(), headers, len(names), 0), libc.sendmmsg(sock.fileno(), headers[64:], 1, 0):
    print(sent, ctypes.get_errno() if sent < 0 else 0)  # musl sends them one by one
"""


@requires_abi(1)
def test_sendmmsg_reaches_no_abstract_socket_outside(monkeypatch):
    """Below ABI 6 the supervisor looks for the owner of each."""
    from support import box
    found, name = sandlock.landlock_abi_version(), "sandlock-%d" % os.getpid()
    monkeypatch.setattr(sandlock, "landlock_abi_version", lambda: min(found, 5))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outside:
        outside.bind("\0" + name)
        outside.setblocking(False)
        result = box(net_allow=["unix://"]).run([sys.executable, "-S", "-c", SENDMMSG, name + "-in", name])
        assert result.stdout == b"1 0\n-1 1\n", result
        with pytest.raises(BlockingIOError):
            outside.recv(1)
        host = subprocess.run([sys.executable, "-S", "-c", SENDMMSG, name + "-in", name], stdout=subprocess.PIPE)
        assert host.stdout == b"2 0\n1 0\n" and outside.recv(1) == b"x"  # the control


FORKS = """
import os, subprocess, sys, time
os.mkfifo("fifo")
program = subprocess.Popen(["d/" * 20 + "sh", "-c", "set -m; (while :; do read -t 100 x <> fifo; done) & echo $!; read x <> fifo"], stdout=-1)  # a group of its own, no exec
pid = program.stdout.readline().decode().strip()
if "long" in sys.argv:
    for _ in range(20): os.rename("d", "d" * 250); os.chdir("d" * 250)
try: os.readlink("/proc/%s/exe" % pid); print(pid, 0)
except OSError as e: print(pid, e.errno)
"""


def forked_bash(tmp_path, sandbox_run, *words):
    """Whether what a copy of bash has forked in the sandbox is alive when the run has ended; its Result."""
    (tmp_path / ("d/" * 20)).mkdir(parents=True)
    shutil.copy(os.path.realpath(shutil.which("bash")), tmp_path / ("d/" * 20 + "sh"))
    result = sandbox_run([sys.executable, "-S", "-c", FORKS, *words])
    pid, error = map(int, result.stdout.split())
    assert error == (errno.ENAMETOOLONG if "long" in words else 0)
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            if b"while :" not in file.read():
                return False, result
    except (FileNotFoundError, ProcessLookupError):
        return False, result
    fd = sandlock._pidfd_open(pid)
    sandlock._pidfd_send_signal(fd, 9)
    os.close(fd)
    return True, result


@requires_abi(1)
@pytest.mark.skipif(not shutil.which("bash"), reason="not installed: bash")
@pytest.mark.parametrize("how", ["plain", "long"])
def test_nobody_hides_behind_a_path_that_is_too_long(tmp_path, monkeypatch, how):
    """Below ABI 6 the supervisor tells who is inside by whose program it may ask for."""
    from support import box
    found = sandlock.landlock_abi_version()
    monkeypatch.setattr(sandlock, "landlock_abi_version", lambda: min(found, 5))
    lives, result = forked_bash(tmp_path, lambda words: box(tmp_path, cwd=tmp_path).run(words, timeout=60), how)
    assert not lives and not result.error, result


@requires_abi(1)
@pytest.mark.skipif(not shutil.which("bash"), reason="not installed: bash")
@pytest.mark.parametrize("abi", [5, 99])
def test_a_sweep_without_descriptors_is_done_or_said(tmp_path, monkeypatch, abi):
    """Another thread of the host has taken the last ones between the list of processes and a look at them."""
    from support import box
    found, limits = sandlock.landlock_abi_version(), resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(sandlock, "landlock_abi_version", lambda: min(found, abi))
    taken, listed, ended = [], sandlock._listed_processes, sandlock._Supervisor._sweep

    def take():
        while taken:
            os.close(taken.pop())
        pids = listed()
        if sweeping:
            try:
                while True:
                    taken.append(os.dup(1))
            except OSError:
                pass
        return pids
    sweeping = []
    monkeypatch.setattr(sandlock._Supervisor, "_sweep", lambda self: sweeping.append(1) or ended(self))
    monkeypatch.setattr(sandlock, "_listed_processes", take)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 30, limits[1]))
    try:
        result = []
        lives, _ = forked_bash(tmp_path, lambda words: result.append(box(tmp_path, cwd=tmp_path).run(words, timeout=60)) or [
            os.close(taken.pop()) for _ in taken[:]] and result[0], "plain")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert sweeping and (not lives or result[0].error), result


VFORKING = """
import os, subprocess
for i in range(60):
    os.chdir("/usr" if i % 2 else "/etc")
    subprocess.run(["/bin/true", str(i)], close_fds=False)
    try: os.execv("/etc/passwd", ["no"])
    except PermissionError: continue
print(os.getcwd())
"""


@requires_abi(1)
def test_exec_and_chdir_where_a_stop_ends_the_waiting(without_killable_waits):
    """Linux 5.13 to 5.18. Each is asked once; a task that vforks next is held until its child executes."""
    from support import box
    seen = []
    result = box(policy_fn=lambda event, ctx: seen.append(event), policy_events=["execve", "chdir"]).run(
        [sys.executable, "-I", "-S", "-c", VFORKING], timeout=60)
    assert result.stdout == b"/usr\n" and not result.policy_errors and not result.error, result
    assert [e.argv[1] for e in seen if e.path and e.path.endswith("/true")] == [str(i) for i in range(60)]
    assert sum(e.syscall == "chdir" for e in seen) == sum(e.argv == ("no",) for e in seen) == 60


@pytest.fixture
def without_killable_waits(monkeypatch):
    found = sandlock._kernel_flags()
    flags = {name: getattr(found, name) for name in found._fields}
    monkeypatch.setattr(sandlock, "_kernel_flags", lambda: sandlock._KernelFlags(**dict(flags, waits_killably=False)))
    raw = sandlock._raw

    def late(nr, *args):  # the task is wherever it is by now
        if (nr,) + args[:1] == (sandlock._NR["ptrace"], sandlock.PTRACE_INTERRUPT):
            time.sleep(0.01)
        return raw(nr, *args)
    monkeypatch.setattr(sandlock, "_raw", late)


@requires_abi(1)
@pytest.mark.parametrize("fields", [dict(explain=True), dict(fs_denied=["/none"]), dict(policy_fn=lambda e, c: None), {}])
def test_where_the_kernel_does_not_tell_whose_a_request_is(monkeypatch, fields):
    """Linux below 6.13: the supervisor looks into /proc."""
    monkeypatch.setattr(sandlock._Tasks, "find", lambda self, tid: None)
    result = Sandbox(fs_readable=SYSTEM_PATHS, **fields).run(["sh", "-c", "cat /dev/null; cat /etc/hostname >/dev/null && echo done"])
    assert result.stdout == b"done\n" and not result.stderr, result


@requires_abi(1)
@pytest.mark.parametrize("abi", [5, 99])
def test_a_thread_that_has_ended_lends_its_number_to_nobody(tmp_path, monkeypatch, abi):
    """Whose thread a number is was asked before it is used: by then it may be one of the host's, or of others."""
    from support import box
    found = sandlock.landlock_abi_version()
    monkeypatch.setattr(sandlock, "landlock_abi_version", lambda: min(found, abi))
    other = subprocess.Popen(["sleep", "100"])
    try:
        with box(tmp_path).popen(["sh", "-c", "sh -c 'echo; sleep 100; :'; :"], stdout=1) as process:
            process.stdout.read(1)
            supervisor, inside, status = process._supervisor, process.processes(), sandlock._task_status
            known = next(pid for pid in inside if supervisor.runners is None or supervisor.runners.get(pid))
            monkeypatch.setattr(sandlock, "_task_status", lambda tid: status(known if tid in (other.pid, os.getpid()) else tid))
            assert [supervisor.if_member(pid, lambda: "done", "outside") for pid in [other.pid, os.getpid(), *inside]] == ["outside"] * 2 + ["done"] * len(inside)
    finally:
        other.kill()
        other.wait()


def test_a_number_that_is_anothers_by_now_is_nobodys_of_the_sandbox():
    """An exec whose task has died while it waited to be received: its number may be a process of the host's."""
    import types
    outside = subprocess.Popen(["sleep", "60"])

    class Listener:
        over = True

        def check(self, request):
            if self.over:
                raise ProcessLookupError(2, "it does not wait any more")
    sup = types.SimpleNamespace(ending=False, runners=sandlock._ByProcess(), listener=Listener(), asked=(), denied=False, policy=sandlock.Policy())
    request = sandlock._Request(1, outside.pid, sandlock._NR["execve"], [0] * 6)
    request.task = sandlock._Task(outside.pid, outside.pid, 0)
    try:
        with pytest.raises(ProcessLookupError):
            sandlock._on_exec(sup, request)
        assert sup.runners.get(outside.pid) is None
        sup.listener.over = False
        assert sandlock._on_exec(sup, request) == sandlock._CONTINUE and sup.runners.get(outside.pid)  # the control
    finally:
        sup.runners.close()
        outside.kill()
        outside.wait()


PIDFD_SIGNALS = """
import ctypes, os, threading, time
libc, fd = ctypes.CDLL(None), os.pidfd_open(os.getpid())
def go(*args):
    while True: libc.syscall(*args)
for i in range(12): threading.Thread(target=go, args=(424, fd, 0, None, 0), daemon=True).start()
threading.Thread(target=go, args=(NR, 0, 0), daemon=True).start()
time.sleep(100)
""".replace("NR", str(sandlock._NR["kill"]))


@requires_abi(1)
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs os.pidfd_open (Python 3.9)")
def test_descriptors_of_signals_that_wait_are_closed_with_the_run(monkeypatch):
    from support import box, clean, eventually, snapshot
    found, before = sandlock.landlock_abi_version(), snapshot()
    monkeypatch.setattr(sandlock, "landlock_abi_version", lambda: min(found, 5))
    for _ in range(1 if THIN else 4):
        result = box().run([sys.executable, "-I", "-S", "-c", PIDFD_SIGNALS], timeout=8 if THIN >= 100 else 0.5)
        assert result.reason == sandlock.ExitReason.TIMEOUT and eventually(lambda: clean(before)), (before, snapshot())
