"""The tables against the kernel's headers, an independent source."""
import ctypes
import glob
import os
import re
import shutil
import struct
import subprocess
import tempfile

import pytest

import sandlock
from support import requires_program

HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h",),
    "aarch64": ("/usr/include/aarch64-linux-gnu/asm/unistd_64.h", "/usr/include/asm-generic/unistd.h"),
    "riscv64": ("/usr/include/riscv64-linux-gnu/asm/unistd_64.h", "/usr/include/asm-generic/unistd.h"),
}


def header_numbers(arch):
    path = next((p for p in HEADERS[arch] if os.path.exists(p)), None)
    if path is None:
        pytest.skip("needs linux-libc-dev's headers of " + arch)
    with open(path) as f:
        text = f.read()
    if "asm-generic" not in path:
        return {n: int(v) for n, v in re.findall(r"#define\s+__NR_(\w+)\s+(\d+)", text)}
    source = "#define __BITS_PER_LONG 64\n#define __ARCH_WANT_RENAMEAT\n" * (arch == "aarch64")
    source += "#define __ARCH_WANT_SET_GET_RLIMIT\n#define __ARCH_WANT_NEW_STAT\n"
    source += "#define __ARCH_WANT_SYS_CLONE3\n#define __ARCH_WANT_MEMFD_SECRET\n#include <%s>\n" % path
    out = subprocess.run(["gcc", "-E", "-dM", "-D__BITS_PER_LONG=64", "-"], input=source, check=True,
                         stdout=subprocess.PIPE, universal_newlines=True).stdout
    values = dict(re.findall(r"#define\s+(__NR\w+)\s+(\w+)", out))
    numbers = {}
    for name, value in values.items():
        while value in values:
            value = values[value]
        if name.startswith("__NR_") and value.isdigit() and name != "__NR_arch_specific_syscall":
            numbers[name[len("__NR_"):]] = int(value)
    return {n: v for n, v in numbers.items() if n not in ("syscalls", "sync_file_range2")}


@requires_program("gcc")
@pytest.mark.parametrize("arch", sorted(HEADERS))
def test_syscall_numbers_are_the_kernels(arch):
    numbers, ours = header_numbers(arch), sandlock._ARCHITECTURES[arch].syscalls
    assert len(numbers) > 290
    wrong = {n: (v, ours.get(n)) for n, v in numbers.items() if ours.get(n) != v}
    assert not wrong
    # What the header lacks is newer than it, or the architecture's own.
    newer = {n for n, v in ours.items() if n not in numbers and v <= max(numbers.values())}
    assert newer <= {"riscv_hwprobe", "riscv_flush_icache", "memfd_secret", "renameat", "uretprobe", "uprobe"}


def test_tables_are_one_to_one():
    for arch in sandlock._ARCHITECTURES.values():
        assert len(set(arch.syscalls.values())) == len(arch.syscalls)


