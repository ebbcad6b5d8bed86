"""run, popen, run_interactive, Process, Result: what a user of subprocess expects."""
import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import sandlock
from sandlock import ExitReason, LaunchError, Sandbox, StdioMode, SYSTEM_PATHS
from support import ROOT, THIN, rounds, box, clean, compiled, eventually, exists, python, requires_abi, requires_root, snapshot

pytestmark = requires_abi(1)


def test_result_of_success_failure_and_signal():
    ok = box().run(["sh", "-c", "echo out; echo err >&2"])
    assert ok.success and (ok.stdout, ok.stderr, ok.exit_code, ok.returncode) == (b"out\n", b"err\n", 0, 0)
    assert (ok.reason, ok.signal, ok.error) == (ExitReason.EXITED, -1, None) and ok.duration > 0
    failed = box().run(["sh", "-c", "exit 7"])
    assert (failed.success, failed.exit_code) == (False, 7)
    killed = box().run(["sh", "-c", "kill -USR1 $$"])
    assert (killed.exit_code, killed.reason, killed.signal) == (-10, ExitReason.SIGNALED, 10)


def test_commands_that_cannot_run(tmp_path):
    (tmp_path / "plain").write_text("echo x")
    denied = tmp_path / "denied"
    denied.write_text("#!/bin/sh\necho x")
    denied.chmod(0o755)
    for command, code in (("no-such-command", 127), ("/no/such/file", 127), (str(tmp_path / "plain"), 126)):
        result = box(tmp_path).run([command])
        assert result.exit_code == code and command in result.error and result.stdout == b""
        with pytest.raises(LaunchError) as e:
            box(tmp_path).popen([command])
        assert (e.value.stage, e.value.exit_code) == ("exec", code)
    assert box(tmp_path).run([str(denied)]).stdout == b"x\n"
    for fields, field, value in ((dict(fs_readable=SYSTEM_PATHS), "fs_readable", str(denied)),
                                 (dict(fs_readable=SYSTEM_PATHS, fs_denied=[denied]), "fs_denied", None),  # no grant would help
                                 (dict(fs_readable=SYSTEM_PATHS + (tmp_path,), fs_denied=[tmp_path]), "fs_denied", None)):
        for command in [str(denied)], ["./denied"]:  # below cwd, not where the host is
            result = Sandbox(cwd=tmp_path, **fields).run(command)
            assert result.exit_code == 126 and result.error, result
            assert [(d.event.path, d.field, d.value) for d in result.denials] == [(str(denied), field, value)], result


def test_path_lookup_goes_on_where_a_candidate_may_not_be_executed(tmp_path):
    hidden, shown = tmp_path / "hidden", tmp_path / "shown"
    for folder in (hidden, shown):
        folder.mkdir()
        (folder / "tool").write_text("#!/bin/sh\necho %s" % folder.name)
        (folder / "tool").chmod(0o755)
    sandbox = box(shown, env={"PATH": "%s:%s:%s" % (hidden, shown, os.environ["PATH"])})
    assert sandbox.run(["tool"]).stdout == b"shown\n"


def test_launch_errors_come_back_as_themselves():
    with pytest.raises(LaunchError) as e:
        box(cwd="/no/such/dir").run(["true"])
    assert (e.value.stage, e.value.path, e.value.errno) == ("cwd", "/no/such/dir", 2)
    with pytest.raises(LaunchError, match="max_open_files"):
        box(max_open_files=3).run(["true"])
    for bad in ([], ["a\0b"]):
        with pytest.raises(ValueError):
            box().run(bad)
    with pytest.raises(ValueError):
        box().run(["true"], timeout=-1)
    with pytest.raises(ValueError):
        box().run(["true"], input=b"", stdin=StdioMode.NULL)


def test_any_amount_of_output_and_input():
    data = os.urandom(1 << 20) * 5
    assert box().run(["cat"], input=data).stdout == data
    both = box().run(python("import sys\nfor i in range(300): sys.stdout.write('o'*9999); sys.stderr.write('e'*9999)"))
    assert (len(both.stdout), len(both.stderr)) == (2999700, 2999700)
    assert box().run(["true"], input=data).success  # does not read it
    assert box().run(["head", "-c", "10"], input=data).stdout == data[:10]


