"""Escapes, each with the control that the same payload wins where nothing holds it."""
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import sandlock
from sandlock import Sandbox, SYSTEM_PATHS
from support import (ROOT, THIN, once, rounds, answering, box, compiled, eventually, exists, python, requires_abi, requires_root,
                     clean, snapshot, unix_listener)

pytestmark = requires_abi(1)

# From its first instruction on (no libc before it runs, static): every thread of the parent, by
# signal 0, mem, maps, environ, fd. Exit status: 1 when anything could be reached.
PROBE = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
static int reached(int host, int tid) {
    static const char *names[] = {"mem", "maps", "environ", "fd/0", "fd/1", "fd/3", "fd/5", "cwd", "exe", 0};
    char path[200], byte[64]; int hits = 0;
    if (!kill(tid, 0)) { hits++; printf("kill %d\n", tid); }
    if (!syscall(SYS_tgkill, host, tid, 0)) { hits++; printf("tgkill %d\n", tid); }
    for (int i = 0; names[i]; i++) {
        snprintf(path, sizeof path, "/proc/%d/task/%d/%s", host, tid, names[i]);
        if (i > 2 && readlink(path, byte, sizeof byte) > 0) { hits++; printf("readlink %s\n", path); }
        int fd = open(path, i > 6 ? O_PATH : O_RDONLY | O_NONBLOCK);
        if (fd < 0) continue;
        if ((i != 1 && i != 2) || read(fd, byte, 1) > 0) { hits++; printf("open %s\n", path); }
        close(fd);
    }
    return hits;
}
int main(int n, char **a) {
    char tasks[100]; int host = n > 1 ? atoi(a[1]) : getppid(), hits = 0, threads = 0;
    snprintf(tasks, sizeof tasks, "/proc/%d/task", host);
    for (int round = 0; round < 3; round++) {
        DIR *d = opendir(tasks); struct dirent *e;
        if (!d) { printf("no /proc\n"); return 2; }
        while ((e = readdir(d))) if (e->d_name[0] != '.') { threads++; hits += reached(host, atoi(e->d_name)); }
        closedir(d);
    }
    if (!kill(host, 0)) { hits++; printf("kill host\n"); }
    return hits ? 1 : threads ? 0 : 2;
}
"""


@requires_abi(1)
@pytest.mark.parametrize("mode", ["ptrace", "SIGSTOP", "user"])
def test_no_thread_of_the_host_is_ever_within_reach(mode, monkeypatch):
    if mode == "user" and not ROOT:
        pytest.skip("needs root")
    probe = compiled(PROBE, "-static")
    if mode == "SIGSTOP":  # where ptrace is refused
        if not sandlock._kernel_flags().waits_killably:
            pytest.skip("needs Linux 5.19")
        original = sandlock._call
        monkeypatch.setattr(sandlock, "_call", lambda name, *a: (_ for _ in ()).throw(
            PermissionError(1, "refused")) if name == "ptrace" else original(name, *a))
    sandbox = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(probe),),
                      **({"user": "1234:1234"} if mode == "user" else {}))
    for i in range(rounds(1000)):
        result = sandbox.run([probe])
        assert result.exit_code == 0, result
    assert subprocess.run([probe], stdout=subprocess.PIPE).returncode == 1  # the control


@requires_abi(1)
def test_the_stop_before_the_first_instruction_is_what_protects(monkeypatch):
    """The positive control of the test above: without the stop the launch pad can be reached."""
    probe = compiled(PROBE, "-static")
    sandbox = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(probe),))
    monkeypatch.setattr(sandlock._Supervisor, "_stop_at_exec", lambda self: True)
    monkeypatch.setattr(sandlock._Supervisor, "_let_go", lambda self, traced: None)
    original = sandlock._spawn

    def slow(launch, listener, tell):
        try:
            return original(launch, listener, tell)
        finally:
            sandlock._raw(sandlock._NR["getppid"])
            time.sleep(0.02)

    monkeypatch.setattr(sandlock, "_spawn", slow)
    assert any(sandbox.run([probe]).exit_code == 1 for _ in range(20))


@requires_abi(1)
@requires_root
def test_as_a_user_no_thread_of_the_host_is_within_reach():
    probe = compiled(PROBE, "-static")
    code = ("import sys, types; m = types.ModuleType('sandlock'); sys.modules['sandlock'] = m\n"
            "exec(sys.stdin.read(), m.__dict__)\nbox = m.Sandbox(fs_readable=m.SYSTEM_PATHS + (%r,))\n"
            "print({box.run([%r]).exit_code for _ in range(%d)})" % (os.path.dirname(probe), probe, rounds(1000)))
    with open(sandlock.__file__) as source:
        host = subprocess.run(["setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups",
                               "/usr/bin/python3", "-c", code], stdin=source, stdout=subprocess.PIPE, cwd="/")
    assert host.stdout == b"{0}\n"


RESOURCES = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for tid in sys.argv[2:]:
    for nr, args in ((%d, (int(tid), 7, 0, 0)), (%d, (int(tid), 8, b"\\xff" * 8)), (%d, (0, int(tid), 5))):
        print(libc.syscall(nr, *args), ctypes.get_errno())
print(libc.syscall(%d, os.getpid(), 7, 0, 0), 0)
""" % tuple(sandlock._NR[n] for n in ("prlimit64", "sched_setaffinity", "setpriority", "prlimit64"))


def test_limits_priority_and_affinity_of_others_are_out_of_reach():
    outsider = subprocess.Popen(["sleep", "100"])
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        targets = [str(n) for n in (outsider.pid, os.getpid(), thread.native_id, 1, 2 ** 31 - 1)]
        lines = box().run(["python3", "-c", RESOURCES, "x"] + targets).stdout.splitlines()
        assert lines == [b"-1 1"] * 15 + [b"0 0"]
    finally:
        stop.set()
        outsider.kill()
        outsider.wait()


SIGIO = """
import fcntl, os, signal, sys, time
target = int(sys.argv[1])
for fd in [1023] * os.path.exists("/proc/self/fd/1023") + list(os.pipe()):
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, int(signal.SIGUSR1)); fcntl.fcntl(fd, fcntl.F_SETOWN, target)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError as e: print(e)
os.write(fd, b"x")
for send in (lambda: os.kill(target, 10), lambda: signal.pidfd_send_signal(os.pidfd_open(target), 10)):
    try: send(); print("sent")
    except OSError: pass
"""


@requires_abi(1)
@pytest.mark.skipif(sys.version_info < (3, 9), reason="needs os.pidfd_open, Python 3.9")
def test_no_signal_reaches_the_outside():
    hits = []
    previous = signal.signal(signal.SIGUSR1, lambda *_: hits.append(1))
    try:
        result = box().run(python(SIGIO, str(os.getpid())))
        assert result.success and set(result.stdout.splitlines()) <= {b"[Errno 1] Operation not permitted"} and not hits, result
        subprocess.run(python(SIGIO, str(os.getpid())))
        assert eventually(lambda: len(hits) > 0)  # the control
    finally:
        signal.signal(signal.SIGUSR1, previous)


