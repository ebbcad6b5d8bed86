"""max_memory: of the whole tree, in every kind of memory; SPEC.md 2 and 4."""
import os
import subprocess
import sys
import tempfile
import threading
import time

import pytest

import sandlock
from sandlock import Sandbox, SYSTEM_PATHS, Verdict
from support import THIN, box, clean, compiled, eventually, requires_abi, requires_root, snapshot

pytestmark = requires_abi(1)

EATER = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
static const char *how; static long mib;
static int eat(void) {  /* in megabytes; touches them */
    for (long i = 0; i < mib; i++) {
        void *p = 0;
        if (*how == 'b') { p = sbrk(1 << 20); if (p == (void *)-1) p = 0; }
        else if (*how == 's') p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        else if (*how == 'l') { p = mmap(0, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); i = mib; }
        else if (*how == 'S') { p = mmap(0, mib << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); i = mib; }
        else if (*how == 'm') { p = malloc(1 << 20); }
        else if (*how == 'p') { p = mmap(0, mib << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); if (p != MAP_FAILED && mprotect(p, mib << 20, 3)) p = MAP_FAILED; i = mib; }
        else if (*how == 'r') { p = mmap(0, 2 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); p = mremap(p, 2 << 20, mib << 20, MREMAP_MAYMOVE); i = mib; }
        else if (*how == 'f') { static int fd; if (!fd) fd = memfd_create("x", 0); static char b[1 << 20]; if (write(fd, b, sizeof b) != sizeof b) return 1; usleep(2000); continue; }
        else if (*how == 'd') { static int fd; if (!fd) fd = open("/dev/shm/sandlock-test", O_RDWR | O_CREAT | O_TRUNC, 0600); unlink("/dev/shm/sandlock-test"); static char b[1 << 20]; if (write(fd, b, sizeof b) != sizeof b) return 1; usleep(2000); continue; }
        if (!p || p == MAP_FAILED) return errno == ENOMEM ? 1 : 2;
        if (*how != 'l' && *how != 'S' && *how != 'p' && *how != 'r') memset(p, 1, 1 << 20);
    }
    return 0;
}
int main(int n, char **a) {
    struct rlimit as = {4L << 30, 4L << 30}; setrlimit(RLIMIT_AS, &as);
    how = a[1]; mib = atol(a[2]); int children = n > 3 ? atoi(a[3]) : 0, failed = 0, s;
    if (!children) { int r = eat(); puts(r == 0 ? "ok" : r == 1 ? "ENOMEM" : strerror(errno)); return 0; }
    for (int i = 0; i < children; i++) { if (fork() == 0) { int r = eat(); usleep(%d); _exit(r); } }
    while (wait(&s) > 0) failed += s != 0;
    printf("%d\n", failed); return 0;
}""".replace("%d); _exit", "%d); _exit" % (6000000 if THIN >= 100 else 600000))


def limited(limit, *args, **fields):
    payload = compiled(EATER)
    fields = {"fs_readable": SYSTEM_PATHS + (os.path.dirname(payload),), **fields}
    return Sandbox(max_memory=limit, **fields).run([payload, *map(str, args)], timeout=60)


@pytest.mark.parametrize("how", list("bslSmpr"))
def test_a_growing_request_past_the_limit_fails(how):
    assert limited("64M", how, 30).stdout == b"ok\n"
    result = limited("64M", how, 200)
    assert result.stdout == b"ENOMEM\n", result
    assert limited("400M", how, 200).stdout == b"ok\n"  # the control


@pytest.mark.parametrize("how", "fd")
def test_files_in_memory_count(how):
    fields = {"fs_writable": ["/dev/shm"]} if how == "d" else {}
    if how == "d" and not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm here")
    assert limited("200M", how, 60, **fields).stdout == b"ok\n"
    result = limited("80M", how, 600, **fields)
    assert result.exit_code == -9 and result.reason == sandlock.ExitReason.SIGNALED, result
    assert result.denials[-1].field == "max_memory"


def test_the_whole_tree_counts():
    assert limited("300M", "s", 40, 4).stdout == b"0\n"
    result = limited("100M", "s", 40, 4)
    assert int(result.stdout) in (1, 2, 3, 4), result  # some may fit, if they do not starve each other
    result = limited("100M", "l", 40, 4)
    assert int(result.stdout) == 2, result
    assert all(d.field == "max_memory" for d in result.denials)


def test_a_copy_of_memory_counts_and_a_shared_one_does_not():
    code = ("import os, sys\nx = bytearray(60 << 20)\ntry:\n    pid = os.fork()\nexcept OSError as e: print(e.errno)\nelse:\n"
            "    if pid == 0: os._exit(0)\n    os.wait(); print('forked')\nprint(os.system('exit 3') >> 8)")
    assert box(max_memory="100M").run([sys.executable, "-S", "-c", code]).stdout.split() == [b"12", b"3"]
    assert box(max_memory="300M").run([sys.executable, "-S", "-c", code]).stdout.split() == [b"forked", b"3"]


def test_the_limit_cannot_be_raised_from_inside():
    code = ("import resource\nfor soft in (1 << 40, -1):\n    try: resource.setrlimit(resource.RLIMIT_DATA, (soft, soft)); print('raised')\n"
            "    except (PermissionError, ValueError): print('refused')\nprint(resource.getrlimit(resource.RLIMIT_DATA)[1])")
    assert box(max_memory="200M").run([sys.executable, "-S", "-c", code]).stdout.split() == [b"refused"] * 2 + [b"%d" % (200 << 20)]


def test_real_programs_under_a_limit(tmp_path):
    for limit, ok in (("400M", True), ("30M", False)):
        result = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], max_memory=limit).run(
            [sys.executable, "-c", "import json, threading; x = [str(i) * 10 for i in range(400000)]; print(len(json.dumps(x)) > 0)"])
        assert result.success == ok, result
        assert ok or b"MemoryError" in result.stderr or result.signal > 0


def test_live_changes_and_events():
    code = ("import mmap, sys\nkeep = []\nfor line in sys.stdin:\n    try: keep.append(mmap.mmap(-1, int(line) << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)); print('ok', flush=True)\n"
            "    except OSError as e: print(e.errno, flush=True)")
    for fields in ({}, {"max_memory": "1G"}):
        with box(**fields).popen([sys.executable, "-S", "-c", code], stdin=1, stdout=1) as process:
            def grow(mib):
                process.stdin.write(b"%d\n" % mib)
                return process.stdout.readline().strip()
            ctx = process.policy
            assert ctx.ceiling().max_memory_bytes == (1 << 30 if fields else 0)
            assert grow(100) == b"ok"
            ctx.restrict_max_memory(300 << 20)
            assert ctx.current().max_memory_bytes == 300 << 20
            assert eventually(lambda: grow(250) == b"12") and grow(20) == b"ok"
            with pytest.raises(sandlock.PolicyFnError, match="max_memory"):
                ctx.grant_max_memory(1 << 30)
    seen = []
    def judge(event, ctx):
        seen.append((event.syscall, event.category, event.size, event.denied))
        return Verdict.deny_with(12) if event.size == 5 << 20 else None
    result = box(policy_fn=judge, policy_events=["memory"], max_memory="100M").run(
        [sys.executable, "-S", "-c", code], input=b"5\n6\n200\n1\n")
    assert result.stdout.split() == [b"12", b"ok", b"12", b"ok"]
    assert {("mmap", "memory", 5 << 20, False), ("mmap", "memory", 6 << 20, False), ("mmap", "memory", 200 << 20, True)} <= set(seen)
    assert not any(size <= 1 << 20 for _, _, size, _ in seen)


def test_shared_memory_of_many_is_counted_once():
    code = ("import mmap, os, time\nm = mmap.mmap(-1, 60 << 20); m.write(b'x' * (60 << 20))\n"
            "for _ in range(5):\n    if os.fork() == 0: m.seek(0); m.read(); time.sleep(0.5); os._exit(0)\n"
            "print(sum(os.wait()[1] for _ in range(5)))")
    assert box(max_memory="500M").run([sys.executable, "-S", "-c", code]).stdout == b"0\n"


# -- found by an attacker ----------------------------------------------------------------------------

EVADERS = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
void *grow(void *x) {
    usleep(100000);
    for (int i = 0; i < 60; i++) { char *p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); if (p != MAP_FAILED) memset(p, 1, 1 << 20); else exit(1); usleep(3000); }
    sleep(1); write(1, "held\n", 5); _exit(0);
}
int main(int n, char **a) {
    setbuf(stdout, 0);
    if (a[1][0] == 'r') {  /* dirty pages that are made read-only, in small steps */
        for (int i = 0; i < 200; i++) {
            char *p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (p == MAP_FAILED) { puts("ENOMEM"); return 0; }
            memset(p, 1, 1 << 20); mprotect(p, 1 << 20, PROT_READ); usleep(5000);
        }
    } else if (a[1][0] == 's') {  /* where no page is counted */
        long fd = syscall(447, 0); puts(fd < 0 ? "refused" : "held"); return 0;
    } else if (a[1][0] == 'f') {  /* processes whose first thread has ended */
        for (int i = 0; i < 6; i++) if (!fork()) {
            pthread_t t; pthread_create(&t, 0, grow, 0); pthread_detach(t); syscall(SYS_exit, 0);
        }
        for (int i = 0; i < 6; i++) wait(0);
        return 0;
    } else {               /* shared memory, and beside it a file that is not mapped */
        char *p = mmap(0, 60 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); static char b[1 << 20];
        if (p == MAP_FAILED) { puts("ENOMEM"); return 0; }
        memset(p, 1, 60 << 20);
        int fd = memfd_create("x", 0); for (int i = 0; i < 60; i++) { write(fd, b, sizeof b); usleep(5000); }
        sleep(1);
    }
    puts("held"); return 0;
}"""


