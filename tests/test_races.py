"""What was judged is what happens: whoever shares memory with a task changes path, address, argv
and descriptors while they are judged, 100,000 times. Each payload wins against a supervisor that
lets the kernel read again."""
import os
import socket
import sys
import threading

import pytest

import sandlock
from sandlock import Sandbox, SYSTEM_PATHS
from support import clean, compiled, eventually, free_port, requires_abi, requires_root, snapshot

pytestmark = requires_abi(6)

# flip PEER CALL COUNT [PORT PORT]: makes a call COUNT times on "a/f" (or 127.0.0.1:PORT), which a
# thread, a process with the same memory or one with a shared page changes to "b/f" all the time.
# Prints how many went through, and how many of these reached what only "b" has.
FLIP = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
struct page { volatile char path[64]; struct sockaddr_in to; volatile int stop; char word[64]; struct iovec iov; char *argv[3]; } *p;
static int ports[2]; static const char *call; static int da, db;
static void spin(int n) { for (volatile int i = 0; i < n; i++); }
static int flip(void *x) {
    int n = 300;
    while (!p->stop) {
        for (int i = 0; i < 2; i++) {
            p->path[0] = "ba"[i]; p->to.sin_port = htons(ports[!i]); p->word[0] = "ba"[i];
            if (!strcmp(call, "dirfd")) dup2(i ? da : db, 50);
            spin(n); n = n * 5 % 4001 + 100;
        }
    }
    return 0;
}
static void *thread(void *x) { flip(x); return 0; }
int main(int argc, char **a) {
    char *peer = a[1]; int count = atoi(a[3]), through = 0, hits = 0; pid_t pid = 0; pthread_t t; struct stat s; char b[64];
    call = a[2];
    if (argc > 5) { ports[0] = atoi(a[4]); ports[1] = atoi(a[5]); }
    p = mmap(0, sizeof *p, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    strcpy((char *)p->path, "a/f"); strcpy(p->word, "a-word"); p->to.sin_family = AF_INET; p->to.sin_port = htons(ports[0]); p->to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    da = open("a", O_RDONLY | O_DIRECTORY); db = open("b", O_RDONLY | O_DIRECTORY); if (da >= 0) dup2(da, 50);
    if (*peer == 't') pthread_create(&t, 0, thread, 0);
    else if (*peer == 'v') pid = clone(flip, malloc(1 << 16) + (1 << 16) - 64, CLONE_VM | CLONE_FILES | SIGCHLD, 0);
    else if (!(pid = fork())) { alarm(60); _exit(flip(0)); }
    char *path = (char *)p->path;
    for (int i = 0; i < count; i++) {
        int r = -1;
        if (!strcmp(call, "open") || !strcmp(call, "dirfd")) {
            r = *call == 'd' ? openat(50, "f", O_RDONLY) : open(path, O_RDONLY);
            if (r >= 0) { memset(b, 0, sizeof b); read(r, b, 63); hits += !strncmp(b, "secret", 6); close(r); }
        } else if (!strcmp(call, "stat")) { r = stat(path, &s); hits += !r && s.st_size > 100; }
        else if (!strcmp(call, "access")) { r = access(path, X_OK); hits += !r; if (r && errno == EACCES) r = 0; }
        else if (!strcmp(call, "getxattr")) { r = getxattr(path, "user.key", b, 64); hits += r > 5; }
        else if (!strcmp(call, "readlink")) { r = readlink(path, b, 64); hits += r > 5; }
        else if (!strcmp(call, "chmod")) r = chmod(path, 0640);
        else if (!strcmp(call, "truncate")) r = truncate(path, 3);
        else if (!strcmp(call, "unlink")) { r = unlink(path); close(open("a/f", O_CREAT | O_WRONLY, 0600)); }
        else if (!strcmp(call, "mkdir")) { path[2] = 'd'; r = mkdir(path, 0700); rmdir("a/d"); }
        else if (!strcmp(call, "rename")) { r = rename(path, "t"); if (!r) { stat("t", &s); hits += s.st_size > 100; rename("t", "a/f"); } }
        else if (!strcmp(call, "link")) { r = link(path, "t"); if (!r) { stat("t", &s); hits += s.st_size > 100; unlink("t"); } }
        else if (!strcmp(call, "symlink")) { path[2] = 'd'; r = symlink("x", path); unlink("a/d"); }
        else if (!strcmp(call, "utimensat")) { struct timespec ts[2] = {{5, 0}, {5, 0}}; r = utimensat(AT_FDCWD, path, ts, 0); }
        else if (!strcmp(call, "connect")) {
            int fd = socket(AF_INET, SOCK_STREAM, 0); struct linger l = {1, 0}; setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
            r = connect(fd, (void *)&p->to, sizeof p->to); struct sockaddr_in peer; socklen_t size = sizeof peer;
            if (!r && !getpeername(fd, (void *)&peer, &size)) hits += ntohs(peer.sin_port) == ports[1];
            close(fd);
        } else if (!strcmp(call, "sendto") || !strcmp(call, "sendmsg")) {
            static int fd = -1; if (fd < 0) fd = socket(AF_INET, SOCK_DGRAM, 0);
            struct iovec v = {"x", 1}; struct msghdr m = {&p->to, sizeof p->to, &v, 1};
            r = call[4] == 't' ? sendto(fd, "x", 1, 0, (void *)&p->to, sizeof p->to) : sendmsg(fd, &m, 0);
        } else if (!strcmp(call, "exec") || !strcmp(call, "argv")) {
            pid_t child = fork();
            if (!child) { char *v[] = {"x", *call == 'a' ? p->word : "w", 0}; execv(*call == 'a' ? "a/f" : path, v); _exit(9); }
            int st; waitpid(child, &st, 0); r = WIFEXITED(st) && WEXITSTATUS(st) != 9 ? 0 : -1; hits += WIFEXITED(st) && WEXITSTATUS(st) == 7;
        }
        through += r >= 0;
    }
    p->stop = 1;
    if (pid) { spin(1000); waitpid(pid, 0, 0); }
    printf("%d %d\n", through, hits); return 0;
}"""
# What the two programs are: exit status 7 tells that the one in b ran, or that argv was "b-word".
PROGRAM = r"""
int main(int n, char **a) { return %s; }"""

READS = ("open", "stat", "access", "getxattr", "readlink")
CHANGES = ("chmod", "truncate", "unlink", "mkdir", "rename", "link", "symlink", "utimensat")
PEERS = ("thread", "vm", "shared")


def lay_out(folder, call):
    """a is public; b holds what nobody may reach. Returns what must not change."""
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    a, b = folder / "a" / "f", folder / "b" / "f"
    if call == "readlink":
        os.symlink("x", a), os.symlink("the-secret-target", b)
    elif call in ("exec", "argv"):
        import shutil
        shutil.copy(compiled(PROGRAM % "n > 1 && a[1][0] == 'b' ? 7 : 0", "-static"), a)
        shutil.copy(compiled(PROGRAM % "7", "-static"), b)
    else:
        a.write_text("pub"), b.write_text("secret" * 50)
        os.chmod(b, 0o711 if call == "access" else 0o600), os.chmod(a, 0o600)
        os.utime(b, (1, 1))
        for f, value in ((a, b"pub"), (b, b"secret-value")):
            try:
                os.setxattr(f, "user.key", value)
            except OSError:
                if call == "getxattr":
                    pytest.skip("no extended attributes here")
    return lambda: [(f.name, f.lstat().st_mode, f.lstat().st_size, f.lstat().st_mtime, f.lstat().st_nlink) for f in sorted((folder / "b").iterdir())]


def naive(monkeypatch):
    """A supervisor as they are often written: it judges, and lets the kernel read again."""
    perform = sandlock._Supervisor._perform

    def go_on(self, call, act):
        if call.family in ("clone", None) or "go_on" in getattr(call.act, "__name__", "") and call.family != "renameat":
            return perform(self, call, act)
        call.close()
        return sandlock._CONTINUE
    monkeypatch.setattr(sandlock._Supervisor, "_perform", go_on)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("call", READS + CHANGES + ("dirfd", "exec", "argv"))
def test_paths_that_flip(tmp_path, call, peer, monkeypatch):
    payload = compiled(FLIP, "-pthread")
    count = {"exec": 250, "argv": 250}.get(call, 2000)
    state = lay_out(tmp_path, call)
    before, was = snapshot(), state()

    def judge(event, ctx):
        if event.argv and any(word.startswith("b-") for word in event.argv):
            return True
        return event.path is not None and event.path.startswith(str(tmp_path / "b") + "/")
    fields = dict(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), fs_writable=[tmp_path], cwd=tmp_path, policy_fn=judge)
    result = Sandbox(**fields).run([payload, peer, call, str(count)], timeout=100)
    through, hits = map(int, result.stdout.split())
    assert hits == 0 and through > 0 and not result.error, result
    assert state() == was
    assert eventually(lambda: clean(before))
    if peer == "thread" and call != "dirfd":
        naive(monkeypatch)
        for _ in range(5):
            through, hits = map(int, Sandbox(**fields).run([payload, peer, call, str(5 * count)], timeout=100).stdout.split() or (0, 0))
            if hits or state() != was:
                return
        pytest.fail("the payload does not win even where nothing holds it")


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("call", ["connect", "sendto", "sendmsg"])
def test_addresses_that_flip(call, peer, monkeypatch):
    payload = compiled(FLIP, "-pthread")
    kind = socket.SOCK_STREAM if call == "connect" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as good, socket.socket(socket.AF_INET, kind) as bad:
        for s in (good, bad):
            s.bind(("127.0.0.1", 0))
            if call == "connect":
                s.listen(128)
        ports = [s.getsockname()[1] for s in (good, bad)]
        stop = threading.Event()

        def drain():
            while not stop.is_set():
                good.settimeout(0.1)
                try:
                    good.accept()[0].close() if call == "connect" else good.recv(10)
                except OSError:
                    continue
        thread = threading.Thread(target=drain)
        thread.start()
        try:
            fields = dict(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), net_allow=["127.0.0.1"], policy_fn=lambda e, c: e.port == ports[1], policy_events=["network"])
            command = [payload, peer, call, "2000"] + [str(p) for p in ports]
            through, hits = map(int, Sandbox(**fields).run(command, timeout=100).stdout.split())
            bad.settimeout(0.05)
            with pytest.raises(OSError):
                bad.accept() if call == "connect" else bad.recv(10)
            assert through > 0 and hits == 0
            if peer == "thread":
                naive(monkeypatch)
                command[3] = "100"  # of which fewer than a backlog stay unaccepted
                for _ in range(20):
                    through, hits = map(int, Sandbox(**fields).run(command, timeout=100).stdout.split())
                    try:
                        bad.accept() if call == "connect" else bad.recv(10)
                        return
                    except OSError:
                        continue
                pytest.fail("the payload does not win even where nothing holds it")
        finally:
            stop.set()
            thread.join()