@requires_abi(1)
def test_abstract_sockets_reach_the_sandbox_itself_only():
    name = "sandlock-test-%d" % os.getpid()
    code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('\\0' + sys.argv[1]); print('in')"
    own = ("import socket, sys; l = socket.socket(socket.AF_UNIX); l.bind('\\0' + sys.argv[1] + 'x'); l.listen()\n"
           "s = socket.socket(socket.AF_UNIX); s.connect('\\0' + sys.argv[1] + 'x'); print('in')")
    with unix_listener("\0" + name):
        assert b"PermissionError" in box().run(python(code, name)).stderr
        assert box().run(python(own, name)).stdout == b"in\n"
        assert subprocess.run(python(code, name), stdout=subprocess.PIPE).stdout == b"in\n"


CONNECT = """
import os, socket, sys
for path in sys.argv[1:]:
    s = socket.socket(socket.AF_UNIX)
    try: s.connect(path); print("in", s.recv(2))
    except OSError as e: print(type(e).__name__)
"""


def test_unix_sockets_by_path_only_beneath_writable(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir(), outside.mkdir()
    (inside / "link").symlink_to(outside / "s")
    (outside / "back").symlink_to(inside / "s")
    (inside / "plain").write_text("")
    with contextlib.ExitStack() as stack:
        for folder in (inside, outside):
            stack.enter_context(unix_listener(str(folder / "s"), answer=b"ok"))
        os.link(str(outside / "s"), str(inside / "hard"))
        sandbox = Sandbox(fs_readable=SYSTEM_PATHS + (str(outside),), fs_writable=[inside], cwd=str(inside))
        paths = ["s", str(inside / "s"), str(outside / "back"), str(inside / ".." / "in" / "s"),
                 str(outside / "s"), "link", "../out/s", "/proc/self/cwd/../out/s",
                 "/proc/%d/root%s" % (os.getpid(), outside / "s"), "plain", "nothing"]
        lines = sandbox.run(["python3", "-c", CONNECT] + paths, timeout=30).stdout.decode().split("\n")[:-1]
        assert lines[:4] == ["in b'ok'"] * 4 and lines[4:7] == ["PermissionError"] * 3, lines
        assert not any(line.startswith("in") for line in lines[7:])
        assert lines[9:] == ["ConnectionRefusedError", "FileNotFoundError"]
        outer = subprocess.run(["python3", "-c", CONNECT] + paths[4:7], cwd=str(inside), stdout=subprocess.PIPE)
        assert outer.stdout == b"in b'ok'\n" * 3  # the control


FLIP = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
static struct sockaddr_un shown = {AF_UNIX}; static const char *good, *bad; static volatile int stop;
static void *flip(void *x) { while (!stop) { strcpy(shown.sun_path, good); strcpy(shown.sun_path, bad); } return 0; }
int main(int n, char **a) {
    pthread_t t; int hits = 0, fine = 0; char byte; good = a[1]; bad = a[2]; strcpy(shown.sun_path, good);
    pthread_create(&t, 0, flip, 0);
    for (int i = atoi(a[3]); i > 0; i--) {
        int s = socket(AF_UNIX, SOCK_STREAM, 0);
        if (!connect(s, (void *)&shown, sizeof shown) && read(s, &byte, 1) == 1) byte == 'B' ? hits++ : fine++;
        close(s);
    }
    stop = 1; pthread_join(t, 0);
    printf("%d %d\n", hits, fine); return 0;
}"""


def test_an_address_that_flips_is_connected_as_it_was_judged(tmp_path):
    payload = compiled(FLIP, "-pthread")
    inside, outside = tmp_path / "in", tmp_path / "ou"
    inside.mkdir(), outside.mkdir()
    with unix_listener(str(inside / "s"), answer=b"G"), unix_listener(str(outside / "s"), answer=b"B"):
        command = [payload, str(inside / "s"), str(outside / "s")]
        sandbox = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), fs_writable=[inside])
        for _ in range(8):  # the scheduler decides how often the good one is met
            hits, fine = map(int, sandbox.run(command + [str(rounds(3000))], timeout=60).stdout.split())
            assert hits == 0
            if fine:
                break
        assert fine > 0
        wins = (int(subprocess.run(command + ["3000"], stdout=subprocess.PIPE).stdout.split()[0]) for _ in range(20))
        assert any(wins)  # the control: outside, the flip wins now and then


def test_a_full_backlog_holds_up_only_its_own_task(tmp_path):
    path = str(tmp_path / "s")
    code = ("import socket, sys, threading\ndef one():\n    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
            "for i in range(5): threading.Thread(target=one, daemon=True).start()\n"
            "import time; time.sleep(0.5)\nimport subprocess; print(subprocess.call(['true'])); sys.stdout.flush()\n"
            "import os; os._exit(0)")
    with unix_listener(path, backlog=0):
        assert box(tmp_path).run(["python3", "-c", code, path], timeout=20).stdout == b"0\n"
    with unix_listener(path + "2", backlog=0) as server:
        process = box(tmp_path).popen(["python3", "-c", CONNECT] + [path + "2"] * 3, stdout=1)
        time.sleep(0.2)
        with answering(server, b"ok"):
            assert process.wait(timeout=20).stdout == b"in b'ok'\n" * 3


@requires_root
def test_no_setuid_gain(tmp_path):
    tmp_path.chmod(0o755)
    suid = tmp_path / "suid"
    subprocess.run(["cp", "/usr/bin/id", str(suid)], check=True)
    suid.chmod(0o4755)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    command = [str(suid), "-u"]
    inside = Sandbox(fs_readable=SYSTEM_PATHS + (str(tmp_path),), user="1234:1234").run(command)
    assert inside.stdout == b"1234\n"
    outside = subprocess.run(["setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups"] + command,
                             stdout=subprocess.PIPE)
    assert outside.stdout == b"0\n"  # the control


def test_no_descriptor_of_the_parent_is_inside(tmp_path):
    secret = os.open("/etc/passwd", os.O_RDONLY)
    try:
        os.set_inheritable(secret, True)
        out = box().run(["sh", "-c", "ls -l /proc/self/fd"]).stdout.decode()
    finally:
        os.close(secret)
    assert "passwd" not in out and "seccomp" not in out and "landlock" not in out
    numbers = {line.split(" -> ")[0].split()[-1] for line in out.splitlines() if " -> " in line}
    assert numbers <= {"0", "1", "2", "3", "1023"}


def test_a_program_that_closes_everything_is_cleaned_up_all_the_same():
    before = snapshot()
    code = "import os, time\nos.closerange(0, 5000)\nif os.fork(): os._exit(0)\nos.setsid()\ntime.sleep(100)"
    assert box().run(["python3", "-c", code]).success and clean(before)


def test_parallel_forks_do_not_overshoot():
    payload = compiled(r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
int main(void) {
    struct rlimit cpu = {3, 3}; setrlimit(RLIMIT_CPU, &cpu);
    for (int i = 0; i < 6; i++) fork();
    for (int i = 0; i < 20; i++) { if (fork() == 0) break; }
    sleep(100); return 0; }""")
    for _ in range(5):
        process = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), max_processes=10).popen([payload])
        assert eventually(lambda: len(process.processes()) >= 10)
        assert max(len(process._signal_all(0)) for _ in range(30)) <= 10
        process.kill()
        process.wait()


