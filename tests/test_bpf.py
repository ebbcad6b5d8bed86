"""The filter, executed: in an interpreter over every number and architecture, and in the kernel."""
import errno
import itertools

import pytest

import sandlock
from sandlock import Policy, Sandbox
from support import box, compiled, interpret, requires_abi

ALLOW, NOTIFY, KILL = 0x7fff0000, 0x7fc00000, 0x80000000
EPERM, ENOSYS, EACCES = (0x50000 | e for e in (errno.EPERM, errno.ENOSYS, errno.EACCES))
ARCHES = sorted(sandlock._ARCHITECTURES)

# Written down from SPEC.md 6, apart from the tables of the product.
REFUSED = set("""
unshare setns chroot pivot_root mount umount2 mount_setattr move_mount open_tree open_tree_attr fsopen
fsconfig fsmount fspick ptrace process_vm_readv process_vm_writev pidfd_getfd bpf perf_event_open
userfaultfd keyctl add_key request_key init_module finit_module delete_module kexec_load
kexec_file_load swapon swapoff reboot settimeofday clock_settime clock_adjtime adjtimex
open_by_handle_at ioperm iopl quotactl quotactl_fd acct syslog kcmp process_madvise move_pages
modify_ldt shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl
mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr""".split())
UNKNOWN = set("clone3 io_uring_setup io_uring_enter io_uring_register openat2 landlock_create_ruleset landlock_add_rule landlock_restrict_self".split())
TRAPPED = set("fork vfork execve execveat connect listen inotify_add_watch capset".split())
BY_ARGUMENT = set("""clone socket socketpair ioctl personality seccomp sendto sendmsg sendmmsg prlimit64
sched_setaffinity sched_setscheduler sched_setparam sched_setattr setpriority ioprio_set setpgid
rt_sigaction fcntl setsockopt open openat""".split())
HARDENED = set("""process_mrelease migrate_pages lookup_dcookie fanotify_init fanotify_mark
lsm_set_self_attr create_module query_module get_kernel_syms sethostname setdomainname vhangup
nfsservctl uselib _sysctl sysfs vserver security tuxcall afs_syscall getpmsg putpmsg""".split())


def program(name, **fields):
    policy, arch = Policy(**fields), sandlock._ARCHITECTURES[name]
    return sandlock._policy_filter(policy.extra_deny_syscalls, policy.extra_allow_syscalls, arch,
                                   sandlock._trapped_syscalls(policy), (), sandlock._datagram_kinds(policy))


@pytest.mark.parametrize("name", ARCHES)
def test_every_number_of_every_architecture(name):
    arch, code = sandlock._ARCHITECTURES[name], program(name)
    names = {nr: n for n, nr in arch.syscalls.items()}
    for nr in itertools.chain(range(0, 1100), range(0x40000000, 0x40000500), (0x7fffffff, 0xffffffff)):
        n = names.get(nr)
        verdict = interpret(code, nr, arch.audit)
        if n in REFUSED or n in HARDENED:
            assert verdict == EPERM, n
        elif n in UNKNOWN or nr > max(names):
            assert verdict == ENOSYS, nr
        elif n in TRAPPED:
            assert verdict == NOTIFY, n
        elif n not in BY_ARGUMENT:
            assert verdict == ALLOW, n
    for other in sandlock._ARCHITECTURES.values():
        for nr in range(0, 500) if other is not arch else ():
            assert interpret(code, nr, other.audit) == KILL
    assert interpret(code, 1, 0x40000003) == KILL  # i386


def test_only_arguments_of_their_own_syscalls_are_loaded():
    """All else is answered from the kernel's bitmap: only nr and arch are looked at (5.11)."""
    arch, code = sandlock._ARCH, program(sandlock._ARCH.name)
    for name in ("getppid", "read", "write", "close", "mmap", "futex", "newfstatat", "poll"
                 if "poll" in arch.syscalls else "ppoll"):
        verdicts = {interpret(code, arch.syscalls[name], arch.audit, args)
                    for args in ([0] * 6, [2 ** 64 - 1] * 6)}
        assert verdicts == {ALLOW}


