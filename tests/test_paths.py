"""Every syscall that takes a path: what is done on behalf is what the kernel would have done."""
import errno
import os
import resource
import socket
import subprocess
import sys

import pytest

import sandlock
from sandlock import Sandbox, SYSTEM_PATHS
from support import THIN, once, requires_abi, requires_root, rounds

pytestmark = requires_abi(1)


def allow(event, ctx):
    return None


# Executes every call over a tree of all kinds of files, and prints result, errno, what was written
# to its buffer, and what became of the tree.
BUILDER = r"""
import os, socket, stat, sys
root = os.getcwd().encode(); here = os.open(".", 0o10000000)
def build():
    os.umask(0o022); os.fchdir(here)
    if os.path.lexists("t"):
        for where, folders, files in os.walk("t"):
            for f in folders: os.path.islink(os.path.join(where, f)) or os.chmod(os.path.join(where, f), 0o755)
        for where, folders, files in os.walk("t", topdown=False):
            for f in files: os.unlink(os.path.join(where, f))
            for f in folders: (os.unlink if os.path.islink(os.path.join(where, f)) else os.rmdir)(os.path.join(where, f))
        os.rmdir("t")
    for d in ("t", "t/dir", "t/dir/sub", "t/closed", "t/empty"): os.mkdir(d)
    for name, what in (("file", "text"), ("dir/f", "deep"), ("closed/x", "")):
        with open("t/" + name, "w") as f: f.write(what)
    for name, to in (("link", "file"), ("dangling", "none"), ("loop", "loop"), ("dirlink", "dir"), ("outside", os.path.dirname(os.fsdecode(root)) + "/outside"), ("deep", "dirlink/sub/../f"), ("abs", "/proc/self/cwd/t/file"),
                     ("created", "dir/new")): os.symlink(to, "t/" + name)
    os.mkfifo("t/fifo"); s = socket.socket(socket.AF_UNIX); s.bind("t/sock"); s.close(); os.chmod("t/closed", 0)
    for f in ("t/file", "t/dir"):
        try: os.setxattr(f, "user.a", b"value")
        except OSError: pass
    for f in ("t/file", "t/dir", "t/fifo", "t/link"): os.utime(f, (1, 2), follow_symlinks=False)
def tree():
    os.fchdir(here); out = []; os.path.exists("t/closed") and os.chmod("t/closed", os.stat("t/closed").st_mode & 0o7000 | 0o700)
    for where, folders, files in sorted(os.walk("t")):
        for f in sorted(folders + files):
            x = []
            try: i = os.lstat(os.path.join(where, f))
            except OSError: out.append((where, f)); continue
            try: x = sorted((n, os.getxattr(os.path.join(where, f), n, follow_symlinks=False)) for n in os.listxattr(os.path.join(where, f), follow_symlinks=False))
            except OSError: pass
            out.append((where, f, oct(i.st_mode), i.st_nlink, i.st_size if stat.S_ISREG(i.st_mode) else 0, i.st_uid, i.st_gid, int(i.st_mtime) if i.st_mtime < 1e6 else "now", x, os.readlink(os.path.join(where, f)) if stat.S_ISLNK(i.st_mode) else ""))
    return out
asked, told = open("../asked"), open("../told", "w")
for line in asked: print(build() if line == "build\n" else tree(), file=told, flush=True)
"""

