#!/usr/bin/env python3
"""What sandlock.py costs. One table: measure, ours, reference, ratio, aim, and whether it is met.

    python3 tests/bench.py [--quick] [SUBSTRING...]      (rows whose measure contains one of them)

Both sides of a row are sampled in turn, A B A B, in one run, since machines are shared and noisy;
what is shown are medians, and the ratio of the medians. A sample that does not succeed fails its
row, and its stderr is shown; then the exit status is 1. A missed aim is only reported. A
virtual environment with sandlock 0.9 from PyPI is named by $SANDLOCK09 (path of its python).
"""
import argparse
import collections
import contextlib
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True  # the tree stays as it is
sys.path.insert(0, ROOT)
from sandlock import Sandbox, StdioMode, SYSTEM_PATHS  # noqa: E402

TRUE = ["/bin/true"]
QUICK = 5  # --quick divides the repetitions by this


class NotInstalled(Exception):
    """What a row needs is not here."""


class Failed(Exception):
    """A sample did not do its work."""


# ------------------------------------------------------------------------------------------------
# Samples: each returns (seconds, stdout), or fails
# ------------------------------------------------------------------------------------------------

def _check(success, command, *said):
    if not success:
        said = [s.decode(errors="replace") if isinstance(s, bytes) else str(s) for s in said if s]
        raise Failed("%s\n%s" % (" ".join(command), "\n".join(said)))


def run_inside(command, **fields):
    """Builds a sandbox that may read SYSTEM_PATHS, and runs the command in it."""
    begin = time.perf_counter()
    result = Sandbox(fs_readable=SYSTEM_PATHS, **fields).run(command)
    seconds = time.perf_counter() - begin
    _check(result.success, command, result, result.stderr)
    return seconds, result.stdout


def run_outside(command, env=None, cwd=None):
    full = None if env is None else {**os.environ, **env}
    begin = time.perf_counter()
    result = subprocess.run(command, capture_output=True, env=full, cwd=cwd)
    seconds = time.perf_counter() - begin
    _check(result.returncode == 0, command, "exit status %d" % result.returncode, result.stderr)
    return seconds, result.stdout


class Worker:
    """A host of its own, in a child process: runs /bin/true in a sandbox once for each sample."""
    CODE = """if True:
        import sys, time
        library, ballast, paths = sys.argv[1], sys.argv[2], sys.argv[3:]
        if library:
            sys.path.insert(0, library)
        from sandlock import Sandbox
        if ballast == "ballast":
            memory = bytearray(b"x") * (500 << 20)
            objects = [[] for _ in range(2 * 1000 * 1000)]
        for _ in sys.stdin:
            begin = time.perf_counter()
            result = Sandbox(fs_readable=paths).run(["/bin/true"])
            seconds = time.perf_counter() - begin
            if not result.success or result.exit_code != 0:
                sys.exit("%r %r" % (result, result.stderr))
            print(seconds, flush=True)
    """

    def __init__(self, cleanup, python, library, ballast=""):
        self.command = [python, "-I", "-c", self.CODE, library, ballast] + list(SYSTEM_PATHS)
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=1)
        cleanup.callback(self.end)

    def sample(self):
        with contextlib.suppress(BrokenPipeError):  # it ended: the next line says so
            self.process.stdin.write("\n")
        answer = self.process.stdout.readline()
        if not answer:
            _check(False, self.command[:1] + ["(worker)"], self.process.stderr.read())
        return float(answer)

    def end(self):
        self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()


def library_copy(folder):
    """A directory with a copy of sandlock.py, whose .pyc may be written there."""
    shutil.copy(os.path.join(ROOT, "sandlock.py"), folder)
    return folder


# ------------------------------------------------------------------------------------------------
# Launching: row makers take (folder, cleanup) and return two functions that return seconds
# ------------------------------------------------------------------------------------------------

def true_against(command):
    def make(folder, cleanup):
        return lambda: run_inside(TRUE)[0], lambda: run_outside(command)[0]
    return make


def sandlock09():
    """The Python of a virtual environment with sandlock 0.9."""
    python = os.environ.get("SANDLOCK09") or "/opt/peers/sl09/bin/python"
    if not shutil.which(python):
        raise NotInstalled(python)
    code = "import importlib.metadata as m; print(m.version('sandlock'))"
    found = run_outside([python, "-I", "-c", code])[1].decode().strip()
    if not (found + ".").startswith("0.9."):
        raise NotInstalled("sandlock 0.9 (%s has %s)" % (python, found))
    return python