HIGH = 0xdead << 32  # what the kernel ignores must not matter
SOCKETS = [((f, t | flags, p), verdict) for flags in (0, 0o4000, 0o2000000) for (f, t, p), verdict in [
    ((1, 1, 0), ALLOW), ((1, 5, 0), ALLOW), ((1, 2, 0), EPERM), ((1, 3, 0), EPERM),
    ((2, 1, 0), ALLOW), ((2, 1, 6), ALLOW), ((10, 1, 6), ALLOW), ((2, 1, 262), EPERM), ((2, 1, 132), EPERM),
    ((2, 2, 0), EPERM), ((10, 2, 17), EPERM), ((2, 3, 1), EPERM), ((2, 5, 132), EPERM),
    ((16, 3, 0), ALLOW), ((16, 2, 0), ALLOW), ((16, 3, 9), EPERM), ((17, 3, 768), EPERM),
    ((38, 5, 0), EPERM), ((40, 1, 0), EPERM), ((0, 1, 0), EPERM), ((44, 3, 0), EPERM)]]
RULES = [("socket", args, v) for args, v in SOCKETS] + [
    ("socket", (HIGH | 2, HIGH | 3, HIGH | 1), EPERM), ("socket", (HIGH | 2, HIGH | 1, HIGH), ALLOW),
    ("socketpair", (1, 1, 0), ALLOW), ("socketpair", (1, 5 | 0o4000, 0), ALLOW),
    ("socketpair", (1, 2, 0), EPERM), ("socketpair", (1, 3, 0), EPERM), ("socketpair", (2, 1, 0), EPERM),
    ("clone", (0x3d0f00,), ALLOW), ("clone", (17,), NOTIFY), ("clone", (0x4111,), NOTIFY),
    ("clone", (0x100,), NOTIFY), ("clone", (0x8011,), EPERM), ("clone", (0x18f00,), EPERM),
    ("clone", (HIGH | 0x10000000 | 17,), EPERM), ("clone", (0x10010000,), EPERM),
    ("ioctl", (0, 0x5412), EPERM), ("ioctl", (0, HIGH | 0x5412), EPERM), ("ioctl", (0, 0x541c), EPERM),
    ("ioctl", (0, 0x5413), ALLOW), ("personality", (0,), ALLOW), ("personality", (0xffffffff,), ALLOW),
    ("personality", (0x0400000,), EPERM), ("personality", (0x40000,), ALLOW),
    ("seccomp", (1, 0), ALLOW), ("seccomp", (1, 8), EPERM), ("seccomp", (1, 0x29), EPERM),
    ("sendto", (3, 0, 0, 0x20000000), EPERM), ("sendto", (3, 0, 0, 0x4000), ALLOW),
    ("sendmsg", (3, 0, 0x20000040), EPERM), ("sendmsg", (3, 0, 0), ALLOW),
    ("sendmmsg", (3, 0, 1, 0x20000000), EPERM), ("sendmmsg", (3, 0, 1, 0), ALLOW),
    ("prlimit64", (0,), ALLOW), ("prlimit64", (1,), NOTIFY), ("prlimit64", (HIGH,), ALLOW),
    ("sched_setaffinity", (0,), ALLOW), ("sched_setaffinity", (5,), NOTIFY),
    ("sched_setscheduler", (5,), NOTIFY), ("sched_setparam", (5,), NOTIFY), ("sched_setattr", (5,), NOTIFY),
    ("openat", (0, 0, 3), EACCES), ("openat", (0, 0, HIGH | 3), EACCES), ("openat", (0, 0, 0o1003), EACCES), ("openat", (0, 0, 0o10000003), ALLOW),
    ("openat", (0, 0, 2), ALLOW), ("openat", (0, 0, 0), ALLOW), ("openat", (0, 0, 0o1001), ALLOW),
    ("setpgid", (0, 0), ALLOW), ("setpgid", (7, HIGH), ALLOW), ("setpgid", (7, 7), NOTIFY),
    ("rt_sigaction", (17,), ALLOW), ("rt_sigaction", (17, 8), NOTIFY), ("rt_sigaction", (17, 1 << 32), NOTIFY), ("rt_sigaction", (15,), ALLOW),
    ("setpriority", (0, 0), ALLOW), ("setpriority", (0, 5), NOTIFY), ("setpriority", (1, 0), EPERM),
    ("setpriority", (2, 0), EPERM), ("ioprio_set", (1, 0), ALLOW), ("ioprio_set", (1, 5), NOTIFY),
    ("ioprio_set", (2, 0), EPERM), ("ioprio_set", (3, 0), EPERM),
    ("ioctl", (0, HIGH | 0x5423), EPERM), ("ioctl", (0, 0x540C), EPERM),
    ("fcntl", (3, 1024), EPERM), ("fcntl", (3, HIGH | 1024), EPERM), ("fcntl", (3, 1040), EPERM),
    ("fcntl", (3, 1025), ALLOW), ("fcntl", (3, 1030), ALLOW), ("fcntl", (3, 4), ALLOW),
    ("ioctl", (3, 0x50009401), EPERM), ("ioctl", (3, HIGH | 0x50009417), EPERM), ("ioctl", (3, 0x4010bc10), EPERM), ("ioctl", (3, 0x40186f04), EPERM), ("ioctl", (3, 0x40806685), EPERM), ("ioctl", (3, 0x800c6613), EPERM),
    ("ioctl", (3, 0x40049409), ALLOW), ("ioctl", (3, 0x4020940d), ALLOW), ("ioctl", (3, 0xc0189436), ALLOW), ("ioctl", (3, 0x80086601), ALLOW),
    ("setsockopt", (3, 1, 13), NOTIFY), ("setsockopt", (3, HIGH | 1, HIGH | 60), sandlock.SECCOMP_RET_ERRNO | 95),
    ("setsockopt", (3, 0, 4), EPERM), ("setsockopt", (3, HIGH, HIGH | 4), EPERM), ("setsockopt", (3, 0, 1), ALLOW),
    ("setsockopt", (3, 41, 57), EPERM), ("setsockopt", (3, 41, 5), EPERM), ("setsockopt", (3, 41, 6), EPERM),
    ("setsockopt", (3, 41, 26), ALLOW), ("setsockopt", (3, 1, 4), ALLOW), ("setsockopt", (3, 6, 57), ALLOW), ("setsockopt", (3, HIGH | 6, HIGH | 30), sandlock.SECCOMP_RET_ERRNO | 95),
]
UDP_RULES = [
    ("socket", (2, 2, 0), ALLOW), ("socket", (10, 2, 17), ALLOW), ("socket", (2, 2, 136), EPERM),
    ("socket", (1, 2, 0), EPERM), ("socketpair", (1, 2, 0), EPERM), ("socket", (2, 3, 17), EPERM),
    ("sendto", (3, 0, 0, 0, 0, 0), ALLOW), ("sendto", (3, 0, 0, 0, 8, 16), NOTIFY),
    ("sendto", (3, 0, 0, 0, 1 << 32, 16), NOTIFY), ("sendto", (3, 0, 0, 0x20000000, 8, 16), EPERM),
    ("sendmsg", (3, 8, 0), NOTIFY), ("sendmsg", (3, 8, 0x20000000), EPERM), ("sendmmsg", (3, 8, 1, 0), NOTIFY)]
