"""The one file in places that its authors never saw: each is made by a few lines in a host of its
own, and there `standard()` either works or fails with an error of ours, and leaves nothing behind."""
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile

import pytest

import sandlock
from support import ROOT, TESTS, THIN, once, requires_abi, requires_root

pytestmark = requires_abi(1)
REPO = os.path.dirname(TESTS)

# What a host does with the file: static policy, callback, denied path, limits, what is left, a timeout.
STANDARD = r"""
import os, sys, time
def standard(sandlock, soon=0.3):
    S, sh, kill = sandlock.SYSTEM_PATHS, "/bin/sh", sandlock.ExitReason.TIMEOUT
    def fn(event, ctx):
        return event.syscall == "openat" and event.path.endswith("passwd")
    steps = [
        (dict(), "echo hi; cat /root/.profile 2>/dev/null || exit 3", None, lambda r: r.stdout == b"hi\n" and r.exit_code == 3),
        (dict(policy_fn=fn), "read x < /etc/passwd || echo no; read x < /etc/group && echo yes", None, lambda r: r.stdout == b"no\nyes\n"),
        (dict(fs_denied=["/etc/passwd"], max_memory="200M", max_processes=5), "read x < /etc/passwd || echo no; (sleep 100 >/dev/null 2>&1 &) ; echo end", None,
         lambda r: r.stdout == b"no\nend\n" and r.duration < 90),
        (dict(), "sleep 50", soon, lambda r: r.reason == kill and r.duration < 45),
    ]
    for fields, script, timeout, holds in steps:
        result = sandlock.Sandbox(fs_readable=S, **fields).run([sh, "-c", script], timeout=timeout)
        assert holds(result) and not result.error, (fields, result)
    return "works"
def children(thread):
    try:
        with open("/proc/self/task/%s/children" % thread, "rb") as f: return f.read()
    except (FileNotFoundError, ProcessLookupError): return b""  # it has ended, or the kernel does not tell
def left():
    with open("/proc/self/stat") as f: threads = f.read().rsplit(")", 1)[1].split()[17]
    born = b"".join(map(children, os.listdir("/proc/self/task")))
    return threads, len(os.listdir("/proc/self/fd")), born
def settled(before):
    deadline = time.monotonic() + 10
    while left() != before and time.monotonic() < deadline: time.sleep(0.01)
    return left() == before or (before, left())
"""


