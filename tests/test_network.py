"""net_allow, net_deny: real clients and servers on loopback, each with a control that is refused."""
import contextlib
import errno
import http.server
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

import sandlock
from sandlock import LaunchError, PolicyError, Sandbox, SYSTEM_PATHS
from support import answering, box, clean, compiled, eventually, free_port, requires_abi, requires_program, snapshot, rounds

pytestmark = requires_abi(1)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"hello " * 20000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        return


@contextlib.contextmanager
def http_server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def allowing(port, *more, **fields):
    return box(net_allow=["127.0.0.1:%d" % port, *more], **fields)


def need(program):
    if not shutil.which(program):
        pytest.skip("not installed: " + program)
    return program


HTTP_CLIENT = ("import http.client, sys\nc = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=5)\n"
               "c.request('GET', '/'); print(len(c.getresponse().read()))")
ASYNCIO_CLIENT = """if True:
    import asyncio, sys
    async def get():
        r, w = await asyncio.open_connection('127.0.0.1', int(sys.argv[1]))
        w.write(b'GET / HTTP/1.0\\r\\n\\r\\n'); data = await r.read(); w.close(); return len(data.split(b'\\r\\n\\r\\n', 1)[1])
    async def main(): print(set(await asyncio.gather(*(get() for _ in range(20)))).pop())
    asyncio.run(main())"""
NODE_CLIENT = ("const http = require('http'); const get = globalThis.fetch && process.argv.length > 2 ? "
               "fetch(`http://127.0.0.1:${process.argv[1]}/`).then(r => r.text()) : new Promise((ok, no) => "
               "http.get({host: '127.0.0.1', port: process.argv[1]}, r => { let s = ''; r.on('data', d => s += d); "
               "r.on('end', () => ok(s)); }).on('error', no)); "
               "get.then(t => console.log(t.length), e => { console.log((e.cause || e).code); process.exitCode = 1; });")


@pytest.mark.parametrize("command", [
    ["curl", "-sS", "-o", "/dev/stdout", "http://127.0.0.1:%d/"],
    [sys.executable, "-c", HTTP_CLIENT, "%d"],
    [sys.executable, "-c", ASYNCIO_CLIENT, "%d"],
    ["node", "-e", NODE_CLIENT, "%d"], ["node", "-e", NODE_CLIENT, "%d", "fetch"]],
    ids=["curl", "http.client", "asyncio", "node-http", "node-fetch"])
def test_http_clients(command):
    need(command[0])
    with http_server() as port:
        words = [w.replace("%d", str(port)) for w in command]
        result = allowing(port).run(words, timeout=60)
        assert result.success, result
        assert len(result.stdout) == 120000 or int(result.stdout) == 120000
        refused = allowing(port + 1).run(words, timeout=60)
        assert not refused.success and refused.stdout in (b"", b"ECONNREFUSED\n"), refused
        denial = refused.denials[0]
        assert (denial.event.host, denial.event.port, denial.field) == ("127.0.0.1", port, "net_allow")