def make_sandlock09(folder, cleanup):
    ours = Worker(cleanup, sys.executable, library_copy(folder))
    return ours.sample, Worker(cleanup, sandlock09(), "").sample


def make_big_host(folder, cleanup):
    library = library_copy(folder)
    big = Worker(cleanup, sys.executable, library, "ballast")
    return big.sample, Worker(cleanup, sys.executable, library).sample


def make_import(folder, cleanup):
    ours = "import sys; sys.path.insert(0, %r); import sandlock" % library_copy(folder)
    theirs = "import ctypes, threading, queue, struct, fcntl, select"
    def sample(code):
        return lambda: run_outside([sys.executable, "-I", "-S", "-c", code])[0]
    return sample(ours), sample(theirs)


# ------------------------------------------------------------------------------------------------
# Syscalls in a loop
# ------------------------------------------------------------------------------------------------

LOOP_C = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void filter(void) {
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &allow};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, 2, &program)) {
        perror("seccomp");
        exit(3);
    }
}

static void landlock(char *path) {  /* one rule, on the file itself: what Landlock costs at least */
    struct { unsigned long long fs, net; } attr = {(1 << 13) - 1, 0};
    struct { unsigned long long rights; int fd; } __attribute__((packed)) rule = {4, open(path, O_PATH)};
    int ruleset = syscall(444, &attr, 8, 0);
    if (ruleset < 0 || syscall(445, ruleset, 1, &rule, 0) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        || syscall(446, ruleset, 0)) {
        perror("landlock");
        exit(3);
    }
}