CONSTANTS = {
    "linux/seccomp.h": """SECCOMP_IOCTL_NOTIF_RECV SECCOMP_IOCTL_NOTIF_SEND SECCOMP_IOCTL_NOTIF_ADDFD
        SECCOMP_IOCTL_NOTIF_ID_VALID
        SECCOMP_USER_NOTIF_FLAG_CONTINUE SECCOMP_SET_MODE_FILTER SECCOMP_FILTER_FLAG_NEW_LISTENER
        SECCOMP_RET_KILL_PROCESS SECCOMP_RET_ERRNO SECCOMP_RET_USER_NOTIF SECCOMP_RET_ALLOW""",
    "linux/landlock.h": "LANDLOCK_CREATE_RULESET_VERSION LANDLOCK_RULE_PATH_BENEATH",
    "linux/sched.h": "CLONE_THREAD CLONE_PARENT CLONE_FS CLONE_FILES CLONE_VM",
    "sys/prctl.h": "PR_GET_DUMPABLE PR_SET_DUMPABLE PR_SET_NO_NEW_PRIVS PR_SET_CHILD_SUBREAPER PR_GET_CHILD_SUBREAPER",
    "sys/socket.h": """AF_UNIX AF_INET AF_INET6 AF_NETLINK SOCK_STREAM SOCK_DGRAM SOCK_RAW SOCK_SEQPACKET
        SOL_SOCKET SO_DOMAIN SO_TYPE SO_SNDTIMEO SCM_RIGHTS SCM_CREDENTIALS MSG_FASTOPEN MSG_DONTWAIT
        MSG_NOSIGNAL MSG_OOB MSG_DONTROUTE MSG_EOR MSG_CONFIRM MSG_MORE SO_LINGER SO_ZEROCOPY""",
    "linux/fs.h": "FICLONE FICLONERANGE FIDEDUPERANGE",
    "netinet/tcp.h": "TCP_FASTOPEN_CONNECT",
    "linux/fsverity.h": "FS_IOC_ENABLE_VERITY",
    "linux/fscrypt.h": "FS_IOC_SET_ENCRYPTION_POLICY FS_IOC_REMOVE_ENCRYPTION_KEY FS_IOC_REMOVE_ENCRYPTION_KEY_ALL_USERS",
    "linux/magic.h": "PROC_SUPER_MAGIC",
    "linux/btrfs.h": "BTRFS_IOCTL_MAGIC",
    "sys/ioctl.h": "TIOCSTI TIOCLINUX TIOCSETD TIOCEXCL FIONREAD",
    "sys/ptrace.h": """PTRACE_SEIZE PTRACE_DETACH PTRACE_O_TRACEEXEC PTRACE_GETSIGINFO PTRACE_INTERRUPT
        PTRACE_EVENT_EXEC""",
    "sys/resource.h": "RLIMIT_CPU RLIMIT_FSIZE RLIMIT_NOFILE RLIMIT_DATA",
    "sys/mman.h": "PROT_WRITE MAP_SHARED MAP_ANONYMOUS MFD_CLOEXEC MFD_ALLOW_SEALING",
    "sys/inotify.h": "IN_ONLYDIR IN_DONT_FOLLOW",
    "linux/openat2.h": "RESOLVE_NO_MAGICLINKS RESOLVE_IN_ROOT",
    "spawn.h": "POSIX_SPAWN_SETPGROUP POSIX_SPAWN_SETSIGDEF POSIX_SPAWN_SETSIGMASK POSIX_SPAWN_SETSID",
    "fcntl.h": "O_PATH O_TMPFILE AT_FDCWD AT_EMPTY_PATH AT_SYMLINK_NOFOLLOW F_SETLEASE F_ADD_SEALS",
}
STRUCTS = {"linux/seccomp.h": "seccomp_data seccomp_notif seccomp_notif_resp seccomp_notif_addfd",
           "linux/filter.h": "sock_filter sock_fprog", "linux/openat2.h": "open_how",
           "linux/landlock.h": "landlock_path_beneath_attr"}


@requires_program("gcc")
def test_constants_and_sizes_are_the_headers():
    rows, expected = [], []
    for names, form in ((CONSTANTS, '(unsigned long long)(%s)'), (STRUCTS, "(unsigned long long)sizeof(struct %s)")):
        for text in names.values():
            for name in text.split():
                rows.append('printf("%%llu\\n", %s);' % (form % name))
                ours = getattr(sandlock, name)
                expected.append(ours if isinstance(ours, int) else ours.size if isinstance(ours, struct.Struct) else ctypes.sizeof(ours))
    source = "#define _GNU_SOURCE\n#include <stdio.h>\n"
    source += "".join("#include <%s>\n" % h for h in sorted(set(CONSTANTS) | set(STRUCTS)))
    source += "int main(void) { %s return 0; }" % "\n".join(rows)
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "a")
        subprocess.run(["gcc", "-w", "-xc", "-", "-o", out], input=source.encode(), check=True)
        values = subprocess.run([out], stdout=subprocess.PIPE, check=True).stdout.split()
    assert [int(v) & (2 ** 32 - 1) for v in values] == [v & (2 ** 32 - 1) for v in expected]


def test_packed_forms_have_the_sizes_of_their_structures():
    assert sandlock.seccomp_notif.size == 16 + ctypes.sizeof(sandlock.seccomp_data)
    if shutil.which("gcc"):
        source = ("#include <stdio.h>\n#include <sys/socket.h>\n#include <sys/uio.h>\nint main(void) { printf(\"%zu %zu %zu %zu\", "
                  "sizeof(struct msghdr), sizeof(struct mmsghdr), sizeof(struct cmsghdr), sizeof(struct iovec)); }")
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "a")
            subprocess.run(["gcc", "-D_GNU_SOURCE", "-w", "-xc", "-", "-o", out], input=source.encode(), check=True)
            sizes = subprocess.run([out], stdout=subprocess.PIPE).stdout.split()
        assert [int(n) for n in sizes] == [sandlock._MSGHDR.size, sandlock._MSGHDR.size + 8, sandlock._CMSGHDR.size,
                                           sandlock._IOVEC.size]


def test_landlock_bits_are_the_headers():
    found = glob.glob("/usr/include/linux/landlock.h")
    if not found:
        pytest.skip("needs linux-libc-dev")
    with open(found[0]) as f:
        rights = re.findall(r"define LANDLOCK_(ACCESS_FS|ACCESS_NET|SCOPE)_(\w+)\s+\(1ULL << (\d+)\)", f.read())
    assert len(rights) >= 13
    for kind, name, bit in rights:
        column = {"ACCESS_FS": "fs", "ACCESS_NET": "net", "SCOPE": "scoped"}[kind]
        assert sandlock._bits(column, name) == 1 << int(bit), name