def test_redis_clients(tmp_path):
    need("redis-server"), need("redis-cli")
    port = free_port()
    server = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                               "--dir", str(tmp_path)], stdout=subprocess.DEVNULL)
    try:
        assert eventually(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        result = allowing(port).run(["redis-cli", "-p", str(port), "set", "a", "1"])
        assert result.stdout == b"OK\n"
        bench = allowing(port).run(["redis-benchmark", "-p", str(port), "-n", "2000", "-c", "20", "-q", "-t", "get"])
        assert bench.success and b"requests per second" in bench.stdout
        assert b"refused" in allowing(port + 1).run(["redis-cli", "-p", str(port), "get", "a"]).stderr + \
            allowing(port + 1).run(["redis-cli", "-p", str(port), "get", "a"]).stdout
    finally:
        server.kill()
        server.wait()


@requires_program("git")
def test_git_clone_over_the_network(tmp_path):
    source, port = tmp_path / "source", free_port()
    subprocess.run(["git", "init", "-q", str(source)], check=True)
    (source / "file").write_text("content\n" * 1000)
    git = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(git + ["add", "file"], check=True)
    subprocess.run(git + ["commit", "-qm", "one"], check=True)
    daemon = subprocess.Popen(["git", "daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1",
                               "--port=%d" % port, "--base-path=" + str(tmp_path)],
                              stderr=subprocess.DEVNULL, start_new_session=True)
    work = tmp_path / "work"
    work.mkdir()
    try:
        assert eventually(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        clone = ["git", "clone", "-q", "git://127.0.0.1:%d/source" % port, str(work / "clone")]
        fields = dict(fs_readable=SYSTEM_PATHS, fs_writable=[work], env={"HOME": str(work)})
        refused = Sandbox(net_allow=["127.0.0.1:%d" % (port + 1)], **fields).run(clone, timeout=60)
        assert not refused.success and b"refused" in refused.stderr
        result = Sandbox(net_allow=["127.0.0.1:%d" % port], **fields).run(clone, timeout=60)
        assert result.success and (work / "clone" / "file").read_text() == "content\n" * 1000, result
    finally:
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()


@contextlib.contextmanager
def dns_server(answers):
    """Answers A queries with 10.1.2.3; -> (port, list of the questions)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))

        def serve():
            while True:
                data, peer = s.recvfrom(2000)
                if data == b"stop":
                    return
                answers.append(data)
                s.sendto(data[:2] + b"\x81\x80" + data[4:6] + b"\0\1\0\0\0\0" + data[12:]
                         + b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\n\1\2\3", peer)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield s.getsockname()[1]
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as c:
                c.sendto(b"stop", s.getsockname())
            thread.join()


DNS = """if True:
    import socket, struct, sys
    query = struct.pack('>6H', 7, 0x100, 1, 0, 0, 0) + b'\\x07example\\x03org\\0' + struct.pack('>2H', 1, 1)
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
    to = ('127.0.0.1', int(sys.argv[1])); how = sys.argv[2]
    try:
        if how == 'sendto': s.sendto(query, to)
        elif how == 'sendmsg': s.sendmsg([query[:5], query[5:]], [], 0, to)
        elif how == 'connect': s.connect(to); s.send(query)
        elif how == 'connected-sendmsg': s.connect(to); s.sendmsg([query])
        print(socket.inet_ntoa(s.recv(2000)[-4:]))
    except ConnectionRefusedError: print('refused')"""


@pytest.mark.parametrize("how", ["sendto", "sendmsg", "connect", "connected-sendmsg"])
def test_dns_over_udp(how):
    asked = []
    with dns_server(asked) as port:
        command = [sys.executable, "-c", DNS, str(port), how]
        assert box(net_allow=["udp://127.0.0.1:%d" % port]).run(command, timeout=20).stdout == b"10.1.2.3\n"
        assert len(asked) == 1
        for rule in ("udp://127.0.0.1:%d" % (port ^ 1), "udp://127.0.0.2:%d" % port):
            assert box(net_allow=[rule]).run(command, timeout=20).stdout == b"refused\n"
        tcp_only = box(net_allow=["tcp://127.0.0.1:%d" % port]).run(command, timeout=20)
        assert b"PermissionError" in tcp_only.stderr  # no datagram socket exists
        assert len(asked) == 1


SENDMMSG = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
int main(int n, char **a) {
    struct mmsghdr m[3] = {0}; struct iovec v[3]; struct sockaddr_in to[3]; int s = socket(AF_INET, SOCK_DGRAM, 0);
    for (int i = 0; i < 3; i++) {
        to[i] = (struct sockaddr_in){AF_INET, htons(atoi(a[i + 1])), {htonl(0x7f000001)}};
        v[i] = (struct iovec){"abc", i + 1}; m[i].msg_hdr.msg_iov = &v[i]; m[i].msg_hdr.msg_iovlen = 1;
        m[i].msg_hdr.msg_name = &to[i]; m[i].msg_hdr.msg_namelen = sizeof to[i];
    }
    int sent = sendmmsg(s, m, 3, 0);
    printf("%d %d %u %u %u\n", sent, sent < 0 ? errno : 0, m[0].msg_len, m[1].msg_len, m[2].msg_len); return 0;
}"""


def test_sendmmsg_judges_each_message():
    payload = compiled(SENDMMSG)
    with contextlib.ExitStack() as stack:
        ours, other = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        for s in (ours, other):
            s.bind(("127.0.0.1", 0))
            s.settimeout(0.2)
        good, bad = str(ours.getsockname()[1]), str(other.getsockname()[1])
        sandbox = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), net_allow=["udp://127.0.0.1:" + good])
        assert sandbox.run([payload, good, good, good]).stdout == b"3 0 1 2 3\n"
        assert [ours.recv(10) for _ in range(3)] == [b"a", b"ab", b"abc"]
        assert sandbox.run([payload, good, bad, good]).stdout == b"1 0 1 0 0\n"
        assert sandbox.run([payload, bad, good, good]).stdout == b"-1 %d 0 0 0\n" % errno.ECONNREFUSED
        assert ours.recv(10) == b"a"
        with pytest.raises(socket.timeout):
            other.recv(10)


CONNECTS = """if True:
    import errno, socket, sys
    for host, port in (word.rsplit(',', 1) for word in sys.argv[1:]):
        family = socket.AF_INET6 if ':' in host else socket.AF_INET
        with socket.socket(family) as s: print(errno.errorcode.get(s.connect_ex((host, int(port))), 'ok'))"""


def outcome(sandbox, *endpoints):
    result = sandbox.run([sys.executable, "-c", CONNECTS] + ["%s,%d" % e for e in endpoints], timeout=30)
    assert result.success, result
    return result.stdout.decode().split()


@contextlib.contextmanager
def listening(address="127.0.0.1", family=socket.AF_INET):
    with socket.socket(family) as server:
        server.bind((address, 0))
        server.listen(128)
        yield server.getsockname()[1]