GROUP = """
import os, sys
host = int(sys.argv[1])
try: os.setpgid(0, host); print("joined")
except PermissionError: print("refused")
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0); os.setpgid(os.getpid(), os.getpid()); os._exit(7)
print(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))
"""


def test_the_hosts_process_group_cannot_be_joined():
    """Whoever is in it gets the signals that the kernel itself sends to groups (SIGHUP, SIGTTIN)."""
    code = ("import sys, os; sys.path.insert(0, %r)\nfrom sandlock import *\n"
            "Sandbox(fs_readable=SYSTEM_PATHS).run_interactive(['python3', '-c', %r, str(os.getpgrp())])"
            % (os.path.dirname(sandlock.__file__), GROUP))
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE).stdout == b"refused\n7\n"
    outside = subprocess.run([sys.executable, "-c", GROUP, str(os.getpgrp())], stdout=subprocess.PIPE)
    assert outside.stdout.startswith(b"joined")  # the control


BLOCKER = r"""
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
static int s; static void *flip(void *x) { for (;;) fcntl(s, F_SETFL, 0); }
int main(int n, char **a) {
    struct sockaddr_un u = {AF_UNIX}; struct rlimit cpu = {20, 20}; pthread_t t;
    setrlimit(RLIMIT_CPU, &cpu); strcpy(u.sun_path, a[1]);
    int l = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(l, (void *)&u, sizeof u); listen(l, 0);
    if (fork()) { sleep(100); }
    setsid(); if (fork()) { sleep(100); }
    s = socket(AF_UNIX, SOCK_STREAM, 0); connect(s, (void *)&u, sizeof u);
    s = socket(AF_UNIX, SOCK_STREAM, 0);
    pthread_create(&t, 0, flip, 0); pthread_create(&t, 0, flip, 0);
    puts("now"); fflush(stdout);
    connect(s, (void *)&u, sizeof u); sleep(100);
}"""


def test_a_connect_that_blocks_does_not_keep_the_sandbox_alive(tmp_path):
    payload, before = compiled(BLOCKER, "-pthread"), snapshot()
    sandbox = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), fs_writable=[tmp_path])
    result = sandbox.run([payload, str(tmp_path / "s")], timeout=3)
    assert result.reason == sandlock.ExitReason.TIMEOUT and result.stdout == b"now\n" and result.duration < 12
    assert result.error is None and eventually(lambda: clean(before))


SLOW_FORK = r"""
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
static volatile int go; static void *one(void *x) { while (!go); syscall(SYS_clone, 17, 0, 0, 0, 0); sleep(100); return 0; }
int main(void) {
    struct rlimit cpu = {20, 20}; pthread_t t; setrlimit(RLIMIT_CPU, &cpu);
    size_t size = 300 << 20; char *p = mmap(0, size, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(p, size, MADV_NOHUGEPAGE); memset(p, 1, size);
    for (int i = 0; i < 40; i++) pthread_create(&t, 0, one, 0);
    go = 1; sleep(100);
}"""


@pytest.mark.skipif(sandlock._ARCH.name != "x86_64", reason="the raw clone has x86_64's arguments")
def test_forks_that_take_long_do_not_overshoot():
    payload = compiled(SLOW_FORK, "-pthread")
    sandbox = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), max_processes=10)
    with sandbox.popen([payload]) as process:
        assert eventually(lambda: process._supervisor.denials)
        assert eventually(lambda: len(process.processes()) > 5, 30)
        assert all(len(process.processes()) <= 10 for _ in range(40) if not time.sleep(0.05))


FORKS = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static void handler(int x) {}
int main(int n, char **a) {
    struct sigaction sa = {0}; int failed = 0; sa.sa_handler = handler; sigaction(SIGCHLD, &sa, 0);
    for (int i = atoi(a[1]); i > 0; i--) {
        pid_t p = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);  /* fork(3) blocks all signals from glibc 2.41 on */
        if (p == 0) { usleep(i % 40 * 50); _exit(0); } if (p < 0) failed++;
        while (waitpid(-1, 0, WNOHANG) > 0);
    }
    printf("%d\n", failed); return 0;
}"""


def test_forks_are_not_interrupted_by_the_end_of_children(monkeypatch):
    payload = compiled(FORKS)
    sandbox = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), max_processes=2000)
    command = [payload, str(max(300, rounds(3000)))]
    assert sandbox.run(command, timeout=60).stdout == b"0\n"
    monkeypatch.setitem(sandlock._HANDLERS, "rt_sigaction",
                        (lambda sup, request: sandlock._CONTINUE, False, sandlock._always, None))
    assert any(sandbox.run(command, timeout=60).stdout != b"0\n" for _ in range(10))  # the control


def test_cpu_cores_cannot_be_widened():
    code = "import os\ntry: os.sched_setaffinity(0, range(64)); print('widened')\nexcept PermissionError: print('refused')"
    core = min(os.sched_getaffinity(0))
    assert box(cpu_cores=[core]).run(["python3", "-c", code]).stdout == b"refused\n"
    assert box().run(["python3", "-c", code]).stdout == b"widened\n"


SIGACTION = r"""
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
    long *act = mmap(0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); act[0] = (long) SIG_IGN;
    mprotect(act, 4096, PROT_READ);
    printf("%ld ", syscall(SYS_rt_sigaction, SIGCHLD, act, 0, 8));
    printf("%d ", syscall(SYS_rt_sigaction, SIGCHLD, 1L, 0, 8) < 0 ? errno : 0);
    prctl(PR_SET_DUMPABLE, 0);
    printf("%d\n", sigaction(SIGCHLD, &(struct sigaction){0}, 0)); return 0;
}"""


def test_setting_a_handler_never_fails_because_of_us():
    payload = compiled(SIGACTION)
    outside = subprocess.run([payload], stdout=subprocess.PIPE).stdout
    sandbox = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),))
    assert sandbox.run([payload]).stdout == outside == b"0 14 0\n"


def test_the_oracle_outlives_a_failing_job():
    """What fails on the broker is told, and the clean-up still finds everybody."""
    process = box().popen(["sh", "-c", "(setsid sleep 100 &); echo up; sleep 100"], stdout=1)
    assert process.stdout.read(3) == b"up\n"
    process._supervisor.broker.mailbox.post(lambda: 1 / 0)
    assert eventually(lambda: len(process.processes()) >= 3)
    pids = process.processes()
    process.kill()
    result = process.wait()
    assert "ZeroDivisionError" in result.error and not any(sandlock._is_alive(pid) for pid in pids)


# -- found by an attacker ------------------------------------------------------------------------

PLANT = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
int main(int n, char **a) {
    const char *names[] = {"ipaddress", "socket", "pwd", "resource", "traceback", "linecache", 0};
    for (int i = 0; names[i]; i++) {
        char file[4096]; snprintf(file, sizeof file, "%s/%s.py", a[1], names[i]);
        FILE *f = fopen(file, "w"); fprintf(f, "open('%s/planted', 'w')\n", a[1]); fclose(f);
    }
    struct sockaddr_in in = {AF_INET, htons(9), {htonl(0x7f000001)}};
    return connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&in, sizeof in) ? 7 : 0;
}"""
HOST_WITH_WRITABLE_PATH = """
import sys
sys.path.insert(0, %r)
from sandlock import Sandbox
import os
def fn(event, ctx):
    ctx.restrict_network(["127.0.0.1", "10.0.0.0/8", "::1"]); ctx.current()
folder = %r
sys.path.insert(0, folder)
before = None
box = Sandbox(fs_readable=%r, fs_writable=[folder], policy_fn=fn)
for _ in range(2):
    result = box.run([%r, folder])
    before = before or set(sys.modules)
print(result.exit_code, [d.event.port for d in result.denials][:1], sorted(set(sys.modules) - before))
"""