UNIX_RULES = [
    ("socket", (1, 2, 0), ALLOW), ("socketpair", (1, 2, 0), ALLOW), ("socket", (1, 3, 0), ALLOW),
    ("socket", (2, 2, 0), EPERM), ("sendmsg", (3, 8, 0), NOTIFY), ("sendto", (3, 0, 0, 0, 8, 16), NOTIFY)]
GROWTH_RULES = [
    ("mmap", (0, 1 << 20, 3, 0x22), ALLOW), ("mmap", (0, (1 << 20) + 1, 3, 0x22), NOTIFY),
    ("mmap", (0, 1 << 32, 3, 0x22), NOTIFY), ("mmap", (0, (1 << 32) + 5, 0, 0), NOTIFY),
    ("mremap", (0, 1 << 30, 1 << 20, 0), ALLOW), ("mremap", (0, 0, 1 << 21, 0), NOTIFY), ("brk", (1 << 40,), ALLOW)]
RULES += [("clone", (flag | 17,), EPERM) for flag in (
    0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)]


@pytest.mark.parametrize("name", ARCHES)
def test_argument_rules(name):
    arch, code = sandlock._ARCHITECTURES[name], program(name)
    for syscall, args, verdict in RULES:
        assert interpret(code, arch.syscalls[syscall], arch.audit, args) == verdict, (syscall, args)


