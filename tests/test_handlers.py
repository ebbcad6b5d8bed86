"""What is done on behalf is what the kernel would have done: the same program alone and watched."""
import errno
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
from support import THIN, clean, compiled, eventually, once, requires_abi, rounds, snapshot

pytestmark = requires_abi(1)


def allow(event, ctx):
    return None


OPENS = r"""
import ctypes, errno, fcntl, itertools, os, stat, struct, sys
libc = ctypes.CDLL(None, use_errno=True); libc.syscall.restype = ctypes.c_long
root = os.getcwd().encode()
NR = int(sys.argv[1]); O = os
def build():
    mask = os.umask(0o022)
    if os.path.exists("tree"):
        if os.path.exists("tree/closed"): os.chmod("tree/closed", 0o755)
        for where, folders, files in os.walk("tree", topdown=False):
            for f in files: os.unlink(os.path.join(where, f))
            for f in folders: (os.unlink if os.path.islink(os.path.join(where, f)) else os.rmdir)(os.path.join(where, f))
        os.rmdir("tree")
    for folder in ("tree", "tree/dir", "tree/dir/sub", "tree/closed"): os.mkdir(folder)
    for name, text in (("file", "text\n"), ("dir/sub/deep", "deep\n"), ("closed/x", "")):
        with open("tree/" + name, "w") as f: f.write(text)
    for name, to in (("link", "file"), ("dangling", "nothing"), ("loop", "loop"), ("dirlink", "dir"), ("outside", "/etc/hostname"), ("secret", "/etc/shadow"),
                     ("creates", "dir/fresh"), ("self", "/proc/self/status"), ("fdlink", "/proc/self/fd/5"), ("cwdlink", "/proc/self/cwd/tree/file")):
        os.symlink(to, "tree/" + name)
    os.mkfifo("tree/fifo"); os.chmod("tree/closed", 0); os.umask(mask)
names = [b"tree/file", b"tree/link", b"tree/dangling", b"tree/loop", b"tree/dir", b"tree/dir/", b"tree/file/", b"tree/dirlink", b"tree/dirlink/",
         b"tree/dirlink/sub/deep", b"tree/dir/../file", b"tree/new", b"tree/new/", b"tree/none/new", b"tree/creates", b"tree/dir/.", b"tree/dir/..",
         b"", b".", b"..", b"/", b"//etc//hostname", b"tree/outside", b"tree/secret", b"/etc/shadow", b"/etc/newfile", b"tree/closed/x", b"/dev/null", b"/dev/zero",
         b"/dev/tty", b"/dev/full", b"tree/self", b"/proc/self/comm", b"/proc/thread-self/comm", b"/proc/self/cwd/tree/file", b"/proc/self/fd/5", b"tree/fdlink", b"tree/cwdlink",
         b"/dev/fd/5", b"/proc/self/root/etc/hostname", b"/proc/self/exe", b"/proc/1/environ", b"/proc/self/environ", b"/proc/mounts", b"/proc/self/../self/stat",
         b"tree/" + b"n" * 255, b"tree/" + b"n" * 256, b"./" * 2000 + b"tree/file", b"./" * 2047 + b"ab", b"./" * 2048, b"tree/\xff\xfe", b"tree/dir/sub/../../link"]
flags = [O.O_RDONLY, O.O_WRONLY, O.O_RDWR, O.O_RDONLY | O.O_DIRECTORY, O.O_RDONLY | O.O_NOFOLLOW, O.O_WRONLY | O.O_CREAT, O.O_WRONLY | O.O_CREAT | O.O_EXCL,
         O.O_RDWR | O.O_CREAT | O.O_TRUNC, O.O_WRONLY | O.O_APPEND | O.O_CREAT, O.O_RDONLY | O.O_CREAT, O.O_WRONLY | O.O_TRUNC, O.O_RDONLY | O.O_TRUNC, O.O_PATH, O.O_PATH | O.O_NOFOLLOW,
         O.O_PATH | O.O_DIRECTORY, O.O_RDWR | O.O_TMPFILE, O.O_RDONLY | O.O_NOFOLLOW | O.O_CREAT, O.O_RDONLY | O.O_CLOEXEC, O.O_WRONLY | O.O_CREAT | O.O_NOFOLLOW | O.O_EXCL,
         O.O_RDONLY | O.O_CREAT | O.O_DIRECTORY, O.O_RDONLY | O.O_NOATIME, O.O_WRONLY | O.O_SYNC, 3]
def attempt(name, flag, mode=0o666, dirfd=-100):
    r = libc.syscall(NR, dirfd, name, flag | (O.O_NONBLOCK if b"fifo" in name else 0), mode)
    if r < 0: return errno.errorcode.get(ctypes.get_errno(), ctypes.get_errno())
    st = os.fstat(r)
    same = "" if st.st_nlink or flag & 0o20000000 else "unlinked"
    real = os.readlink("/proc/self/fd/%d" % r).replace(str(os.getpid()), "SELF")
    if "#" in real: real = "tmp"
    out = [oct(st.st_mode), st.st_size if stat.S_ISREG(st.st_mode) and not real.startswith("/proc") else "", real, oct(fcntl.fcntl(r, fcntl.F_GETFL) & ~(O.O_NOFOLLOW | O.O_NOATIME if not flag & O.O_PATH else 0)), fcntl.fcntl(r, fcntl.F_GETFD), same]
    if not flag & O.O_PATH and flag & 3 == 0 and stat.S_ISREG(st.st_mode) and real.endswith(("comm", "file", "hostname")): out.append(os.read(r, 20))
    os.close(r); return out
os.umask(0o027); build(); five = os.open("tree/file", O.O_RDONLY); os.dup2(five, 5); os.close(five) if five != 5 else None
for name, flag in itertools.product(names, flags):
    if flag & O.O_CREAT or flag & O.O_TRUNC: build()
    print(name[:40], oct(flag), attempt(name, flag))
build()
for mask in (0, 0o77, 0o777):
    os.umask(mask)
    for mode in (0, 0o600, 0o777, 0o1777, 0o4755): print(oct(mask), oct(mode), attempt(b"tree/m%o%o" % (mask, mode), O.O_WRONLY | O.O_CREAT, mode), attempt(b"tree", O.O_RDWR | O.O_TMPFILE, mode))
os.umask(0o027)
d = os.open("tree/dir", O.O_RDONLY); p = os.open("tree/dir", O.O_PATH)
for fd in (d, p, 5, 999, 0):
    for name in (b"sub/deep", b"../file", b"none", b"/etc/hostname"): print(fd == d, fd == p, name, attempt(name, O.O_RDONLY, 0, fd))
def openat2(name, flag, resolve, size=24, mode=0, tail=b""):
    how = struct.pack("QQQ", flag, mode, resolve) + tail
    r = libc.syscall(437, -100, name, how, size)
    if r < 0: return errno.errorcode.get(ctypes.get_errno())
    os.close(r); return "ok"
for resolve in (0, 1, 2, 4, 8, 16, 12, 1 << 20):
    for name in (b"tree/file", b"tree/link", b"../x", b"/etc/hostname", b"tree/dir/../file", b"tree/outside", b"tree/fresh"):
        for flag in (O.O_RDONLY, O.O_WRONLY | O.O_CREAT):
            if resolve & 16 and name == b"tree/outside": continue  # creating through a dangling link: ELOOP on behalf
            build(); print(resolve, name, oct(flag), openat2(name, flag, resolve, mode=0o600 if flag else 0))
print(openat2(b"tree/file", 1 << 40, 0), openat2(b"tree/file", 0, 0, mode=0o600), openat2(b"tree/file", 0, 0, size=8), openat2(b"tree/file", 0, 0, size=32, tail=b"\0" * 8), openat2(b"tree/file", 0, 0, size=32, tail=b"\1" * 8))
fd = os.open("tree/file", O.O_WRONLY | O.O_APPEND); os.write(fd, b"more"); print(open("tree/file").read())
os.chdir("tree/dir"); print(open("../file").read()); os.rename("../dir", "../moved"); print(attempt(b"sub/deep", 0)); os.system("rm -rf ../moved"); print(attempt(b"sub/deep", 0), attempt(b"x", O.O_WRONLY | O.O_CREAT))
"""