def test_nothing_is_imported_while_a_program_runs(tmp_path):
    """A module planted in a writable directory of sys.path would be run by the host."""
    payload = compiled(PLANT)
    code = HOST_WITH_WRITABLE_PATH % (os.path.dirname(sandlock.__file__), str(tmp_path),
                                      SYSTEM_PATHS + (os.path.dirname(payload),), payload)
    host = subprocess.run([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
    assert host.stdout == b"7 [9] []\n" and not (tmp_path / "planted").exists()
    control = subprocess.run([sys.executable, "-S", "-c", "import sys; sys.path.insert(0, %r); import ipaddress"
                              % str(tmp_path)])
    assert control.returncode == 0 and (tmp_path / "planted").exists()


@pytest.mark.skipif(not ROOT, reason="needs root")
def test_the_host_cannot_be_killed_by_the_user_it_runs_as(tmp_path):
    probe = ("import os, signal, sys\nfor tid in os.listdir('/proc/%s/task' % sys.argv[1]):\n"
             "    try:\n        os.kill(int(tid), 0); print('reached')\n    except PermissionError: pass\n"
             "    try:\n        import resource; resource.prlimit(int(tid), resource.RLIMIT_NOFILE, (9, 9)); print('limited')\n"
             "    except PermissionError: pass\n")
    with box(user="1234:1234").popen(["sleep", "100"]) as process:
        run = lambda pid: subprocess.run(["setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups",
                                          "/usr/bin/python3", "-c", probe, str(pid)], stdout=subprocess.PIPE).stdout
        assert run(os.getpid()) == b""
        assert run(process.pid) == b"reached\nlimited\n"  # the control
    status = box(user="1234:1234").run(["cat", "/proc/self/status"]).stdout
    assert b"Uid:\t1234\t1234\t1234\t1234" in status and b"CapPrm:\t0000000000000000" in status


def test_leases_and_terminal_disciplines_are_refused(tmp_path):
    code = ("import fcntl, os\n"
            "fd = os.open('%s', os.O_RDONLY)\n"
            "for name, number in (('lease', 1024), ('deleg', 1040)):\n"
            "    try: fcntl.fcntl(fd, number, fcntl.F_RDLCK); print(name, 'taken')\n"
            "    except PermissionError: print(name, 'EPERM')\n"
            "    except OSError as e: print(name, e.errno)\n" % (tmp_path / "file"))
    (tmp_path / "file").write_text("x")
    os.chown(tmp_path / "file", os.geteuid(), -1)
    assert box(fs_readable=SYSTEM_PATHS + (tmp_path,)).run([sys.executable, "-c", code]).stdout == b"lease EPERM\ndeleg EPERM\n"
    outside = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE).stdout
    assert outside.startswith(b"lease taken\n")  # the control


WATCH = r"""
#include <errno.h>
#include <stdio.h>
#include <sys/inotify.h>
int main(int n, char **a) {
    int fd = inotify_init1(0), wd = inotify_add_watch(fd, a[1], IN_ALL_EVENTS);
    printf("%s\n", wd < 0 ? "refused" : "watching"); return 0;
}"""


def test_only_what_may_be_read_may_be_watched(tmp_path):
    payload, secret = compiled(WATCH), tmp_path / "secret"
    secret.mkdir()
    granted = SYSTEM_PATHS + (os.path.dirname(payload),)
    refused = Sandbox(fs_readable=granted).run([payload, str(secret)])
    assert refused.stdout == b"refused\n" and refused.denials[0].field == "fs_readable"
    assert refused.denials[0].event.path == str(secret)
    assert Sandbox(fs_readable=granted + (secret,)).run([payload, str(secret)]).stdout == b"watching\n"


CYCLE = """
import sys, time
sys.path.insert(0, %r)
from sandlock import Sandbox, SYSTEM_PATHS, StdioMode
import gc, os
class Ring: pass
ring = Ring(); ring.self = ring
ring.process = Sandbox(fs_readable=SYSTEM_PATHS, max_processes=3).popen(
    ["python3", "-S", "-c", "import os, time\\nfor _ in range(2):\\n  if os.fork() == 0: os.setsid(); time.sleep(50)\\n"
     "while True:\\n  try: os.fork(); time.sleep(50)\\n  except OSError: pass"])
for _ in range(2000):  # 20 s
    time.sleep(0.01)
    pids = ring.process.processes()
    if len(pids) == 3: break
gc.set_threshold(5)
del ring
for _ in range(2000):
    time.sleep(0.01)
    if not any(os.path.exists("/proc/%%d" %% pid) for pid in pids): break
print("gone" if len(pids) > 1 and not any(os.path.exists("/proc/%%d" %% pid) for pid in pids) else pids)
"""


def test_a_process_dropped_in_a_cycle_is_ended_whatever_thread_finds_it():
    host = subprocess.run([sys.executable, "-c", CYCLE % os.path.dirname(sandlock.__file__)],
                          stdout=subprocess.PIPE, timeout=60)
    assert host.stdout == b"gone\n"


LEAVES = """
import sys
sys.path.insert(0, %r)
from sandlock import Sandbox, SYSTEM_PATHS
import threading, time
process = Sandbox(fs_readable=SYSTEM_PATHS).popen(["sh", "-c", "setsid sleep 100 & sleep 100"])
while len(process.processes()) < 3: time.sleep(0.01)
print(*process.processes(), flush=True)
"""


def test_the_end_of_the_host_ends_daemons_too():
    host = subprocess.run([sys.executable, "-c", LEAVES % os.path.dirname(sandlock.__file__)],
                          stdout=subprocess.PIPE, timeout=60)
    pids = [int(n) for n in host.stdout.split()]
    assert len(pids) == 3 and eventually(lambda: not any(exists(pid) for pid in pids))


def test_the_host_may_change_its_ids_while_a_sandbox_lives():
    code = LEAVES % os.path.dirname(sandlock.__file__) + "os = __import__('os'); os.setgid(os.getgid()); print('set')"
    host = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60)
    assert host.stdout.endswith(b"set\n")