CALLS = r"""
import ctypes, errno, fcntl, os, re, stat, struct, sys
libc = ctypes.CDLL(None, use_errno=True); libc.syscall.restype = ctypes.c_long; libc.syscall.argtypes = [ctypes.c_long] * 7
NR = dict((n, int(v)) for n, v in (w.split("=") for w in sys.argv[1].split(",")))
keep = []; here = os.open(".", 0o10000000 | os.O_CLOEXEC)
def buf(data): b = ctypes.create_string_buffer(data, len(data) + 1); keep.append(b); return ctypes.addressof(b)
def text(data): return buf(data + b"\0")
def call(name, *args):
    r = libc.syscall(NR[name], *(args + (0,) * 6)[:6])
    return errno.errorcode.get(ctypes.get_errno(), ctypes.get_errno()) if r < 0 else r
asked, told = (open(fcntl.fcntl(os.open(name, flags), fcntl.F_DUPFD_CLOEXEC, 170), mode) for name, flags, mode in (("../asked", os.O_WRONLY, "w"), ("../told", os.O_RDONLY, "r")))
def ask(what): print(what, file=asked, flush=True); return told.readline()
def build(): os.umask(0o022); os.fchdir(here); ask("build")
def tree(): return ask("tree")
def show(label, *results):
    line = " ".join(str(r) for r in results)
    print(*label, re.sub(r"(?<=['/])%d(?=['/])" % os.getpid(), "SELF", re.sub(r"pipe:\[\d+\]", "pipe", line)))
def whole(length, target): return "all of it" if length == len(target) and b"%d" % os.getpid() in target.split(b"/") else length  # numbers of processes have more digits or less
def start(target): return "start of SELF" if size == 1 and target == b"%d" % (os.getpid() // 10 ** (len(str(os.getpid())) - 1)) else target
names = [b"t/file", b"t/link", b"t/dangling", b"t/loop", b"t/dir", b"t/dir/", b"t/dirlink", b"t/dirlink/", b"t/file/", b"t/link/", b"t/dir/.", b"t/dir/..", b"t/dir/sub/../f", b"t/dirlink/f", b"t/deep", b"t/abs",
         b"t/none", b"t/none/", b"t/none/x", b"t/file/x", b"t/closed/x", b"t/closed", b"t/empty", b"t/fifo", b"t/sock", b"t/created", b"t/outside", b"", b".", b"..", b"/", b"//", b"/etc/hostname", b"/etc/shadow", b"/etc", b"/usr/bin/env", b"/proc/self", b"/proc/self/",
         b"/proc/thread-self", b"/proc/self/exe", b"/proc/self/cwd", b"/proc/self/cwd/t/dir", b"/proc/self/fd/5", b"/proc/self/fd/6", b"/dev/fd/5", b"/dev/fd/163", b"/proc/self/fd/163", b"/proc/self/fdinfo/163", b"/proc/self/task/none/x", b"t/dir/../../none/x", b"/proc/self/root", b"/proc/self/ns/net", b"/proc/self/status", b"/dev/null", b"/dev/tty", b"/sys/kernel", b"/var/tmp",
         b"t/" + b"n" * 255, b"t/" + b"n" * 256, b"./" * 2044 + b"t/file", b"./" * 2045 + b"t/file", b"t/\xff\xfe", b"t/dir/sub/../../file", b"/nonexistent/x", b"t//dir//f"]
def opened():
    for fd, (name, flags) in zip((5, 6, 7), (("t/file", os.O_RDONLY), ("t/dir", os.O_RDONLY), ("t/dir", 0o10000000))):
        f = os.open(name, flags); os.dup2(f, fd)
        if f != fd: os.close(f)
    if not os.path.exists("/proc/self/fd/163"):  # a number that the host has not in use
        r, w = os.pipe(); os.dup2(r, 163); os.dup2(w, 164); os.close(r); os.close(w)
def st(b):
    raw = b.raw; size = int(sys.argv[2])
    fmt = "=QQQIIIIQ" if size == 144 else "=QQIIIIQ"
    v = struct.unpack_from(fmt, raw); return v[2:]
def stx(b): return struct.unpack_from("=I", b.raw)[0] & 0x7ff, struct.unpack_from("=4xIQIIIH", b.raw)[1:], struct.unpack_from("=IIII", b.raw, 128)
if len(sys.argv) > 3: names = names[::4] + [names[1]]
build(); opened()
D = -100
for n in names:
    p = text(n)
    for f, args in (("stat", (p,)), ("lstat", (p,))):
        if f in NR: b = ctypes.create_string_buffer(256); show((f, n[:30]), call(f, *args, ctypes.addressof(b)), st(b))
    for d, flags in ((D, 0), (D, 0x100), (6, 0), (7, 0x1000), (5, 0x1000), (D, 0x1000), (D, 0x800), (D, 0x20), (999, 0), (999, 0x1100), (5, 0)):
        b = ctypes.create_string_buffer(256); show(("newfstatat", n[:30], d, flags), call("newfstatat", d, p, ctypes.addressof(b), flags), st(b))
        b = ctypes.create_string_buffer(256); show(("statx", n[:30], d, flags), call("statx", d, p, flags, 0x7ff, ctypes.addressof(b)), stx(b))
    b = ctypes.create_string_buffer(256); show(("statx", n[:30], "reserved"), call("statx", D, p, 0, 1 << 31, ctypes.addressof(b)), call("statx", D, p, 0x6000, 1, ctypes.addressof(b)), call("statx", D, p, 0x80000, 1, ctypes.addressof(b)))
    for mode in (0, 1, 2, 4, 7, 8):
        show(("access", n[:30], mode), call("access", p, mode) if "access" in NR else "", call("faccessat", D, p, mode), call("faccessat", 6, p, mode), call("faccessat2", D, p, mode, 0x100), call("faccessat2", D, p, mode, 0x200), call("faccessat2", 5, p, mode, 0x1000), call("faccessat2", D, p, mode, 4))
    for size in (0, 1, 4096, -1 & 0xffffffff):
        for d in (D, 6, 5):
            b = ctypes.create_string_buffer(4097); show(("readlink", n[:30], size, d), whole(call("readlinkat", d, p, ctypes.addressof(b), size), b.value), start(b.value))
            if "readlink" in NR and d == D: b = ctypes.create_string_buffer(4097); show(("readlink", n[:30], size), whole(call("readlink", p, ctypes.addressof(b), size), b.value), start(b.value))
    b = ctypes.create_string_buffer(200); show(("statfs", n[:30]), call("statfs", p, ctypes.addressof(b)), b.raw[:16].hex(), b.raw[56:88].hex())
    for f in ("getxattr", "lgetxattr"):
        for attr in (b"user.a", b"user.none", b"", b"a" * 255, b"a" * 256, b"x.y", b"security.selinux"):
            either = attr in (b"", b"a" * 256) and not os.path.exists(n)  # two reasons to fail: which one is told first depends on the kernel
            for size in (0, 2, 100): b = ctypes.create_string_buffer(200); r = call(f, p, text(attr), ctypes.addressof(b), size); show((f, n[:30], attr[:20], size), "either" if either and isinstance(r, str) else r, b.value)
    for f in ("listxattr", "llistxattr"):
        for size in (0, 2, 100, 1 << 40): b = ctypes.create_string_buffer(70000); show((f, n[:30], size), call(f, p, ctypes.addressof(b), size), b.value)
    if b"fifo" not in n: show(("chdir", n[:30]), call("chdir", p), os.getcwd().encode() if call("getcwd", buf(b"x" * 4096), 4096) else ""); os.fchdir(here)
changes = [(f, a) for f, a in (
    ("truncate", ("p", 2)), ("truncate", ("p", 100)), ("truncate", ("p", -1)),
    ("chmod", ("p", 0o640)), ("fchmodat", (D, "p", 0o4711)), ("fchmodat", (6, "p", 0o600)), ("fchmodat2", (D, "p", 0o755, 0)), ("fchmodat2", (D, "p", 0o755, 0x100)), ("fchmodat2", (5, "p", 0o755, 0x1000)), ("fchmodat2", (D, "p", 0o755, 4)),
    ("chown", ("p", os.getuid(), os.getgid())), ("lchown", ("p", -1, os.getgid())), ("fchownat", (D, "p", -1, -1, 0x100)), ("fchownat", (5, "p", os.getuid(), -1, 0x1000)), ("chown", ("p", 4321, 4321)), ("lchown", ("p", 4321, -1)), ("fchownat", (D, "p", 0, 0, 8)),
    ("utime", ("p", ("=2q", 10, 20))), ("utime", ("p", 0)), ("utimes", ("p", ("=4q", 10, 5, 20, 5))), ("utimes", ("p", ("=4q", 10, 5, 20, 1000000))), ("utimes", ("p", 0)), ("futimesat", (6, "p", ("=4q", 10, 5, 20, 5))),
    ("utimensat", (D, "p", ("=4q", 30, 7, 40, 7), 0)), ("utimensat", (D, "p", ("=4q", 30, 7, 40, 7), 0x100)), ("utimensat", (D, "p", ("=4q", 0, 0x3fffffff, 0, 0x3ffffffe), 0)), ("utimensat", (D, "p", 0, 0)), ("utimensat", (5, "p", ("=4q", 50, 0, 60, 0), 0x1000)), ("utimensat", (D, "p", ("=4q", 1, 1 << 40, 1, 1), 0)), ("utimensat", (D, "p", 0, 2)),
    ("setxattr", ("p", b"user.b", b"val", 3, 0)), ("setxattr", ("p", b"user.a", b"val", 3, 1)), ("setxattr", ("p", b"user.none", b"val", 3, 2)), ("lsetxattr", ("p", b"user.b", b"v", 1, 0)), ("setxattr", ("p", b"user.b", b"", 0, 0)), ("setxattr", ("p", b"user.b", b"", 70000, 0)), ("setxattr", ("p", b"", b"v", 1, 0)), ("setxattr", ("p", b"trusted.x", b"v", 1, 0)),
    ("removexattr", ("p", b"user.a")), ("lremovexattr", ("p", b"user.a")), ("removexattr", ("p", b"user.none")),
    ("unlink", ("p",)), ("rmdir", ("p",)), ("unlinkat", (D, "p", 0)), ("unlinkat", (D, "p", 0x200)), ("unlinkat", (6, "p", 0)), ("unlinkat", (D, "p", 1)), ("unlinkat", (999, "p", 0)),
    ("mkdir", ("p", 0o777)), ("mkdirat", (D, "p", 0o7750)), ("mkdirat", (7, "p", 0o700)), ("mkdirat", (5, "p", 0o700)), ("mknod", ("p", stat.S_IFIFO | 0o666, 0)), ("mknodat", (D, "p", stat.S_IFREG | 0o4777, 0)), ("mknodat", (D, "p", 0o644, 0)), ("mknodat", (D, "p", stat.S_IFSOCK | 0o777, 0)), ("mknodat", (D, "p", stat.S_IFCHR | 0o666, 0x103)), ("mknodat", (D, "p", stat.S_IFDIR | 0o755, 0)), ("mknodat", (D, "p", stat.S_IFLNK | 0o755, 0)),
    ("symlink", (b"target", "p")), ("symlink", (b"", "p")), ("symlinkat", (b"x" * 4095, D, "p")), ("symlinkat", (b"x" * 4096, D, "p")), ("symlinkat", (b"y", 6, "p")),
) if f in NR]
build(); opened(); base = tree()
def run(f, a, p):
    args = [p if x == "p" else text(x) if isinstance(x, bytes) else buf(struct.pack(*x)) if isinstance(x, tuple) else x for x in a]
    return call(f, *args)
for n in names:
    if n in (b"/var/tmp",) : continue
    p = text(n)
    for f, a in changes:
        if n[:1] == b"/" and b"/self/cwd" not in n and f in ("chmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchownat", "utime", "utimes", "utimensat", "futimesat", "setxattr", "lsetxattr", "removexattr", "lremovexattr"): continue
        if n in (b".", b"..", b"t/dir/..", b"/proc/self/cwd", b"t/dir/../../none/x") and "chmod" in f: continue  # what the rest depends on
        os.umask(0o027); r = run(f, a, p); t = tree() if r == 0 else base
        show((f, n[:30], a), r, "" if t == base else t)
        if t != base: build(); opened()
    show(("after", n[:30]), tree() == base)
pairs = [(b"t/file", b"t/new"), (b"t/file", b"t/dir/f"), (b"t/link", b"t/new"), (b"t/dangling", b"t/new"), (b"t/dir", b"t/new"), (b"t/dir", b"t/new/"), (b"t/dir/", b"t/new"), (b"t/file", b"t/new/"), (b"t/dir", b"t/empty"), (b"t/dir", b"t/dir/sub/x"), (b"t/dir", b"t/file"), (b"t/file", b"t/dir"), (b"t/empty", b"t/dir"),
         (b"t/none", b"t/new"), (b"t/file", b"t/none/new"), (b"t/file", b"t/file"), (b"t/file", b"t/link"), (b"t/dirlink", b"t/new"), (b"t/dirlink/", b"t/new"), (b"t/dirlink/f", b"t/new"), (b"t/file", b"t/dirlink/new"), (b"t/file", b"t/created"), (b"", b"t/new"), (b"t/file", b""), (b".", b"t/new"), (b"t/dir/..", b"t/new"), (b"t/file", b".."), (b"/", b"t/new"), (b"t/file", b"/"),
         (b"t/loop", b"t/new"), (b"t/loop/x", b"t/new"), (b"t/fifo", b"t/new"), (b"t/sock", b"t/new"), (b"t/closed/x", b"t/new"), (b"t/file", b"t/closed/y"), (b"/etc/hostname", b"t/new"), (b"t/file", b"/etc/new"), (b"/dev/null", b"t/new"), (b"/proc/self/fd/5", b"t/new"), (b"t/" + b"n" * 256, b"t/new"), (b"t/file", b"t/" + b"n" * 255), (b"t/file", b"t/" + b"n" * 256), (b"t/abs", b"t/new"), (b"t/file", b"/proc/self/cwd/t/new"), (b"t/file", b"/tmp/sandlock-none")]
for a, b in pairs[::3 if len(sys.argv) > 3 else 1]:
    p, q = text(a), text(b)
    for f, args in (("rename", (p, q)), ("renameat", (D, p, D, q)), ("renameat2", (D, p, D, q, 1)), ("renameat2", (D, p, D, q, 2)), ("renameat2", (D, p, D, q, 4)), ("renameat2", (D, p, D, q, 64)), ("renameat", (6, text(b"f"), D, q)), ("renameat", (D, p, 7, text(b"moved"))), ("renameat", (5, p, D, q)), ("renameat", (D, p, 999, text(b"x"))),
                    ("link", (p, q)), ("linkat", (D, p, D, q, 0)), ("linkat", (D, p, D, q, 0x400)), ("linkat", (D, p, D, q, 0x100)), ("linkat", (6, text(b"f"), 7, text(b"l"), 0)), ("linkat", (D, p, D, q, 0x1000))):
        if f not in NR or 999 in args and b"closed" in a: continue  # two reasons to fail: which one is told first differs
        r = call(f, *args); t = tree() if r == 0 else base; show((f, a[:20], b[:20], args[4:]), r, "" if t == base else t)
        if t != base: build(); opened()
# O_TMPFILE given a name, descriptors without one, null and bad pointers
f = os.open("t", os.O_RDWR | os.O_TMPFILE, 0o600); os.write(f, b"tmp"); show(("tmpfile",), call("linkat", D, text(b"/proc/self/fd/%d" % f), D, text(b"t/named"), 0x400), open("t/named").read())
r, w = os.pipe(); b = ctypes.create_string_buffer(256); show(("pipe",), call("newfstatat", r, text(b""), ctypes.addressof(b), 0x1000), oct(st(b)[3]))
show(("null",), call("utimensat", 5, 0, buf(struct.pack("=4q", 5, 0, 6, 0)), 0), int(os.stat("t/file").st_mtime), call("newfstatat", D, 0, 0, 0), call("mkdirat", D, 0, 0), call("readlinkat", D, 0, 0, 0), call("fchmodat", D, 0, 0o600), call("fchownat", D, 0, 0, 0, 0x1000), call("utimensat", D, 0, 0, 0), call("truncate", 0, 0))
"""