@pytest.mark.parametrize("how", ["read-only", "two"])
def test_memory_that_no_limit_of_the_kernel_counts(how):
    payload = compiled(EVADERS, "-pthread")
    fields = dict(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),))
    assert Sandbox(max_memory="400M", **fields).run([payload, how], timeout=30).stdout == b"held\n"
    assert Sandbox(max_memory="100M", **fields).run([payload, how], timeout=30).stdout != b"held\n"


def test_processes_whose_first_thread_has_ended_count():
    payload = compiled(EVADERS, "-pthread")
    fields = dict(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),))
    assert Sandbox(max_memory="900M", **fields).run([payload, "first"], timeout=30).stdout == b"held\n" * 6
    result = Sandbox(max_memory="100M", **fields).run([payload, "first"], timeout=30)
    assert result.stdout.count(b"held") < 3, result


def test_what_a_pipe_keeps_of_huge_pages_is_refused():
    code = "import ctypes; l = ctypes.CDLL(None, use_errno=True); print(l.syscall(%d, 1, None, 0, 0), ctypes.get_errno())" % sandlock._NR["vmsplice"]
    assert [box(**fields).run([sys.executable, "-S", "-c", code]).stdout for fields in (dict(max_memory="300M"), {})] == [b"-1 38\n", b"0 0\n"]