def test_stdio_modes(tmp_path):
    with open(tmp_path / "out", "wb") as out:
        assert box().run(["echo", "hi"], stdout=out, stderr=StdioMode.NULL).stdout == b""
    assert (tmp_path / "out").read_bytes() == b"hi\n"
    merged = box().run(["sh", "-c", "echo a; echo b >&2"], stderr=subprocess.STDOUT)
    assert merged.stdout == b"a\nb\n"
    assert box().run(["cat"], stdin=StdioMode.NULL).stdout == b""
    assert box().run(["cat"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).success
    with open("/etc/hostname" if os.path.exists("/etc/hostname") else "/etc/passwd", "rb") as file:
        inside = box().run(["cat"], stdin=file).stdout
        file.seek(0)
        assert inside == file.read()


def test_popen_talks(tmp_path):
    with box().popen(["cat"], stdin=StdioMode.PIPED, stdout=StdioMode.PIPE) as process:
        process.stdin.write(b"hello\n")
        assert process.stdout.read(6) == b"hello\n"
        assert process.poll() is None and process.processes() == [process.pid]
        process.stdin.close()
        result = process.wait()
    assert result.success and process.poll() == 0
    process = box().popen(["cat"], stdin=1, stdout=1)
    assert process.communicate(b"more") == (b"more", None)


def test_timeout_kills_says_so_and_keeps_the_output():
    result = box().run(["sh", "-c", "echo before; sleep 100"], timeout=0.3)
    assert (result.reason, result.stdout, result.success) == (ExitReason.TIMEOUT, b"before\n", False)
    process = box().popen(["sh", "-c", "echo before; sleep 100"], stdout=1)
    result = process.wait(timeout=0.3)
    assert (result.reason, result.stdout) == (ExitReason.TIMEOUT, b"before\n") and not exists(process.pid)


def test_signals_pause_and_resume():
    process = box().popen(["sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done"], stdout=1)
    assert process.stdout.read(6) == b"ready\n"
    process.pause()
    assert eventually(lambda: all((sandlock._proc_stat(pid) or [b"Z"])[0] in b"TZD"
                                  for pid in process._signal_all(0)))
    process.resume()
    process.terminate()
    assert process.wait().exit_code == 5
    process.kill(), process.terminate(), process.send_signal(9), process.pause()  # no effect, no error
    process = box().popen(["sleep", "100"])
    process.kill()
    assert (process.wait().reason, process.wait().exit_code) == (ExitReason.KILLED, -9)


def test_a_dropped_process_is_killed_and_reaped():
    before = snapshot()
    process = box().popen(["sh", "-c", "sleep 100 & sleep 100"])
    assert eventually(lambda: len(process.processes()) == 3 or len(process.processes()) == 2)
    pids = process.processes()
    del process
    assert eventually(lambda: not any(exists(pid) for pid in pids) and clean(before))
    with box().popen(["sleep", "100"]) as process:
        pid = process.pid
    assert not exists(pid) and clean(before)


DAEMON = """
import os, sys, time
tell, told = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid()); sys.stdout.flush(); os.write(told, b"x")
        os.close(0); os.close(1); os.close(2); os.closerange(3, 5000)
        time.sleep(100)
    os._exit(0)
os.wait(); os.read(tell, 1)
if len(sys.argv) > 1: time.sleep(100)
"""
LEADERLESS = """
import os, threading, time, ctypes
if os.fork() == 0:
    os.setsid()
    threading.Thread(target=time.sleep, args=(100,)).start()
    print(os.getpid(), flush=True)
    ctypes.CDLL(None).syscall(%d, 0)
time.sleep(0.3)
""" % sandlock._NR["exit"]


@pytest.mark.parametrize("extra,timeout", [((), None), (("stay",), 8 if THIN >= 100 else 0.5)])
def test_daemons_are_gone_at_the_end(extra, timeout):
    outside = subprocess.run(python(DAEMON), stdout=subprocess.PIPE)
    left = int(outside.stdout)
    assert exists(left)  # the control: without a sandbox it stays
    fd = sandlock._pidfd_open(left)
    sandlock._pidfd_send_signal(fd, signal.SIGKILL)
    os.close(fd)
    result = box().run(python(DAEMON, *extra), timeout=timeout)
    assert result.reason == (ExitReason.TIMEOUT if timeout else ExitReason.EXITED)
    assert not exists(int(result.stdout))


def test_a_process_whose_first_thread_has_ended_is_found():
    result = box().run(["python3", "-c", LEADERLESS])
    assert result.success, result.stderr
    assert not exists(int(result.stdout))


def test_fork_bombs_are_bounded_and_cleaned_up():
    bomb = ("import os, resource, time\nresource.setrlimit(resource.RLIMIT_CPU, (2, 2))\n"
            "for i in range(200):\n    try: os.fork()\n    except OSError: pass\ntime.sleep(100)")
    process = box(max_processes=20).popen(python(bomb), stderr=StdioMode.NULL)
    assert eventually(lambda: len(process.processes()) == 20)
    time.sleep(0.2)
    counts = [len(process.processes()) for _ in range(20)]
    pids = process.processes()
    process.kill()
    result = process.wait()
    assert max(counts) <= 20 and not any(exists(pid) for pid in pids)
    assert result.denials and result.denials[0].field == "max_processes"


def test_max_processes_counts_processes_not_threads_and_frees_them():
    loop = "for i in $(seq 30); do /bin/true; done; echo done"
    assert box(max_processes=2).run(["sh", "-c", loop]).stdout == b"done\n"
    assert box(max_processes=1).run(["sh", "-c", loop]).stdout == b""
    threads = ("import threading, time\nts = [threading.Thread(target=time.sleep, args=(.05,)) for _ in range(50)]\n"
               "[t.start() for t in ts]; [t.join() for t in ts]; print('done')")
    assert box(max_processes=1).run(["python3", "-c", threads]).stdout == b"done\n"


HOST = """
import sys; sys.path.insert(0, %r)
from sandlock import *
process = Sandbox(fs_readable=SYSTEM_PATHS).popen(["sh", "-c", "sleep 100 & sleep 100"])
print(process.pid, flush=True)
%s
process.wait()
"""
REPO = os.path.dirname(os.path.abspath(sandlock.__file__))


@pytest.mark.parametrize("how", [
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "import os\nif os.fork() == 0:\n    import time; time.sleep(3); os._exit(0)\nos._exit(0)"])
def test_the_death_of_the_host_ends_the_program(how):
    host = subprocess.run([sys.executable, "-c", HOST % (REPO, how)], stdout=subprocess.PIPE)
    assert eventually(lambda: not exists(int(host.stdout)), 2)


def test_ctrl_c_in_the_host_ends_the_run():
    for delay in (0.02, 0.0):
        code = HOST.replace("popen", "run").replace("print(process.pid, flush=True)", "") % (REPO, "")
        code = "import signal, threading, os, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n" + code.replace(
            "process =", "threading.Timer(%s, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\nprocess =" % (
                delay or 0.0005))
        host = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=30)
        assert b"KeyboardInterrupt" in host.stderr
    sandbox, before = box(), snapshot()
    def interrupt(*_):
        raise KeyboardInterrupt
    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        for i in range(40):  # at any point of launch, run and end
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 * (i % 20 + 1))
                sandbox.run(["true"])
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                continue
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert eventually(lambda: clean(before), 2), (before, snapshot(), [os.readlink('/proc/self/fd/%s' % f) for f in snapshot()[0]])
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_raising_handler_never_leaves_signals_blocked():
    """A signal that comes just before the mask is set has its Python handler run just after."""
    def interrupt(*_):
        raise KeyboardInterrupt
    previous, raised = signal.signal(signal.SIGALRM, interrupt), 0
    try:
        for _ in range(3000):
            try:
                signal.setitimer(signal.ITIMER_REAL, 3e-5)
                for _ in range(20):
                    with sandlock._SignalsBlocked():
                        pass
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                raised += 1
                assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        signal.signal(signal.SIGALRM, previous)
    assert raised > 100