@pytest.mark.parametrize("user", once(None, "1234:1234"))
def test_every_call_is_as_alone(tmp_path, user):
    if user and os.geteuid():
        pytest.skip("needs root (user=)")
    if user and not os.path.exists("/usr/bin/python3"):
        pytest.skip("not installed: /usr/bin/python3")
    python = "/usr/bin/python3" if user else sys.executable
    numbers = ",".join("%s=%d" % (name, nr) for name, nr in sandlock._NR.items())
    outcomes = []
    for fn in (None, allow):
        folder = tmp_path / "outer" / "work"
        subprocess.run(["sh", "-c", 'chmod -Rf u+rwx "$0"; rm -rf "$0"', str(folder.parent)], check=True)
        folder.mkdir(parents=True)
        outside = folder.parent / "outside"  # to be read only; ids and modes are nothing that Landlock judges
        outside.write_text("outside")
        for parent in [folder, *folder.parents]:
            if str(parent).startswith("/tmp/"):
                os.chmod(parent, 0o755)
        for name in ("asked", "told"):
            os.mkfifo(folder.parent / name)
        if user:
            for path in (folder, folder.parent, folder.parent / "asked", folder.parent / "told"):
                os.chown(path, 1234, 1234)
        builder = subprocess.Popen([python, "-S", "-c", BUILDER], cwd=str(folder), preexec_fn=lambda: user and (os.setgroups([]), os.setgid(1234), os.setuid(1234)))
        result = Sandbox(fs_readable=SYSTEM_PATHS + (outside, folder.parent / "told"), fs_writable=[folder, folder.parent / "asked"], cwd=folder, user=user, policy_fn=fn, max_processes=20,
                         policy_events=["file"]).run(
            [python, "-S", "-c", CALLS, numbers, str(sandlock._STAT_SIZE)] + ["thin"] * bool(THIN or user), timeout=200)
        builder.terminate()  # where the program did not get to it
        builder.wait()
        assert result.success and not result.error, (result.error, result.stderr[-3000:], result.stdout[-300:])
        outcomes.append(result.stdout.decode("utf-8", "replace").splitlines())
    assert len(outcomes[0]) == len(outcomes[1]) > (2000 if THIN or user else 8000)
    different = [(a, b) for a, b in zip(*outcomes) if a != b]
    assert not different, "\n".join("%s\n   %s" % pair for pair in different[:30]) + "\n%d" % len(different)


# -- denied means denied ---------------------------------------------------------------------------

TRY_ALL = r"""
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def ok(what, *args, **more):
    try: what(*args, **more); return "ok"
    except OSError as e: return errno.errorcode[e.errno]
def opened(*args): os.close(os.open(*args))
def bound(name): s = socket.socket(socket.AF_UNIX); s.bind(name)
def linked(a, b):
    if libc.linkat(-100, a, -100, b, 0x400): raise OSError(ctypes.get_errno(), "")
def watched(name):
    if libc.inotify_add_watch(libc.inotify_init1(0), name.encode(), 0xfff) < 0: raise OSError(ctypes.get_errno(), "")
def every(name):
    # Each of the file category's calls on a name; what changes it comes last.
    yield from (("open", opened, name, 0), ("create", opened, name, os.O_CREAT | os.O_WRONLY), ("O_PATH", opened, name, 0o10000000),
        ("stat", os.stat, name), ("lstat", os.lstat, name), ("access", lambda: os.access(name, os.F_OK) or opened(name, 0)), ("statfs", os.statvfs, name), ("getxattr", os.listxattr, name),
        ("truncate", os.truncate, name, 0), ("chmod", os.chmod, name, 0o700), ("chown", os.chown, name, -1, -1), ("utime", os.utime, name), ("link", lambda: os.link(name, "linked", follow_symlinks=False)),
        ("watch", watched, name), ("rename", os.rename, name, "elsewhere"), ("unlink", os.unlink, name))
"""


def attempts(script, tmp_path, **fields):
    fields = dict(dict(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], cwd=tmp_path), **fields)
    result = Sandbox(**fields).run([sys.executable, "-S", "-c", TRY_ALL + script], timeout=60)
    assert result.exit_code == 0 and not result.error, result
    return result.stdout.decode().split()


def by_deny_path(*paths):
    done = []

    def judge(event, ctx):
        if not done:
            done.append([ctx.deny_path(path) for path in paths])
    return dict(policy_fn=judge, policy_events=["file", "network"])


@pytest.fixture(params=["fs_denied", "deny_path"])
def denying(request):
    return (lambda *paths: dict(fs_denied=paths)) if request.param == "fs_denied" else by_deny_path


def test_every_call_on_a_denied_file_is_refused(tmp_path, denying):
    (tmp_path / "dir").mkdir()
    names = ["secret", "./dir/../secret", "dir/f", "link", "alias", str(tmp_path / "secret"), "/proc/self/cwd/secret", "/proc/self/root" + str(tmp_path / "secret")]
    script = "for name in sys.argv[1:] or %r:\n    for label, *what in every(name): print(ok(*what))" % (names,)

    def prepare():
        for name in ("secret", "dir/f", "alias", "link", "linked", "elsewhere"):
            if (tmp_path / name).is_symlink() or (tmp_path / name).exists():
                (tmp_path / name).unlink()
        (tmp_path / "secret").write_text("secret")
        (tmp_path / "dir" / "f").write_text("deep")
        os.symlink("secret", tmp_path / "link")
        os.link(tmp_path / "secret", tmp_path / "alias")
    prepare()
    denied = attempts(script, tmp_path, **denying(tmp_path / "secret", tmp_path / "dir"))
    link = denied[3 * 16:4 * 16]
    assert set(denied[:3 * 16] + denied[4 * 16:6 * 16]) == {"EACCES"}, denied
    assert set(denied[6 * 16:]) == {"EACCES"}, denied
    # A symbolic link to it is no denied file itself: what follows it is refused, what means the link is not.
    assert link == ["EACCES"] * 4 + ["ok"] + ["EACCES"] * 7 + ["ok", "EACCES", "ok", "ENOENT"], link
    assert (tmp_path / "secret").read_text() == "secret" and (tmp_path / "dir" / "f").read_text() == "deep"
    prepare()
    for name in names[:2]:
        control = attempts(script.replace("sys.argv[1:] or %r" % (names,), repr([name])), tmp_path, policy_fn=allow, policy_events=["file"])
        assert control == ["ok"] * 15 + ["ENOENT"], control
        prepare()


def test_what_was_open_before_it_was_denied_cannot_be_opened_again(tmp_path):
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "secret").write_text("secret")
    script = ("fd, d, c = os.open('dir/secret', 0), os.open('dir', 0), os.open('dir', 0o10000000); os.chdir('dir')\n"
              "os.mkdir('../now')\n"
              "for name in ('/proc/self/fd/%d' % fd, '/dev/fd/%d' % fd, '/proc/thread-self/fd/%d' % fd, '/proc/self/fd/%d/secret' % d, 'secret', '../dir/secret', '/proc/self/cwd/secret'): print(ok(opened, name, 0))\n"
              "for at in (d, c): print(ok(lambda: os.open('secret', 0, dir_fd=at)), ok(os.stat, 'secret', dir_fd=at), ok(os.rename, 'secret', '../x', src_dir_fd=at), ok(os.unlink, 'secret', dir_fd=at), ok(os.readlink, 'secret', dir_fd=at))\n"
              "print(ok(linked, b'/proc/self/fd/%d' % fd, b'../y'), ok(os.execve, fd, ['x'], {}), ok(os.chdir, '../dir'), ok(os.stat, '.'), ok(os.mkdir, 'new'))\n"
              "print(ok(os.fstat, fd), os.read(fd, 6).decode())")

    def judge(event, ctx):
        if event.syscall == "mkdirat" and event.path.endswith("now"):
            ctx.deny_path(tmp_path / "dir")
    got = attempts(script, tmp_path, policy_fn=judge, policy_events=["file", "process"])
    assert got[:-2] == ["EACCES"] * 22 and got[-2:] == ["ok", "secret"], got  # what is open stays open
    (tmp_path / "now").rmdir()
    assert attempts(script.split("print(ok(linked")[0], tmp_path, policy_fn=allow, policy_events=["file", "process"])[:7] == ["ok"] * 7