@pytest.mark.parametrize("name", ARCHES)
@pytest.mark.parametrize("fields,rules", [
    (dict(net_allow=["udp://10.0.0.0/8"]), UDP_RULES), (dict(net_allow=["example.org:53"]), UDP_RULES),
    (dict(net_deny=["10.0.0.0/8"]), UDP_RULES), (dict(net_allow=["unix://"]), UNIX_RULES),
    (dict(policy_fn=print, policy_events=["memory"]), GROWTH_RULES),
    (dict(max_memory="1G"), GROWTH_RULES + [
        ("setrlimit", (2, 8), EPERM), ("setrlimit", (HIGH | 2, 8), EPERM), ("setrlimit", (7, 8), ALLOW),
        ("prlimit64", (0, 2, 8), EPERM), ("prlimit64", (0, 2, 1 << 32), EPERM), ("prlimit64", (5, 2, 8), EPERM),
        ("prlimit64", (0, 2, 0), ALLOW), ("prlimit64", (5, 2, 0), NOTIFY), ("prlimit64", (0, 7, 8), ALLOW)]),
    (dict(net_allow=["tcp://*:80"]), RULES)])
def test_rules_that_a_policy_adds(name, fields, rules):
    arch, code = sandlock._ARCHITECTURES[name], program(name, **fields)
    for syscall, args, verdict in rules:
        assert interpret(code, arch.syscalls[syscall], arch.audit, args) == verdict, (syscall, args)


def test_only_what_is_asked_for_is_trapped():
    arch, calls = sandlock._ARCH, "openat connect bind sendto clone execve mmap".split()
    def trapped(**fields):
        code = program(arch.name, **fields)
        return {n for n in calls if interpret(code, arch.syscalls[n], arch.audit, (17, 1 << 40, 1, 0, 8, 16)) == NOTIFY}
    assert trapped() == {"clone", "execve", "connect"}
    assert trapped(policy_events=["file", "memory"]) == {"clone", "execve", "connect"}  # without a callback
    assert trapped(policy_fn=print, policy_events=["openat"]) == {"clone", "execve", "connect", "openat"}
    assert trapped(policy_fn=print, policy_events=["file"]) == {"clone", "execve", "connect", "openat", "bind"}  # deny_path holds for socket files
    assert trapped(policy_fn=print, policy_events=["network"]) == {"clone", "execve", "connect", "bind"}
    assert trapped(policy_fn=print, policy_events=["memory"]) == {"clone", "execve", "connect", "mmap"}
    assert trapped(net_allow=["example.org:80"]) == {"clone", "execve", "connect", "sendto", "openat"}
    assert trapped(net_allow=["tcp://10.0.0.1:80"]) == {"clone", "execve", "connect"}


def test_extra_names_change_the_filter():
    arch = sandlock._ARCHITECTURES["x86_64"]
    code = program("x86_64", extra_deny_syscalls=["mkdir", "socket", "semget"],
                   extra_allow_syscalls=["shmget", "mq_open", "semget"])
    for name, verdict in (("mkdir", EPERM), ("mkdirat", ALLOW), ("socket", EPERM), ("shmget", ALLOW),
                          ("mq_open", ALLOW), ("shmat", EPERM), ("semget", EPERM)):
        assert interpret(code, arch.syscalls[name], arch.audit, (1, 1)) == verdict, name


def test_without_a_supervisor_nothing_notifies():
    for arch in sandlock._ARCHITECTURES.values():
        code = sandlock._policy_filter((), (), arch, (), ("connect",))
        verdicts = {n: interpret(code, nr, arch.audit, args) for n, nr in arch.syscalls.items()
                    for args in ((0,) * 6, (5,) * 6)}
        assert NOTIFY not in verdicts.values() and verdicts["connect"] == EACCES
        assert verdicts["prlimit64"] == verdicts["setpgid"] == EPERM and verdicts["execve"] == verdicts["clone"] == ALLOW