def test_secret_memory_is_counted_nowhere_and_so_refused():
    payload = compiled(EVADERS, "-pthread")
    assert Sandbox(max_memory="100M", fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),)).run([payload, "secret"]).stdout == b"refused\n"


def test_a_tmpfs_beneath_a_writable_path_counts(tmp_path):
    if not os.path.ismount("/dev/shm"):
        pytest.skip("no tmpfs on /dev/shm here")
    result = limited("80M", "d", 400, fs_writable=["/dev"])
    assert result.exit_code == -9 and result.denials[-1].field == "max_memory"


FILLS = """
import os, sys, time
sys.stdin.readline()
file = open(sys.argv[1], "wb", 0)
os.unlink(sys.argv[1])
for _ in range(50): file.write(bytes(1 << 20)); time.sleep(0.01)
time.sleep(1)
print("held")
"""


def test_a_limit_that_is_set_live_counts_a_tmpfs_too():
    if not os.path.ismount("/dev/shm") or os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize < 60 << 20:
        pytest.skip("no tmpfs with room on /dev/shm here")
    for limit in 0, 45 << 20:  # without one it is the control
        with Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=["/dev/shm"]).popen([sys.executable, "-S", "-c", FILLS, "/dev/shm/sandlock-%d" % os.getpid()], stdin=1, stdout=1) as process:
            if limit:
                process.policy.restrict_max_memory(limit)
            process.stdin.write(b"go\n")
            process.stdin.flush()
            result = process.wait(timeout=60)
        assert (result.stdout, [(d.field, d.value) for d in result.denials]) == (
            (b"", [("max_memory", 2 * limit)]) if limit else (b"held\n", [])), result