def test_what_endpoints_mean():
    with listening() as port, listening("127.0.0.5") as other:
        here, there = ("127.0.0.1", port), ("127.0.0.5", other)
        R = "ECONNREFUSED"
        for rules, expected in [
                ([], [R, R]), (["127.0.0.1"], ["ok", R]), (["127.0.0.0/8"], ["ok", "ok"]), (["*"], ["ok", "ok"]),
                ([":%d" % other], [R, "ok"]), (["*:%d" % port], ["ok", R]), (["127.0.0.0/30"], ["ok", R]),
                (["tcp://127.0.0.5:1-65535"], [R, "ok"]), (["udp://127.0.0.1"], [R, R]),
                (["127.0.0.1:%d,%d" % (other, port), "127.0.0.5:%d" % port], ["ok", R]), (["unix://"], [R, R])]:
            assert outcome(box(net_allow=rules), here, there) == expected, rules
        for rules, expected in [
                (["127.0.0.1"], [R, "ok"]), (["127.0.0.0/8"], [R, R]), ([":%d" % other], ["ok", R]),
                (["10.0.0.0/8"], ["ok", "ok"]), (["udp://127.0.0.1"], ["ok", "ok"]), (["*"], [R, R])]:
            assert outcome(box(net_deny=rules), here, there) == expected, rules


def test_mapped_and_unspecified_addresses_are_what_the_kernel_takes_them_for():
    with listening() as port:
        forms = [("::ffff:127.0.0.1", port), ("0.0.0.0", port), ("::ffff:0.0.0.0", port)]
        assert outcome(box(net_allow=["127.0.0.1:%d" % port]), *forms) == ["ok"] * 3
        assert outcome(box(net_allow=["127.0.0.2:%d" % port]), *forms) == ["ECONNREFUSED"] * 3
        assert outcome(box(net_deny=["127.0.0.1"]), *forms) == ["ECONNREFUSED"] * 3
        assert outcome(box(net_deny=["0.0.0.0"]), *forms) == ["ECONNREFUSED"] * 3
        assert outcome(box(net_deny=["[::ffff:127.0.0.1]"]), *forms) == ["ECONNREFUSED"] * 3


def test_ipv6():
    if not socket.has_ipv6 or socket.socket(socket.AF_INET6).connect_ex(("::1", 1)) == errno.EADDRNOTAVAIL:
        pytest.skip("no IPv6 on loopback here")
    with listening("::1", socket.AF_INET6) as port:
        forms = [("::1", port), ("::", port)]
        assert outcome(box(net_allow=["[::1]:%d" % port]), *forms) == ["ok"] * 2
        assert outcome(box(net_allow=["[::/64]:%d" % port]), *forms) == ["ok"] * 2
        assert outcome(box(net_allow=["[::2]:%d" % port]), *forms) == ["ECONNREFUSED"] * 2
        assert outcome(box(net_deny=["[::1]"]), *forms) == ["ECONNREFUSED"] * 2


@requires_abi(4)
def test_landlock_stands_under_the_supervisor(monkeypatch):
    """A supervisor that would allow everything still cannot reach another port."""
    with listening() as port, listening() as other:
        monkeypatch.setattr(sandlock._Network, "permits", lambda *args: True)
        monkeypatch.setattr(sandlock.PolicyContext, "refusal", lambda *args: None)
        assert outcome(box(net_allow=["tcp://127.0.0.1:%d" % port]), ("127.0.0.1", port), ("127.0.0.1", other)) == [
            "ok", "EACCES"]


# -- host names ----------------------------------------------------------------------------------

def test_a_name_is_pinned_by_an_etc_hosts_of_its_own(monkeypatch):
    real = socket.getaddrinfo
    def resolve(name, *args, **kwargs):
        return real({"pinned.example": "127.0.0.1"}.get(name, name), *args, **kwargs)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with http_server() as port:
        sandbox = box(net_allow=["pinned.example:%d" % port])
        code = "import urllib.request; print(len(urllib.request.urlopen('http://pinned.example:%d/').read()))" % port
        assert sandbox.run([sys.executable, "-c", code], timeout=30).stdout == b"120000\n"
        hosts = sandbox.run(["cat", "/etc/hosts"]).stdout
        assert hosts.startswith(b"127.0.0.1 pinned.example\n")
        assert hosts.endswith(open("/etc/hosts", "rb").read())
        assert outcome(sandbox, ("127.0.0.2", port)) == ["ECONNREFUSED"]
        linked = sandbox.run(["sh", "-c", "cat /etc/../etc/hosts; cd /etc; cat hosts; cat < ./hosts"]).stdout
        assert linked == hosts * 3
        assert b"pinned" not in box(net_allow=["127.0.0.1"]).run(["cat", "/etc/hosts"]).stdout


def test_a_name_that_does_not_resolve_starts_nothing(tmp_path):
    before = snapshot()
    with pytest.raises(LaunchError, match="nowhere.invalid"):
        Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], net_allow=["nowhere.invalid:80"]).run(
            ["touch", str(tmp_path / "ran")])
    assert not (tmp_path / "ran").exists() and clean(before)


# -- how connect(2) behaves ------------------------------------------------------------------------