@requires_abi(2)  # below, nothing is renamed or linked from one directory to another
def test_hard_links_made_before_or_after_by_anybody(tmp_path, denying):
    (tmp_path / "den").mkdir()
    (tmp_path / "den" / "secret").write_text("secret")
    os.link(tmp_path / "den" / "secret", tmp_path / "before")
    (tmp_path / "two").write_text("harmless")
    os.link(tmp_path / "two", tmp_path / "too")
    script = "print(ok(opened, 'before', 0), ok(os.stat, 'before'), ok(os.link, 'before', 'b2'), ok(os.link, 'den/secret', 'b3'), ok(os.rename, 'before', 'b4'), ok(os.unlink, 'before'), ok(opened, 'two', 0), ok(os.stat, 'too'))"
    assert attempts(script, tmp_path, **denying(tmp_path / "den")) == ["EACCES"] * 6 + ["ok"] * 2
    assert attempts(script, tmp_path, policy_fn=allow, policy_events=["file"]) == ["ok"] * 5 + ["ENOENT"] + ["ok"] * 2


@requires_abi(2)
def test_neither_a_denied_path_nor_what_is_above_it_moves(tmp_path, denying):
    def prepare():
        for top in ("a", "b", "c", "x"):
            subprocess.run(["rm", "-rf", str(tmp_path / top)], check=True)
        (tmp_path / "a" / "b" / "den").mkdir(parents=True)
        (tmp_path / "a" / "b" / "den" / "f").write_text("secret")
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "f").write_text("mine")
        os.symlink("a", tmp_path / "c")
    script = ("def swap(a, b):\n    if libc.syscall(%d, -100, a, -100, b, 2): raise OSError(ctypes.get_errno(), '')\n" % sandlock._NR["renameat2"] +
              "for what in (lambda: os.rename('a', 'x'), lambda: os.rename('a/b', 'x'), lambda: os.rename('a/b/den', 'x'), lambda: os.rename('a/b/den/f', 'x'), lambda: os.rename('c/b', 'x'),\n"
              "             lambda: swap(b'a', b'b'), lambda: swap(b'b', b'a/b'), lambda: os.rename('b/f', 'a/b/den/f'), lambda: os.rename('b/f', 'a/b/den/new'), lambda: os.link('b/f', 'a/b/den/new'), lambda: os.symlink('x', 'a/b/den/new')): print(ok(what))\n")
    prepare()
    assert attempts(script, tmp_path, **denying(tmp_path / "a" / "b" / "den")) == ["EACCES"] * 11
    assert attempts("print(ok(os.rename, 'c', 'x'), ok(os.rename, 'b', 'c'))", tmp_path, **denying(tmp_path / "c" / "b" / "den")) == ["EACCES"] * 2
    assert (tmp_path / "a" / "b" / "den" / "f").read_text() == "secret"
    for i in range(11):  # each by itself
        prepare()
        one = script.replace("): print(ok(what))", ")[%d:%d]: print(ok(what))" % (i, i + 1))
        assert attempts(one, tmp_path, policy_fn=allow, policy_events=["file"]) == ["ok"], i


def test_a_denied_path_that_does_not_exist_yet(tmp_path, denying):
    script = ("print(ok(opened, 'none', os.O_CREAT | os.O_WRONLY), ok(os.mkdir, 'none'), ok(os.symlink, 'x', 'none'), ok(os.link, 'f', 'none'), ok(os.rename, 'f', 'none'), ok(os.mkfifo, 'none'), ok(bound, 'none'),\n"
              "      ok(os.symlink, '/tmp', 'up'), ok(os.mkdir, 'up'), ok(opened, 'up/none', os.O_CREAT | os.O_WRONLY), ok(os.rmdir, 'up'), ok(os.stat, 'none'), ok(os.mkdir, 'other'))")
    (tmp_path / "f").write_text("x")
    got = attempts(script, tmp_path, **denying(tmp_path / "none", tmp_path / "up" / "none"))
    assert got == ["EACCES"] * 8 + ["ok"] + ["EACCES"] * 3 + ["ok"], got
    (tmp_path / "up").rmdir(), (tmp_path / "other").rmdir()
    assert attempts(script, tmp_path, policy_fn=allow, policy_events=["file"]).count("ok") == 5


def test_bind_mounts_are_other_spellings():
    mounts = [sandlock._Mount(point=p, root=r, device=d) for p, r, d in (
        (b"/", b"/", b"8:1"), (b"/alias", b"/data", b"8:1"), (b"/part", b"/data/den/deep", b"8:1"), (b"/other", b"/data", b"8:2"), (b"/data/den/m", b"/", b"8:3"), (b"/again", b"/x", b"8:3"))]
    assert sandlock._spellings("/data/den", mounts) == {"/data/den", "/alias/den", "/part", "/data/den/m", "/again"}  # and what is mounted beneath
    assert sandlock._spellings("/data/den/m/x/y", mounts) == {"/data/den/m/x/y", "/again/y"}
    assert sandlock._spellings("/alias/den/f", mounts) == {"/data/den/f", "/alias/den/f"}
    assert {"/", "/alias", "/part", "/other", "/again"} <= sandlock._spellings("/", mounts)


def test_links_in_the_middle_of_a_denied_path_stay(tmp_path, denying):
    (tmp_path / "real" / "x").mkdir(parents=True)
    (tmp_path / "mid").symlink_to("real")
    (tmp_path / "link").symlink_to("mid/x")
    script = ("print(ok(opened, 'link/new', os.O_CREAT | os.O_WRONLY), ok(os.unlink, 'mid'), ok(os.rename, 'mid', 'm'), ok(os.unlink, 'link'), ok(os.rename, 'real', 'r'),\n"
              "      ok(os.symlink, 'other', 'free'), ok(os.unlink, 'free'))")
    assert attempts(script, tmp_path, **denying(tmp_path / "link" / "new")) == ["EACCES"] * 5 + ["ok"] * 2
    assert attempts(script, tmp_path, policy_fn=allow, policy_events=["file"])[:3] == ["ok", "ok", "ENOENT"]


@requires_abi(2)
def test_directories_that_a_denied_path_leaves_again_stay(tmp_path, denying):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "mid").mkdir()
    os.symlink("a/b", tmp_path / "link")
    script = "print(ok(os.rename, 'a/b', 'mid/b'), ok(os.unlink, 'link'), ok(opened, 'a/conf', os.O_CREAT | os.O_WRONLY), ok(os.rename, 'mid', 'mid2'), ok(os.rename, 'mid2', 'mid'))"
    assert attempts(script, tmp_path, **denying(str(tmp_path) + "/link/../conf")) == ["EACCES"] * 3 + ["ok"] * 2
    assert attempts(script, tmp_path, policy_fn=allow, policy_events=["file"])[:2] == ["ok", "ok"]


def test_a_rule_that_comes_with_the_second_event_of_a_rename_holds(tmp_path):
    (tmp_path / "den").mkdir()
    (tmp_path / "den" / "f").write_text("x")
    os.link(tmp_path / "den" / "f", tmp_path / "g")

    def judge(event, ctx):
        if event.path.endswith("there"):
            ctx.deny_path(tmp_path / "den")
    for fn, expected in ((judge, "EACCES"), (allow, "ok")):
        assert attempts("print(ok(os.rename, 'g', 'there'))", tmp_path, policy_fn=fn, policy_events=["file"]) == [expected]


def test_nothing_is_told_of_what_is_beneath_a_denied_directory(tmp_path, denying):
    """By calls that fail on their way through it: they fail alike, whatever is there."""
    (tmp_path / "den" / "dir").mkdir(parents=True)
    (tmp_path / "den" / "file").write_text("x")
    os.symlink("den", tmp_path / "up")
    os.symlink("den/file/q", tmp_path / "through")
    names = [form % name for name in ("file", "none") for form in ("den/%s", "den/%s/q/r", "up/%s/q", "up/%s/q/r", "up/%s/", "up/%s/../../f", "den/%s/../../f")]
    script = "for n in %r: print(ok(os.stat, n), ok(opened, n, 0), ok(os.mkdir, n + '/x'), ok(os.execv, n, ['x']))" % (names + ["up/dir/q/r", "through"])
    assert set(attempts(script, tmp_path, **denying(tmp_path / "den"))) == {"EACCES"}
    assert {"ENOTDIR", "ENOENT"} < set(attempts(script, tmp_path, policy_fn=allow, policy_events=["file"]))


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user")
def test_a_directory_that_the_program_shuts_hides_nothing(tmp_path):
    (tmp_path / "above" / "den").mkdir(parents=True)
    (tmp_path / "above" / "den" / "f").write_text("x")
    (tmp_path / "above" / "g").write_text("x")
    (tmp_path / "above" / "link").symlink_to("den")
    os.link(tmp_path / "above" / "den" / "f", tmp_path / "other")

    def judge(event, ctx):
        if event.syscall == "mkdirat":
            ctx.deny_path(tmp_path / "above" / "link" / "f")
    script = ("d = os.open('above', 0)\nos.chmod('above', 0)\nok(os.mkdir, 'now')\nprint(ok(opened, 'other', 0))\n"
              "os.fchmod(d, 0o755)\nprint(ok(opened, 'other', 0), ok(opened, 'above/link/f', 0), ok(opened, 'above/g', 0))")
    try:
        for fields in (dict(fs_denied=[tmp_path / "above" / "den"]), dict(policy_fn=judge, policy_events=["file"])):
            assert attempts(script, tmp_path, **fields) == ["EACCES"] * 3 + ["ok"]
            (tmp_path / "above").chmod(0o755)
            (tmp_path / "now").is_dir() and (tmp_path / "now").rmdir()
        assert attempts(script, tmp_path, policy_fn=allow, policy_events=["file"]) == ["ok"] * 4
    finally:
        (tmp_path / "above").chmod(0o755)


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user")
def test_a_denied_directory_with_another_name_is_not_hidden_either(tmp_path):
    """What it is tells, of the directories above too; where the program has shut those, nothing can be told."""
    (tmp_path / "above" / "den").mkdir(parents=True)
    (tmp_path / "above" / "den" / "f").write_text("x")

    def judge(event, ctx):
        if event.path_contains("now"):
            ctx.deny_path(tmp_path / "above" / "den")
            os.rename(tmp_path / "above" / "den", tmp_path / "above" / "other")
    script = ("p, d = os.open('above', 0), os.open('above/den', 0)\nok(os.stat, 'now')\nprint(ok(os.stat, 'f', dir_fd=d))\n"
              "os.fchmod(p, 0)\nprint(ok(os.stat, 'f', dir_fd=d))\nos.fchmod(p, 0o755)")
    try:
        assert attempts(script, tmp_path, policy_fn=judge, policy_events=["file"]) == ["EACCES"] * 2
        os.rename(tmp_path / "above" / "other", tmp_path / "above" / "den")
        assert attempts(script, tmp_path, policy_fn=allow, policy_events=["file"]) == ["ok"] * 2
    finally:
        (tmp_path / "above").chmod(0o755)