def path_only(alone, watched):
    """O_PATH: of the same file a descriptor to read, where it may be read, else EACCES; the kernel would
    read the path again, and no such descriptor can be handed over."""
    if not any(" %s [" % oct(os.O_PATH | flags) in alone for flags in (0, os.O_NOFOLLOW, os.O_DIRECTORY)):
        return False
    kind_size_name = alone.split("[")[1].split(",")[:3]
    return watched.endswith(" EACCES") or all(word in watched for word in kind_size_name)


@pytest.mark.parametrize("user", once(None, "1234:1234"))
def test_every_open_is_as_alone(tmp_path, user):
    if user and os.geteuid():
        pytest.skip("needs root (user=)")
    if user and not os.path.exists("/usr/bin/python3"):
        pytest.skip("not installed: /usr/bin/python3")
    outcomes = []
    for fn in (None, allow):
        folder = tmp_path / "work"
        subprocess.run(["sh", "-c", 'chmod -Rf u+rwx "$0"; rm -rf "$0"', str(folder)], check=True)
        folder.mkdir()
        for parent in [folder, *folder.parents]:
            if str(parent).startswith("/tmp/"):
                os.chmod(parent, 0o755)
        if user:
            os.chown(folder, 1234, 1234)
        result = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[folder], cwd=folder, user=user, policy_fn=fn, max_processes=20,
                         policy_events=["openat"]).run(
            ["/usr/bin/python3" if user else sys.executable, "-S", "-c", OPENS, str(sandlock._NR["openat"])], timeout=600 if THIN >= 100 else 100)
        assert result.success and not result.error, (result.error, result.stderr[-3000:], result.stdout[-300:])
        outcomes.append(result.stdout.decode("utf-8", "replace").splitlines())
    assert len(outcomes[0]) == len(outcomes[1]) > 1000
    # openat2(2) exists only where it is mediated: its flags lie in memory, the access mode 3 among them.
    different = [(a, b) for a, b in zip(*outcomes) if a != b and "ENOSYS" not in a and not path_only(a, b)]
    assert not different, "\n".join("%s\n   %s" % pair for pair in different[:30]) + "\n%d" % len(different)


