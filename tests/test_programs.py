"""Real programs do their real work inside: --system-like reads and one writable directory."""
import os
import shutil
import socket
import subprocess
import time

import pytest

from sandlock import Sandbox, StdioMode, SYSTEM_PATHS
from support import THIN, box, compiled, eventually, free_port, requires_abi, requires_program, rounds

pytestmark = requires_abi(1)


@pytest.fixture(autouse=True, params=["alone", "watched"])
def watcher(request, monkeypatch):
    """Each test twice: alone, and under a callback that sees every event and allows everything."""
    seen, plain = [], Sandbox.__init__

    def init(self, policy=None, **fields):
        plain(self, policy, policy_fn=lambda event, ctx: seen.append(event),
              policy_events=["file", "network", "process", "memory"], **fields)
    if request.param == "watched":
        monkeypatch.setattr(Sandbox, "__init__", init)
    yield
    if request.param == "alone":
        assert not seen


def ok(result):
    assert result.success and not result.policy_errors and not result.error, (result, result.stdout[-2000:], result.stderr[-2000:])
    return result.stdout


def shell(tmp_path, script, **fields):
    fields.setdefault("env", {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)})
    return ok(box(tmp_path, cwd=str(tmp_path), **fields).run(["sh", "-ec", script], timeout=120))


def test_100_pipelines(tmp_path):
    count = rounds(100)
    script = "for i in $(seq %d); do echo $i | sed s/^/x/ | tr x y; done | wc -l" % count
    assert int(shell(tmp_path, script)) == count


@requires_program("gcc")
def test_gcc_compiles_links_and_the_program_runs(tmp_path):
    (tmp_path / "a.c").write_text('#include <stdio.h>\n#include <math.h>\n'
                                  'int main(int n, char **v) { printf("%.0f\\n", sqrt(n * 144.0)); }')
    assert shell(tmp_path, "gcc -O2 -o a a.c -lm && ./a") == b"12\n"


@requires_program("git")
def test_git_init_commit_clone(tmp_path):
    script = """
    git init -q -b main one; cd one; git config user.email a@b; git config user.name n
    for i in $(seq 50); do echo $i > f$i; done; git add .; git commit -qm first; cd ..
    git clone -q one two; git clone -q file://$PWD/one three; cd two; git log --format=%s; git status -s; ls | wc -l
    """
    assert shell(tmp_path, script).split() == [b"first", b"50"]


@requires_program("tar", "gzip")
def test_tar_and_gzip(tmp_path):
    script = """mkdir d; for i in $(seq 200); do head -c 1000 /dev/urandom > d/$i; done
    tar czf d.tgz d; mv d e; tar xzf d.tgz; diff -r d e && echo same"""
    assert shell(tmp_path, script) == b"same\n"


@requires_program("node")
def test_node_with_a_worker(tmp_path):
    code = ("const {Worker,isMainThread,parentPort}=require('worker_threads');"
            "const w=new Worker(\"require('worker_threads').parentPort.postMessage(6*7)\",{eval:true});"
            "w.on('message',m=>console.log(m))")
    assert ok(box(tmp_path).run(["node", "-e", code], timeout=60)) == b"42\n"


def test_python_multiprocessing_pool(tmp_path):
    code = """
import multiprocessing
def double(n): return 2 * n
if __name__ == "__main__":
    with multiprocessing.Pool(4) as pool: print(sum(pool.map(double, range(1000))))
"""
    (tmp_path / "pool.py").write_text(code)
    result = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path, "/dev/shm"], env={"TMPDIR": str(tmp_path)}).run(
        ["python3", str(tmp_path / "pool.py")], timeout=300 if THIN >= 100 else 60)
    assert result.stdout == b"999000\n", result  # its semaphores are files of /dev/shm, from 3.14 on it has a socket too


def test_sqlite(tmp_path):
    code = ("import sqlite3\nc = sqlite3.connect('db')\nc.execute('create table t (n)')\n"
            "c.executemany('insert into t values (?)', ((i,) for i in range(1000)))\nc.commit()\n"
            "print(c.execute('select sum(n) from t').fetchone()[0])")
    assert ok(box(tmp_path, cwd=str(tmp_path)).run(["python3", "-c", code])) == b"499500\n"


@requires_program("make", "gcc")
def test_make(tmp_path):
    (tmp_path / "Makefile").write_text("all: a b c\n\t@cat a b c\n%:\n\t@echo $@ > $@\n")
    assert shell(tmp_path, "make -s -j4") == b"a\nb\nc\n"


THREADS = """
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long total;
static void *work(void *n) {
    for (int i = 0; i < 1000; i++) {
        void *p = malloc(1000 + i); free(p);
        pthread_mutex_lock(&lock); total++; pthread_mutex_unlock(&lock);
    }
    return 0;
}
int main(void) {
    pthread_t t[300];
    for (int i = 0; i < 300; i++) if (pthread_create(&t[i], 0, work, 0)) return 1;
    for (int i = 0; i < 300; i++) pthread_join(t[i], 0);
    printf("%ld\\n", total);
}"""


def test_many_threads():
    payload = compiled(THREADS, "-pthread")
    assert ok(box(os.path.dirname(payload), max_processes=1).run([payload])) == b"300000\n"


@requires_program("redis-server", "redis-benchmark", "redis-cli")
def test_redis_serves_the_outside_through_a_port_that_may_be_bound(tmp_path):
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", ""]
    with box(tmp_path, net_allow_bind=[port], cwd=str(tmp_path)).popen(command, stdout=StdioMode.NULL):
        assert eventually(lambda: not socket.socket().connect_ex(("127.0.0.1", port)))
        out = subprocess.run(["redis-benchmark", "-p", str(port), "-q", "-n", "2000", "-t", "set,get"],
                             stdout=subprocess.PIPE, universal_newlines=True, check=True, timeout=60).stdout
        assert "GET:" in out and "SET:" in out
        assert subprocess.run(["redis-cli", "-p", str(port), "ping"], stdout=subprocess.PIPE).stdout == b"PONG\n"
    assert socket.socket().connect_ex(("127.0.0.1", port))
    refused = box(tmp_path, cwd=str(tmp_path)).run(command, timeout=20)
    assert not refused.success and b"ermission denied" in refused.stdout


@pytest.mark.parametrize("program,arguments", [
    ("perl", ["-e", "print 6*7"]), ("awk", ["BEGIN{print 6*7}"]), ("bash", ["-c", "echo $((6*7))"]),
    ("dash", ["-c", "echo $((6*7))"]), ("busybox", ["expr", "6", "*", "7"]),
    ("tclsh", ["/dev/stdin"]), ("java", ["-version"])])
def test_other_interpreters(program, arguments, tmp_path):
    if not shutil.which(program):
        pytest.skip("not installed: " + program)
    result = box(tmp_path).run([program] + arguments, input=b"puts [expr 6*7]", timeout=60)
    assert result.success and (b"42" in result.stdout or b"version" in result.stderr), result