def test_300_runs_leave_the_host_as_it_was():
    sandbox, before = box(), snapshot()
    for i in range(rounds(300)):
        assert sandbox.run(["true"] if i % 10 else ["sh", "-c", "sleep 100 & exit 0"]).success
        assert i % 50 or clean(before)
    assert clean(before)


def test_32_threads_run_20_sandboxes_each():
    sandbox, before, bad = box(), snapshot(), []

    def work(number):
        for i in range(rounds(20)):
            word = b"%d-%d" % (number, i)
            result = sandbox.run(["cat"], input=word)
            if not result.success or result.stdout != word:
                bad.append(result)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(32)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not bad and eventually(lambda: clean(before), 2), (before, snapshot())  # our own threads end a bit later


HOSTS = {
    "stdin closed": "import os; os.close(0)",
    "stdio closed but for one": "import os; os.close(0); os.close(2)",
    "SIGCHLD ignored": "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "200 inheritable descriptors": "import os\nfor i in range(200): os.set_inheritable(os.open('/etc/passwd', 0), True)",
    "another waiter": "import os, threading, time\ndef reap():\n    while 1:\n        try: os.waitpid(-1, 0)\n"
                      "        except ChildProcessError: time.sleep(0.0001)\n"
                      "threading.Thread(target=reap, daemon=True).start()",
}


@pytest.mark.parametrize("name", sorted(HOSTS))
def test_unusual_hosts(name):
    code = ("import sys; sys.path.insert(0, %r)\n%s\nfrom sandlock import *\nfor i in range(10):\n"
            "    r = Sandbox(fs_readable=SYSTEM_PATHS).run(['sh', '-c', 'ls /proc/self/fd; exit 3'])\n"
            "    assert set(r.stdout.split()) <= {b'0', b'1', b'2', b'3', b'4', b'1023'}, r\n"
            "    assert r.exit_code == 3 or %r, r\nprint('fine')")
    lost = name in ("SIGCHLD ignored", "another waiter") and not pidfd_remembers()
    host = subprocess.run([sys.executable, "-c", code % (REPO, HOSTS[name], lost)],
                          stdout=subprocess.PIPE, timeout=60)
    assert host.stdout == b"fine\n"