NAMED = r"""
import ctypes, mmap, os, sys, threading, time
def touch():
    time.sleep(0.3)  # the first thread has ended
    keep = []
    try:
        for _ in range(6):
            keep.append(mmap.mmap(-1, 50 << 20))  # shared
            for at in range(0, 50 << 20, 4096): keep[-1][at] = 1
            time.sleep(0.2)
    except OSError: os._exit(7)
    os.write(1, b"held\n")
    os._exit(0)
threading.Thread(target=touch).start()
libc = ctypes.CDLL(None)
libc.prctl(15, eval(sys.argv[1]), 0, 0, 0)
libc.syscall(int(sys.argv[2]), 0)
"""


@pytest.mark.parametrize("name", [b"plain", b"\rVmData:0", b"\nVmData:0"])
def test_the_name_of_a_thread_is_no_line_of_its_status(name):
    """proc_pid_status(5): the first thread's has none of the rows of memory once that has ended."""
    def run(limit):
        return box(max_memory=limit).run([sys.executable, "-S", "-c", NAMED, repr(name), str(sandlock._NR["exit"])], timeout=60)
    killed = run("150M")
    assert killed.exit_code in (7, -9) and killed.stdout == b"" and {d.field for d in killed.denials} == {"max_memory"}, killed
    assert name != b"plain" or run("500M").stdout == b"held\n"