def test_where_nobody_can_look_nothing_is_allowed(tmp_path, monkeypatch):
    (tmp_path / "den").mkdir()
    (tmp_path / "f").write_text("x")
    script = "print(ok(os.stat, 'f'), ok(opened, 'f', 0), ok(os.unlink, 'f'))"
    assert attempts(script, tmp_path, fs_denied=[tmp_path / "den"]) == ["ok"] * 3
    (tmp_path / "f").write_text("x")

    def without_descriptors(sup, path):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # the host's, for as long as that takes
        try:
            return above(sup, path)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    above = sandlock._identities_above
    monkeypatch.setattr(sandlock, "_identities_above", lambda sup, path: (without_descriptors if path.endswith(b"/f") else above)(sup, path))
    assert attempts(script, tmp_path, fs_denied=[tmp_path / "den"]) == ["EMFILE"] * 3


# -- the host's own, by way of /proc -----------------------------------------------------------------

OF_THE_HOST = r"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
folder, fd = sys.argv[1:]
os.chdir(folder)
try: print(os.read(os.open(fd, os.O_RDONLY), 100))
except OSError as e: print(e.errno)
print(libc.inotify_add_watch(libc.inotify_init1(0), fd.encode(), 2) < 0)"""


def test_from_within_the_hosts_own_directory_nothing_is_opened(monkeypatch):
    """chdir is free where it is no event; the kernel refuses the task what is in there, but the host is itself."""
    secret = os.memfd_create("secret")
    os.pwrite(secret, b"SECRET", 0)
    command = [sys.executable, "-S", "-c", OF_THE_HOST, "/proc/%d/fd" % os.getpid(), str(secret)]
    fields = dict(fs_readable=SYSTEM_PATHS, policy_fn=allow, policy_events=["openat"])
    try:
        assert Sandbox(**fields).run(command).stdout.split() == [b"13", b"True"]
        assert Sandbox(fs_readable=SYSTEM_PATHS).run(command).stdout.split() == [b"13", b"True"]  # a watch needs no callback
        monkeypatch.setattr(sandlock._Walker, "refuse_host", lambda self, fd: None)
        assert b"SECRET" in Sandbox(**fields).run(command).stdout
    finally:
        os.close(secret)


def test_what_the_hosts_own_links_say_is_not_told():
    """A link of /proc itself, opened by the kernel where that is no event, is read on behalf."""
    code = ("import ctypes, os, sys\nlibc, text = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(200)\n"
            "for pid in sys.argv[1], 'self':\n    fd = os.open('/proc/%s/cwd' % pid, os.O_PATH | os.O_NOFOLLOW)\n"
            "    print(libc.readlinkat(fd, b'', text, 200) > 0, ctypes.get_errno())")
    result = Sandbox(fs_readable=SYSTEM_PATHS, policy_fn=allow, policy_events=["readlink"]).run([sys.executable, "-S", "-c", code, str(os.getpid())])
    assert result.stdout.split() == [b"False", b"13", b"True", b"13"], result


def test_a_message_does_not_reach_a_denied_socket_by_another_name(tmp_path):
    (tmp_path / "den").mkdir()
    code = ("import ctypes, os, socket, struct\nlibc = ctypes.CDLL(None, use_errno=True)\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            "name = ctypes.create_string_buffer(struct.pack('=H', 1) + b'other')\nheader = ctypes.create_string_buffer(struct.pack('=QIxxxxQQQQIxxxxIxxxx', ctypes.addressof(name), 8, 0, 0, 0, 0, 0, 0))\n"
            "print(libc.sendmmsg(s.fileno(), header, 1, 0), ctypes.get_errno())")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "den" / "s"))
        os.link(tmp_path / "den" / "s", tmp_path / "other")
        fields = dict(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], cwd=tmp_path, net_allow=["unix://"])
        command = [sys.executable, "-S", "-c", code]
        assert Sandbox(fs_denied=[tmp_path / "den"], **fields).run(command).stdout.split() == [b"-1", b"13"]
        assert Sandbox(**fields).run(command).stdout.split() == [b"1", b"0"]  # the control


LATE_PROC = r"""
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
import sandlock
top, late, whole = sys.argv[2:]
def judge(event, ctx):
    if event.path_contains("/go"):
        subprocess.run(["mount", "-t", "proc", "proc", late], check=True)
code = '''
import os, sys
try: open(sys.argv[1] + "/go")
except OSError: pass
for name in ("self/environ", "thread-self/environ", "%s/environ" % sys.argv[3]):
    try: print("SECRET" in open(os.path.join(sys.argv[2], name)).read())
    except OSError as e: print(e.errno)'''