def pidfd_remembers():
    return tuple(int(n) for n in os.uname().release.split("-")[0].split(".")[:2]) >= (6, 15)


def test_in_asyncio():
    async def main():
        loop = asyncio.get_running_loop()
        runs = [loop.run_in_executor(None, box().run, ["echo", str(i)]) for i in range(8)]
        other = await asyncio.create_subprocess_exec("echo", "x", stdout=subprocess.PIPE)
        return [r.stdout for r in await asyncio.gather(*runs)], (await other.communicate())[0]

    assert asyncio.run(main()) == ([b"%d\n" % i for i in range(8)], b"x\n")


def test_cwd_env_and_clean_env(monkeypatch):
    monkeypatch.setenv("SANDLOCK_TEST", "inherited")
    script = "pwd; echo $SANDLOCK_TEST $ADDED"
    assert box(cwd="/usr", env={"ADDED": "yes"}).run(["sh", "-c", script]).stdout == b"/usr\ninherited yes\n"
    names = box(clean_env=True, env={"ADDED": "yes"}).run(["env"]).stdout.split()
    assert {n.split(b"=")[0] for n in names} <= {b"PATH", b"HOME", b"USER", b"TERM", b"LANG", b"ADDED"}


def test_a_signal_handler_may_fork_while_the_host_forks():
    code = ("import sys, os, signal, time\nsys.path.insert(0, %r)\nimport sandlock\ncount = [0, 0]\n"
            "def fork(at):\n    pid = os.fork()\n    if pid == 0: os._exit(0)\n    os.waitpid(pid, 0); count[at] += 1\n"
            "def again(*args):\n    fork(1); signal.setitimer(signal.ITIMER_REAL, 0.0003)\n"
            "signal.signal(signal.SIGALRM, again); signal.setitimer(signal.ITIMER_REAL, 0.0003)\n"
            "end = time.monotonic() + %g\nwhile time.monotonic() < end: fork(0)\n"
            "signal.signal(signal.SIGALRM, signal.SIG_IGN); assert min(count) > 5, count" % (REPO, 15 if THIN >= 100 else 1.5))
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60).returncode == 0


def test_cwd_where_libc_cannot_change_it(monkeypatch, tmp_path):
    """Before glibc 2.29 posix_spawn(3) knows no working directory."""
    class Older:
        def __getattr__(self, name):
            if name.endswith("addfchdir_np"):
                raise AttributeError(name)
            return getattr(sandlock_libc, name)
    sandlock_libc, here = sandlock._libc, os.getcwd()
    monkeypatch.setattr(sandlock, "_libc", Older())
    result = box(cwd=tmp_path).run(["pwd"])
    assert result.stdout.strip() == os.fsencode(os.path.realpath(tmp_path)) and os.getcwd() == here, result


def test_who_polls_gets_an_end_although_the_status_is_lost(monkeypatch):
    monkeypatch.setattr(sandlock, "_reap", lambda pidfd: (os.waitid(3, pidfd, os.WEXITED) and None, -1))
    with box().popen(["true"]) as process:
        assert eventually(lambda: process.poll() is not None, 5) and process.returncode == 125
        assert "taken by another waiter" in process.wait().error


def test_limits_are_set_before_the_first_instruction():
    limits = box(max_open_files=20, max_cpu_seconds=3, max_file_size="4K").run(["cat", "/proc/self/limits"])
    rows = {line[:26].strip(): line[26:].split()[:2] for line in limits.stdout.decode().splitlines()}
    assert rows["Max open files"] == ["20", "20"] and rows["Max file size"] == ["4096", "4096"]
    assert rows["Max cpu time"] == ["3", "3"]
    assert box(max_open_files=20).run(["sh", "-c", "ls /proc/self/fd"]).stdout.split()[-1] in (b"19", b"3")
    free = box().run(["cat", "/proc/self/limits"]).stdout
    assert b"4096                 4096                 bytes" not in free


def test_signals_and_session_of_the_program():
    status = box().run(["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"]).stdout.split()
    ignored, blocked = int(status[3], 16), int(status[1], 16)
    assert blocked == 0 and not ignored & (1 << 12 | 1 << 24 | 1 << 16)
    fields = box().run(["cat", "/proc/self/stat"]).stdout.split()
    assert fields[0] == fields[4] == fields[5]  # its own group and session


def test_affinity():
    core = min(os.sched_getaffinity(0))
    result = box(cpu_cores=[core]).run(["grep", "Cpus_allowed_list", "/proc/self/status"])
    assert result.stdout.split()[-1] == b"%d" % core and len(os.sched_getaffinity(0)) == len(
        os.sched_getaffinity(threading.main_thread().native_id))