HANDS_ON = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static long held, want, full; static time_t until; static char stacks[64][16384];
static void grow(void) {                      // read-only once it is touched: no data any more
    for (int i = 0; i < 5 && held < want; i++, held++) {
        char *p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) _exit(7);
        memset(p, 1, 1 << 20); mprotect(p, 1 << 20, PROT_READ);
    }
    if (held >= want && !full) full = 1, until = time(0) + 2;
    if (time(0) >= until) { write(1, held >= want ? "held\n" : "less\n", 5); _exit(0); }
    usleep(2000);
}
static void *thread(void *x) { pthread_t t; grow(); while (pthread_create(&t, x, thread, x)) usleep(100); return 0; }
static int process(void *x) {
    long i = (long)x; grow();
    while (clone(process, stacks[(i + 1) % 64] + 16000, CLONE_VM, (void *)(i + 1)) < 0) usleep(100);
    syscall(SYS_exit, 0); return 0;
}
int main(int n, char **a) {
    pthread_attr_t at; pthread_t t;
    want = atoi(a[2]); until = time(0) + atoi(a[3]); alarm(60);
    if (!fork()) {                            // takes long to look at, and is no more than that
        mmap(0, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        for (int i = 0; i < 20000; i++) mmap(0, 4096, i & 1 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        alarm(atoi(a[3]) + 1); pause();
    }
    usleep(500000);
    if (*a[1] == 'p') { int p[2]; pipe(p); if (!fork()) process(0); close(p[1]); read(p[0], p, 1); return 0; }
    pthread_attr_init(&at); pthread_attr_setstacksize(&at, 65536); pthread_attr_setdetachstate(&at, PTHREAD_CREATE_DETACHED);
    thread(&at); pthread_exit(0);
}"""


@pytest.mark.parametrize("who", ["threads", "processes"])
def test_memory_that_is_handed_on_before_it_is_looked_at_counts(who):
    """The task that tells of it has ended whenever it is asked, and another one has come."""
    payload = compiled(HANDS_ON, "-pthread")
    def run(limit):
        return Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), max_memory=limit, max_processes=2000).run(
            [payload, who, "300", "40"], timeout=90)
    killed = run("100M")
    assert b"held" not in killed.stdout, killed
    assert killed.exit_code == 7 or {d.field for d in killed.denials} == {"max_memory"}, killed  # mmap is refused, or too late
    if who == "threads":  # the control. On a slow machine no thread lives until the look
        for _ in range(8 if THIN >= 100 else 3):
            kept = run("1500M")
            if b"held" in kept.stdout:
                return
            assert {d.reason for d in kept.denials} == {"its threads end before they can be looked at"}, kept
        pytest.fail(str(kept))


MANY = """
import os, sys, time
fd = os.memfd_create("x")
keep = [os.dup(fd) for _ in range(int(sys.argv[1]))]
time.sleep(2)
print("held")
"""


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs os.memfd_create")
def test_more_descriptors_than_can_be_looked_at_in_time(monkeypatch):
    """Their number is the program's to choose, and the supervisor must not be held up."""
    monkeypatch.setattr(sandlock._Memory, "LOOK_S", 0)
    monkeypatch.setattr(sandlock._Memory, "FEW_DESCRIPTORS", 300)
    monkeypatch.setattr(sandlock._Launch, "DEATH_PIPE_AT", 100)  # below 6.2 the kernel tells the highest number only
    sandbox = box(max_memory="300M")
    assert sandbox.run([sys.executable, "-S", "-c", MANY, "50"], timeout=60).stdout == b"held\n"
    killed = sandbox.run([sys.executable, "-S", "-c", MANY, "600"], timeout=60)
    assert killed.exit_code == -9 and "descriptors" in killed.denials[-1].reason and killed.denials[-1].field == "max_memory"


SHARING = """
import mmap, os, time
m = mmap.mmap(-1, 60 << 20)
for _ in range(60): m.write(b"x" * (1 << 20))
os.write(1, b"now\\n")
pid = os.fork()
if not pid: [m[i] for i in range(0, 60 << 20, 4096)]
time.sleep(1)
if pid: os.wait()
os.write(1, b"held\\n")
"""


def test_shared_memory_that_nobody_can_tell_of_in_time_counts_whole(monkeypatch):
    """The kernel waits for the process at each page of maps: here for as long as that lives."""
    assert box(max_memory="110M").run([sys.executable, "-S", "-c", SHARING], timeout=60).stdout == b"now\nheld\nheld\n"

    def slow(path, *args):
        until = time.monotonic() + 20
        while str(path).endswith("/maps") and os.path.exists(path) and time.monotonic() < until:
            time.sleep(0.01)
        return open(path, *args)
    before = snapshot()
    monkeypatch.setattr(sandlock, "open", slow, raising=False)
    monkeypatch.setattr(sandlock, "_all_shared_memory", lambda: 62 << 20)  # at the most there is so much
    monkeypatch.setattr(sandlock._MapsReader, "LATE_S", 60)
    assert box(max_memory="110M").run([sys.executable, "-S", "-c", SHARING], timeout=60).stdout == b"now\nheld\nheld\n"
    monkeypatch.setattr(sandlock, "_all_shared_memory", lambda: 1 << 40)
    killed = box(max_memory="110M").run([sys.executable, "-S", "-c", SHARING], timeout=60)
    assert killed.stdout.count(b"held") < 2 and killed.denials[-1].field == "max_memory"
    ended = box(max_memory="500M").run([sys.executable, "-S", "-c", SHARING.replace("sleep(1)", "sleep(40)")], timeout=10 if THIN >= 100 else 2)
    assert ended.reason == sandlock.ExitReason.TIMEOUT and ended.stdout == b"now\n" and ended.duration < 18 and not ended.error
    assert eventually(lambda: clean(before))


@pytest.mark.parametrize("what", ["maps", "fd"])
def test_memory_that_may_not_be_looked_at_is_not_taken_for_none(what, monkeypatch):
    """Of a process that is not dumpable an ordinary user is told neither."""
    def shut(function):
        def look(path, *args):
            if str(path).startswith("/proc/") and str(path).endswith(what) and str(os.getpid()) not in str(path):
                raise PermissionError(13, "Permission denied", path)
            return function(path, *args)
        return look
    code = SHARING if what == "maps" else MANY.replace("memfd_create(\"x\")", "memfd_create(\"x\"); time.sleep(0.5)")
    command = [sys.executable, "-S", "-c", code, "10"]
    assert box(max_memory="110M").run(command, timeout=60).stdout.endswith(b"held\n")
    monkeypatch.setattr(sandlock, "_all_shared_memory", lambda: 1 << 40)
    if what == "maps":
        monkeypatch.setattr(sandlock, "open", shut(open), raising=False)
    else:
        monkeypatch.setattr(os, "listdir", shut(os.listdir))
    killed = box(max_memory="110M").run(command, timeout=60)
    assert killed.stdout.count(b"held") < 2 - (what == "fd") and killed.denials[-1].field == "max_memory", killed


GROWING = """
import mmap, os, time
keep = [mmap.mmap(-1, 4096)]
time.sleep(0.7)
open("grows", "w").close()
for i in range(400):
    keep.append(mmap.mmap(-1, 1 << 20))
    for _ in range(16): keep[-1].write(b"x" * (1 << 16))  # musl's malloc maps larger ones, which are weighed
    time.sleep(0.005)
time.sleep(1)
print("held")
"""


@pytest.mark.parametrize("how", ["late", "shut"])
def test_what_grows_while_nobody_can_look_counts(how, monkeypatch, tmp_path):
    """Whose last look told of nothing: it keeps the lock that maps wait for, or is not dumpable any more."""
    def run(limit):
        (tmp_path / "grows").unlink() if (tmp_path / "grows").exists() else None
        return box(tmp_path, cwd=tmp_path, max_memory=limit).run([sys.executable, "-S", "-c", GROWING], timeout=300)

    def mapped(pid, deadline, real=sandlock._mapped_memory):
        if not (tmp_path / "grows").exists():
            return real(pid, deadline)
        if how == "shut":
            return None
        time.sleep(max(0, deadline - time.monotonic()))
        raise TimeoutError(110, "maps")
    monkeypatch.setattr(sandlock, "_mapped_memory", mapped)
    monkeypatch.setattr(sandlock, "_all_shared_memory", lambda: 1 << 40)
    monkeypatch.setattr(sandlock._MapsReader, "LATE_S", 300)
    monkeypatch.setattr(sandlock._MapsReader, "LOOK_S", 0.3)  # below Linux 6.9 each call waits for the look
    assert run("600M").stdout == b"held\n"
    killed = run("150M")
    assert killed.exit_code == -9 and "largest process" in killed.denials[-1].reason, killed


MOVED_TMPFS = """
import os, sys
sys.path.insert(0, sys.argv[1])
import sandlock
from sandlock import Sandbox, SYSTEM_PATHS
top = sys.argv[2]
os.makedirs(top + "/p/t")
if os.system("mount -t tmpfs none %s/p/t" % top): print("skip"); sys.exit()
sandlock.Policy()  # imports what another user may not
pid = os.fork()
if pid == 0:  # a host without root, below whose own directory, which is shut, there is one
    shut = top + "/s"; os.makedirs(shut + "/t"); os.system("mount -t tmpfs none %s/t" % shut)
    os.chown(shut, 1234, 1234); os.chmod(shut, 0); os.setgroups([]); os.setgid(1234); os.setuid(1234)
    try: print(Sandbox(fs_readable=["/usr"], fs_writable=[shut], max_memory="60M").run(["true"]))
    except sandlock.LaunchError as e: print(e.stage, e.path == shut + "/t")
    sys.stdout.flush(); os._exit(0)
os.waitpid(pid, 0)
os.makedirs(top + "/n")
for kind in "ramfs", "tmpfs -o size=0":  # of which nobody can tell how much is in them
    os.system("mount -t %s none %s/n" % (kind, top))
    for fields in dict(), dict(best_effort=True):
        try: print(len(Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[top], max_memory="60M", **fields).run(["true"]).unenforced))
        except sandlock.UnsupportedError as e: print(e.feature)
    with Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[top]).popen(["sleep", "50"]) as process:
        try: process.policy.restrict_max_memory(60 << 20)
        except sandlock.UnsupportedError as e: print("live", e.feature, "UnsupportedError" in process.wait(timeout=20).error)
    os.system("umount %s/n" % top)
code = (
    "import os, time\\nif %r == 'moved': os.rename('p', 'q'); os.mkdir('p'); os.symlink('/proc', 'p/t')\\n"
    "file = open('q/t/x' if os.path.exists('q') else 'p/t/x', 'wb')\\n"
    "for i in range(1600): file.write(bytes(1 << 16)); file.flush(); time.sleep(0.0006)\\n"  # musl maps larger ones
    "time.sleep(1)")
for how in "still", "moved":
    result = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[top], cwd=top, max_memory="60M").run([sys.executable, "-S", "-c", code % how], timeout=60)
    print(result.exit_code, result.stderr.decode(), result.error or "")
    if how == "still": os.remove(top + "/p/t/x")  # what is there before does not count
"""


@requires_root
def test_a_tmpfs_counts_wherever_its_path_is_moved_to(tmp_path):
    if subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs unshare -m")
    for place in [tmp_path, *tmp_path.parents]:
        if str(place).startswith("/tmp/"):
            place.chmod(0o755)
    out = subprocess.run(["unshare", "-m", "--propagation", "private", sys.executable, "-c", MOVED_TMPFS, os.path.dirname(os.path.abspath(sandlock.__file__)),
                          str(tmp_path)], stdout=subprocess.PIPE, timeout=120).stdout.decode()
    if out == "skip\n":
        pytest.skip("needs mount(2)")
    assert out == "max_memory True\n" + "max_memory\n1\nlive max_memory True\n" * 2 + "-9  \n-9  \n"


TABLES = """
import mmap, time
m = mmap.mmap(-1, 1 << 36, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
for at in range(0, 1 << 36, 2 << 20): m[at]
time.sleep(1)
print("held")
"""


def test_page_tables_count():
    assert box(max_memory="400M").run([sys.executable, "-S", "-c", TABLES], timeout=60).stdout == b"held\n"
    killed = box(max_memory="64M").run([sys.executable, "-S", "-c", TABLES], timeout=60)
    assert killed.exit_code == -9 and killed.denials[-1].field == "max_memory", killed


def test_threads_and_files_of_a_tmpfs_count(tmp_path):
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(8)]
    [thread.start() for thread in threads]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandlock._Memory, "THREAD_BYTES", 1 << 40)
        assert sandlock._Memory.of(sandlock._task_status(os.getpid())) >= 9 << 40
    stop.set()
    if os.path.ismount("/dev/shm") and os.statvfs("/dev/shm").f_files:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            before = sandlock._Memory._used(folder)
            for i in range(500):
                open(os.path.join(folder, str(i)), "w").close()
            assert sandlock._Memory._used(folder) >= before + 400 * 1024  # others may remove some meanwhile