FORKING_HOST = """
import sys
sys.path.insert(0, %r)
from sandlock import Sandbox, SYSTEM_PATHS
import fcntl, os, threading
stop, bad = [], []
def fork():
    while not stop:
        pid = os.fork()
        if pid == 0:
            for fd in os.listdir("/proc/self/fd"):
                if os.path.islink("/proc/self/fd/" + fd):
                    link, flags = os.readlink("/proc/self/fd/" + fd), fcntl.fcntl(int(fd), fcntl.F_GETFL)
                    if "seccomp" in link or "pipe" in link and flags & 3: os._exit(1)
            os._exit(0)
        bad.append(os.waitpid(pid, 0)[1])
os.closerange(3, 1000)  # what this host was given itself
os.close(0); os.open("/dev/null", 0)
for n in (1, 2): os.dup2(0, n)
thread = threading.Thread(target=fork); thread.start()
for _ in range(%d):
    with Sandbox(fs_readable=SYSTEM_PATHS).popen(["true"]) as p: p.wait()
stop.append(1); thread.join()
os._exit(9 if any(bad) else 0 if bad else 8)
"""


def test_a_fork_of_the_host_never_takes_a_listener_or_death_pipe_along():
    code = FORKING_HOST % (os.path.dirname(sandlock.__file__), max(15, rounds(150)))
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=120).returncode == 0


CLOSING_HOST = """
import sys
sys.path.insert(0, %r)
from sandlock import Sandbox, SYSTEM_PATHS
import os, subprocess
def opens_in_a_fork(fd):
    pid = os.fork()
    if pid == 0: os._exit(os.path.exists("/proc/self/fd/%%d" %% fd))
    return os.waitpid(pid, 0)[1] // 256
close, closing, seen = os.close, [], []
def watched(fd):
    if closing != [fd]: return close(fd)
    closing.clear()
    seen.append(opens_in_a_fork(fd))
    close(fd)
    os.dup2(0, fd)
    seen.append(opens_in_a_fork(fd))
    close(fd)
process = Sandbox(fs_readable=SYSTEM_PATHS).popen(["cat"], stdin=subprocess.PIPE)
os.close = watched
closing += process._supervisor.launching.lasting_fds[0][:1]
process.stdin.close()
process.wait()
print(*seen)
"""


def test_a_fork_while_the_death_pipe_is_closed_takes_neither_it_nor_leaves_what_has_its_number():
    code = CLOSING_HOST % os.path.dirname(sandlock.__file__)
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, timeout=60).stdout == b"0 1\n"


HELD_COPIES = """
import os, socket, sys, time
sys.path.insert(0, %r)
import sandlock
from sandlock import Sandbox, SYSTEM_PATHS
def sockets_and_pidfds():
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try: found.append(os.readlink("/proc/self/fd/" + fd))
        except OSError: pass
    return [name for name in found if name.startswith("socket:") or "pidfd" in name]
hold, go = os.pipe()
asked = []
def judge(event, ctx):
    if event.syscall == "connect": asked.append(1); os.read(hold, 1)
server = socket.create_server(("127.0.0.1", 0))
code = "import socket; socket.create_connection(('127.0.0.1', %%d))" %% server.getsockname()[1]
own = len(sockets_and_pidfds())
with Sandbox(fs_readable=SYSTEM_PATHS, net_allow=["127.0.0.1"], policy_fn=judge, policy_timeout=60).popen([sys.executable, "-S", "-c", code]) as process:
    deadline = time.monotonic() + 60
    while not asked and time.monotonic() < deadline: time.sleep(0.01)  # a copy of its socket is held
    print(len(sockets_and_pidfds()) > own + 1, flush=True)
    if os.fork() == 0:
        print(len(sockets_and_pidfds()) - own, flush=True)
        os._exit(0)
    os.wait()
    os.write(go, b"x")
    print(process.wait(timeout=60).exit_code)
"""


def test_a_fork_of_the_host_takes_no_copies_of_the_program_s_descriptors_along():
    code = HELD_COPIES % os.path.dirname(sandlock.__file__)
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, timeout=120).stdout == b"True\n0\n0\n"


FLOOD = """
import os, signal, time
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    block = b"x" * 65536
    while True: os.write(1, block)
"""


def test_what_others_write_into_the_pipe_at_the_end_is_not_waited_for(tmp_path):
    """A second sandbox that has got the pipe floods it."""
    code = ("import os, socket, array, sys\n"
            "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(1); c = s.accept()[0]\n"
            "c.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [1]))]); c.recv(1)\n"
            "import time; time.sleep(100)\n")
    flood = ("import os, socket, array, sys, time\ns = socket.socket(socket.AF_UNIX)\n"
             "while True:\n    try: s.connect(sys.argv[1]); break\n    except OSError: time.sleep(0.01)\n"
             "fd = array.array('i', socket.socket.recvmsg(s, 1, 100)[1][0][2])[0]; s.send(b'x')\n"
             "block = b'x' * 65536\nwhile True: os.write(fd, block)\n")
    writable = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path])
    name = str(tmp_path / "s")
    with writable.popen([sys.executable, "-c", flood, name], stderr=sandlock.StdioMode.NULL):
        result = writable.run([sys.executable, "-c", code, name], timeout=1)
    assert result.reason == sandlock.ExitReason.TIMEOUT and len(result.stdout) < 2 << 30
    assert result.error is None


STUCK = r"""
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
static int s; static void *flip(void *x) { for (;;) fcntl(s, F_SETFL, 0); }
int main(int n, char **a) {
    struct sockaddr_un u = {AF_UNIX}; struct rlimit cpu = {20, 20}; pthread_t t; int pair[2];
    setrlimit(RLIMIT_CPU, &cpu); strcpy(u.sun_path, a[1]);
    int fill = socket(AF_UNIX, SOCK_STREAM, 0); connect(fill, (void *)&u, sizeof u);
    fill = socket(AF_UNIX, SOCK_STREAM, 0);
    fcntl(fill, F_SETFL, O_NONBLOCK); connect(fill, (void *)&u, sizeof u);
    s = socket(AF_UNIX, SOCK_STREAM, 0);
    pthread_create(&t, 0, flip, 0);
    puts("now"); fflush(stdout);
    connect(s, (void *)&u, sizeof u); sleep(100);
}"""


def test_a_connect_that_blocks_for_ever_outside_is_interrupted(tmp_path):
    """The listener is the host's own and never accepts: nothing in the sandbox's end frees it."""
    payload, before = compiled(STUCK, "-pthread"), snapshot()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen(0)
        os.chmod(tmp_path / "s", 0o777)
        sandbox = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), fs_writable=[tmp_path])
        result = sandbox.run([payload, str(tmp_path / "s")], timeout=1)
        assert result.reason == sandlock.ExitReason.TIMEOUT and result.stdout == b"now\n"
        assert result.error is None and result.duration < 5
    assert eventually(lambda: clean(before))