BEHAVIOUR = r"""
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
static volatile int hits; static void handler(int x) { hits++; }
static struct sockaddr_in to(int port) { return (struct sockaddr_in){AF_INET, htons(port), {htonl(0x7f000001)}}; }
static void say(const char *what, int r) { printf("%s %s\n", what, r < 0 ? strerror(errno) : "ok"); }
int main(int n, char **a) {
    int open_port = atoi(a[1]), closed = atoi(a[2]), full = atoi(a[3]), s, e; socklen_t l = sizeof e;
    struct sockaddr_in in = to(open_port), no = to(closed), busy = to(full);
    s = socket(AF_INET, SOCK_STREAM, 0);
    say("blocking", connect(s, (void *)&in, sizeof in)); say("again", connect(s, (void *)&in, sizeof in));
    s = socket(AF_INET, SOCK_STREAM, 0); say("closed", connect(s, (void *)&no, sizeof no));
    s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0); int r = connect(s, (void *)&in, sizeof in);
    printf("nonblocking %s\n", r == 0 || errno == EINPROGRESS ? "started" : strerror(errno));
    struct pollfd p = {s, POLLOUT}; poll(&p, 1, 5000); getsockopt(s, SOL_SOCKET, SO_ERROR, &e, &l);
    printf("so_error %s flags %d\n", strerror(e), !!(fcntl(s, F_GETFL) & O_NONBLOCK));
    s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0); r = connect(s, (void *)&no, sizeof no);
    p.fd = s; poll(&p, 1, 5000); e = errno; if (r < 0 && e == EINPROGRESS) getsockopt(s, SOL_SOCKET, SO_ERROR, &e, &l);
    printf("nonblocking closed %s\n", strerror(e));
    s = socket(AF_INET, SOCK_STREAM, 0); say("short", connect(s, (void *)&in, 3));
    say("bad descriptor", connect(999, (void *)&in, sizeof in)); say("not a socket", connect(0, (void *)&in, sizeof in));
    say("bad address", connect(s, (void *)8, sizeof in));
    struct sockaddr un = {AF_UNSPEC}; say("unspecified", connect(s, &un, sizeof un));
    struct timeval t = {0, 200000}; s = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t); say("sndtimeo", connect(s, (void *)&busy, sizeof busy));
    struct sigaction sa = {0}; sa.sa_handler = handler; sigaction(SIGALRM, &sa, 0);
    struct itimerval it = {{0, 0}, {0, 200000}}; setitimer(ITIMER_REAL, &it, 0);
    s = socket(AF_INET, SOCK_STREAM, 0); say("interrupted", connect(s, (void *)&busy, sizeof busy));
    printf("handler ran %d\n", hits); fflush(stdout);
    sa.sa_flags = SA_RESTART; sigaction(SIGALRM, &sa, 0); setitimer(ITIMER_REAL, &it, 0); signal(SIGUSR1, SIG_DFL);
    if (fork() == 0) { usleep(700000); kill(getppid(), SIGUSR1); _exit(0); }
    sa.sa_flags = 0; sigaction(SIGUSR1, &sa, 0);
    s = socket(AF_INET, SOCK_STREAM, 0); r = connect(s, (void *)&busy, sizeof busy);
    printf("restarted %s %d\n", strerror(errno), hits); return 0;
}"""


def test_connect_behaves_as_outside():
    """Blocking, not blocking, in progress, timed out, interrupted, restarted, wrong."""
    payload = compiled(BEHAVIOUR)
    with listening() as port, listening() as full_port, contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        for _ in range(3):  # fills its queue: the next connect waits
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        time.sleep(0.1)
        command = [payload, str(port), str(free_port()), str(address[1])]
        outside = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=60).stdout
        assert b"interrupted Interrupted system call\nhandler ran 1" in outside and b"sndtimeo Operation now" in outside
        sandbox = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),), net_allow=["127.0.0.1"])
        before = snapshot()
        result = sandbox.run(command, stdin=sandlock.StdioMode.NULL, timeout=60)
        assert result.stdout == outside, (result.stdout.decode(), outside.decode())
        assert eventually(lambda: clean(before))
        watched = Sandbox(policy=sandbox.policy, policy_fn=lambda event, ctx: None, policy_events=["network"]).run(
            command, stdin=sandlock.StdioMode.NULL, timeout=60)
        # A bad pointer is refused with EPERM once a callback would have to be told of it; SPEC.md 4.
        assert watched.stdout == outside.replace(b"bad address Bad address", b"bad address Operation not permitted")


DESCRIPTORS = """if True:
    import array, os, socket, sys
    a, b = socket.socketpair()
    r, w = os.pipe(); os.write(w, b'through'); count = int(sys.argv[1])
    a.sendmsg([b'x' * count], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [r]))])
    data, ancillary, flags, _ = b.recvmsg(count, socket.CMSG_SPACE(4))
    fd = array.array('i', ancillary[0][2])[0]
    print(len(data), os.read(fd, 100).decode(), fd not in (r, w))
    if len(sys.argv) > 2:
        block = os.urandom(3000000); pid = os.fork()
        if pid == 0:
            b.close(); a.sendmsg([block[:10], block[10:]]) == len(block) or os._exit(1)
            os._exit(0)
        a.close(); got = b''
        while len(got) < 1000000: got += b.recv(65536)
        print(block.startswith(got[:1000000]))
    a2, b2 = socket.socketpair(); b2.close()
    try: a2.sendmsg([b'x'])
    except BrokenPipeError: print('EPIPE')"""