@requires_root
def test_root_keeps_four_capabilities_and_cannot_change_ids(tmp_path):
    script = ("grep CapEff /proc/self/status; chown 1234 {0}/f && stat -c %u {0}/f; "
              "mknod {0}/dev c 1 3 || echo no device; setpriv --reuid 1234 true 2>&1 || echo no setuid")
    (tmp_path / "f").write_text("")
    out = box(tmp_path).run(["sh", "-c", script.replace("{0}", str(tmp_path))]).stdout.decode()
    assert "000000000000001b" in out and "1234\n" in out and "no device" in out and "no setuid" in out
    with open("/proc/self/status") as f:
        assert "CapEff:\t000000000000001b" not in f.read()  # the host kept its own


@requires_root
def test_user():
    result = Sandbox(fs_readable=SYSTEM_PATHS, user="1234:5678").run(["sh", "-c", "id; grep CapPrm /proc/self/status"])
    assert b"uid=1234 gid=5678" in result.stdout and b"0000000000000000" in result.stdout
    assert Sandbox(fs_readable=SYSTEM_PATHS, user="nobody").run(["id", "-un"]).stdout == b"nobody\n"
    assert sandlock._call("prctl", sandlock.PR_GET_DUMPABLE) == 1


@pytest.mark.skipif(ROOT, reason="needs an ordinary user")
def test_user_needs_root():
    with pytest.raises(LaunchError, match="root"):
        box(user="1234:5678").run(["true"])


@requires_root
def test_as_an_ordinary_user():
    """The README's command and a few more, started by uid 65534 with the system's Python."""
    code = ("import sys; sys.dont_write_bytecode = True\nsource = sys.stdin.read()\nimport types\n"
            "m = types.ModuleType('sandlock'); sys.modules['sandlock'] = m; exec(source, m.__dict__)\n"
            "r = m.Sandbox(fs_readable=m.SYSTEM_PATHS, fs_writable=['/tmp']).run(\n"
            "    ['sh', '-c', 'id -u; (setsid sleep 100 &); cat /etc/shadow'], stdin=m.StdioMode.NULL)\n"
            "print(r.stdout, r.exit_code)")
    with open(sandlock.__file__) as source:
        host = subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
                               "/usr/bin/python3", "-c", code], stdin=source, stdout=subprocess.PIPE, cwd="/")
    assert host.stdout == b"b'65534\\n' 1\n"


CONFINE = """
import sys; sys.path.insert(0, %r)
import os, sandlock
from sandlock import *
confine(Policy(fs_readable=SYSTEM_PATHS + (%r,), fs_writable=[%r]))
open(%r + "/made", "w").close()
for path, mode in (("/root/.bashrc", "r"), ("/sandlock-made", "w"), ("/usr/x", "w")):
    try: open(path, mode); print("opened", path)
    except (PermissionError, FileNotFoundError): pass
import socket
for make in (lambda: socket.socket().connect(("127.0.0.1", 1)), lambda: socket.socket().bind(("127.0.0.1", 0)),
             lambda: socket.socket().listen(), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)):
    try: make(); print("made")
    except PermissionError: pass
print(os.popen("echo child").read().strip())
"""


@requires_abi(6)
def test_confine(tmp_path):
    host = subprocess.run([sys.executable, "-c", CONFINE % ((REPO,) + (str(tmp_path),) * 3)], stdout=subprocess.PIPE)
    assert host.stdout == b"child\n" and (tmp_path / "made").exists()
    for fields in (dict(max_processes=3), dict(net_allow=["*"]), dict(cwd="/"), dict(net_allow_bind=[80])):
        with pytest.raises(sandlock.PolicyError):
            sandlock.confine(sandlock.Policy(**fields))


LISTENING = """
import ctypes, sys
sys.path.insert(0, %r)
import sandlock
from sandlock import *
fprog = sandlock._sock_fprog(bytes(sandlock.sock_filter(sandlock.BPF_RET_K, 0, 0, sandlock.SECCOMP_RET_ALLOW)))
sandlock._call("prctl", sandlock.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
sandlock._call("seccomp", sandlock.SECCOMP_SET_MODE_FILTER, sandlock.SECCOMP_FILTER_FLAG_NEW_LISTENER, ctypes.addressof(fprog))
sandlock._proc_hides_processes = lambda: True
try: Sandbox(fs_readable=SYSTEM_PATHS).run(["true"])
except UnsupportedError as e: print(e.feature)
confine(Policy(fs_readable=SYSTEM_PATHS))
try: open("/root/.bashrc")
except (PermissionError, FileNotFoundError): print("confined")
"""


@requires_abi(6)
def test_confine_needs_nothing_that_only_a_supervisor_does():
    """Neither a listener, of which a process can have one, nor to see all processes."""
    host = subprocess.run([sys.executable, "-c", LISTENING % REPO], stdout=subprocess.PIPE)
    assert host.stdout == b"seccomp listener\nconfined\n"