@pytest.mark.skipif(not ROOT, reason="needs root (mounts proc in a namespace of its own)")
def test_hidepid_is_not_passed_over(tmp_path):
    code = ("import sys; sys.path.insert(0, %r)\nfrom sandlock import *\n"
            "try: Sandbox(fs_readable=SYSTEM_PATHS).run(['true']); print('ran')\n"
            "except UnsupportedError as e: print('refused')\n"
            "print(Sandbox(fs_readable=SYSTEM_PATHS, best_effort=True).run(['true']).unenforced)\n"
            % os.path.dirname(sandlock.__file__))
    user = ["setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups", "/usr/bin/python3", "-c", code]
    def under(option, user=user):
        return subprocess.run(["unshare", "-m", "--propagation", "private", "sh", "-c",
                               "mount -t proc -o %s proc /proc && exec \"$@\"" % option, "-"] + user,
                              stdout=subprocess.PIPE).stdout
    hidden = under("hidepid=2")
    if not hidden:
        pytest.skip("proc cannot be mounted here")
    assert hidden.startswith(b"refused\n") and b"finding" in hidden
    assert under("hidepid=0") == b"ran\n()\n"
    root = ["setpriv", "--bounding-set=-sys_ptrace", "/usr/bin/python3", "-c", code]  # root without what it takes
    assert under("hidepid=2", root).startswith(b"refused\n") and under("hidepid=2", root[2:]) == b"ran\n()\n"


@pytest.mark.skipif(not ROOT, reason="needs root (a pid namespace)")
def test_a_proc_of_another_pid_namespace_is_not_taken_for_ours():
    """What it shows are numbers of others here: a thread of the host's own, for one."""
    code = ("import sys; sys.path.insert(0, %r)\nfrom sandlock import *\nbox = Sandbox(fs_readable=SYSTEM_PATHS, best_effort=True)\n"
            "try: print(box.run(['echo', 'ran']).stdout)\nexcept UnsupportedError as e: print(e.feature)" % os.path.dirname(sandlock.__file__))
    def under(*options):
        return subprocess.run(["unshare", "-pf", *options, sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60).stdout
    if under("--mount-proc") != b"b'ran\\n'\n":
        pytest.skip("no pid namespace can be made here")
    assert under() == b"processes\n"


def test_the_access_mode_that_asks_for_nothing_is_refused(tmp_path):
    """open(2): 3 opens for ioctl alone, and Landlock asks for no right; also emptied a file so, below ABI 3."""
    (tmp_path / "f").write_text("precious")
    code = ("import fcntl, os, sys\nfor flags in (3, 3 | os.O_TRUNC, 3 | os.O_CREAT):\n    for path in sys.argv[1:]:\n"
            "        try: os.close(os.open(path, flags)); print('opened')\n        except OSError as e: print(e.errno)")
    command = python(code, str(tmp_path / "f"), "/dev/full")
    outside = subprocess.run(command, stdout=subprocess.PIPE).stdout  # the control
    assert b"opened" in outside
    (tmp_path / "f").write_text("precious")
    for fields in ({}, dict(fs_denied=["/nonexistent"]), dict(policy_fn=lambda e, c: None)):
        assert set(box(**fields).run(command).stdout.split()) == {b"13"}
    assert (tmp_path / "f").read_text() == "precious"


OTHERS = r"""
import ctypes, os, resource, signal, sys, time
libc, zero = ctypes.CDLL(None, use_errno=True), bytes(64)
def call(*args):  # musl's functions of these names only fail
    got = libc.syscall(*args)
    if got < 0: raise OSError(ctypes.get_errno(), "")
    return got
pid = os.fork()
if not pid:
    signal.signal(signal.SIGUSR1, lambda *a: os._exit(5)); time.sleep(30)
time.sleep(0.3); got = []
def ok(what, *args):
    try: return what(*args) or "ok"
    except OSError as e: return e.errno
print(ok(resource.prlimit, pid, resource.RLIMIT_NOFILE, (77, 88)), resource.prlimit(pid, resource.RLIMIT_NOFILE), ok(os.sched_setaffinity, pid, os.sched_getaffinity(0)), ok(os.setpriority, 0, pid, 15), os.getpriority(0, pid),
      ok(call, %d, pid, os.SCHED_BATCH, zero), call(%d, pid), ok(call, %d, pid, zero), ok(os.sched_setaffinity, os.getpid(), os.sched_getaffinity(0)))
os.kill(pid, signal.SIGUSR1); print(os.waitstatus_to_exitcode(os.wait()[1]) if hasattr(os, "waitstatus_to_exitcode") else os.wait and 5)
for what in (lambda: os.kill(int(sys.argv[1]), 15), lambda: os.killpg(int(sys.argv[2]), 15), lambda: resource.prlimit(int(sys.argv[1]), resource.RLIMIT_NOFILE, (50, 50)), lambda: os.setpriority(0, int(sys.argv[1]), 9)): print(ok(what))
""" % tuple(sandlock._NR["sched_" + name] for name in ("setscheduler", "getscheduler", "setparam"))


@pytest.mark.parametrize("abi", [5, 99])
def test_what_is_done_to_other_processes_is_done_on_behalf(abi, monkeypatch):
    """A number that the kernel looks up later could be another's by then; with a control outside."""
    found = sandlock.landlock_abi_version()
    monkeypatch.setattr(sandlock, "landlock_abi_version", lambda: min(found, abi))
    victim = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        words = [str(victim.pid)] * 2
        result = box().run([sys.executable, "-S", "-c", OTHERS, *words], timeout=30)
        lines = result.stdout.decode().splitlines()
        assert lines[0].endswith("(77, 88) ok ok 15 ok 3 ok ok"), result
        assert lines[1] == "5" and set(lines[2:]) == {"1"} and victim.poll() is None, result
        subprocess.run([sys.executable, "-S", "-c", OTHERS, *words], stdout=subprocess.PIPE)
        assert victim.wait(10) == -15
    finally:
        victim.kill()
        victim.wait()


def test_f_setsig_of_a_descriptor_that_the_host_owns():
    """It would pick the signal that the kernel sends the host."""
    import fcntl
    ours, theirs = socket.socketpair()
    with ours, theirs:
        code = "import fcntl, sys\ntry: fcntl.fcntl(0, fcntl.F_SETSIG, 15)\nexcept OSError as e: print(e.errno)"
        assert Sandbox(fs_readable=SYSTEM_PATHS).run([sys.executable, "-S", "-c", code], stdin=theirs).stdout == b"1\n"
        assert fcntl.fcntl(theirs, fcntl.F_GETSIG) == 0
        subprocess.run([sys.executable, "-S", "-c", code], stdin=theirs)  # the control
        assert fcntl.fcntl(theirs, fcntl.F_GETSIG) == 15


def test_argv_that_waits_takes_no_more_memory_than_is_set_aside(monkeypatch):
    """A thousand threads execute with 130,000 words each: the next ones wait unread."""
    taken, most = sandlock._Held.take, []

    def take(self, call):
        done = taken(self, call)
        most.append(self.size_bytes)
        return done
    monkeypatch.setattr(sandlock._Held, "take", take)
    source = ("#include <pthread.h>\n#include <stdlib.h>\n#include <unistd.h>\nstatic char *v[130001];\n"
              "static void *go(void *x) { for (;;) { execv(\"/nonexistent\", v); usleep(1000); } }\n"
              "int main() { for (int i = 0; i < 130000; i++) v[i] = \"word\"; pthread_t t;\n"
              "    for (int i = 0; i < 64; i++) pthread_create(&t, 0, go, 0); sleep(%d); _exit(0); }" % (40 if THIN >= 100 else 2))
    payload = compiled(source, "-pthread")
    before = int(open("/proc/self/statm").read().split()[1])
    result = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), policy_fn=lambda e, c: time.sleep(0.05), policy_events=["execve"]).run([payload], timeout=90 if THIN >= 100 else 30)
    assert result.success and len(most) > 1 and max(most) < sandlock._Held.LIMIT_BYTES + (40 << 20), (result.exit_code, result.error)
    assert (int(open("/proc/self/statm").read().split()[1]) - before) * 4096 < 400 << 20