FIFO = r"""
import os, signal, sys, threading, time
os.mkfifo("fifo"); hits = []
def reader():
    with open("fifo") as f: print("read", f.read(), flush=True)
t = threading.Thread(target=reader); t.start(); time.sleep(0.2); print(open("/etc/hostname").read() != "", flush=True)
with open("fifo", "w") as f: f.write("through")
t.join()
signal.signal(signal.SIGALRM, lambda *a: hits.append(1)); signal.setitimer(signal.ITIMER_REAL, 0.2)
pid = os.fork()
if pid == 0:
    time.sleep(0.6); os.close(os.open("fifo", os.O_WRONLY)); os._exit(0)
os.close(os.open("fifo", os.O_RDONLY)); print("opened", len(hits), flush=True); os.wait()
try: os.open("fifo", os.O_WRONLY | os.O_NONBLOCK)
except OSError as e: print(e.errno, flush=True)
os.close(os.open("fifo", os.O_RDWR)); os.close(os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)); print("end", flush=True)
if os.fork() == 0: os.open("fifo", os.O_RDONLY)
time.sleep(0.3)
"""


def test_a_fifo_makes_nobody_wait_but_its_opener(tmp_path):
    before, outcomes = snapshot(), []
    for fn in (None, allow):
        folder = tmp_path / ("watched" if fn else "alone")
        folder.mkdir()
        result = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[folder], cwd=folder, policy_fn=fn, policy_events=["file"]).run(
            [sys.executable, "-S", "-c", FIFO], timeout=30)
        assert result.success and result.error is None, result
        outcomes.append(result.stdout)
    assert outcomes[0] == outcomes[1] and b"opened 1" in outcomes[0] and eventually(lambda: clean(before))