@requires_abi(1)
@pytest.mark.parametrize("left_s, told", [(0.3, b"confined\n"), (20, b"confine needs a process with one thread; found 2 threads\n")])
def test_confine_waits_for_a_thread_that_is_ending(left_s, told):
    code = ("import sys; sys.path.insert(0, %r)\nimport _thread, os, sandlock, time\n_thread.start_new_thread(time.sleep, (%r,))\n"
            "try: sandlock.confine(sandlock.Policy(fs_readable=sandlock.SYSTEM_PATHS, best_effort=True)); print('confined')\n"
            "except sandlock.UnsupportedError as e: print(e)\nsys.stdout.flush(); os._exit(0)" % (REPO, left_s))
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, timeout=60).stdout == told


def test_confine_says_what_is_left_out():
    code = ("import sys; sys.path.insert(0, %r)\nimport sandlock; sandlock.landlock_abi_version = lambda: 3\n"
            "try: sandlock.confine(sandlock.Policy(best_effort=True))\nexcept RuntimeWarning as e: print(e); open('/etc/passwd')" % REPO)
    said = subprocess.run([sys.executable, "-W", "error", "-c", code], stdout=subprocess.PIPE).stdout
    assert said == b"sandlock: not enforced here: TCP ports; signals and abstract Unix sockets to the outside\n"


LOST = """
import signal, sys
sys.path.insert(0, %r)
import sandlock
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
sandlock.PIDFD_GET_INFO = 0xdead  # as below Linux 6.15
box = sandlock.Sandbox(fs_readable=sandlock.SYSTEM_PATHS)
print(box.run(["sleep", "50"], timeout=0.3).reason.name)
with box.popen(["sleep", "50"]) as process:
    process.kill()
    print(process.wait().reason.name)
print(box.run(["true"]).reason.name)
"""


def test_what_was_killed_is_told_where_the_status_is_lost():
    host = subprocess.run([sys.executable, "-c", LOST % REPO], stdout=subprocess.PIPE, timeout=60)
    assert host.stdout == b"TIMEOUT\nKILLED\nEXITED\n"


def test_a_census_waits_for_no_task(monkeypatch):
    """That of one which executes can be kept waiting by the program; here by a delay."""
    asked, ask = [], sandlock._syscall_of
    monkeypatch.setattr(sandlock, "_syscall_of", lambda tid: asked.append(tid) or time.sleep(2) or ask(tid))
    result = box(max_processes=4).run(["sh", "-c", "(sleep 50 & wait) & sleep 0.3; /bin/true; wait"], timeout=1)
    assert asked and result.duration < 1.9 and result.denials[0].field == "max_processes", result


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
def test_a_forked_child_of_the_host_does_not_wait_for_ever():
    with box().popen(["sleep", "50"]) as process:
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            try:
                process.wait(timeout=1)
            except ChildProcessError:
                os._exit(0)
            finally:
                os._exit(1)
        assert eventually(lambda: os.waitpid(pid, os.WNOHANG) == (pid, 0), 20)
        assert process.poll() is None


def test_no_descriptor_is_inherited_without_a_supervisor(monkeypatch, tmp_path):
    """Not above max_open_files either, with /proc shut."""
    found = sandlock._kernel_flags()
    flags = {name: getattr(found, name) for name in found._fields}
    (tmp_path / "secret").write_text("SECRET")
    fd = os.open(str(tmp_path / "secret"), os.O_RDONLY)
    os.dup2(fd, 200, inheritable=True)
    try:
        readable = [path for path in SYSTEM_PATHS if path != "/proc"]
        for listener in True, False:
            monkeypatch.setattr(sandlock, "_kernel_flags", lambda: sandlock._KernelFlags(**dict(flags, listener=listener)))
            result = Sandbox(fs_readable=readable, max_open_files=20, best_effort=True).run(["bash", "-c", "exec 5<&200 && cat <&5; echo end"])
            assert b"SECRET" not in result.stdout and not result.error, result
    finally:
        os.close(fd)
        os.close(200)


@requires_root
def test_limits_of_another_user_need_no_capability():
    """Root in a container, and here, has no CAP_SYS_RESOURCE."""
    for fields, line in ((dict(max_open_files=50), b"50"), (dict(max_cpu_seconds=7), b"7"), (dict(max_file_size=1 << 20), b"2048"), (dict(max_memory="300M"), b"")):
        result = Sandbox(fs_readable=SYSTEM_PATHS, user="1234:1234", **fields).run(["sh", "-c", "ulimit -n; ulimit -t; ulimit -f; id -u"])
        assert result.success and result.stdout.endswith(b"1234\n") and line in result.stdout.split() + [b""], result


def test_processes_may_be_asked_for_at_any_time():
    """Also in the very moment when the run ends: nothing is waited for that nobody will do."""
    for i in range(30):
        with box().popen(["sh", "-c", "(true); true"]) as process:
            deadline = time.monotonic() + 5
            while process.poll() is None:
                process.processes()
                assert time.monotonic() < deadline


