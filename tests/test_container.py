"""Under Docker's default seccomp profile, simulated by a filter on the host process."""
import os
import subprocess
import sys
import textwrap

import pytest

import sandlock
from sandlock import SYSTEM_PATHS
from support import TESTS, requires_abi, requires_root

pytestmark = requires_abi(1)
PORTS = sandlock.landlock_abi_version() >= 4  # below, bind(2) is judged here, and of an unseen socket as of TCP

# What moby/profiles/seccomp refuses without any added capability and that concerns us.
HOST = r"""
import os, signal, socket, struct, sys, threading
sys.path[:0] = [%r, %r]
import sandlock
from sandlock import *
from support import answering
sandlock.landlock_abi_version = lambda: %d  # see conftest.py
EPERM = "pidfd_getfd unshare setns mount umount2 pivot_root kcmp process_madvise keyctl add_key request_key bpf perf_event_open userfaultfd open_by_handle_at fanotify_init quotactl " \
        "name_to_handle_at lookup_dcookie syslog acct move_pages fsopen fsconfig fsmount fspick move_mount open_tree mount_setattr io_uring_setup io_uring_enter io_uring_register".split()
if "--free" not in sys.argv:
    rows = {name: "errno:1" for name in EPERM}
    rows["clone3"] = "errno:38"
    plan = sandlock._FilterPlan(arch=sandlock._ARCH, actions=tuple(sorted(rows.items())))
    program = sandlock._assemble_filter(plan)
    import ctypes
    code = ctypes.create_string_buffer(program, len(program))
    prog = sandlock.sock_fprog(len(program) // 8, ctypes.addressof(code))
    sandlock._call("prctl", 38, 1, 0, 0, 0)
    sandlock._call("seccomp", 1, 0, ctypes.addressof(prog))
python = ["/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable, "-S", "-c"]
server = socket.create_server(("127.0.0.1", 0)); port = server.getsockname()[1]
import tempfile; work = tempfile.mkdtemp(); os.chmod(work, 0o755)
def show(*what): print(*what, flush=True)
PORTS = sandlock.landlock_abi_version() >= 4
""" % (os.path.dirname(TESTS), TESTS, sandlock.landlock_abi_version())