FLOOD_OF_DESCRIPTORS = """if True:
    import array, os, socket, sys, threading, time
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.setblocking(False)
    try:
        while True: a.send(b'x')
    except BlockingIOError: a.setblocking(True)
    errors, fds = [], array.array('i', [0] * 250)
    def go():
        try: a.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        except OSError as e: errors.append(e.errno)
    for _ in range(4): threading.Thread(target=go, daemon=True).start()
    end = time.time() + 20
    while len(errors) < 2 and time.time() < end: time.sleep(0.01)
    print(*errors, flush=True); os._exit(0)"""


def test_too_many_descriptors_on_their_way_are_refused_and_told():
    before = snapshot()
    result = box(net_allow=["unix://"]).run([sys.executable, "-S", "-c", FLOOD_OF_DESCRIPTORS])
    assert result.stdout == b"11 11\n" and result.error is None and len(result.policy_errors) == 2, result
    assert eventually(lambda: clean(before))


def test_a_message_of_an_unseen_socket_leaves_no_descriptor(monkeypatch):
    """Where pidfd_getfd(2) is refused for the socket after what it sends was copied."""
    real = sandlock._Tasks.descriptor

    def descriptor(self, task, fd):
        if fd == 100:
            raise sandlock._NoDescriptor(1, "not this one")
        return real(self, task, fd)
    code = ("import array, os, socket, threading\na, b = socket.socketpair(); os.dup2(a.fileno(), 100); c = socket.socket(fileno=100)\n"
            "if %d: threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
            "for _ in range(20):\n    try: print(c.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0, 1]))]))\n    except OSError as e: print(-e.errno)\n"
            "import sys; sys.stdout.flush(); os._exit(0)")
    monkeypatch.setattr(sandlock._Tasks, "descriptor", descriptor)
    for threads, answer, denials in ((0, b"1", 0), (1, b"-1", 20)):
        before = snapshot()
        result = box(net_allow=["unix://"]).run([sys.executable, "-S", "-c", code % threads])
        assert result.stdout.split() == [answer] * 20 and result.error is None, result
        assert [(d.event.syscall, "other threads" in d.reason) for d in result.denials] == [("sendto", True)] * denials
        assert eventually(lambda: clean(before))


def test_descriptors_pass_on_stream_sockets():
    for fields in ({}, {"net_allow": ["udp://127.0.0.1:9"]}):  # with datagrams, sendmsg is done on behalf
        result = box(**fields).run([sys.executable, "-c", DESCRIPTORS, "10"], timeout=30)
        assert result.stdout == b"10 through True\nEPIPE\n", result
    big = box(net_allow=["udp://127.0.0.1:9"]).run([sys.executable, "-c", DESCRIPTORS, "10", "big"], timeout=30)
    assert big.stdout == b"10 through True\nTrue\nEPIPE\n", big


UNIX_DATAGRAMS = """if True:
    import socket, sys
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for name in sys.argv[1:]:
        for how in ('sendto', 'sendmsg', 'connect'):
            try:
                if how == 'sendto': s.sendto(b'x', name)
                elif how == 'sendmsg': s.sendmsg([b'y'], [], 0, name)
                else: s.connect(name); s.send(b'z')
                print('sent')
            except OSError as e: print(type(e).__name__)"""


@pytest.mark.parametrize("fields", [{}, dict(policy_fn=lambda event, ctx: None), dict(policy_fn=lambda event, ctx: True, policy_events=["network"], net_allow=["127.0.0.1"])], ids=["", "asked", "denied"])
def test_a_datagram_socket_that_the_host_gives_is_judged(tmp_path, fields):
    code = ("import socket, sys\ns = socket.socket(fileno=0)\nto = eval(sys.argv[1])\n"
            "for send in lambda: s.sendto(b'x', to), lambda: s.sendmsg([b'x'], [], 0, to):\n"
            "    try: print(send())\n    except OSError as e: print(e.errno in (1, 13, 111))")
    for family, own, to in ((socket.AF_INET, ("127.0.0.1", 0), ("127.0.0.1", 0)), (socket.AF_UNIX, "", str(tmp_path / "s"))):
        with socket.socket(family, socket.SOCK_DGRAM) as outside, socket.socket(family, socket.SOCK_DGRAM) as given:
            outside.bind(to)
            outside.setblocking(False)
            os.path.exists(str(tmp_path / "s")) and os.chmod(str(tmp_path / "s"), 0o777)
            result = box(**fields).run([sys.executable, "-S", "-c", code, repr(outside.getsockname())], stdin=given)
            assert result.stdout == b"True\nTrue\n" and not result.error, result
            with pytest.raises(BlockingIOError):
                outside.recv(1)
            if not fields:  # the control
                allow = dict(net_allow=["udp://127.0.0.1"]) if family == socket.AF_INET else dict(net_allow=["unix://"], fs_readable=SYSTEM_PATHS, fs_writable=[str(tmp_path)])
                assert Sandbox(**{"fs_readable": SYSTEM_PATHS, **allow}).run([sys.executable, "-S", "-c", code, repr(outside.getsockname())], stdin=given).stdout == b"1\n1\n"