HOLDS_PIPE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
static char junk[4096]; static const char *late;
static void end(int n) { close(open(late, O_CREAT | O_WRONLY, 0600)); _exit(0); }
int main(int n, char **a) {                       // splice(2) holds the pipe's lock while it waits for the socket
    int s[2], pipe = atoi(a[2]); late = a[1];
    signal(SIGALRM, end); alarm(60); write(1, "now\n", 4);
    if (pipe == 0) pipe = open("/proc/self/fd/0", O_WRONLY);
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    splice(s[0], 0, pipe, 0, 65536, 0);
    return 0;
}"""


@pytest.mark.parametrize("held", [0, 1])
def test_a_pipe_that_the_program_holds_holds_nobody_else(tmp_path, held):
    payload, before = compiled(HOLDS_PIPE), snapshot()
    sandbox = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), fs_writable=[tmp_path])
    command = [payload, str(tmp_path / "late"), str(held)]
    if held:
        result = sandbox.run(command, timeout=1)
        assert result.reason == sandlock.ExitReason.TIMEOUT and result.stdout == b"now\n", result
    for attempt in range(30):
        with sandbox.popen(command, stdin=1, stdout=1) as process:
            waiting = threading.Thread(target=lambda: process.wait(timeout=3))
            waiting.start()

            def uninterruptible():
                tid = process._pump and process._pump.tid
                return tid and (sandlock._proc_stat(tid) or [b""])[0] == b"D"
            hit = not held or eventually(uninterruptible, 1)  # else all was read before the pipe was held
            if not hit:
                process.kill()
            waiting.join()
            assert process.poll() == -9
        if hit:
            break
    assert hit  # or the test tests nothing
    with sandbox.popen(command, stdin=1, stdout=1) as process:
        time.sleep(0.2)
    process = sandbox.popen(command, stdin=1, stdout=1)
    time.sleep(0.2)
    del process
    assert eventually(lambda: clean(before)) and not (tmp_path / "late").exists()
    with sandbox.popen(["cat"], stdin=1, stdout=1) as process:  # the number of a thread that has ended is remembered by nobody
        assert process._supervisor.pad_tid is None and process.communicate(b"x" * 200000)[0] == b"x" * 200000


ADOPTING = """
import ctypes, sys
sys.path.insert(0, %r)
from sandlock import Sandbox, SYSTEM_PATHS
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER, as PID 1 of a container is one
result = Sandbox(fs_readable=SYSTEM_PATHS, max_processes=8).run(
    ["sh", "-c", "i=0; while [ $i -lt 40 ]; do (true &); sleep 0.02; i=$((i+1)); done; echo done"])
print(result.stdout, result.stderr, len(result.denials))
"""


def test_ended_orphans_that_the_host_adopts_do_not_count():
    host = subprocess.run([sys.executable, "-c", ADOPTING % os.path.dirname(sandlock.__file__)], stdout=subprocess.PIPE, timeout=100)
    assert host.stdout == b"b'done\\n' b'' 0\n"


def test_a_stream_is_collected_although_the_program_holds_its_pipe(tmp_path):
    payload, before = compiled(HOLDS_PIPE), snapshot()
    sandbox = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), fs_writable=[tmp_path])
    process = sandbox.popen([payload, str(tmp_path / "late"), "1"], stdin=1, stdout=1)
    time.sleep(0.3)
    begun, number = time.monotonic(), process.stdout.fileno()
    process.stdout = None  # as the garbage collector may, before it comes to the process
    assert eventually(lambda: not os.path.lexists("/proc/self/fd/%d" % number))  # else the next launch pad might be who closes it last
    with box().popen(["cat"], stdin=1, stdout=1) as cat:
        cat.stdin = None  # that it is gone closes it
        assert cat.wait(timeout=20).success
    assert time.monotonic() - begun < 10
    process.cycle = process
    del process
    gc.collect()
    assert eventually(lambda: clean(before)) and time.monotonic() - begun < 20 and not (tmp_path / "late").exists()


# -- interrupted ends, threads whose numbers are others', a broker that waits ---------------------------

INTERRUPTED = """
import os, sys, threading, faulthandler
sys.path.insert(0, sys.argv[1])
import sandlock
from sandlock import Sandbox, SYSTEM_PATHS
faulthandler.dump_traceback_later(60, exit=True)
owner, name, before = eval(sys.argv[2]), sys.argv[3], sys.argv[4] == "before"
real, hit = getattr(owner, name), []
def interrupted(*args):
    ends = any(frame and frame.f_code.co_name == "_finish" for frame in map(sys._getframe, range(1, 4)))
    first = ends and not hit
    if first:
        hit.append(1)
        if before: raise KeyboardInterrupt
    try: return real(*args)
    finally:
        if first:
            spare.append(os.open("/dev/null", os.O_RDONLY))  # takes a number that was closed just now
            raise KeyboardInterrupt