def inside(script, *args):
    result = subprocess.run([sys.executable, "-c", HOST + textwrap.dedent(script)] + list(args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=100)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode().splitlines()


def test_files_and_programs_work_as_ever():
    """Directory descriptors are looked at through /proc; every program runs, watched and not."""
    script = """
job = "cd %s && mkdir -p a/b && echo hello > a/b/f && ls -lR a | grep -c f && mv a c && cat c/b/f && rm -r c && (echo a; echo b) | wc -l" % work
for fields in ({}, dict(policy_fn=lambda e, c: None), dict(fs_denied=["/etc/hostname"])):
    r = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[work], **fields).run(["sh", "-c", job + "; cat /etc/hostname > /dev/null && echo read; exec 3</etc; cat /dev/fd/3/passwd | head -c 4"])
    show(r.stdout.split(), r.error, len(r.denials))
show(Sandbox(fs_readable=SYSTEM_PATHS, policy_fn=lambda e, c: e.syscall == "execve" and e.path.endswith("/ls")).run(["sh", "-c", "ls; echo $?"]).stdout)
"""
    lines = inside(script)
    assert lines[0] == lines[1] == "[b'%s', b'hello', b'2', b'read', b'root'] None 0" % lines[0].split("'")[1], lines
    assert lines[2].endswith("b'hello', b'2', b'root'] None 1"), lines
    assert lines[3] == "b'126\\n'"
    assert inside(script, "--free") == lines


CLIENT = r"""
client = "import socket, sys, threading, time\n" \
         "if 'threads' in sys.argv: threading.Thread(target=time.sleep, args=(1,)).start()\n" \
         "s = socket.socket()\ntry: s.connect(('127.0.0.1', int(sys.argv[1]))); print(s.recv(5).decode())\nexcept OSError as e: print(e.errno)"
"""


def test_a_single_threaded_program_with_memory_of_its_own_may_connect():
    script = CLIENT + textwrap.dedent("""
        with answering(server, b"hello"):
            for words in ([port], [port + 1 if port < 65535 else 1], [port, "threads"]):
                for fn in (None, lambda e, c: None):
                    r = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[work], net_allow=["127.0.0.1:%d" % port], policy_fn=fn).run(python + [client] + [str(w) for w in words])
                    show(r.stdout.split(), [(d.event.syscall, d.event.port == words[0], d.reason[:30], d.field) for d in r.denials], r.policy_errors)
            r = Sandbox(fs_readable=SYSTEM_PATHS, net_allow=["127.0.0.1:%d" % port], policy_fn=lambda e, c: e.port == port and 111, policy_events=["network"]).run(python + [client, str(port)])
            show(r.stdout.split())
    """)
    lines = inside(script)
    assert lines[0] == lines[1] == "[b'hello'] [] ()", lines
    assert lines[2] == lines[3] == "[b'111'] [('connect', True, 'the endpoint is not allowed', 'net_allow')] ()", lines
    assert lines[4] == lines[5] == "[b'1'] [('connect', True, 'cannot be judged safely here: ', None)] ()", lines
    assert lines[6] == "[b'111']"
    free = inside(script, "--free")
    assert free[4] == free[5] == "[b'hello'] [] ()", free


def test_memory_that_others_can_write_is_noticed():
    script = """
code = '''
import ctypes, mmap, os, socket, sys
how = sys.argv[1]
if how == "shared": m = mmap.mmap(-1, 4096)
if how == "file": f = open("f", "wb+"); f.write(b"x" * 4096); f.flush(); m = mmap.mmap(f.fileno(), 4096, flags=mmap.MAP_PRIVATE)
if how == "memfd": f = os.memfd_create("x"); os.truncate(f, 4096); m = mmap.mmap(f, 4096, flags=mmap.MAP_PRIVATE)
if how == "fork" and os.fork(): os._exit(os.wait()[1] >> 8)
if how == "spawn": os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)  # by vfork: a thread of that child could live on
if how == "vm":
    import platform
    libc = ctypes.CDLL(None); stack = ctypes.create_string_buffer(1 << 16)
    pid = libc.clone(ctypes.cast(libc.pause, ctypes.c_void_p), ctypes.c_void_p(ctypes.addressof(stack) + 65536 - 64), 0x100 | 17, None)
import struct
s, libc = socket.socket(), ctypes.CDLL(None, use_errno=True)
to = struct.pack("=H", 2) + struct.pack(">H4B8x", int(sys.argv[2]), 127, 0, 0, 1)
if how in ("shared", "file", "memfd"):
    m[:16] = to
    at = ctypes.addressof(ctypes.c_char.from_buffer(m))
else: at = to
print("connected" if libc.connect(s.fileno(), ctypes.c_void_p(at) if isinstance(at, int) else at, 16) == 0 else ctypes.get_errno())
if how == "vm": os.kill(pid, 9)
'''
with answering(server, b"hello"):
    for how in ("alone", "fork", "shared", "file", "memfd", "vm", "spawn"):
        r = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[work], cwd=work, net_allow=["127.0.0.1:%d" % port]).run(python + [code, how, str(port)])
        show(how, r.stdout.decode().strip(), r.denials[0].reason.split(" and the task ")[1][:24] if r.denials else "", r.stderr.decode()[-200:])
"""
    lines = inside(script)
    assert [line.split()[:2] for line in lines] == [["alone", "connected"], ["fork", "connected"], ["shared", "1"], ["file", "1"], ["memfd", "1"], ["vm", "1"], ["spawn", "1"]], lines
    assert all(line.split()[1] == "connected" for line in inside(script, "--free"))


def test_the_unspecified_address_and_changed_minds():
    """0.0.0.0 is loopback or what the socket is bound to; a thread changes the address and is gone
    when its task is looked at; asynchronous I/O would write without any task."""
    script = """
        code = '''
import ctypes, socket, struct, sys, threading, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.3", 0))
try: s.sendto(b"zero", ("0.0.0.0", int(sys.argv[1]))); print("sent")
except OSError as e: print(e.errno)
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall({"x86_64": 206}.get(__import__("os").uname().machine, 0), 8, ctypes.byref(ctypes.c_ulong(0))), ctypes.get_errno())
to = ctypes.create_string_buffer(struct.pack("=H", 2) + struct.pack(">H4B8x", int(sys.argv[1]), 127, 0, 0, 1), 16)
def change(): time.sleep(0.15); to[7] = 3
t = threading.Thread(target=change); t.start()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print(libc.sendto(u.fileno(), b"swap", 4, 0, to, 16), ctypes.get_errno()); t.join()
'''
        good = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); good.bind(("127.0.0.1", 0)); uport = good.getsockname()[1]
        evil = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); evil.bind(("127.0.0.3", uport)); evil.settimeout(0.3)
        import time
        r = Sandbox(fs_readable=SYSTEM_PATHS, net_allow=["udp://127.0.0.1:%d" % uport], net_allow_bind=[] if PORTS else ["*"], policy_fn=lambda e, c: time.sleep(0.4), policy_events=["sendto"]).run(python + [code, str(uport)])
        show(r.stdout.split(), r.error, r.stderr[-200:])
        try: show(evil.recv(10))
        except OSError: show("nothing")
    """.replace("\n        ", "\n")
    lines = inside(script)
    assert lines == ["[b'1', b'-1', b'1', b'-1', b'1'] None b''", "nothing"], lines


def test_what_needs_the_descriptor_is_refused_with_its_reason():
    script = """
code = '''
import ctypes, os, socket, sys
def ok(what, *args):
    try: what(*args); return "ok"
    except OSError as e: return e.errno
libc = ctypes.CDLL(None, use_errno=True)
u = socket.socket(socket.AF_UNIX); print(ok(u.bind, "s"), ok(u.listen))
print(ok(socket.socket(socket.AF_UNIX).connect, "host"))
t = socket.socket(); print(ok(t.bind, ("127.0.0.1", 0)), ok(t.listen))
print(libc.inotify_add_watch(libc.inotify_init1(0), b".", 2) > 0)
a, b = socket.socketpair(); r, w = os.pipe(); socket.send_fds(a, [b"x"], [r]); print(len(socket.recv_fds(b, 1, 1)[1]))
'''
unix = socket.socket(socket.AF_UNIX); unix.bind(work + "/host"); unix.listen()
r = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[work], cwd=work, net_allow_bind=["0-65535"]).run(python + [code])
show(*r.stdout.split()); show(sorted({(d.event.syscall, "pidfd_getfd" in d.reason) for d in r.denials})); show(r.stderr[-100:], r.error)
"""
    lines = inside(script)
    assert lines[0] == "b'%s' b'1' b'1' b'ok' b'1' b'False' b'1'" % ("ok" if PORTS else 1), lines
    assert lines[1] == "[('bind', True), ('connect', True), ('openat', True)]" and lines[2] == "b'' None"
    assert inside(script, "--free")[0] == "b'ok' b'ok' b'ok' b'ok' b'ok' b'True' b'1'"


def test_datagrams_and_name_service():
    script = """
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("127.0.0.1", 0)); udp.settimeout(5); uport = udp.getsockname()[1]
code = '''
import ctypes, socket, sys
port = int(sys.argv[1])
def ok(what, *args):
    try: what(*args); return "ok"
    except OSError as e: return e.errno
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print(ok(s.sendto, b"one", ("127.0.0.1", port)), ok(s.sendto, b"no", ("127.0.0.1", 9)), ok(s.sendmsg, [b"two"], [], 0, ("127.0.0.1", port)), ok(s.sendmsg, [b"no"], [], 0, ("127.0.0.1", 9)), ok(s.connect, ("127.0.0.1", port)), ok(s.send, b"three"), ok(s.sendmsg, [b"four"]))
'''
for fn in (None, lambda e, c: None):
    rule = "127.0.0.1:%d" % uport  # below ABI 4 an unseen socket that connects may be TCP's
    r = Sandbox(fs_readable=SYSTEM_PATHS, net_allow=["udp://" * PORTS + rule], policy_fn=fn, policy_events=["network"]).run(python + [code, str(uport)])
    show(r.stdout, r.stderr[-200:], r.error, [udp.recv(10) for _ in range(4)])
"""
    lines = inside(script)
    assert lines == ["b'ok 111 ok 111 ok ok ok\\n' b'' None [b'one', b'two', b'three', b'four']"] * 2 == inside(script, "--free"), lines


@requires_root
def test_another_user_needs_a_capability_that_containers_lack():
    script = """
import ctypes
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
sandlock._call("capget", ctypes.addressof(header), ctypes.addressof(data))
if "--free" not in sys.argv:
    data[0] = data[1] = data[0] & ~(1 << 19); data[2] = 0
    sandlock._call("capset", ctypes.addressof(header), ctypes.addressof(data))
try: show(Sandbox(fs_readable=SYSTEM_PATHS, user="1234:1234").run(["id", "-u"]).stdout)
except UnsupportedError as e: show(e.feature, e.needed)
"""
    assert inside(script) == ["user CAP_SYS_PTRACE, for the thread that judges its calls"]
    assert inside(script, "--free") == ["b'1234\\n'"]