int main(int argc, char **argv) {  /* COUNT, "filter", "landlock" or "", and a path: else getppid */
    long count = atol(argv[1]);
    struct timespec a, b;
    if (*argv[2] == 'f')
        filter();
    if (*argv[2] == 'l')
        landlock(argv[3]);
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (long i = 0; i < count; i++) {
        long got = argc > 3 ? open(argv[3], O_RDONLY) : syscall(SYS_getppid);
        if (got < 0 || (argc > 3 && close(got))) {
            perror("loop");
            return 3;
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("%.4f\n", ((b.tv_sec - a.tv_sec) * 1e9 + b.tv_nsec - a.tv_nsec) / count);
}
"""


def loop_program(folder):
    source, program = os.path.join(folder, "loop.c"), os.path.join(folder, "loop")
    with open(source, "w") as f:
        f.write(LOOP_C)
    run_outside(["gcc", "-O2", "-o", program, source])
    return program


def make_getppid(folder, cleanup):
    program = loop_program(folder)
    def nanoseconds(run, flag, **fields):
        return lambda: float(run([program, "300000", flag], **fields)[1]) * 1e-9
    return nanoseconds(run_inside, "", fs_writable=[folder]), nanoseconds(run_outside, "filter")


def open_against(flag):
    def make(folder, cleanup):
        program = loop_program(folder)
        def nanoseconds(run, flag, **fields):
            return lambda: float(run([program, "50000", flag, program + ".c"], **fields)[1]) * 1e-9
        return nanoseconds(run_inside, "", fs_writable=[folder]), nanoseconds(run_outside, flag)
    return make


# ------------------------------------------------------------------------------------------------
# Events
# ------------------------------------------------------------------------------------------------

EVENTS_C = r"""
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {  /* openat, stat, connect or execve, and how often: us each */
    struct stat info;
    int count = atoi(argv[2]);
    struct sockaddr_in to = {AF_INET, htons(9), {htonl(INADDR_LOOPBACK)}};
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < count; i++) {
        if (*argv[1] == 'o') {
            int fd = open("/etc/hostname", O_RDONLY);
            if (fd < 0 || close(fd))
                return 3;
        } else if (*argv[1] == 's') {
            if (stat("/etc/hostname", &info))
                return 3;
        } else if (*argv[1] == 'c') {
            int s = socket(AF_INET, SOCK_STREAM, 0);
            connect(s, (void *)&to, sizeof to);
            close(s);
        } else {
            char *words[] = {argv[0], "none", "0", 0};
            if (vfork() == 0) {
                execv(argv[0], words);
                _exit(3);
            }
            wait(0);
        }
    }
    if (!count)
        return 0;
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("%.3f\n", ((b.tv_sec - a.tv_sec) * 1e6 + (b.tv_nsec - a.tv_nsec) / 1e3) / count);
}
"""
EVENT_HOST = """if True:
    import os, sys, threading
    library, pinned, spins, category, *command = sys.argv[1:]
    if library:
        sys.path.insert(0, library)
    from sandlock import Sandbox
    if pinned:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    def spin():
        while True:
            pass
    if spins:
        threading.Thread(target=spin, daemon=True).start()
    fields = {} if not library else {"policy_events": [category]}
    paths = ["/usr", "/bin", "/lib", "/lib64", "/etc", "/proc", os.path.dirname(command[0])]
    result = Sandbox(fs_readable=[p for p in paths if os.path.exists(p)], net_allow=["127.0.0.1:9"],
                     policy_fn=lambda event, ctx: None, **fields).run(command)
    if not result.success:
        sys.exit("%r %r" % (result, result.stderr))
    sys.stdout.write(result.stdout.decode()); sys.stdout.flush(); os._exit(0)
"""
COUNTS = {"openat": "2000", "stat": "2000", "connect": "1500", "execve": "100"}


WATCHED_HOST = """if True:
    import os, sys, time
    library, folder, *command = sys.argv[1:]
    if library:
        sys.path.insert(0, library)
    from sandlock import Sandbox
    paths = ["/usr", "/bin", "/lib", "/lib64", "/etc", "/proc", "/dev", sys.base_prefix]
    box = Sandbox(fs_readable=[p for p in paths if os.path.exists(p)], fs_writable=[folder, "/dev/null"],
                  policy_fn=lambda event, ctx: None)
    os.chdir(folder)
    begin = time.perf_counter()
    result = box.run(command)
    seconds = time.perf_counter() - begin
    if not result.success:
        sys.exit("%r %r" % (result, result.stderr))
    print(seconds); sys.stdout.flush(); os._exit(0)
"""


def watched(generate, reference, *command):
    """A row maker: seconds of a program under a callback that allows everything."""
    def make(folder, cleanup):
        generate(folder)
        inside, library = os.path.join(folder, "in"), library_copy(folder)
        os.makedirs(inside, exist_ok=True)
        env = program_env(folder)

        def host(python, library):
            words = [python, "-I", "-c", WATCHED_HOST, library, inside]
            return lambda: float(run_outside(words + list(command), env=env)[1])
        if reference == "09":
            return host(sys.executable, library), host(sandlock09(), "")
        return host(sys.executable, library), lambda: run_outside(list(command), env=env, cwd=inside)[0]
    return make


def compile_c(folder, name, source):
    program = os.path.join(folder, name)
    with open(program + ".c", "w") as f:
        f.write(source)
    run_outside(["gcc", "-O2", "-static", "-o", program, program + ".c"])
    return program


def event(name, reference, pinned=False, spins=False):
    """A row maker: us per event with a callback that returns None, against sandlock 0.9, the
    supervisor in C, or ourselves without a spinning thread in the host."""
    def make(folder, cleanup):
        program = compile_c(folder, "events", EVENTS_C)
        command = [program, name, COUNTS[name] if not spins else "1000"]
        library = library_copy(folder)

        def host(python, library, spins=False):
            words = [python, "-I", "-c", EVENT_HOST, library, "1" * pinned, "1" * spins, name]
            return lambda: float(run_outside(words + command)[1]) * 1e-6
        if reference == "bare":
            return host(sys.executable, library), lambda: float(run_outside(command)[1]) * 1e-6
        if reference == "09":
            return host(sys.executable, library), host(sandlock09(), "")
        if reference == "self":
            return host(sys.executable, library, spins), host(sys.executable, library)
        with open(os.path.join(ROOT, "tests", "supervisor.c")) as f:
            supervisor = compile_c(folder, "supervisor", f.read())
        taskset = ["taskset", "-c", str(max(os.sched_getaffinity(0)))] * pinned
        return (host(sys.executable, library),
                lambda: float(run_outside(taskset + [supervisor] + command)[1]) * 1e-6)
    return make


# ------------------------------------------------------------------------------------------------
# Real programs
# ------------------------------------------------------------------------------------------------

MODULES = """argparse ast asyncio base64 bisect calendar cmd codecs configparser contextlib copy csv
    datetime decimal difflib email.message enum fractions ftplib functools glob gzip heapq
    html.parser http.client inspect json logging mimetypes pathlib pickle pprint random shutil
    statistics string tarfile tempfile unittest zipfile""".split()


def generate_c(folder):
    body = "".join("int f%d(int a, int b) { int s = %d; for (int i = 0; i < a; i++) { s += i * b; "
                   "if (s %% 7 == %d) printf(\"%%d\\n\", s ^ b); } return s; }\n" % (i, i, i % 7)
                   for i in range(400))
    with open(os.path.join(folder, "in.c"), "w") as f:
        f.write("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n" + body)


def generate_tree(folder, files=2000):
    for i in range(files):
        path = os.path.join(folder, "in", "d%d" % (i % 40), "e%d" % (i % 5))
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, "f%d" % i), "w") as f:
            f.write("line %d\n" % i * (i % 300 + 1))


def generate_repository(folder, files=800):
    generate_tree(folder, files)
    git = ["git", "-C", os.path.join(folder, "in"), "-c", "user.name=b", "-c", "user.email=b@b"]
    for words in ("init -q", "add .", "commit -q -m all", "repack -adq"):
        run_outside(git + words.split(), env=program_env(folder))


def generate_large_repository(folder):
    generate_repository(folder, 5000)


def generate_nothing(folder):
    pass


def program_env(folder):
    return {"HOME": folder, "TMPDIR": folder, "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull}


def program(generate, *command):
    """A row maker. The command reads "in" and writes "out", which is removed before each sample."""
    def make(folder, cleanup):
        generate(folder)
        out = os.path.join(folder, "out")
        common = {"cwd": folder, "env": program_env(folder)}
        def sample(run, **fields):
            shutil.rmtree(out) if os.path.isdir(out) else None
            return run(list(command), **fields)[0]
        return (lambda: sample(run_inside, fs_writable=[folder], **common),
                lambda: sample(run_outside, **common))
    return make


# ------------------------------------------------------------------------------------------------
# A server
# ------------------------------------------------------------------------------------------------

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def await_server(port, process, log):
    for _ in range(1000):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        if process.poll() is not None:
            break
        time.sleep(0.01)
    with open(log, "rb") as f:
        _check(False, ["redis-server"], "does not listen", f.read())


def redis(folder, cleanup, name, start):
    """Starts a server and returns its sampler."""
    port, directory = free_port(), os.path.join(folder, name)
    os.mkdir(directory)
    log = cleanup.enter_context(open(os.path.join(directory, "log"), "wb"))
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", directory,
               "--save", "", "--appendonly", "no"]
    process = start(command, port, directory, log)
    cleanup.callback(process.wait)
    cleanup.callback(process.kill)
    await_server(port, process, log.name)
    client = ["redis-benchmark", "-q", "-n", "20000", "-t", "get", "-h", "127.0.0.1",
              "-p", str(port)]

    def sample():
        seconds, out = run_outside(client)
        _check(process.poll() is None and b"requests per second" in out, client, out)
        return seconds
    return sample


def make_redis(folder, cleanup):
    def inside(command, port, directory, log):
        box = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[directory], net_allow_bind=[port])
        return box.popen(command, stdin=StdioMode.NULL, stdout=log, stderr=log)

    def outside(command, port, directory, log):
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    return (redis(folder, cleanup, "inside", inside), redis(folder, cleanup, "outside", outside))


# ------------------------------------------------------------------------------------------------
# The table
# ------------------------------------------------------------------------------------------------

Row = collections.namedtuple("Row", "measure aim samples needs make")

ROWS = (
    Row("true / subprocess.run", 2.0, 300, "", true_against(TRUE)),
    Row("true / sandlock 0.9 of PyPI", 0.3, 200, "", make_sandlock09),
    Row("true / bubblewrap", None, 100, "bwrap",
        true_against(["bwrap", "--ro-bind", "/", "/"] + TRUE)),
    Row("true / firejail", None, 15, "firejail",
        true_against(["firejail", "--quiet", "--noprofile"] + TRUE)),
    Row("true, host of 500 MB, 2M objects / small host", 1.2, 200, "", make_big_host),
    Row("getppid loop / one-rule seccomp filter", 1.05, 41, "gcc", make_getppid),
    Row("openat + close loop / outside", 1.05, 41, "gcc", open_against("")),
    Row("openat + close loop / one Landlock rule alone", 1.05, 41, "gcc", open_against("landlock")),
    Row("gcc -O1 -c / outside", 1.05, 9, "gcc",
        program(generate_c, "gcc", "-O1", "-c", "in.c", "-o", "out.o")),
    Row("git clone / outside", 1.05, 15, "git",
        program(generate_repository, "git", "clone", "-q", "in", "out")),
    Row("tar / outside", 1.05, 25, "tar", program(generate_tree, "tar", "-cf", "out.tar", "in")),
    Row("import storm, 40 modules / outside", 1.05, 21, "",
        program(generate_nothing, sys.executable, "-c", "import " + ", ".join(MODULES))),
    Row("redis-benchmark get / server outside", 1.05, 15, "redis-server redis-benchmark",
        make_redis),
    Row("openat event / sandlock 0.9", 0.35, 9, "gcc", event("openat", "09")),
    Row("openat event / C", 1.5, 9, "gcc", event("openat", "C")),
    Row("openat event, one core / sandlock 0.9", 0.35, 9, "gcc taskset", event("openat", "09", True)),
    Row("openat event, one core / C", 1.5, 9, "gcc taskset", event("openat", "C", True)),
    Row("connect event / sandlock 0.9", 0.35, 9, "gcc", event("connect", "09")),
    Row("connect event / C", 1.5, 9, "gcc", event("connect", "C")),
    Row("connect event, one core / sandlock 0.9", 0.35, 9, "gcc taskset", event("connect", "09", True)),
    Row("connect event, one core / C", 1.5, 9, "gcc taskset", event("connect", "C", True)),
    Row("execve event / sandlock 0.9", 0.35, 9, "gcc", event("execve", "09")),
    Row("execve event, one core / sandlock 0.9", 0.35, 9, "gcc taskset", event("execve", "09", True)),
    Row("stat event / sandlock 0.9", None, 9, "gcc", event("stat", "09")),
    Row("stat event, one core / sandlock 0.9", None, 9, "gcc taskset", event("stat", "09", True)),
    Row("stat event / bare", None, 9, "gcc", event("stat", "bare")),
    Row("execve event / bare", None, 9, "gcc", event("execve", "bare")),
    Row("python3 -c pass, watched / bare", 2.5, 9, "python3",
        watched(generate_nothing, "bare", "/usr/bin/python3", "-c", "pass")),
    Row("python3 -c pass, watched / sandlock 0.9", 0.5, 9, "python3",
        watched(generate_nothing, "09", "/usr/bin/python3", "-c", "pass")),
    Row("git status of 5,000 files, watched / bare", 2.5, 5, "git",
        watched(generate_large_repository, "bare", "git", "status", "-s")),
    Row("git status of 5,000 files, watched / sandlock 0.9", 0.5, 5, "git",
        watched(generate_large_repository, "09", "git", "status", "-s")),
    Row("openat event, host spins / host does not", 5, 5, "gcc", event("openat", "self", spins=True)),
    Row("import sandlock / its main imports", 1.6, 41, "", make_import),
)

HEAD = ("measure", "ours", "reference", "ratio", "aim", "ok?")
WIDTHS = (max(len(row.measure) for row in ROWS), 10, 10, 6, 7, 3)


def print_line(cells):
    shown = [cells[0].ljust(WIDTHS[0])] + [c.rjust(w) for c, w in zip(cells[1:], WIDTHS[1:])]
    print(" | ".join(shown), flush=True)


def duration(seconds):
    for unit, size in (("s ", 1), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return "%.2f %s" % (seconds / size, unit)
    return "%.1f ns" % (seconds * 1e9)


def measure(row, quick):
    """Medians of both sides, in seconds."""
    missing = [name for name in row.needs.split() if not shutil.which(name)]
    if missing:
        raise NotInstalled(" ".join(missing))
    pairs = []
    with tempfile.TemporaryDirectory(prefix="sandlock-bench-") as folder:
        with contextlib.ExitStack() as cleanup:
            ours, reference = row.make(folder, cleanup)
            for _ in range(1 + max(3, row.samples // QUICK if quick else row.samples)):
                pairs.append((ours(), reference()))
    return [statistics.median(side) for side in zip(*pairs[1:])]  # the first pair warmed up


def print_row(row, quick):
    """Measures and prints a row; False if it failed."""
    try:
        ours, reference = measure(row, quick)
    except NotInstalled as e:
        print_line((row.measure, "not installed: %s" % e))
        return True
    except Exception as e:  # whatever is wrong with a row, the others are measured
        print_line((row.measure, "FAILED"))
        print("%s: %s: %s" % (row.measure, type(e).__name__, e), file=sys.stderr, flush=True)
        return False
    ratio = ours / reference
    verdict = ("-", "-") if row.aim is None else (
        "<= %g" % row.aim, "yes" if ratio <= row.aim else "NO")
    print_line((row.measure, duration(ours), duration(reference), "%.3f" % ratio) + verdict)
    return True


def main():
    parser = argparse.ArgumentParser(description="What sandlock.py costs.")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("rows", nargs="*", metavar="SUBSTRING", help="rows to measure; all")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # temporary files go then, too
    rows = [r for r in ROWS if not options.rows or any(s in r.measure for s in options.rows)]
    if not rows:
        parser.error("no row contains " + " ".join(options.rows))
    print_line(HEAD)
    print("-+-".join("-" * width for width in WIDTHS))
    return 0 if all([print_row(row, options.quick) for row in rows]) else 1


if __name__ == "__main__":
    sys.exit(main())