spare = []
setattr(owner, name, interrupted)
code = "import socket; print(open('/etc/hosts').read()[:9]); socket.socket().connect_ex(('127.0.0.1', 9))"
try: Sandbox(fs_readable=SYSTEM_PATHS, net_allow=["localhost:9"], max_memory="500M").run([sys.executable, "-S", "-c", code], timeout=30)
except KeyboardInterrupt: print("interrupted", [os.fstat(fd) and "kept" for fd in spare], len(sandlock._live), threading.active_count())
"""


@pytest.mark.parametrize("when", ["before", "behind"])
@pytest.mark.parametrize("step", [("sandlock._Supervisor", "_end_program"), ("sandlock._Broker", "close"), ("sandlock._Hosts", "close"), ("sandlock._Walker", "close"),
                                  ("sandlock._Memory", "close"), ("sandlock._Launch", "finish"), ("sandlock", "_close_streams")], ids=lambda step: step[0] + "." + step[1])
def test_an_end_that_is_interrupted_is_finished_all_the_same(step, when):
    """Ctrl-C whose signal another thread of the host has taken; never is a number closed twice."""
    out = subprocess.run([sys.executable, "-c", INTERRUPTED, os.path.dirname(os.path.abspath(sandlock.__file__)), *step, when], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         timeout=90).stdout.decode()
    assert out == "interrupted %s 0 1\n" % (["kept"] if when == "behind" else []), out


def test_the_number_of_the_pumps_thread_is_anothers_by_now(monkeypatch):
    stop, asked, end = threading.Event(), [], sandlock._Pump.end
    other = threading.Thread(target=stop.wait, args=(30,))
    other.start()

    def ended(self):
        asked.append(self.tid)
        self.tid = other.native_id
        return end(self)
    monkeypatch.setattr(sandlock._Pump, "end", ended)
    result = box().run(["sh", "-c", "echo x; exec sleep 1"], timeout=60)
    assert result.stdout == b"x\n" and asked[0] and other.is_alive()
    stop.set()


def test_a_broker_that_waits_holds_nobody_up():
    code = "import os, socket, time\nsocket.socket().connect_ex(('127.0.0.1', 9)); print('now', flush=True)\ntime.sleep(100)"
    with Sandbox(fs_readable=SYSTEM_PATHS, net_allow=["127.0.0.1:9"]).popen([sys.executable, "-S", "-c", code], stdout=1) as process:
        assert process.stdout.readline() == b"now\n"
        broker, held, let_go = process._supervisor.broker, threading.Event(), threading.Event()
        broker.mailbox.post(lambda: (held.set(), let_go.wait(60)))
        assert held.wait(30)
        begun = time.monotonic()
        assert [process.processes() for _ in range(40)] == [[process.pid]] * 40
        assert time.monotonic() - begun < 10  # each half a second longer, once
        let_go.set()
        assert eventually(lambda: broker.tid and process.processes() == [process.pid])


def test_a_supervisor_that_fails_again_and_again_ends_the_run(monkeypatch):
    def fail(self, tolerate=False):
        raise OSError(2, "no such file")
    killed = []
    monkeypatch.setattr(sandlock._Memory, "look", fail)
    kill_others = sandlock._Supervisor._kill_others
    monkeypatch.setattr(sandlock._Supervisor, "_kill_others", lambda self: (killed.append(1), kill_others(self)))
    with box(max_memory="500M")._start(["sh", "-c", "sleep 100 & sleep 100"], (0, 1, 1)) as process:  # as run() does
        signalled = process._supervisor._signal
        process._supervisor._signal = lambda signum: killed and signalled(signum)  # as of one that cannot die before another
        result = process._finish(None, None)
    assert "no such file" in result.error and killed, result


@requires_root
def test_under_yama_a_task_that_drops_capabilities_is_looked_at_as_before(monkeypatch):
    """By CAP_SYS_PTRACE, which a root host's broker keeps there."""
    if not sandlock._capabilities()[1][1] & sandlock.CAP_SYS_PTRACE:
        pytest.skip("needs CAP_SYS_PTRACE")
    looked, read = [], sandlock._read_memory
    monkeypatch.setattr(sandlock, "_yama_scope", lambda: 2)
    monkeypatch.setattr(sandlock, "_read_memory", lambda *args: (looked.append(sandlock._capabilities()[1][0] & sandlock.CAP_SYS_PTRACE), read(*args))[1])
    code = ("import ctypes, socket\ngo = lambda: print(socket.socket().connect_ex(('127.0.0.1', 9)))\ngo()\n"
            "print(ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()))\ngo()")
    result = box(net_allow=["127.0.0.1:9"]).run([sys.executable, "-S", "-c", code])
    assert result.stdout == b"111\n0\n111\n" and len(looked) > 1 and all(looked), (result, looked)