# -- what holds the broker up --------------------------------------------------------------------------

SLOW_WRITER = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
static char *base; static size_t head = 4UL << 30, tail = 400UL << 20;
static void *storm(void *x) { int n = 0; for (;;) mprotect(base, head + tail, (n ^= 1) ? PROT_READ : PROT_READ | PROT_EXEC); }
int main(int n, char **a) {
    int f = open(a[1], O_CREAT | O_RDWR, 0600), ready[2]; char x; pipe(ready);
    if (!fork()) {  /* each page of what it writes takes long to come, and all the while the file's lock is held */
        setsid(); alarm(atoi(a[2]));
        base = mmap(0, head + tail, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        madvise(base, head + tail, MADV_NOHUGEPAGE); madvise(base, head, 22);  /* MADV_POPULATE_READ */
        for (int i = 0; i < 3; i++) { pthread_t t; pthread_create(&t, 0, storm, 0); }
        write(ready[1], "x", 1); write(f, base + head, tail); for (;;) pause();
    }
    read(ready[0], &x, 1); usleep(300000); write(1, "writes ", 7); chmod(a[1], 0640); write(1, "done", 4); return 0;
}"""


def test_a_lock_that_the_program_holds_does_not_outlast_the_run(tmp_path, monkeypatch):
    payload = compiled(SLOW_WRITER, "-pthread")
    fields = dict(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), fs_writable=[tmp_path], fs_denied=[tmp_path / "none"], max_file_size="500M")
    before = snapshot()

    def seconds():
        begun = time.monotonic()
        Sandbox(**fields).run([payload, str(tmp_path / "f"), "36" if THIN >= 100 else "9"], timeout=2)
        assert eventually(lambda: clean(before), 60)
        return time.monotonic() - begun
    assert seconds() < (30 if THIN >= 100 else 7)
    if not THIN:
        monkeypatch.setattr(sandlock._Broker, "appoint_deputy", lambda self: None)
        assert any(seconds() > 7 for _ in range(4))  # the control: until the program's own alarm


HELD_PIPE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
static char junk[1 << 16]; static const char *late;
static void end(int n) { close(open(late, O_CREAT | O_WRONLY, 0600)); _exit(0); }
int main(int n, char **a) {                  // splice(2) holds the pipe's lock while it waits for room in the socket
    int p[2], s[2], e[2]; late = a[1];
    if (pipe(p) || pipe(e) || socketpair(AF_UNIX, SOCK_STREAM, 0, s)) return 1;
    if (fork() == 0) {
        setsid(); signal(SIGALRM, end); alarm(atoi(a[2]));
        fcntl(s[0], F_SETFL, O_NONBLOCK);
        while (write(s[0], junk, sizeof junk) > 0);
        while (write(s[0], junk, 1) > 0);
        fcntl(s[0], F_SETFL, 0);
        write(p[1], junk, 4096); write(e[1], junk, 1);
        splice(p[0], 0, s[0], 0, 4096, 0);
        for (;;) pause();
    }
    read(e[0], junk, 1); usleep(300000);
    write(1, "now\n", 4);
    read(p[0], junk, 1);                     // uninterruptible, as the end of a process that has it open is
    return 0;
}"""


def test_who_keeps_the_first_process_from_dying_is_killed(tmp_path, monkeypatch):
    payload = compiled(HELD_PIPE)

    def run(seconds):
        return Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), fs_writable=[tmp_path]).popen(
            [payload, str(tmp_path / "late"), str(seconds)], stdout=1)
    before = snapshot()
    for end in (lambda process: process.wait(timeout=1), lambda process: process.kill(), lambda process: None):
        with run(60) as process:
            assert process.stdout.read(4) == b"now\n"
            end(process)
        assert eventually(lambda: clean(before)) and not (tmp_path / "late").exists()
    monkeypatch.setattr(sandlock._Supervisor, "_kill_others", lambda self: None)

    def lasts():
        with run(8 if THIN >= 100 else 4) as process:
            assert process.stdout.read(4) == b"now\n"
            process.wait(timeout=1)
        return (tmp_path / "late").exists()
    if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 5):  # before, a full socket may take a page all the same
        assert any(lasts() for _ in range(4))  # the control: until its own alarm