if whole: sandlock._Walker._is_proc = lambda self, fd: self.path(fd).startswith(self.proc_roots)  # as it was: by the names of the start
box = sandlock.Sandbox(fs_readable=sandlock.SYSTEM_PATHS, fs_writable=[top], clean_env=True, policy_fn=judge, policy_events=["file"])
result = box.run([sys.executable, "-S", "-c", code, top, late, str(os.getpid())])
print(*result.stdout.decode().split(), result.stderr.decode()[-300:], result.policy_errors or "")
"""


@requires_root
def test_a_proc_that_is_mounted_meanwhile_shows_nothing_of_the_host(tmp_path):
    late = tmp_path / "late"
    late.mkdir()
    if subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs CAP_SYS_ADMIN (mounts)")
    for control in ("", "control"):
        out = subprocess.run(["unshare", "-m", "--propagation", "private", sys.executable, "-c", LATE_PROC, os.path.dirname(os.path.abspath(sandlock.__file__)),
                              str(tmp_path), str(late), control], stdout=subprocess.PIPE, timeout=60, env=dict(os.environ, X="SECRET")).stdout.split()
        assert (b"True" in out) if control else out == [b"13"] * 3, out


def test_fs_denied_wins_over_every_grant_and_cannot_be_taken_back(tmp_path):
    (tmp_path / "secret").write_text("x")
    script = "print(ok(opened, 'secret', 0))"

    def judge(event, ctx):
        ctx.allow_path(tmp_path / "secret")
        return 0
    assert attempts(script, tmp_path, policy_fn=judge, fs_denied=[tmp_path / "secret"]) == ["EACCES"]
    result = Sandbox(fs_readable=SYSTEM_PATHS + (tmp_path, tmp_path / "secret"), fs_denied=[tmp_path]).run(["cat", str(tmp_path / "secret")])
    assert result.exit_code == 1 and [d.field for d in result.denials] == ["fs_denied"] and result.denials[0].event.path == str(tmp_path / "secret")


def test_a_denied_program_socket_and_interpreter_without_a_callback(tmp_path):
    import shutil
    import socket
    for name in ("tool", "other"):
        shutil.copy("/bin/echo", tmp_path / name)
    (tmp_path / "script").write_text("#!%s/tool\n" % tmp_path)
    (tmp_path / "script").chmod(0o755)
    os.link(tmp_path / "tool", tmp_path / "hardlink")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "sock"))
        server.listen()
        command = ["sh", "-c", "for n in tool other script hardlink; do ./$n ran; done; exec %s -S -c 'import socket\ntry: socket.socket(1).connect(\"sock\"); print(\"connected\")\nexcept OSError as e: print(e.errno)'" % sys.executable]
        fields = dict(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], cwd=tmp_path)
        denied = Sandbox(fs_denied=[tmp_path / "tool", tmp_path / "sock"], **fields).run(command)
        control = Sandbox(fs_denied=[tmp_path / "none"], **fields).run(command)
    assert denied.stdout == b"ran\n13\n" and denied.stderr.count(b"Permission denied") == 3, denied
    assert control.stdout.count(b"ran") == 4 and b"connected" in control.stdout, control


def test_two_paths_are_two_events_source_first(tmp_path):
    for name in ("f", "g"):
        (tmp_path / name).write_text("x")
    seen = []

    def judge(event, ctx):
        if event.syscall in ("renameat", "linkat"):
            seen.append((event.syscall, os.path.basename(event.path), event.denied))
            return 17 if event.path.endswith("no") else 0
    got = attempts("print(ok(os.rename, 'f', 'f2'), ok(os.link, 'g', 'g2'), ok(os.rename, 'g', 'no'), ok(os.rename, '/etc/hostname', 'h'))", tmp_path, policy_fn=judge)
    assert got[:3] == ["ok", "ok", "EEXIST"] and got[3] in ("EACCES", "EXDEV"), got
    assert seen == [("renameat", "f", False), ("renameat", "f2", False), ("linkat", "g", False), ("linkat", "g2", False), ("renameat", "g", False), ("renameat", "no", False),
                    ("renameat", "hostname", True), ("renameat", "h", False)]


def test_an_event_tells_what_the_kernel_will_refuse(tmp_path):
    """Also of opens that are done after the verdict only."""
    (tmp_path / "in").mkdir()
    seen = {}

    def judge(event, ctx):
        if event.syscall in ("openat", "mkdirat", "truncate"):
            seen[event.path] = event.denied
    places = [os.path.join(top, name) for top in (str(tmp_path), str(tmp_path / "in")) for name in ("new", "emptied", "made")]
    (tmp_path / "emptied").write_text("x"), (tmp_path / "in" / "emptied").write_text("x")
    os.mkfifo(tmp_path / "fifo")
    script = "for top in (%r, %r): print(ok(opened, top + '/new', os.O_CREAT | os.O_WRONLY), ok(opened, top + '/emptied', os.O_TRUNC | os.O_WRONLY), ok(os.mkdir, top + '/made'))\nok(opened, 'fifo', os.O_NONBLOCK); ok(opened, '/dev/null', os.O_WRONLY); ok(opened, '/proc/self/fd/%%d' %% os.pipe()[0], 0)" % (str(tmp_path), str(tmp_path / "in"))
    assert attempts(script, tmp_path, fs_readable=SYSTEM_PATHS + (tmp_path,), fs_writable=[tmp_path / "in"], policy_fn=judge, policy_events=["file"]) == ["EACCES"] * 3 + ["ok"] * 3
    assert [seen[path] for path in places] == [True] * 3 + [False] * 3, seen
    assert not seen[str(tmp_path / "fifo")] and not seen["/dev/null"]
    assert [denied for path, denied in seen.items() if path.startswith("pipe:")] == [False]


@requires_root
def test_who_has_dropped_all_capabilities_is_served_still(tmp_path):
    """With `user` the broker reads its memory by CAP_SYS_PTRACE."""
    script = "import ctypes\nprint(libc.syscall(%d, (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()), ok(opened, '/etc/hostname', 0), ok(os.execv, '/bin/true', ['true']))" % sandlock._NR["capset"]
    for fields in (dict(user="1234:1234"), {}):
        result = Sandbox(fs_readable=SYSTEM_PATHS, fs_denied=["/nonexistent"], **fields).run(["/usr/bin/python3", "-S", "-c", TRY_ALL + script.replace(", ok(os.execv", "); sys.stdout.flush(); (ok(os.execv").replace("['true']))", "['true']))")])
        assert result.success and result.stdout.split() == [b"0", b"ok"], result


def test_the_limit_on_file_sizes_is_the_tasks(tmp_path):
    script = ("import signal\nhits = []\nsignal.signal(signal.SIGXFSZ, lambda *a: hits.append(1)); opened('f', os.O_CREAT | os.O_WRONLY)\n"
              "print(ok(os.truncate, 'f', 1 << 20), ok(os.truncate, 'f', (1 << 20) + 1))\nprint(len(hits), os.stat('f').st_size)")
    for fields in (dict(policy_fn=allow, policy_events=["file"]), {}):
        assert attempts(script, tmp_path, max_file_size="1M", **fields) == ["ok", "EFBIG", "1", "1048576"]
        (tmp_path / "f").unlink()


# -- nothing is left out ---------------------------------------------------------------------------

# Every syscall that takes the name of a file, of x86_64 and of the generic table, as declared in
# the kernel's include/linux/syscalls.h and fs/*.c up to 7.2; written down apart from the product.
TAKE_PATHS = set("""open openat openat2 creat stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat
statfs truncate chdir chroot chmod fchmodat fchmodat2 chown lchown fchownat utime utimes futimesat utimensat rename renameat
renameat2 link linkat symlink symlinkat unlink unlinkat mkdir mkdirat rmdir mknod mknodat setxattr lsetxattr getxattr lgetxattr
listxattr llistxattr removexattr lremovexattr setxattrat getxattrat listxattrat removexattrat file_getattr file_setattr
name_to_handle_at execve execveat uselib acct swapon swapoff mount umount2 pivot_root move_mount open_tree open_tree_attr
mount_setattr fspick quotactl inotify_add_watch fanotify_mark connect bind sendto sendmsg sendmmsg mq_open mq_unlink
fsconfig bpf io_uring_enter io_uring_register io_uring_setup""".split())
HARMLESS = {
    "mq_open": "a name in the namespace of message queues, which is no file; refused unless lifted",
    "mq_unlink": "the same",
    "sendto": "a path in a Unix datagram address; trapped where rules let such sockets exist, else they do not",
    "sendmsg": "the same", "sendmmsg": "the same",
}


@pytest.mark.parametrize("name", sorted(sandlock._ARCHITECTURES))
def test_no_call_that_takes_a_path_is_left_out(name):
    from support import interpret
    arch = sandlock._ARCHITECTURES[name]
    for policy in (sandlock.Policy(fs_denied=["/x"]), sandlock.Policy(policy_fn=allow)):
        trapped = set(sandlock._trapped_syscalls(policy))
        code = sandlock._policy_filter((), (), arch, tuple(sorted(trapped)), (), (False, False))
        for call in sorted(TAKE_PATHS & arch.syscalls.keys()):
            verdict = interpret(code, arch.syscalls[call], arch.audit, (1, 1 << 32, 1, 1, 1, 1))
            assert verdict == 0x7fc00000 or verdict & 0xffff0000 == 0x50000 or call in HARMLESS, call
    assert {c for a in sandlock._ARCHITECTURES.values() for c in a.syscalls} >= TAKE_PATHS
    plain = sandlock._policy_filter((), (), arch, sandlock._trapped_syscalls(sandlock.Policy()), (), (False, False))
    assert all(interpret(plain, arch.syscalls[c], arch.audit) == 0x7fff0000 for c in ("newfstatat", "unlinkat", "renameat2", "statx"))


def test_the_list_of_path_calls_agrees_with_strace():
    """strace(1) knows which calls take a file name: its class %file."""
    import shutil
    if not shutil.which("strace"):
        pytest.skip("not installed: strace")
    code = ("import ctypes, sys\nlibc = ctypes.CDLL(None)\nfor nr in map(int, sys.argv[1:]): libc.syscall(nr, -1, -1, -1, -1, -1, -1)\nprint('end')")
    harmless = {n: nr for n, nr in sandlock._NR.items() if n not in TAKE_PATHS and n not in (
        "exit exit_group pause vfork fork clone clone3 rt_sigsuspend rt_sigreturn reboot kexec_load shutdown vhangup kill tkill tgkill munmap close close_range read write poll select "
        "sched_yield setrlimit prlimit64 seccomp prctl mprotect brk munlockall mlockall setpgid setsid restart_syscall futex wait4 waitid ppoll pselect6 epoll_wait nanosleep init_module "
        "delete_module finit_module settimeofday clock_settime sethostname setdomainname iopl ioperm unshare setns landlock_restrict_self set_robust_list set_tid_address rseq arch_prctl "
        "sigaltstack mremap shmdt pkey_mprotect mseal madvise process_madvise ptrace alarm setitimer personality dup2 dup3 umask uretprobe uprobe map_shadow_stack".split())}
    result = subprocess.run(["strace", "-qq", "-e", "trace=%file", "-e", "signal=none", sys.executable, "-S", "-c", code] + [str(nr) for nr in harmless.values()],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    if result.returncode:
        pytest.skip("strace does not run here: %r" % result.stderr[-200:])
    named = {line.split("(")[0] for line in result.stderr.decode("utf-8", "replace").splitlines() if "(" in line}
    unknown = {name for name in named if name.startswith("syscall_")}  # newer than strace
    assert len(named) > 3 and named - TAKE_PATHS - unknown <= {"getcwd", "fstat", "fstatfs"}, named - TAKE_PATHS


# -- identity --------------------------------------------------------------------------------------

DROP = r"""
def drop(permitted, effective):
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(effective, permitted, 0, 0, 0, 0)
    assert libc.capset(header, data) == 0
def everything():
    s = socket.socket(socket.AF_UNIX)
    return [ok(opened, 'closed/f', 0), ok(os.stat, 'closed/f'), ok(opened, 'closed/new', os.O_CREAT | os.O_WRONLY), ok(os.mkdir, 'closed/d'), ok(os.truncate, 'closed/f', 0), ok(os.chmod, 'others', 0o644),
            ok(os.chown, 'others', 0, 0), ok(os.rename, 'closed/f', 'x'), ok(s.connect, 'closed/s'), ok(bound, 'closed/s2'), ok(os.listdir, 'closed'), ok(os.utime, 'others'), os.access('closed/f', 4), ok(os.link, 'closed/f', 'l'), ok(opened, 'others', 1)]