def test_large_datagrams_and_empty_addresses():
    code = ("import ctypes, socket\na, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            "a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)\nsize = min(300000, a.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 1000)\n"
            "print(size == a.sendmsg([bytes(size)]) == len(b.recv(1 << 20)))\n"
            "try: a.sendmsg([bytes(8 << 20)])\nexcept OSError as e: print(e.errno)\n"
            "a, b = socket.socketpair()\nprint(ctypes.CDLL(None).sendto(a.fileno(), b'x', 1, 0, b'xxxx', 0), b.recv(9))")
    for run in lambda words: box(net_allow=["unix://"]).run(words, timeout=60), lambda words: subprocess.run(words, stdout=subprocess.PIPE, timeout=60):
        assert run([sys.executable, "-S", "-c", code]).stdout == b"True\n90\n1 b'x'\n"


def test_unix_datagrams(tmp_path):
    granted, other = tmp_path / "granted", tmp_path / "other"
    granted.mkdir(), other.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as good, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bad:
        good.bind(str(granted / "s")), bad.bind(str(other / "s"))
        good.settimeout(1), bad.settimeout(0.1)
        os.chmod(granted / "s", 0o777), os.chmod(other / "s", 0o777)
        fields = dict(fs_readable=SYSTEM_PATHS, fs_writable=[granted])
        command = [sys.executable, "-c", UNIX_DATAGRAMS, str(granted / "s"), str(other / "s")]
        result = Sandbox(net_allow=["unix://"], **fields).run(command)
        assert result.stdout.split() == [b"sent"] * 3 + [b"PermissionError"] * 3, result
        assert [good.recv(1) for _ in range(3)] == [b"x", b"y", b"z"]
        with pytest.raises(socket.timeout):
            bad.recv(1)
        assert b"PermissionError" in Sandbox(**fields).run(command).stderr


ROUTES = """if True:
    import socket, struct
    for family, kind, level, option, value in ((2, 1, 0, 4, b'\\x83\\x07\\x04\\x7f\\0\\0\\5\\0'), (10, 1, 41, 57, bytes(24)), (2, 1, 0, 1, struct.pack('i', 8))):
        try: socket.socket(family, kind).setsockopt(level, option, value); print('set')
        except OSError as e: print(e.errno)
    s = socket.socket(2, 2); s.connect(('127.0.0.1', 9))
    try: s.sendmsg([b'x'], [(0, 7, b'\\x83\\x07\\x04\\x7f\\0\\0\\5\\0')]); print('sent')
    except OSError as e: print(e.errno)
    s.sendmsg([b'x'], [(0, 1, struct.pack('i', 8))]); print('sent')"""


def test_packets_cannot_be_routed_by_way_of_another_host():
    inside = box(net_allow=["127.0.0.1"]).run([sys.executable, "-c", ROUTES])
    assert inside.stdout.split() == [b"1", b"1", b"set", b"1", b"sent"], inside
    outside = subprocess.run([sys.executable, "-c", ROUTES], stdout=subprocess.PIPE).stdout.split()
    if os.geteuid() == 0:  # the kernel wants CAP_NET_RAW for some of it
        assert outside[0] == b"set" and outside[3] == b"sent"  # the control


def test_64_connects_block_at_once():
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        stack.enter_context(listening())
        code = ("import socket, sys, threading, time\n"
                "def block(): socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
                "threads = [threading.Thread(target=block, daemon=True) for _ in range(64)]\n"
                "[t.start() for t in threads]; time.sleep(0.5)\n"
                "with socket.socket() as s: print(s.connect_ex(('127.0.0.9', 9)))\nimport os; os._exit(0)")
        before = snapshot()
        result = box(net_allow=["127.0.0.1"]).run([sys.executable, "-c", code, str(full.getsockname()[1])], timeout=30)
        assert result.stdout == b"%d\n" % errno.ECONNREFUSED and result.error is None and result.duration < 20
        assert eventually(lambda: clean(before))


FLIP = r"""
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
static volatile struct sockaddr_in in; static int good, bad; static volatile int stop;
static void *flip(void *x) { while (!stop) {
    in.sin_port = htons(bad); for (volatile int i = 0; i < 5000; i++);
    in.sin_port = htons(good); for (volatile int i = 0; i < 5000; i++); } return 0; }
int main(int n, char **a) {
    good = atoi(a[1]); bad = atoi(a[2]); in = (struct sockaddr_in){AF_INET, htons(good), {htonl(0x7f000001)}};
    pthread_t t; pthread_create(&t, 0, flip, 0); int ok = 0, to_bad = 0;
    for (int i = 0; i < atoi(a[3]); i++) {
        int s = socket(AF_INET, SOCK_STREAM, 0); struct sockaddr_in peer; socklen_t l = sizeof peer;
        if (connect(s, (void *)&in, sizeof in) == 0) { ok++; getpeername(s, (void *)&peer, &l); to_bad += peer.sin_port == htons(bad); }
        close(s);
    }
    stop = 1; printf("%d %d\n", ok, to_bad); return 0;
}"""