HIDERS = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int n, char **a) {
    static char block[1 << 20]; long mib = atol(a[2]); setbuf(stdout, 0);
    if (n > 3) read(0, block, 1); else usleep(500000);
    for (long i = 0; i < mib; i++) {
        if (*a[1] == 'p') {                      /* files in memory that are mapped privately, and closed */
            int fd = memfd_create("x", 0); if (write(fd, block, sizeof block) != sizeof block) return 1;
            char *p = mmap(0, sizeof block, PROT_READ, MAP_PRIVATE, fd, 0); close(fd);
            for (int k = 0; k < sizeof block; k += 4096) *(volatile char *)(p + k);
        } else {                                 /* shared memory, of which no page is mapped any more */
            char *p = mmap(0, sizeof block, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
            memset(p, 1, sizeof block); madvise(p, sizeof block, MADV_DONTNEED);
        }
        usleep(2000);
    }
    sleep(1); puts("held"); return 0;
}"""


@pytest.mark.parametrize("how", ["private", "shared"])
def test_memory_files_that_hide_count(how):
    payload = compiled(HIDERS, "-pthread")
    fields = dict(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),))
    assert Sandbox(max_memory="300M", **fields).run([payload, how, "100"], timeout=60).stdout == b"held\n"
    killed = Sandbox(max_memory="40M", **fields).run([payload, how, "100"], timeout=60)
    assert killed.exit_code == -9 and killed.denials[-1].field == "max_memory", killed
    live = Sandbox(**fields).popen([payload, how, "100", "wait"], stdin=1, stdout=1)  # where nothing was trapped until the limit came
    with live:
        assert eventually(lambda: live._supervisor.attendant)
        time.sleep(0.3)  # by now it waits for mail alone
        live.policy.restrict_max_memory(40 << 20)
        live.stdin.write(b"x")
        assert live.wait(timeout=60).stdout == b""


def test_a_limit_that_could_not_be_looked_at_at_once_is_looked_after_all_the_same(monkeypatch):
    look = sandlock._Memory.look

    def fail(self, tolerate=False):
        if tolerate:
            raise TimeoutError(110, "the broker does not answer")
        look(self)
    payload = compiled(HIDERS, "-pthread")
    monkeypatch.setattr(sandlock._Memory, "look", fail)
    with Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),)).popen([payload, "shared", "100", "wait"], stdin=1, stdout=1) as process:
        assert eventually(lambda: process._supervisor.attendant)
        time.sleep(0.3)  # by now it waits for mail alone
        with pytest.raises(TimeoutError):
            process.policy.restrict_max_memory(40 << 20)
        process.stdin.write(b"x")
        assert process.wait(timeout=60).stdout == b""


DECOYS = """
import mmap, os, time
keep = []
for i in range(35):
    if os.fork() == 0:  # it uses nothing, however much it has mapped
        fd = os.memfd_create("x"); os.ftruncate(fd, 1 << 40)
        m = mmap.mmap(fd, 1 << 40, prot=mmap.PROT_READ); time.sleep(30); os._exit(0)
    try: keep.append(bytearray(6 << 20))
    except MemoryError: break
    time.sleep(0.1)
os.write(1, b"%d" % (6 * len(keep)))
"""
RING = """
import mmap, os, time
fd = os.memfd_create("x"); os.ftruncate(fd, 40 << 20)
maps = [mmap.mmap(fd, 40 << 20) for _ in range(4)]; [maps[0].write(b"x" * (1 << 20)) for _ in range(40)]; os.close(fd)
time.sleep(1); print("held")
"""


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs os.memfd_create")
def test_what_is_mapped_is_neither_weighed_twice_nor_taken_for_freed():
    decoyed = box(max_memory="150M").run([sys.executable, "-S", "-c", DECOYS], timeout=60)
    assert int(decoyed.stdout or b"0") < 150, decoyed
    assert box(max_memory="75M").run([sys.executable, "-S", "-c", RING], timeout=60).stdout == b"held\n"
    killed = box(max_memory="40M").run([sys.executable, "-S", "-c", RING], timeout=60)  # the control
    assert killed.exit_code == -9 or "more would not fit" in killed.denials[-1].reason and not killed.stdout, killed  # by musl's malloc


def test_who_cannot_be_looked_at_in_time_is_killed_and_not_the_others(monkeypatch):
    def slow(pid, deadline, real=sandlock._mapped_memory):
        if open("/proc/%d/cmdline" % pid, "rb").read().endswith(b"victim\0"):
            time.sleep(0.7)
            raise TimeoutError(110, "slow")
        return real(pid, deadline)
    monkeypatch.setattr(sandlock, "_mapped_memory", slow)
    monkeypatch.setattr(sandlock._MapsReader, "LATE_S", 1)
    code = ("import mmap, os, sys, time\nm = mmap.mmap(-1, 4096)\n"
            "if len(sys.argv) == 1 and os.fork() == 0: os.execv(sys.executable, [sys.executable, '-S', '-c', 'import time; time.sleep(40)', 'victim'])\n"
            "print(os.wait()[1], flush=True); time.sleep(1); print('held')")
    result = box(max_memory="200M").run([sys.executable, "-S", "-c", code], timeout=60)
    assert result.stdout == b"9\nheld\n" and "in time" in result.denials[0].reason and len(result.denials) == 1, result


def test_ctrl_c_in_a_look_keeps_no_lock(monkeypatch):
    interrupted = []

    def interrupt(things, **more):
        if not interrupted and sys._getframe(1).f_code.co_name == "look" and "done" in sys._getframe(1).f_locals:
            interrupted.append(next(iter(sandlock._live)))
            raise KeyboardInterrupt
        return sorted(things, **more)
    monkeypatch.setattr(sandlock, "sorted", interrupt, raising=False)
    with pytest.raises(KeyboardInterrupt):
        box(max_memory="200M").run([sys.executable, "-S", "-c", "import mmap, time\nm = mmap.mmap(-1, 4096)\ntime.sleep(30)"], timeout=60)
    assert not interrupted[0].memory.reader.running.locked()