"""


def test_capabilities_that_a_task_drops_are_not_lent_to_it(tmp_path):
    """What it may not do itself any more, it cannot have done for it; another task still can."""
    if os.geteuid() != 0:
        pytest.skip("needs root (capabilities)")

    def prepare():
        subprocess.run(["rm", "-rf", str(tmp_path)], check=True)
        (tmp_path / "closed").mkdir(parents=True)
        (tmp_path / "closed" / "f").write_text("x")
        (tmp_path / "others").write_text("x")
        (tmp_path / "others").chmod(0o600)
        import socket
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "closed" / "s"))
        for name in ("closed/f", "closed/s", "others", "closed"):
            os.chown(tmp_path / name, 4321, 4321)
            os.chmod(tmp_path / name, 0o700)
    outcomes = {}
    for caps in ("pass", "drop(0, 0)", "drop(0x1b, 0)", "drop(1, 1)", "drop(8, 8)"):
        for fields in (dict(), dict(policy_fn=allow, policy_events=["file", "network"])):
            prepare()
            outcomes.setdefault(caps, []).append(attempts(DROP + "mine = os.getpid()\n%s\nprint(*everything())\npid = os.fork()\nif not pid: os._exit(0)\nos.wait()" % caps, tmp_path, **fields))
    for caps, (alone, watched) in outcomes.items():
        # socket files are judged with the rights of the broker too; alone, connect(2) is done on behalf as well
        assert alone == watched, (caps, list(zip(alone, watched)))
    assert outcomes["pass"][0].count("EACCES") == 0 and outcomes["drop(0, 0)"][0].count("EACCES") > 8
    prepare()
    script = DROP + "r, w = os.pipe()\nif not os.fork(): drop(0, 0); os.write(w, b'x'); import time; time.sleep(1); os._exit(0)\nos.read(r, 1); print(ok(opened, 'closed/f', 0), os.getcwd() != '', ok(os.stat, 'closed/f'))"
    assert attempts(script, tmp_path, policy_fn=allow, policy_events=["file"]) == ["ok", "True", "ok"]


@pytest.mark.parametrize("user", [None, "1234:1234"])
def test_nobody_gets_more_on_behalf_than_alone(tmp_path, user):
    """Devices, others' files, ids: refused alone and refused under a callback."""
    if os.geteuid() != 0:
        pytest.skip("needs root (user=, others' files)")
    (tmp_path / "work").mkdir()
    (tmp_path / "others").write_text("x")
    (tmp_path / "others").chmod(0o640)
    for parent in [tmp_path, *tmp_path.parents]:
        if str(parent).startswith("/tmp/"):
            os.chmod(parent, 0o755)
    script = TRY_ALL + ("w = 'work/'\nprint(ok(os.mknod, w + 'dev', 0o60600, os.makedev(8, 0)), ok(os.mknod, w + 'chr', 0o20600, os.makedev(1, 1)), ok(os.chmod, 'others', 0o666), ok(os.chown, 'others', os.getuid(), 1),"
                        " ok(opened, 'others', 1), ok(os.utime, 'others', (1, 1)), ok(os.setxattr, 'others', 'user.x', b'x'), ok(os.setxattr, 'others', 'trusted.x', b'x'), ok(os.setxattr, w, 'security.capability', b'x'), ok(os.setuid, 4321), ok(os.link, 'others', w + 'o'), ok(os.chmod, '/etc/passwd', 0o666) if os.getuid() else '')")
    outcomes = []
    for fn in (None, allow):
        subprocess.run(["rm", "-rf", str(tmp_path / "work")], check=True)
        (tmp_path / "work").mkdir()
        (tmp_path / "others").chmod(0o640)
        os.chown(tmp_path / "others", 0, 0)
        if user:
            os.chown(tmp_path / "work", 1234, 1234)
        result = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path / "work"], cwd=tmp_path, user=user, policy_fn=fn).run(
            ["/usr/bin/python3" if user else sys.executable, "-S", "-c", script])
        assert result.success, result
        outcomes.append(result.stdout.split())
    assert outcomes[0] == outcomes[1], list(zip(*outcomes))
    assert outcomes[0][:2] == [b"EACCES", b"EACCES"] and (not user or b"ok" not in outcomes[0])


# -- what attacks have found -----------------------------------------------------------------------

def test_slashes_at_the_beginning_are_one(tmp_path, denying):
    (tmp_path / "den").mkdir()
    (tmp_path / "den" / "f").write_text("x")
    script = "print(ok(opened, '//nonexistent/x', 0), ok(opened, '//' + os.getcwd() + '//den//f', 0), ok(os.stat, '//'), ok(os.execv, '//nonexistent', ['x']), ok(os.mkdir, '/'), ok(os.rmdir, '//'))"
    got = attempts(script, tmp_path, **denying("/" + str(tmp_path / "den")))
    assert got == ["ENOENT", "EACCES", "ok", "ENOENT", "EEXIST", "EACCES"] or got[-1] == "EBUSY", got
    seen = []
    attempts("print(ok(os.mkdir, '/'), ok(os.rmdir, '//'))", tmp_path, policy_fn=lambda e, c: seen.append((e.syscall, e.path)), policy_events=["file"])
    assert ("mkdirat", "/") in seen and ("unlinkat", "/") in seen


def test_hard_links_are_met_by_exec_watch_and_connect_too(tmp_path, denying):
    import shutil
    import socket
    (tmp_path / "den").mkdir()
    shutil.copy("/bin/true", tmp_path / "den" / "tool")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "den" / "sock"))
        server.listen()
        for name in ("tool", "sock"):
            os.link(tmp_path / "den" / name, tmp_path / name)
        (tmp_path / "script").write_text("#!%s/tool\n" % tmp_path)
        (tmp_path / "script").chmod(0o755)
        steps = {"exec": "ok(os.execv, 'tool', ['t'])", "script": "ok(os.execv, './script', ['t'])", "watch": "ok(watched, 'tool')",
                 "connect": "ok(socket.socket(socket.AF_UNIX).connect, 'sock')", "open": "ok(opened, 'tool', 0)"}
        for step in steps.values():  # each first of all, before anything else has looked for links
            script = "if os.fork(): os.wait()\nelse: print(%s); sys.stdout.flush(); os._exit(0)" % step
            assert attempts(script, tmp_path, **denying(tmp_path / "den")) == ["EACCES"], step
            assert "EACCES" not in attempts(script, tmp_path, policy_fn=allow), step


def test_links_are_looked_for_once_while_everybody_waits(tmp_path, monkeypatch):
    import threading
    (tmp_path / "den").mkdir()
    (tmp_path / "den" / "f").write_text("x")
    os.link(tmp_path / "den" / "f", tmp_path / "l")
    scan, started, pause_s = sandlock._DeniedPaths._scan, threading.Event(), 6 if THIN >= 100 else 0.3

    def slow(top, stop):
        started.set()
        import time
        time.sleep(pause_s)
        return scan(top, stop)
    monkeypatch.setattr(sandlock._DeniedPaths, "_scan", staticmethod(slow))
    script = ("import threading\ngot = []\nts = [threading.Thread(target=lambda: got.append(ok(opened, 'l', 0))) for _ in range(6)]\nfor t in ts: t.start()\n"
              "import time; t0 = time.monotonic(); other = ok(os.mkdir, 'other'); quick = time.monotonic() - t0 < %g\nfor t in ts: t.join()\nprint(*got, other, quick)" % (0.8 * pause_s))
    assert attempts(script, tmp_path, fs_denied=[tmp_path / "den"]) == ["EACCES"] * 6 + ["ok", "True"]

    def endless(top, stop):
        while not stop():
            import time
            time.sleep(0.01)
        return set()
    monkeypatch.setattr(sandlock._DeniedPaths, "_scan", staticmethod(endless))
    result = Sandbox(fs_readable=SYSTEM_PATHS + (tmp_path,), fs_denied=[tmp_path / "den"]).run(["cat", str(tmp_path / "l")], timeout=0.5)
    assert result.reason == sandlock.ExitReason.TIMEOUT and result.duration < 5 and result.stdout == b""


def test_a_rule_that_comes_with_the_second_event_holds_for_the_first(tmp_path):
    for call, script in (("renameat", "print(ok(os.rename, 'f', 'g'))"), ("linkat", "print(ok(os.link, 'f', 'g'))"), ("unlinkat", "print(ok(os.unlink, 'alias'))")):
        for name in ("f", "g", "alias"):
            if (tmp_path / name).exists():
                (tmp_path / name).unlink()
        (tmp_path / "f").write_text("x")
        os.link(tmp_path / "f", tmp_path / "alias")

        def judge(event, ctx):
            if event.syscall == call and event.path.endswith(("g", "alias")):
                ctx.deny_path(tmp_path / "f")
        assert attempts(script, tmp_path, policy_fn=judge, policy_events=["file"]) == ["EACCES"], call
        assert (tmp_path / "f").exists() and (tmp_path / "alias").exists() and not (tmp_path / "g").exists()
        assert attempts(script, tmp_path, policy_fn=allow, policy_events=["file"]) == ["ok"]