def test_an_address_that_flips_never_reaches_another_port():
    payload = compiled(FLIP, "-pthread")
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(2):
            server = stack.enter_context(socket.socket())
            server.bind(("127.0.0.1", 0))
            server.listen(128)
            stack.enter_context(answering(server, b"x"))
            ports.append(server.getsockname()[1])
        command = [payload, *map(str, ports), str(rounds(3000))]
        # Landlock would refuse the other port too: an address rule leaves the port to the supervisor.
        sandbox = Sandbox(fs_readable=SYSTEM_PATHS + (os.path.dirname(payload),),
                          net_allow=["127.0.0.1:%d" % ports[0], "10.9.9.9"])
        # on a busy machine the flipping thread may rest for a whole run
        def confined():
            ok, hits = map(int, sandbox.run(command, timeout=120).stdout.split())
            assert hits == 0
            return ok
        assert any(confined() for _ in range(20))
        outside = (subprocess.run(command, stdout=subprocess.PIPE, timeout=120) for _ in range(20))
        assert any(int(result.stdout.split()[1]) for result in outside)  # the control


# -- found by an attacker ----------------------------------------------------------------------------

def test_the_unspecified_address_of_a_bound_socket_is_loopback_still():
    """The kernel would take the source's address for the destination."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.2", 0))
        other.settimeout(0.3)
        port = other.getsockname()[1]
        code = ("import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.2', 0))\n"
                "s.sendto(b'x', ('0.0.0.0', %d)); s.connect(('0.0.0.0', %d)); print(s.getpeername()[0])" % (port, port))
        inside = box(net_allow=["127.0.0.1"]).run([sys.executable, "-c", code])
        assert inside.stdout == b"127.0.0.1\n", inside
        with pytest.raises(socket.timeout):
            other.recv(1)
        outside = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE).stdout
        assert outside == b"127.0.0.2\n" and other.recv(1) == b"x"  # the control


def test_a_stale_name_is_not_a_bound_one():
    code = ("import socket, sys\ns = socket.socket()\ns.connect_ex(('127.0.0.1', 1))\n"
            "try: s.listen(); print('listens')\nexcept OSError as e: print(e.errno)\n"
            "b = socket.socket(); b.bind(('127.0.0.1', int(sys.argv[1]))); b.listen(); print('bound')")
    port = free_port()
    result = box(net_allow=["127.0.0.1:1"], net_allow_bind=[port]).run([sys.executable, "-c", code, str(port)])
    assert result.stdout.split() == [b"13", b"bound"], result
    outside = subprocess.run([sys.executable, "-c", code, str(free_port())], stdout=subprocess.PIPE).stdout
    assert outside.split() == [b"listens", b"bound"]  # the control


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root (user=)")
def test_a_receiver_is_told_the_programs_ids(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "s"))
        server.setsockopt(socket.SOL_SOCKET, 16, 1)  # SO_PASSCRED
        server.settimeout(5)
        for path in [tmp_path / "s", tmp_path, *tmp_path.parents]:
            if str(path).startswith("/tmp/"):
                os.chmod(path, 0o777)
        code = "import socket, sys; socket.socket(1, 2).sendto(b'x', sys.argv[1])"
        result = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], net_allow=["unix://"], user="1234:1234").run(
            ["/usr/bin/python3", "-c", code, str(tmp_path / "s")])
        assert result.success, result
        _, ancillary, _, _ = server.recvmsg(10, 100)
        assert struct.unpack("3i", ancillary[0][2])[1:] == (1234, 1234)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root (user=)")
def test_a_receiver_of_a_long_message_is_told_them_for_every_piece(tmp_path):
    path, seen = str(tmp_path / "s"), set()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        for place in [tmp_path / "s", tmp_path, *tmp_path.parents]:
            if str(place).startswith("/tmp/"):
                os.chmod(place, 0o777)

        def serve():
            peer, _ = server.accept()
            with peer:
                peer.setsockopt(socket.SOL_SOCKET, 16, 1)  # SO_PASSCRED
                peer.settimeout(20)
                while True:
                    data, ancillary, _, _ = peer.recvmsg(1 << 16, 100)
                    if not data:
                        return
                    seen.update(struct.unpack("3i", part)[1:] for _, _, part in ancillary)
        thread = threading.Thread(target=serve)
        thread.start()
        code = "import socket, sys; s = socket.socket(1); s.connect(sys.argv[1]); print(s.sendmsg([b'x' * (1 << 20)]))"
        result = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], net_allow=["unix://"], user="1234:1234").run(["/usr/bin/python3", "-c", code, path], timeout=30)
        thread.join()
        assert result.stdout == b"%d\n" % (1 << 20) and seen == {(1234, 1234)}, (result, seen)


def test_a_bind_of_the_unspecified_family_is_told():
    seen = []
    code = ("import ctypes, socket, struct, sys\ns = socket.socket(); libc = ctypes.CDLL(None)\n"
            "print(libc.bind(s.fileno(), struct.pack('=HHI8x', 0, socket.htons(int(sys.argv[1])), 0), 16))")
    port = free_port()
    result = box(policy_fn=lambda e, c: seen.append((e.syscall, e.host, e.port)), policy_events=["bind"], net_allow_bind=[port]).run(
        [sys.executable, "-c", code, str(port)])
    assert result.stdout == b"0\n" and seen == [("bind", "0.0.0.0", port)]


ZEROCOPY = r"""
import select, socket, sys
s, server = socket.socket(), socket.socket()
server.bind(("127.0.0.1", int(sys.argv[1]))); server.listen(); s.connect(server.getsockname()); peer, _ = server.accept()
try: s.setsockopt(socket.SOL_SOCKET, 60, 1); print(0)
except OSError as e: print(e.errno)
print(s.sendmsg([b"x" * 20000], [], 0x4000000))
peer.recv(1 << 20)
poller = select.poll(); poller.register(s, 0)
print(bool(poller.poll(500)))  # POLLERR: the kernel tells that it needs the sender's memory no more"""