def test_assembler_refuses_what_cannot_be_right():
    for label in ("nowhere", "behind"):
        asm = sandlock._Assembler()
        asm.label("behind")
        asm.jeq(1, label)
        asm.ret(0)
        with pytest.raises(ValueError, match=label):
            asm.link()
    asm = sandlock._Assembler()
    asm.label("twice")
    with pytest.raises(ValueError, match="twice"):
        asm.label("twice")
    with pytest.raises(ValueError):
        sandlock._Assembler().link()
    long = sandlock._Assembler()
    for _ in range(4096):
        long.ld(0)
    long.ret(0)
    with pytest.raises(ValueError, match="4097"):
        long.link()


def test_jumps_longer_than_an_8_bit_offset():
    asm = sandlock._Assembler()
    asm.ld(0)
    asm.jeq(7, "far")
    for _ in range(3000):
        asm.ld(0)
    asm.ret(1)
    asm.label("far")
    asm.ret(2)
    assert (interpret(asm.link(), 7, 0), interpret(asm.link(), 8, 0)) == (2, 1)


RAW = """
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <errno.h>
#include <sys/syscall.h>
int main(int n, char **a) {
    long v[7] = {0};
    for (int i = 1; i < n && i < 8; i++) v[i - 1] = strtoul(a[i], 0, 0);
    long r = syscall(v[0], v[1], v[2], v[3], v[4], v[5], v[6]);
    printf("%d\\n", r < 0 ? errno : 0);
}"""


def in_kernel(sandbox, *numbers):
    result = sandbox.run([compiled(RAW)] + [str(n) for n in numbers])
    return int(result.stdout) if result.success else result


@requires_abi(1)
@pytest.mark.parametrize("name", sorted(REFUSED | UNKNOWN))
def test_refusals_in_the_kernel(name):
    nr = sandlock._NR.get(name)
    if nr is None:
        pytest.skip("not a syscall of this architecture")
    sandbox = box(fs_readable=sandlock.SYSTEM_PATHS + ("/tmp",))
    assert in_kernel(sandbox, nr) == (errno.ENOSYS if name in UNKNOWN else errno.EPERM)
    assert in_kernel(sandbox, sandlock._NR["getppid"]) == 0
    lifted = sandlock._LIFTABLE & {name}
    if lifted:  # the control: lifted, the kernel itself answers
        allowed = box(fs_readable=sandlock.SYSTEM_PATHS + ("/tmp",), extra_allow_syscalls=lifted)
        assert in_kernel(allowed, nr, 2 ** 31, 0, 2 ** 31) != errno.EPERM


INT80 = """
#include <stdio.h>
int main(void) { long r; puts("before"); fflush(stdout);
    __asm__ volatile("int $0x80" : "=a"(r) : "a"(20)); printf("pid %ld\\n", r); return 0; }"""


@requires_abi(1)
@pytest.mark.skipif(sandlock._ARCH.name != "x86_64", reason="needs x86_64")
def test_foreign_architecture_kills_and_x32_does_not_exist():
    import subprocess
    sandbox = box(fs_readable=sandlock.SYSTEM_PATHS + ("/tmp",))
    outside = subprocess.run([compiled(INT80)], stdout=subprocess.PIPE)
    inside = sandbox.run([compiled(INT80)])
    if outside.returncode == 0:  # a kernel with IA32 emulation
        assert (inside.signal, b"pid" in inside.stdout) == (31, False)
    assert in_kernel(sandbox, 0x40000000 | sandlock._NR["getppid"]) == errno.ENOSYS
    assert in_kernel(sandbox, 512) == errno.ENOSYS


@requires_abi(1)
def test_extra_denied_syscall_in_the_kernel(tmp_path):
    target = str(tmp_path / "d")
    command = ["python3", "-c", "import os; os.mkdir(%r)" % target]
    denied = Sandbox(fs_readable=sandlock.SYSTEM_PATHS, fs_writable=[tmp_path],
                     extra_deny_syscalls=["mkdir", "mkdirat"]).run(command)
    assert b"Operation not permitted" in denied.stderr
    assert Sandbox(fs_readable=sandlock.SYSTEM_PATHS, fs_writable=[tmp_path]).run(command).success