HELD_DEATH_PIPE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
static const char *late;
static void end(int n) { close(open(late, O_CREAT | O_WRONLY, 0600)); _exit(0); }
int main(int n, char **a) {
    int s[2], e[2], fd = 1023; char path[64]; late = a[1];
    while (fd > 2 && fcntl(fd, F_GETFD) < 0) fd--;
    if (pipe(e) || socketpair(AF_UNIX, SOCK_STREAM, 0, s)) return 1;
    if (fork() == 0) {
        setsid(); signal(SIGALRM, end); alarm(atoi(a[2]));
        fcntl(fd, F_SETFL, 0);                   // no signal comes of it any more
        sprintf(path, "/proc/self/fd/%d", fd);
        int w = open(path, O_WRONLY);
        write(e[1], "x", 1);
        splice(s[0], 0, w, 0, 65536, 0);         // whoever closes that pipe last waits
        for (;;) pause();
    }
    read(e[0], path, 1); usleep(300000);
    return 7;
}"""


def test_who_holds_the_death_pipe_holds_nobody_up(tmp_path, monkeypatch):
    payload, before = compiled(HELD_DEATH_PIPE), snapshot()

    def run(seconds):
        return Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), fs_writable=[tmp_path]).run([payload, str(tmp_path / "late"), str(seconds)])
    assert run(60).exit_code == 7 and eventually(lambda: clean(before)) and not (tmp_path / "late").exists()
    sweep = sandlock._Supervisor._sweep
    monkeypatch.setattr(sandlock._Supervisor, "_sweep", lambda self: (self.launching.close_death_pipe(), sweep(self)))
    assert any(run(4).exit_code == 7 and (tmp_path / "late").exists() for _ in range(5))  # the control: until its own alarm


def test_nothing_of_the_start_is_open_when_the_program_begins(monkeypatch):
    """Closing a pipe whose lock the program holds would wait for it."""
    open_ones, let_go = [], sandlock._Supervisor._let_go

    def look(self, traced):
        open_ones.append([fd for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + fd)])
        let_go(self, traced)
    monkeypatch.setattr(sandlock._Supervisor, "_let_go", look)
    with box().popen(["sleep", "5"], stdin=1, stdout=1, stderr=1) as process:
        assert set(open_ones[0]) >= {str(stream.fileno()) for stream in (process.stdin, process.stdout, process.stderr)}
        assert set(open_ones[0]) <= set(os.listdir("/proc/self/fd")) | {str(max(map(int, open_ones[0])))}  # that of the listing
        process.kill()


def test_threads_have_no_descriptors_of_their_own():
    """They would be counted nowhere."""
    code = ("import ctypes, platform\nlibc = ctypes.CDLL(None, use_errno=True)\n"
            "def call(*args): return ctypes.get_errno() if libc.syscall(*args) == -1 else 0\n"
            "print(call(%d, 500, 600, 0), call(%d, 500, 600, 2), call(%d, 0x10d00 & ~0x400, 0, 0, 0, 0), flush=True)" % (
                sandlock._NR["close_range"], sandlock._NR["close_range"], sandlock._NR["clone"]))
    assert box().run(python(code)).stdout == b"0 22 1\n"


def test_a_signal_that_another_thread_takes_is_nobodys_error(tmp_path):
    """Three threads wait in calls made on behalf; the kernel gives a signal of the process to one of them."""
    os.mkfifo(tmp_path / "fifo")
    code = ("import os, signal, sys, threading, time\n"
            "if %d: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"
            "signal.signal(signal.SIGUSR1, lambda *a: None); signal.siginterrupt(signal.SIGUSR1, False)\n"
            "def go(unblocked=True):\n"
            "    if unblocked: signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])\n"
            "    try: os.close(os.open('fifo', 0)); os.write(1, b'ok\\n')\n"
            "    except OSError as e: os.write(1, b'%%d\\n' %% e.errno)\n"
            "ts = [threading.Thread(target=go) for _ in range(3)]\n[t.start() for t in ts]; print('go', flush=True); go(False); [t.join() for t in ts]")
    for blocked, fields in once((0, {}), (1, {}), (0, dict(policy_fn=lambda event, ctx: None, policy_events=["openat"]))):
        fields = dict(fields, fs_readable=SYSTEM_PATHS + (tmp_path,), fs_denied=[tmp_path / "none"], cwd=tmp_path)
        with Sandbox(**fields).popen([sys.executable, "-S", "-c", code % blocked], stdout=1) as process:
            assert process.stdout.readline() == b"go\n"
            time.sleep(3 if THIN >= 100 else 0.3)
            if blocked:
                process.send_signal(signal.SIGUSR1)
            else:
                process.pause()
                time.sleep(0.2)
                process.resume()
            time.sleep(3 if THIN >= 100 else 0.3)
            with open(tmp_path / "fifo", "w"):
                lines = process.wait(timeout=20).stdout.split()
        # Nobody can tell who gets it: EINTR, after which Python calls again.
        assert len(lines) == 4 and set(lines) <= ({b"ok", b"4"} if blocked else {b"ok"}), (blocked, lines)


def test_where_yama_lets_trace_descendants_only(monkeypatch):
    """A root host's broker keeps CAP_SYS_PTRACE; an ordinary host adopts orphans while it runs a sandbox."""
    def status(path, name):
        return next(line.split()[1] for line in open(path) if line.startswith(name + ":"))
    code = "import os, time\nif os.fork() == 0:\n    if os.fork() == 0: time.sleep(0.5); os.write(1, b'%d' % os.getppid())\n    os._exit(0)\nos.wait(); time.sleep(30)"
    found = {}
    for scope in (0, 1):
        monkeypatch.setattr(sandlock, "_yama_scope", lambda: scope)
        with box().popen(python(code), stdout=1) as process:
            adopter = int(process.stdout.read(20))
            broker = int(status("/proc/self/task/%d/status" % process._supervisor.broker.tid, "CapPrm"), 16)
            found[scope] = adopter == os.getpid(), bool(broker & sandlock.CAP_SYS_PTRACE), int(status("/proc/%d/status" % process.pid, "CapPrm"), 16) & sandlock.CAP_SYS_PTRACE
    assert found == {0: (False, False, 0), 1: (False, True, 0) if ROOT else (True, False, 0)}
    assert sandlock._adoption._users == 0


SIGNALLED = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static const char *fifo, *how;
static void handler(int n) { write(1, "handled\n", 8); }
static void once(const char *who) { char line[99]; int fd = open(fifo, O_RDONLY); write(1, line, sprintf(line, "%s %d\n", who, fd < 0 ? errno : 0)); }
static volatile pid_t number;
static void *worker(void *x) {
    pid_t child = *how == 'c' ? fork() : 1;
    if (!child) { usleep(300000); _exit(0); }
    number = gettid(); once("worker"); return 0;
}
static void *killer(void *x) {                     // a signal of the process for that thread, though the first one waits too
    while (!number) usleep(1000);
    usleep(300000); kill(number, SIGUSR1); return 0;
}
int main(int n, char **a) {
    how = a[1]; fifo = a[2];
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigaction(SIGCHLD, &action, 0); sigaction(SIGUSR1, &action, 0);
    pthread_t t; pthread_create(&t, 0, worker, 0);
    pthread_t k; if (*how == 'b') { pthread_create(&k, 0, killer, 0); once("first"); }
    pthread_join(t, 0); return 0;
}"""


@pytest.mark.parametrize("how", ["child", pytest.param("both", marks=requires_abi(6))])  # below, kill(2) of a thread's number is ESRCH or EPERM
def test_a_signal_for_another_than_the_first_thread_is_handled(tmp_path, how):
    payload = compiled(SIGNALLED, "-pthread")
    os.mkfifo(tmp_path / "fifo")
    fields = dict(fs_readable=SYSTEM_PATHS + (tmp_path, os.path.dirname(payload)), fs_denied=[tmp_path / "none"])
    with Sandbox(**fields).popen([payload, how, str(tmp_path / "fifo")], stdout=1) as process:
        bound = threading.Timer(30, process.kill)
        bound.daemon = True
        bound.start()
        lines = []
        for line in iter(process.stdout.readline, b""):
            lines.append(line)
            if line == b"handled\n":
                break  # while the calls wait
        time.sleep(0.3)
        fifo = os.open(tmp_path / "fifo", os.O_RDWR)
        rest = process.wait(timeout=20)
        os.close(fifo)
        bound.cancel()
    lines += rest.stdout.splitlines(True)
    assert rest.exit_code == 0 and b"handled\n" in lines and len(lines) == 2 + (how == "both") and not any(line.endswith(b" 512\n") for line in lines), (lines, rest)