def host(code, *flags, python=sys.executable, env=None, around=(), stdin=None):
    """Output of a host that has the file's folder in its path."""
    text = "import sys; sys.path.insert(0, %r)\n" % REPO + STANDARD + textwrap.dedent(code)
    done = subprocess.run([*around, python, *flags, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=stdin, env=env, timeout=400 if THIN >= 100 else 120)
    return done.stdout.decode()


CALM = """
import sandlock
before = left()
print(standard(sandlock))
"""


@pytest.mark.parametrize("flags", [(), ("-I", "-S", "-E"), ("-O",), ("-OO",), ("-W", "error", "-bb", "-X", "dev")], ids=" ".join)
def test_every_mode_of_the_interpreter(flags):
    assert host(CALM, *flags) == "works\n"


PLACES = {
    "locale C": ("", dict(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0", PATH="/usr/bin:/bin")),
    "an empty environment": ("", {}),
    "no PATH, HOME and TMPDIR nowhere": ("", dict(HOME="/nonexistent", TMPDIR="/nonexistent")),
    "stdin closed": ("os.close(0)", None),
    "only standard output": ("os.close(0); os.close(2)", None),
    "a folder that is gone": ("import socket, tempfile  # 3.13.0 itself cannot import it there\nd = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)", None),
    "umask 777": ("os.umask(0o777)", None),
    "1,000 descriptors": ("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (1100, 1100)); keep = [os.open('/dev/null', 0) for _ in range(1000)]", None),
    "RLIMIT_NOFILE 64": ("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))", None),
    "small stacks": ("import threading; threading.stack_size(max(32768 if sys.version_info < (3, 14) else 65536, os.sysconf('SC_THREAD_STACK_MIN')))", None),
    "traced and profiled": ("import threading; sys.settrace(lambda *a: None); threading.settrace(lambda *a: None); threading.setprofile(lambda *a: None)", None),
    "20 other threads": ("import threading, time\nfor _ in range(20): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", None),
    "no garbage collector": ("import gc; gc.disable()", None),
}


@pytest.mark.parametrize("place", sorted(PLACES))
def test_places(place):
    made, env = PLACES[place]
    if env is not None and "LD_LIBRARY_PATH" in os.environ:
        env = dict(env, LD_LIBRARY_PATH=os.environ["LD_LIBRARY_PATH"])
    assert host(made + "\n" + CALM + "os._exit(0 if print(flush=True) is None else 1)", env=env) == "works\n\n"


def test_under_another_name_from_a_zip_and_several_copies_at_once(tmp_path):
    shutil.copy(os.path.join(REPO, "sandlock.py"), tmp_path / "vendored_box.py")
    with zipfile.ZipFile(tmp_path / "lib.zip", "w") as archive:
        archive.write(os.path.join(REPO, "sandlock.py"), "zipped_box.py")
    assert host("""
        sys.path[:0] = [%r, %r]
        import sandlock, vendored_box, zipped_box, threading
        outcomes = []
        def work(module): outcomes.append(standard(module, %d))
        threads = [threading.Thread(target=work, args=(module,)) for module in (sandlock, vendored_box, zipped_box) * 3]
        [t.start() for t in threads]; [t.join() for t in threads]
        print(outcomes == ["works"] * 9, zipped_box.__file__.endswith("lib.zip/zipped_box.py"))
        if os.geteuid() == 0:  # what they change of the process, the last run of all puts back
            runs = [module.Sandbox(fs_readable=module.SYSTEM_PATHS, user="1234:1234").popen(["sleep", "50"]) for module in (sandlock, vendored_box)]
            for run in runs:
                print(sandlock._call("prctl", sandlock.PR_GET_DUMPABLE) == 0)
                run.kill(); run.wait()
            print(sandlock._call("prctl", sandlock.PR_GET_DUMPABLE))
    """ % (str(tmp_path), str(tmp_path / "lib.zip"), 10 if THIN >= 100 else 1)) == "True True\n" + "True\nTrue\n1\n" * ROOT
    run = [sys.executable, str(tmp_path / "vendored_box.py"), "run", "--system", "--", "echo", "alone"]
    assert subprocess.run(run, stdout=subprocess.PIPE, cwd=str(tmp_path)).stdout == b"alone\n"
    module = [sys.executable, "-m", "zipped_box", "run", "--system", "--", "echo", "zipped"]
    assert subprocess.run(module, stdout=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=str(tmp_path / "lib.zip"))).stdout == b"zipped\n"


SHORTAGE = """
    import resource, sandlock
    before = left()
    assert standard(sandlock) == "works"
    works, errors = 0, set()
    for limit in %s:
        %s
        try:
            standard(sandlock)
            works += 1
        except sandlock.SandlockError as e:
            assert getattr(e, "exit_code", 125) == 125, e  # not for what it runs
            errors.add(str(e).partition(":")[0] + ":" + str(e).rpartition(":")[2])
        except AssertionError as e:
            errors.add("lost")  # a task was told that there is no more of it
        finally:
            %s
        assert settled(before) is True, (limit, settled(before))
    print(works, sorted(errors))
    os._exit(print(end="", flush=True) or 0)
"""


@pytest.mark.parametrize("before", once("", "os.close(0)\n"))
def test_whatever_number_of_descriptors_is_left_nothing_is_half_done(before):
    """From none at all to enough: an error that says so, or it works."""
    out = host(before + textwrap.dedent(SHORTAGE) % ("range(3, 44, %d)" % (4 if before else 2 if THIN else 1), "resource.setrlimit(resource.RLIMIT_NOFILE, (limit, 1024))", "resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))"))
    assert out[:1].isdigit(), out
    works, errors = out.split(" ", 1)
    assert int(works) >= (2 if before else 5) and "ulimit -n" in errors, out


@requires_root
def test_whatever_number_of_threads_is_left_nothing_is_half_done():
    """RLIMIT_NPROC counts the processes and threads of a user; the standard takes some five."""
    python = next((p for p in (os.path.realpath(sys.executable), "/usr/bin/python3") if not p.startswith("/root/")), None)
    if python is None or not os.path.exists(python):
        pytest.skip("no python that another user may run")
    own = textwrap.dedent("""
        os.setgid(54321); os.setuid(54321 + os.getpid() % 1000)  # one of its own: other runs of this test count too
        def theirs(pid):
            try: return pid.isdigit() and pid != str(os.getpid()) and os.stat("/proc/" + pid).st_uid == os.getuid()
            except FileNotFoundError: return False
        def adopted(): return sum(map(theirs, os.listdir("/proc")))  # by init, which buries them when it likes: until then they count
    """)
    limit = "resource.setrlimit(resource.RLIMIT_NPROC, (limit + adopted(), 1000))"
    out = host(own + textwrap.dedent(SHORTAGE % ("range(1, 14)", limit, "resource.setrlimit(resource.RLIMIT_NPROC, (1000, 1000))")), python=python)
    assert out[:1].isdigit(), out
    works, errors = out.split(" ", 1)
    assert int(works) >= 1 and "ulimit -u" in errors, out


def test_out_of_memory_for_threads():
    out = host("""
        import resource, threading, sandlock
        before = left()
        threading.stack_size(256 << 20); used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)
        try: standard(sandlock)
        except sandlock.LaunchError as e: print(e)
        print(settled(before))
    """)
    assert out == "thread: can't start new thread: there are too many processes and threads (ulimit -u), or too little memory for one more\nTrue\n"


# -- hosts that are confined themselves ------------------------------------------------------------

INNER = """
import sys; sys.path.insert(0, %r)
import sandlock, os, socket, subprocess
fields = dict(fs_readable=sandlock.SYSTEM_PATHS, fs_denied=["/etc/hostname"])
try: print(sandlock.Sandbox(**fields).run(["echo", "in"]))
except sandlock.UnsupportedError as e: print("refused:", e)
box = sandlock.Sandbox(best_effort=True, max_open_files=50, **fields)
for command in (["sh", "-c", "echo in; ulimit -n; (exit 3)"], ["unshare", "-r", "true"], ["no-such-program"], ["/etc/passwd"]):
    r = box.run(command, timeout=20)
    print(r.stdout, r.exit_code, r.error and r.error.partition(":")[0], sandlock._SUPERVISION in r.unenforced)
connect = "import socket; s = socket.socket()\\ntry: s.connect(('127.0.0.1', 9))\\nexcept OSError as e: print(type(e).__name__)"
print(box.run([sys.executable, "-S", "-c", connect]).stdout, box.run(["cat", "/proc/self/status"]).stdout.count(b"Seccomp:\\t2"))
r = box.run(["sh", "-c", "sleep 100 & sleep 100 & wait"], timeout=0.5)
print(r.reason == sandlock.ExitReason.TIMEOUT, r.duration < 20)
with box.popen(["cat"], stdin=1, stdout=1) as p:
    p.stdin.write(b"piped"); p.stdin.close(); print(p.wait().stdout)
p = box.popen(["sleep", "100"]); p.kill(); print(p.wait().signal)
%s
"""


def test_under_another_sandlock_a_clear_error_or_the_static_policy(tmp_path):
    """The kernel gives a task one listener; ours refuses a second one, and Landlock, itself."""
    script = tmp_path / "inner.py"
    script.write_text(INNER % (REPO, ""))
    result = sandlock.Sandbox(fs_readable=sandlock.SYSTEM_PATHS + (REPO, sys.prefix, str(tmp_path))).run([sys.executable, str(script)], timeout=60)
    check_static(result.stdout.decode().splitlines(), result)


def check_static(lines, result):
    assert lines[0].startswith("refused: seccomp listener needs Linux 5.9, and no sandbox around this process"), result
    assert lines[1:5] == ["b'in\\n50\\n' 3 None True", "b'' 1 None True", "b'' 127 exec False", "b'' 126 exec False"], result
    assert lines[5:9] == ["b'PermissionError\\n' 1", "True True", "b'piped'", "9"], result


def test_a_host_with_a_listener_of_its_own(tmp_path):
    """There, Landlock holds still."""
    script = tmp_path / "inner.py"
    script.write_text(INNER % (REPO, "print(box.run(['cat', sys.argv[1]]).exit_code, os.listdir('/proc/self/task') == [str(os.getpid())])"))
    (tmp_path / "secret").write_text("x")
    code = ("import ctypes, os, sys, sandlock\nfrom sandlock import _FilterPlan, _assemble_filter, sock_fprog, _call\n"
            "program = _assemble_filter(_FilterPlan(arch=sandlock._ARCH))\ncode = ctypes.create_string_buffer(program, len(program))\n"
            "_call('prctl', 38, 1, 0, 0, 0)\nos.set_inheritable(_call('seccomp', 1, 8, ctypes.addressof(sock_fprog(len(program) // 8, ctypes.addressof(code)))), True)\n"
            "os.execv(sys.executable, [sys.executable, %r, %r])" % (str(script), str(tmp_path / "secret")))
    lines = host(code).splitlines()
    check_static(lines, lines)
    assert lines[9:] == ["1 True"]


def test_a_host_with_a_filter_of_its_own():
    assert host("""
        import ctypes, sandlock
        from sandlock import _FilterPlan, _assemble_filter, sock_fprog, _call
        program = _assemble_filter(_FilterPlan(arch=sandlock._ARCH, actions=(("keyctl", "errno:1"),)))
        code = ctypes.create_string_buffer(program, len(program))
        _call("prctl", 38, 1, 0, 0, 0)
        _call("seccomp", 1, 0, ctypes.addressof(sock_fprog(len(program) // 8, ctypes.addressof(code))))
        print(standard(sandlock))
    """) == "works\n"


# -- other roots -----------------------------------------------------------------------------------

def rooted(tmp_path, proc=True, tmp=True, readonly=False, pid1=False, python="/usr/bin/python3"):
    """A command that runs what follows in a root of its own, which has the system's programs."""
    if not os.path.exists(python):
        pytest.skip("not installed: " + python)
    root = tmp_path / "root"
    root.mkdir()
    script = ["set -e", "mount -t tmpfs none %s" % root]
    for name in ("usr", "bin", "sbin", "lib", "lib64", "etc", REPO.strip("/")):
        if os.path.islink("/" + name):
            script.append("ln -s %s %s/%s" % (os.readlink("/" + name), root, name))
        elif os.path.isdir("/" + name):
            script.append("mkdir -p %s/%s; mount --bind /%s %s/%s" % (root, name, name, root, name))
    script.append("mkdir %s/dev; for d in null zero full random urandom; do touch %s/dev/$d; mount --bind /dev/$d %s/dev/$d; done" % ((root,) * 3))
    if proc:
        script.append("mkdir %s/proc; mount -t proc proc %s/proc" % (root, root))
    if tmp:
        script.append("mkdir -m 1777 %s/tmp" % root)
    if readonly:
        script.append("mount -o remount,ro %s" % root)
    script.append('exec chroot %s "$@"' % root)
    around = ["unshare", "-m", "--propagation", "private"] + (["-p", "-f"] if pid1 else []) + ["sh", "-c", "\n".join(script), "sh"]
    if subprocess.run([*around, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs CAP_SYS_ADMIN (mounts, namespaces)")
    return dict(around=around, python=python)


ROOTS = {"a root without /tmp": dict(tmp=False), "a read-only root": dict(readonly=True, tmp=False), "PID 1 of a minimal root": dict(pid1=True, tmp=False)}


@requires_root
@pytest.mark.parametrize("root", sorted(ROOTS))
def test_other_roots(tmp_path, root):
    assert host(CALM + "print(os.getpid() == 1, settled(before))", **rooted(tmp_path, **ROOTS[root])) == "works\n%s True\n" % ("pid1" in ROOTS[root])


@requires_root
def test_without_proc_the_error_says_so(tmp_path):
    out = host("""
        import sandlock
        def both(best):
            yield lambda: sandlock.Sandbox(fs_readable=sandlock.SYSTEM_PATHS, best_effort=best).run(["echo", "in"])
            yield lambda: sandlock.confine(sandlock.Policy(fs_readable=sandlock.SYSTEM_PATHS, best_effort=best))
        for attempt in (*both(False), *both(True)):
            try: print(attempt())
            except sandlock.SandlockError as e: print(type(e).__name__, e)
    """, **rooted(tmp_path, proc=False))
    assert [line for line in out.splitlines() if "Error" in line and "/proc" in line] == out.splitlines() and out.count("\n") == 4, out


def test_a_supervisor_that_is_not_made_keeps_no_descriptor(monkeypatch):
    """Its walker was made before the rest that may fail; below ABI 4 and with a callback there is one."""
    before = len(os.listdir("/proc/self/fd"))

    def refused(self):
        raise OSError(24, "no more descriptors")
    monkeypatch.setattr(sandlock._Broker, "__init__", refused)
    with pytest.raises(sandlock.LaunchError):
        sandlock.Sandbox(fs_readable=sandlock.SYSTEM_PATHS, policy_fn=lambda event, ctx: None).run(["true"])
    assert len(os.listdir("/proc/self/fd")) == before