FLIP = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static volatile char path[4096]; static const char *good, *bad; static volatile int stop;
static void *flip(void *x) { size_t at = strlen(good) - 1; while (!stop) {
    path[at] = bad[at]; for (volatile int i = 0; i < 2000; i++); path[at] = good[at]; for (volatile int i = 0; i < 2000; i++); } return 0; }
int main(int n, char **a) {
    good = a[1]; bad = a[2]; strcpy((char *)path, good); pthread_t t; pthread_create(&t, 0, flip, 0);
    int hits = 0, opened = 0; char b[16];
    for (int i = 0; i < atoi(a[3]); i++) {
        int fd = openat(AT_FDCWD, (char *)path, O_RDONLY); if (fd < 0) continue;
        opened++; memset(b, 0, sizeof b); read(fd, b, 15); hits += !strcmp(b, "secret"); close(fd);
    }
    stop = 1; printf("%d %d\n", opened, hits); return 0;
}"""


def test_a_path_that_flips_never_opens_what_was_denied(tmp_path):
    payload = compiled(FLIP, "-pthread")
    (tmp_path / "a").write_text("public")
    (tmp_path / "b").write_text("secret")
    command = [payload, str(tmp_path / "a"), str(tmp_path / "b"), str(rounds(20000))]
    fields = dict(fs_readable=SYSTEM_PATHS + (tmp_path, os.path.dirname(payload)), policy_events=["file"])
    def attempt(fn):
        return tuple(map(int, Sandbox(policy_fn=fn, **fields).run(command, timeout=100).stdout.split()))
    opened, hits = attempt(lambda e, c: e.path == str(tmp_path / "b"))
    assert opened and not hits
    assert any(attempt(None)[1] for _ in range(20))  # the control


def test_symlinks_that_flip_never_lead_to_what_was_denied(tmp_path):
    """The link is exchanged by another process while the event is judged, and after it."""
    (tmp_path / "public").write_text("public")
    (tmp_path / "secret").write_text("secret")
    code = ("import os, sys\nos.symlink('public', 'l1'); os.symlink('secret', 'l2')\npid = os.fork()\n"
            "if pid == 0:\n    while True: os.rename('l1', 'l3'); os.rename('l2', 'l1'); os.rename('l3', 'l2')\n"
            "got = set()\nfor _ in range(int(sys.argv[1])):\n    try: got.add(open('l1').read())\n    except OSError: pass\n    if len(got) == 2: break\n"
            "os.kill(pid, 9); os.wait(); print(*sorted(got))")
    fields = dict(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], cwd=tmp_path, policy_events=["file"])
    command = [sys.executable, "-S", "-c", code]
    watched = Sandbox(policy_fn=lambda e, c: e.path == str(tmp_path / "secret"), **fields).run(command + [str(rounds(4000))], timeout=60)
    assert watched.stdout == b"public\n", watched
    for name in ("l1", "l2", "l3"):
        if os.path.islink(tmp_path / name):
            os.unlink(tmp_path / name)
    assert Sandbox(**fields).run(command + ["1000000"], timeout=60).stdout == b"public secret\n"


def test_the_host_is_not_reached_through_proc():
    """On behalf, /proc/self is the task's; the host's own entries are refused, by pid and by thread."""
    seen = []
    tids = [int(t) for t in os.listdir("/proc/self/task")]
    code = ("import os, sys\nfor n in sys.argv[1:]:\n    for f in ('environ', 'maps', 'status', 'fd/0', 'task/%s/status' % n, 'cwd/x'):\n"
            "        try: os.open('/proc/%s/%s' % (n, f), os.O_RDONLY); print('opened', n, f)\n        except OSError: pass\n"
            "print(open('/proc/self/stat').read().split()[0] == str(os.getpid()), open('/proc/thread-self/stat').read().split()[0] == str(os.getpid()))")
    result = Sandbox(fs_readable=SYSTEM_PATHS, policy_fn=lambda e, c: seen.append(e.path), policy_events=["file"]).run(
        [sys.executable, "-S", "-c", code, str(os.getpid())] + [str(t) for t in tids])
    assert result.stdout == b"True True\n", result
    alone = Sandbox(fs_readable=SYSTEM_PATHS).run([sys.executable, "-S", "-c", code, str(os.getpid())]).stdout
    assert b"opened %d status" % os.getpid() in alone  # the kernel would let it: a departure to the safe side


def test_bind_and_unix_bind_are_as_alone(tmp_path):
    code = ("import os, socket, sys\nos.umask(0o027); os.mkdir('d')\n"
            "def go(family, kind, address):\n    s = socket.socket(family, kind)\n"
            "    try: s.bind(address); return 'ok'\n    except OSError as e: return e.errno\n"
            "for a in ('s', 'd/s', './d/../s2', 's', '\\0abstract', 'none/s', 'd', os.getcwd() + '/abs', 'x' * 80, '/etc/s'): print(a[:20], go(1, 1, a), oct(os.stat(a).st_mode) if a[0] != '\\0' and os.path.exists(a) else '')\n"
            "for a in (('127.0.0.1', 0), ('127.0.0.1', 1), ('10.9.9.9', 0), ('0.0.0.0', 0)): print(go(2, 1, a))\n")
    outcomes, seen = [], []
    for fn in (None, lambda e, c: seen.append(e)):
        folder = tmp_path / ("watched" if fn else "alone")
        folder.mkdir()
        result = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[folder], cwd=folder, policy_fn=fn, policy_events=["bind"],
                         net_allow_bind=["1024-65535"]).run([sys.executable, "-S", "-c", code])
        assert result.success, result
        outcomes.append(result.stdout.replace(b"watched", b"alone"))
    assert outcomes[0].splitlines() == outcomes[1].splitlines()
    assert str(tmp_path / "watched" / "d" / "s") in [e.path for e in seen] and ("0.0.0.0", 0) in [(e.host, e.port) for e in seen]


def test_a_directory_deeper_than_path_max_leaks_nothing(tmp_path):
    code = ("import os\nfor _ in range(30):\n    os.mkdir('d' * 200); os.chdir('d' * 200)\n"
            "for _ in range(40):\n    try: os.open('.', os.O_RDONLY)\n    except OSError as e: last = e.errno\nprint(last)")
    before = snapshot()
    result = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], cwd=tmp_path, policy_fn=allow, policy_events=["openat"]).run(
        [sys.executable, "-S", "-c", code], timeout=20)
    assert result.stdout == b"%d\n" % errno.ENAMETOOLONG and eventually(lambda: clean(before)), result
    subprocess.run(["rm", "-rf", str(tmp_path / ("d" * 200))], check=True)


def test_a_new_file_is_at_no_moment_wider_than_the_tasks_umask(tmp_path, monkeypatch):
    """What is mended afterwards only ever widens it."""
    monkeypatch.setattr(sandlock, "_mend_mode", lambda *args: None)
    before = os.umask(0)  # the host's: the widest
    try:
        result = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], cwd=tmp_path, policy_fn=allow, policy_events=["file"]).run(
            ["sh", "-c", "umask 077; : > made"])
    finally:
        os.umask(before)
    assert result.success and os.stat(tmp_path / "made").st_mode & 0o777 == 0o600