def test_the_kernel_keeps_nothing_of_the_hosts_memory(monkeypatch):
    """With MSG_ZEROCOPY it would send, later, whatever is by then where the host had the payload."""
    port = free_port()
    fields = dict(net_allow=["127.0.0.1", "udp://127.0.0.1:53"], net_allow_bind=[port])
    command = [sys.executable, "-S", "-c", ZEROCOPY, str(port)]
    assert box(**fields).run(command).stdout.split() == [b"95", b"20000", b"False"]
    monkeypatch.setitem(sandlock._BLOCKS, "setsockopt", lambda asm, plan: asm.goto("allow"))
    sandlock._policy_filter.cache_clear()
    try:
        assert box(**fields).run(command).stdout.split() == [b"0", b"20000", b"False"]  # the option alone keeps nothing
        monkeypatch.setattr(sandlock, "_SEND_FLAGS", 0xffffffff)
        assert box(**fields).run(command).stdout.split() == [b"0", b"20000", b"True"]  # the control
    finally:
        sandlock._policy_filter.cache_clear()


def test_no_close_waits_for_a_peer_that_does_not_read():
    """The host's copy of a socket may be the last to be closed, and SO_LINGER made that wait as long as the program liked."""
    code = ("import socket, struct\ns = socket.socket()\nfor value in ((1, 10 ** 6), (1, 0), (0, 5), (1, -1)):\n"
            "    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', *value)); print(*struct.unpack('ii', s.getsockopt(1, 13, 8)))\n"
            "try: s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'1234')\nexcept OSError as e: print(e.errno)\n"
            "try: print(s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, None, 8))\nexcept OSError as e: print(e.errno)")
    assert box().run([sys.executable, "-S", "-c", code]).stdout.splitlines() == [b"0 0", b"1 0", b"0 0", b"0 0", b"22", b"14"]
    outside = subprocess.run([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE).stdout.splitlines()
    assert outside[0] == b"1 1000000" and outside[1] == b"1 0" and outside[4:] == [b"22", b"14"]  # the control


def test_no_connection_is_made_later_than_it_was_judged(monkeypatch):
    """With TCP_FASTOPEN_CONNECT connect(2) sends nothing: some write does, after restrict_network."""
    code = ("import socket, sys\ns = socket.socket()\ns.setsockopt(6, 34, 1)  # no cookie\ntry: s.setsockopt(6, 30, 1)\nexcept OSError as e: print(e.errno, flush=True)\n"
            "s.settimeout(5); s.connect(('127.0.0.1', int(sys.argv[1])))\nprint('connected', flush=True); sys.stdin.readline()\n"
            "try: print(s.send(b'late'))\nexcept OSError as e: print(type(e).__name__)")

    def attempt():
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            server.settimeout(0.5)
            with box(net_allow=["127.0.0.1"]).popen([sys.executable, "-S", "-c", code, str(server.getsockname()[1])], stdin=1, stdout=1) as process:
                lines = []
                while "connected\n" not in lines:
                    lines.append(process.stdout.readline().decode())
                try:
                    server.accept()[0].close()
                    before = True
                except socket.timeout:
                    before = False
                process.policy.restrict_network([])
                process.stdin.write(b"\n")
                try:
                    return lines[0], before, bool(server.accept())
                except socket.timeout:
                    return lines[0], before, False
    assert attempt() == ("95\n", True, False)
    monkeypatch.setitem(sandlock._BLOCKS, "setsockopt", lambda asm, plan: asm.goto("allow"))
    sandlock._policy_filter.cache_clear()
    try:
        assert attempt() == ("connected\n", False, True)  # the control
    finally:
        sandlock._policy_filter.cache_clear()