def test_a_table_that_is_read_is_never_taken_apart(tmp_path):
    denied = sandlock._DeniedPaths(os.geteuid())
    denied.add("/nonexistent/a", "fs_denied")
    denied.add("/nonexistent/b", "policy_fn")
    table = denied.table
    denied.remove("/nonexistent/b")
    assert table.names == {"/nonexistent/a": "fs_denied", "/nonexistent/b": "policy_fn"}
    assert denied.table.names == {"/nonexistent/a": "fs_denied"} and not denied.field("/nonexistent/b/c", ())
    denied.remove("/nonexistent/a")
    assert denied.field("/nonexistent/a/c", ()) == "fs_denied"


def test_only_what_was_just_made_gets_its_mode_mended(tmp_path):
    fd = os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR, 0o600)
    os.fchmod(fd, 0o644)
    try:
        now = sandlock._coarse_now_ns()
        assert sandlock._birth_ns(fd) < 0 or abs(now - sandlock._birth_ns(fd)) < 10 ** 10  # from 6.13 on stamps may be finer
        sandlock._mend_mode(fd, 0o666, (0, 0o022), now + 10 ** 9)  # made before
        assert os.fstat(fd).st_mode & 0o777 == 0o644
        sandlock._mend_mode(fd, 0o666, (0, 0o022), 0 if sandlock._birth_ns(fd) >= 0 else None)
        assert os.fstat(fd).st_mode & 0o777 == 0o666
    finally:
        os.close(fd)


def test_o_path_gives_no_descriptor_of_what_was_not_judged(tmp_path):
    """A thread flips the name; fstat(2) of such a descriptor would tell of the denied file."""
    from support import compiled
    source = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
static volatile char name[] = "a"; static volatile int stop;
static void *flip(void *x) { while (!stop) { name[0] = 'b'; for (volatile int i = 0; i < 700; i++); name[0] = 'a'; for (volatile int i = 0; i < 700; i++); } return 0; }
int main(int n, char **a) { pthread_t t; pthread_create(&t, 0, flip, 0); int got = 0, hits = 0; struct stat s;
    for (int i = 0; i < atoi(a[1]) || n > 2 && !hits && i < 60000000; i++) { int fd = open((char *)name, O_PATH); if (fd < 0) continue; got++; fstat(fd, &s); hits += s.st_size > 9; close(fd); }
    stop = 1; printf("%d %d\n", got, hits); return 0; }"""
    payload = compiled(source, "-pthread")
    (tmp_path / "a").write_text("public")
    (tmp_path / "b").write_text("secret" * 9)
    for fields in (dict(fs_denied=[tmp_path / "b"]), dict(policy_fn=lambda e, c: e.path == str(tmp_path / "b"), policy_events=["file"]), {}):
        result = Sandbox(fs_readable=SYSTEM_PATHS + (tmp_path, os.path.dirname(payload)), cwd=tmp_path, **fields).run(
            [payload, str(rounds(6000))] + ["until it hits"] * (not fields), timeout=60)  # the control, on whatever cores there are
        got, hits = map(int, result.stdout.split())
        assert got and bool(hits) == (not fields), (fields, result)


def test_what_the_host_starts_is_denied_too(tmp_path):
    import shutil
    shutil.copy("/bin/echo", tmp_path / "tool")
    os.link(tmp_path / "tool", tmp_path / "alias")
    (tmp_path / "script").write_text("#!%s/tool\n" % tmp_path)
    (tmp_path / "script").chmod(0o755)
    fields = dict(fs_readable=SYSTEM_PATHS + (tmp_path,))
    for name in ("tool", "alias", "script"):
        result = Sandbox(fs_denied=[tmp_path / "tool"], **fields).run([str(tmp_path / name)])
        assert result.exit_code == 126 and "fs_denied" in result.error, (name, result)
        assert Sandbox(fs_denied=[tmp_path / "none"], **fields).run([str(tmp_path / name)]).success


LOADER = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>
int main(void) {  /* a process exchanges "d", where the loader is allowed, with "e", where it is a link to the denied one */
    pid_t p = fork(); if (!p) { alarm(20); for (;;) syscall(SYS_renameat2, AT_FDCWD, "d", AT_FDCWD, "e", 2); }
    int ran = 0;
    for (int i = 0; i < 400; i++) { pid_t c = fork(); if (!c) { execl("./prog", "prog", 0); _exit(1); } int s; waitpid(c, &s, 0); ran += WIFEXITED(s) && WEXITSTATUS(s) == 7; }
    kill(p, 9); printf("%d\n", ran); return 0;
}"""


@requires_abi(2)
@pytest.mark.parametrize("kind", ["-static-pie -fPIE", "-static -no-pie -Wl,-Ttext-segment=0x10000000"])  # AT_BASE is 0 for the latter
def test_a_loader_that_is_exchanged_never_runs_denied(tmp_path, kind):
    import shutil
    from support import compiled
    if os.uname().machine != "x86_64":
        pytest.skip("a loader in assembly, of x86_64 alone")
    loader = "__attribute__((naked)) void _start(void) { __asm__(\"mov $%d, %%edi; mov $231, %%eax; syscall\"); }"
    static, allowed = (compiled(loader % code, "-nostdlib", *kind.split()) for code in (7, 3))
    payload = compiled(LOADER)
    for name in ("d", "e"):
        (tmp_path / name).mkdir()
    shutil.copy(static, tmp_path / "denied")
    shutil.copy(allowed, tmp_path / "d" / "ld")
    os.link(tmp_path / "denied", tmp_path / "e" / "ld")
    shutil.copy(compiled("int main(void) { return 0; }", "-Wl,--dynamic-linker,%s/d/ld" % tmp_path), tmp_path / "prog")
    fields = dict(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), fs_writable=[tmp_path], cwd=tmp_path)
    assert Sandbox(fs_denied=[tmp_path / "denied"], **fields).run([payload], timeout=60).stdout == b"0\n"
    assert int(Sandbox(**fields).run([payload], timeout=60).stdout) > 0  # the control


def test_nobody_is_left_waiting_for_a_look_that_fails(tmp_path, monkeypatch):
    """Whatever it is, an error of ours too."""
    (tmp_path / "den").mkdir()
    (tmp_path / "f").write_text("x")
    os.link(tmp_path / "f", tmp_path / "l")

    def broken(top, stop):
        raise ValueError("of ours")
    monkeypatch.setattr(sandlock._DeniedPaths, "_scan", staticmethod(broken))
    assert attempts("print(ok(opened, 'l', 0))", tmp_path, fs_denied=[tmp_path / "den"]) == ["EACCES"]


def test_the_kernel_writes_no_core_into_a_denied_place(tmp_path):
    """core(5): where the pattern is a plain name, it is opened in the program's directory, unasked."""
    with open("/proc/sys/kernel/core_pattern") as pattern:
        if pattern.read().startswith("|"):
            pytest.skip("cores go to a program here (core_pattern)")
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == 0:
        pytest.skip("no cores here (ulimit -c)")
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        fields = dict(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], cwd=tmp_path)
        abort = [sys.executable, "-S", "-c", "import os; os.abort()"]
        Sandbox(fs_denied=[tmp_path / "core"], **fields).run(abort)
        Sandbox(policy_fn=lambda e, c: None, **fields).run(abort)
        assert os.listdir(tmp_path) == []
        Sandbox(**fields).run(abort)  # the control: nobody judges paths, and Landlock has allowed it
        assert os.listdir(tmp_path) != []
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def test_calls_that_wait_for_a_look_are_counted(tmp_path, monkeypatch):
    """So that their descriptors are bounded, and closed when the run ends."""
    (tmp_path / "den").mkdir()
    (tmp_path / "f").write_text("x")
    os.link(tmp_path / "f", tmp_path / "l")
    waited, look = [], sandlock._Supervisor.look_for_links
    monkeypatch.setattr(sandlock._Supervisor, "look_for_links", lambda self, call, then: (waited.append(call.held is not None), look(self, call, then)))
    assert attempts("print(ok(opened, 'l', 0))", tmp_path, fs_denied=[tmp_path / "den"]) == ["ok"]
    assert waited == [True]


@pytest.mark.parametrize("how", ["open", "open, watched", "exec", "exec, watched", "a script's interpreter"])
def test_what_is_denied_is_not_even_opened(tmp_path, how):
    """Closing it again would free the host's POSIX locks on it; fcntl(2)."""
    import fcntl
    import shutil
    secret = tmp_path / "secret"
    shutil.copy("/bin/true", secret)
    (tmp_path / "script").write_text("#!%s\n" % secret)
    (tmp_path / "script").chmod(0o755)
    ask = "import fcntl\ntry: fcntl.lockf(open(%r, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB); print('free')\nexcept OSError: print('locked')" % str(secret)

    def lock():
        return subprocess.run([sys.executable, "-c", ask], stdout=subprocess.PIPE).stdout
    code = {"o": "open('secret', 'r+')", "e": "os.execv('./secret', ['x'])", "a": "os.execv('./script', ['x'])"}[how[0]]
    fields = dict(policy_fn=lambda event, ctx: None, policy_events=["file", "process"]) if "watched" in how else {}
    with open(secret, "r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        result = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], cwd=tmp_path, fs_denied=[secret], **fields).run(
            [sys.executable, "-S", "-c", "import os\ntry: %s\nexcept OSError as e: print(e.errno)" % code])
        assert result.stdout == b"13\n" and lock() == b"locked\n", result
        Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], cwd=tmp_path, policy_fn=lambda event, ctx: None, policy_events=["file"]).run([sys.executable, "-S", "-c", "open('secret')"])
        assert lock() == b"free\n"  # the control
