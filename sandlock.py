#!/usr/bin/env python3
"""sandlock: run a program that you do not trust, under a policy that the kernel enforces.

One file, the standard library, Linux 5.13 or newer. No root, no containers, no namespaces.

    from sandlock import Sandbox, SYSTEM_PATHS

    box = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=["/tmp/work"], max_processes=20)
    result = box.run(["python3", "-c", "print(open('/etc/hostname').read())"], timeout=30)
    print(result.exit_code, result.stdout, result.denials)

    def guard(event, ctx):              # asked while the program runs, before each call is made
        if event.syscall == "execve" and event.argv_contains("curl"):
            ctx.restrict_network([])    # from now on, for good
            return "audit"

    Sandbox(box.policy, policy_fn=guard, net_allow=["10.0.0.0/8:443"]).run(["make"])

On the command line:  python3 sandlock.py run --system -w /tmp/work -- make

Threat model. The program is hostile from its first instruction: it may run any code, any
number of threads, and knows this file. It must not read or change files beyond the policy, reach
the network, signal or inspect any process outside the sandbox, outlive the run, or gain
privileges. Not promised: secrecy of what the policy lets it read, protection from bugs in the
kernel, from side channels of the CPU, or of the metadata of files that no rule denies and no
callback judges (Landlock knows neither stat(2) nor chmod(2)). Who may ptrace the host (root, a
debugger) is trusted.

How it works. Landlock and a seccomp filter decide what they can, in the kernel, at no cost. What
only a supervisor can decide (addresses, totals of processes and memory, resolved paths, the
callback) is trapped by the same filter and answered by threads of the calling process, through
seccomp_unotify(2). Filter and Landlock domain belong to a *thread* on Linux, so nothing is done in
a forked child: a short-lived thread, the launch pad, confines itself and calls posix_spawn(3).
What was judged by a pointer is not left to the kernel to read again: the *broker*, a thread inside
the sandbox's own Landlock domain, does it from a copy, on a copy of the descriptor or on the very
object that a path was looked up to. (What it cannot do, exec and chdir, is checked when it is
done, or each time it is used.) Calls that may block go to its workers; whatever has to look into
/proc goes to the *supervisor*'s thread, which is not confined; the callback has a thread of its own.

Its threads, in a run:
    launch pad    confined   starts the program, and has ended before its first instruction
    broker        confined   receives the requests, looks up, judges by the rules, acts: never waits for long
    workers       confined   act where that may block
    deputy        confined   tells who is inside, and kills, while the broker waits all the same
    supervisor    free       /proc, limits, timeouts, the end; in run() the caller's own thread
    callback      free       asks policy_fn, answers what needs no domain, traces what executes
    looker, reader, pump     free, each for what the program can make wait: denied directories, maps, pipes

Sections: 1 this text - 2 errors - 3 policy and public values - 4 kernel ABI - 5 syscall table -
6 raw calls - 7 Landlock - 8 BPF assembler and filter - 9 notifications - 10 handlers -
11 broker - 12 supervisor - 13 live policy and callback - 14 launch pad - 15 Sandbox, Process,
confine - 16 command line. What is evaluated when the file is imported uses earlier ones only.
"""
import atexit
import collections
import copyreg
import ctypes
import enum
import errno
import fcntl
import functools
import io
import os
import queue
import select
import signal
import stat
import struct
import sys
import threading
import time
import types
import _thread

__version__ = "0.1.0"
__all__ = [
    "Policy", "Sandbox", "Process", "Result", "ExitReason", "StdioMode", "confine",
    "SyscallEvent", "SyscallCategory", "Verdict", "PolicyContext", "LivePolicy", "Denial",
    "SandlockError", "PolicyError", "UnsupportedError", "LaunchError", "PolicyFnError",
    "landlock_abi_version", "kernel_support", "SYSTEM_PATHS", "main", "__version__",
]


# ------------------------------------------------------------------------------------------------
# 2  Errors
# ------------------------------------------------------------------------------------------------

class SandlockError(Exception):
    """Base of all errors of this module."""

    def __reduce__(self):  # for pickle, past the arguments of the subclasses
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__


class PolicyError(SandlockError, ValueError):
    """A policy that means nothing: `field`, `value`, and `reason`, which says what would be right."""

    def __init__(self, field, value, reason):
        super().__init__("%s: %r: %s" % (field, value, reason))
        self.field, self.value, self.reason = field, value, reason


class UnsupportedError(SandlockError):
    """A protection that cannot be given here: `feature`, what is `needed`, what was `found`."""

    def __init__(self, feature, needed, found):
        super().__init__("%s needs %s; found %s" % (feature, needed, found))
        self.feature, self.needed, self.found = feature, needed, found


_USED_UP = {
    errno.EMFILE: "this process has too many files open (ulimit -n); a run needs some 20",
    errno.ENFILE: "this machine has too many files open (/proc/sys/fs/file-max)",
    errno.EAGAIN: "there are too many processes and threads (ulimit -u), or too little memory for one more",
    errno.ENOMEM: "there is too little memory (ulimit -v)",
}


class LaunchError(SandlockError):
    """The program never started: the `stage` that failed, its `errno` (0: none), and the `path`.

    `exit_code` is what a shell would say: 127 not found, 126 not executable, else 125.
    """

    def __init__(self, stage, errno_=0, path=None, detail=None):
        parts = [stage] + ([repr(path)] if path is not None else [])
        parts.append(detail or os.strerror(errno_))
        if stage != "exec" and errno_ in _USED_UP:
            parts.append(_USED_UP[errno_])
        super().__init__(": ".join(parts))
        self.stage, self.errno, self.path = stage, errno_, path

    @property
    def exit_code(self):
        if self.stage != "exec":
            return 125
        return 127 if self.errno in (errno.ENOENT, errno.ENOTDIR) else 126


class PolicyFnError(SandlockError):
    """A policy callback asked for what it may not have."""


# ------------------------------------------------------------------------------------------------
# 3  Policy and public values
# ------------------------------------------------------------------------------------------------

class ExitReason(enum.IntEnum):
    """Why a run ended. KILLED: by `Process.kill` or another decision of the host."""
    EXITED = 0
    SIGNALED = 1
    KILLED = 2
    TIMEOUT = 3


class StdioMode(enum.IntEnum):
    """What a standard stream is connected to; a file object or a descriptor above 2 works too, and subprocess's
    PIPE, DEVNULL and (for stderr) STDOUT."""
    INHERIT = 0
    PIPE = 1
    PIPED = 1
    NULL = 2


class SyscallCategory(str, enum.Enum):
    """What a syscall is about; each has a row of events that a callback may ask for."""
    FILE = "file"
    NETWORK = "network"
    PROCESS = "process"
    MEMORY = "memory"


_EVENTS = {  # syscall families that a callback may ask for, by category
    "file": ("openat", "stat", "access", "readlink", "statfs", "unlinkat", "mkdirat", "mknodat",
             "symlinkat", "truncate", "chdir", "renameat", "linkat", "fchmodat", "fchownat",
             "utimensat", "setxattr", "getxattr"),
    "network": ("connect", "bind", "sendto"),
    "process": ("execve", "clone"),
    "memory": ("mmap",),
}


_CATEGORY_OF = {name: SyscallCategory(category)
                for category, names in _EVENTS.items() for name in names}


class _Record:
    """A value with named fields (`_fields`: name -> default), compared and hashed by them."""
    _fields = {}

    def __init__(self, **values):
        if not values.keys() <= self._fields.keys():
            raise TypeError("%s has no field %r" % (
                type(self).__name__, sorted(values.keys() - self._fields.keys())[0]))
        self.__dict__.update(self._fields, **values)

    def __setattr__(self, name, value):
        raise AttributeError("%s is frozen; %r cannot be set" % (type(self).__name__, name))

    def __delattr__(self, name):
        self.__setattr__(name, None)

    def _values(self):
        return tuple(getattr(self, name) for name in self._fields)

    def __eq__(self, other):
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self):
        return hash(tuple(frozenset(v.items()) if isinstance(v, types.MappingProxyType) else v
                          for v in self._values()))

    def _changed(self):
        """The fields that differ from their defaults, with their values."""
        return {name: value for name, value in zip(self._fields, self._values()) if value != self._fields[name]}

    def __repr__(self):
        return "%s(%s)" % (type(self).__name__, ", ".join("%s=%r" % row for row in self._changed().items()))


class SyscallEvent(_Record):
    """One judged syscall. `pid` is the process; `path` where the call leads, absolute and resolved; `host` an
    address, as text; `port` that of the peer, or the one to bind; `size` in bytes; `argv` a tuple of words (bytes as
    os.fsdecode gives them); `denied`: the rules or the kernel have refused it already. Absent text is None, absent
    numbers are 0 or None; `syscall` too is None where a process was killed for max_memory."""
    _fields = dict(syscall=None, category=None, pid=0, parent_pid=0, path=None, host=None, port=0,
                   size=None, argv=None, denied=False)

    def path_contains(self, text):
        """Whether there is a path with this text in it."""
        return self.path is not None and text in self.path

    def argv_contains(self, text):
        """Whether a word of argv has this text in it."""
        return self.argv is not None and any(text in word for word in self.argv)


class Denial(_Record):
    """What was refused: the `event`, the `reason`, the policy `field` that decides it (or None), and the `value`
    that would allow it: to add to the field, or for a limit to set (or None where there is no such value, as of
    fs_denied, net_deny and policy_fn)."""
    _fields = dict(event=None, reason="", field=None, value=None)


class Result(_Record):
    """How a run ended. Its fields:

    success: exit code 0, nothing killed it. exit_code (returncode): the program's, -N for signal N, 126/127
    when it could not be executed, None where the host lost it (see error). stdout, stderr: bytes, where
    captured. reason: ExitReason. signal: the number, or -1. error: text when something else than the program
    failed, else None. duration: seconds. denials: Denials, in order (the first 10,000, up to 8 MiB).
    missing_paths: granted paths that do not exist. unenforced: protections left out under best_effort. audits:
    the events for which the callback said so. policy_errors: text of what went wrong while calls were judged:
    the callback's errors and timeouts, and what there was no room for. used: under explain, what of the policy
    was needed, as (field, value, path of the call or None); Policy.narrow() takes it.
    """
    _fields = dict(exit_code=0, stdout=b"", stderr=b"", reason=ExitReason.EXITED, signal=-1,
                   error=None, duration=0.0, audits=(), denials=(), policy_errors=(),
                   missing_paths=(), unenforced=(), used=())

    @property
    def success(self):
        return self.exit_code == 0 and self.reason == ExitReason.EXITED and self.error is None

    @property
    def returncode(self):
        return self.exit_code


# One function for each kind of field: (field, value) -> the normal form, or PolicyError. Each
# accepts its own output, so that replace() can pass a policy's values through again.

def _sequence(field, value, what):
    if isinstance(value, (str, bytes, os.PathLike)) or not hasattr(value, "__iter__") or hasattr(value, "keys"):
        raise PolicyError(field, value, "expected a list of %s, not a single value or a mapping" % what)
    return list(value)


def _is_number(text):
    """ASCII digits, and not so many that reading them takes long."""
    return text.isascii() and text.isdigit() and len(text) < 20


def _text(field, value):
    try:
        text = os.fsdecode(value)
    except TypeError:
        raise PolicyError(field, value, "expected a string or a path") from None
    if not text or "\0" in text:
        raise PolicyError(field, value, "must not be empty nor contain a NUL")
    _require_encodable(field, text)
    return text


def _require_encodable(field, text):
    try:
        os.fsencode(text)
    except UnicodeEncodeError as e:
        raise PolicyError(field, text, "cannot be given to a system call: %s" % e) from None


def _path(field, value):
    text = _text(field, value)  # joined, not normalised: "link/.." is not "."
    return text if text.startswith("/") else os.path.join(os.getcwd(), text)


def _paths(field, value):
    return tuple(dict.fromkeys(_path(field, v) for v in _sequence(field, value, "paths")))


def _integer(field, value, low=1, high=2 ** 63 - 1):
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise PolicyError(field, value, "expected a whole number from %d to %d" % (low, high))
    return int(value)


def _size(field, value):
    """Bytes, or "512M": binary K, M, G, T."""
    if not isinstance(value, str):
        return _integer(field, value)
    digits, unit = value[:-1], value[-1:].upper()
    if unit not in ("K", "M", "G", "T"):
        digits, unit = value, ""
    if not _is_number(digits):
        raise PolicyError(field, value, "expected bytes or a size such as 512M (K M G T)")
    return _integer(field, int(digits) << 10 * " KMGT".index(unit or " "))


def _flag(field, value):
    if not isinstance(value, bool):
        raise PolicyError(field, value, "expected True or False")
    return value


def _seconds(field, value):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise PolicyError(field, value, "expected a positive number of seconds")
    return float(value)


def _port_range(field, value, low=0):
    """`8080`, `"8080"` or `"8000-8999"` -> (first, last)."""
    first, dash, last = str(value).partition("-")
    for digits in (first, last if dash else first):
        if isinstance(value, bool) or not _is_number(digits):
            raise PolicyError(field, value, 'expected a port, "lo-hi" or "*"')
    first, last = int(first), int(last if dash else first)
    if not low <= first <= last <= 65535:
        raise PolicyError(field, value, "ports go from %d to 65535, the lower one first" % low)
    return first, last


def _bind_ports(field, value):
    ports = _sequence(field, value, "ports")
    for port in ports:
        if port != "*":
            _port_range(field, port)
    return tuple(dict.fromkeys(int(p) if str(p).isdigit() else p for p in ports))


class _Endpoint(_Record):
    """One parsed endpoint. `schemes`: of tcp, udp, unix. `host`: None for any address, an
    ip_network, or a name to resolve. `ports`: a tuple of ranges, None for any."""
    _fields = dict(schemes=(), host=None, ports=None)


def _endpoint(field, text):
    """[tcp://|udp://] and a host, an address, a network ([...] for IPv6) or *, and :port,port; or unix://."""
    def wrong(reason):
        return PolicyError(field, text, reason)

    if not isinstance(text, str):
        raise wrong("expected a string such as example.org:443, 10.0.0.0/8 or [::1]:80")
    scheme, mark, rest = text.partition("://")
    if not mark:
        scheme, rest = "", text
    elif scheme not in ("tcp", "udp", "unix"):
        raise wrong("%r is not one of tcp:// udp:// unix://" % (scheme + mark))
    schemes = (scheme,) if scheme else ("tcp", "udp")
    if scheme == "unix":
        if rest:
            raise wrong("unix:// stands alone; Unix sockets by path are granted by fs_writable")
        return _Endpoint(schemes=schemes)
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise wrong("expected [IPv6 address], then nothing or :port")
        colon, ports = tail[:1], tail[1:]
        if ":" not in host or "%" in host:
            raise wrong("brackets are for IPv6 addresses, without a zone")
    else:
        host, colon, ports = rest.partition(":")
        if ":" in ports:
            raise wrong("write an IPv6 address in brackets: [%s]" % rest)
    if colon and not ports:
        raise wrong("a port must follow the colon")
    ranges = None if ports in ("", "*") else tuple(_endpoint_port(wrong, part) for part in ports.split(","))
    if not host and not colon:
        raise wrong("an endpoint must not be empty")
    return _Endpoint(schemes=schemes, host=_endpoint_host(wrong, host), ports=ranges)


def _endpoint_port(wrong, text):
    try:
        return _port_range("", text, low=1)
    except PolicyError:
        raise wrong("%r is not a port from 1 to 65535" % text) from None


def _endpoint_host(wrong, host):
    """"" and "*" -> None; an address or network -> ip_network, IPv4-mapped ones and the
    unspecified address as the kernel takes them; else a host name."""
    if host in ("", "*"):
        return None
    labels = host[:-1].split(".") if host.endswith(".") else host.split(".")
    if ":" in host or "/" in host or labels[-1].isdigit():
        try:
            net = ipaddress.ip_network(host)
        except ValueError as e:
            raise wrong("not an address or network: %s" % e) from None
        mapped = net.version == 6 and net.network_address.ipv4_mapped
        if mapped and net.prefixlen >= 96:
            net = ipaddress.ip_network((mapped, net.prefixlen - 96))
        if net.num_addresses == 1 and net.network_address.is_unspecified:
            net = ipaddress.ip_network("127.0.0.1" if net.version == 4 else "::1")
        return net
    for label in labels:
        if not (0 < len(label) <= 63 and label.isascii() and label[0] != "-" and label[-1] != "-"
                and label.replace("-", "a").replace("_", "a").isalnum()) or len(host) > 253:
            raise wrong("%r is not a host name" % host)
    return host


def _endpoints(field, value):
    texts = _sequence(field, value, "endpoints")
    for text in texts:
        parsed = _endpoint(field, text)
        if field == "net_deny" and (isinstance(parsed.host, str) or "unix" in parsed.schemes):
            raise PolicyError(field, text, "net_deny takes addresses and networks, not names")
    return tuple(dict.fromkeys(texts))


def _cores(field, value):
    cores = _sequence(field, value, "core numbers")
    if not cores:
        raise PolicyError(field, value, "needs one core at least")
    return tuple(sorted({_integer(field, c, 0, 1023) for c in cores}))


def _user(field, value):
    """A uid, a name or "uid:gid"; that it exists is checked now."""
    if isinstance(value, int):
        return _integer(field, value, 0, 2 ** 32 - 2)
    text = _text(field, value)
    _user_ids(field, text)
    return text


def _user_ids(field, value):
    """-> (uid, gid, groups) of a `user` value."""
    uid, colon, gid = str(value).partition(":")
    if colon and _is_number(uid) and _is_number(gid):
        uid, gid = (_integer(field, int(n), 0, 2 ** 32 - 2) for n in (uid, gid))
        return uid, gid, [gid]
    try:
        if colon:
            raise KeyError(value)
        entry = pwd.getpwuid(int(uid)) if _is_number(uid) else pwd.getpwnam(uid)
    except (KeyError, OverflowError):  # no such account; no uid is that high
        if _is_number(uid) and not colon:
            raise PolicyError(field, value, 'uid without an account; write "uid:gid"') from None
        raise PolicyError(field, value, 'expected an account name, a uid or "uid:gid"') from None
    return entry.pw_uid, entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)


def _environment(field, value):
    if not hasattr(value, "keys"):
        raise PolicyError(field, value, "expected a mapping of names to values")
    pairs = dict(value)
    for name, text in pairs.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise PolicyError(field, (name, text), "names and values are strings")
        if not name or "=" in name or "\0" in name + text:
            raise PolicyError(field, (name, text), "a name must not be empty nor contain '='; "
                                                   "neither part may contain a NUL")
        _require_encodable(field, name + text)
    return types.MappingProxyType(pairs)


def _callback(field, value):
    if not callable(value):
        raise PolicyError(field, value, "expected a function (event, ctx) -> verdict")
    return value


def _event_names(field, value):
    known = {*_CATEGORY_OF, *_EVENTS}
    names = tuple(getattr(v, "value", v) for v in _sequence(field, value, "event names"))
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise PolicyError(field, name, "not an event; known: " + " ".join(sorted(known)))
    return tuple(dict.fromkeys(names))


def _denied_syscalls(field, value):
    names = _sequence(field, value, "syscall names")
    for name in names:
        if not isinstance(name, str) or name not in _ALL_SYSCALLS:
            raise PolicyError(field, name, "no architecture has a syscall of that name")
    return tuple(dict.fromkeys(names))


def _allowed_syscalls(field, value):
    names = _denied_syscalls(field, value)
    for name in names:
        if name in _NEVER_ALLOWED:
            raise PolicyError(field, name, "allowing it would undo the sandbox; what may be "
                                           "lifted: " + " ".join(sorted(_LIFTABLE)))
    return names


def _import_the_rest():
    """What is too slow to import with this file, with the first policy. Never later: a program that
    may write to a directory of sys.path could plant a module there, and the host would run it."""
    global ipaddress, pwd, resource, socket
    import ipaddress
    import pwd
    import resource
    import socket


class Policy(_Record):
    """What a program may do: a frozen, hashable value. Nothing is allowed that no field grants.

    fs_readable, fs_writable, fs_denied: lists of paths, made absolute now; each means all beneath it. Readable:
    to read, list and execute; writable: that, and to create, change, rename and remove; denied: carved out of both.
    net_allow, or net_deny: lists of endpoints to connect and send to (none; or all but these), "host:port,port",
    "10.0.0.0/8", "[::1]:80", "*", with "udp://" before it for datagrams, "unix://" for Unix ones. net_allow_bind: TCP
    ports to bind and listen on, 80, "8000-8999", "*" (datagram sockets, where there are any, may bind every port).
    Of the whole sandbox: max_memory (bytes, or "512M"), max_processes (64; every one that holds a pid, zombies
    too, but not threads). Of each process: max_open_files (descriptors), max_cpu_seconds, max_file_size (bytes);
    setrlimit(2). cpu_cores: a list of numbers. user: a uid, a name or "uid:gid", for root hosts.
    extra_deny_syscalls, extra_allow_syscalls: names; of those that are refused anyway, System V IPC and POSIX
    message queues may be allowed. cwd: a path. env: a mapping, added to the host's environment, or with
    clean_env to its PATH, HOME, USER, TERM and LANG. policy_fn: a function (SyscallEvent, PolicyContext) ->
    verdict, asked for what the command does (not for its own start); policy_events: names of events or categories
    that it is asked for (all but memory); policy_timeout: seconds that it has for one (5). best_effort: run without
    what this kernel lacks. explain: tell what the kernel refuses, too. What is left out or None is not limited, set
    or asked.

    Raises TypeError for an unknown field, PolicyError for a bad value.
    """
    _rules = {  # field: (default, normaliser)
        "fs_readable": ((), _paths),
        "fs_writable": ((), _paths),
        "fs_denied": ((), _paths),
        "net_allow": ((), _endpoints),
        "net_deny": ((), _endpoints),
        "net_allow_bind": ((), _bind_ports),
        "max_memory": (None, _size),
        "max_processes": (64, _integer),
        "max_open_files": (None, _integer),
        "max_cpu_seconds": (None, _integer),
        "max_file_size": (None, _size),
        "cpu_cores": (None, _cores),
        "user": (None, _user),
        "extra_deny_syscalls": ((), _denied_syscalls),
        "extra_allow_syscalls": ((), _allowed_syscalls),
        "cwd": (None, _path),
        "env": (types.MappingProxyType({}), _environment),
        "clean_env": (False, _flag),
        "policy_fn": (None, _callback),
        "policy_events": (("file", "network", "process"), _event_names),
        "policy_timeout": (5.0, _seconds),
        "best_effort": (False, _flag),
        "explain": (False, _flag),
    }
    _fields = {name: default for name, (default, _) in _rules.items()}

    def __init__(self, **values):
        _import_the_rest()
        for name in values:
            if name not in self._rules:
                raise TypeError("Policy has no field %r; fields: %s" % (name, " ".join(self._rules)))
        super().__init__(**{name: None if v is None and self._fields[name] is None else self._rules[name][1](name, v)
                            for name, v in values.items()})
        if self.net_allow and self.net_deny:
            raise PolicyError("net_deny", self.net_deny, "not together with net_allow: one list "
                                                         "says all, either way round")

    def replace(self, **fields):
        """A copy with some fields changed."""
        return Policy(**{**dict(zip(self._fields, self._values())), **fields})

    @classmethod
    def from_file(cls, path):
        """The policy that a JSON file describes: one object, field -> value, as to_file() writes it.
        PolicyError names file, key and reason where it cannot be read, has a key that is none or
        twice, or a bad value."""
        import json

        def once(pairs):
            for name, value in pairs:
                if sum(name == other for other, _ in pairs) > 1:
                    raise PolicyError(name, value, "twice in %s" % path)
            return dict(pairs)
        try:
            with open(path, encoding="utf-8") as file:
                values = json.load(file, object_pairs_hook=once)
        except PolicyError:
            raise
        except (OSError, ValueError, RecursionError) as e:
            raise PolicyError("file", os.fspath(path), "expected a JSON file: %s" % e) from e
        if not isinstance(values, dict):
            raise PolicyError("file", os.fspath(path), "expected an object, field -> value")
        for name, value in values.items():
            if name not in cls._rules or name == "policy_fn":
                raise PolicyError(name, value, "no key of a profile, in %s; keys: %s" % (
                    path, " ".join(n for n in cls._rules if n != "policy_fn")))
        try:
            return cls(**values)
        except PolicyError as e:
            raise PolicyError(e.field, e.value, "%s (in %s)" % (e.reason, path)) from e

    def to_file(self, path):
        """Writes what differs from the defaults as JSON, whole or not at all. PolicyError for a
        callback, which has no text; OSError where the file cannot be written."""
        import json
        if self.policy_fn is not None:
            raise PolicyError("policy_fn", self.policy_fn, "a callback cannot be written to a file")
        values = {name: dict(value) if name == "env" else value for name, value in self._changed().items()}
        aside = "%s.%d.new" % (os.fsdecode(path), os.getpid())
        try:
            with open(aside, "x", encoding="utf-8") as file:
                file.write(json.dumps(values, indent=2) + "\n")
            os.replace(aside, path)
        except BaseException:
            if os.path.lexists(aside):
                os.unlink(aside)
            raise

    def narrow(self, used):
        """The smallest policy that allows what a run under this one has used (Result.used), with
        directories in place of many files; limits and the rest stay as they are. What would open a
        whole home directory or everything stays out: Policy.left_out() tells. Listening without bind(2), which
        net_allow_bind "*" allows, is not noticed."""
        granted = [os.path.realpath(path) for path in self.fs_readable + self.fs_writable]
        readable, writable, _ = _fold(used, granted)
        return self.replace(
            fs_readable=readable, fs_writable=writable, net_deny=(), explain=False, policy_fn=None,
            net_allow=[e for e in self.net_allow if e == "unix://"] + sorted(
                {value for field, value, _ in used if field == "net_allow"}),
            net_allow_bind=sorted({value for field, value, _ in used if field == "net_allow_bind"}))

    @staticmethod
    def left_out(used):
        """The directories that narrow() does not grant, although they were listed or written to."""
        return _fold(used, ())[2]

    def __reduce__(self):
        return functools.partial(Policy, **{**self._changed(), "env": dict(self.env)}), ()


def _system_paths():
    names = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/proc",
             "/sys/devices/system/cpu", "/nix/store", "/gnu/store",
             sys.base_prefix, sys.prefix, os.path.dirname(os.path.realpath(sys.executable or "/usr"))]
    kept = []
    for name in names:
        covered = any(name == k or name.startswith(k + "/") for k in kept)
        if name != "/" and not covered and os.path.exists(name):
            kept.append(name)
    return tuple(kept)


#: Read-only paths that an ordinary dynamically linked program needs on this machine. Other
#: processes' memory and environment below /proc stay shut: Landlock refuses ptrace access.
SYSTEM_PATHS = _system_paths()

_FOLDED = 3, 12  # from how many entries on a directory stands for them: of the system, elsewhere


def _fold(used, granted):
    """Result.used -> (readable, writable, left out) paths. Nothing is folded into a directory that was not
    `granted`, nor into one directly below the root or named bin or sbin; the root, the home directory and what is
    above it are not granted at all."""
    home, left_out = os.path.realpath(os.path.expanduser("~")), set()

    def too_much(path):
        return path == "/" or (home + "/").startswith(path + "/")

    def may_fold(folder):
        return not too_much(folder) and any(_is_beneath(folder, top) for top in granted)
    writable = set()
    for field, value, path in used:
        if field == "fs_writable":
            if not too_much(value):
                writable.add(_named_anew(value))
            elif path != value and os.path.lexists(path):
                writable.add(path)  # it was made there, and will be found
            else:
                left_out.add(value)
    readable = {_named_anew(value) for field, value, _ in used if field == "fs_readable"}
    # What was a file or a directory, and leads elsewhere by now, would grant what it leads to.
    left_out |= {path for path in readable | writable if too_much(path) or os.path.realpath(path) != path
                 and os.path.lexists(path)}
    writable -= left_out
    writable = _outermost(writable)
    readable = {path for path in _outermost(readable - left_out, writable) if os.path.lexists(path)}
    for depth in range(max((path.count("/") for path in readable), default=0), 2, -1):
        folders = {}
        for path in readable:
            if path.count("/") == depth:
                folders.setdefault(os.path.dirname(path), []).append(path)
        for folder, paths in folders.items():
            of_system = any(_is_beneath(folder, top) for top in map(os.path.realpath, SYSTEM_PATHS))
            programs = os.path.basename(folder) in ("bin", "sbin")
            if len(paths) >= _FOLDED[not of_system] and may_fold(folder) and not programs:
                readable = readable - set(paths) | {folder}
    return sorted(_outermost(readable, writable)), sorted(writable), sorted(left_out)


def _above(path):
    """The directories above a path, of text or bytes, the nearest first."""
    while path != os.path.dirname(path):
        path = os.path.dirname(path)
        yield path


def _is_beneath(path, top, slash="/"):
    """Of text, or of bytes with a slash of their kind."""
    return path == top or path.startswith(top.rstrip(slash) + slash)


def _named_anew(path):
    """What has another number each time is granted by what it is in."""
    first = path.split("/")[1:3]
    if first[0] == "proc" and first[-1].isdigit():
        return "/proc"
    return "/dev/pts" if first == ["dev", "pts"] else path


def _outermost(paths, others=()):
    """Without those beneath another one, and what every policy allows."""
    tops = {*paths, *others}
    return {path for path in paths if path not in _FREE_DEVICES and path not in others and tops.isdisjoint(_above(path))}


#: Readable and writable under every policy, since they reach nothing.
_FREE_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


# ------------------------------------------------------------------------------------------------
# 4  Kernel ABI: constants and structures
# ------------------------------------------------------------------------------------------------

_u16, _u32, _i32, _u64 = ctypes.c_uint16, ctypes.c_uint32, ctypes.c_int32, ctypes.c_uint64


class sock_filter(ctypes.Structure):  # linux/filter.h
    _fields_ = [("code", _u16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", _u32)]


class sock_fprog(ctypes.Structure):
    _fields_ = [("len", _u16), ("filter", ctypes.c_void_p)]


class seccomp_data(ctypes.Structure):  # linux/seccomp.h
    _fields_ = [("nr", _i32), ("arch", _u32), ("instruction_pointer", _u64), ("args", _u64 * 6)]


# The ones that are packed and unpacked each time.
seccomp_notif = struct.Struct("=QIIiIQ6Q")  # id, pid, flags; seccomp_data
seccomp_notif_resp = struct.Struct("=QqiI")  # id, val, error, flags
seccomp_notif_addfd = struct.Struct("=Q4I")  # id, flags, srcfd, newfd, newfd_flags
open_how = struct.Struct("=3Q")  # linux/openat2.h: flags, mode, resolve


class landlock_ruleset_attr(ctypes.Structure):  # linux/landlock.h
    _fields_ = [("handled_access_fs", _u64), ("handled_access_net", _u64), ("scoped", _u64)]


class landlock_path_beneath_attr(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed_access", _u64), ("parent_fd", _i32)]


class landlock_net_port_attr(ctypes.Structure):
    _fields_ = [("allowed_access", _u64), ("port", _u64)]


class rlimit64(ctypes.Structure):  # linux/resource.h
    _fields_ = [("rlim_cur", _u64), ("rlim_max", _u64)]


class pidfd_info(ctypes.Structure):  # linux/pidfd.h, PIDFD_INFO_SIZE_VER0
    _fields_ = [("mask", _u64), ("cgroupid", _u64), ("ids", _u32 * 11), ("exit_code", _i32)]


def _IOC(direction, kind, nr, structure):  # asm-generic/ioctl.h: all three architectures
    size = structure.size if isinstance(structure, struct.Struct) else ctypes.sizeof(structure)
    return direction << 30 | size << 16 | ord(kind) << 8 | nr


def _IOW(nr, structure, kind="!"):
    return _IOC(1, kind, nr, structure)


def _IOWR(nr, structure, kind="!"):
    return _IOC(3, kind, nr, structure)


SECCOMP_IOCTL_NOTIF_RECV = _IOWR(0, seccomp_notif)
SECCOMP_IOCTL_NOTIF_SEND = _IOWR(1, seccomp_notif_resp)
SECCOMP_IOCTL_NOTIF_ID_VALID = _IOW(2, _u64)
SECCOMP_IOCTL_NOTIF_ADDFD = _IOW(3, seccomp_notif_addfd)
SECCOMP_IOCTL_NOTIF_SET_FLAGS = _IOW(4, _u64)
SECCOMP_USER_NOTIF_FLAG_CONTINUE = 1
SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP = 1
MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_HUGETLB, F_ADD_SEALS, F_SEAL_ALL = 1, 2, 4, 1033, 0xf
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 5
SECCOMP_RET_KILL_PROCESS = 0x80000000
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_USER_NOTIF = 0x7fc00000
SECCOMP_RET_ALLOW = 0x7fff0000
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH, LANDLOCK_RULE_NET_PORT = 1, 2
PIDFD_GET_INFO = _IOWR(11, pidfd_info, kind="\xff")
PIDFD_INFO_EXIT = 1 << 3
PIDFD_THREAD = 0o200  # O_EXCL
PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 3, 4, 38
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
PTRACE_DETACH, PTRACE_GETSIGINFO, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4202, 0x4206, 0x4207
PTRACE_SYSCALL, PTRACE_O_TRACESYSGOOD, PTRACE_O_TRACEEXEC = 24, 1, 1 << 4
PTRACE_EVENT_EXEC, PTRACE_EVENT_STOP = 4, 128
WALL, P_PIDFD = 0x40000000, 3  # __WALL of wait(2); waitid(2), 5.4
RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_DATA, RLIMIT_CORE, RLIMIT_NOFILE = 0, 1, 2, 4, 7
PROT_WRITE, MAP_SHARED, MAP_ANONYMOUS, CLONE_VM = 2, 0x01, 0x20, 0x100
CLOSE_RANGE_UNSHARE, CLOSE_RANGE_CLOEXEC = 1 << 1, 1 << 2
RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT, RESOLVE_CACHED = 2, 16, 32
PROC_SUPER_MAGIC = 0x9fa0  # linux/magic.h
AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_EACCESS, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = (
    -100, 0x100, 0x200, 0x400, 0x1000)  # linux/fcntl.h
_STAT_SIZE, _STATX_SIZE, _STATFS_SIZE = 144 if os.uname().machine == "x86_64" else 128, 256, 120
STATX_BTIME = 0x800
XATTR_NAME_MAX, XATTR_SIZE_MAX = 255, 65536  # linux/limits.h
_PAGE = 4096  # or a multiple
IN_ONLYDIR, IN_DONT_FOLLOW = 0x01000000, 0x02000000
O_TMPFILE = 0o20000000 | os.O_DIRECTORY
O_ACCMODE, O_PATH = 0o3, 0o10000000  # asm-generic/fcntl.h; musl counts O_PATH to the one, some libcs lack the other
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
#: CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID: what a root host's program keeps.
_KEPT_CAPABILITIES = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4
CAP_SYS_PTRACE = 1 << 19
POSIX_SPAWN_SETPGROUP, POSIX_SPAWN_SETSIGDEF = 0x02, 0x04  # spawn.h of glibc and musl
POSIX_SPAWN_SETSIGMASK, POSIX_SPAWN_SETSID = 0x08, 0x80

CLONE_THREAD, CLONE_PARENT, CLONE_FS, CLONE_FILES = 0x00010000, 0x00008000, 0x00000200, 0x00000400
_CLONE_NAMESPACES = (0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 |  # NEWNS CGROUP UTS IPC
                     0x10000000 | 0x20000000 | 0x40000000)                # USER PID NET
AF_UNSPEC, AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 0, 1, 2, 10, 16
SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, _SOCK_TYPE_MASK = 1, 2, 3, 5, 0xf
SOL_SOCKET, SO_TYPE, SO_SNDBUF, SO_SNDTIMEO, SO_DOMAIN = 1, 3, 7, 21, 39
SO_LINGER, SO_ZEROCOPY, TCP_FASTOPEN_CONNECT = 13, 60, 30
SCM_RIGHTS, SCM_CREDENTIALS = 1, 2
SHUT_RDWR = 2
IPPROTO_TCP, IPPROTO_UDP, NETLINK_ROUTE = 6, 17, 0
MSG_FASTOPEN, MSG_DONTWAIT, MSG_NOSIGNAL = 0x20000000, 0x40, 0x4000
MSG_OOB, MSG_DONTROUTE, MSG_PROBE, MSG_EOR, MSG_CONFIRM, MSG_MORE = 0x1, 0x4, 0x10, 0x80, 0x800, 0x8000
# What a send on behalf may ask for. Never MSG_ZEROCOPY: the kernel would go on reading the sender's
# memory, which then is the host's, after the call.
_SEND_FLAGS = (MSG_DONTWAIT | MSG_NOSIGNAL | MSG_OOB | MSG_DONTROUTE | MSG_PROBE | MSG_EOR | MSG_CONFIRM
               | MSG_MORE)
TIOCSTI, TIOCLINUX, TIOCSETD, TIOCEXCL = 0x5412, 0x541C, 0x5423, 0x540C
BTRFS_IOCTL_MAGIC, BCACHEFS_IOCTL_MAGIC = 0x94, 0xbc  # linux/btrfs.h, fs/bcachefs/bcachefs_ioctl.h
FICLONE, FICLONERANGE, FIDEDUPERANGE = (  # linux/fs.h
    _IOW(9, ctypes.c_int, "\x94"), _IOW(13, _u64 * 4, "\x94"), _IOWR(54, _u64 * 3, "\x94"))
OCFS2_IOC_REFLINK = _IOW(4, _u64 * 3, "o")  # fs/ocfs2/ocfs2_ioctl.h
FS_IOC_ENABLE_VERITY = _IOW(133, _u64 * 16, "f")  # linux/fsverity.h
FS_IOC_SET_ENCRYPTION_POLICY, FS_IOC_REMOVE_ENCRYPTION_KEY, FS_IOC_REMOVE_ENCRYPTION_KEY_ALL_USERS = (
    _IOC(2, "f", 19, _u32 * 3), _IOWR(24, _u64 * 8, "f"), _IOWR(25, _u64 * 8, "f"))  # linux/fscrypt.h
F_SETOWN, F_SETOWN_EX, FIOSETOWN, SIOCSPGRP = 8, 15, 0x8901, 0x8902
F_SETLEASE, F_SETDELEG = 1024, 1040  # a lease makes whoever opens the file wait, host or not
FIONREAD = 0x541B
PRIO_PROCESS, IOPRIO_WHO_PROCESS = 0, 1
SIG_UNBLOCK, SIG_SETMASK, SA_RESTART = 1, 2, 0x10000000  # asm-generic/signal.h
ERESTARTSYS = 512  # linux/errno.h: not seen by a task that has a signal to handle first
PF_FORKNOEXEC = 0x40  # linux/sched.h: a flag of proc_pid_stat(5)
BPF_LD_W_ABS, BPF_JA, BPF_JEQ_K, BPF_JGE_K, BPF_JSET_K, BPF_RET_K, BPF_AND_K = (
    0x20, 0x05, 0x15, 0x35, 0x45, 0x06, 0x54)  # linux/bpf_common.h
# PER_LINUX, PER_LINUX32, UNAME26, both, ADDR_NO_RANDOMIZE, and the query
_HARMLESS_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0x40000, 0xffffffff)


# ------------------------------------------------------------------------------------------------
# 5  Syscall table
# ------------------------------------------------------------------------------------------------

# Names in the order of their numbers; @N sets the next number. From 424 on, all architectures
# number alike. Taken from the kernel's own headers (linux-libc-dev 7.2) and tested against them.

_X86_64_SYSCALLS = """
read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction
rt_sigprocmask rt_sigreturn ioctl pread64 pwrite64 readv writev access pipe select sched_yield
mremap msync mincore madvise shmget shmat shmctl dup dup2 pause nanosleep getitimer alarm setitimer
getpid sendfile socket connect accept sendto recvfrom sendmsg recvmsg shutdown bind listen
getsockname getpeername socketpair setsockopt getsockopt clone fork vfork execve exit wait4 kill
uname semget semop semctl shmdt msgget msgsnd msgrcv msgctl fcntl flock fsync fdatasync truncate
ftruncate getdents getcwd chdir fchdir rename mkdir rmdir creat link unlink symlink readlink chmod
fchmod chown fchown lchown umask gettimeofday getrlimit getrusage sysinfo times ptrace getuid syslog
getgid setuid setgid geteuid getegid setpgid getppid getpgrp setsid setreuid setregid getgroups
setgroups setresuid getresuid setresgid getresgid getpgid setfsuid setfsgid getsid capget capset
rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend sigaltstack utime mknod uselib
personality ustat statfs fstatfs sysfs getpriority setpriority sched_setparam sched_getparam
sched_setscheduler sched_getscheduler sched_get_priority_max sched_get_priority_min
sched_rr_get_interval mlock munlock mlockall munlockall vhangup modify_ldt pivot_root _sysctl prctl
arch_prctl adjtimex setrlimit chroot sync acct settimeofday mount umount2 swapon swapoff reboot
sethostname setdomainname iopl ioperm create_module init_module delete_module get_kernel_syms
query_module quotactl nfsservctl getpmsg putpmsg afs_syscall tuxcall security gettid readahead
setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
removexattr lremovexattr fremovexattr tkill time futex sched_setaffinity sched_getaffinity
set_thread_area io_setup io_destroy io_getevents io_submit io_cancel get_thread_area lookup_dcookie
epoll_create epoll_ctl_old epoll_wait_old remap_file_pages getdents64 set_tid_address
restart_syscall semtimedop fadvise64 timer_create timer_settime timer_gettime timer_getoverrun
timer_delete clock_settime clock_gettime clock_getres clock_nanosleep exit_group epoll_wait
epoll_ctl tgkill utimes vserver mbind set_mempolicy get_mempolicy mq_open mq_unlink mq_timedsend
mq_timedreceive mq_notify mq_getsetattr kexec_load waitid add_key request_key keyctl ioprio_set
ioprio_get inotify_init inotify_add_watch inotify_rm_watch migrate_pages openat mkdirat mknodat
fchownat futimesat newfstatat unlinkat renameat linkat symlinkat readlinkat fchmodat faccessat
pselect6 ppoll unshare set_robust_list get_robust_list splice tee sync_file_range vmsplice
move_pages utimensat epoll_pwait signalfd timerfd_create eventfd fallocate timerfd_settime
timerfd_gettime accept4 signalfd4 eventfd2 epoll_create1 dup3 pipe2 inotify_init1 preadv pwritev
rt_tgsigqueueinfo perf_event_open recvmmsg fanotify_init fanotify_mark prlimit64 name_to_handle_at
open_by_handle_at clock_adjtime syncfs sendmmsg setns getcpu process_vm_readv process_vm_writev kcmp
finit_module sched_setattr sched_getattr renameat2 seccomp getrandom memfd_create kexec_file_load
bpf execveat userfaultfd membarrier mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc
pkey_free statx io_pgetevents rseq uretprobe uprobe
"""
_GENERIC_SYSCALLS = """
io_setup io_destroy io_submit io_cancel io_getevents setxattr lsetxattr fsetxattr getxattr lgetxattr
fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr getcwd
lookup_dcookie eventfd2 epoll_create1 epoll_ctl epoll_pwait dup dup3 fcntl inotify_init1
inotify_add_watch inotify_rm_watch ioctl ioprio_set ioprio_get flock mknodat mkdirat unlinkat
symlinkat linkat @39 umount2 mount pivot_root nfsservctl statfs fstatfs truncate ftruncate fallocate
faccessat chdir fchdir chroot fchmod fchmodat fchownat fchown openat close vhangup pipe2 quotactl
getdents64 lseek read write readv writev pread64 pwrite64 preadv pwritev sendfile pselect6 ppoll
signalfd4 vmsplice splice tee readlinkat newfstatat fstat sync fsync fdatasync sync_file_range
timerfd_create timerfd_settime timerfd_gettime utimensat acct capget capset personality exit
exit_group waitid set_tid_address unshare futex set_robust_list get_robust_list nanosleep getitimer
setitimer kexec_load init_module delete_module timer_create timer_gettime timer_getoverrun
timer_settime timer_delete clock_settime clock_gettime clock_getres clock_nanosleep syslog ptrace
sched_setparam sched_setscheduler sched_getscheduler sched_getparam sched_setaffinity
sched_getaffinity sched_yield sched_get_priority_max sched_get_priority_min sched_rr_get_interval
restart_syscall kill tkill tgkill sigaltstack rt_sigsuspend rt_sigaction rt_sigprocmask
rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigreturn setpriority getpriority reboot setregid
setgid setreuid setuid setresuid getresuid setresgid getresgid setfsuid setfsgid times setpgid
getpgid getsid setsid getgroups setgroups uname sethostname setdomainname getrlimit setrlimit
getrusage umask prctl getcpu gettimeofday settimeofday adjtimex getpid getppid getuid geteuid getgid
getegid gettid sysinfo mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr msgget
msgctl msgrcv msgsnd semget semctl semtimedop semop shmget shmctl shmat shmdt socket socketpair bind
listen accept connect getsockname getpeername sendto recvfrom setsockopt getsockopt shutdown sendmsg
recvmsg readahead brk munmap mremap add_key request_key keyctl clone execve mmap fadvise64 swapon
swapoff mprotect msync mlock munlock mlockall munlockall mincore madvise remap_file_pages mbind
get_mempolicy set_mempolicy migrate_pages move_pages rt_tgsigqueueinfo perf_event_open accept4
recvmmsg @260 wait4 prlimit64 fanotify_init fanotify_mark name_to_handle_at open_by_handle_at
clock_adjtime syncfs setns sendmmsg process_vm_readv process_vm_writev kcmp finit_module
sched_setattr sched_getattr renameat2 seccomp getrandom memfd_create bpf execveat userfaultfd
membarrier mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc pkey_free statx
io_pgetevents rseq kexec_file_load
"""
_COMMON_SYSCALLS = """
@424 pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree move_mount fsopen
fsconfig fsmount fspick pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2 process_madvise
epoll_pwait2 mount_setattr quotactl_fd landlock_create_ruleset landlock_add_rule
landlock_restrict_self memfd_secret process_mrelease futex_waitv set_mempolicy_home_node cachestat
fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue statmount listmount lsm_get_self_attr
lsm_set_self_attr lsm_list_modules mseal setxattrat getxattrat listxattrat removexattrat
open_tree_attr file_getattr file_setattr listns rseq_slice_yield
"""


def _numbers(text):
    table, nr = {}, 0
    for word in text.split():
        if word.startswith("@"):
            nr = int(word[1:])
        else:
            table[word], nr = nr, nr + 1
    return table


class _Architecture(_Record):
    """`audit`: AUDIT_ARCH_* of linux/audit.h. `syscalls`: name -> number."""
    _fields = dict(name="", audit=0, syscalls=None)

    def __hash__(self):
        return hash(self.name)


_ARCHITECTURES = {row.name: row for row in (
    _Architecture(name="x86_64", audit=0xC000003E,
                  syscalls=_numbers(_X86_64_SYSCALLS + _COMMON_SYSCALLS)),
    _Architecture(name="aarch64", audit=0xC00000B7,
                  syscalls=_numbers(_GENERIC_SYSCALLS + "@38 renameat" + _COMMON_SYSCALLS)),
    _Architecture(name="riscv64", audit=0xC00000F3,
                  syscalls=_numbers(_GENERIC_SYSCALLS + "@258 riscv_hwprobe riscv_flush_icache"
                                    + _COMMON_SYSCALLS)),
)}
_ALL_SYSCALLS = frozenset(name for row in _ARCHITECTURES.values() for name in row.syscalls)
_ARCH = _ARCHITECTURES.get(os.uname().machine) if ctypes.sizeof(ctypes.c_void_p) == 8 else None
_NR = _ARCH.syscalls if _ARCH else {}


# ------------------------------------------------------------------------------------------------
# 6  Raw calls
# ------------------------------------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = (ctypes.c_long,) * 7


# Without argument types a call costs a third, and takes integers of 32 bits and buffers. A sixth
# argument is passed on the stack, where only a c_long fills its place.
_ZERO = ctypes.c_long(0)
_released = ctypes.CDLL(None, use_errno=True).syscall
_held = ctypes.PyDLL(None, use_errno=True).syscall
_released.restype = _held.restype = ctypes.c_long


def _raw(nr, a=0, b=0, c=0, d=0, e=0, f=0):
    """syscall(2) by number, GIL released; the result, or -errno. Pointers are addresses."""
    result = _libc.syscall(nr, a, b, c, d, e, f)
    return -ctypes.get_errno() if result == -1 else result


def _slow(nr, *args):
    """The same with buffers, or bytes that are only read, as pointers; integers up to 32 bits."""
    result = _released(nr, *args)
    return -ctypes.get_errno() if result == -1 else result


def _quick(nr, *args):
    """As _slow, with the GIL kept: for what never waits. Another thread of the host that computes
    would else make us wait a switch interval (5 ms) for each call."""
    result = _held(nr, *args)
    return -ctypes.get_errno() if result == -1 else result


def _result(value, what=""):
    """What a raw call returned, or OSError."""
    if value < 0:
        raise OSError(-value, "%s: %s" % (what, os.strerror(-value)))
    return value


def _call(name, *args):
    """The named syscall, checked: its result, or OSError. Pointers are addresses."""
    if name not in _NR:
        raise OSError(errno.ENOSYS, "no %s on %s" % (name, os.uname().machine))
    return _result(_raw(_NR[name], *args), name)


def _address(structure):
    return ctypes.addressof(structure)


def _sock_fprog(program):
    """struct sock_fprog of a filter in bytes, which it keeps."""
    code = ctypes.create_string_buffer(program, len(program))
    fprog = sock_fprog(len(program) // ctypes.sizeof(sock_filter), _address(code))
    fprog.kept = code
    return fprog


def _pidfd_open(pid):
    return _call("pidfd_open", pid, 0)  # 5.3; always close-on-exec


def _pidfd_send_signal(pidfd, signum):
    _call("pidfd_send_signal", pidfd, signum, 0, 0)  # 5.1


def _capabilities():
    """-> (header, data) of this thread for capset(2): effective, permitted, inheritable; twice 32 bits."""
    header, data = (_u32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0), (_u32 * 6)()
    _call("capget", _address(header), _address(data))
    return header, data


def _with_capabilities(bits, function):
    """Runs a function on this thread with those of its permitted capabilities in effect; capset(2)."""
    header, data = _capabilities()
    before, data[0] = data[0], data[1] & bits
    _call("capset", _address(header), _address(data))
    try:
        return function()
    finally:
        data[0] = before
        _call("capset", _address(header), _address(data))


def _leave_capabilities(bits):
    """The step (see _run_steps) that leaves these of a thread's, and passes none on."""
    return "capabilities", "capset", ((_u32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0), (_u32 * 6)(bits, bits))


#: What may be blocked: not libc's own signals, by which setuid(3) reaches every thread of the host.
_SIGNALS = 2 ** 64 - 1 & ~(1 << 31 | 1 << 32 | 1 << 33)


class _SignalsBlocked:
    """Context in which no signal handler interrupts this thread. `before` is the mask to restore.

    A handler that raises (Ctrl-C) right behind a call that made a descriptor would lose it.
    breathe() lets pending signals in: to be called where something takes long.
    """

    def __init__(self):
        self._all = ctypes.create_string_buffer(_SIGNALS.to_bytes(8, sys.byteorder), 8)
        self.before = ctypes.create_string_buffer(8)
        _call("rt_sigprocmask", SIG_SETMASK, 0, _address(self.before), 8)

    def __enter__(self):
        try:  # a signal from just before is handled at the next call of a function, and may raise
            _call("rt_sigprocmask", SIG_SETMASK, _address(self._all), _address(self.before), 8)
            self._handle_pending()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _handle_pending(self):
        """Being called is what it is for: the interpreter runs pending handlers before a function begins."""

    def __exit__(self, *exception):
        try:
            self._restore()
        except BaseException:  # one that another thread of the host has taken
            self._restore()
            raise

    def _restore(self):
        _call("rt_sigprocmask", SIG_SETMASK, _address(self.before), 0, 8)

    def breathe(self):
        self.__exit__()
        self.__enter__()


def _start_thread(function, *args, held=None):
    """LaunchError where the host can have no more threads. `held`: a lock that the thread releases at its end."""
    if held:
        held.acquire()
    try:
        _thread.start_new_thread(function, args)
    except BaseException as e:
        if held:
            held.release()
        if not isinstance(e, RuntimeError):
            raise
        raise LaunchError("thread", errno.EAGAIN, detail=str(e)) from e


def _begin_thread():
    """At the start of a thread of ours: no signal of the host's interrupts it, for good. Its number."""
    _SignalsBlocked().__enter__()
    return threading.get_native_id()


def _is_free(lock, timeout_s):
    """Whether nobody holds a lock, or gives it back in time."""
    free = lock.acquire(timeout=timeout_s)
    if free:
        lock.release()
    return free


def _is_ours(tid):
    """Whether a number is that of a thread of this process, the host's own, of which the kernel refuses us nothing:
    until nothing of it is left; tgkill(2)."""
    return _raw(_NR["tgkill"], os.getpid(), tid, 0) != -errno.ESRCH


def _await_threads(*tids):
    """Until threads that end are gone from the process: for a moment, since a number that was a thread's may be
    another's."""
    deadline = time.monotonic() + 1
    for tid in tids:
        while tid and tid != threading.get_native_id() and _is_ours(tid) and time.monotonic() < deadline:
            time.sleep(0)


# Held while the host forks, in a signal handler within a fork too; and while one of _host_only is made or closed.
_fork_lock = threading.RLock()
# Held while the host forks, and on musl while a program is spawned: its posix_spawn(3) keeps a lock until
# the exec, for which its fork(2) would wait with Python's lock held, and nobody could answer that exec.
_spawn_lock = threading.RLock()
_IS_MUSL = not hasattr(_libc, "gnu_get_libc_version")
# Descriptors that must not live on in a forked child: listeners (with None), death pipes (with their inode).
_host_only = set()


def _close_host_only(fd):
    with _fork_lock:
        _host_only.discard((fd, None))
        os.close(fd)


class _Fd(int):
    """A descriptor that a `with` block closes."""

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        os.close(self)


class _NewFd(_Fd):
    """A descriptor that a `with` block closes if it raises."""

    def __exit__(self, kind, *exception):
        if kind is not None:
            os.close(self)


def _high_fd(fd):
    """The descriptor itself, or where it is 0, 1 or 2 (a host with closed stdio) a higher copy."""
    if fd > 2:
        return fd
    with _Fd(fd):
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _pipe():
    """Its two ends, above 2."""
    read, write = os.pipe()
    with _NewFd(write):
        read = _high_fd(read)
    with _NewFd(read):
        return read, _high_fd(write)


class _Shared:
    """A setting of the host's process that runs share: changed for the first of them, put back after the
    last. `change()` returns what it was, which `restore` gets."""

    def __init__(self, change, restore):
        self._change, self._restore = change, restore
        self._lock, self._users, self._before = _thread.allocate_lock(), 0, None

    def hold(self):
        with self._lock:
            if not self._users:
                self._before = self._change()
            self._users += 1

    def give_back(self):
        with self._lock:
            self._users -= 1
            if not self._users:
                self._restore(self._before)

    def forget(self):
        """In a forked child of the host, in which there are no runs."""
        self._lock, self._users = _thread.allocate_lock(), 0


def _shorten_switch_interval():
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, 1e-4))
    return before


# Several copies of this file in one process share these.
_settings = sys.__dict__.setdefault("_sandlock_settings_1", {})

# While another thread of the host computes, it makes each of ours wait a switch interval (5 ms by default)
# whenever that needs the GIL.
_switch_interval = _settings.setdefault("switch interval", _Shared(_shorten_switch_interval, sys.setswitchinterval))
# While a thread of a root host has other ids, other processes of that user must not trace it: the kernel
# clears the host's dumpable flag; PR_SET_DUMPABLE(2const).
_dumpable = _settings.setdefault("dumpable", _Shared(
    lambda: _call("prctl", PR_GET_DUMPABLE), lambda before: before == 1 and _call("prctl", PR_SET_DUMPABLE, 1)))


def _yama_scope():
    """Whom a process may trace, and do more than look at; Documentation/admin-guide/LSM/Yama.rst. 0: no Yama."""
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _adopt_orphans():
    before = _i32()
    _call("prctl", PR_GET_CHILD_SUBREAPER, _address(before))
    _call("prctl", PR_SET_CHILD_SUBREAPER, 1)
    return before.value


# Yama's scope 1 stops at descendants, of which an orphan is one only where the host adopts it.
_adoption = _settings.setdefault("adoption", _Shared(
    _adopt_orphans, lambda before: _call("prctl", PR_SET_CHILD_SUBREAPER, before)))


_IOVEC = struct.Struct("=QQ")  # struct iovec
_LINGER = struct.Struct("=2i")  # struct linger


def _poller(*fds):
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return poller


def _is_readable(fd, timeout_ms=0):
    return bool(_poller(fd).poll(timeout_ms))


def _read_memory(tid, address, size):
    """Up to `size` bytes of another task's memory, fewer where it is not mapped.

    process_vm_readv(2); OSError where nothing can be read. One copy: what is judged is this copy.
    Never with the GIL held: the task can keep its mmap_lock for long, and would stop the host.
    """
    buffer = ctypes.create_string_buffer(size)
    got = _slow(_NR["process_vm_readv"], tid, _IOVEC.pack(_address(buffer), size), 1,
                _IOVEC.pack(address, size), 1, _ZERO)
    return buffer.raw[:_result(got, "memory")]


def _write_checked(listener, request, address, data):
    """process_vm_writev(2), into a task that waits: checked with nothing in between, and never into a thread of
    ours; OSError where that is not possible."""
    if _is_ours(request.tid):
        raise OSError(errno.ESRCH, "not a task of the sandbox")
    buffer = ctypes.create_string_buffer(data, len(data))
    listener.check(request)
    written = _slow(_NR["process_vm_writev"], request.tid, _IOVEC.pack(_address(buffer), len(data)), 1,
                    _IOVEC.pack(address, len(data)), 1, _ZERO)
    if _result(written, "process_vm_writev") < len(data):
        raise OSError(errno.EFAULT, "memory")


def _link_to(fd):
    """A path that leads to the object of a descriptor, whatever that is, and no further."""
    return b"/proc/self/fd/%d" % fd


def _normal(path):
    """os.path.normpath, which would leave two slashes at the beginning."""
    path, slash = os.path.normpath(path), "/" if isinstance(path, str) else b"/"
    return slash + path.lstrip(slash) if path.startswith(slash) else path


def _memfd(name, flags):
    return _result(_slow(_NR["memfd_create"], name, flags), "memfd_create")


class _Mount(_Record):
    """`kind` of filesystem, mount `point`, `options` of mount and filesystem, `device` as "major:minor", and the
    directory of that device which is mounted, its `root`. All bytes."""
    _fields = dict(kind=b"", point=b"", options=b"", device=b"", root=b"")


def _mounts():
    """Every mount of the host; proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo", "rb") as file:
        rows = [line.rstrip(b"\n").split(b" ") for line in file]  # other white space may be in a path
    return [_Mount(kind=row[row.index(b"-") + 1].split(b".")[0], point=_unescape(row[4]),
                   options=row[5] + b"," + row[-1], device=row[2], root=_unescape(row[3])) for row in rows]


def _unescape(text):
    """Octal escapes of mountinfo."""
    first, *rest = text.split(b"\\")
    return first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)


def _proc_stat(pid):
    """Fields of /proc/PID/stat from the third (state) on, as bytes; [] if there is no such process."""
    try:
        with open("/proc/%d/stat" % pid, "rb", 0) as file:
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _is_alive(pid):
    """False for a zombie, unless it is the dead leader of threads that live on; proc_pid_stat(5)."""
    fields = _proc_stat(pid)
    return bool(fields) and (fields[0] not in (b"Z", b"X") or int(fields[17]) > 1)


def _listed(folder):
    try:
        return os.listdir(folder)
    except OSError as e:
        if e.errno in _USED_UP:
            raise
        return []  # of a process that has ended


def _listed_processes():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _task_status(tid):
    return _status_in(b"/proc/%d" % tid)


def _status_in(folder):
    """/proc/TID/status of proc_pid_status(5): name -> text; {} where it cannot be read."""
    try:
        with open(folder + b"/status", "rb", 0) as file:
            # Not splitlines(): a thread may have any name, but for a line feed, which the kernel escapes.
            rows = (line.partition(b":") for line in file.read().split(b"\n"))
            return {name.decode(): value.strip().decode("ascii", "replace") for name, _, value in rows}
    except OSError:
        return {}


def _umasks(tid):
    """(the task's umask, the host's); OSError where they cannot be read."""
    found = [_task_status(number).get("Umask") for number in (tid, os.getpid())]
    if None in found:
        raise OSError(errno.EPERM, "umask")
    return tuple(int(text, 8) for text in found)


def _syscall_of(tid):
    """The number of the syscall that a task waits in, None if it runs or is not to be seen, -1 if it
    has ended; /proc/PID/syscall of proc(5)."""
    try:
        with open("/proc/%d/syscall" % tid, "rb", 0) as file:
            word = file.read().split(None, 1)[0]
        return None if word == b"running" else int(word)
    except (FileNotFoundError, ProcessLookupError):
        return -1
    except OSError:
        return None


# ------------------------------------------------------------------------------------------------
# 7  Landlock
# ------------------------------------------------------------------------------------------------

class _Abi(_Record):
    """What one Landlock ABI added, by the kernel's names in the order of their bits."""
    _fields = dict(abi=0, kernel="", fs="", net="", scoped="")


_ABIS = (
    _Abi(abi=1, kernel="5.13", fs="EXECUTE WRITE_FILE READ_FILE READ_DIR REMOVE_DIR REMOVE_FILE "
         "MAKE_CHAR MAKE_DIR MAKE_REG MAKE_SOCK MAKE_FIFO MAKE_BLOCK MAKE_SYM"),
    _Abi(abi=2, kernel="5.19", fs="REFER"),
    _Abi(abi=3, kernel="6.2", fs="TRUNCATE"),
    _Abi(abi=4, kernel="6.7", net="BIND_TCP CONNECT_TCP"),
    _Abi(abi=5, kernel="6.10", fs="IOCTL_DEV"),
    _Abi(abi=6, kernel="6.12", scoped="ABSTRACT_UNIX_SOCKET SIGNAL"),
    _Abi(abi=7, kernel="6.15"),  # audit flags
    _Abi(abi=8, kernel="7.0"),   # LANDLOCK_RESTRICT_SELF_TSYNC
    _Abi(abi=9, kernel="7.1", fs="RESOLVE_UNIX"),
    _Abi(abi=10, kernel="7.2", net="BIND_UDP CONNECT_SEND_UDP"),
)


@functools.lru_cache(maxsize=None)
def _bits(kind, names, abi=_ABIS[-1].abi):
    """The mask of those `names` ("A B", or None for all) of a kind that `abi` knows."""
    order = [(name, row.abi) for row in _ABIS for name in getattr(row, kind).split()]
    wanted = [name for name, _ in order] if names is None else names.split()
    unknown = set(wanted) - {name for name, _ in order}
    assert not unknown, unknown
    return sum(1 << i for i, (name, since) in enumerate(order) if name in wanted and since <= abi)


_FS_READ = "EXECUTE READ_FILE READ_DIR"
_FS_WRITE = (_FS_READ + " WRITE_FILE TRUNCATE IOCTL_DEV REMOVE_DIR REMOVE_FILE MAKE_DIR MAKE_REG "
             "MAKE_SOCK MAKE_FIFO MAKE_SYM REFER RESOLVE_UNIX")  # no device nodes
_FS_ON_FILES = "EXECUTE READ_FILE WRITE_FILE TRUNCATE IOCTL_DEV RESOLVE_UNIX"  # others: EINVAL
_FS_DEVICE = "READ_FILE WRITE_FILE TRUNCATE IOCTL_DEV"

ABI_TRUNCATE, ABI_TCP, ABI_SCOPED = 3, 4, 6
#: What Landlock lacks below an ABI: (name for Result.unenforced, ABI, kernel).
_PROTECTIONS = tuple((name, abi, _ABIS[abi - 1].kernel) for name, abi in (
    ("files", 1), ("truncation of files that are not writable", ABI_TRUNCATE), ("TCP ports", ABI_TCP),
    ("signals and abstract Unix sockets to the outside", ABI_SCOPED)))


def landlock_abi_version():
    """The Landlock ABI of this kernel, 0 where it is missing or switched off.

    landlock_create_ruleset(2). An ABI newer than this file knows is used as the newest it knows.
    """
    if not _NR:
        return 0
    return max(0, _raw(_NR["landlock_create_ruleset"], 0, 0, LANDLOCK_CREATE_RULESET_VERSION))


def _lost_protections(abi, supervised=True):
    """Names of what cannot be enforced. With any Landlock the supervisor does what that lacks: it
    needs a domain of its own to tell who is in the sandbox."""
    return () if abi and supervised else tuple(
        name for name, needed, _ in _PROTECTIONS if abi < needed)


class _Rules(_Record):
    """A ruleset as data: masks, (path, rights) pairs and (port range, rights) pairs."""
    _fields = dict(fs=0, net=0, scoped=0, paths=(), ports=())


def _landlock_rules(policy, abi):
    """The ruleset of a policy under an ABI: a pure function. Every right on files and every scope that the ABI
    knows is handled, so that what no rule grants is refused; of the network what can be listed by ports
    (BIND_UDP is not: no field speaks of it)."""
    handled = {"BIND_TCP": None if "*" in policy.net_allow_bind else tuple(
                   _port_range("net_allow_bind", port) for port in policy.net_allow_bind),
               "CONNECT_TCP": _connect_ports(policy, "tcp"),
               "CONNECT_SEND_UDP": _connect_ports(policy, "udp")}
    handled = {name: ports for name, ports in handled.items() if ports is not None}
    paths = ([(path, _FS_READ) for path in policy.fs_readable]
             + [(path, _FS_WRITE) for path in policy.fs_writable]
             + [(path, _FS_DEVICE) for path in _FREE_DEVICES])
    return _Rules(
        fs=_bits("fs", None, abi), net=_bits("net", " ".join(handled), abi), scoped=_bits("scoped", None, abi),
        paths=tuple((path, _bits("fs", rights, abi)) for path, rights in paths),
        ports=tuple((range_, right) for name, ports in handled.items() for range_ in ports
                    for right in [_bits("net", name, abi)] if right))


def _connect_ports(policy, scheme):
    """Port ranges for Landlock: what any endpoint of the policy allows, whatever the host, which the
    supervisor judges. None: every port, or too many for a rule each."""
    if policy.net_deny:
        return None
    named = [e for e in (_endpoint("net_allow", t) for t in policy.net_allow) if scheme in e.schemes]
    if any(endpoint.ports is None for endpoint in named):
        return None
    ranges = tuple(dict.fromkeys(r for endpoint in named for r in endpoint.ports))
    return ranges if sum(last - first + 1 for first, last in ranges) <= 1024 else None


def _inner_rules(abi):
    """What makes the program's domain a child of the broker's: the scopes alone, since the outer
    layer's rules bind it already. A layer that does not grant REFER refuses it, though, and with it
    every rename to another directory; landlock(7). ABI 1 does so anyway."""
    refer = _bits("fs", "REFER", abi)
    return _Rules(fs=refer or _bits("fs", "MAKE_BLOCK"), scoped=_bits("scoped", None, abi),
                  paths=(("/", refer),) * bool(refer))


def _landlock_ruleset(rules):
    """-> (descriptor of the ruleset, paths that do not exist). Raises LaunchError."""
    attr, path = landlock_ruleset_attr(rules.fs, rules.net, rules.scoped), None
    try:  # an older kernel takes the longer structure as long as what it does not know is zero
        with _NewFd(_high_fd(_call("landlock_create_ruleset", _address(attr), ctypes.sizeof(attr), 0))) as ruleset:
            missing = []
            for path, rights in rules.paths:
                if not _allow_path(ruleset, path, rights) and path not in _FREE_DEVICES:
                    missing.append(path)
            path = None
            for (first, last), rights in rules.ports:
                for port in range(first, last + 1):
                    rule = landlock_net_port_attr(rights, port)
                    _call("landlock_add_rule", ruleset, LANDLOCK_RULE_NET_PORT, _address(rule), 0)
            return ruleset, tuple(missing)
    except OSError as e:
        raise LaunchError("landlock_add_rule" if path else "landlock_create_ruleset", e.errno, path) from e


def _allow_path(ruleset, path, rights):
    """Adds one rule; False if the path does not exist (then it grants nothing)."""
    try:
        fd = _Fd(os.open(path, O_PATH | os.O_CLOEXEC))
    except (FileNotFoundError, NotADirectoryError):
        return False
    with fd:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _bits("fs", _FS_ON_FILES)
        rule = landlock_path_beneath_attr(rights, fd)
        _call("landlock_add_rule", ruleset, LANDLOCK_RULE_PATH_BENEATH, _address(rule), 0)
        return True


class _KernelFlags(_Record):
    _fields = dict(listener=False, waits_killably=False, marks_ranges=False)


def _has_listener():
    """Whether a filter of this process has one already, which the kernel allows once (EBUSY): tried on
    a thread that ends at once. Only where there are filters at all; proc_pid_status(5)."""
    if _task_status(os.getpid()).get("Seccomp") != "2":
        return False
    fprog = _sock_fprog(bytes(sock_filter(BPF_RET_K, 0, 0, SECCOMP_RET_ALLOW)))
    outcome = queue.SimpleQueue()

    def attempt():
        _raw(_NR["prctl"], PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        outcome.put(_raw(_NR["seccomp"], SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
                         _address(fprog)))
    _start_thread(attempt)
    fd = outcome.get()
    if fd >= 0:
        os.close(fd)
    return fd < 0


@functools.lru_cache(maxsize=None)
def _kernel_flags():
    """What seccomp(2) and close_range(2) take: a flag that it knows gets as far as the missing filter (EFAULT)."""
    def known(flags):
        return bool(_NR) and _raw(_NR["seccomp"], SECCOMP_SET_MODE_FILTER, flags, 0) == -errno.EFAULT

    return _KernelFlags(
        listener=known(SECCOMP_FILTER_FLAG_NEW_LISTENER) and not _has_listener(),
        waits_killably=known(SECCOMP_FILTER_FLAG_NEW_LISTENER
                             | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV),
        marks_ranges=bool(_NR) and _raw(  # of no descriptor at all
            _NR["close_range"], 0xffffffff, 0xffffffff, CLOSE_RANGE_CLOEXEC) != -errno.EINVAL)


def kernel_support():
    """What this kernel has: feature -> (what it needs, whether it was found)."""
    abi, flags = landlock_abi_version(), _kernel_flags()

    rows = {"architecture": (" or ".join(_ARCHITECTURES), _ARCH is not None)}
    rows.update(("Landlock: " + name, ("Linux %s with Landlock; without, the supervisor sees to it" % kernel
                                       if needed > 1 else "Linux 5.13 with Landlock", abi >= needed))
                for name, needed, kernel in _PROTECTIONS)
    rows.update({
        "seccomp: listener": ("Linux 5.9", flags.listener),
        "seccomp: held tasks ignore signals": ("Linux 5.19", flags.waits_killably),
        "/proc": ("proc(5) mounted", os.path.exists("/proc/self/task")),
    })
    for name, kernel, *args in _PROBES:
        error = -_raw(_NR[name], *args) if _NR else errno.ENOSYS
        needed = "Linux " + kernel if error == errno.ENOSYS else "the seccomp profile of this container to allow it"
        rows[name] = (needed, error not in (errno.ENOSYS, errno.EPERM))
    return rows


_PROBES = (  # syscall, since Linux, arguments that it refuses otherwise
    ("ptrace", "3.4", -1, 0, 0, 0), ("process_vm_readv", "3.2", -1, 0, 0, 0, 0, 0),
    ("pidfd_open", "5.3", -1, 0), ("pidfd_getfd", "5.6", -1, 0, 0), ("openat2", "5.6", -1, 0, 0, 0),
    ("close_range", "5.11", -1, 0, 8))


_SUPERVISION = "what the supervisor does: endpoints, max_processes, max_memory of all, fs_denied, callback"
_FINDING = "finding processes that hide, to count and to end them"


@functools.lru_cache(maxsize=None)
def _proc_hides_processes():
    """Whether /proc shows an ordinary user only what it may ptrace; hidepid in proc(5)."""
    try:
        options = b",".join(mount.options for mount in _mounts() if mount.point == b"/proc")
    except OSError as e:
        raise UnsupportedError("processes", "proc(5) on /proc", str(e)) from e
    return any(b"hidepid=" + value in options.split(b",")
               for value in (b"2", b"4", b"invisible", b"ptraceable"))


def _require_own_proc():
    """Numbers of processes that another /proc shows mean others here."""
    try:
        shown = os.readlink("/proc/self")
    except OSError as e:
        raise UnsupportedError("processes", "proc(5) on /proc", str(e)) from e
    if shown != str(os.getpid()):
        raise UnsupportedError("processes", "proc(5) of this pid namespace on /proc (unshare --mount-proc)",
                               "that of another one")


def _require_enforceable(policy, abi, supervised=True):
    """The protections that best_effort leaves out; UnsupportedError without it."""
    if _ARCH is None:
        raise UnsupportedError("architecture", "a Python of 64 bits on " + " or ".join(_ARCHITECTURES),
                               "%d bits on %s" % (8 * ctypes.sizeof(ctypes.c_void_p), os.uname().machine))
    if supervised:
        _require_own_proc()
    lost, release = _lost_protections(abi, supervised), os.uname().release
    if supervised and not _kernel_flags().listener:
        lost = _lost_protections(abi, supervised=False) + (_SUPERVISION,)
        why = ("seccomp listener", "Linux 5.9, and no sandbox around this process that has or refuses one; "
               "or best_effort", release)
    elif supervised and _proc_hides_processes() and not _capabilities()[1][0] & CAP_SYS_PTRACE:
        lost += (_FINDING,)
        why = _FINDING, "/proc without hidepid, CAP_SYS_PTRACE, or best_effort", "/proc mounted with hidepid"
    elif lost:
        name, needed, kernel = next(row for row in _PROTECTIONS if row[0] == lost[0])
        why = (name, "Landlock ABI %d (Linux %s), or best_effort" % (needed, kernel),
               "ABI %d (Linux %s)" % (abi, release))
    if lost and not policy.best_effort:
        raise UnsupportedError(*why)
    return lost + (_FINDING,) * (supervised and not abi and _FINDING not in lost)  # see _descendants


# ------------------------------------------------------------------------------------------------
# 8  BPF assembler and filter
# ------------------------------------------------------------------------------------------------

class _Assembler:
    """Classic BPF with forward labels.

    A conditional only ever skips the jump that follows it, and only that jump carries a label:
    its offset has 32 bits, so distances cannot overflow (a conditional's has 8).
    """
    LIMIT = 4096  # BPF_MAXINSNS

    def __init__(self):
        self.code = []     # [code, jt, jf, k or label]
        self.labels = {}   # name -> index

    def _plain(code):
        return lambda self, k: self.code.append((code, 0, 0, k))

    def _conditional(code):
        def jump(self, k, label):
            self.code.append((code, 0, 1, k))
            self.goto(label)
        return jump

    ld, and_, ret, goto = map(_plain, (BPF_LD_W_ABS, BPF_AND_K, BPF_RET_K, BPF_JA))
    jeq, jge, jset = map(_conditional, (BPF_JEQ_K, BPF_JGE_K, BPF_JSET_K))

    def label(self, name):
        if name in self.labels:
            raise ValueError("label %r is defined twice" % name)
        self.labels[name] = len(self.code)

    def link(self):
        """The program as bytes; ValueError for a label that is unknown or behind its jump."""
        if not 0 < len(self.code) <= self.LIMIT:
            raise ValueError("%d instructions; 1 to %d are possible" % (len(self.code), self.LIMIT))
        program = (sock_filter * len(self.code))()
        for i, (code, jt, jf, k) in enumerate(self.code):
            if code == BPF_JA:
                k = self.labels.get(k, -1) - i - 1
                if k < 0:
                    raise ValueError("label %r is not ahead of its jump" % self.code[i][3])
            program[i] = sock_filter(code, jt, jf, k)
        return bytes(program)


def _arg(index):
    """Offset of the low 32 bits of a syscall argument (all three architectures: little-endian)."""
    return seccomp_data.args.offset + 8 * index


# The block-list: errno, whether extra_allow_syscalls may lift it, names.
_BLOCKED = (
    (errno.ENOSYS, False, "clone3 io_uring_setup io_uring_enter io_uring_register"),
    # A domain of the program's own would not bind the broker: better that it knows that it has none.
    (errno.ENOSYS, False, "landlock_create_ruleset landlock_add_rule landlock_restrict_self"),
    (errno.EPERM, False, "unshare setns chroot pivot_root"),
    (errno.EPERM, False, "mount umount2 mount_setattr move_mount open_tree open_tree_attr fsopen "
                         "fsconfig fsmount fspick"),
    (errno.EPERM, False, "ptrace process_vm_readv process_vm_writev pidfd_getfd kcmp "
                         "process_madvise process_mrelease move_pages migrate_pages"),
    (errno.EPERM, False, "bpf perf_event_open userfaultfd add_key request_key keyctl "
                         "lookup_dcookie fanotify_init fanotify_mark lsm_set_self_attr"),
    (errno.EPERM, False, "init_module finit_module delete_module create_module query_module "
                         "get_kernel_syms kexec_load kexec_file_load reboot swapon swapoff"),
    (errno.EPERM, False, "settimeofday clock_settime adjtimex clock_adjtime sethostname "
                         "setdomainname"),
    (errno.EPERM, False, "open_by_handle_at ioperm iopl modify_ldt quotactl quotactl_fd acct syslog "
                         "vhangup nfsservctl uselib _sysctl sysfs vserver security tuxcall "
                         "afs_syscall getpmsg putpmsg"),
    (errno.EPERM, True, "shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd "
                        "msgrcv msgctl"),
    (errno.EPERM, True, "mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr"),
)
_LIFTABLE = frozenset(name for _, liftable, names in _BLOCKED if liftable for name in names.split())
_NEVER_ALLOWED = frozenset(
    name for _, liftable, names in _BLOCKED if not liftable for name in names.split())


class _FilterPlan(_Record):
    """All that a filter depends on. `actions`: sorted (syscall name, label) pairs. `supervised`:
    False under confine(), which has nobody to notify. `udp`, `unix_datagrams`: which datagram
    sockets can be made. What the supervisor judges: `sends`, `data_limit`, `signals`, `truncation`, `opens`."""
    _fields = dict(arch=None, actions=(), supervised=True, udp=False, unix_datagrams=False, sends=False,
                   data_limit=False, signals=False, truncation=False, opens=False)


# Argument blocks: what a syscall's registers must be. Each ends in a jump. "notify" and "watched" are
# where the supervisor judges; under confine() "notify" is refused and "watched" allowed.

def _unless_zero(asm, index, label):
    """Jumps unless all 64 bits of an argument are zero."""
    for half in (0, 4):
        asm.ld(_arg(index) + half)
        asm.jset(0xffffffff, label)


def _block_clone(asm, plan):
    """Namespaces never; CLONE_PARENT never, or the tree could not be told; threads are free, but for one with
    descriptors of its own, which are counted nowhere."""
    asm.ld(_arg(0))
    asm.jset(_CLONE_NAMESPACES | CLONE_PARENT, "eperm")
    asm.jset(CLONE_THREAD, "clone-thread")
    asm.goto("watched")
    asm.label("clone-thread")
    asm.jset(CLONE_FILES, "allow")
    asm.goto("eperm")


def _block_if_set(index, mask, refused):
    """A block that refuses some bits of an argument."""
    def block(asm, plan):
        asm.ld(_arg(index))
        asm.jset(mask, refused)
        asm.goto("allow")
    return block


def _goto(label):
    return lambda asm, plan: asm.goto(label)


def _block_if(index, blocks, otherwise, mask=None):
    """A further block for each of some values of an argument, or of the bits of a mask in it. `blocks`: a table,
    or what makes it of the plan."""
    def block(asm, plan):
        first, table = len(asm.code), blocks(plan) if callable(blocks) else blocks  # makes its labels unique
        asm.ld(_arg(index))
        if mask is not None:
            asm.and_(mask)
        for value in table:
            asm.jeq(value, "%d:%d" % (first, value))
        asm.goto(otherwise)
        for value, further in table.items():
            asm.label("%d:%d" % (first, value))
            further(asm, plan)
    return block


def _block_values(index, values, then="allow", otherwise="eperm"):
    """A block that compares one argument with a list."""
    return _block_if(index, dict.fromkeys(values, _goto(then)), otherwise)


def _block_kinds(kinds):
    """Of a socket: the type without its flags, then the protocol; net/socket.c. `kinds(plan)`: those that exist."""
    return _block_if(1, kinds, "eperm", mask=_SOCK_TYPE_MASK)


def _unix_kinds(plan):  # RAW means DGRAM there
    return dict.fromkeys((SOCK_STREAM, SOCK_SEQPACKET) + (SOCK_DGRAM, SOCK_RAW) * plan.unix_datagrams, _goto("allow"))


def _inet_kinds(plan):
    protocols = {SOCK_STREAM: IPPROTO_TCP, SOCK_DGRAM: IPPROTO_UDP} if plan.udp else {SOCK_STREAM: IPPROTO_TCP}
    return {kind: _block_values(2, (0, protocol)) for kind, protocol in protocols.items()}


def _netlink_kinds(plan):
    return dict.fromkeys((SOCK_RAW, SOCK_DGRAM), _block_values(2, (NETLINK_ROUTE,)))


def _block_sigaction(asm, plan):
    """Setting a handler, not asking for it; _on_sigaction says why."""
    _unless_zero(asm, 1, "watched")
    asm.goto("allow")


def _block_send(flags, address=None):
    """No MSG_FASTOPEN, which would connect. Without datagram sockets all else is connected; with
    them what may carry an address is judged."""
    def block(asm, plan):
        asm.ld(_arg(flags))
        asm.jset(MSG_FASTOPEN, "eperm")
        if not plan.sends:
            asm.goto("allow")
        elif address is None:
            asm.goto("notify")
        else:
            _unless_zero(asm, address, "notify")
            asm.goto("allow")
    return block


def _block_ioctl(asm, plan):
    """Pushing input and holding terminals up; naming a receiver of signals in memory, where those are
    judged; and what Landlock does not see: what makes another name of a file or a copy of a whole tree (all
    that btrfs and bcachefs have of their own, but for copying data, and the reflink of ocfs2), and what the
    owner of a file may do to it for good although it is open for reading only."""
    asm.ld(_arg(1))
    owners = (FIOSETOWN, SIOCSPGRP) * plan.signals
    for request in (TIOCSTI, TIOCLINUX, TIOCSETD, TIOCEXCL, OCFS2_IOC_REFLINK, FS_IOC_ENABLE_VERITY,
                    FS_IOC_SET_ENCRYPTION_POLICY, FS_IOC_REMOVE_ENCRYPTION_KEY,
                    FS_IOC_REMOVE_ENCRYPTION_KEY_ALL_USERS) + owners:
        asm.jeq(request, "eperm")
    for request in (FICLONE, FICLONERANGE, FIDEDUPERANGE):  # the program's own descriptors
        asm.jeq(request, "allow")
    asm.and_(0xff00)
    for kind in (BTRFS_IOCTL_MAGIC, BCACHEFS_IOCTL_MAGIC):
        asm.jeq(kind << 8, "eperm")
    asm.goto("allow")


def _block_fcntl(asm, plan):
    """F_SETSIG is of the open file: of one that the host has given it could pick the host's signal."""
    asm.ld(_arg(1))
    for command in (F_SETLEASE, F_SETDELEG, fcntl.F_SETSIG) + (F_SETOWN_EX,) * plan.signals:
        asm.jeq(command, "eperm")
    if plan.signals:
        asm.jeq(F_SETOWN, "notify")
    asm.goto("allow")


def _block_open(flags):
    """The access mode 3 (open(2), neither to read nor to write, for ioctl) asks Landlock for nothing. Below
    ABI 3 so does emptying a file that is opened for reading only."""
    def block(asm, plan):
        refused = "errno:%d" % errno.EACCES
        asm.ld(_arg(flags))
        asm.and_(O_ACCMODE | O_PATH)
        asm.jeq(O_ACCMODE, refused)
        if plan.truncation:
            asm.ld(_arg(flags))
            asm.and_(O_ACCMODE | O_PATH | os.O_TRUNC)
            asm.jeq(os.O_TRUNC | os.O_RDONLY, refused)
        asm.goto("notify" if plan.opens else "allow")
    return block


_GROWTH = 1 << 20


def _block_growth(size, flags=None):
    """More than 1 MiB, in a register of 64 bits, or shared memory; only where it is trapped at all."""
    def block(asm, plan):
        if flags is not None:
            asm.ld(_arg(flags))
            asm.jset(MAP_SHARED, "notify")  # MAP_SHARED_VALIDATE has that bit too
        asm.ld(_arg(size) + 4)
        asm.jset(0xffffffff, "notify")
        asm.ld(_arg(size))
        asm.jge(_GROWTH + 1, "notify")
        asm.goto("allow")
    return block


def _block_prlimit(asm, plan):
    """Of another process: judged. RLIMIT_DATA is the supervisor's where it limits memory."""
    if plan.data_limit:
        asm.ld(_arg(1))
        asm.jeq(RLIMIT_DATA, "prlimit-data")
        asm.goto("prlimit-who")
        asm.label("prlimit-data")
        _unless_zero(asm, 2, "eperm")
        asm.label("prlimit-who")
    _own_pid_or_notify(asm, plan)


_own_pid_or_notify = _block_values(0, [0], otherwise="notify")
_zero_or_notify = _block_values(1, [0], otherwise="notify")


def _by_name(table):
    """A table with a row for each of the names in a key."""
    return {name: row for names, row in table.items() for name in names.split()}


_BLOCKS = _by_name({
    "clone": _block_clone,
    "socket": _block_if(0, {AF_UNIX: _block_kinds(_unix_kinds), AF_NETLINK: _block_kinds(_netlink_kinds),
                            AF_INET: _block_kinds(_inet_kinds), AF_INET6: _block_kinds(_inet_kinds)}, "eperm"),
    "socketpair": _block_if(0, {AF_UNIX: _block_kinds(_unix_kinds)}, "eperm"),
    "ioctl": _block_ioctl,
    "fcntl": _block_fcntl,
    # Where the kernel tells who is inside by whom the broker may look at, nobody hides from it.
    "prctl": _block_if(0, {PR_SET_DUMPABLE: _block_values(1, [0], "eperm", "allow")}, "allow"),
    "open": _block_open(1),
    "openat": _block_open(2),
    "personality": _block_values(0, _HARMLESS_PERSONALITIES),
    "close_range": _block_if_set(2, CLOSE_RANGE_UNSHARE, "watched"),  # see _block_clone; of the launch pad it is fine
    "seccomp": _block_if_set(1, SECCOMP_FILTER_FLAG_NEW_LISTENER, "eperm"),
    "sendto": _block_send(3, 4),
    "sendmsg": _block_send(2),
    "sendmmsg": _block_send(3),
    # IP options and routing headers send packets by way of another host than the judged one. Whoever
    # sets SO_ZEROCOPY waits for news of its buffers, which what is sent on behalf does not give. With
    # TCP_FASTOPEN_CONNECT a connect that was judged would be made by some later write.
    "setsockopt": _block_if(1, {
        IPPROTO_TCP: _block_if(2, {TCP_FASTOPEN_CONNECT: _goto("errno:%d" % errno.EOPNOTSUPP)}, "allow"),
        SOL_SOCKET: _block_if(2, {
            SO_LINGER: _goto("watched"), SO_ZEROCOPY: _goto("errno:%d" % errno.EOPNOTSUPP)}, "allow"),
        0: _block_values(2, [4], "eperm", "allow"),  # IPPROTO_IP: IP_OPTIONS
        # IPPROTO_IPV6: IPV6_2292RTHDR, IPV6_2292PKTOPTIONS, IPV6_FLOWLABEL_MGR, IPV6_RTHDR
        41: _block_values(2, [5, 6, 32, 57], "eperm", "allow")}, "allow"),
    "mmap": _block_growth(1, flags=3),
    "mremap": _block_growth(2),
    "rt_sigaction": _block_if(0, {signal.SIGCHLD: _block_sigaction}, "allow"),
    "setpgid": _zero_or_notify,  # joining another group could be joining the host's (same session)
    "prlimit64": _block_prlimit,
    "setrlimit": _block_values(0, [RLIMIT_DATA], then="eperm", otherwise="allow"),
    "sched_setaffinity sched_setscheduler sched_setparam sched_setattr": _own_pid_or_notify,
    # Oneself is free, another process is judged, groups and users are refused.
    "setpriority": _block_if(0, {PRIO_PROCESS: _zero_or_notify}, "eperm"),
    "ioprio_set": _block_if(0, {IOPRIO_WHO_PROCESS: _zero_or_notify}, "eperm"),
})


def _filter_plan(deny, allow, arch, trapped=(), refused=(), datagrams=(False, False, False), truncates=True):
    """What the filter of a policy does: a pure function. `deny`, `allow`: the policy's extra_*
    names; `trapped`: names that the supervisor handles, none under confine(); `refused`: names
    that get EACCES; `datagrams`: whether UDP and Unix datagram sockets can be made, or have been given;
    `truncates`: Landlock judges truncation."""
    growth, data_limit, opens = ("mmap" in trapped, "memfd_create" in trapped, "openat" in trapped)
    left_out = set(() if growth else ("mmap", "mremap")) | set(() if data_limit else ("setrlimit",))
    left_out |= set(() if "kill" in trapped else ("prctl",))
    actions = {name: "block:" + name for name in _BLOCKS if name not in left_out}
    actions.update((name, "notify") for name in trapped if name not in _BLOCKS)
    actions.update((name, "errno:%d" % errno.EACCES) for name in refused)
    if not opens:
        actions["openat2"] = "enosys"  # its flags lie in memory; libc falls back
    for error, _, names in _BLOCKED:
        actions.update((name, "errno:%d" % error) for name in names.split()
                       if name not in allow)
    actions.update((name, "eperm") for name in deny)
    return _FilterPlan(arch=arch, actions=tuple(sorted(actions.items())), supervised=bool(trapped),
                       udp=datagrams[0], unix_datagrams=datagrams[1], sends=any(datagrams), data_limit=data_limit,
                       signals="kill" in trapped, truncation=not truncates, opens=opens)


@functools.lru_cache(maxsize=64)
def _policy_filter(*plan_arguments):
    return _assemble_filter(_filter_plan(*plan_arguments))


def _static_filter(policy, deny=()):
    """Where nobody supervises: what only a supervisor could allow is refused."""
    refused = ("connect",) if "*" in policy.net_allow_bind else ("connect", "listen")
    return _policy_filter(policy.extra_deny_syscalls + deny, policy.extra_allow_syscalls, _ARCH, (), refused)


def _assemble_filter(plan):
    """The filter as bytes. Arguments are loaded only inside the block of their own syscall, so
    that all else is answered from the kernel's bitmap (5.11) without running the filter."""
    arch, asm, actions = plan.arch, _Assembler(), dict(plan.actions)
    rows = sorted((arch.syscalls[n], label) for n, label in actions.items() if n in arch.syscalls)
    asm.ld(seccomp_data.arch.offset)
    asm.jeq(arch.audit, "native")
    asm.ret(SECCOMP_RET_KILL_PROCESS)
    asm.label("native")
    asm.ld(seccomp_data.nr.offset)
    # The x32 numbers have bit 30 set; and what is newer than this file could be anything.
    asm.jge(max(arch.syscalls.values()) + 1, "enosys")
    _assemble_tree(asm, rows, "tree")
    labels = {label for _, label in rows}
    for name, block in _BLOCKS.items():
        if "block:" + name in labels:
            asm.label("block:" + name)
            block(asm, plan)
    refused, notify = SECCOMP_RET_ERRNO | errno.EPERM, SECCOMP_RET_USER_NOTIF
    labels |= {"errno:%d" % errno.EACCES, "errno:%d" % errno.EOPNOTSUPP}  # of blocks
    verdicts = {label: SECCOMP_RET_ERRNO | int(label[len("errno:"):])
                for label in sorted(labels) if label.startswith("errno:")}
    verdicts.update(eperm=refused, enosys=SECCOMP_RET_ERRNO | errno.ENOSYS,
                    notify=notify if plan.supervised else refused,
                    watched=notify if plan.supervised else SECCOMP_RET_ALLOW,
                    allow=SECCOMP_RET_ALLOW)
    for label, verdict in verdicts.items():
        asm.label(label)
        asm.ret(verdict)
    return asm.link()


def _assemble_tree(asm, rows, name):
    """A balanced search over sorted (number, label) rows; leaves of at most four."""
    if len(rows) <= 4:
        for nr, label in rows:
            asm.jeq(nr, label)
        asm.goto("allow")
        return
    middle = len(rows) // 2
    asm.jge(rows[middle][0], name + "r")
    _assemble_tree(asm, rows[:middle], name + "l")
    asm.label(name + "r")
    _assemble_tree(asm, rows[middle:], name + "r")


# ------------------------------------------------------------------------------------------------
# 9  Notifications: request and reply
# ------------------------------------------------------------------------------------------------

# A reply is (val, error, flags) of seccomp_notif_resp. It starts as a refusal.
_CONTINUE = (0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE)
_ANSWERED = (None, None, None)  # no reply: it has been given


def _refuse(error):
    return 0, -error, 0


def _return(value):
    return value, 0, 0


def _reply(result):
    return _refuse(-result) if result < 0 else _return(result)


def _allow_if(condition):
    return _CONTINUE if condition else _refuse(errno.EPERM)


class _Request:
    """A trapped syscall: `args` as they were in the registers, `tid` the thread that waits, `task`
    whose it is where a handler needs that, its `capabilities` (effective, permitted) where they may be
    fewer than it began with, `judged` what was read of its memory as (address, bytes). Several threads
    may come to answer it (a verdict, a timeout): the one that gets True from claim() does."""
    __slots__ = ("id", "tid", "nr", "args", "task", "capabilities", "judged", "_unclaimed")

    def __init__(self, id, tid, nr, args):
        self.id, self.tid, self.nr, self.args, self.task = id, tid, nr, args, None
        self.capabilities, self.judged = None, ()
        self._unclaimed = _thread.allocate_lock()

    def claim(self):
        return self._unclaimed.acquire(False)

    def again(self):
        """The same one, to be judged once more."""
        request = _Request(self.id, self.tid, self.nr, self.args)
        request.task, request.capabilities = self.task, self.capabilities
        return request


class _Listener:
    """The descriptor of seccomp_unotify(2): one thread receives, any number reply.

    The descriptor is closed by the supervisor alone, once the broker has ended.
    """
    def __init__(self, fd):
        self.fd = fd
        self._notif = ctypes.create_string_buffer(seccomp_notif.size)
        self._blank = bytes(seccomp_notif.size)
        try:  # 6.6: the answer wakes the task on the core of whoever answers
            fcntl.ioctl(fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
        except OSError as e:
            if e.errno not in (errno.EINVAL, errno.ENOTTY):
                raise

    def receive(self):
        """The next request, or None if its task died in the meantime. Only once poll(2) has said
        that there is one: then it does not block."""
        self._notif.raw = self._blank  # the kernel insists on zeros
        result = _quick(_NR["ioctl"], self.fd, SECCOMP_IOCTL_NOTIF_RECV, self._notif)
        if result < 0:
            if -result in (errno.ENOENT, errno.EINTR):
                return None
            _result(result, "NOTIF_RECV")
        id, tid, _, nr, _, _, *args = seccomp_notif.unpack(self._notif)
        return _Request(id, tid, nr, args)

    def reply(self, request, reply):
        """Answers; False if the task is not waiting any more: it died, or has its answer."""
        answer = seccomp_notif_resp.pack(request.id, *reply)
        while True:
            result = _quick(_NR["ioctl"], self.fd, SECCOMP_IOCTL_NOTIF_SEND, answer)
            if result in (-errno.ENOENT, -errno.EINPROGRESS, -errno.EBADF):
                return False
            if result >= 0:
                return True
            if result != -errno.EINTR:
                _result(result, "NOTIF_SEND")

    def install(self, request, fd, cloexec):
        """A copy of `fd` in the task; its number there. The reply has still to be sent."""
        more = seccomp_notif_addfd.pack(request.id, 0, fd, 0, os.O_CLOEXEC if cloexec else 0)
        return _result(_slow(_NR["ioctl"], self.fd, SECCOMP_IOCTL_NOTIF_ADDFD, more), "NOTIF_ADDFD")

    def check(self, request):
        """OSError unless the task still waits: then all that was read by its number was its own."""
        _result(_quick(_NR["ioctl"], self.fd, SECCOMP_IOCTL_NOTIF_ID_VALID,
                       struct.pack("=Q", request.id)), "NOTIF_ID_VALID")


class _Mailbox:
    """Functions that one thread runs, when `fd` says so in its poll(2). Any thread posts them."""
    TURN_S = 0.05
    _RING = struct.pack("=Q", 1)  # eventfd(2)

    def __init__(self):
        self.fd = _high_fd(_call("eventfd2", 0, os.O_CLOEXEC | os.O_NONBLOCK))
        self._jobs = queue.SimpleQueue()
        self._lock = threading.RLock()  # guards fd: closed, its number is somebody else's; signal handlers post too

    def post(self, job):
        """False: too late, nobody will run it."""
        with self._lock:
            if self.fd < 0:
                return False
            self._jobs.put(job)
            os.write(self.fd, self._RING)
            return True

    def run(self):
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return
        deadline, more = time.monotonic() + self.TURN_S, True
        try:
            for _ in range(self._jobs.qsize()):  # not what is posted meanwhile: that could go on for ever
                self._jobs.get()()
                if time.monotonic() > deadline:  # and nothing else starves
                    break
            else:
                more = False
        finally:
            if more:  # for the jobs behind, of one that failed too
                os.write(self.fd, self._RING)

    def close(self):
        with self._lock:
            fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def finish(self):
        """No more can be posted; what was is run, since somebody may wait for it."""
        self.close()
        for _ in range(self._jobs.qsize()):
            try:
                self._jobs.get()()
            except Exception:
                continue  # it was too late for that

    def forget(self):
        """In a forked child, where another thread may have held the lock at the fork."""
        self._lock = threading.RLock()
        self.close()


#: Whose thread a request is. `process`: the thread group; `parent`: its parent's.
_Task = collections.namedtuple("_Task", "tid process parent")


def _read_whole(request, at, size):
    data = _read_memory(request.tid, at, size)
    if len(data) < size:
        raise OSError(errno.EFAULT, "memory")
    return data


def _read_string(request, address, limit):
    """Bytes up to the NUL, in growing steps that end with a page; EFAULT, or ENAMETOOLONG past the limit."""
    parts, size, pages = [], 0, 1
    while size < limit:
        step = min(pages * _PAGE - (address + size) % _PAGE, limit - size)
        pages = min(2 * pages, 16)
        part = _read_memory(request.tid, address + size, step)
        text, nul, _ = part.partition(b"\0")
        parts.append(text)
        if nul:
            return b"".join(parts)
        if len(part) < step:
            break
        size += step
    raise OSError(errno.EFAULT if size < limit else errno.ENAMETOOLONG, "string")


def _read_path(request, address):
    name = _read_string(request, address, 4096)  # PATH_MAX, with the NUL
    if not name:
        raise OSError(errno.ENOENT, "empty path")
    return name


class _NoDescriptor(PermissionError):
    """The task's descriptors cannot be copied, so nothing can be done on behalf with one of them."""


class _Tasks:
    """The broker's knowledge of tasks, without /proc (which the policy may not grant): a pidfd of
    the very thread (6.9) and what the kernel says of it now (6.13). On older kernels find() gives
    None, and the supervisor looks into /proc."""
    LIMIT = 64

    def __init__(self):
        self._pidfds = {}  # tid -> pidfd
        self._info = ctypes.create_string_buffer(ctypes.sizeof(pidfd_info))
        self._ids = struct.Struct("=16x3I")  # behind mask and cgroupid: pid, tgid, ppid

    def find(self, tid):
        """A pidfd stands for one task for ever: when the kernel still knows it by that number, the
        number has not been given to another."""
        pidfd = self._pidfds.get(tid)
        if pidfd is not None:
            task = self._ask(pidfd, tid)
            if task is not None:
                return task
            os.close(self._pidfds.pop(tid))
        pidfd = _quick(_NR["pidfd_open"], tid, PIDFD_THREAD)
        if pidfd < 0:
            return None
        if len(self._pidfds) >= self.LIMIT:
            os.close(self._pidfds.pop(next(iter(self._pidfds))))
        self._pidfds[tid] = pidfd
        return self._ask(pidfd, tid)

    def _ask(self, pidfd, tid):
        self._info[0] = 1  # PIDFD_INFO_PID; the kernel adds what it has told besides
        if _quick(_NR["ioctl"], pidfd, PIDFD_GET_INFO, self._info) < 0:
            return None
        found, process, parent = self._ids.unpack_from(self._info)
        return _Task(tid, process, parent) if found == tid else None

    def descriptor(self, task, fd):
        """A copy of a task's descriptor; pidfd_getfd(2), 5.6. Before 6.9 from the table of the process's first
        thread. It waits while the task executes, and so for memory of the program's."""
        pidfd, fd = self._pidfds.get(task.tid), fd & 0xffffffff
        if pidfd is not None:
            copy = _slow(_NR["pidfd_getfd"], pidfd, fd, 0)
        else:
            with _Fd(_pidfd_open(task.process)) as pidfd:
                copy = _slow(_NR["pidfd_getfd"], pidfd, fd, 0)
        if copy == -errno.EPERM:
            raise _NoDescriptor(errno.EPERM, "pidfd_getfd(2) is refused: by a container's seccomp profile, "
                                "or of a process that is not dumpable")
        return _result(copy, "pidfd_getfd")

    def close(self):
        while self._pidfds:
            os.close(self._pidfds.popitem()[1])


# ------------------------------------------------------------------------------------------------
# 10  Handlers by family, and their table
# ------------------------------------------------------------------------------------------------

# A handler takes (supervisor, request) and returns a reply, or None: whoever it handed the request
# to replies. All run on the broker's thread, inside the sandbox's Landlock domain.

_ANYWHERE, _BROKER, _WORKER = range(3)  # where a call acts


class _Held:
    """The calls that hold descriptors of the host: not more than LIMIT of those, and none is left
    when the run has ended, wherever its call was on its way. Past LIMIT_BYTES of argv the next
    requests wait unread."""
    LIMIT, LIMIT_BYTES = 512, 32 << 20

    def __init__(self):
        self._lock = _thread.allocate_lock()  # guards the three below
        self._calls, self.count, self.size_bytes = set(), 0, 0

    def take(self, call):
        """False if that would be too many."""
        with self._lock:
            if call.held is None:
                if self.count + len(call.fds) > self.LIMIT:
                    return False
                size_bytes = sum(len(word) + 200 for word in call.event.get("argv") or ())
                call.held = (self, len(call.fds), size_bytes)
                self.count += len(call.fds)
                self.size_bytes += size_bytes
                self._calls.add(call)
            return True

    def give(self, call, count, size_bytes):
        with self._lock:
            self.count -= count
            self.size_bytes -= size_bytes
            self._calls.discard(call)

    def is_full(self):
        return self.size_bytes > self.LIMIT_BYTES

    def close(self):
        for call in list(self._calls):
            call.close()

    def forget(self):
        """In a forked child: what it has copies of would there stay open."""
        self._lock = _thread.allocate_lock()
        self.close()


class _Call:
    """A syscall that has been read and resolved: what it would do, and what the rules say.

    `event`: fields of the SyscallEvent. `refusal`: (errno, reason, policy field) of a static rule,
    or None. `act`: does it and returns the reply, _ANSWERED, or None when somebody goes on with it.
    `where`: anywhere, on the broker's thread, or, if it may block, on a worker; both are confined.
    `fds`: closed when the call is over. `told_as`: the family in a Denial, where it has none that a
    callback may ask for.
    """
    # what it is about
    address = None      # (version, number) of a network peer, for the live rules
    identities = ()     # (device, inode) of existing files, for the live rules
    above = None        # the same of the directories above its paths
    paths = ()          # of interpreters, besides the event's own
    child = None        # (directory, name) of what a name means now
    linked = False      # the file has other names
    moves = False       # the name is given to something else
    abstract = None     # name of a Unix socket, whose owner has still to be looked for
    # what is told of it
    failed = False      # the kernel has refused it, or will
    needs = ()          # (policy field, value) that would allow it, where something has to
    silent = False      # goes by the callback's thread without asking it
    # how it acts
    sock, datagram = None, False  # its socket; whether that is one for datagrams
    message = None      # the _Message that it sends
    wants_status = False          # these two are read before it acts:
    umasks, size_limit = None, None  # the task's and the host's; the task's RLIMIT_FSIZE
    # where it is
    submitted = 0.0     # to the callback, time.monotonic()
    held = None         # (_Held, number of descriptors counted there, bytes of argv)
    worker = None       # thread that acts
    interrupted, is_certain = False, True  # by _interrupt(); whether the task itself has the signal
    stayed = 0, 0       # signals of its process that are pending, and for how many looks

    def __init__(self, request, family, act, refusal=None, where=_BROKER, fds=(), told_as=None, **event):
        self.request, self.family, self.act, self.refusal = request, family, act, refusal
        self.where, self.fds, self.event = where, list(fds), event
        self.told_as = family or told_as

    def look_closer(self, sup):
        """What fs_denied and deny_path compare besides the names; where there are none it is spared. What
        cannot be looked at is refused."""
        if self.above is not None or self.event.get("path") is None:
            return
        self.above = []
        try:
            for path in (self.event["path"], *self.paths):
                self.above += _identities_above(sup, os.fsencode(path))
            info = self.child and sup.walker.info(*self.child)
            if info:
                self.identify(info)
        except OSError as e:
            self.refusal = self.refusal or (e.errno or errno.EACCES, "it cannot be looked at: %s" % e.strerror, None)

    def fails(self, error, path):
        """What it will do is the kernel's own refusal. A path that leads nowhere is judged with its `..`,
        which leave places that may be denied."""
        path = os.fsdecode(path)
        self.event["path"], self.failed = _normal(path), error in (errno.EACCES, errno.EPERM)
        self.paths += (path,) * (path != self.event["path"])
        self.act, self.where = (lambda: _refuse(error)), _ANYWHERE

    def keep(self, fd):
        """A descriptor, until the call is over; or -errno."""
        if fd >= 0:
            self.fds.append(fd)
        return fd

    def identify(self, info):
        self.identities += ((info.st_dev, info.st_ino),)
        self.linked |= info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode)

    def __enter__(self):
        """For `with`: closed if the block raises."""
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None:
            self.close()

    def close(self):
        self.act = None  # mostly it refers to the call, which may be large
        while self.fds:
            os.close(self.fds.pop())
        if self.held is not None:
            held, *what = self.held
            self.held = None
            held.give(self, *what)


# -- processes -----------------------------------------------------------------------------------

def _on_fork(sup, request):
    """A new process (the filter lets threads pass). Flags are in a register: cannot be raced. Three steps: who
    may fork at all; the census, where the count is at the limit; and what the supervisor has to look at: the
    weight of a copy, or that memory is shared, where that decides later."""
    if sup.ending or sup.runners is not None and not _with_capabilities(-1, lambda: _is_visible(request.tid)):
        return _refuse(errno.EPERM)  # a child of one that cannot be told to be inside could not either
    if sup.census.population >= sup.context.max_processes():
        sup.census.take(lambda: sup.answer(request, _on_counted_fork))
        return None
    return _on_counted_fork(sup, request)


def _on_counted_fork(sup, request):
    """A copy of memory counts; a child that shares it (vfork) does not."""
    def look():
        status = _task_status(request.tid)
        if "Tgid" not in status:
            raise OSError(errno.EAGAIN, "status")
        if not shares:
            return sup.memory.fits(sup.memory.of(status))
        sup.census.sharers.add(int(status["Tgid"]))  # for _shares_memory
        return True
    shares = request.nr == _NR.get("vfork") or request.nr == _NR["clone"] and request.args[0] & CLONE_VM
    if sup.memory.limit() or shares and sup.launching.unseen:  # so that nobody comes during a look at memory
        return sup.look(request, look, lambda fits: _fork_or_refuse(sup, request, fits))
    return _fork_or_refuse(sup, request, True)


def _fork_or_refuse(sup, request, fits):
    census, refusal = sup.census, None
    if census.population >= sup.context.max_processes():
        refusal = (errno.EAGAIN, "the sandbox has %d processes" % census.population, "max_processes")
    elif not fits:
        refusal = (errno.ENOMEM, "a copy of the process would not fit", "max_memory")
    else:
        census.admit(request.tid)
    call = _Call(request, "clone", lambda: _CONTINUE, refusal, where=_ANYWHERE)
    call.needs = ("max_processes", 2 * census.population), ("max_memory", 2 * sup.memory.limit())
    # What is refused is told of, with its process: the supervisor knows that.
    return sup.on_supervisor(request, lambda: sup.judge(call)) if refusal else sup.judge(call)


class _Census:
    """How many processes there are, or may be about to be. On the broker's thread only.

    Forks raise the count and exits do not lower it: at the limit it is taken anew. A fork that was
    let through is not visible at once. It counts until its caller has made another request, has
    ended, or is seen in another syscall; never by time, since a fork can take long.
    """
    PATIENCE_S = 0.2

    def __init__(self, supervisor):
        self._sup = supervisor
        self.population, self.admitted = 1, 0
        self.sharers = set()  # processes that have made one with the same memory, by vfork too
        self.in_flight = {}    # task -> the number of its fork
        self.asking, self.tid = _thread.allocate_lock(), None  # held by a thread that asks

    def admit(self, tid):
        self.population += 1
        self.admitted += 1
        self.in_flight[tid] = self.admitted
        self._sup.forked = True

    def take(self, then):
        """Counts with the supervisor's help, which alone may look into /proc; then calls `then`
        here. What was admitted in the meantime is added."""
        sup, asked, in_flight = self._sup, self.admitted, dict(self.in_flight)

        def count():
            pending = self._pending(list(in_flight))
            members = sup.members()  # in this order: what is over is visible
            counted = len(pending) + sum(pid == sup.pid or not _reap_adopted(pid) for pid in members)

            def correct():
                for tid, number in in_flight.items():
                    if tid not in pending and self.in_flight.get(tid) == number:
                        del self.in_flight[tid]
                self.population = counted + self.admitted - asked
                then()
            sup.broker.mailbox.post(correct)
        sup.mailbox.post(count)

    def _pending(self, tids):
        """Those of some tasks whose fork may be going on. Who executes keeps the lock that this takes
        (exec_update_lock; fs/proc/base.c: lock_trace) for as long as the program likes: a thread asks."""
        forks, answers = {_NR.get(name) for name in ("clone", "fork", "vfork")}, queue.SimpleQueue()

        def ask():
            try:
                self.tid = _begin_thread()
                answers.put([tid for tid in tids if _syscall_of(tid) in forks | {None}])
            finally:
                self.asking.release()
        if tids and not self.asking.locked():
            try:
                _start_thread(ask, held=self.asking)
                return answers.get(timeout=self.PATIENCE_S)
            except (LaunchError, queue.Empty):
                pass  # there can be none, or it waits
        return tids


def _on_other_process(argument, reads=None, writes=None):
    """Limits, priority, affinity, scheduling of another process or thread: members of the sandbox only.
    One's own number is left to the kernel; what another means by the time that the caller runs again
    may be anybody, so it is done on behalf, and looked at once all is read, which can take as long as the
    program likes. `reads`, `writes`: (argument, bytes) that are pointed to."""
    def handler(sup, request):
        pid = request.args[argument] & 0xffffffff
        if pid == request.tid:
            return _CONTINUE
        act, told = prepared(sup, request)
        if sup.scoped:
            return told(sup.if_member(pid, act, -errno.EPERM))

        # What is written goes into the program's memory, for which the supervisor does not wait.
        return sup.look(request, lambda: sup.if_member(pid, act, -errno.EPERM), told)

    def prepared(sup, request):
        args, kept = list(request.args), []
        if reads and args[reads[0]]:
            size = reads[1] if isinstance(reads[1], int) else reads[1](request)
            data = _read_whole(request, args[reads[0]], size)  # zeros behind it: its size may be another now
            kept.append(ctypes.create_string_buffer(data, max(size, _PAGE)))
            args[reads[0]] = _address(kept[-1])
        out = writes and args[writes[0]]
        if out:
            kept.append(ctypes.create_string_buffer(writes[1]))
            args[writes[0]] = _address(kept[-1])
        sup.listener.check(request)

        def told(result):
            if out and result >= 0:
                _write_checked(sup.listener, request, out, kept[-1].raw)
            return _reply(result)
        def act():
            return _raw(request.nr, *args)
        ids = sup.launching.user_ids
        return (lambda: _with_real_id(ids[0], act)) if ids else act, told
    return handler


def _attributes_size(request):
    """struct sched_attr begins with its size; sched_setattr(2)."""
    size, = struct.unpack("=I", _read_whole(request, request.args[1], 4))
    return min(size or 48, _PAGE)


def _on_setpgid(sup, request):
    """Joining a process group in which nobody outside the sandbox is. Numbers are in registers; a
    group gets outside members only by what the host itself does."""
    pid, group = (value & 0xffffffff for value in request.args[:2])
    if group == (pid or request.task.process):
        return _CONTINUE
    return sup.on_supervisor(request, lambda: _allow_if(_inside_of_group(sup, group)))


def _inside_of_group(sup, group):
    """The processes of a group, if there are any and all of them are inside; else []."""
    members, found = set(sup.members()), []
    for other in _listed_processes():
        fields = _proc_stat(other)
        if fields and int(fields[2]) == group:
            if other not in members:
                return []
            found.append(other)
    return found


def _on_signal(target, signum, process=None, info=None):
    """Below Landlock's ABI 6: kill(2) and kin reach the sandbox only. Done on behalf, since a number that
    the kernel looked up later could be another's by then. The arguments: who, what, for a thread its
    process (-1: unknown), and a siginfo."""
    def handler(sup, request):
        args = request.args
        number = ctypes.c_int32(args[target] & 0xffffffff).value
        about = _read_whole(request, args[info], 128) if info is not None else b""
        if number <= 0 and (process is not None or info is not None):
            return _refuse(errno.EINVAL)
        if process is None:
            return sup.on_supervisor(request, lambda: _signal_process(sup, request, number, args[signum] & 0xffffffff, about))
        group = None if process < 0 else args[process] & 0xffffffff
        return sup.on_supervisor(request, lambda: _signal_thread(sup, number, group, args[signum] & 0xffffffff, about))
    return handler


def _signal_process(sup, request, number, signum, about):
    own = _task_status(request.tid)
    if number > 0:
        with _Fd(_pidfd_open(number)) as pidfd:  # ESRCH; from here on it means that process
            if not sup.is_member(number):
                return _refuse(errno.EPERM)
            return _reply(sup.broker.call(_slow, _NR["pidfd_send_signal"], pidfd, signum, about or None, 0))
    if number == -1:  # everybody but the caller
        targets = [pid for pid in sup.members() if pid != int(own.get("Tgid", 0))]
    else:
        targets = _inside_of_group(sup, -number or int((_proc_stat(request.tid) or [0] * 3)[2]))
        if not targets:
            return _refuse(errno.EPERM)
    found = sup.broker.call(_signal_members, targets, signum, sup.runners)
    return _return(0) if found else _refuse(errno.ESRCH)


def _signal_thread(sup, tid, process, signum, about):
    """The kernel itself compares the thread with its process; tgkill(2)."""
    status = _task_status(tid)
    process = int(status.get("Tgid", 0)) if process is None else process
    if not status or not process:
        return _refuse(errno.ESRCH)
    call = _NR["rt_tgsigqueueinfo" if about else "tgkill"], process, tid, signum, about or None
    return sup.if_member(process, lambda: _reply(_slow(*call)), _refuse(errno.EPERM))


def _on_pidfd_signal(sup, request):
    """pidfd_send_signal(2), done on behalf: a pidfd means one process for ever. No flags, as before 6.9."""
    if request.args[3] & 0xffffffff:
        return _refuse(errno.EINVAL)
    about = _read_whole(request, request.args[2], 128) if request.args[2] else None
    pidfd, signum = sup.broker.tasks.descriptor(request.task, request.args[0]), request.args[1] & 0xffffffff
    if _quick(_NR["pidfd_send_signal"], pidfd, 0, 0, 0) == -errno.EBADF:
        os.close(pidfd)  # here: of a pipe the last one waits for whoever holds its lock
        return _refuse(errno.EBADF)

    call = _Call(request, None, None, fds=[pidfd])
    if not sup.held.take(call):  # so that it is closed wherever it waits when the run ends
        call.close()
        return _refuse(errno.EAGAIN)

    def send():
        try:
            sup.listener.check(request)
            with open("/proc/self/fdinfo/%d" % pidfd, "rb") as file:
                rows = dict(line.split(b":", 1) for line in file.read().split(b"\n") if b":" in line)
            pid = int(rows.get(b"Pid", b"0"))
            if pid <= 0:
                return _refuse(errno.ESRCH if b"Pid" in rows else errno.EBADF)
            if not sup.is_member(pid):
                return _refuse(errno.EPERM)
            return _reply(_slow(_NR["pidfd_send_signal"], pidfd, signum, about, 0))
        finally:
            call.close()
    reply = sup.on_supervisor(request, send)
    if reply is not None:
        call.close()
    return reply


def _on_owner(sup, request):
    """fcntl(F_SETOWN) names who gets signals of a descriptor: oneself or one's own group, whose numbers
    cannot come to mean others."""
    number = ctypes.c_int32(request.args[2] & 0xffffffff).value

    def judge():
        own, fields = _task_status(request.tid), _proc_stat(request.tid)
        mine = {0, int(own.get("Tgid", 0)), request.tid, -int(fields[2]) if fields else 0}
        return _allow_if(number in mine)
    return sup.on_supervisor(request, judge)


def _on_capset(sup, request):
    """From now on what is done on behalf is done with what the very task has left. The set of
    capabilities only ever shrinks: nobody inside has SETPCAP."""
    sup.capabilities_dropped = True
    return _CONTINUE


def _on_sigaction(sup, request):
    """A handler of SIGCHLD gets SA_RESTART. Until the supervisor has received a fork, a signal ends
    it with EINTR unless all pending handlers restart; fork(2) knows no EINTR, and SIGCHLD is the
    signal that comes while one forks (dash, Python). Nothing is judged here, so that it continues
    whatever becomes of the flags: they only spare the program that EINTR."""
    flags_at = request.args[1] + 8  # struct kernel_sigaction: the handler comes first
    try:
        flags, = struct.unpack("=Q", _read_memory(request.tid, flags_at, 8))
        _write_checked(sup.listener, request, flags_at, struct.pack("=Q", flags | SA_RESTART))
    except (OSError, struct.error):
        return _CONTINUE  # memory that is read-only or bad, or a task that may not be looked into
    return _CONTINUE


# -- sockets -------------------------------------------------------------------------------------

def _socket_option(fd, option, level=SOL_SOCKET, size=4):
    value, length = ctypes.create_string_buffer(size), _u32(size)
    if _libc.getsockopt(fd, level, option, value, ctypes.byref(length)):
        raise OSError(ctypes.get_errno(), "getsockopt")
    return value.raw


def _socket_kind(fd):
    """-> (domain, type). The socket itself tells, whatever an address claims."""
    return tuple(int.from_bytes(_socket_option(fd, o), sys.byteorder) for o in (SO_DOMAIN, SO_TYPE))


def _ntop(version, number):
    family, size = (AF_INET, 4) if version == 4 else (AF_INET6, 16)
    return socket.inet_ntop(family, number.to_bytes(size, "big"))


def _inet_peer(sockaddr, family=None):
    """(version, number, port) of a sockaddr_in or sockaddr_in6, or None; ip(7), ipv6(7). As the
    kernel takes them: an IPv4-mapped address is its IPv4 address, the unspecified one loopback."""
    if family is None:
        family, = struct.unpack_from("=H", sockaddr)
    first, size = {AF_INET: (4, 4), AF_INET6: (8, 16)}.get(family, (0, 0))
    packed = sockaddr[first:first + size]
    if not size or len(packed) < size:
        return None
    version, number = 4 if size == 4 else 6, int.from_bytes(packed, "big")
    if version == 6 and number >> 32 == 0xffff:
        version, number = 4, number & 0xffffffff
    if not number:
        number = 0x7f000001 if version == 4 else 1
    port, = struct.unpack_from(">H", sockaddr, 2)
    return version, number, port


def _read_sockaddr(request, address, size):
    if not 2 <= size <= 128:  # sizeof(struct sockaddr_storage)
        raise OSError(errno.EINVAL, "length of an address")
    return _read_judged(request, address, size)


def _read_judged(request, address, size):
    """What is judged is this copy; where the kernel has to read again, it is compared with it."""
    data = _read_whole(request, address, size)
    request.judged += ((address, data),)
    return data


def _socket_call(sup, request, family, fd, sockaddr, act):
    """The _Call that does `act(call, socket, sockaddr)` on a copy of the task's socket with a copy of
    its address: later changes of its memory or descriptors change nothing. `family` is None where there is
    no address: it is connected, or the kernel refuses it."""
    try:
        sock = sup.broker.tasks.descriptor(request.task, fd)
    except _NoDescriptor:
        return _unseen_socket_call(sup, request, family, sockaddr or struct.pack("=H", AF_NETLINK))
    call = _Call(request, family, None, fds=[sock], told_as="sendto")
    with call:
        sup.listener.check(request)
        domain, kind = _socket_kind(sock)
        call.sock, call.datagram = sock, kind == SOCK_DGRAM
        call.act = lambda: act(call, sock, sockaddr)
        if family == "bind":
            _judge_bind(sup, call, domain, kind == SOCK_STREAM, sockaddr)
        elif family is None:
            return call
        elif domain == AF_UNIX:
            call.act = _resolve_unix(sup, call, sockaddr, act, sock)
        elif domain in (AF_INET, AF_INET6):
            if kind not in (SOCK_STREAM, SOCK_DGRAM):
                raise OSError(errno.EACCES, "a raw socket")
            used = _judge_inet(sup, call, domain, kind, sockaddr)
            call.act = lambda: act(call, sock, used)
        elif domain != AF_NETLINK:  # what setsockopt(TCP_ULP) may have made of it
            raise OSError(errno.EAFNOSUPPORT, "socket family %d" % domain)
        return call


def _unseen_socket_call(sup, request, family, sockaddr):
    """Without a copy of the socket the kernel may only go on by itself, where nobody can change the
    address meanwhile: judged for every kind of socket that it could be. Not for a socket file: what
    its path leads to could be changed by others."""
    sup.listener.check(request)
    call = _Call(request, family, None, where=_ANYWHERE, told_as="sendto")
    call.act = lambda: sup.on_supervisor(request, lambda: _continue_if_private(sup, call))
    domain, = struct.unpack_from("=H", sockaddr)
    if domain == AF_UNIX and sockaddr[2:3] not in (b"", b"\0"):
        with call:
            if family != "bind" and _Path(sup, call, AT_FDCWD, _socket_path(sockaddr)).find(0) is None:
                raise OSError(-call.act()[1], "a socket file")
            raise _NoDescriptor(errno.EPERM, "a socket file cannot be judged where pidfd_getfd(2) is refused")
    if domain == AF_UNIX and not sup.scoped and len(sockaddr) > 2:
        call.abstract = sockaddr[3:]
    if family == "bind":
        _judge_bind(sup, call, domain or AF_INET, True, sockaddr)
    elif domain in (AF_INET, AF_INET6) or domain == AF_UNSPEC and family != "connect":
        for kind in _possible_kinds(sup, family, sockaddr):
            used = _judge_inet(sup, call, domain or AF_INET, kind, sockaddr)
            meant = slice(4, 8) if len(used) == 16 else slice(8, 24)
            if used[meant] != sockaddr[meant]:  # the unspecified address
                raise _NoDescriptor(errno.EPERM, "where the unspecified address leads cannot be judged "
                                    "where pidfd_getfd(2) is refused: name the loopback address")
    elif domain not in (AF_UNIX, AF_UNSPEC, AF_NETLINK):
        raise OSError(errno.EAFNOSUPPORT, "socket family %d" % domain)
    return call


def _possible_kinds(sup, family, sockaddr):
    """The types of socket that a call may go through: to a stream one sendto(2) gives no address, and
    what is no TCP port of the policy Landlock refuses."""
    datagrams, ports = _datagram_kinds(sup.policy)[0] or sup.launching.given, _connect_ports(sup.policy, "tcp")
    port = int.from_bytes(sockaddr[2:4], "big")
    streams = sup.launching.abi < 4 or ports is None or any(low <= port <= high for low, high in ports)
    if datagrams and (family == "sendto" or not streams):
        return [SOCK_DGRAM]
    return [SOCK_STREAM, SOCK_DGRAM] if datagrams else [SOCK_STREAM]


def _continue_if_private(sup, call):
    """On the supervisor's thread, while the task waits: what was judged must be there still, and
    nobody left who could change it before the kernel reads it again."""
    why = _shares_memory(sup, call.request)
    if why is None:
        for at, data in call.request.judged:
            if _read_memory(call.request.tid, at, len(data)) != data:
                why = "has changed what was judged"
    if why is None:
        sup.listener.check(call.request)
        return _CONTINUE
    return sup.refused(call, errno.EPERM, "cannot be judged safely here: pidfd_getfd(2) is refused, and the "
                       "task %s" % why, None)


def _shares_memory(sup, request):
    """How others could change what was judged while a task waits, or None if nobody can: it has one
    thread and its memory for itself, and what was judged lies in memory that is private and no
    file's. (Asynchronous I/O into memory is refused here, see _Launch.)

    For itself: it has executed, and made no process with the same memory since; not by vfork either,
    which ends with the child's first thread, whatever threads that has made. A copy of a parent
    (PF_FORKNOEXEC in proc_pid_stat(5)) is only told from such a child where there never was one."""
    status, fields = _task_status(request.tid), _proc_stat(request.tid)
    if status.get("Threads") != "1" or "Tgid" not in status or int(status["Tgid"]) != request.tid:
        return "has other threads"
    if not fields or request.tid in sup.census.sharers or sup.census.sharers and int(fields[6]) & PF_FORKNOEXEC:
        return "may share its memory with another"
    if sup.grants("fs_writable", "/proc/%d/mem" % request.tid):
        return "can be written to through /proc"
    private = []
    with open("/proc/%d/maps" % request.tid, "rb") as file:
        for line in file:
            words = line.rstrip(b"\n").split(None, 5)
            if words[1][3:] == b"p" and (len(words) < 6 or words[5] in (b"[heap]", b"[stack]")
                                         or words[5].startswith(b"[anon:")):
                private.append([int(end, 16) for end in words[0].split(b"-")])
    for at, data in request.judged:
        if not any(low <= at and at + len(data) <= high for low, high in private):
            return "has what was judged in memory that may be another's too"
    return None


def _judge_inet(sup, call, domain, kind, sockaddr):
    """Judges the peer of a sockaddr; -> the sockaddr to use, which names that very peer whatever
    becomes of the socket meanwhile (IPV6_ADDRFORM), or where it is bound. AF_UNSPEC dissolves an
    association with connect(2); elsewhere it stands for AF_INET, or on IPv6 for no address."""
    family, = struct.unpack_from("=H", sockaddr)
    if family == AF_UNSPEC:
        if call.family == "connect":
            return sockaddr
        if domain == AF_INET6:
            return b""
        family = AF_INET
    peer = _inet_peer(sockaddr, family)
    if peer is None:
        raise OSError(errno.EINVAL, "address")
    version, number, port = peer
    call.event.update(host=_ntop(version, number), port=port)
    call.address = (version, number)
    call.needs = ("net_allow", sup.network.endpoint(kind == SOCK_DGRAM, call.event["host"], port)),
    if not sup.network.permits(kind == SOCK_DGRAM, version, number, port):
        call.refusal = (errno.ECONNREFUSED, "the endpoint is not allowed", sup.network.field)
    if family == AF_INET:
        return struct.pack("=H", AF_INET) + struct.pack(">HI8x", port, number)
    packed = (number if version == 6 else 0xffff << 32 | number).to_bytes(16, "big")
    return (struct.pack("=H", AF_INET6) + struct.pack(">H", port) + sockaddr[4:8] + packed
            + sockaddr[24:28].ljust(4, b"\0"))


def _resolve_unix(sup, call, sockaddr, act, sock):
    """Abstract addresses are the kernel's to judge (the broker is in the sandbox's scope). A path
    is resolved inside the domain, once; Landlock itself says whether it may be written: opening a
    socket file for writing asks that before it fails with ENXIO, as it always does."""
    name = _socket_path(sockaddr)
    if struct.unpack_from("=H", sockaddr)[0] != AF_UNIX or not name:
        if not sup.scoped and len(sockaddr) > 2:
            call.abstract = sockaddr[3:]
        return lambda: act(call, sock, sockaddr)
    target = _Path(sup, call, AT_FDCWD, name).find(0)
    if target is None:
        return call.act
    link = _link_to(target)
    call.needs = ("fs_writable", call.event["path"]),
    if not stat.S_ISSOCK(os.fstat(target).st_mode):
        call.fails(errno.ECONNREFUSED, os.fsencode(call.event["path"]))
        return call.act
    error = -_slow(_NR["openat"], AT_FDCWD, link, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC, 0)  # never opens
    if error != errno.ENXIO:
        call.refusal = (error, "the socket is not beneath a writable path", "fs_writable")
    return lambda: act(call, sock, struct.pack("=H", AF_UNIX) + link + b"\0")


def _socket_path(sockaddr):
    """The path in a struct sockaddr_un; b"" for none, and for an abstract name; unix(7)."""
    return sockaddr[2:110].split(b"\0")[0]


_OWNERS_LIMIT_S = 0.5


def _is_abstract_inside(sup, name):
    """Whether there are sockets of an abstract name, and all of them are open in the sandbox: inodes from
    /proc/net/unix, then descriptors of the members; unix(7)."""
    if b"\n" in name:
        return False  # not told apart from what follows
    shown = b"@" + name.replace(b"\0", b"@")
    with open("/proc/%d/net/unix" % sup.pid, "rb") as file:
        rows = [line.rstrip(b"\n").split(None, 7) for line in file]
    wanted = {os.fsdecode(b"socket:[" + row[6] + b"]") for row in rows  # 0: not accepted yet
              if len(row) > 7 and row[7] == shown and row[6] != b"0"}
    found, deadline = set(), time.monotonic() + _OWNERS_LIMIT_S
    for pid in sup.members():
        for fd in _listed("/proc/%d/fd" % pid):
            if sup.ending or time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, "its owners have too many descriptors")
            try:
                found.add(os.readlink("/proc/%d/fd/%s" % (pid, fd)))
            except OSError:
                continue  # it was closed
    return bool(wanted) and wanted <= found


def _on_connect(sup, request):
    """connect(2). The server sees the host's pid in SO_PEERCRED, with the task's uid and gid."""
    sockaddr = _read_sockaddr(request, request.args[1], request.args[2] & 0xffffffff)
    call = _socket_call(sup, request, "connect", request.args[0], sockaddr, lambda call, sock, sockaddr: _reply(
        _slow(_NR["connect"], sock, sockaddr, len(sockaddr))))
    if call.where == _BROKER and not call.datagram and struct.unpack_from("=H", sockaddr)[0] != AF_UNSPEC:
        call.where = _WORKER  # AF_UNSPEC disconnects at once: here, so that no listen runs beside it
    return sup.judge(call)


def _on_bind(sup, request):
    """bind(2), trapped for events and denied paths, and below ABI 4, where Landlock does not judge it."""
    sockaddr = _read_sockaddr(request, request.args[1], request.args[2] & 0xffffffff)
    return sup.judge(_socket_call(sup, request, "bind", request.args[0], sockaddr, lambda call, sock, sockaddr: _reply(
        _slow(_NR["bind"], sock, sockaddr, len(sockaddr)))))


def _judge_bind(sup, call, domain, is_stream, sockaddr):
    """The port is Landlock's to judge, from ABI 4 on."""
    family, name = struct.unpack_from("=H", sockaddr)[0], _socket_path(sockaddr)
    if call.sock is not None and domain == family == AF_UNIX and name:
        return _bind_unix(sup, call, name)
    peer = _inet_peer(sockaddr, family or domain)
    if peer is None:
        return
    version, number, port = peer
    wildcard = not any(sockaddr[4:8] if version == 4 else sockaddr[8:24])
    call.event.update(host=_ntop(version, 0 if wildcard else number), port=port)
    if is_stream:
        call.needs = ("net_allow_bind", port),
    if is_stream and sup.launching.abi < ABI_TCP and not _may_bind(sup.policy, port):
        call.refusal = errno.EACCES, "the port may not be bound", "net_allow_bind"


def _may_bind(policy, port):
    return any(ports == "*" or low <= port <= high for ports in policy.net_allow_bind
               for low, high in [(0, 0) if ports == "*" else _port_range("net_allow_bind", ports)])


def _bind_unix(sup, call, name):
    """The parent directory is resolved, the name is made in it with the task's umask."""
    place = _Path(sup, call, AT_FDCWD, name).place()
    if place is not None:
        parent, last = place
        address = struct.pack("=H", AF_UNIX) + _link_to(parent) + b"/" + last + b"\0"
        if len(address) > 110:
            raise OSError(errno.ENAMETOOLONG, "name of a socket")
        call.act = lambda: _reply(_made(sup.walker, call, parent, last, 0o777, lambda mode: _slow(
            _NR["bind"], call.sock, address, len(address))))
        call.wants_status = True


def _on_listen(sup, request):
    """listen(2) on a TCP socket that is not bound would bind it to a free port unasked, and Landlock
    does not see that. Its name may be a stale one (of a connect that failed), so it is bound to it
    again: EINVAL means that it is bound already, anything else is Landlock's word on that port.
    Done on behalf: the socket judged is the socket that listens."""
    with _Fd(sup.broker.tasks.descriptor(request.task, request.args[0])) as sock:
        sup.listener.check(request)
        if _socket_kind(sock)[0] not in (AF_UNIX, AF_NETLINK) and not _is_bound(sup, sock):
            call = _Call(request, "bind", None)
            call.needs = ("net_allow_bind", "*"),
            return sup.refused(call, errno.EACCES, "listening without bind takes any free port", "net_allow_bind")
        before = _socket_name(sock)
        result = _slow(_NR["listen"], sock, request.args[1] & 0xffffffff)
        if not result and _socket_name(sock)[:4] != before[:4]:  # disconnected in between: any port
            _libc.shutdown(sock, SHUT_RDWR)
            return _refuse(errno.EACCES)
        return _reply(result)


def _on_linger(sup, request):
    """SO_LINGER of setsockopt(2): whoever closes a socket last would wait for its data to be received, and
    that may be the supervisor with its copy. So nobody waits, what was written is sent all the same; a time of
    0, which resets the connection, is set as asked for. socket(7), net/ipv4/af_inet.c: inet_release."""
    if request.args[4] & 0xffffffff < _LINGER.size:
        return _refuse(errno.EINVAL)
    on, seconds = _LINGER.unpack(_read_whole(request, request.args[3], _LINGER.size))
    value = _LINGER.pack(on and not seconds, 0)
    with _Fd(sup.broker.tasks.descriptor(request.task, request.args[0])) as sock:
        sup.listener.check(request)
        return _reply(_slow(_NR["setsockopt"], sock, SOL_SOCKET, SO_LINGER, value, len(value)))


def _socket_name(sock):
    name, size = ctypes.create_string_buffer(128), _u32(128)
    if _libc.getsockname(sock, name, ctypes.byref(size)):
        raise OSError(ctypes.get_errno(), "getsockname")
    return name.raw[:size.value]


def _is_bound(sup, sock):
    name = _socket_name(sock)
    port, = struct.unpack_from(">H", name, 2)
    if not port or sup.launching.abi < ABI_TCP and not any(_may_bind(sup.policy, may) for may in (port, 0)):
        return False  # below ABI 4 the port is not Landlock's to judge; who may bind 0 may have any that is free
    return _slow(_NR["bind"], sock, name, len(name)) in (0, -errno.EINVAL)


def _on_watch(sup, request):
    """inotify_add_watch(2), which Landlock does not judge although it tells names and events: only
    where reading is allowed, which opening the very object asks the kernel."""
    name, mask = _read_path(request, request.args[1]), request.args[2] & 0xffffffff
    call = _Call(request, None, None, told_as="openat")
    with call:
        target = _Path(sup, call, AT_FDCWD, name).find(
            (os.O_NOFOLLOW if mask & IN_DONT_FOLLOW else 0) | (os.O_DIRECTORY if mask & IN_ONLYDIR else 0))
        if target is None:
            return sup.judge(call)
        watcher = sup.broker.tasks.descriptor(request.task, request.args[0])
        call.fds.append(watcher)
    link = _link_to(target)

    def act():
        if stat.S_IFMT(os.fstat(target).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            return _refuse(errno.EACCES)
        try:
            os.close(os.open(link, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except PermissionError as e:
            call.needs = ("fs_readable", call.event["path"]),
            sup.deny(call, "watching what may not be read", "fs_readable")
            return _refuse(e.errno)
        return _reply(_slow(_NR["inotify_add_watch"], watcher, link, mask & ~(IN_DONT_FOLLOW | IN_ONLYDIR)))
    call.act = act
    return sup.judge(call)


# -- datagrams, and what else sendmsg(2) sends ------------------------------------------------------
# Trapped only where a rule lets datagram sockets exist, or the host has given one.

_PIECE, _DATAGRAM_LIMIT = 1 << 18, 1 << 20  # of the payload of a stream; of a datagram, which is one piece
_CONTROL_LIMIT = 1 << 14
_IOV_LIMIT = 1024         # UIO_MAXIOV
# Ancillary data that changes neither the way nor the origin of a packet: (level, type); ip(7),
# ipv6(7), udp(7). IP_RETOPTS and IPV6_RTHDR would route it by way of another host.
_HARMLESS_CONTROL = {(0, 1), (0, 2), (0, 8), (41, 50), (41, 52), (41, 67), (17, 103)}
_MSGHDR = struct.Struct("=QIxxxxQQQQIxxxx")  # struct msghdr of a 64-bit kernel
_CMSGHDR = struct.Struct("=Qii")


def _on_sendto(sup, request):
    fd, buffer, size, flags, address, length = request.args
    message = _Message(request, flags)
    if length & 0xffffffff:
        message.address = _read_sockaddr(request, address, length & 0xffffffff)
    message.vectors = [(buffer, size)]
    return sup.judge(_message_call(sup, message, fd))


def _on_sendmsg(sup, request):
    fd, header, flags = request.args[:3]
    return sup.judge(_message_call(sup, _Message(request, flags), fd, header))


def _on_sendmmsg(sup, request):
    """As many messages as are given, or, with a callback, the first: the caller then sends the rest
    with another call, as after any short count."""
    fd, headers, count, flags = request.args[:4]
    count = min(count & 0xffffffff, _IOV_LIMIT)
    for sent in range(count):
        if sup.ending:
            return _refuse(errno.EPERM)
        header = headers + sent * (_MSGHDR.size + 8)  # struct mmsghdr
        try:
            call = _message_call(sup, _Message(request, flags), fd, header, header + _MSGHDR.size)
        except OSError:
            if not sent:
                raise
            return _return(sent)
        if call.message is None:
            return _return(sent) if sent else _unseen_messages(sup, call, fd, headers, count)
        if "sendto" in sup.asked or call.abstract is not None:  # somebody else has to be asked first
            if not sent:
                return sup.judge(call)
            call.close()
            return _return(sent)
        call.message.patient = not sent
        refusal = sup.last_denial(call)
        reply = sup.refused(call, *refusal) if refusal else sup._perform(call, call.act)
        if reply is None or reply[1]:
            return reply if not sent else _return(sent)
    return _return(count)


def _unseen_messages(sup, first, fd, headers, count):
    """All are judged, then the kernel sends them by itself. With a callback only one can be."""
    if count > 1 and "sendto" in sup.asked:
        raise _NoDescriptor(errno.EPERM, "several messages in a call cannot be judged where "
                            "pidfd_getfd(2) is refused")
    for i in range(1, count):
        call = _message_call(sup, _Message(first.request, first.request.args[3]), fd, headers + i * (_MSGHDR.size + 8))
        refusal = sup.last_denial(call)
        if refusal:
            return sup.refused(call, *refusal)
        call.close()
        if call.abstract is not None:
            raise _NoDescriptor(errno.EPERM, "several messages to abstract sockets cannot be judged where "
                                "pidfd_getfd(2) is refused")
    return sup.judge(first)


def _message_call(sup, message, fd, header=None, length_at=0):
    """The _Call of one message, read from a struct msghdr where there is a header. Its length is written to
    `length_at`, where that is asked for."""
    request = message.request

    def act(call, sock, address):
        reply = message.send(sup, call, sock, address)
        if reply is None:
            call.where, call.sock = _WORKER, sock
            sup.broker.dispatch(sup, call)
        elif length_at and not reply[1]:
            _write_checked(sup.listener, request, length_at, struct.pack("=I", reply[0]))
            return _return(1)
        return reply
    try:
        if header is not None:
            message.read(sup, header)
        call = _socket_call(sup, request, "sendto" if message.address else None, fd, message.address, act)
    except BaseException:
        message.close()
        raise
    if not call.fds:
        message.close()
        return call  # the kernel's to send
    call.message = message
    call.fds.extend(message.fds)
    with call:
        if sup.launching.user_ids and _socket_kind(call.fds[0])[0] == AF_UNIX:
            # With `user` the broker's real id is the host's, and a receiver would be told that.
            message.credentials = _CMSGHDR.pack(_CMSGHDR.size + 12, SOL_SOCKET, SCM_CREDENTIALS) + struct.pack(
                "=3I4x", os.getpid(), *sup.launching.user_ids)
    return call


class _Message:
    """What a send call sends: address and ancillary data as copies, the payload copied piece by
    piece; a datagram is one piece."""

    def __init__(self, request, flags):
        self.request, self.flags = request, flags & _SEND_FLAGS
        self.address, self.vectors, self.control, self.credentials, self.fds = b"", [], b"", b"", []
        self.sent, self.patient = 0, True

    def read(self, sup, header):
        """From a struct msghdr."""
        raw = _read_judged(self.request, header, _MSGHDR.size)
        name, name_size, iov, count, control, control_size, _ = _MSGHDR.unpack(raw)
        if name and name_size:
            self.address = _read_sockaddr(self.request, name, min(name_size, 128))
        if count > _IOV_LIMIT:
            raise OSError(errno.EMSGSIZE, "iov")
        vectors = _read_judged(self.request, iov, 16 * count) if count else b""
        self.vectors = list(struct.iter_unpack("=QQ", vectors))
        if control and control_size:
            if control_size > _CONTROL_LIMIT:
                raise OSError(errno.ENOBUFS, "ancillary data")
            self._copy_control(sup, _read_judged(self.request, control, control_size))

    def _copy_control(self, sup, raw):
        """Ancillary data, and copies of the descriptors in it. Anything not known harmless is EPERM."""
        at = 0
        while at + _CMSGHDR.size <= len(raw):
            size, level, kind = _CMSGHDR.unpack_from(raw, at)
            if size < _CMSGHDR.size or at + size > len(raw):
                raise OSError(errno.EINVAL, "ancillary data")
            body = raw[at + _CMSGHDR.size:at + size]
            if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
                count, first = len(body) // 4, len(self.fds)
                if first + count > 253:  # SCM_MAX_FD
                    raise OSError(errno.EINVAL, "ancillary data")
                for number in struct.unpack_from("=%di" % count, body):
                    self.fds.append(sup.broker.tasks.descriptor(self.request.task, number))
                body = struct.pack("=%di" % count, *self.fds[first:])
            elif (level, kind) not in _HARMLESS_CONTROL:
                raise OSError(errno.EPERM, "ancillary data")
            self.control += _CMSGHDR.pack(_CMSGHDR.size + len(body), level, kind) + body + bytes(-len(body) % 8)
            at += (size + 7) & ~7

    def close(self):
        while self.fds:
            os.close(self.fds.pop())

    def send(self, sup, call, sock, address):
        """On the broker without waiting, None where a blocking socket would have to; on a worker
        until all is sent, as the kernel does."""
        is_stream, size = _socket_kind(sock)[1] == SOCK_STREAM, sum(size for _, size in self.vectors)
        if not is_stream and size > min(_DATAGRAM_LIMIT, int.from_bytes(_socket_option(sock, SO_SNDBUF), sys.byteorder)):
            return _refuse(errno.EMSGSIZE)
        waits = not self.flags & MSG_DONTWAIT and self.patient and not (
            fcntl.fcntl(sock, fcntl.F_GETFL) & os.O_NONBLOCK)
        while True:
            try:
                payload, more = self._piece(_PIECE if is_stream else size)
            except OSError:
                if not self.sent:
                    raise
                return _return(self.sent)  # as the kernel tells what it sent before the fault
            sup.listener.check(self.request)  # so it was read from the task, not from a successor
            refusal = sup.last_denial(call)  # reading may have taken long
            if refusal:
                return _return(self.sent) if self.sent else sup.refused(call, *refusal)
            sent = self._send_piece(call, sock, address, payload)
            if sent == -errno.EAGAIN and waits and call.where != _WORKER:
                return None
            if sent < 0:
                return _return(self.sent) if self.sent else self._failed(sup, -sent, is_stream)
            self.sent += sent
            self.control = b""
            if not is_stream or not (more or sent < len(payload)) or not waits:
                return _return(self.sent)
            if call.where != _WORKER:
                return None

    def _piece(self, limit):
        """-> (the next bytes of the payload, whether more follow)."""
        remote, skip, left = [], self.sent, limit
        for base, size in self.vectors:
            start = min(skip, size)
            skip -= start
            take = min(size - start, left)
            if take:
                remote.append(_IOVEC.pack(base + start, take))
            left -= take
        wanted = limit - left
        buffer = ctypes.create_string_buffer(wanted or 1)
        got = wanted and _slow(_NR["process_vm_readv"], self.request.tid, _IOVEC.pack(_address(buffer), wanted),
                               1, b"".join(remote), len(remote), _ZERO)
        if got < wanted:
            raise OSError(errno.EFAULT, "payload")
        return buffer.raw[:wanted], sum(size for _, size in self.vectors) > self.sent + wanted

    def _send_piece(self, call, sock, address, payload):
        data = ctypes.create_string_buffer(payload, len(payload) or 1)
        vector = ctypes.create_string_buffer(_IOVEC.pack(_address(data), len(payload)))
        name = ctypes.create_string_buffer(address, len(address) or 1)
        ancillary = self.control + self.credentials
        control = ctypes.create_string_buffer(ancillary, len(ancillary) or 1)
        header = ctypes.create_string_buffer(_MSGHDR.pack(
            _address(name) if address else 0, len(address), _address(vector), 1,
            _address(control) if ancillary else 0, len(ancillary), 0))
        quick = 0 if call.where == _WORKER else MSG_DONTWAIT
        return _raw(_NR["sendmsg"], sock, _address(header), self.flags | quick | MSG_NOSIGNAL)

    def _failed(self, sup, error, is_stream):
        if error == errno.EPIPE and is_stream and not self.flags & MSG_NOSIGNAL:
            sup.listener.check(self.request)
            _raw(_NR["tkill"], self.request.tid, signal.SIGPIPE)
        return _refuse(error)


# -- memory --------------------------------------------------------------------------------------

def _on_growth(sup, request):
    """mmap and mremap of more than 1 MiB; all numbers are in registers. Only memory that can be
    written and is the program's own counts; the kernel itself counts what becomes writable later. (Shared memory
    is trapped whatever its size: from then on it is looked for.)"""
    args, is_mmap = request.args, request.nr == _NR["mmap"]
    size = args[1] if is_mmap else args[2]
    if is_mmap and args[3] & MAP_SHARED:
        sup.memory.has_shared = True
    if size <= _GROWTH:
        return _CONTINUE
    call = _Call(request, "mmap", lambda: _CONTINUE, where=_ANYWHERE, size=size)
    grows = size if is_mmap else max(0, size - args[1])
    if is_mmap and not (args[3] & MAP_ANONYMOUS if args[3] & MAP_SHARED else args[2] & PROT_WRITE):
        grows = 0
    if not grows or not sup.memory.limit():
        return sup.judge(call)

    def weigh():
        if not sup.memory.fits(grows):
            call.refusal = (errno.ENOMEM, "%d bytes more would not fit" % grows, "max_memory")
            call.needs = ("max_memory", 2 * max(grows, sup.memory.limit())),
        return sup.judge(call)
    return sup.on_supervisor(request, weigh)


def _on_memfd(sup, request):
    """A file in memory: from now on those count, mapped or not. Not of huge pages, which lie elsewhere."""
    if request.args[1] & MFD_HUGETLB:
        return _refuse(errno.ENOSYS)  # as where the kernel has none
    sup.memory.has_memfds = sup.memory.has_shared = True
    return _CONTINUE


# -- files ---------------------------------------------------------------------------------------

_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


class _Walker:
    """Walks the paths that a program names, on the broker's thread: inside the domain, and as if
    the task itself walked."""
    MAX_LINKS, MAX_STEPS = 40, 4096

    def __init__(self):
        mounts = _mounts()
        # With the GIL held a walk costs no switch between threads, but it must not wait for anybody.
        quick = all(mount.kind in _LOCAL_FILESYSTEMS for mount in mounts)
        self.call = _quick if quick else _slow
        self.proc = _own_proc(mounts)
        self.proc_roots = tuple(self.proc)
        self.fds = _high_fd(os.open("/proc/self/fd", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))  # -1: closed

    def path(self, fd):
        """Where a descriptor of ours leads, as the kernel tells it."""
        return os.readlink(b"%d" % fd, dir_fd=self.fds)

    def entry(self, folder, name):
        """O_PATH descriptor of what a name means in a directory, of a link itself; or -errno."""
        return self.open(folder, name, O_PATH | os.O_NOFOLLOW, 0, 0)

    def info(self, folder, name):
        """fstat(2) of that, None if there is nothing; OSError where nobody can tell."""
        fd = self.entry(folder, name)
        if -fd in _NOT_THERE:
            return None
        with _Fd(_result(fd, "looking at it")):
            return os.fstat(fd)

    def again(self, fd, flags, path=b""):
        """The object of an O_PATH descriptor opened with these flags, or -errno. What lies in /proc may wait
        for the process that it is about, and an overlay copies a file that is opened for writing."""
        call = _slow if flags & O_ACCMODE or path.startswith(self.proc_roots) else self.call
        return call(_NR["openat"], self.fds, b"%d" % fd, flags | os.O_CLOEXEC, 0)

    def close(self):
        fd, self.fds = self.fds, -1
        if fd >= 0:
            os.close(fd)

    def open(self, start, name, flags, mode=0, resolve=None):
        """openat2(2) where `resolve` is given, else openat(2), for what never waits; the descriptor or -errno."""
        if resolve is None:
            return self.call(_NR["openat"], start, name, flags | os.O_CLOEXEC, mode)
        if self.call is _quick:  # with the GIL held only what the kernel has at hand (5.12)
            how = open_how.pack(flags | os.O_CLOEXEC, mode, resolve | RESOLVE_CACHED)
            fd = _quick(_NR["openat2"], start, name, how, len(how))
            if fd != -errno.EAGAIN:
                return fd
        how = open_how.pack(flags | os.O_CLOEXEC, mode, resolve)
        return _slow(_NR["openat2"], start, name, how, len(how))

    def look(self, request, start, name, flags, resolve=0):
        """-> (O_PATH descriptor, its path), or (-errno, path: as far as it leads, the rest as written)."""
        fd = self.open(start, name, O_PATH | flags, 0, resolve | RESOLVE_NO_MAGICLINKS)
        if fd >= 0:
            try:
                path = self.path(fd)
                if not self._is_proc(fd):
                    return fd, path
            except OSError:  # deeper than PATH_MAX: nothing could be told of it
                os.close(fd)
                raise
            os.close(fd)
        elif fd == -errno.ENOENT and not resolve:
            best = self._missing(start, name)
            if best is not None:
                return fd, best
        try:
            walked, path = self._step_by_step(request, start, name, flags, resolve)
        except OSError as e:
            walked, path = -e.errno, e.filename or name
        if not resolve and (fd >= 0 or fd in (-errno.ENOENT, -errno.ELOOP)):
            return walked, path
        if walked >= 0:
            os.close(walked)
        return fd if fd < 0 else -errno.ELOOP, path  # RESOLVE_* and /proc: fails closed

    def _is_proc(self, fd):
        info = ctypes.create_string_buffer(_STATFS_SIZE)
        return (self.call(_NR["fstatfs"], fd, info) < 0
                or struct.unpack_from("=q", info)[0] == PROC_SUPER_MAGIC)  # f_type

    def _missing(self, start, name):
        """The path of what does not exist; None if it might for the task: where it could lead through
        /proc, whose "self" is another there."""
        head, slash, last = name.rstrip(b"/").rpartition(b"/")
        parent = self.open(start, head or slash or b".", O_PATH | os.O_DIRECTORY, 0, RESOLVE_NO_MAGICLINKS)
        if parent < 0:
            return None
        with _Fd(parent):
            if self._is_proc(parent):
                return None
            link = self.entry(parent, last)
            if link < 0:
                return os.path.join(self.path(parent), last)
            os.close(link)  # one that leads nowhere, or somebody was faster
            return None

    def _step_by_step(self, request, start, name, flags, resolve):
        """For what leads through /proc: "self" is the task's, a magic link is followed for the task
        if the kernel lets a confined thread do so, and nothing of the host's own is reached. And for
        what leads nowhere: OSError, its filename being how far it led."""
        here = b"/proc/self/fd/%d" % start
        top = here if start >= 0 and resolve & RESOLVE_IN_ROOT else b"/"
        current = _result(self.open(AT_FDCWD, top if name[:1] == b"/" else here, O_PATH))
        parts, links, part = name.split(b"/")[::-1], 0, b""
        try:
            self.refuse_host(current)
            for _ in range(self.MAX_STEPS):
                if not parts:
                    if flags & os.O_DIRECTORY:
                        self._require_directory(current)
                    path = self.path(current)
                    return os.dup(current), path
                part = parts.pop()
                if part in (b"", b"."):
                    self._require_directory(current)
                    continue
                if part == b".." and os.path.samefile(current, top):
                    continue
                child = _result(self.entry(current, part))
                if stat.S_ISLNK(os.fstat(child).st_mode) and (parts or not flags & os.O_NOFOLLOW):
                    links += 1
                    if links > self.MAX_LINKS:
                        os.close(child)
                        raise OSError(errno.ELOOP, "symbolic links")
                    child, text = self._follow(request, current, child, part)
                    if text is not None:
                        parts.extend(text.split(b"/")[::-1])
                        if text[:1] != b"/":
                            continue
                        child = os.open(top, O_PATH | os.O_CLOEXEC)
                os.close(current)
                current, part = child, b""
                self.refuse_host(current)
            raise OSError(errno.ELOOP, "components")
        except OSError as e:
            e.filename = self._led(current, [part] + parts[::-1], name)
            raise
        finally:
            os.close(current)

    def _led(self, fd, rest, name):
        try:
            return b"/".join([self.path(fd)] + rest)
        except OSError:
            return name  # deeper than PATH_MAX

    def _follow(self, request, current, link, part):
        """-> (descriptor, None) of a magic link's target, or (None, text) of an ordinary link."""
        with _Fd(link):
            if (self.path(current) + b"/").startswith(self.proc_roots):
                ordinary = self.open(current, part, O_PATH, 0, RESOLVE_NO_MAGICLINKS)
                if ordinary >= 0:
                    os.close(ordinary)
                elif ordinary == -errno.ELOOP:
                    return _result(self.open(current, part, O_PATH)), None
            return None, self.link_text(request, link)

    def link_text(self, request, fd):
        """What a symbolic link says, to the task: /proc/self has another text for each reader."""
        process, (folder, name) = request.task.process, os.path.split(self.path(fd))
        own = {b"self": b"%d" % process, b"thread-self": b"%d/task/%d" % (process, request.tid)}
        return own[name] if name in own and folder + b"/" in self.proc else os.readlink(b"", dir_fd=fd)

    def refuse_host(self, fd):
        """EACCES for what belongs to a thread of the host, to which the kernel refuses nothing of its own;
        and for a proc file system where the host could have another number."""
        if not self._is_proc(fd):
            return
        path = self.path(fd)
        root = next((root for root in self.proc if (path + b"/").startswith(root)), None)
        number = path[len(root or b""):].split(b"/")[0]
        if root is None or os.fstat(fd).st_dev != self.proc[root] or number.isdigit() and _is_ours(int(number)):
            raise OSError(errno.EACCES, "of the host")

    @staticmethod
    def _require_directory(fd):
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.ENOTDIR, "not a directory")


def _own_proc(mounts):
    """Where a proc file system is mounted in which this process has its own number -> its device."""
    found = {}
    for mount in mounts:
        root = mount.point.rstrip(b"/") + b"/"
        if mount.kind == b"proc" and len(_status_in(root + b"self").get("NSpid", "").split()) == 1:
            try:
                found[root] = os.stat(root).st_dev
            except OSError:
                continue  # it is gone
    return found


class _NoWalker(OSError):
    """There is none yet: only the supervisor can make it, and few programs need it where no path is judged."""


_LOCAL_FILESYSTEMS = frozenset(b"""ext2 ext3 ext4 xfs btrfs f2fs bcachefs zfs erofs squashfs iso9660
    vfat exfat tmpfs ramfs devtmpfs devpts proc sysfs cgroup cgroup2 securityfs debugfs tracefs
    configfs mqueue hugetlbfs pstore bpf efivarfs binfmt_misc rootfs nsfs overlay selinuxfs
    rpc_pipefs binder""".split())


_OPEN_ARGUMENTS = {_NR[name]: row for name, row in {  # where dirfd, path, flags and mode are
    "openat": (0, 1, 2, 3), "open": (None, 0, 1, 2), "creat": (None, 0, None, 1)}.items() if name in _NR}


def _open_arguments(request):
    """-> (directory fd, address of the path, flags, mode, RESOLVE_*) of an open call."""
    args, row = request.args, _OPEN_ARGUMENTS.get(request.nr)
    if row is not None:
        dirfd, path, flags, mode = row
        return (AT_FDCWD if dirfd is None else args[dirfd], args[path],
                os.O_CREAT | os.O_WRONLY | os.O_TRUNC if flags is None else args[flags] & 0xffffffff,
                args[mode] & 0o7777, 0)
    how = _read_memory(request.tid, args[2], min(args[3], _PAGE))
    size = open_how.size
    if args[3] < size:
        raise OSError(errno.EINVAL, "size of open_how")
    if len(how) < args[3] or any(how[size:]):
        raise OSError(errno.E2BIG, "size of open_how")
    flags, mode, resolve = open_how.unpack(how[:size])
    if flags >> 32 or mode & ~0o7777 or mode and not flags & (os.O_CREAT | O_TMPFILE & ~os.O_DIRECTORY):
        raise OSError(errno.EINVAL, "open_how")
    return args[0], args[1], flags, mode, resolve


def _directory_of(sup, request, dirfd, name, resolve=0):
    """A descriptor to walk from, which the caller closes, or AT_FDCWD for an absolute path."""
    if name[:1] == b"/" and not resolve & RESOLVE_IN_ROOT:
        return AT_FDCWD
    if dirfd & 0xffffffff == AT_FDCWD & 0xffffffff:
        def cwd():
            return sup.walker.open(AT_FDCWD, b"/proc/%d/cwd" % request.tid, O_PATH | os.O_DIRECTORY)
        # With fewer capabilities than its tasks may have the kernel lets nobody look at them.
        return _result(cwd() if request.capabilities is None else _with_capabilities(-1, cwd), "cwd")
    return _descriptor_to_look(sup, request, dirfd)


def _descriptor_to_look(sup, request, fd):
    """A copy of a task's descriptor, or, where that is refused, an O_PATH one of the same object."""
    try:
        return sup.broker.tasks.descriptor(request.task, fd)
    except _NoDescriptor:
        return _result(sup.walker.open(AT_FDCWD, b"/proc/%d/fd/%d" % (request.tid, fd & 0xffffffff), O_PATH),
                       "descriptor")


class _Path:
    """A path that a call names, looked up once: what is judged is what is acted upon. find() looks
    for the object, place() for a name in a directory; both tell the call's event. Where that fails,
    so does the call: as the kernel says, whatever the callback answers."""

    def __init__(self, sup, call, dirfd, name, resolve=0):
        if sup.walker is None:
            raise _NoWalker
        self.sup, self.call, self.walker, self.name = sup, call, sup.walker, name
        self.start = call.keep(_directory_of(sup, call.request, dirfd, name, resolve))
        sup.listener.check(call.request)

    def find(self, flags):
        """O_PATH descriptor of the object, or None."""
        fd, path = self.walker.look(self.call.request, self.start, self.name, flags)
        if fd < 0:
            self.call.fails(-fd, path)
            return None
        self.call.fds.append(fd)
        self.tell(path, os.fstat(fd))
        return fd

    def place(self):
        """(O_PATH descriptor of the directory, name in it), or None. Slashes at the end stay: the
        kernel then wants a directory there."""
        stripped = self.name.rstrip(b"/")
        head, _, last = stripped.rpartition(b"/")
        top = b"/" if self.name[:1] == b"/" else b"."
        parent, where = self.walker.look(self.call.request, self.start, head or top, os.O_DIRECTORY)
        if parent < 0:
            self.call.fails(-parent, os.path.join(where, last))
            return None
        self.call.fds.append(parent)
        path = _normal(os.path.join(where, last))
        self.call.event["path"] = os.fsdecode(path)
        self.call.identify(os.fstat(parent))
        self.call.needs = ("fs_writable", os.fsdecode(where)),
        self.call.child = (parent, last or b"/")
        self.call.failed = not self.sup.grants("fs_writable", self.call.event["path"])
        return parent, self.name[self.name.rindex(last):] if last else b"/"

    def tell(self, path, info):
        self.call.event["path"] = os.fsdecode(path)
        self.call.identify(info)


def _on_open(sup, request):
    """open, creat, openat, openat2: looked up once with O_PATH, judged, and that very object is
    opened anew and handed over."""
    dirfd, path_at, flags, mode, resolve = _open_arguments(request)
    if flags & os.O_CREAT and flags & os.O_DIRECTORY and not flags & O_PATH:
        return _refuse(errno.EINVAL)  # as from 6.4 on
    if flags & (O_ACCMODE | O_PATH) == O_ACCMODE:
        return _refuse(errno.EACCES)  # as _block_open does
    if flags & os.O_TRUNC and not flags & (O_ACCMODE | O_PATH) and 0 < sup.launching.abi < ABI_TRUNCATE:
        return _refuse(errno.EACCES)
    name = _read_path(request, path_at)
    call = _Call(request, "openat", None)
    with call:
        _Opening(sup, call, dirfd, name, flags, mode, resolve).resolve()
        return sup.judge(call)


class _Opening(_Path):
    """One open: resolve() finds what it is about and sets the call's event and act."""

    def __init__(self, sup, call, dirfd, name, flags, mode, resolve):
        super().__init__(sup, call, dirfd, name, resolve)
        self.mode, self.rules = mode, resolve
        if flags & O_PATH:
            flags &= O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self.flags = flags
        self.creates = flags & os.O_CREAT and not flags & O_PATH
        self.temporary = flags & O_TMPFILE == O_TMPFILE

    def resolve(self):
        stripped = self.name.rstrip(b"/")
        if self.creates and stripped != self.name and os.path.basename(stripped) not in (b"", b".", b".."):
            head, last = os.path.split(stripped)
            fd, path = self.walker.look(self.call.request, self.start, head or b".", os.O_DIRECTORY, self.rules)
            self.call.keep(fd)
            self.call.fails(errno.EISDIR if fd >= 0 else -fd, os.path.join(path, last))
            return
        nofollow = os.O_NOFOLLOW if self.creates and self.flags & os.O_EXCL else 0
        fd, path = self.walker.look(
            self.call.request, self.start, self.name,
            self.flags & (os.O_NOFOLLOW | os.O_DIRECTORY) | nofollow, self.rules)
        if fd >= 0:
            self.call.fds.append(fd)
            self._existing(fd, path)
        elif fd == -errno.ENOENT and self.creates:
            self._new(self.start, self.name, _Walker.MAX_LINKS, path)
        else:
            self.call.fails(-fd, path)

    def _existing(self, fd, path):
        info = os.fstat(fd)
        kind, flags, call = stat.S_IFMT(info.st_mode), self.flags, self.call
        self.tell(path, info)
        if not flags & O_PATH and path[:1] == b"/":  # else it is a pipe or the like, which nothing grants
            changes = flags & (O_ACCMODE | os.O_TRUNC) or self.temporary
            call.needs = ("fs_writable" if changes else "fs_readable", call.event["path"]),
        if flags & O_PATH:
            self._path_only(fd, path, kind)
        elif self.creates and flags & os.O_EXCL:
            self.call.fails(errno.EEXIST, path)
        elif kind == stat.S_IFDIR and self.creates:
            self.call.fails(errno.EISDIR, path)
        elif kind == stat.S_IFLNK:
            self.call.fails(errno.ELOOP, path)
        elif path == getattr(self.sup.hosts, 'path', None) and not flags & O_ACCMODE:
            call.act = self._open_hosts
        elif self.temporary:
            call.wants_status = True
            call.act = lambda: self._make(_link_to(fd), AT_FDCWD, flags & ~os.O_NOFOLLOW)
            self._foretell()
        elif kind in (stat.S_IFREG, stat.S_IFDIR):
            self._regular(fd, path)
        else:
            self._special(fd, info)

    def _path_only(self, fd, path, kind):
        """ADDFD takes no descriptor of O_PATH: the task gets one to read, if it may have that."""
        if kind in (stat.S_IFREG, stat.S_IFDIR):
            self.flags &= ~(O_PATH | os.O_NOFOLLOW)
            self._regular(fd, path)
        else:
            self.call.fails(errno.EACCES, path)

    def _again(self, fd, more=0):
        """Opens the object that was looked at, with the flags of the call."""
        return self.walker.again(fd, self._flags_of_reopening() | more, os.fsencode(self.call.event["path"]))

    def _flags_of_reopening(self):
        return self.flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW) | os.O_NOCTTY

    def _regular(self, fd, path):
        """Where opening changes nothing yet, it is done before the verdict: then the event tells
        whether the kernel refuses it. O_NONBLOCK: a lease would make us wait for its holder."""
        if self.flags & os.O_TRUNC:
            self._on_worker(fd)  # waits for whoever writes
        elif "openat" in self.sup.asked and not self.sup.last_denial(self.call):
            self._open_regular(fd, path)
        else:  # what is denied is not even opened
            if "openat" in self.sup.asked:
                self._foretell()
            self.call.act = lambda: self._open_regular(fd, path) or (
                self.sup.broker.dispatch(self.sup, self.call) if self.call.where == _WORKER else self.call.act())

    def _open_regular(self, fd, path):
        opened = self._again(fd, os.O_NONBLOCK)
        if opened >= 0:
            self.call.fds.append(opened)
            self.call.act, self.call.where = (lambda: self._install_regular(opened)), _ANYWHERE
        elif opened == -errno.EWOULDBLOCK:
            self._on_worker(fd)
        else:
            self.call.fails(-opened, path)

    def _install_regular(self, opened):
        if not self.flags & os.O_NONBLOCK:
            _quick(_NR["fcntl"], opened, fcntl.F_SETFL, self.flags & ~os.O_CLOEXEC)
        return self._install(opened)

    def _special(self, fd, info):
        """FIFOs and devices may make whoever opens them wait. /dev/tty means the opener's own."""
        tty = stat.S_ISCHR(info.st_mode) and info.st_rdev == os.makedev(5, 0)
        if tty and os.getsid(self.call.request.task.process) != os.getsid(0):
            opened = self._again(fd)  # only to know whether the kernel would refuse it
            if opened >= 0:
                os.close(opened)
            self.call.fails(errno.ENXIO if opened >= 0 else -opened, self.walker.path(fd))
        else:
            self._on_worker(fd)

    def _on_worker(self, fd):
        def act():
            self.call.fds.append(_result(_slow(_NR["openat"], AT_FDCWD, _link_to(fd), flags, 0)))
            return self._install(self.call.fds[-1])
        flags = self._flags_of_reopening() | os.O_CLOEXEC
        self.call.act, self.call.where = act, _WORKER
        self._foretell()

    def _foretell(self):
        """What the kernel would say, for the event, where it is asked after the verdict only."""
        self.call.failed = not all(self.sup.grants(*need) for need in self.call.needs)

    def _open_hosts(self):
        opened = self.sup.hosts.open(self.walker)
        self.call.fds.append(opened)
        return self._install(opened)

    def _new(self, start, name, links, led):
        """Creation: the parent directory is what is resolved. A dangling link is created through."""
        head, slash, last = name.rpartition(b"/")
        if not last or last in (b".", b".."):
            return self.call.fails(errno.ENOENT if last else errno.EISDIR, led)
        parent, path = self.walker.look(self.call.request, start, head or slash or b".",
                                        os.O_DIRECTORY, self.rules)
        if parent < 0:
            return self.call.fails(-parent, os.path.join(path, last))
        self.call.fds.append(parent)
        link = self.walker.entry(parent, last)
        if link >= 0:
            with _Fd(link):
                is_link = stat.S_ISLNK(os.fstat(link).st_mode)
                text = os.readlink(b"", dir_fd=link) if is_link else b""
            if not is_link:
                return self.resolve()  # somebody was faster
            if not links or self.flags & os.O_NOFOLLOW or self.rules:
                return self.call.fails(errno.ELOOP, os.path.join(path, last))
            return self._new(parent, text, links - 1, led)
        self.call.event["path"] = os.fsdecode(os.path.join(path, last))
        self.call.identify(os.fstat(parent))
        self.call.needs = ("fs_writable", os.fsdecode(path)),
        self._foretell()
        self.call.wants_status = True
        self.call.act = lambda: self._make(last, parent, self.flags | os.O_EXCL | os.O_NOFOLLOW)

    def _make(self, name, parent, flags):
        """With the task's umask, although the host's applies: first what both allow, then what the
        task's alone allows, unless a default ACL has decided."""
        mode = self.mode & ~self.call.umasks[0]
        made = _slow(_NR["openat"], parent, name, flags | os.O_NOCTTY | os.O_CLOEXEC, mode)
        if made == -errno.EEXIST and not self.flags & os.O_EXCL:
            self.call.close()
            self.sup.answer(self.call.request.again(), _on_open)  # somebody was faster: it exists now
            return None
        opened = _result(made)
        self.call.fds.append(opened)
        _mend_mode(opened, self.mode, self.call.umasks)
        return self._install(opened)

    def _install(self, fd):
        return _return(self.sup.listener.install(self.call.request, fd, self.flags & os.O_CLOEXEC))


def _mend_mode(fd, mode, umasks, since_ns=None):
    """Gives a new file the mode that the task's umask leaves, where the host's had a say in it: not
    where a default ACL has decided. (A socket gets it before anybody can listen on it.) What was
    found by its name must have been made since then: it could be another by now."""
    task, host = umasks
    if since_ns is not None and _birth_ns(fd) < since_ns:
        return
    got = os.fstat(fd).st_mode & 0o7777
    inherited = got & ~mode & stat.S_ISGID
    if got & ~inherited in (mode & ~task & ~host, mode & ~host) and got & ~inherited != mode & ~task:
        os.chmod("/proc/self/fd/%d" % fd, mode & ~task | inherited)


def _birth_ns(fd):
    """When a file was made, in nanoseconds of CLOCK_REALTIME, or -1; statx(2)."""
    info = ctypes.create_string_buffer(_STATX_SIZE)
    if _slow(_NR["statx"], fd, b"", AT_EMPTY_PATH, STATX_BTIME, info) < 0:
        return -1
    mask, = struct.unpack_from("=I", info)
    seconds, nanoseconds = struct.unpack_from("=qI", info, 80)  # stx_btime
    return seconds * 10 ** 9 + nanoseconds if mask & STATX_BTIME else -1


def _coarse_now_ns():
    """The clock that files are stamped with; CLOCK_REALTIME_COARSE of clock_gettime(2)."""
    return time.clock_gettime_ns(5)


# -- every other call that takes a path ------------------------------------------------------------
# A row says where the arguments are; what is done is one function of a few lines. Four kinds: what
# is only looked at is looked at before the verdict, and the answer then given; what changes an
# object is done on its descriptor; what changes a name is done in the directory's; and two names
# are two events.

def _look_stat(path, fd, flags, at):
    info = ctypes.create_string_buffer(_STAT_SIZE)
    return path.walker.call(_NR["newfstatat"], fd, b"", info, flags | AT_EMPTY_PATH), at, info.raw


def _look_statx(path, fd, flags, mask, at):
    info = ctypes.create_string_buffer(_STATX_SIZE)
    return path.walker.call(_NR["statx"], fd, b"", flags | AT_EMPTY_PATH, mask, info), at, info.raw


def _look_access(path, fd, flags, mode):
    """By the effective ids, which all are the task's: with `user` the broker has another real one."""
    return path.walker.call(_NR["faccessat2"], fd, b"", mode, flags | AT_EACCESS | AT_EMPTY_PATH), 0, b""


def _look_link(path, fd, flags, at, size):
    if not stat.S_ISLNK(os.fstat(fd).st_mode):
        return -errno.EINVAL if path.name else -errno.ENOENT, 0, b""
    text = path.walker.link_text(path.call.request, fd)[:size]
    return len(text), at, text


def _look_statfs(path, fd, flags, at):
    info = ctypes.create_string_buffer(_STATFS_SIZE)
    return path.walker.call(_NR["fstatfs"], fd, info), at, info.raw


def _look_xattr(path, fd, flags, *rest):
    """Of a name, or without one all the names: listxattr(2)."""
    *name, at, size = rest
    size = min(size, XATTR_SIZE_MAX)
    value = ctypes.create_string_buffer(size or 1)
    got = _slow(_NR["getxattr" if name else "listxattr"], _link_to(fd), *name, value, size)
    return got, at, value.raw[:max(got, 0)] if size else b""


def _do_truncate(path, fd, flags, size):
    """The limit on file sizes is the task's, and so is the signal; setrlimit(2)."""
    if os.fstat(fd).st_size < size and size > path.call.size_limit:
        path.sup.listener.check(path.call.request)
        _raw(_NR["tkill"], path.call.request.tid, signal.SIGXFSZ)
        return -errno.EFBIG
    if 0 < path.sup.launching.abi < ABI_TRUNCATE:  # Landlock judges opening for writing in its place
        opened = _slow(_NR["openat"], AT_FDCWD, _link_to(fd), os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK, 0)
        if opened < 0:
            return opened
        path.call.fds.append(opened)
        return _raw(_NR["ftruncate"], opened, size)
    return _slow(_NR["truncate"], _link_to(fd), ctypes.c_long(size))


def _by_descriptor(name):
    """A call of the *at family, on the very descriptor."""
    return lambda path, fd, flags, *rest: _slow(_NR[name], fd, b"", *rest, flags | AT_EMPTY_PATH)


def _by_link(name, *first):
    """One that takes a path only, on the link that leads to the object."""
    return lambda path, fd, flags, *rest: _slow(_NR[name], *first, _link_to(fd), *rest)


def _do_times(path, fd, flags, times):
    return _slow(_NR["utimensat"], AT_FDCWD, _link_to(fd), times, 0)


def _make_nothing(path, parent, name, flags):
    return _slow(_NR["unlinkat"], parent, name, flags)


def _make_directory(path, parent, name, flags, mode):
    return _made(path.walker, path.call, parent, name, mode & 0o1777,
                 lambda bits: _slow(_NR["mkdirat"], parent, name, bits))


def _make_node(path, parent, name, flags, mode, device):
    return _made(path.walker, path.call, parent, name, mode & 0o7777, lambda bits: _slow(
        _NR["mknodat"], parent, name, stat.S_IFMT(mode) | bits, device))


def _made(walker, call, parent, name, mode, make):
    """Makes something with the task's umask, as in _Opening._make; the result, or -errno."""
    since_ns, result = _coarse_now_ns(), make(mode & ~call.umasks[0])
    if result >= 0:
        made = call.keep(walker.entry(parent, name.rstrip(b"/")))
        if made >= 0:
            _mend_mode(made, mode, call.umasks, since_ns)
    return result


def _make_symlink(path, parent, name, flags, text):
    return _slow(_NR["symlinkat"], text, parent, name)


def _load_xattr_name(request, index):
    try:
        name = _read_string(request, request.args[index], XATTR_NAME_MAX + 1)
    except OSError as e:
        raise OSError(errno.ERANGE if e.errno == errno.ENAMETOOLONG else e.errno, "name") from None
    if not name:
        raise OSError(errno.ERANGE, "name")
    return name


def _load_value(request, index):
    """With its size in the next argument."""
    size = request.args[index + 1]
    if size > XATTR_SIZE_MAX:
        raise OSError(errno.E2BIG, "value")
    return _read_whole(request, request.args[index], size) if size else b""


def _load_times(request, index, form="=4q", unit_ns=1):
    """As struct timespec[2], or None for now; from timespec, timeval or utimbuf."""
    at = request.args[index]
    if not at:
        return None
    numbers = struct.unpack(form, _read_whole(request, at, struct.calcsize(form)))
    if len(numbers) == 2:
        numbers = numbers[0], 0, numbers[1], 0
    if unit_ns > 1 and not all(0 <= part < 10 ** 6 for part in numbers[1::2]):
        raise OSError(errno.EINVAL, "times")
    return struct.pack("=4q", numbers[0], numbers[1] * unit_ns, numbers[2], numbers[3] * unit_ns)


def _load_if(is_valid, mask=2 ** 64 - 1):
    """A number that is EINVAL unless it is valid."""
    def load(request, index):
        number = request.args[index] & mask
        if not is_valid(number):
            raise OSError(errno.EINVAL, "argument %d" % index)
        return number
    return load


def _load_statx_mask(request, index):
    """With flags before it: AT_STATX_FORCE_SYNC and DONT_SYNC exclude each other."""
    if request.args[index] & 1 << 31 or not ~request.args[index - 1] & 0x6000:
        raise OSError(errno.EINVAL, "statx")
    return request.args[index]


def _load_node_mode(request, index):
    mode = request.args[index] & 0xffff
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
        raise OSError(errno.EPERM if kind == stat.S_IFDIR else errno.EINVAL, "mode")
    return mode


_LOADERS = {  # what an argument points to, by the letter before its number in a row
    "": lambda request, index: request.args[index],
    "m": _load_if(lambda mode: mode < 8, 0xffffffff), "z": _load_if(lambda size: 0 < size < 1 << 31, 0xffffffff),
    "l": _load_if(lambda length: length < 1 << 63), "s": lambda request, index: _read_path(request, request.args[index]),
    "x": _load_statx_mask, "o": _load_node_mode, "n": _load_xattr_name, "v": _load_value, "t": _load_times,
    "w": lambda request, index: _load_times(request, index, unit_ns=1000),
    "u": lambda request, index: _load_times(request, index, "=2q"),
}


# syscall: (family, what is done, where its arguments are). d: directory, p: path, f: flags and those
# that exist, F: flags that are always meant, D and P: the second path; see _LOADERS for the rest.
_LOOKED_AT = {
    "stat": ("stat", _look_stat, "p0 1"),
    "lstat": ("stat", _look_stat, "p0 1 F100"),
    "newfstatat": ("stat", _look_stat, "d0 p1 2 f3:7900"),
    "statx": ("stat", _look_statx, "d0 p1 f2:7900 x3 4"),
    "access": ("access", _look_access, "p0 m1"),
    "faccessat": ("access", _look_access, "d0 p1 m2"),
    "faccessat2": ("access", _look_access, "d0 p1 m2 f3:1300"),
    "readlink": ("readlink", _look_link, "p0 1 z2 F100"),
    "readlinkat": ("readlink", _look_link, "d0 p1 2 z3 F1100"),
    "statfs": ("statfs", _look_statfs, "p0 1"),
    "getxattr": ("getxattr", _look_xattr, "p0 n1 2 3"),
    "lgetxattr": ("getxattr", _look_xattr, "p0 n1 2 3 F100"),
    "listxattr": ("getxattr", _look_xattr, "p0 1 2"),
    "llistxattr": ("getxattr", _look_xattr, "p0 1 2 F100"),
}
_DONE_TO_IT = {
    "chdir": ("chdir", None, "p0"),  # done by the kernel itself: on behalf it would be the host's directory that changes
    "truncate": ("truncate", _do_truncate, "p0 l1"),
    "chmod": ("fchmodat", _by_link("fchmodat", AT_FDCWD), "p0 1"),
    "fchmodat": ("fchmodat", _by_link("fchmodat", AT_FDCWD), "d0 p1 2"),
    "fchmodat2": ("fchmodat", _by_descriptor("fchmodat2"), "d0 p1 2 f3:1100"),
    "chown": ("fchownat", _by_descriptor("fchownat"), "p0 1 2"),
    "lchown": ("fchownat", _by_descriptor("fchownat"), "p0 1 2 F100"),
    "fchownat": ("fchownat", _by_descriptor("fchownat"), "d0 p1 2 3 f4:1100"),
    "utime": ("utimensat", _do_times, "p0 u1"),
    "utimes": ("utimensat", _do_times, "p0 w1"),
    "futimesat": ("utimensat", _do_times, "d0 p1 w2"),
    "utimensat": ("utimensat", _do_times, "d0 p1 t2 f3:1100"),
    "setxattr": ("setxattr", _by_link("setxattr"), "p0 n1 v2 3 4"),
    "lsetxattr": ("setxattr", _by_link("setxattr"), "p0 n1 v2 3 4 F100"),
    "removexattr": ("setxattr", _by_link("removexattr"), "p0 n1"),
    "lremovexattr": ("setxattr", _by_link("removexattr"), "p0 n1 F100"),
}
_MADE_IN_IT = {
    "unlink": ("unlinkat", _make_nothing, "p0"),
    "rmdir": ("unlinkat", _make_nothing, "p0 F200"),
    "unlinkat": ("unlinkat", _make_nothing, "d0 p1 f2:200"),
    "mkdir": ("mkdirat", _make_directory, "p0 1"),
    "mkdirat": ("mkdirat", _make_directory, "d0 p1 2"),
    "mknod": ("mknodat", _make_node, "p0 o1 2"),
    "mknodat": ("mknodat", _make_node, "d0 p1 o2 3"),
    "symlink": ("symlinkat", _make_symlink, "s0 p1"),
    "symlinkat": ("symlinkat", _make_symlink, "s0 d1 p2"),
}
_FROM_HERE_TO_THERE = {
    "rename": ("renameat", None, "p0 P1"),
    "renameat": ("renameat", None, "d0 p1 D2 P3"),
    "renameat2": ("renameat", None, "d0 p1 D2 P3 f4:7"),
    "link": ("linkat", None, "p0 P1 F100"),
    "linkat": ("linkat", None, "d0 p1 D2 P3 f4:1400"),
}
_UNMEDIATED = {  # nobody depends on them yet: refused where their older forms are mediated
    "setxattrat": ("setxattr", errno.ENOSYS), "removexattrat": ("setxattr", errno.ENOSYS),
    "getxattrat": ("getxattr", errno.ENOSYS), "listxattrat": ("getxattr", errno.ENOSYS),
    "file_getattr": ("getxattr", errno.ENOSYS), "file_setattr": ("setxattr", errno.ENOSYS),
    "name_to_handle_at": ("stat", errno.EOPNOTSUPP),
}


class _PathCall(_Record):
    """A row of these tables, parsed. Numbers of arguments, or None: `dirfd`, `path`, `dirfd2`,
    `path2`, `flags`; `fixed` and `allowed` flags; `rest`: (loader, number of the argument)."""
    _fields = dict(family="", prepare=None, act=None, dirfd=None, path=None, dirfd2=None, path2=None,
                   flags=None, fixed=0, allowed=0, rest=())

    @classmethod
    def parse(cls, family, prepare, act, text):
        names = {"d": "dirfd", "p": "path", "D": "dirfd2", "P": "path2", "f": "flags"}
        fields, rest = {}, []
        for word in text.split():
            letter = word[0] if word[0].isalpha() else ""
            number, _, allowed = word[len(letter):].partition(":")
            if letter == "F":
                fields["fixed"] = int(number, 16)
            elif letter in names:
                fields[names[letter]] = int(number)
            else:
                rest.append((_LOADERS[letter], int(number)))
            if allowed:
                fields["allowed"] = int(allowed, 16)
        return cls(family=family, prepare=prepare, act=act, rest=tuple(rest), **fields)


def _on_path(sup, request):
    """One of these calls. A path that is a null pointer means the descriptor alone in futimens(3), and since 6.11 with
    AT_EMPTY_PATH in stat(2); elsewhere it is an address like others (vm.mmap_min_addr may be 0), and refused. access(2)
    goes by the permitted capabilities."""
    row, args = _PATH_CALLS[request.nr], request.args
    flags = row.fixed if row.flags is None else args[row.flags] & 0xffffffff
    if not args[row.path] and row.family == "utimensat" and _argument(args, row.dirfd) & 0xffffffff != AT_FDCWD & 0xffffffff:
        return _CONTINUE
    if row.flags is not None and flags & ~row.allowed:
        return _refuse(errno.EINVAL)
    if row.family == "access" and request.capabilities and not flags & AT_EACCESS:
        return _with_capabilities(request.capabilities[1], lambda: _judge_path(sup, request, row, flags))
    return _judge_path(sup, request, row, flags)


def _judge_path(sup, request, row, flags):
    call, args = _Call(request, row.family, None), request.args
    with call:
        rest = [load(request, index) for load, index in row.rest]
        if not args[row.path] and (row.family != "stat" or not flags & AT_EMPTY_PATH):
            return _refuse(errno.EFAULT)
        name = _read_string(request, args[row.path], 4096) if args[row.path] else b""
        if not name and not flags & AT_EMPTY_PATH:
            return _refuse(errno.ENOENT)
        path = _Path(sup, call, _argument(args, row.dirfd), name)
        row.prepare(path, row, flags, rest)
        # What has a descriptor already is not reached by its path: fstat(2) is not trapped either.
        return sup.complete(call, call.act) if not name and row.family == "stat" else sup.judge(call)


def _argument(args, index):
    return AT_FDCWD if index is None else args[index]


def _object_of(path, flags):
    """O_PATH descriptor of what a path and AT_* flags mean; of a descriptor, where there is no path."""
    if path.name:
        return path.find(os.O_NOFOLLOW if flags & AT_SYMLINK_NOFOLLOW else 0)
    path.walker.refuse_host(path.start)
    path.tell(path.walker.path(path.start), os.fstat(path.start))
    return path.start


def _prepare_look(path, row, flags, rest):
    fd = _object_of(path, flags)
    if fd is None:
        return
    request, listener = path.call.request, path.sup.listener
    result, at, data = row.act(path, fd, flags, *rest)

    def act():
        if result >= 0 and data:
            _write_checked(listener, request, at, data)
        return _reply(result)
    path.call.failed = result in (-errno.EACCES, -errno.EPERM)
    path.call.act, path.call.where = act, _ANYWHERE


def _prepare_do(path, row, flags, rest):
    call, fd = path.call, _object_of(path, flags)
    if fd is None:
        return
    call.act = lambda: _reply(row.act(path, fd, flags, *rest))
    if row.act is None:  # wherever it leads, each relative path is judged by where that is by then
        call.act, call.where = (lambda: _CONTINUE), _ANYWHERE
    elif row.act is _do_truncate:  # may wait for whoever has a lease on the file
        call.where, call.wants_status = _WORKER, True
        call.failed = not path.sup.grants("fs_writable", call.event["path"])
        call.needs = ("fs_writable", call.event["path"]),


def _prepare_make(path, row, flags, rest):
    place = path.place()
    if place is None:
        return
    call = path.call
    call.act = lambda: _reply(row.act(path, *place, flags, *rest))
    call.wants_status = row.act in (_make_directory, _make_node)
    call.moves = row.act is not _make_directory


def _prepare_move(path, row, flags, rest):
    """rename and link: the second path gets an event of its own once the first one has passed."""
    sup, source, args = path.sup, path.call, path.call.request.args
    target = _Call(source.request.again(), row.family, None)
    with target:
        if row.family == "renameat":
            source.moves, start = True, path.place()
        else:
            start = _object_of(path, flags if flags & AT_SYMLINK_FOLLOW else flags | AT_SYMLINK_NOFOLLOW)
        if start is None:
            return target.close()
        name = _read_path(source.request, args[row.path2])
        target.moves, end = True, _Path(sup, target, _argument(args, row.dirfd2), name).place()

    def act():
        sup.denied.begun += 1
        try:
            return moved()
        finally:
            sup.denied.ended += 1

    def moved():
        refusal = sup.last_denial(source)  # a rule may have come with the second event
        if refusal:
            return sup.refused(source, *refusal)
        if row.family == "renameat":
            return _reply(_slow(_NR["renameat2"], *start, *end, flags))
        return _reply(_slow(_NR["linkat"], AT_FDCWD, _link_to(start), *end, AT_SYMLINK_FOLLOW))

    def go_on():
        target.fds, source.fds = source.fds, []
        target.linked |= source.linked
        source.close()
        return sup.judge(target)
    if row.family == "linkat":
        source.needs = ("fs_writable", os.path.dirname(source.event["path"])),
    source.needs, target.needs = (), source.needs + target.needs
    if end is not None:
        target.act = act
    source.fds, target.fds = source.fds + target.fds, []
    source.act, source.where = go_on, _ANYWHERE


_PATH_CALLS = {_NR[name]: _PathCall.parse(row[0], prepare, *row[1:])
               for prepare, rows in ((_prepare_look, _LOOKED_AT), (_prepare_do, _DONE_TO_IT),
                                     (_prepare_make, _MADE_IN_IT), (_prepare_move, _FROM_HERE_TO_THERE))
               for name, row in rows.items() if name in _NR}


# -- exec ----------------------------------------------------------------------------------------

def _on_exec(sup, request):
    """Landlock decides what may be executed. Where the callback is asked, what it was asked about
    is what runs: see _Exec."""
    if sup.ending:
        return _refuse(errno.EPERM)
    if sup.runners is not None and not sup.runners.get(request.task.process):
        sup.runners.add(request.task.process, is_meant=lambda pid: sup.listener.check(request) is None)
    asked = "execve" in sup.asked
    if not (asked or sup.denied or sup.policy.explain):
        return _CONTINUE
    return _Exec(sup, request, silent=not asked).resolve()


class _Exec:
    """execve(2) cannot be done on behalf: the kernel reads path and argv again when it continues.
    So the task is traced, stopped when the exec is committed, and what became of it compared with
    what was approved: the program's file, those that it is loaded with, and the command line.
    Anything else is killed before its first instruction."""
    MAX_INTERPRETERS = 5  # fs/exec.c
    PATIENCE_S = 10.0
    SYSCALL_STOP = signal.SIGTRAP | 0x80  # si_code of PTRACE_O_TRACESYSGOOD
    ARGV_LIMIT = 8 << 20  # bytes, more than the kernel takes; its own answer then is E2BIG
    WORDS_LIMIT = 1 << 18

    def __init__(self, sup, request, silent=False):
        self.sup, self.request = sup, request
        self.call = _Call(request, "execve", self._continue, where=_ANYWHERE)
        self.call.silent = silent

    def resolve(self):
        args = self.request.args
        if self.request.nr == _NR["execveat"]:
            dirfd, path_at, argv_at, flags = args[0], args[1], args[2], args[4]
        else:
            dirfd, path_at, argv_at, flags = AT_FDCWD, args[0], args[1], 0
        with self.call:
            name = _read_string(self.request, path_at, 4096)
            argv = self._read_argv(argv_at)
            self.call.event["argv"] = tuple(os.fsdecode(word) for word in argv)
            if name or flags & AT_EMPTY_PATH:
                fd = _object_of(_Path(self.sup, self.call, dirfd, name), flags)
                if fd is not None:
                    self._expect(fd, _shown(dirfd, name), argv or [b""])
            else:
                self.call.fails(errno.ENOENT, b"")
            self.sup.listener.check(self.request)
            return self.sup.judge(self.call)

    def _read_argv(self, at):
        """All of argv: pointers by the page, strings that lie side by side with one read."""
        pointers = []
        while at and (not pointers or pointers[-1]):
            step = _PAGE - at % _PAGE
            part = _read_memory(self.request.tid, at, step)
            words = struct.unpack("=%dQ" % (len(part) // 8), part[:len(part) // 8 * 8])
            end = words.index(0) + 1 if 0 in words else len(words)
            pointers.extend(words[:end])
            at += 8 * end
            if not words or len(pointers) > self.WORDS_LIMIT:
                raise OSError(errno.EFAULT if not words else errno.E2BIG, "argv")
        del pointers[-1:]
        return _read_strings(self.request, pointers, self.ARGV_LIMIT, lambda: self.sup.ending)

    def _expect(self, fd, shown, argv):
        """What the task will be after the exec: the file that runs and its command line. A script
        is its interpreter's argument; binfmt_script.c, execve(2)."""
        paths, words, loader = [os.fsencode(self.call.event["path"])], [], None
        for _ in range(self.MAX_INTERPRETERS + 1):
            refusal = self.sup.denial(self.call)
            if refusal and refusal[2] == "fs_denied":  # which stays so: it is not even opened
                self.call.refusal = refusal
                break
            words, loader, readable = self._interpreters(fd)
            if not readable and self.sup.denied:
                raise OSError(errno.EACCES, "a program that cannot be read")
            if not words:
                break
            argv, shown = words + [shown] + argv[1:], words[0]
            fd = self._look_again(shown, paths)
            if fd < 0:
                break  # so will the kernel find
        self.expected_file, self.expected_argv = self.call.identities[-1], argv
        self.expected_loader = None
        if loader and self._look_again(loader, paths) >= 0:
            self.expected_loader = self.call.identities[-1]
        self.expected_paths = {os.fsdecode(path) for path in paths}
        self.call.paths, self.call.above = tuple(os.fsdecode(path) for path in paths[1:]), None  # those of all, then
        self.call.needs = tuple(("fs_readable", os.fsdecode(path)) for path in paths)

    def _look_again(self, name, paths):
        """O_PATH descriptor of an interpreter, kept by the call, or -errno; its path goes to the others."""
        start = self.call.keep(_directory_of(self.sup, self.request, AT_FDCWD, name))
        fd, path = self.sup.walker.look(self.request, start, name, 0)
        paths.append(path)
        if fd >= 0:
            self.call.identify(os.fstat(fd))
        return self.call.keep(fd)

    def _interpreters(self, fd):
        """-> (words of a script's first line, an ELF file's loader or None, whether it can be read)."""
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return [], None, True  # the kernel refuses it
        opened = self.sup.walker.again(fd, os.O_RDONLY | os.O_NONBLOCK, self.sup.walker.path(fd))
        if opened < 0:
            return [], None, False
        with _Fd(opened):
            return _script_words(os.pread(opened, 256, 0)), _elf_interpreter(opened), True

    def _continue(self):
        """On the callback's thread, which is not confined: ptrace needs the thread that seized."""
        request, numbers = self.request, self._numbers()
        self.sup.listener.check(request)  # so that the number is the task's still
        try:
            _call("ptrace", PTRACE_SEIZE, request.tid, 0, PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD)
        except OSError as e:  # of a task whose memory others may write nothing can be promised
            return self.sup.refused(self.call, errno.EPERM, "ptrace is refused here: %s" % e, None)
        # From here on it has to be let go of, whoever it is: also if the task has died meanwhile.
        _raw(_NR["ptrace"], PTRACE_INTERRUPT, request.tid, 0, 0)
        if self.sup.launching.waits_killably:
            self.sup.listener.reply(request, _CONTINUE)
            self._verify(numbers)
        elif self._makes_it_again():
            self._verify(numbers)
        return _ANSWERED

    def _makes_it_again(self):
        """Before Linux 5.19 a stop ends the waiting, before the call is made. A stop that is asked
        for only after the answer could find the task anywhere: gone on with its work, or held by
        vfork(2) until a child executes, which is asked here too. So the call is made once more,
        traced from its entry to its exit, and continued without being asked again: see
        _Supervisor.receive. False if the task is let go of: a signal came first, or a pause."""
        tid = self.request.tid
        for expected in (PTRACE_EVENT_STOP << 8 | signal.SIGTRAP, self.SYSCALL_STOP):
            stop = self._stop((tid,))
            if stop is None:
                return False
            if stop[2] != expected:
                if self._let_go(*stop):
                    return False
                continue  # it was killed just now: there is no further stop
            if expected == self.SYSCALL_STOP:
                self.sup.continued[tid] = self.request
            _raw(_NR["ptrace"], PTRACE_SYSCALL, tid, 0, 0)
        return True

    def _verify(self, numbers):
        """Waits for the stop, at the committed exec or where the call has returned, and lets go.
        A signal may come first where the call has returned: it is handed on."""
        tries = 1000
        while True:
            stop = self._stop(numbers)
            self.sup.continued.pop(self.request.tid, None)
            if stop is None:
                return
            try:
                approved = self._is_as_approved(max(stop[2], 0) >> 8)
            except OSError:  # it is dying; whoever cannot be looked at does not go on
                if tries:
                    tries -= 1
                    time.sleep(1e-3)
                    continue
                approved = False
            if not approved:
                self.sup.fault("execve of %s: what the kernel did is not what was approved; killed"
                               % self.call.event["path"])
                _raw(_NR["kill"], numbers[-1], signal.SIGKILL)  # it dies as ours, and is waited for
            elif self._let_go(*stop):
                return  # else it was killed just now, and is waited for

    def _let_go(self, number, signum, code):
        handed_on = 0 if code > 0xff or code == self.SYSCALL_STOP else signum  # negative: how it was sent
        return _raw(_NR["ptrace"], PTRACE_DETACH, number, 0, handed_on) >= 0

    def _stop(self, numbers):
        """Waits until one of them has stopped: (number, si_signo, si_code), or None once all are
        over. Asked of the kernel by trying, not by wait(2): another thread of the host may wait
        for every child."""
        info, pause = ctypes.create_string_buffer(128), 0
        deadline = time.monotonic() + self.PATIENCE_S
        while True:
            if time.monotonic() > deadline:
                self.sup.fault("execve of %s: it does not stop; killed" % self.call.event["path"])
                _raw(_NR["kill"], numbers[-1], signal.SIGKILL)
                deadline += 3600
            for number in numbers:
                if _raw(_NR["ptrace"], PTRACE_GETSIGINFO, number, 0, _address(info)) >= 0:
                    signum, _, code = struct.unpack_from("=3i", info)
                    return number, signum, code
            if all(self._is_over(number) for number in numbers):
                return None
            time.sleep(pause)
            pause = min(pause + 2e-6, 1e-3)

    def _is_over(self, number):
        """Died while it was traced: then it is ours to be waited for, before its own parent can.
        Where a thread has taken the number of its process, the kernel wants that stop waited for
        before it answers by that number."""
        try:
            if number == self.sup.pid:  # our own child: its status is for the Result
                os.waitid(os.P_PID, number, os.WSTOPPED | os.WNOHANG | WALL)
                return _is_readable(self.sup.pidfd)
            found = os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | WALL)
            return found is not None and found.si_code != os.CLD_TRAPPED  # stops are always told
        except ChildProcessError:
            return True

    def _numbers(self):
        """A thread that executes takes the number of its process."""
        tid, process = self.request.tid, self.request.task.process
        alone = tid == process or len(os.listdir("/proc/%d/task" % process)) == 1
        return (process,) if alone else (tid, process)

    def _is_as_approved(self, event):
        if event != PTRACE_EVENT_EXEC:
            self.sup.explain(self.call, errno.EACCES, only_grants=True)  # it has failed, for whatever reason
            return True
        process = self.request.task.process
        info = os.stat("/proc/%d/exe" % process)
        with open("/proc/%d/cmdline" % process, "rb", 0) as file:
            line = file.readall()
        if self.sup.denied and not self._is_mapped_as_approved(process):
            return False
        self.sup.explain(self.call, 0)
        return ((info.st_dev, info.st_ino) == self.expected_file
                and line == b"".join(word + b"\0" for word in self.expected_argv))

    def _is_mapped_as_approved(self, process):
        """By inodes and by paths: each alone can be made that of another file. Devices are told apart, though
        not compared with stat(2)'s, which are others on some filesystems: an inode's number that two have
        stands for two files."""
        expected = [inode for _, inode in {self.expected_file, self.expected_loader} - {None}]
        found = _mapped_files(process)
        inodes = [inode for _, inode in found]
        return (all(inodes.count(inode) <= expected.count(inode) for inode in inodes)
                and set(found.values()) <= {path.replace("\n", "\\012") for path in self.expected_paths})


def _shown(dirfd, name):
    """The name of a script as its interpreter gets it; execveat(2)."""
    if name[:1] == b"/" or name and dirfd & 0xffffffff == AT_FDCWD & 0xffffffff:
        return name
    return b"/dev/fd/%d" % (dirfd & 0xffffffff) + (b"/" + name if name else b"")


def _script_words(head):
    """[interpreter] or [interpreter, argument] of a script, else []: as fs/binfmt_script.c reads its 256 bytes,
    filled with NULs."""
    if head[:2] != b"#!":
        return []
    head = head.ljust(256, b"\0")
    end = head.split(b"\0")[0].find(b"\n")
    if end < 0:
        end = 255
        if not any(c in head[2:].lstrip(b" \t") for c in b" \t\0"):
            return []  # the name may go on
    line = head[2:end].strip(b" \t")
    cut = next((i for i, c in enumerate(line) if c in b" \t\0"), len(line))
    rest = line[cut:].lstrip(b" \t") if line[cut:cut + 1] in (b" ", b"\t") else b""
    return [line[:cut]] + [rest.split(b"\0")[0]] * bool(rest) if cut else []


def _elf_interpreter(fd):
    """The dynamic loader that a 64-bit ELF file names in PT_INTERP, or None; elf(5)."""
    head = os.pread(fd, 64, 0)
    if head[:5] != b"\x7fELF\2" or len(head) < 64:
        return None
    offset, (size, count) = struct.unpack_from("=Q", head, 32)[0], struct.unpack_from("=HH", head, 54)
    if size != 56 or offset >= 1 << 62:
        return None  # the kernel refuses such a file
    table = os.pread(fd, size * count, offset)
    for at in range(0, len(table) - size + 1, size):
        kind, start, length = struct.unpack_from("=I4xQ16xQ", table, at)
        if kind == 3 and start < 1 << 62:
            return os.pread(fd, min(length, _PAGE), start).split(b"\0")[0] or None
    return None


def _loaded_with(path):
    """The real paths of a program of the host's, the interpreters of a script, and the loader."""
    found = []
    while path and len(found) <= _Exec.MAX_INTERPRETERS:
        found.append(os.path.realpath(path))
        try:
            with open(path, "rb") as file:
                words, loader = _script_words(file.read(256)), _elf_interpreter(file.fileno())
        except OSError:
            break
        path = os.fsdecode(words[0] if words else loader or b"")
    return found


def _mapped_files(process):
    """{(device as text, inode): path} of what a process has mapped that has just executed: the program
    and its loader."""
    with open("/proc/%d/maps" % process, "rb") as file:
        rows = [line.rstrip(b"\n").split(None, 5) for line in file]
    return {(row[3], int(row[4])): os.fsdecode(row[5]) for row in rows if int(row[4])}


def _identities_above(sup, path):
    """(device, inode) of the directories above a path that the kernel has told. OSError where one cannot be
    looked at, but for what somebody else than the program keeps shut."""
    found = []
    for folder in _above(path) if path.startswith(b"/") else ():
        try:
            info = sup.walker.info(AT_FDCWD, folder)
            found += [(info.st_dev, info.st_ino)] if info else []
        except PermissionError:
            if _is_hidden(os.fsdecode(folder), sup.denied.uid):
                raise
    return found


_SCATTERED_LIMIT_S = 10.0
_SCATTERED_LIMIT = 4096  # pages more than argv fills, and strings that go on in another page: each costs a read


def _read_strings(request, pointers, limit, stop):
    """Many strings of a task: each page where some begin is read once, what goes on behind it by itself.
    Not for ever: E2BIG."""
    if len({pointer // _PAGE for pointer in pointers}) > _SCATTERED_LIMIT + limit // _PAGE:
        raise OSError(errno.E2BIG, "argv")
    begun, words, total, alone, deadline = {}, [], 0, 0, time.monotonic() + _SCATTERED_LIMIT_S
    for pointer in pointers:
        start = pointer % _PAGE
        page = begun.get(pointer - start)
        waits = page is None  # for whoever holds its memory
        if waits:
            page = begun[pointer - start] = _read_whole(request, pointer - start, _PAGE)
        end = page.find(b"\0", start)
        if end >= 0:
            words.append(page[start:end])
        else:
            words.append(_read_string(request, pointer, limit))
            alone, waits = alone + 1, True
        total += len(words[-1])
        if total > limit or alone > _SCATTERED_LIMIT or waits and (stop() or time.monotonic() > deadline):
            raise OSError(errno.E2BIG, "argv")
    return words


# -- the table -----------------------------------------------------------------------------------

def _always(policy, abi):
    return True


def _asks(policy, family):
    """Whether the callback gets events of a family."""
    return policy.policy_fn is not None and (
        family in policy.policy_events or _CATEGORY_OF[family].value in policy.policy_events)


_EXPLAINED = ("openat", "truncate", "unlinkat", "mkdirat", "mknodat", "symlinkat", "renameat", "linkat",
              "connect", "bind", "execve")  # what Landlock may refuse, in families


def _sends_to_addresses(fd):
    """Whether it is a socket that does not have to be connected: which the host itself gives to the program."""
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False  # closed
    return is_socket and _socket_kind(fd)[1] not in (SOCK_STREAM, SOCK_SEQPACKET)


def _has_datagrams(policy, abi):
    return any(_datagram_kinds(policy))


def _datagram_kinds(policy):
    """-> (UDP sockets, Unix datagram sockets can be made)."""
    schemes = {s for text in policy.net_allow + policy.net_deny for s in _endpoint("net", text).schemes}
    return "udp" in schemes or bool(policy.net_deny), "unix" in schemes


def _pins_names(policy):
    return any(isinstance(_endpoint("net_allow", text).host, str) for text in policy.net_allow)


def _limits_memory(policy, abi):
    return policy.max_memory is not None


def _denies_paths(policy, abi=0):
    return bool(policy.fs_denied)


def _may_deny(policy):
    """Whether deny_path can hold: what renames, links or looks has to be trapped as well as what opens."""
    return all(_asks(policy, family) for family in _EVENTS["file"])


def _lacks(needed):
    """What the supervisor does in Landlock's place below an ABI."""
    return lambda policy, abi: abi < needed


def _judges_bind(policy, abi):
    return (_denies_paths(policy) or _may_deny(policy)  # deny_path holds for socket files too
            or abi < ABI_TCP and "*" not in policy.net_allow_bind)


def _opens_on_behalf(policy, abi):
    return _denies_paths(policy) or _pins_names(policy)


def _refusing(error):
    return lambda sup, request: _refuse(error)


_HANDLERS = _by_name({  # syscalls: (handler, needs to know the task, what else than events needs it, family)
    "clone fork vfork": (_on_fork, False, _always, "clone"),
    "execve execveat": (_on_exec, False, _always, "execve"),
    "connect": (_on_connect, True, _always, "connect"),
    "bind": (_on_bind, True, _judges_bind, "bind"),
    "setsockopt": (_on_linger, True, _always, None),
    "listen": (_on_listen, True, lambda policy, abi: "*" not in policy.net_allow_bind, None),
    "sendto": (_on_sendto, True, _has_datagrams, "sendto"),
    "sendmsg": (_on_sendmsg, True, _has_datagrams, "sendto"),
    "sendmmsg": (_on_sendmmsg, True, _has_datagrams, "sendto"),
    "open creat openat openat2": (_on_open, True, _opens_on_behalf, "openat"),
    "mmap mremap": (_on_growth, False, _limits_memory, "mmap"),
    "memfd_create": (_on_memfd, False, _limits_memory, None),
    # Their pages are counted nowhere (of huge ones a byte keeps all): as where the kernel has none.
    "memfd_secret vmsplice": (_refusing(errno.ENOSYS), False, _limits_memory, None),
    "setpgid": (_on_setpgid, True, _always, None),
    "close_range": (_refusing(errno.EINVAL), False, _always, None),
    "capset": (_on_capset, False, _always, None),
    "kill": (_on_signal(0, 1), False, _lacks(ABI_SCOPED), None),
    "tkill": (_on_signal(0, 1, process=-1), False, _lacks(ABI_SCOPED), None),
    "tgkill": (_on_signal(1, 2, process=0), False, _lacks(ABI_SCOPED), None),
    "rt_sigqueueinfo": (_on_signal(0, 1, info=2), False, _lacks(ABI_SCOPED), None),
    "rt_tgsigqueueinfo": (_on_signal(1, 2, process=0, info=3), False, _lacks(ABI_SCOPED), None),
    "pidfd_send_signal": (_on_pidfd_signal, True, _lacks(ABI_SCOPED), None),
    "fcntl": (_on_owner, False, _lacks(ABI_SCOPED), None),
    "inotify_add_watch": (_on_watch, True, _always, None),
    "rt_sigaction": (_on_sigaction, False, _always, None),
    "prlimit64": (_on_other_process(0, reads=(2, 16), writes=(3, 16)), False, _always, None),
    "sched_setaffinity": (_on_other_process(0, reads=(2, lambda request: min(request.args[1], 1024))), False, _always, None),
    "sched_setscheduler": (_on_other_process(0, reads=(2, 4)), False, _always, None),
    "sched_setparam": (_on_other_process(0, reads=(1, 4)), False, _always, None),
    "sched_setattr": (_on_other_process(0, reads=(1, _attributes_size)), False, _always, None),
    "setpriority ioprio_set": (_on_other_process(1), False, _always, None),
    **{name: (_on_path, True, _denies_paths, row[0])
       for rows in (_LOOKED_AT, _DONE_TO_IT, _MADE_IN_IT, _FROM_HERE_TO_THERE) for name, row in rows.items()},
    "truncate": (_on_path, True, lambda policy, abi: _denies_paths(policy) or abi < ABI_TRUNCATE, "truncate"),
    **{name: (_refusing(error), False, _denies_paths, family) for name, (family, error) in _UNMEDIATED.items()},
})


def _trapped_syscalls(policy, abi=_ABIS[-1].abi):
    always = {needed for needed in {row[2] for row in _HANDLERS.values()} if needed(policy, abi)}  # each asked once
    watched = {family for family in _CATEGORY_OF
               if _asks(policy, family) or policy.explain and family in _EXPLAINED}
    return tuple(name for name, (_, _, needed, family) in _HANDLERS.items()
                 if needed in always or family in watched)


# ------------------------------------------------------------------------------------------------
# 11  Broker: the thread inside the sandbox's Landlock domain
# ------------------------------------------------------------------------------------------------

class _Broker:
    """Receives requests and does things on behalf of the program, in the parent of its Landlock
    domain, with its ids and capabilities: the kernel refuses the broker what the policy refuses the
    program. For the same reason it is the oracle that tells who is in the sandbox: only those can
    it signal."""
    PATIENCE_S = 10.0
    WORKERS = 256

    def __init__(self):
        self.waits = set()    # calls that workers act on
        self._urgent = None   # jobs of the deputy, once there is one
        self._lock = _thread.allocate_lock()  # guards _idle and _closing
        self._idle, self._workers, self._ended_workers, self._closing = 0, 0, [], False
        self._pool = queue.SimpleQueue()
        self.fault = None     # text of what failed first on the thread, for the Result
        self.mailbox = _Mailbox()
        self.tasks = _Tasks()
        self.tid = None
        self._poller = _poller(self.mailbox.fd)
        self._receive, self._going_on = None, True
        self._ended = _thread.allocate_lock()  # held while the thread runs

    def start(self):
        """By the launch pad, between its two restrictions: the thread inherits the first one."""
        _start_thread(self._serve, held=self._ended)

    def listen(self, fd, receive):
        """From now on `receive` is called there whenever the listener has a request."""
        def begin():
            self._receive = receive
            self._poller.register(fd, select.POLLIN)
        self.mailbox.post(begin)

    def _serve(self):
        self.tid = threading.get_native_id()
        try:
            while self._going_on:
                for fd, event in self._poller.poll():
                    try:
                        if fd == self.mailbox.fd:
                            self.mailbox.run()
                        elif event & select.POLLIN:
                            self._receive()
                        else:  # HUP: no task is left under the filter
                            self._poller.unregister(fd)
                    except Exception as e:  # the oracle must outlive whatever a request does to it
                        self.fault = self.fault or repr(e)
        finally:
            self.mailbox.finish()
            self.tasks.close()
            self._ended.release()

    @staticmethod
    def as_task(request, function):
        """On a confined thread: with no more capabilities than the task has left (capset(2))."""
        if request.capabilities is None:
            return function()
        return _with_capabilities(request.capabilities[0], function)

    def call(self, function, *args):
        """Runs a function there and returns or raises what it does; ProcessLookupError once the
        thread has ended, TimeoutError if it does not answer."""
        if self.tid == threading.get_native_id():
            return function(*args)
        outcome, begun = queue.SimpleQueue(), _thread.allocate_lock()

        def job():
            if begun.acquire(False):  # else the other one does it
                try:
                    outcome.put((function(*args), None))
                except BaseException as e:  # handed to the caller
                    outcome.put((None, e))

        if not self.mailbox.post(job):
            raise ProcessLookupError(errno.ESRCH, "the sandbox has ended")
        if self._urgent:
            self._urgent.put(job)
        try:
            value, error = outcome.get(timeout=self.PATIENCE_S)
        except queue.Empty:
            begun.acquire(False)  # nor does anybody begin it later
            raise TimeoutError(errno.ETIMEDOUT, "the broker does not answer") from None
        if error is not None:
            raise error
        return value

    def appoint_deputy(self):
        """On the broker, before it does the first thing that may wait: for memory that takes long to be paged
        in, or for the lock of an inode or a socket which somebody holds meanwhile. Then a second confined
        thread tells who is inside, and kills. RuntimeError if there can be none."""
        if self._urgent is None:
            urgent = queue.SimpleQueue()
            _thread.start_new_thread(self._deputize, (urgent,))
            self._urgent = urgent

    def _deputize(self, urgent):
        for job in iter(urgent.get, None):
            job()
        self._ended_workers.append(None)

    def dispatch(self, sup, call):
        """From any thread: a worker acts, an idle one if there is one. Only the broker's own thread
        can start another, which inherits the domain."""
        with self._lock:
            closing, idle = self._closing, self._idle > 0
            self._idle -= idle
            self.waits.add(call)
        if closing or not sup.held.take(call):
            with self._lock:
                self._idle += idle
            self._fail(sup, call, "the run has ended" if closing else "too many descriptors wait")
            return
        sup.watch_waits()
        if idle:
            self._pool.put((sup, call))
        elif self.tid == threading.get_native_id():
            self._start_worker(sup, call)
        elif not self.mailbox.post(lambda: self._start_worker(sup, call)):
            self._fail(sup, call, "the run has ended")

    def _start_worker(self, sup, call):
        try:
            if self._workers >= self.WORKERS:
                raise RuntimeError("%d calls wait already" % self.WORKERS)
            _thread.start_new_thread(self._work, (sup, call))
            self._workers += 1
        except RuntimeError as e:
            self._fail(sup, call, e)

    def _fail(self, sup, call, why):
        self.waits.discard(call)
        sup.fault("%s: %s" % (call.told_as, why))
        sup.complete(call, lambda: _refuse(errno.EAGAIN))

    def _work(self, sup, call):
        me = threading.get_native_id()
        mask = ctypes.create_string_buffer((1 << _interrupting_signal() - 1).to_bytes(8, sys.byteorder), 8)
        try:
            _call("rt_sigprocmask", SIG_UNBLOCK, _address(mask), 0, 8)
            while call is not None:
                call.worker = me
                try:
                    sup.complete(call, lambda: _act_on_worker(sup, call))
                finally:
                    self.waits.discard(call)
                with self._lock:
                    self._idle += 1
                sup, call = self._pool.get()
        finally:
            self._ended_workers.append(None)

    def close(self):
        """Ends the threads after the jobs they have, and waits for that; False if one does not end."""
        def stop():
            self._going_on = False
        self.mailbox.post(stop)
        ended = _is_free(self._ended, self.PATIENCE_S)
        if ended:
            self.mailbox.close()  # as the thread does, if there was one
        with self._lock:
            self._closing = True
        for _ in range(self._workers):
            self._pool.put((None, None))
        threads = self._workers
        if self._urgent:
            self._urgent.put(None)
            threads += 1
        deadline = time.monotonic() + self.PATIENCE_S
        while len(self._ended_workers) < threads and time.monotonic() < deadline:
            for call in list(self.waits):
                _interrupt(call)
            time.sleep(0.0001)
        return ended and len(self._ended_workers) == threads


def _act_on_worker(sup, call):
    """Acts, for as long as that takes, if it is allowed still: a worker may have been long in coming. The
    task, which takes no signal while it is held, gets ERESTARTSYS when it has one to handle, as in the kernel
    (EINTR with a time limit of its own, and where another thread may have it: that one would see the 512)."""
    refusal = sup.last_denial(call)
    if refusal:
        return sup.refused(call, *refusal)
    while True:
        try:
            reply = call.act()
        except InterruptedError:
            reply = _refuse(errno.EINTR)
        if reply is None or reply[1] != -errno.EINTR or call.interrupted:
            break  # else the signal was meant for what this worker did before
    if reply is not None and reply[1] == -errno.EINTR:
        if call.sock is None or not any(_socket_option(call.sock, SO_SNDTIMEO, size=16)):
            return _refuse(ERESTARTSYS if call.is_certain else errno.EINTR)
    return reply


_signal_lock = _thread.allocate_lock()  # held while the signal is chosen


@functools.lru_cache(maxsize=None)
def _interrupting_signal():
    """A signal that makes a blocked call of a worker return EINTR, and does nothing else: its
    handler is abs(3). The highest real-time signal that the host does not use; sigaction(2)."""
    action = struct.Struct("=Q128xiI8x")  # handler, mask, flags; glibc and musl, 64 bits
    ours = ctypes.cast(_libc.abs, ctypes.c_void_p).value
    with _signal_lock:
        for number in range(64, 40, -1):
            now = ctypes.create_string_buffer(action.size)
            if _libc.sigaction(number, None, now) == 0 and action.unpack(now.raw)[0] in (0, ours):
                _libc.sigaction(number, action.pack(ours, 0, 0), None)
                return number
    raise LaunchError("signals", errno.EAGAIN, detail="the host uses every real-time signal from 41 "
                      "to 64; one must be left")


def _interrupt(call, is_certain=True):
    """The task has a signal to handle, or is dead. To be repeated: what is sent just before the
    call blocks is lost."""
    call.interrupted, call.is_certain = True, is_certain
    if call.worker:
        _raw(_NR["tgkill"], os.getpid(), call.worker, _interrupting_signal())


def _signal_members(pids, signum, runners=None):
    """On the broker: signals those of `pids` that are inside, and returns them: whom the kernel lets
    it signal, or, below Landlock's ABI 6, given `runners`, whom it lets it look at.

    By pidfd, so that no number can change its meaning in between; and never the host itself, which
    is the one process outside that a thread may always signal. OSError where that cannot be told.
    """
    members = []
    for pid in pids:
        if runners is None and _raw(_NR["kill"], pid, 0) != 0 or _is_ours(pid):
            continue
        try:
            pidfd = _pidfd_open(pid)
        except OSError as e:
            if e.errno in (errno.ESRCH, errno.EINVAL):
                continue  # it ended
            if isinstance(runners, _ByProcess):
                raise
            # No descriptor is left: the domain, if there is one, still bounds what a number can mean.
            if _raw(_NR["kill"], pid, signum) == 0:
                members.append(pid)
            continue
        with _Fd(pidfd):
            if (runners is None or runners.get(pid) or _is_visible(pid)) and _raw(
                    _NR["pidfd_send_signal"], pidfd, signum, 0, 0) == 0:  # else it ended, and the number is another's
                members.append(pid)
    return members


def _with_real_id(uid, function):
    """On the broker, whose real id is 0 otherwise (see _identity_steps)."""
    _call("setresuid", uid, uid, 0)
    try:
        return function()
    finally:
        _call("setresuid", 0, uid, 0)


def _is_visible(pid):
    """On the broker: whether it may look at a process (PTRACE_MODE_READ; ptrace(2)), which below Landlock's ABI 6
    tells who is in its domain. What fails behind that question: a zombie has no program any more (ENOENT), its path
    may be too long (ENAMETOOLONG); fs/proc/base.c: proc_pid_readlink. OSError where there is no memory for it."""
    found = _slow(_NR["readlinkat"], AT_FDCWD, b"/proc/%d/exe" % pid, ctypes.create_string_buffer(1), 1)
    if found == -errno.ENOMEM:
        _result(found, "exe")
    return found in (1, -errno.ENOENT, -errno.ENAMETOOLONG)


class _ByProcess:
    """What is known of processes by their numbers: each for as long as its pidfd says that it lives. From any
    thread, a signal handler in the middle of it too."""
    LIMIT = 64  # from which on those that have ended are looked for

    def __init__(self):
        self._rows, self._lock = {}, threading.RLock()  # pid -> (pidfd, value)

    def add(self, pid, value=True, is_meant=lambda pid: True):
        with _NewFd(_pidfd_open(pid)) as pidfd:
            if not is_meant(pid):
                raise ProcessLookupError(errno.ESRCH, "it is not in the sandbox")
        with self._lock:
            for other in list(self._rows) if len(self._rows) >= self.LIMIT else ():
                self.get(other)  # closes what has ended
            self.drop(pid)
            self._rows[pid] = pidfd, value

    def get(self, pid):
        """None for who is not known, or has ended: the number is free then."""
        with self._lock:
            pidfd, value = self._rows.get(pid, (None, None))
            if pidfd is not None and _is_readable(pidfd):
                return self.drop(pid)
            return value

    def drop(self, pid):
        with self._lock:
            if pid in self._rows:
                os.close(self._rows.pop(pid)[0])

    def close(self):
        with self._lock:
            for pid in list(self._rows):
                self.drop(pid)

    def forget(self):
        """In a forked child, where another thread may have held the lock at the fork."""
        self._lock = threading.RLock()
        self.close()


# ------------------------------------------------------------------------------------------------
# 12  Supervisor: what a run knows and who sees to its end
# ------------------------------------------------------------------------------------------------

class _Kept(list):
    """What the Result tells of one kind, bounded by _Supervisor.record()."""
    size_bytes = 0


def _text_length(line):
    event = getattr(line, "event", line)
    if isinstance(event, str):
        return len(event)
    return len(event.path or "") + sum(len(word) for word in event.argv or ())


class _Supervisor:
    """One run: launch(), then attend() until the program has ended, then finish(). The caller of
    Sandbox.run does that itself; for popen a thread does (serve()). Whoever it is, it is one
    thread at a time, and it is not confined: what has to look into /proc is posted to `mailbox`.

    `lock` guards `ending`, `reason` and signalling through `pidfd`, which any thread may do, a
    signal handler or a finalizer in the middle of it too.
    `finished` is held until nothing of the run is left but `pidfd`, which release() closes.
    """
    SWEEP_LIMIT_S = 30.0
    KEPT_LINES = 10000
    KEPT_BYTES = 8 << 20
    WATCH_TICKS = 10
    STAYS = 2  # looks
    KILL_MS = 50
    BREATHE_S = 0.5  # how long Ctrl-C may have to wait for a launch that hangs

    pid, pidfd, tid = 0, -1, None  # of the program; the thread of serve()
    attendant = None               # the thread of attend()
    ending, reason = False, None
    forked = False                 # there may be more than the first process
    pad_tid, launched = None, False
    listener = walker = None
    looker_tid = None
    memory_looked = 0.0            # when, time.monotonic()
    watching = 0                   # how often waits will be looked at still
    capabilities_dropped = False   # by some task, so that each has to be asked for its own
    orphaned = False               # nobody will wait for the end
    error = None                   # text: something else than the program failed
    status = None                  # (exit code, signal)
    used_bytes = 0                 # of what the Result tells in `used`

    def __init__(self, launch):
        policy = launch.policy
        self.launching, self.policy, self.network = launch, policy, launch.network
        self.handlers = {_NR[name]: _HANDLERS[name] for name in launch.trapped if name in _NR}
        self.asked = frozenset(family for family in _CATEGORY_OF if _asks(policy, family))
        # Handlers that neither read the task's memory nor act for it, so that nothing can hold the broker up.
        self.brief = {_on_fork, _on_capset}
        self.scoped = launch.abi >= ABI_SCOPED
        # Below Landlock's ABI 6: who has executed something. A program that cannot be read cannot be looked at;
        # so it is known by its number from then on. (It cannot fork.)
        self.runners = _ByProcess() if 0 < launch.abi < ABI_SCOPED else None
        self.writable = [os.path.realpath(path) for path in policy.fs_writable]
        told = policy.fs_readable if self.asked or policy.explain else ()  # it costs a moment
        self.readable = [os.path.realpath(path) for path in told]
        self.denied = _DeniedPaths(launch.user_ids[0] if launch.user_ids else os.geteuid(), policy.fs_denied)
        self.context = PolicyContext(self, self.network.ceiling(), policy.max_memory,
                                     policy.max_processes, _may_deny(policy))
        self.callback = (_Callback(self, policy.policy_fn, policy.policy_timeout)
                         if self.asked or policy.fs_denied or policy.explain else None)  # it verifies
        if self.callback is None:
            self.brief.add(_on_exec)
        self.hosts = _Hosts(self.network.pinned) if self.network.pinned else None
        self.census, self.memory, self.held = _Census(self), _Memory(self, policy), _Held()
        self.lock, self.finished = threading.RLock(), _thread.allocate_lock()
        self.finished.acquire()
        self.finishing = _thread.allocate_lock()  # held by the one thread that is in finish()
        self.pad_running = _thread.allocate_lock()  # held by the launch pad
        self.host = os.getpid()
        self.continued = {}  # task -> its approved request, which it makes again; see _Exec
        self.backlog = queue.SimpleQueue()  # requests for which the callback has no room yet
        self.unlooked, self.looking = queue.SimpleQueue(), _thread.allocate_lock()  # held by the one who looks
        self.denials, self.audits, self.faults = _Kept(), _Kept(), _Kept()
        self.used = {}       # (field, value, path) of what the policy was needed for, in order, if it explains
        self.begun = self.ended = time.monotonic()
        self.left = []       # streams to be closed when nobody is left who could make that wait; then None
        # Set by the launch pad; it sends ("listening", None), ("spawned", errno), ("failed", e).
        self.from_pad = queue.SimpleQueue()
        self._open_descriptors()

    def _open_descriptors(self):
        """Last: whatever fails before has none to close."""
        trapped = {handler for handler, *_ in self.handlers.values()}
        walks = trapped & {_on_open, _on_path, _on_bind} or "execve" in self.asked
        self.mailbox = _Mailbox()
        try:
            self.memory.open()
            self.walker = _Walker() if walks else None
            self.broker = _Broker()
        except BaseException:
            if self.walker:
                self.walker.close()
            self.memory.close()
            self.mailbox.close()
            raise

    # -- launch ----------------------------------------------------------------------------------

    def launch(self, deadline=None):
        """Starts the program; LaunchError if it did not come to run, TimeoutError past the deadline
        (time.monotonic). Then, as after Ctrl-C in the middle, nothing is left of it."""
        self.deadline = deadline
        _live.add(self)
        try:
            for path in self.launching.candidates:
                self._refuse_denied(os.path.join(self.policy.cwd or "", path))
            _start_thread(_pad, self.launching, self, held=self.pad_running)
            self._expect_from_pad("listening")
            poller = _poller(self.listener.fd)
            while not self._answer_launch(poller):
                continue
            if self.callback:
                self.callback.start()
            self.broker.listen(self.listener.fd, self.receive)
            self.launched = True
        except BaseException:
            self.abandon()
            raise

    def _expect_from_pad(self, expected, timeout=None):
        while True:
            kind, value = self.from_pad.get(timeout=timeout)
            if kind == "failed":
                raise value
            if kind == expected:
                return value

    def _answer_launch(self, poller):
        """One event of the launch; True once the program runs. The host's own process and its
        vfork child are still ours, libc's posix_spawn at work: all but the exec continues."""
        events = poller.poll(self._patience_s() * 1000)
        if not events:
            self._breathe()
            return False
        (_, event), = events
        if not event & select.POLLIN:  # nobody has the filter any more: the pad has given up
            self._expect_from_pad(None)
        request = self.listener.receive()
        if request is None:
            return False
        if request.nr in (_NR["execve"], _NR["execveat"]) and request.tid != self.pad_tid:
            return self._first_exec(request)
        self.listener.reply(request, _CONTINUE)
        return False

    def _first_exec(self, request):
        """The first exec: set what is set on a held process, let it go, and stop it again before
        its first instruction for as long as the launch pad, which it could reach, still lives.

        The stop is ptrace's. Where that is refused (Yama, a tracer, a container), SIGSTOP does it
        if the task waits killably (5.19): then the signal stays pending through exec.
        """
        while not self.from_pad.empty():
            self.from_pad.get()  # of an attempt that failed before its exec
        self.pid = request.tid
        self.pidfd = _high_fd(_pidfd_open(self.pid))
        try:
            self.launching.prepare_process(self.pid, self.prlimit)
            traced = self._stop_at_exec()
        except OSError as e:
            raise LaunchError("prepare", e.errno, detail=str(e)) from e
        self.listener.reply(request, _CONTINUE)
        if self._spawn_failed(traced):  # the pad tries the next candidate
            self.release()
            self.pid = 0
            return False
        self._await_pad()
        if self.denied:
            self._await_stop(traced)
            for path in _mapped_files(self.pid).values():  # a script's interpreter, a loader
                self._refuse_denied(path)
        if self.policy.explain:
            programs = [os.path.join(self.policy.cwd or "", p) for p in self.launching.candidates]
            program = next((path for path in programs if os.access(path, os.X_OK)), None)
            self.use([("fs_readable", path) for path in _loaded_with(program)] if program else (), None)
        self.launching.close()  # as long as it can hold no lock of a pipe's
        self._let_go(traced)
        return True

    def _refuse_denied(self, path):
        """fs_denied holds for what the host starts, too."""
        try:
            info = os.stat(path)
        except OSError:
            return  # not there: the kernel will say so
        if self.denied:
            if info.st_nlink > 1:
                try:
                    self.denied.look(lambda: False)
                except OSError as e:
                    raise LaunchError("exec", e.errno, path, "a denied directory cannot be read: %s" % e) from e
            real = os.path.realpath(path)
            if self.denied.field(real, [(info.st_dev, info.st_ino)]):
                raise LaunchError("exec", errno.EACCES, real, "denied by fs_denied")

    def _stop_at_exec(self):
        try:
            _call("ptrace", PTRACE_SEIZE, self.pid, 0, PTRACE_O_TRACEEXEC)
            return True
        except OSError:
            if not self.launching.waits_killably:
                raise
            _pidfd_send_signal(self.pidfd, signal.SIGSTOP)
            return False

    def _spawn_failed(self, traced):
        """posix_spawn's errno, 0 once the exec is committed. Without ptrace a failed exec has
        stopped before libc's child could say so: PF_FORKNOEXEC (proc_pid_stat(5)) tells."""
        while True:
            try:
                return self._expect_from_pad("spawned", self._patience_s() if traced else 0.001)
            except queue.Empty:
                self._breathe()
                fields = _proc_stat(self.pid)
                if fields and fields[0] == b"T" and int(fields[6]) & PF_FORKNOEXEC:
                    _pidfd_send_signal(self.pidfd, signal.SIGCONT)

    def _patience_s(self):
        left = self.BREATHE_S if self.deadline is None else self.deadline - time.monotonic()
        return max(0.001, min(left, self.BREATHE_S))

    def _breathe(self):
        if _spawn_lock.acquire(False):  # else a handler that forks would wait for what we have to answer
            try:
                self.launching.signals.breathe()
            finally:
                _spawn_lock.release()
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise TimeoutError(errno.ETIMEDOUT, "the launch took too long")

    def _await_pad(self):
        """Its last calls may be trapped: libc opens libgcc for pthread_exit(3)."""
        deadline = time.monotonic() + self.SWEEP_LIMIT_S
        while self.pad_running.locked() or (self.pad_tid and _is_ours(self.pad_tid)):
            if self.listener and self.listener.fd >= 0 and _is_readable(self.listener.fd):
                request = self.listener.receive()
                if request is not None:
                    self.listener.reply(request, _CONTINUE if request.tid == self.pad_tid
                                        else _refuse(errno.EPERM))
            if time.monotonic() > deadline:
                raise LaunchError("launch pad", detail="its thread did not end")
            time.sleep(0)
        self.pad_tid = None  # its number is free

    def _await_stop(self, traced):
        """Until it stands before its first instruction: vfork(2) is over before all is mapped."""
        info, deadline = ctypes.create_string_buffer(128), time.monotonic() + self.SWEEP_LIMIT_S
        while not _is_readable(self.pidfd):
            if traced:
                stopped = _raw(_NR["ptrace"], PTRACE_GETSIGINFO, self.pid, 0, _address(info)) != -errno.ESRCH
            else:
                stopped = (_proc_stat(self.pid) or [b""])[0] in (b"T", b"t")
            if stopped:
                return
            if time.monotonic() > deadline:
                raise LaunchError("exec", detail="the program did not stop to be looked at")
            time.sleep(0)

    def _let_go(self, traced):
        """Continues the stopped program. Whether it stopped is asked of the kernel by trying, not
        by wait(2): another thread of the host may wait for every child."""
        while traced and _raw(_NR["ptrace"], PTRACE_DETACH, self.pid, 0, 0) == -errno.ESRCH:
            if _is_readable(self.pidfd):
                return  # it is dead
            time.sleep(0)
        if not traced:
            self.signal(signal.SIGCONT)

    # -- supervision -----------------------------------------------------------------------------

    def serve(self):
        """The thread of popen: attends until the program has ended, and finishes."""
        self.tid = _begin_thread()
        poller = _poller(self.mailbox.fd, self.pidfd)
        try:
            while self.pidfd not in dict(poller.poll(self.attend())):
                continue
        except BaseException as e:  # fails closed: the run ends
            self.fail("the supervisor failed: %r" % e)
        self.finish()
        if self.orphaned:
            self.release()

    def attend(self):
        """What is due on the supervisor's thread; -> milliseconds until it has to be asked again,
        None for when there is mail."""
        self.attendant, pauses = threading.get_native_id(), []
        if self.ending:  # first, whatever else fails
            self._kill_others()
            pauses.append(self.KILL_MS)
        self.mailbox.run()
        if self.callback:
            self.callback.watch()
            pauses.append(min(self.callback.timeout_s / 5, 1) * 1000)
        if self.memory.limit() and not self.ending:
            if time.monotonic() - self.memory_looked > self.memory.LOOKS_MS / 1000:
                self.memory.look()
                self.memory_looked = time.monotonic()
            pauses.append(self.memory.LOOKS_MS)
        if self.watching:
            self._interrupt_waits()
            pauses.append(10)
        return min(pauses) if pauses else None

    def watch_waits(self):
        """From any thread: a call may block from now on. The supervisor goes on looking for a while
        after the last one, so that not each of many short ones has to wake it."""
        if not self.watching:
            self.watching = self.WATCH_TICKS
            self.mailbox.post(lambda: None)

    def _interrupt_waits(self):
        """At once for a signal that is certainly its own. One of a process any thread may take, and those that do
        not wait here do so soon: only if it stays, one call at a time is interrupted, the first thread's before
        others: with EINTR, since whose it is nobody can tell (mostly the first one's, but that of a child's end is
        the forking thread's; kernel/signal.c: complete_signal)."""
        self.watching = self.WATCH_TICKS if self.broker.waits else self.watching - 1
        if not self.watching and self.broker.waits:  # it came just now, and saw us watching
            self.watching = 1
        chosen = set()  # processes
        for call in sorted(self.broker.waits.copy(), key=lambda call: call.request.tid != call.request.task.process):
            task = call.request.task
            own, shared = _pending_signals(task.tid)
            call.stayed = (call.stayed[0] & shared, call.stayed[1] + 1) if call.stayed[0] & shared else (shared, 0)
            stays, looks = call.stayed
            if own or not self._waits(call.request):
                _interrupt(call, True)
            elif stays and looks >= self.STAYS * (1 if task.tid == task.process else 5) and task.process not in chosen:
                if not call.interrupted:
                    chosen.add(task.process)
                _interrupt(call, False)

    # -- requests: from the broker's thread on -----------------------------------------------------
    # receive, answer: a handler reads it into a _Call -> judge -> (look_for_links) -> (callback) -> settle
    # -> (look_for_owner, find_status) -> (a worker) -> complete: act and reply. Each arrow may change the
    # thread; whatever fails on the way is a refusal.

    def receive(self):
        request = self.listener.receive()
        if request is None:
            return
        self.census.in_flight.pop(request.tid, None)
        approved = self.continued.pop(request.tid, None)
        if approved is not None:
            same = (request.nr, request.args) == (approved.nr, approved.args)
            self.listener.reply(request, _CONTINUE if same else _refuse(errno.EPERM))
            return
        handler, needs_task, _, family = self.handlers.get(request.nr, (None, False, None, None))
        if handler is None:
            self.listener.reply(request, _refuse(errno.EPERM))
            return
        if handler not in self.brief:
            try:
                self.broker.appoint_deputy()
            except RuntimeError as e:
                self.fault("no thread for what may wait: %s" % e)
                self.listener.reply(request, _refuse(errno.EAGAIN))
                return
        needs_task |= handler is _on_exec and self.callback is not None  # it verifies
        if needs_task or family in self.asked or self.runners is not None or self.capabilities_dropped:
            request.task = self.broker.tasks.find(request.tid)
            if request.task is None or self.capabilities_dropped:
                self.mailbox.post(lambda: self._identify(request, handler))
                return
        self.take(request, handler)

    def take(self, request, handler):
        """Answers, or lets the request wait until the callback has room for it: it holds nothing."""
        *_, family = self.handlers[request.nr]
        waits = family in self.asked or handler is _on_exec and self.callback
        if waits and self.callback.is_full():
            self.backlog.put((request, handler))
            self._receive_backlog()  # there may be room by now, and nobody left to say so
        else:
            self.answer(request, handler)

    def _identify(self, request, handler):
        """On the supervisor's thread, where the broker cannot tell whose a request is."""
        status = _task_status(request.tid)
        if "Tgid" in status:
            request.task = _Task(request.tid, int(status["Tgid"]), int(status["PPid"]))
            if self.capabilities_dropped:  # more than those: what the broker looks at all of them by, where it has that
                request.capabilities = tuple(int(status[name], 16) | CAP_SYS_PTRACE for name in ("CapEff", "CapPrm"))
            self.broker.mailbox.post(lambda: self.take(request, handler))
        else:
            self.listener.reply(request, _refuse(errno.EPERM))

    def go_on_receiving(self):
        """By the callback's thread: there is room again."""
        if not self.backlog.empty():
            self.broker.mailbox.post(self._receive_backlog)

    def refuse_backlog(self):
        """There will be no room."""
        for _ in range(self.backlog.qsize()):
            try:
                self.listener.reply(self.backlog.get_nowait()[0], _refuse(errno.EPERM))
            except queue.Empty:
                return

    def _receive_backlog(self):
        while not self.callback.is_full():
            try:
                request, handler = self.backlog.get_nowait()
            except queue.Empty:
                return
            self.answer(request, handler)

    def answer(self, request, handler):
        """Runs a handler and replies, unless it says None. Whatever fails is a refusal: with the
        error that the kernel gave, or EPERM for one of our own, which the Result then tells."""
        reply = _refuse(errno.EPERM)
        try:
            if self.ending:
                pass  # nothing of it matters any more
            elif self.broker.tid == threading.get_native_id():
                reply = self.broker.as_task(request, lambda: handler(self, request))
            else:
                reply = handler(self, request)
        except _NoWalker:
            reply = self.on_supervisor(request, lambda: self._make_walker(request, handler))
        except OSError as e:
            reply = self._refusal_of(request, e)
        except Exception as e:
            self.fail("%s failed: %r" % (handler.__name__, e))
        if reply is not None:
            self.listener.reply(request, reply)

    def _make_walker(self, request, handler):
        self.walker = self.walker or _Walker()
        self.broker.mailbox.post(lambda: self.answer(request, handler))

    def _refusal_of(self, request, error):
        """Memory that cannot be read: no event can be built of it, so it is EPERM where one is
        asked for; else the error that the kernel would give."""
        handler, *_, family = self.handlers[request.nr]
        if isinstance(error, _NoDescriptor):
            family = family or {_on_listen: "bind", _on_linger: "connect"}.get(handler, "openat")
            return self.refused(_Call(request, family, None), errno.EPERM, error.strerror, None)
        if error.errno in (errno.EFAULT, errno.EPERM) and family in self.asked:
            if self._waits(request):
                self.fault("%s: its arguments cannot be read: %s" % (family, error))
            return _refuse(errno.EPERM)
        if error.errno == errno.EPERM and family is not None:
            self.deny(_Call(request, family, None), "not to be judged: %s (of a process that is not "
                      "dumpable nothing can be read)" % error, None)
        return _refuse(error.errno or errno.EPERM)

    def _waits(self, request):
        try:
            self.listener.check(request)
            return True
        except OSError:  # it was killed, or a signal ended the waiting (before 5.19): nothing is refused
            return False

    def on_supervisor(self, request, function):
        """For a handler: the reply is what `function` returns on the supervisor's thread."""
        if self.ending:
            return _refuse(errno.EPERM)
        self.mailbox.post(lambda: self.answer(request, lambda sup, request: function()))

    def look(self, request, look, go_on):
        """For a handler: the reply is what go_on() returns on the broker, given what look() did on the supervisor's
        thread."""
        def looked():
            found = look()
            self.broker.mailbox.post(lambda: self.answer(request, lambda sup, request: go_on(found)))
        return self.on_supervisor(request, looked)

    def denial(self, call):
        """(errno, reason, field) of the rules' refusal as they are now, or None."""
        if self.denied:
            call.look_closer(self)
        return call.refusal or self.context.refusal(call)

    def last_denial(self, call):
        """denial() for what cannot wait until all names of what is denied are known."""
        refusal = self.denial(call)
        if refusal is None and call.linked and self.denied.has_to_look():
            refusal = errno.EACCES, "it has several names, of which one may be denied", None
        return refusal

    def judge(self, call):
        """Hands the call to the callback if that asks for it, else settles it at once."""
        asked = call.family in self.asked or call.silent
        if self.denied:
            call.look_closer(self)
        if (asked or call.fds) and not self.held.take(call):
            self.fault("%s: too many calls wait already" % call.told_as)
            self.refuse_call(call, errno.EAGAIN, "too many calls wait", None)
        elif call.linked and self.denied.has_to_look():
            self.mailbox.post(lambda: self.look_for_links(call, self.judge))
        elif asked:
            self.callback.submit(call)
        else:
            self.settle(call)

    def settle(self, call):
        """Nobody but the rules has a say any more: refuses or acts."""
        self.guarded(self._settle, call)

    def guarded(self, go_on, call):
        """Goes on with a call outside of answer(). Whatever fails is a refusal: no task is left waiting."""
        try:
            go_on(call)
        except Exception as e:
            self.fail("%s could not be judged: %r" % (call.told_as, e))
            self.close(call)
            self.listener.reply(call.request, _refuse(errno.EPERM))

    def _settle(self, call):
        if call.where == _BROKER and self.broker.tid != threading.get_native_id():
            if not self.broker.mailbox.post(lambda: self.settle(call)):
                self.refuse_call(call, errno.EPERM, "the run has ended", None)
            return
        refusal = self.denial(call)
        if refusal:
            self.refuse_call(call, *refusal)
        elif call.abstract is not None:
            self.mailbox.post(lambda: self.look_for_owner(call))
        elif call.linked and self.denied.has_to_look():
            self.mailbox.post(lambda: self.look_for_links(call, self.settle))
        elif call.wants_status and call.umasks is None:
            self.mailbox.post(lambda: self.find_status(call))
        elif call.where == _WORKER:
            self.broker.dispatch(self, call)
        else:
            self.complete(call, call.act)

    def look_for_owner(self, call):
        """Below Landlock's ABI 6: abstract Unix sockets reach the sandbox only."""
        try:
            if not _is_abstract_inside(self, call.abstract):
                call.refusal = errno.EPERM, "an abstract socket outside the sandbox", None
        except OSError as e:
            call.refusal = errno.EPERM, "nobody can tell whose abstract socket it is: %s" % e, None
        call.abstract = None
        self.settle(call)

    def look_for_links(self, call, then):
        """On the supervisor's thread: the call waits until a thread, which may read what is denied to
        the program, has looked beneath the denied directories."""
        if not self.looking.locked():
            try:
                _start_thread(self._look_for_links, held=self.looking)
            except LaunchError as e:
                return self.refuse_call(call, errno.EACCES, str(e), None)
        self.unlooked.put((call, then))

    def _look_for_links(self):
        try:
            self.looker_tid = _begin_thread()
            for call, then in iter(self.unlooked.get, None):
                why = None
                try:
                    if self.denied.has_to_look():
                        self.denied.look(lambda: self.ending)
                except Exception as e:  # whatever it is: nobody is left waiting, and nothing is allowed
                    why = "a denied directory cannot be read: %s" % e
                if why or self.ending:
                    self.refuse_call(call, errno.EACCES, why or "the run has ended", None)
                else:
                    self.guarded(then, call)
        finally:
            self.looking.release()

    def find_status(self, call):
        try:
            call.umasks = _umasks(call.request.tid)
            if call.family == "truncate":
                limit = rlimit64()  # unlimited is more than any size
                self.prlimit(call.request.tid, RLIMIT_FSIZE, 0, _address(limit))
                call.size_limit = limit.rlim_cur
        except OSError as e:
            self.refuse_call(call, errno.EPERM, str(e), None)
        else:
            self.settle(call)

    def complete(self, call, act):
        """Acts and replies."""
        reply = self._perform(call, act)
        if reply is not None and reply is not _ANSWERED:
            self.listener.reply(call.request, reply)

    def _perform(self, call, act):
        """Acts and closes what the call holds, unless somebody goes on with it (None). Nothing is
        done for a task that does not wait any more: its number may be another's."""
        reply = _refuse(errno.EPERM)
        try:
            self.listener.check(call.request)
            reply = act() if call.where == _ANYWHERE else self.broker.as_task(call.request, act)
        except OSError as e:
            reply = _refuse(e.errno or errno.EPERM)
        except Exception as e:
            self.fail("%s failed: %r" % (call.told_as, e))
        if reply is not None:
            if self.policy.explain and reply is not _ANSWERED:
                self.explain(call, -reply[1])
            self.close(call)
        return reply

    def close(self, call):
        """Closes what a call holds: of a pipe the last one waits for whoever holds its lock, and that can be the
        program; so not on the thread that sees to the end."""
        if threading.get_native_id() != self.attendant or not (call.fds and self.broker.mailbox.post(call.close)):
            call.close()

    def refused(self, call, error, reason, field):
        """The reply to a call that is refused: closed and recorded."""
        self.close(call)
        self.deny(call, reason, field)
        return _refuse(error)

    def refuse_call(self, call, error, reason, field):
        self.listener.reply(call.request, self.refused(call, error, reason, field))

    # -- what the Result tells ---------------------------------------------------------------------

    def event(self, call, denied):
        task, tid = call.request.task, call.request.tid
        if task is None:
            status = _task_status(tid)
            task = _Task(tid, int(status.get("Tgid", tid)), int(status.get("PPid", 0)))
        return SyscallEvent(syscall=call.told_as, category=_CATEGORY_OF[call.told_as], denied=denied,
                            pid=task.process, parent_pid=task.parent, **call.event)

    def record(self, lines, line):
        """The first ones, up to a number of lines and of bytes."""
        weight = 500 + _text_length(line)
        if len(lines) < self.KEPT_LINES and lines.size_bytes + weight <= self.KEPT_BYTES:
            lines.size_bytes += weight
            lines.append(line)

    def deny(self, call, reason, field):
        value = next((value for needed, value in call.needs if needed == field), None)
        self.record(self.denials, Denial(reason=reason, field=field, value=value, event=self.event(call, True)))

    def explain(self, call, error, only_grants=False):
        """Under Policy.explain, what the kernel has made of a call: which grants it has used, or which one
        would have been needed; if there is none, ordinary permissions have refused it."""
        if not self.policy.explain or call.family not in _EXPLAINED:
            return
        if error in (0, errno.EINPROGRESS):  # of a connect that does not wait
            self.use(call.needs, call.event.get("path"))
        elif error in (errno.EACCES, errno.EPERM, errno.EXDEV):
            missing = [field for field, value in call.needs if not self.grants(field, value)]
            if missing:
                self.deny(call, "not granted", missing[0])
            elif error != errno.EXDEV and not only_grants:
                self.deny(call, "ordinary permissions: " + os.strerror(error), None)

    def use(self, needs, path):
        for field, value in needs:
            use = (field, value, path if field == "fs_writable" else None)
            if use not in self.used and self.used_bytes <= self.KEPT_BYTES:
                self.used[use] = None
                self.used_bytes += 500 + sum(len(str(part)) for part in use)
                if self.used_bytes > self.KEPT_BYTES:
                    self.fault("explain: more was used than is kept of it")

    def grants(self, field, value):
        """Whether the policy's field covers a path, endpoint or port: for what is told. The kernel has the last word."""
        if field == "net_allow":
            return True  # judged already
        if field == "net_allow_bind":
            return _may_bind(self.policy, value)
        tops = self.writable if field == "fs_writable" else self.writable + self.readable
        return value in _FREE_DEVICES or any(_is_beneath(value, top) for top in tops)

    def fault(self, text):
        self.record(self.faults, text)

    def fail(self, text):
        """Something else than the program has failed; the Result tells the first."""
        self.error = self.error or text

    def limits_changed(self):
        """By the context: a limit is another now."""
        try:
            self.memory.look(tolerate=True)
        except ProcessLookupError:
            return  # the run has ended
        finally:
            self.mailbox.post(lambda: None)  # the supervisor may wait for mail alone: from now on it looks

    # -- who is inside ---------------------------------------------------------------------------

    def prlimit(self, pid, resource, new, old):
        """prlimit(2); with `user`, where root lacks CAP_SYS_RESOURCE, with the program's ids."""
        try:
            _call("prlimit64", pid, resource, new, old)
        except PermissionError:
            if not self.launching.user_ids:
                raise
            self.broker.call(_with_real_id, self.launching.user_ids[0],
                             lambda: _call("prlimit64", pid, resource, new, old))

    def members(self, signum=0, among=None):
        """Signals every process inside, or those `among` some, and returns their pids; zombies are among them.
        Not on the broker's thread. ProcessLookupError once the run has ended."""
        if self.status is not None and not self.finishing.locked():
            raise ProcessLookupError(errno.ESRCH, "the sandbox has ended")
        if not self.scoped and self.runners is None:
            tree = dict.fromkeys(_descendants(self.pid) if self.forked else [self.pid], True)
            return _signal_members([pid for pid in tree if among is None or pid in among], signum, tree)
        pids = _listed_processes() if among is None else among
        return self.broker.call(_signal_members, pids, signum, self.runners)

    def is_member(self, pid):
        """Whether a pid or thread id is inside. The host's own threads never are, though the
        kernel lets the broker signal them."""
        return self.if_member(pid, lambda: True, False)

    def if_member(self, pid, act, otherwise):
        """What act() returns, done on the broker right after a pid or thread id was looked at and found
        inside, so that the number means the same; else `otherwise`."""
        if not 0 < pid < 1 << 31:
            return otherwise
        process = pid if self.scoped else int(_task_status(pid).get("Tgid", 0))
        if not self.scoped and self.runners is None:
            return self.broker.call(act) if process in _descendants(self.pid) else otherwise

        def is_inside():
            if self.scoped:
                return _raw(_NR["kill"], pid, 0) == 0
            return (process > 0 and (self.runners.get(process) or _is_visible(process))
                    and os.path.exists("/proc/%d/task/%d" % (process, pid)))  # it was: it may have ended
        return self.broker.call(lambda: act() if not _is_ours(pid) and is_inside() else otherwise)

    # -- the end ---------------------------------------------------------------------------------

    def kill(self, reason):
        """Ends the run, from any thread: no fork and no exec from now on, and the first process
        dies; the supervisor sees to the rest."""
        with self.lock:
            if not self.ending:
                self.ending, self.reason = True, reason
            self._signal(signal.SIGKILL)
        self.mailbox.post(lambda: None)

    def _kill_others(self):
        """The first process cannot die while another one holds what its end waits for (a pipe's lock)."""
        if self.forked:
            try:
                self.members(signal.SIGKILL)
            except Exception:
                return  # nobody answers, or it is over: the sweep sees to it

    def signal(self, signum):
        with self.lock:
            self._signal(signum)

    def _signal(self, signum):
        if self.pidfd >= 0 and self.status is None and os.getpid() == self.host:
            try:
                _pidfd_send_signal(self.pidfd, signum)
            except ProcessLookupError:
                return  # it has ended by itself
            except PermissionError:  # by a finalizer, on a confined thread of another run
                self.mailbox.post(lambda: self.signal(signum))

    def finish(self):
        """Nothing of the run is left: processes, threads, zombies, descriptors (but for pidfd).
        What was interrupted may be finished again; whoever comes second finds it done."""
        with self.finishing:
            if self.finished.locked():
                self._finish()

    def _finish(self):
        """Each step can be done twice, also where it was interrupted."""
        things = [thing for thing in (self.mailbox, self.runners, self.held, self.context, self.memory, self.hosts, self.walker)
                  if thing is not None]
        for step in (self._end_program, self._end_threads, *(thing.close for thing in things), self._close_listener,
                     self.launching.finish, self._close_left):
            try:
                step()
            except Exception as e:
                self.fail("the sandbox could not be cleaned up: %s" % e)
        if self.broker.fault:
            self.fail("the broker failed: " + self.broker.fault)
        _live.discard(self)
        self.finished.release()

    def _close_left(self):
        with self.lock:
            left, self.left = self.left, None
        _close_streams(left or ())

    def _end_threads(self):
        self.unlooked.put(None)
        for lock in self.looking, self.memory.reader.running, self.census.asking:
            if not _is_free(lock, self.SWEEP_LIMIT_S):
                self.fail("a thread that looks at the program is still blocked")
        if not self.broker.close():
            self.fail("a thread that acted for the program is still blocked")
            self.launching.keep_undumpable()
        if self.callback and self.callback.tid != 0 and not self.callback.close():
            self.fault("the callback did not return; its thread is left to itself")
            self.callback.tid = 0

    def leave(self, stream):
        """Has a stream closed at the end of the run."""
        with self.lock:
            if self.left is not None:
                self.left.append(stream)
                return
        stream.close()

    def _end_program(self):
        """Kills, sweeps and reaps."""
        with self.lock:
            self.ending = True
            self._signal(signal.SIGKILL)  # does nothing to the dead
        if self.pidfd < 0 or self.status is not None:
            return
        deadline = time.monotonic() + self.SWEEP_LIMIT_S
        while not _is_readable(self.pidfd, self.KILL_MS):
            self._kill_others()
            if time.monotonic() > deadline:
                raise RuntimeError("the program does not die")
        self.ended = time.monotonic()
        try:
            if self.forked:
                try:
                    self._sweep()
                except OSError as e:
                    if e.errno not in (errno.EMFILE, errno.ENFILE):
                        raise
                    self.launching.close_death_pipe()  # a descriptor for the sweep
                    self._sweep()
        finally:
            status = _reap(self.pidfd)
            with self.lock:
                self.status = status

    def _close_listener(self):
        """From then on the kernel answers what would be trapped: ENOSYS."""
        if self.listener and self.listener.fd >= 0:
            fd, self.listener.fd = self.listener.fd, -1
            _close_host_only(fd)

    def abandon(self):
        """Ends and finishes the run at whatever point it was left, in a thread of its own, which
        no Ctrl-C can interrupt."""
        self.kill(ExitReason.KILLED)
        done = _thread.allocate_lock()
        done.acquire()

        def clean_up():
            try:
                _begin_thread()
                if not self.launched:
                    self._close_launch()
            finally:
                try:
                    self.finish()
                finally:
                    done.release()

        try:
            _thread.start_new_thread(clean_up, ())
        except RuntimeError:  # out of threads
            clean_up()
        while not sys.is_finalizing():
            try:
                if done.acquire(timeout=0.1):
                    break
            except KeyboardInterrupt:
                continue  # the first one is on its way to the caller
        self.join()
        self.release()

    def _close_launch(self):
        """Lets the launch pad end: everything that it is held by fails from now on."""
        while self.pad_running.locked() and not self.listener:
            time.sleep(0.0005)
        self._close_listener()
        self._await_pad()
        self.launching.close()

    def _sweep(self):
        """Kills until the oracle finds nobody twice: a process that was in the middle of a fork
        dies, but its child may have got a number that the listing had already passed."""
        deadline, clean, pause = time.monotonic() + self.SWEEP_LIMIT_S, 0, 0.0001
        while clean < 2:
            try:
                others = [pid for pid in self.members(signal.SIGKILL) if pid != self.pid]
            except TimeoutError:  # the broker waits for a task that holds its own memory
                if time.monotonic() > deadline:
                    raise
                continue
            for pid in others:
                _reap_adopted(pid)
            alive = [pid for pid in others if _is_alive(pid)]
            clean = 0 if alive else clean + 1
            if alive:
                if time.monotonic() > deadline:
                    raise RuntimeError("processes %s do not die" % alive)
                time.sleep(pause)
                pause = min(2 * pause, 0.01)

    def join(self):
        """Waits until the run has ended and its threads are gone from the process."""
        with self.finished:
            pass
        _await_threads(self.pad_tid, self.broker.tid, self.tid, self.looker_tid, self.memory.reader.tid,
                       self.census.tid, self.callback and self.callback.tid)

    def release(self):
        with self.lock:
            fd, self.pidfd = self.pidfd, -1
        if fd >= 0:
            os.close(fd)

    def forget(self):
        """In a forked child of the host: closes what would keep the sandbox alive there."""
        self.lock, self.left = threading.RLock(), None  # another thread may have held it at the fork
        self.launching.terminal, self.launching.settings = None, []
        self.release()
        if self.listener:
            self.listener.fd = -1  # closed as one of _host_only, like the death pipe
        for forget in (self.mailbox.forget, self.broker.mailbox.forget, self.memory.forget, self.held.forget,
                       self.context.forget, self.runners and self.runners.forget, self.broker.tasks.close,
                       self.walker and self.walker.close, self.hosts and self.hosts.close):
            if forget:
                forget()
        self.launching.lasting_fds = []
        self.launching.close()
        self.launching.finish()


# -- memory of them all ----------------------------------------------------------------------------

_MEMORY_FILESYSTEMS = frozenset((b"tmpfs", b"devtmpfs", b"ramfs"))


class _Memory:
    """What the whole sandbox uses, in the kernel's own figures. On threads that are not confined.

    Each process has a soft RLIMIT_DATA of what it has and what is left for all, renewed a few times
    a second and when one grows by more than 1 MiB, which is weighed before. What no limit of the
    kernel stops (stacks, shared memory, growth of several at once between two looks) is looked at
    just as often: past the limit the largest process is killed.
    """
    LOOKS_MS = 100
    LOOK_S = 1.0            # at descriptors
    FEW_DESCRIPTORS = 1024  # are looked at whatever it takes
    TRIES = 50
    THREAD_BYTES = 24 << 10
    INODE_BYTES = 1024      # of a tmpfs, of extended attributes too; mm/shmem.c: BOGO_INODE_SIZE

    def __init__(self, supervisor, policy):
        self._sup = supervisor
        self._lock = threading.RLock()  # one look at a time
        self._tolerated = 0  # bytes in use when the limit fell below them
        self.reader, self._known = _MapsReader(), {}  # pid -> (what it had mapped, shared bytes touched) when last looked at
        # Whether there may be such memory: known where the calls that make it are trapped.
        self.has_memfds = self.has_shared = policy.max_memory is None
        self.has_shared |= "shmat" in policy.extra_allow_syscalls
        self._tmpfs = {}  # device -> (descriptor, bytes in use before; others' writes count too)
        self._is_open = False  # those are known

    def open(self):
        """Before the start, or with the first limit that is set live. A tmpfs that may be written to is asked by a
        descriptor, wherever the program moves its path to."""
        if self._is_open or not self.limit():
            return
        for _ in range(self.TRIES if self._sup.launched else 1):  # the program may be renaming what is above one
            if all([self._open(mount) for mount in (_mounts() if self._sup.writable else ())]):
                break
        self._is_open = True

    def _open(self, mount):
        """False where a tmpfs is not where it is mounted: another mount hides it."""
        point = os.fsdecode(mount.point)
        if mount.kind not in _MEMORY_FILESYSTEMS or b"ro" in mount.options.split(b",") or not any(
                _is_beneath(point, path) or _is_beneath(path, point) for path in self._sup.writable):
            return True
        try:
            fd = _high_fd(os.open(point, O_PATH | os.O_CLOEXEC))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except PermissionError as e:
            if _is_hidden(point, self._sup.denied.uid):
                raise LaunchError("max_memory", e.errno, point, "a tmpfs that cannot be looked at") from e
            return True  # nobody inside can come there either
        with _NewFd(fd):
            device, used = os.fstat(fd).st_dev, self._used(fd)
            is_it = mount.device == b"%d:%d" % (os.major(device), os.minor(device))
            if is_it and device not in self._tmpfs:
                if not os.statvfs(fd).f_blocks:  # nobody can tell how much is in it
                    self._sup.launching.leave_out(
                        "max_memory", "a size of its own for the file system in memory on %s" % point)
                self._tmpfs[device] = fd, used
                return True
        os.close(fd)
        return is_it

    def close(self):
        with self._lock:  # a thread of the host may be looking
            while self._tmpfs:
                os.close(self._tmpfs.popitem()[1][0])

    def forget(self):
        """In a forked child, where another thread may have held the lock at the fork."""
        self._lock = threading.RLock()
        self.close()

    def limit(self):
        return self._sup.context.max_memory()

    @staticmethod
    def _used(place):
        info = os.statvfs(place)
        return (info.f_blocks - info.f_bfree) * info.f_frsize + (info.f_files - info.f_ffree) * _Memory.INODE_BYTES

    @staticmethod
    def of(status):
        """Bytes of a process that are its own: data and stack, or what of its pages is in use (those made
        read-only since are no data any more), huge pages, and what the kernel has for it and its threads."""
        mapped, used, more = (
            sum(int(status.get(name, "0").split()[0]) << 10 for name in names)
            for names in (("VmData", "VmStk"), ("RssAnon", "VmSwap"), ("HugetlbPages", "VmPTE")))
        return max(mapped, used) + more + int(status.get("Threads", "0")) * _Memory.THREAD_BYTES

    def _take_stock(self):
        """No fork is admitted during a look, but one may be under way: who came is looked at too, since its parent
        may have ended before it was."""
        stock, known, self._known, pids = _Stock(), self._known, {}, set()
        for _ in range(self.TRIES):
            came = set(self._sup.members()) - pids
            if not came:
                break
            pids |= came
            self._count(stock, came, known)
        for pid in pids - stock.own.keys():  # who was killed
            stock.drop(pid)
        stock.written = sum(max(0, self._used(fd) - before) for fd, before in self._tmpfs.values())
        return stock

    def _count(self, stock, pids, known):
        """Adds some processes to a stock. Who cannot be looked at is killed, and taken out of `pids`."""
        if self.has_memfds:
            self._count_memfds(stock, pids)
        found = self._mapped(stock, pids, known) if self.has_shared else {}
        for pid in sorted(pids):
            status = self._ask(pids, pid, _task_status, {})
            if pid in pids:
                stock.own[pid] = self.of(status)
                stock.held[pid] = {**stock.held.get(pid, {}), **found.get(pid, {})}

    def _ask(self, pids, pid, read, ended):
        try:
            return _by_living_task(pid, read, ended)
        except _TooQuick:
            self._drop(pids, pid, "its threads end before they can be looked at")
            return ended

    def _drop(self, pids, pid, why):
        self._kill(pid, why, 0)
        pids.discard(pid)

    def _count_memfds(self, stock, pids):
        """The files in memory that processes have open; of so many descriptors that it takes too long nobody can."""
        deadline = time.monotonic() + self.LOOK_S
        counts = {pid: self._ask(pids, pid, _descriptor_count, 0) for pid in sorted(pids)}

        def late(pid):
            return counts[pid] > self.FEW_DESCRIPTORS and time.monotonic() > deadline

        def read(task):
            sizes = {}
            try:
                names = () if late(pid) else os.listdir("/proc/%d/fd" % task)
            except (FileNotFoundError, ProcessLookupError):
                return sizes  # it ended
            for name in names:
                try:
                    info = os.stat("/proc/%d/fd/%s" % (task, name))
                except OSError:
                    continue  # it was closed
                if info.st_dev == _memory_device():
                    sizes[info.st_ino] = info.st_blocks * 512
                if late(pid):
                    break
            return sizes
        for pid in sorted(pids, key=counts.get):
            try:
                sizes = self._ask(pids, pid, read, {})
            except PermissionError as e:
                self._drop(pids, pid, "its descriptors cannot be looked at: %s" % e.strerror)
                continue
            stock.files.update(sizes)
            stock.held[pid] = dict.fromkeys(sizes, 0)
            if late(pid):
                self._drop(pids, pid, "its %d descriptors cannot be looked at in time" % counts[pid])

    def _mapped(self, stock, pids, known):
        """-> {pid: {inode: bytes}} of the files in memory that processes have mapped; of shared memory of which nobody
        can tell more what is touched. Who makes the look late for long is killed."""
        found, late, mapped = self.reader.look(pids), self.reader.late(), {}
        if late in pids:
            self._drop(pids, late, "what it has mapped cannot be looked at in time")
        for pid in sorted(pids):
            now = int(self._ask(pids, pid, _task_status, {}).get("RssShmem", "0 kB").split()[0]) << 10
            sizes, before = known.get(pid, ({}, 0))
            if pid not in found:  # too late: what it had, and what it has touched since
                mapped[pid], stock.touched[pid] = sizes, max(0, now - before)
            elif found[pid] is None:  # not to be looked at (any more): as if it were its own
                stock.touched[pid] = max(now, sum(sizes.values()))
            else:
                mapped[pid], sizes, before = found[pid], found[pid], now
            self._known[pid] = sizes, before
        return mapped

    def fits(self, more):
        """Whether the sandbox may grow by that; gives out the limits anew."""
        with self._lock:
            stock = self._take_stock()
            total = stock.total()
            self._divide(stock.own, total)
            return total + more <= self.limit()

    def look(self, tolerate=False):
        """Gives out the limits anew, and kills the largest process past the limit; `tolerate`: what
        is in use now may stay, as long as it does not grow."""
        with self._lock:
            if self.limit():
                self.open()
                self._look(tolerate)

    def _look(self, tolerate):
        stock = self._take_stock()
        total = stock.total()
        if tolerate or total < self._tolerated:
            self._tolerated = total
        while total > max(self.limit(), self._tolerated) and stock.own:
            pid = max(stock.own, key=stock.weight)
            self._kill(pid, "the sandbox uses %d bytes; its largest process was killed" % total, stock.weight(pid))
            stock.drop(pid)
            total = stock.total()  # of the others
        self._divide(stock.own, total)

    def _kill(self, pid, reason, size):
        event = SyscallEvent(pid=pid, category=SyscallCategory.MEMORY, size=size, denied=True)
        denial = Denial(reason=reason, field="max_memory", value=2 * self.limit(), event=event)
        self._sup.record(self._sup.denials, denial)
        self._sup.members(signal.SIGKILL, among=[pid])

    def _divide(self, own, total):
        left, now = max(0, self.limit() - total), rlimit64()
        data = {pid: int(self._ask(set(), pid, _task_status, {}).get("VmData", "0").split()[0]) << 10 for pid in own}
        for pid in self._sup.members(among=list(own)):  # after reading, which may have taken long
            try:
                self._sup.prlimit(pid, RLIMIT_DATA, 0, _address(now))
                now.rlim_max = min(now.rlim_max, self.limit())
                now.rlim_cur = min(data.get(pid, 0) + left, now.rlim_max)
                self._sup.prlimit(pid, RLIMIT_DATA, _address(now), 0)
            except OSError as e:
                if e.errno != errno.ESRCH:
                    raise


class _Stock:
    """What processes use. By pid: `own` bytes; `held`: {inode: bytes mapped} of the files in memory that it has open
    or mapped; `touched`: shared memory, where nobody can tell more. `files`: {inode: bytes} of those that anybody
    has open. `written`: to a tmpfs."""

    def __init__(self):
        self.own, self.held, self.files, self.touched, self.written = {}, {}, {}, {}, 0

    def total(self):
        sizes = {}
        for inodes in self.held.values():
            for inode, mapped in inodes.items():  # by several: as much as by the one with the most of it
                sizes[inode] = self.files.get(inode, max(mapped, sizes.get(inode, 0)))
        return (sum(self.own.values()) + sum(sizes.values()) + self.written
                + min(sum(self.touched.values()), _all_shared_memory()))

    def weight(self, pid):
        return self.own[pid] + self.touched.get(pid, 0) + sum(
            self.files.get(inode, mapped) for inode, mapped in self.held[pid].items())

    def drop(self, pid):
        for table in self.own, self.held, self.touched:
            table.pop(pid, None)


class _TooQuick(Exception):
    """The tasks of a process follow each other faster than they can be read."""


def _by_living_task(pid, read, ended):
    """What read(task) tells of a process's memory: of a task that has it before and after, since the first one may
    have ended before the others. `ended` where all have, or are about to."""
    seen, tids = set(), [pid]
    for _ in range(_Memory.TRIES):
        for tid in tids:
            if "VmData" in _task_status(tid):
                found = read(tid)
                if "VmData" in _task_status(tid):
                    return found
        tids = [int(tid) for tid in _listed("/proc/%d/task" % pid)]
        if seen.issuperset(tids):
            return ended  # nobody has come
        seen.update(tids)
    raise _TooQuick


def _all_shared_memory():
    """Bytes of it on the whole machine; proc_meminfo(5). More than that nobody can have touched."""
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("Shmem:"))
    except (OSError, StopIteration):
        return 1 << 62


def _descriptor_count(pid):
    """How many descriptors a process has; proc_pid_fd(5). Below Linux 6.2: how large its table is."""
    try:
        return os.stat("/proc/%d/fd" % pid).st_size or int(_task_status(pid).get("FDSize", "0"))
    except OSError:
        return 0  # it ended


class _MapsReader:
    """What processes have mapped of files in memory. Each page of that text waits for the process, for as long as
    that likes: so a thread reads, the quick ones first."""
    LOOK_S, LATE_S, KEPT_S = 1.0, 5.0, 60.0

    def __init__(self):
        self.running, self.tid = _thread.allocate_lock(), None  # held by the thread
        self._at, self._reads = None, {}  # (pid, since when it is read); pid -> (whether that took long, when)
        self._in_time = time.monotonic()  # when nobody made that late

    def look(self, pids):
        """{pid: {inode: bytes}} of those that can be told of in time, None where nobody may know."""
        found, done, now = {}, queue.SimpleQueue(), time.monotonic()
        if not self.running.locked():
            self._at = None
            self._reads = {pid: row for pid, row in self._reads.items() if now - row[1] < self.KEPT_S}
            # Slow ones last, and of the others those first that have waited for longest.
            pids = sorted(pids, key=lambda pid: self._reads.get(pid, (False, 0.0)))
            try:
                _start_thread(self._read, pids, found, done, held=self.running)
                done.get(timeout=self.LOOK_S)
            except (LaunchError, queue.Empty):
                pass  # there is no thread, or it is late
        return dict(found)

    def _read(self, pids, found, done):
        try:
            self.tid, deadline = _begin_thread(), time.monotonic() + self.LOOK_S
            for pid in pids:
                begun = time.monotonic()
                self._at = pid, begun
                try:
                    found[pid] = _by_living_task(pid, lambda task: _mapped_memory(task, deadline), {})
                except _TooQuick:
                    found[pid] = None
                finally:
                    now = time.monotonic()
                    self._reads[pid] = now - begun > self.LOOK_S / 2, now
            self._at = None
        except TimeoutError:
            if not self._reads[pid][0]:
                self._at = None  # there are many: nobody's fault
        finally:
            self.running.release()
            done.put(None)

    def late(self):
        """Who has kept looks from being complete for long, and takes long by itself; or None. RuntimeError where
        that goes on all the same."""
        now, (pid, since) = time.monotonic(), self._at or (None, 0.0)
        if pid is None:
            self._in_time = now
        elif now - since > 4 * self.LATE_S:  # whoever it was, nobody can see what the others do
            raise RuntimeError("what the program has mapped cannot be looked at")
        elif now - self._in_time > self.LATE_S and now - since > self.LOOK_S / 2:
            return pid
        return None


def _mapped_memory(pid, deadline):
    """{inode: bytes} of the files in memory that a process has mapped, None if nobody may know; proc_pid_maps(5).
    TimeoutError past the deadline. However it is mapped: what is mapped privately lives in the file until it is
    written to. What is mapped twice counts once."""
    spans, device = {}, _memory_device()
    shown = b" %02x:%02x " % (os.major(device), os.minor(device))
    try:
        with open("/proc/%d/maps" % pid, "rb", 1 << 16) as file:
            for line in file:
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, "maps")
                if shown in line:
                    span, _, offset, _, inode = line.split(None, 5)[:5]
                    (low, high), start = (int(end, 16) for end in span.split(b"-")), int(offset, 16)
                    spans.setdefault(int(inode), []).append((start, start + high - low))
    except (FileNotFoundError, ProcessLookupError):
        return {}  # it ended
    except TimeoutError:
        raise
    except OSError:
        return None  # not to be looked at
    return {inode: _covered(parts) for inode, parts in spans.items()}


def _covered(spans):
    """Bytes of (low, high) spans; what lies in several counts once."""
    total = reached = 0
    for low, high in sorted(spans):
        total += max(0, high - max(low, reached))
        reached = max(reached, high)
    return total


@functools.lru_cache(maxsize=None)
def _memory_device():
    """The one on which memfd_create(2), shared anonymous and System V memory lie; mm/shmem.c: shm_mnt."""
    with _Fd(_memfd(b"sandlock", MFD_CLOEXEC)) as fd:
        return os.fstat(fd).st_dev


# -- without a listener ----------------------------------------------------------------------------

class _Unsupervised(_Supervisor):
    """Under best_effort, where there can be no listener: Landlock and the block-list alone. Connecting is
    refused, since nobody could judge it; Result.unenforced names what is not there. Members are told by who descends
    from whom, so that one which init has adopted, and which has left session and group, outlives the run."""

    def launch(self, deadline=None):
        self.deadline, self.scoped, self.runners, self.forked = deadline, False, None, True
        try:
            import subprocess
            launching, error = self.launching, None
            for path in launching.candidates:
                try:
                    child = subprocess.Popen(
                        launching.argv, executable=path, env=launching.environment, cwd=self.policy.cwd,
                        preexec_fn=self._confine, start_new_session=launching.new_session,
                        pass_fds=[launching.death_read], **dict(zip(("stdin", "stdout", "stderr"), launching.stdio)))
                    break
                except subprocess.SubprocessError as e:
                    raise LaunchError("confine", detail=str(e)) from e
                except OSError as e:
                    error = error if error and error.errno not in (errno.ENOENT, errno.ENOTDIR) else e
            else:
                raise LaunchError("exec", error.errno, path) from error
            _live.add(self)  # only now: in the fork before, it would have been forgotten
            self.pid, child.returncode = child.pid, 0  # it is ours to be waited for
            self.pidfd = _high_fd(_pidfd_open(self.pid))
            launching.close()
            self.launched = True
        except BaseException:
            self.abandon()
            raise

    def if_member(self, pid, act, otherwise):
        return act() if int(_task_status(pid).get("Tgid", 0)) in _descendants(self.pid) else otherwise

    def _confine(self):
        """In the child, before its exec."""
        launching = self.launching
        # subprocess could leave some open that are past the new limit; before 5.11 there is no such flag.
        if _raw(_NR["close_range"], 3, 0xffffffff, CLOSE_RANGE_CLOEXEC) < 0:
            for fd in _possible_descriptors():
                _raw(_NR["fcntl"], fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        os.set_inheritable(launching.death_read, True)
        if not launching.new_session:
            os.setpgid(0, 0)
        launching.prepare_process(os.getpid(), self.prlimit)
        fprog = _sock_fprog(launching.filter)
        _call("rt_sigprocmask", SIG_SETMASK, _address(launching.signals.before), 0, 8)
        _run_steps(launching.steps_broker + launching.steps_program + [
            ("seccomp", "seccomp", (SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(fprog)))])


# -- the host's own forks and end, and its terminal ------------------------------------------------

_live = set()  # supervisors of this process whose threads run


def _forget_all():
    for setting in (_switch_interval, _dumpable, _adoption):
        setting.forget()
    for supervisor in _live:
        supervisor.forget()
    _live.clear()
    for fd, inode in _host_only:
        try:
            if inode is None or os.fstat(fd).st_ino == inode:
                os.close(fd)
        except OSError:
            pass  # a death pipe that was just closed: see close_death_pipe
    _host_only.clear()
    _after_fork()


def _before_fork():
    _spawn_lock.acquire()
    _fork_lock.acquire()


def _after_fork():
    _fork_lock.release()
    _spawn_lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forget_all)


@atexit.register
def _end_all():
    """At the host's exit, before its threads stand still."""
    for supervisor in list(_live):
        supervisor.kill(ExitReason.KILLED)
    for supervisor in list(_live):
        if supervisor.orphaned and supervisor.tid is None:  # there was no thread for it
            supervisor.abandon()
        _is_free(supervisor.finished, supervisor.SWEEP_LIMIT_S)


def _foreground_group(fd):
    """Of our controlling terminal, or None if the descriptor is no such."""
    try:
        return os.tcgetpgrp(fd)
    except OSError:
        return None


def _set_foreground(terminal, group):
    """tcsetpgrp(3) without being stopped by SIGTTOU."""
    with _SignalsBlocked():
        os.tcsetpgrp(terminal, group)


# -- what the kernel tells of processes ------------------------------------------------------------

def _descendants(root):
    """Without any Landlock (best_effort): children of children, and whoever is in the first process's
    session or group. A daemon that left all three is not found."""
    rows = {pid: _proc_stat(pid) for pid in _listed_processes()}
    found = {root}
    while True:
        more = {pid for pid, f in rows.items() if f and pid not in found
                and (int(f[1]) in found or int(f[2]) == root or int(f[3]) == root)}
        if not more:
            return [pid for pid in found if rows.get(pid)]
        found |= more


_IGNORED_SIGNALS = 1 << 16 | 1 << 17 | 1 << 22 | 1 << 27  # by default: CHLD CONT URG WINCH; signal(7)


def _pending_signals(tid):
    """-> (signals that a task certainly has to handle once it returns, those that another thread of its process may
    take as well): bits; proc_pid_status(5)."""
    status = _task_status(tid)
    try:
        own, shared, blocked, ignored, caught = (
            int(status[name], 16) for name in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"))
    except (KeyError, ValueError):
        return 0, 0
    idle = blocked | ignored | _IGNORED_SIGNALS & ~caught
    return (own & ~idle, shared & ~idle) if status.get("Threads") != "1" else ((own | shared) & ~idle, 0)


def _reap(pidfd):
    """-> (exit code, signal or -1) of the ended child.

    Where the host ignores SIGCHLD or reaps every child itself, the kernel remembers the status
    for the pidfd from 6.15 on; before that it is lost and (None, -1) says so.
    """
    try:
        info = os.waitid(P_PIDFD, pidfd, os.WEXITED)
        value, exited = info.si_status, info.si_code == os.CLD_EXITED
    except ChildProcessError:
        for _ in range(100):  # the pidfd tells that it has ended a moment before it tells how
            answer = bytearray(bytes(pidfd_info(mask=PIDFD_INFO_EXIT)))
            try:
                fcntl.ioctl(pidfd, PIDFD_GET_INFO, answer)
            except OSError:
                return None, -1
            info = pidfd_info.from_buffer_copy(answer)
            if info.mask & PIDFD_INFO_EXIT:
                break
            time.sleep(0.0005)
        else:
            return None, -1
        exited = os.WIFEXITED(info.exit_code)
        value = os.WEXITSTATUS(info.exit_code) if exited else os.WTERMSIG(info.exit_code)
    return (value, -1) if exited else (-value, value)


def _reap_adopted(pid):
    """An orphan of the sandbox becomes the host's child where the host is init or a subreaper; True if it
    had ended."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return False  # as usual: somebody else's


# -- names and addresses ---------------------------------------------------------------------------

class _Network(_Record):
    """net_allow or net_deny, host names resolved. `rows`: (schemes, address ranges or None, port
    ranges or None). `pinned`: (name, addresses as text)."""
    _fields = dict(field="net_allow", rows=(), pinned=())

    def permits(self, udp, version, number, port):
        scheme = "udp" if udp else "tcp"
        named = any(scheme in schemes and (ranges is None or _within(ranges, version, number))
                    and (ports is None or any(low <= port <= high for low, high in ports))
                    for schemes, ranges, ports in self.rows)
        return named == (self.field == "net_allow")

    def endpoint(self, udp, host, port):
        """The text of a rule that allows this one, by its name where it has one here."""
        name = next((name for name, addresses in self.pinned if host in addresses), host)
        return "%s://%s:%d" % ("udp" if udp else "tcp", "[%s]" % name if ":" in name else name, port)

    def ceiling(self):
        """Every address that some rule allows, as ranges."""
        if self.field == "net_deny" or any(ranges is None and schemes != ("unix",)
                                           for schemes, ranges, _ in self.rows):
            return _EVERY_ADDRESS
        return tuple(dict.fromkeys(r for _, ranges, _ in self.rows for r in ranges or ()))


_EVERY_ADDRESS = ((4, 0, 2 ** 32 - 1), (6, 0, 2 ** 128 - 1))


def _resolve_network(policy):
    """Looks host names up, once. Raises LaunchError."""
    field = "net_deny" if policy.net_deny else "net_allow"
    rows, pinned = [], []
    for text in getattr(policy, field):
        endpoint = _endpoint(field, text)
        ranges = None
        if isinstance(endpoint.host, str):
            addresses = _look_up(endpoint.host)
            pinned.append((endpoint.host, addresses))
            ranges = _address_ranges(field, addresses)
        elif endpoint.host is not None:
            ranges = _address_ranges(field, [endpoint.host])
        rows.append((endpoint.schemes, ranges, endpoint.ports))
    return _Network(field=field, rows=tuple(rows), pinned=tuple(dict(pinned).items()))


def _look_up(name):
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as e:
        raise LaunchError("net_allow", 0, name, "the name does not resolve: %s" % e) from e
    return tuple(dict.fromkeys(row[4][0].partition("%")[0] for row in found))


class _Hosts:
    """The /etc/hosts that pins names: their lines, then the real file as far as the policy lets it
    be read. On the broker's thread, except for close()."""

    def __init__(self, pinned):
        self.path = os.path.realpath(b"/etc/hosts")
        self._lines = "".join("%s %s\n" % (address, name)
                              for name, addresses in pinned for address in addresses).encode()
        self._fd = -1

    def open(self, walker):
        """A descriptor of its own for each reader."""
        if self._fd < 0:
            self._fd = _memfd(b"hosts", MFD_CLOEXEC | MFD_ALLOW_SEALING)
            os.write(self._fd, self._lines + self._real(walker))
            fcntl.fcntl(self._fd, F_ADD_SEALS, F_SEAL_ALL)
        return _result(walker.open(AT_FDCWD, b"/proc/self/fd/%d" % self._fd, os.O_RDONLY))

    def _real(self, walker):
        fd = walker.open(AT_FDCWD, self.path, os.O_RDONLY | os.O_NONBLOCK, 0, 0)
        if fd < 0:
            return b"127.0.0.1 localhost\n::1 localhost\n"
        with os.fdopen(fd, "rb") as file:
            return file.read()

    def close(self):
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


# ------------------------------------------------------------------------------------------------
# 13  The live policy: context and callback thread
# ------------------------------------------------------------------------------------------------

class Verdict:
    """What a policy callback returns. None, 0 and False allow too, True denies, a positive int
    denies with that errno, "audit" allows and records."""
    ALLOW, DENY, AUDIT = 0, -1, -2

    @staticmethod
    def deny_with(error):
        """Deny with an errno from 1 to 4095."""
        if isinstance(error, bool) or not isinstance(error, int) or not 1 <= error <= 4095:
            raise PolicyFnError("deny_with: %r is not an errno from 1 to 4095" % (error,))
        return error


def _verdict_errno(verdict):
    """-> (errno, 0 to allow; whether it is recorded). ValueError for what is no verdict."""
    if verdict is None or verdict is False:
        return 0, False
    if isinstance(verdict, str) and verdict == "audit":
        return 0, True
    if isinstance(verdict, int):  # True is 1, which is EPERM
        number = int.__add__(verdict, 0)  # whatever a class of the callback makes of it
        if -2 <= number <= 4095:
            return {0: 0, -1: errno.EPERM, -2: 0}.get(number, number), number == Verdict.AUDIT
    raise ValueError("%r is not a verdict" % (verdict,))


class LivePolicy(_Record):
    """What is allowed at a moment. `allowed_ips`: frozenset of addresses and networks, as text.
    `max_memory_bytes`: 0 is no limit. `max_processes`: at once."""
    _fields = dict(allowed_ips=frozenset(), max_memory_bytes=0, max_processes=64)


def _address_ranges(field, ips):
    """Addresses and networks as text or ipaddress objects -> (version, first, last) each."""
    ranges = []
    for ip in _sequence(field, ips, "addresses and networks"):
        def wrong(reason):
            return PolicyError(field, ip, reason)
        net = _endpoint_host(wrong, str(ip))
        if net is None or isinstance(net, str):
            raise wrong("expected an address or a network")
        ranges.append((net.version, int(net.network_address), int(net.broadcast_address)))
    return tuple(ranges)


def _intersect(some, others):
    """The addresses that are in both."""
    return tuple(dict.fromkeys(
        (version, max(a, c), min(b, d)) for version, a, b in some for other, c, d in others
        if version == other and max(a, c) <= min(b, d)))


def _within(ranges, version, number):
    return any(v == version and first <= number <= last for v, first, last in ranges)


def _range_texts(ranges):
    texts = set()
    for version, first, last in ranges:
        kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
        for net in ipaddress.summarize_address_range(kind(first), kind(last)):
            texts.add(str(net.network_address if net.num_addresses == 1 else net))
    return frozenset(texts)


class _DeniedPaths:
    """What fs_denied and deny_path name, with all that is beneath it, by every spelling and every
    hard link. Read without a lock: what is added is seen at once, what is removed leaves a new table.

    A path is denied by its name, as written and as resolved, on every mount that shows it or what is
    beneath it, and by what it is (device, inode), also of the directories above. The symbolic links and
    the directories left by `..` that it was written with cannot be moved. Files beneath a denied directory
    that have other names elsewhere are looked for when a file with several names is first met. What cannot be
    looked at because the program may have hidden it (chmod of a directory above) is `hidden`: until it is seen
    again nothing is allowed.
    """

    class Table:
        """Name, identity, directory above a name -> the policy field that denies it."""
        def __init__(self):
            self.names, self.objects, self.above = {}, {}, {}

        def enter(self, field, names, links, identities):
            above = links.union(*map(_above, names | links))
            for table, keys in (self.names, names - links), (self.above, above), (self.objects, identities):
                for key in keys:
                    table.setdefault(key, field)

    def __init__(self, uid, paths=()):
        self.uid, self._mounts = uid, None  # uid: of the program
        self._rows = {}  # (path, field) -> (names, names of links, identities)
        self.hidden = set()  # (path, field)
        self.table = self.Table()
        self._changes = self._looked_at = 0  # changes so far; and when it was last looked for links
        self._links = {}    # identity -> field
        self._scanned = {}  # name -> identities of the files beneath that have other names
        self.begun = self.ended = 0  # renames and links that no rule denied so far; the broker's alone to count
        for path in paths:
            self.add(path, "fs_denied")

    def __bool__(self):
        return bool(self.table.names)

    def add(self, path, field):
        resolved, through, shut = _resolved(path)
        if self._mounts is None:
            self._mounts = _mounts()
        names = {_normal(path), *_spellings(resolved, self._mounts)}
        links = {name for place in through for name in _spellings(place, self._mounts)}
        identities = set()
        try:
            info = os.stat(resolved)
            identities.add((info.st_dev, info.st_ino))
        except PermissionError:
            shut = shut or os.path.dirname(resolved)
        except OSError:
            pass  # it may come to exist
        is_hidden = shut is not None and _is_hidden(shut, self.uid)
        if is_hidden:
            self.hidden.add((path, field))
        known = self._rows.setdefault((path, field), (set(), set(), set()))  # what it was stays denied
        for those, more in zip(known, (names, links - names, identities)):
            those.update(more)
        self.table.enter(field, *known)
        self._changes += 1
        if not is_hidden:
            self.hidden.discard((path, field))

    def seen(self):
        """Whether all can be looked at, by now."""
        for path, field in list(self.hidden):
            self.add(path, field)
        return not self.hidden

    def remove(self, path):
        self.hidden.discard((path, "policy_fn"))
        if self._rows.pop((path, "policy_fn"), None):
            table = self.Table()
            for (_, field), row in self._rows.items():
                table.enter(field, *row)
            self.table = table
            self.look_again()  # while it was allowed, links could be made

    def look_again(self):
        self._scanned = {}
        self._changes += 1

    def field(self, path, identities, moves=False):
        """The policy field that denies a file, or None. `moves`: its name would mean something else
        then, which is denied to what is above a denied path too."""
        table, links = self.table, self._links
        for identity in identities:
            if identity in table.objects or identity in links:
                return table.objects.get(identity) or links.get(identity)
        if moves and path in table.above:
            return table.above[path]
        return next((table.names[name] for name in (path, *_above(path)) if name in table.names), None)

    def has_to_look(self):
        return self._looked_at != self._changes

    def look(self, stop):
        """Finds the files beneath denied directories that have other names, until stop() says so."""
        changes, scanned, links = self._changes, self._scanned, {}
        for name, field in list(self.table.names.items()):
            if name not in scanned:
                found = self._scan(name, stop)
                if stop():
                    return
                scanned[name] = found
            links.update((identity, field) for identity in scanned[name])
        self._links, self._looked_at = links, changes

    def _scan(self, top, stop):
        """What vanishes is gone; what is another user's and shut, nobody inside can have linked."""
        links, folders = set(), [top]
        while folders and not stop():
            folder = folders.pop()
            try:
                for entry in os.listdir(folder):
                    path = os.path.join(folder, entry)
                    try:
                        info = os.lstat(path)
                    except (FileNotFoundError, ProcessLookupError):
                        continue
                    if stat.S_ISDIR(info.st_mode):
                        folders.append(path)
                    elif info.st_nlink > 1:
                        links.add((info.st_dev, info.st_ino))
            except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
                continue
            except PermissionError:
                if _is_hidden(folder, self.uid):
                    raise
        return links


def _is_hidden(folder, uid):
    """Whether the program can have shut a directory, or one above it: it owns one of them. (Whether they are
    shut it may change at any time; who owns them it cannot.)"""
    for place in (folder, *_above(folder)):
        try:
            if os.lstat(place).st_uid == uid:
                return True
        except PermissionError:
            continue  # what shuts it is above
        except OSError:
            return True  # just moved: fails closed
    return False


def _resolved(path):
    """-> (where a path leads; what it leads through and leaves: its symbolic links, and directories by `..`;
    None, or a directory that may not be searched, from where on it is as written); path_resolution(7)."""
    through, where, shut, rest = [], "/", None, path.split("/")[::-1]
    while rest and len(through) < _Walker.MAX_STEPS:
        part = rest.pop()
        if part == "..":
            through.append(where)
            where = os.path.dirname(where)
        elif part not in ("", "."):
            here = os.path.join(where, part)
            try:
                text = os.readlink(here)
            except OSError as e:  # not a link, or not there
                shut = shut or (where if e.errno == errno.EACCES else None)
                where = here
                continue
            through.append(here)
            where = "/" if text[:1] == "/" else where
            rest.extend(text.split("/")[::-1])
    return where, through, shut


def _spellings(path, mounts):
    """The names of a resolved path on all mounts: it may be mounted elsewhere too, or a part of it, or what
    is mounted beneath it."""
    path = os.fsencode(path)
    names = _spellings_of(path, mounts)
    for mount in mounts:
        if _is_beneath(mount.point, path, b"/"):
            names |= _spellings_of(mount.point, mounts)
    return {os.fsdecode(name) for name in names}


def _spellings_of(path, mounts):
    home = None
    for mount in mounts:  # the longest one, and of those the last, which hides the others
        if _is_beneath(path, mount.point, b"/") and (home is None or len(mount.point) >= len(home.point)):
            home = mount
    names = {path}
    if home is None:
        return names
    inside = _normal(home.root + b"/" + path[len(home.point):])
    for mount in mounts:
        if mount.device == home.device and _is_beneath(inside, mount.root, b"/"):
            names.add(_normal(mount.point + b"/" + inside[len(mount.root):]))
        elif mount.device == home.device and _is_beneath(mount.root, inside, b"/"):
            names.add(mount.point)
    return names


class PolicyContext:
    """The policy of a running sandbox: read it, tighten it, from the callback and through
    `Process.policy` from any thread. A change holds for the event being judged and all after it.

    A policy starts at its ceiling, the static one. restrict_* shrink it for good; after that grant_*
    of the same field raises PolicyFnError. Bad values raise PolicyError.
    """
    MOVE_S = 10.0

    def __init__(self, supervisor, network, max_memory, max_processes, files_are_trapped):
        self._sup, self._files_are_trapped = supervisor, files_are_trapped
        self._lock = threading.RLock()  # guards everything below; a signal handler may come in
        self._most = dict(network=network, max_memory=max_memory or 0, max_processes=max_processes)
        self._now = dict(self._most)
        self._restricted = set()
        self._overrides = _ByProcess()  # pid -> ranges

    # -- reading

    def current(self):
        """LivePolicy as it is now."""
        with self._lock:
            return self._snapshot(self._now)

    def ceiling(self):
        """LivePolicy that it may be at most: the static policy."""
        return self._snapshot(self._most)

    @staticmethod
    def _snapshot(values):
        return LivePolicy(allowed_ips=_range_texts(values["network"]),
                          max_memory_bytes=values["max_memory"],
                          max_processes=values["max_processes"])

    def max_processes(self):
        return self._now["max_processes"]

    def max_memory(self):
        return self._now["max_memory"]

    # -- changing

    def grant_network(self, ips):
        """Allows addresses again, as far as the static policy does: text or ipaddress objects, networks
        too. PolicyFnError once the network was restricted, PolicyError for what is no address."""
        ranges = _address_ranges("grant_network", ips)
        with self._lock:
            self._refuse_restricted("network")
            more = _intersect(self._most["network"], ranges)
            self._now["network"] = tuple(dict.fromkeys(self._now["network"] + more))

    def grant_max_memory(self, n):
        """Allows n bytes, at the most what the static policy does. PolicyFnError once it was restricted."""
        self._grant("max_memory", _integer("grant_max_memory", n))

    def grant_max_processes(self, n):
        """Allows n processes, at the most what the static policy does. PolicyFnError once it was restricted."""
        self._grant("max_processes", _integer("grant_max_processes", n))

    def restrict_network(self, ips):
        """Only these addresses from now on, of those that were allowed; [] blocks every one."""
        ranges = _address_ranges("restrict_network", ips)
        with self._lock:
            self._restricted.add("network")
            self._now["network"] = _intersect(self._now["network"], ranges)

    def restrict_max_memory(self, n):
        """At the most n bytes from now on, for good; what is in use stays, and must not grow. OSError where that
        cannot be looked at now; UnsupportedError or LaunchError where a file system in memory cannot be, which ends
        the run. The limit is set all the same."""
        self._restrict("max_memory", _integer("restrict_max_memory", n))

    def restrict_max_processes(self, n):
        """At the most n processes from now on, for good; those that live stay."""
        self._restrict("max_processes", _integer("restrict_max_processes", n))

    def _grant(self, field, n):
        with self._lock:
            self._refuse_restricted(field)
            if self._now[field]:  # 0: there is no limit to widen
                most = self._most[field]
                self._now[field] = max(self._now[field], min(n, most) if most else n)
        self._sup.limits_changed()

    def _restrict(self, field, n):
        with self._lock:
            self._restricted.add(field)
            self._now[field] = min(self._now[field], n) if self._now[field] else n
        self._sup.limits_changed()

    def _refuse_restricted(self, field):
        if field in self._restricted:
            raise PolicyFnError("cannot grant restricted field: %s" % field)

    def restrict_pid_network(self, pid, ips):
        """A tighter list for one process and all its threads, until it ends. PolicyFnError for one that is not
        inside."""
        ranges = _address_ranges("restrict_pid_network", ips)
        _integer("restrict_pid_network", pid)
        try:
            self._overrides.add(pid, ranges, self._sup.is_member)
        except OSError as e:
            raise PolicyFnError("restrict_pid_network: %d: %s" % (pid, e)) from e

    def clear_pid_override(self, pid):
        """Back to the list that holds for all."""
        self._overrides.drop(pid)

    def deny_path(self, path):
        """Denies a path and all beneath it, on every trapped file call, connect and bind to a socket
        file, and execve, whatever name reaches it. PolicyFnError where not all file events are asked for:
        what is not trapped could rename it; TimeoutError where what is just being renamed or linked takes long."""
        path = _path("deny_path", path)
        if not self._files_are_trapped:
            raise PolicyFnError('deny_path needs all file events: put "file" into policy_events')
        denied = self._sup.denied
        with self._lock:
            ended = denied.ended
            denied.add(path, "policy_fn")
        # What is under way may take something out of there, or give it another name. No lock, which a handler that
        # raises could leave held.
        begun, deadline = denied.begun, time.monotonic() + self.MOVE_S
        while denied.ended < begun:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "the rule holds, but not for what is just being moved", path)
            time.sleep(0.001)
        with self._lock:
            if denied.ended != ended:
                denied.look_again()

    def allow_path(self, path):
        """Takes deny_path back; what fs_denied names stays denied."""
        with self._lock:
            self._sup.denied.remove(_path("allow_path", path))

    # -- judging

    def refusal(self, call):
        """(errno, reason, field) if the live rules refuse a call, else None. On any thread."""
        if call.address is not None:
            with self._lock:
                if not _within(self._now["network"], *call.address):
                    return errno.ECONNREFUSED, "restrict_network", "policy_fn"
                ranges = self._overrides.get(call.request.task.process)
                if ranges is not None and not _within(ranges, *call.address):
                    return errno.ECONNREFUSED, "restrict_pid_network", "policy_fn"
        denied = self._sup.denied
        if denied and call.event.get("path") is not None:
            if denied.hidden and not self._all_seen():
                return errno.EACCES, "what is denied cannot be looked at: a directory above it is shut", None
            for path in (call.event["path"], *call.paths):
                field = denied.field(path, (*call.identities, *(call.above or ())), call.moves)
                if field:
                    return errno.EACCES, "deny_path" if field == "policy_fn" else field, field
        return None

    def _all_seen(self):
        with self._lock:
            return self._sup.denied.seen()

    def close(self):
        """At the end of the run, when there is nobody left to be judged."""
        self._overrides.close()

    def forget(self):
        """In a forked child."""
        self._overrides.forget()


def _described(error):
    """Text of an exception, whatever its own methods do."""
    try:
        return "%s: %s" % (type(error).__name__, error)
    except BaseException:
        return type(error).__name__


class _Callback:
    """The thread of the policy callback: one event at a time, in order; who decides also answers.

    Everything fails closed. The supervisor's thread watches the time: what is being judged for too
    long is denied, and with it all that waits behind it.
    """

    WAITING = 128  # at once, with descriptors; the others wait where they are received

    def __init__(self, supervisor, function, timeout_s):
        self._sup, self._function, self.timeout_s = supervisor, function, timeout_s
        self._calls = queue.SimpleQueue()
        self._current = None   # (call, since when)
        self._contended = 0
        self._late = False     # the one that is being judged has had its time
        self._alive = False
        self._ended = _thread.allocate_lock()
        self.tid = None  # while it has not begun; 0 where it is left to itself

    def start(self):
        self._alive = True
        try:
            _start_thread(self._serve, held=self._ended)
        except BaseException:
            self._alive = False
            raise

    def submit(self, call):
        call.submitted = time.monotonic()
        self._calls.put(call)
        if self._late or not self._alive:
            self._deny_waiting()

    def is_full(self):
        return self._alive and not self._late and (
            self._calls.qsize() >= self.WAITING or self._sup.held.is_full())

    def _serve(self):
        self.tid = _begin_thread()
        try:
            while True:
                idle = self._calls.empty()
                call = self._calls.get()
                if call is None:
                    return
                if idle and _switch_interval not in self._sup.launching.settings:
                    self._notice_contention(time.monotonic() - call.submitted)
                self._judge(call)
                self._sup.go_on_receiving()
        finally:
            self._alive = False
            self._deny_waiting()
            self._ended.release()

    def _notice_contention(self, waited_s):
        """`waited_s`: until this idle thread had the call. Where another thread computes that is often more than
        2 ms, else mostly less than a third of it; the switch interval is shortened once it was often enough."""
        self._contended = self._contended + 4 if waited_s > 2e-3 else max(0, self._contended - 1)
        if self._contended >= 12:
            self._sup.launching.hold(_switch_interval)

    def _judge(self, call):
        sup, event, error, audited, fault = self._sup, None, errno.EPERM, False, None
        self._current = (call, time.monotonic())
        try:
            if call.silent:
                error = 0
            else:
                event = sup.event(call, bool(sup.denial(call) or call.failed))
                error, audited = _verdict_errno(self._function(event, sup.context))
        except BaseException as e:  # SystemExit and KeyboardInterrupt too: none of them allows
            fault = _described(e)
        finally:
            self._current, self._late = None, False
        if not call.request.claim():
            return  # it took too long
        if fault:
            sup.fault("%s: %s" % (call.family, fault))
        if audited:
            sup.record(sup.audits, event)
        if error:
            sup.refuse_call(call, error, "policy_fn: " + (fault or "denied"), "policy_fn")
        elif call.wants_status:
            sup.find_status(call)
        else:
            sup.settle(call)

    def watch(self):
        """By the supervisor, now and then: what takes too long, or came after the thread's death."""
        current = self._current
        if current is not None and time.monotonic() - current[1] > self.timeout_s:
            call = current[0]
            self._late = True
            if call.request.claim():
                self._sup.fault("%s: the callback took longer than %g s" % (call.family, self.timeout_s))
                self._sup.refuse_call(call, errno.EPERM, "policy_fn: timeout", "policy_fn")
            if self._current is current:
                self._deny_waiting()
            else:
                self._late = False
        elif not self._alive:
            self._deny_waiting()

    def _deny_waiting(self):
        self._sup.refuse_backlog()
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return
            if call is None:
                self._calls.put(None)
                return
            if call.request.claim():
                if not self._sup.finishing.locked():
                    self._sup.fault("%s: the callback is busy with an earlier event for too long, "
                                    "or its thread has died" % call.family)
                self._sup.refuse_call(call, errno.EPERM, "policy_fn: not asked in time", "policy_fn")

    def close(self):
        """True if the thread has ended; one that hangs in the callback gets its time, then it is
        left to itself: nothing that it returns matters any more."""
        self._deny_waiting()  # nobody waits for them any more
        self._calls.put(None)
        return _is_free(self._ended, self.timeout_s)


# ------------------------------------------------------------------------------------------------
# 14  Launch pad
# ------------------------------------------------------------------------------------------------

def _possible_descriptors():
    """Of this process: the numbers that may be open now or later. For kernels before 5.11, where
    close_range(2) cannot mark a range."""
    return range(3, max([resource.getrlimit(resource.RLIMIT_NOFILE)[0]]
                        + [int(fd) + 1 for fd in os.listdir("/proc/self/fd")]))


class _Launch:
    """All that a start needs, as data, made by the caller's thread.

    `fds` are closed by close() once the program runs; `lasting_fds`, the write end of the death
    pipe with its inode, by finish(). The program inherits the read end: when the host dies by any death, the
    kernel sends SIGKILL to the program's process group (F_SETOWN, F_SETSIG, O_ASYNC; fcntl(2)).
    """
    DEATH_PIPE_AT = 1023  # the highest usual number; a higher one makes every fork copy more

    def __init__(self, policy, argv, network, stdio, signals, new_session=True, terminal=None):
        self.network = network
        self.policy, self.argv, self.signals, self.terminal = policy, argv, signals, terminal
        self.fds, self.lasting_fds, self._keep, self.settings = [], [], [], []
        _load_libgcc()
        _interrupting_signal()
        self.abi = landlock_abi_version()
        self.unenforced = _require_enforceable(policy, self.abi)
        self.waits_killably, self.supervised = _kernel_flags().waits_killably, _kernel_flags().listener
        self.stdio, self.new_session = stdio, new_session
        self.environment = _child_environment(policy)
        self.candidates = _executables(argv[0], self.environment, policy.cwd)
        try:
            self._prepare()
        except BaseException:
            self.close()
            self.finish()
            raise

    def _prepare(self):
        policy = self.policy
        self.missing_paths, self.ruleset = (), None
        if self.abi:
            self.ruleset, self.missing_paths = _landlock_ruleset(_landlock_rules(policy, self.abi))
            self.fds.append(self.ruleset)
            self.inner_ruleset, _ = _landlock_ruleset(_inner_rules(self.abi))
            self.fds.append(self.inner_ruleset)
        with _fork_lock:
            self.death_read, self.death_write = _pipe()
            self.fds.append(self.death_read)
            self.lasting_fds.append((self.death_write, os.fstat(self.death_write).st_ino))
            _host_only.update(self.lasting_fds)
        binding = ("sched_setaffinity",) if policy.cpu_cores is not None else ()
        self.trapped = _trapped_syscalls(policy, self.abi)
        self.given = any(_sends_to_addresses(number if fd is None else fd) for number, fd in enumerate(self.stdio))
        self.trapped += tuple({"sendto", "sendmsg", "sendmmsg"} - set(self.trapped)) * self.given
        # Under a container's profile some calls are left to the kernel: see _continue_if_private.
        self.unseen = _raw(_NR["pidfd_getfd"], -1, 0, 0) == -errno.EPERM
        binding += ("io_setup", "io_submit") * self.unseen
        self.filter = _policy_filter(policy.extra_deny_syscalls + binding, policy.extra_allow_syscalls,
                                     _ARCH, self.trapped, (), (*_datagram_kinds(policy), self.given),
                                     self.abi == 0 or self.abi >= ABI_TRUNCATE) if self.supervised else (
            _static_filter(policy, binding))
        self.descriptors = () if _kernel_flags().marks_ranges else _possible_descriptors()
        self.limits = tuple((resource, value) for resource, value in (
            (RLIMIT_NOFILE, policy.max_open_files), (RLIMIT_CPU, policy.max_cpu_seconds),
            (RLIMIT_FSIZE, policy.max_file_size), (RLIMIT_DATA, policy.max_memory),
            # The kernel writes a core wherever the program is, and asks nobody who judges paths.
            (RLIMIT_CORE, 0 if "openat" in self.trapped else None)) if value is not None)
        self._identity_steps()
        self._spawn_arguments()

    def close(self):
        """What only the start needed. The write end of the death pipe stays."""
        while self.fds:
            os.close(self.fds.pop())
        while self._keep:
            destroy, thing = self._keep.pop()
            destroy(thing)

    def finish(self):
        """The rest, at the end of the run."""
        self.close_death_pipe()
        while self.settings:
            self.settings.pop().give_back()
        if self.terminal is not None:
            terminal, self.terminal = self.terminal, None
            try:
                _set_foreground(terminal, os.getpgrp())
            except OSError as e:
                if e.errno not in (errno.ENOTTY, errno.EIO, errno.EBADF):  # it was closed
                    raise

    def hold(self, setting):
        setting.hold()
        self.settings.append(setting)

    def leave_out(self, feature, needed):
        """UnsupportedError, but for best_effort."""
        if not self.policy.best_effort:
            raise UnsupportedError(feature, needed + ", or best_effort", "none")
        self.unenforced += ("%s without %s" % (feature, needed),)

    def keep_undumpable(self):
        """For good: a thread with other ids lives on."""
        self.settings = [setting for setting in self.settings if setting is not _dumpable]

    def close_death_pipe(self):
        while self.lasting_fds:
            fd, inode = self.lasting_fds.pop()
            os.close(fd)  # if the program lives, it can make that wait: without the lock, which forks need
            with _fork_lock:
                _host_only.discard((fd, inode))

    user_ids = None  # (uid, gid) of `user`

    def _identity_steps(self):
        """Raw calls, since libc's wrappers would change every thread: (stage, name, args)."""
        steps = [("no_new_privs", "prctl", (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))]
        if self.policy.user is not None:
            uid, gid, groups = _user_ids("user", self.policy.user)
            if os.geteuid() != 0:
                raise LaunchError("user", errno.EPERM, detail="only a root host can change ids; "
                                  "run as root or leave user out")
            self.user_ids = uid, gid
            # Real and saved id 0 in the broker: else every process of that user could kill it, and
            # with it the host, or change its limits. The program's are all changed, later.
            steps += [("user", "setgroups", (len(groups), (_u32 * len(groups))(*groups))),
                      ("user", "setresgid", (gid, gid, gid)),
                      ("user", "setresuid", (0, uid, 0))]
            self.hold(_dumpable)
        self.steps_broker, self.steps_program = steps, []
        self._capability_steps()
        if self.abi:
            name = "landlock_restrict_self"
            self.steps_broker.append((name, name, (self.ruleset, 0)))
            self.steps_program.append((name, name, (self.inner_ruleset, 0)))
        if self.policy.cpu_cores is not None:
            mask = sum(1 << core for core in self.policy.cpu_cores).to_bytes(128, "little")
            self.steps_program.append(("cpu_cores", "sched_setaffinity", (0, len(mask), mask)))

    def _capability_steps(self):
        permitted = _capabilities()[1][1]
        keep, uid = permitted & _KEPT_CAPABILITIES, self.user_ids[0] if self.user_ids else 0
        programs, scope = 0 if uid else keep, _yama_scope()
        if uid:
            # With other real ids than its tasks', the broker reads their memory by CAP_SYS_PTRACE;
            # Landlock keeps that to the sandbox.
            if not permitted & CAP_SYS_PTRACE:
                raise UnsupportedError("user", "CAP_SYS_PTRACE, for the thread that judges its calls",
                                       "a root without it; in a container: --cap-add SYS_PTRACE")
            keep = CAP_SYS_PTRACE
        elif scope and permitted & CAP_SYS_PTRACE:
            keep |= CAP_SYS_PTRACE
        elif scope == 1:
            self.hold(_adoption)
        self.steps_broker.append(_leave_capabilities(keep))
        if uid:
            self.steps_program.append(("user", "setresuid", (uid, uid, uid)))
        if keep != programs:
            self.steps_program.append(_leave_capabilities(programs))

    def _spawn_arguments(self):
        """posix_spawn(3): its objects are opaque, at most 336 bytes in glibc and musl."""
        actions, attributes = (ctypes.create_string_buffer(1024) for _ in range(2))
        _check(_libc.posix_spawn_file_actions_init(actions))
        self._keep.append((_libc.posix_spawn_file_actions_destroy, actions))
        _check(_libc.posix_spawnattr_init(attributes))
        self._keep.append((_libc.posix_spawnattr_destroy, attributes))
        for target, source in enumerate(self.stdio):
            if source is not None:
                _check(_libc.posix_spawn_file_actions_adddup2(actions, source, target))
        self._enter_cwd(actions)
        _check(_libc.posix_spawn_file_actions_adddup2(actions, self.death_read, self._death_slot()))
        flags = POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK
        flags |= POSIX_SPAWN_SETSID if self.new_session else POSIX_SPAWN_SETPGROUP
        _check(_libc.posix_spawnattr_setflags(attributes, ctypes.c_short(flags)))
        defaults = [signal.SIGPIPE, signal.SIGXFSZ]  # Python ignores them
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            defaults.append(signal.SIGCHLD)
        bits = sum(1 << number - 1 for number in defaults)
        _check(_libc.posix_spawnattr_setsigdefault(attributes, _signal_set(bits)))
        mask = int.from_bytes(self.signals.before.raw, sys.byteorder)
        _check(_libc.posix_spawnattr_setsigmask(attributes, _signal_set(mask)))
        self.actions, self.attributes = actions, attributes
        self.c_argv = _string_array(os.fsencode(word) for word in self.argv)
        self.c_environment = _string_array(
            os.fsencode(name) + b"=" + os.fsencode(value) for name, value in self.environment.items())
        self.c_pid = _i32()

    def _death_slot(self):
        """Where the program finds the read end: the highest number that its limit allows."""
        limit = min(n for n in (resource.getrlimit(resource.RLIMIT_NOFILE)[0],
                                self.policy.max_open_files, self.DEATH_PIPE_AT + 1)
                    if n is not None and n > 0)
        slot = limit - 1 if limit - 1 != self.death_read else limit - 2
        if slot < 3:
            raise LaunchError("limits", errno.EMFILE, detail="at least 5 open files are needed: "
                              "max_open_files, or ulimit -n, is %d" % limit)
        return slot

    def _enter_cwd(self, actions):
        """The directory is opened now, so that its errors are told apart from the command's."""
        if self.policy.cwd is None:
            return
        try:
            fd = _high_fd(os.open(self.policy.cwd, O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as e:
            raise LaunchError("cwd", e.errno, self.policy.cwd) from e
        self.fds.append(fd)
        if hasattr(_libc, "posix_spawn_file_actions_addfchdir_np"):  # glibc 2.29, musl 1.1.24
            _check(_libc.posix_spawn_file_actions_addfchdir_np(actions, fd))
        else:  # before the filter, which refuses unshare(2)
            self.steps_program += [("cwd", "unshare", (CLONE_FS,)), ("cwd", "fchdir", (fd,))]

    def prepare_process(self, pid, prlimit):
        """By the supervisor, while the first exec is held: limits, death pipe, terminal."""
        for resource, value in self.limits:
            current, new = rlimit64(), rlimit64()
            prlimit(pid, resource, 0, _address(current))
            new.rlim_cur = new.rlim_max = min(value, current.rlim_max)
            prlimit(pid, resource, _address(new), 0)
        try:
            fcntl.fcntl(self.death_read, fcntl.F_SETSIG, signal.SIGKILL)
        except PermissionError:
            if self.supervised:
                raise  # else another sandlock refuses it, and SIGIO, which kills too, comes instead
        fcntl.fcntl(self.death_read, fcntl.F_SETOWN, -pid)
        fcntl.fcntl(self.death_read, fcntl.F_SETFL, os.O_ASYNC)
        if self.terminal is not None:
            _set_foreground(self.terminal, pid)


@functools.lru_cache(maxsize=None)
def _load_libgcc():
    """glibc opens it for pthread_exit(3), by which threads of Python 3.8 end, and aborts the process
    if it cannot: which a pad whose launch is given up could not."""
    try:
        return ctypes.CDLL("libgcc_s.so.1")
    except OSError:
        return None  # not there (musl): nobody will look for it


def _check(error):
    """posix_spawn's family returns an errno."""
    if error:
        raise LaunchError("spawn", error)


def _signal_set(bits):
    return ctypes.create_string_buffer(bits.to_bytes(8, sys.byteorder), 128)  # sigset_t


def _string_array(strings):
    strings = list(strings)
    return (ctypes.c_char_p * (len(strings) + 1))(*strings, None)


def _child_environment(policy):
    kept = ("PATH", "HOME", "USER", "TERM", "LANG")
    inherited = {name: value for name, value in os.environ.items()
                 if not policy.clean_env or name in kept}
    return {**inherited, **policy.env}


def _executables(command, environment, cwd):
    """Where execvp(3) would look for a command, those that exist; LaunchError if none does. One with a slash as it
    is."""
    command = os.fsdecode(command)
    if "/" in command:
        return [command]
    found = []
    for directory in environment.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(directory or ".", command)
        if os.path.isfile(os.path.join(cwd or "", path)):
            found.append(path)
    if not command or not found:
        raise LaunchError("exec", errno.ENOENT, command, "command not found")
    return found


def _pad(launch, supervisor):
    """The launch pad: a thread that gives up what the program must not have, and starts it.

    From the filter on it makes raw calls only, with the GIL released: a trapped call made while
    holding it could be answered by nobody.
    """
    supervisor.pad_tid = threading.get_native_id()
    tell = supervisor.from_pad.put
    try:
        _begin_thread()
        _run_steps(launch.steps_broker)
        supervisor.broker.start()
        _run_steps(launch.steps_program)
        flags = SECCOMP_FILTER_FLAG_NEW_LISTENER
        if launch.waits_killably:
            flags |= SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
        fprog = _sock_fprog(launch.filter)
        with _fork_lock:
            listener = _raw(_NR["seccomp"], SECCOMP_SET_MODE_FILTER, flags, _address(fprog))
            if listener < 0:
                raise LaunchError("seccomp", -listener)
            listener = _high_fd(listener)
            _host_only.add((listener, None))
        supervisor.listener = _Listener(listener)
        tell(("listening", None))
        failed = _spawn(launch, listener, tell)
        if failed:
            tell(("failed", failed))
    except LaunchError as e:
        tell(("failed", e))
    except BaseException as e:
        tell(("failed", LaunchError("launch pad", detail=repr(e))))
    finally:
        supervisor.pad_running.release()


def _run_steps(steps):
    for stage, name, args in steps:
        result = _slow(_NR[name], *args)
        if result < 0:
            raise LaunchError(stage, -result)


def _spawn(launch, listener, tell):
    """Tries the candidates as execvp(3) does; the LaunchError if none could be executed.

    The thread gets a descriptor table of its own, without the listener: so that when the
    supervisor closes the only one left, whatever is held here fails and ends.
    """
    failed = _own_descriptors(launch) or _raw(_NR["close"], listener)
    if failed:
        return LaunchError("close_range", -failed)
    worst = None
    for path in launch.candidates:
        error = _posix_spawn(launch, os.fsencode(path))
        tell(("spawned", error))
        if not error:
            return None
        if worst is None or error not in (errno.ENOENT, errno.ENOTDIR):
            worst = LaunchError("spawn" if error in _USED_UP else "exec", error, path)
        if error not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            break
    return worst


def _own_descriptors(launch):
    """A table of this thread alone, from which no exec inherits; 0 or -errno."""
    if not launch.descriptors:
        return _raw(_NR["close_range"], 3, 0xffffffff, CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC)
    failed = _raw(_NR["close_range"], 0x7fffffff, 0xffffffff, CLOSE_RANGE_UNSHARE)  # closes none
    for fd in launch.descriptors:
        _raw(_NR["fcntl"], fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)  # EBADF, mostly
    return failed


def _posix_spawn(launch, path):
    arguments = (ctypes.byref(launch.c_pid), path, launch.actions, launch.attributes,
                 launch.c_argv, launch.c_environment)
    if not _IS_MUSL:
        return _libc.posix_spawn(*arguments)
    with _spawn_lock:
        return _libc.posix_spawn(*arguments)


# ------------------------------------------------------------------------------------------------
# 15  Sandbox, Process, confine
# ------------------------------------------------------------------------------------------------

def _deadline(timeout):
    if timeout is None:
        return None
    return time.monotonic() + (0.0 if timeout == 0 else _seconds("timeout", timeout))


def _remaining_ms(deadline):
    return None if deadline is None else max(0, int(1000 * (deadline - time.monotonic()) + 1))


class Sandbox:
    """A recipe for runs: `Sandbox(Policy(...))` or `Sandbox(fs_readable=[...], ...)`.

    Any number of threads may run it at once; each run is a sandbox of its own. Raises TypeError
    and PolicyError as Policy does.
    """

    def __init__(self, policy=None, *, policy_fn=None, **policy_fields):
        if policy is not None and not isinstance(policy, Policy):
            raise TypeError("policy must be a Policy, not %s" % type(policy).__name__)
        if policy_fn is not None:
            policy_fields["policy_fn"] = policy_fn
        self.policy = (policy or Policy()).replace(**policy_fields)

    def __repr__(self):
        return "Sandbox(%r)" % (self.policy,)

    def run(self, args, *, input=None, timeout=None, stdin=None,
            stdout=StdioMode.PIPE, stderr=StdioMode.PIPE):
        """Runs a command to its end and captures what it writes.

        args: a list of words, the first one looked up in PATH. input: bytes for its stdin.
        timeout: seconds, after which the sandbox is killed (reason TIMEOUT). stdin: inherited by
        default. Returns a Result whatever the command does, also if it could not be found (127)
        or executed (126). Raises LaunchError, UnsupportedError if the sandbox could not be built; ValueError for no
        command, a NUL in it, or stdin together with input; PolicyError for a bad timeout.
        """
        if input is not None:
            if stdin is not None:
                raise ValueError("stdin and input may not both be used")
            stdin = StdioMode.PIPE
        return self._run(args, (stdin, stdout, stderr), timeout, input)

    def popen(self, args, stdin=StdioMode.INHERIT, stdout=StdioMode.INHERIT,
              stderr=StdioMode.INHERIT):
        """Starts a command and returns its Process. Raises LaunchError if it never started."""
        return self._start(args, (stdin, stdout, stderr), threaded=True)

    def run_interactive(self, args, timeout=None):
        """Runs a command on the caller's own stdio. On a terminal it gets the foreground, and
        Ctrl-C and Ctrl-Z work as in a shell. Returns a Result without output."""
        terminal = 0 if _foreground_group(0) == os.getpgrp() else None
        return self._run(args, (None,) * 3, timeout, new_session=False, terminal=terminal)

    def _run(self, args, modes, timeout, data=None, **options):
        deadline = _deadline(timeout)
        try:
            process = self._start(args, modes, deadline=deadline, **options)
        except (LaunchError, TimeoutError) as e:
            return _not_executed(e, timeout, self.policy)
        with process:
            return process._finish(data, deadline)

    def _start(self, args, modes, threaded=False, deadline=None, **options):
        if isinstance(args, (str, bytes, os.PathLike)):
            args = [args]
        argv = [os.fspath(word) for word in args]
        if not argv or any("\0" in os.fsdecode(word) for word in argv):
            raise ValueError("args needs a command, and no word may contain a NUL: %r" % (args,))
        try:
            return self._launch(argv, modes, threaded, deadline, options)
        except OSError as e:
            if e.errno not in _USED_UP:
                raise
            raise LaunchError("launch", e.errno, e.filename) from e

    def _launch(self, argv, modes, threaded, deadline, options):
        network = _resolve_network(self.policy)
        with _SignalsBlocked() as signals:
            stdio = _Stdio(modes)
            try:
                launch = _Launch(self.policy, argv, network, stdio.child, signals, **options)
                launch.fds += stdio.hand_over()
                try:
                    supervisor = (_Supervisor if launch.supervised else _Unsupervised)(launch)
                except BaseException:
                    launch.close()
                    launch.finish()
                    raise
                supervisor.launch(deadline)
                return Process(supervisor, stdio.parent, threaded)
            except BaseException:
                stdio.close()
                raise


def _not_executed(error, timeout, policy):
    if isinstance(error, TimeoutError):
        return Result(exit_code=-signal.SIGKILL, signal=signal.SIGKILL, reason=ExitReason.TIMEOUT,
                      error=error.strerror, duration=timeout)
    if error.stage != "exec":
        raise error
    command, denials = os.path.join(policy.cwd or "", error.path or ""), ()
    if error.errno == errno.EACCES and os.access(command, os.X_OK):
        granted, denied = ([os.path.realpath(top) for top in paths]
                           for paths in (policy.fs_readable + policy.fs_writable, policy.fs_denied))
        loaded = _loaded_with(command)
        rows = [("fs_denied", path, None) for path in loaded if any(_is_beneath(path, top) for top in denied)] or [
            ("fs_readable", path, path) for path in loaded if not any(_is_beneath(path, top) for top in granted)]
        denials = tuple(
            Denial(event=SyscallEvent(syscall="execve", category=SyscallCategory.PROCESS, path=path, denied=True),
                   reason="not granted" if value else field, field=field, value=value) for field, path, value in rows)
    return Result(exit_code=error.exit_code, error=str(error), denials=denials)


class _Stdio:
    """The three standard streams: `child` holds what the program gets (None: inherited as it is),
    `parent` our ends of the pipes as files (or None). All are above 2, whatever the host has closed."""
    _ALIASES = {None: StdioMode.INHERIT, -1: StdioMode.PIPE, -3: StdioMode.NULL}  # subprocess's

    def __init__(self, modes):
        self.child, self.parent, self._owned = [None] * 3, [None] * 3, []
        try:
            for target, mode in enumerate(modes):
                self._connect(target, mode)
        except BaseException:
            self.close()
            raise

    def _own(self, fd):
        fd = _high_fd(fd)
        self._owned.append(fd)
        return fd

    def _connect(self, target, stream):
        is_number = stream is None or isinstance(stream, int)
        mode, fd = (self._ALIASES.get(stream, stream), stream) if is_number else ("a file", stream.fileno())
        if mode == StdioMode.INHERIT:
            return
        if mode == StdioMode.NULL:
            self.child[target] = self._own(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        elif mode == StdioMode.PIPE:
            ends = list(_pipe())
            ours = ends.pop(1 if target == 0 else 0)
            self.child[target] = self._own(ends[0])
            self.parent[target] = _PipeEnd(ours, "rb" if target else "wb")
        elif mode == -2 and target == 2:  # subprocess.STDOUT
            source = self.child[1]
            self.child[2] = self._copy(1) if source is None else source
        elif fd < 0:
            raise ValueError("not a stream: %r" % (stream,))
        else:
            self.child[target] = self._copy(fd) if fd <= 2 else fd

    def _copy(self, fd):
        return self._own(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))

    def hand_over(self):
        """The descriptors that have to be closed once the program has them."""
        owned, self._owned = self._owned, []
        return owned

    def close(self):
        while self._owned:
            os.close(self._owned.pop())
        _close_streams(self.parent)


class _PipeEnd(io.FileIO):
    """Our end of a pipe. Who closes a pipe last waits for whoever holds its lock, which the program can, and
    finalizers run on any thread: this one has it done by another."""
    supervisor = None

    def __del__(self):
        if self.supervisor is None or self.closed:
            return
        if os.getpid() != self.supervisor.host:
            return self.close()  # not the last one
        try:
            _thread.start_new_thread(lambda: (_begin_thread(), self.close()), ())
        except RuntimeError:
            self.supervisor.leave(self)


def _close_streams(streams):
    for stream in streams:
        if stream is not None:
            stream.close()


class _Pump:
    """Writes and reads the pipes of a Process, on a thread of its own from when there is something to write or
    read: the program can hold a pipe's lock for as long as it likes (splice(2)), and who sees to its end must
    not wait for that."""
    CHUNK = 1 << 16
    PATIENCE_S = 10.0

    def __init__(self, supervisor, streams, data):
        self._supervisor, self._streams, self._pending = supervisor, streams, memoryview(data or b"")
        self.captured = {1: bytearray(), 2: bytearray()}  # by the number of the stream
        self._open = {stream.fileno(): number for number, stream in enumerate(streams)
                      if stream is not None and not stream.closed}
        self._mailbox, self._running, self._abandoned = None, _thread.allocate_lock(), False
        self.tid = None

    def watched(self):
        """Descriptors of which an event that is no mere hanging up calls for start(): it needs a thread to read."""
        if self._mailbox is None and 0 in self._open.values():
            self.start()
        return () if self._mailbox else tuple(self._open)

    def start(self):
        """Where there is no thread for it the run ends, with that as its error."""
        with _SignalsBlocked():
            try:
                self._mailbox = _Mailbox()
                _start_thread(self._serve, held=self._running)
            except BaseException as e:
                self._fail(e)

    def _fail(self, error):
        self._supervisor.fail("its pipes: %s" % error)
        self._supervisor.kill(ExitReason.KILLED)

    def _serve(self):
        self.tid = _begin_thread()
        poller = _poller(self._mailbox.fd)
        try:
            for fd, number in list(self._open.items()):
                os.set_blocking(fd, False)  # ours alone: the program has the other end
                poller.register(fd, select.POLLIN if number else select.POLLOUT)
                if number == 0 and not self._pending:
                    self._shut(poller, fd)
            while self._open:
                for fd, _ in poller.poll():
                    if fd == self._mailbox.fd:
                        self._mailbox.run()
                    elif fd in self._open and not (self.read if self._open[fd] else self._write)(fd, self._open[fd]):
                        self._shut(poller, fd)
        except BaseException as e:  # out of memory
            self._fail(e)
        finally:
            self._running.release()
            if self._abandoned:
                self._mailbox.close()

    def _shut(self, poller, fd):
        poller.unregister(fd)
        if self._open.pop(fd) == 0:
            self._streams[0].close()

    def _write(self, fd, _):
        try:
            self._pending = self._pending[os.write(fd, self._pending[:self.CHUNK]):]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False  # it does not want more, which is its own affair
        return bool(self._pending)

    def read(self, fd, number):
        try:
            block = os.read(fd, self.CHUNK)
        except BlockingIOError:
            return True
        self.captured[number] += block
        return bool(block)

    def end(self):
        """When nobody of the sandbox is left: reads what is in the pipes still. False if somebody outside it
        keeps the thread."""
        if self._mailbox is not None:
            self._mailbox.post(self._open.clear)
            if not _is_free(self._running, self.PATIENCE_S):
                return False
            _await_threads(self.tid)
            self._mailbox.close()
            self._mailbox, self.tid = None, None
        return True

    def abandon(self):
        """Waits for nobody."""
        self._abandoned = True
        if self._mailbox:
            self._mailbox.post(self._open.clear)
            if self._running.acquire(False):
                self._mailbox.close()


class Process:
    """A running sandbox. `stdin`, `stdout`, `stderr` are unbuffered binary files where they are
    pipes, else None. Leaving a `with` block, or dropping the object, kills and reaps it."""

    def __init__(self, supervisor, streams, threaded):
        self._supervisor = supervisor
        self._threaded = threaded       # popen: else _exchange() is the supervisor's loop too
        self._lock = threading.RLock()  # guards _result and the reading of the pipes
        self._pump = self._result = None
        self.stdin, self.stdout, self.stderr = streams
        for stream in streams:
            if stream is not None:
                stream.supervisor = supervisor
        if threaded:
            try:
                _start_thread(supervisor.serve)
            except LaunchError:
                supervisor.abandon()
                raise

    @property
    def pid(self):
        """Process id of the program."""
        return self._supervisor.pid

    @property
    def policy(self):
        """PolicyContext of this run, for any thread, at any time while it runs."""
        return self._supervisor.context

    @property
    def returncode(self):
        """As `subprocess.Popen.returncode`: None while it runs."""
        return self.poll()

    def __repr__(self):
        return "<Process %d: %s>" % (self.pid, "running" if self.poll() is None else "ended")

    def poll(self):
        """The exit code if the run has ended (-N: signal N; 125 where the host lost it, see Result.error), else None."""
        if self._supervisor.finished.locked():
            return None
        code = self._exit()[0]
        return 125 if code is None else code

    def wait(self, timeout=None):
        """Closes stdin where that is a pipe, waits for the end and returns the Result, with what is left in the
        other pipes.

        Past the timeout (seconds) the sandbox is killed; the Result says TIMEOUT and keeps what
        was written until then.
        """
        return self._finish(None, _deadline(timeout))

    def communicate(self, input=None):
        """Writes `input` (bytes) to stdin, waits, and returns (stdout, stderr), None if not piped."""
        result = self._finish(input, None)
        return (result.stdout if self.stdout else None, result.stderr if self.stderr else None)

    def kill(self):
        """SIGKILL for every process of the sandbox."""
        self._supervisor.kill(ExitReason.KILLED)

    def terminate(self):
        """SIGTERM for the program."""
        self.send_signal(signal.SIGTERM)

    def send_signal(self, signum):
        """A signal for the program; nothing happens once it has ended."""
        self._supervisor.signal(signum)

    def pause(self):
        """Stops every process of the sandbox (SIGSTOP), also those that are just being forked."""
        before = None
        while before != (before := self._signal_all(signal.SIGSTOP)):
            continue

    def resume(self):
        """Continues every process of the sandbox (SIGCONT)."""
        self._signal_all(signal.SIGCONT)

    def processes(self):
        """Process ids that live inside the sandbox now."""
        return sorted(pid for pid in self._signal_all(0) if _is_alive(pid))

    def _signal_all(self, signum):
        try:
            return self._supervisor.members(signum)
        except ProcessLookupError:
            return []

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._close()

    def __del__(self):
        if getattr(self, "_supervisor", None) is not None:
            self._abandon()

    def _abandon(self):
        """For a finalizer, which runs on any thread, our own ones too: waits for nobody."""
        supervisor = self._supervisor
        if os.getpid() != supervisor.host:
            return
        supervisor.orphaned = True
        supervisor.kill(ExitReason.KILLED)
        if not supervisor.finished.locked():
            supervisor.release()
        elif not self._threaded and not sys.is_finalizing():
            try:
                with _SignalsBlocked():  # for the new thread
                    _thread.start_new_thread(supervisor.abandon, ())
            except RuntimeError:
                pass  # killed all the same; the rest is done at the host's exit: _end_all
        if self._pump:
            self._pump.abandon()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                supervisor.leave(stream)

    def _close(self):
        supervisor = self._supervisor
        if os.getpid() == supervisor.host:  # else a forked child of the host: not its own
            with _SignalsBlocked():
                if self._threaded or not supervisor.finished.locked():
                    self.kill()
                    supervisor.join()
                    with self._lock:  # whoever waits has seen the end
                        supervisor.release()
                else:
                    supervisor.abandon()
                if self._pump:
                    self._pump.end()
        _close_streams((self.stdin, self.stdout, self.stderr))

    def _finish(self, data, deadline):
        """communicate(), with a deadline."""
        if os.getpid() != self._supervisor.host:
            raise ChildProcessError(errno.ECHILD, "not a sandbox of this process, but of the one that forked it")
        remaining = -1 if deadline is None else max(0, deadline - time.monotonic())
        if not self._lock.acquire(timeout=remaining):
            self._supervisor.kill(ExitReason.TIMEOUT)
            self._lock.acquire()
        try:
            if self._result is None:
                self._exchange(data, deadline)
                with _SignalsBlocked():
                    if not self._threaded:
                        self._supervisor.finish()
                    self._supervisor.join()
                    self._drain()
                    self._result = self._make_result()
            return self._result
        finally:
            self._lock.release()

    def _exchange(self, data, deadline):
        """Writes, reads and waits until the program has ended, whatever the amounts."""
        supervisor = self._supervisor
        if self._pump is None:
            self._pump = _Pump(supervisor, (self.stdin, self.stdout, self.stderr), data)
        if supervisor.pidfd < 0:
            return  # closed: it has ended
        watched = set(self._pump.watched())
        poller = _poller(supervisor.pidfd, *() if self._threaded else (supervisor.mailbox.fd,), *watched)
        while True:
            if _remaining_ms(deadline) == 0:
                supervisor.kill(ExitReason.TIMEOUT)
                deadline = None
            events = dict(poller.poll(self._due_ms(deadline)))
            if supervisor.pidfd in events:
                return
            begins = any(events.get(fd, 0) & select.POLLIN for fd in watched)
            if begins:
                self._pump.start()
            for fd in set(watched) if begins else watched & set(events):  # else: its end, with nothing in it
                poller.unregister(fd)
                watched.discard(fd)

    def _due_ms(self, deadline):
        """Does what is due on this thread; -> milliseconds until it has to be asked again, or None."""
        pauses = []
        if not self._threaded:
            try:
                pauses.append(self._supervisor.attend())
            except Exception as e:  # fails closed: the run ends
                self._supervisor.fail("the supervisor failed: %r" % e)
                self._supervisor.kill(ExitReason.KILLED)
        if self._supervisor.launching.terminal is not None:
            self._follow_job_control()
            pauses.append(50)
        pauses.append(_remaining_ms(deadline))  # now: the others may have taken long
        return min((pause for pause in pauses if pause is not None), default=None)

    def _drain(self):
        """What is in the pipes when everything in the sandbox is dead: never waits."""
        if not self._pump.end():
            self._supervisor.fail("somebody outside the sandbox holds its pipes")
            return
        for number, stream in ((1, self.stdout), (2, self.stderr)):
            if stream is None or stream.closed:
                continue
            os.set_blocking(stream.fileno(), False)
            left = fcntl.ioctl(stream.fileno(), FIONREAD, b"\0" * 4)  # not what others add meanwhile
            captured = self._pump.captured[number]
            wanted = len(captured) + int.from_bytes(left, sys.byteorder)
            while len(captured) < wanted and self._pump.read(stream.fileno(), number):
                continue

    def _exit(self):
        supervisor = self._supervisor
        code, signum = supervisor.status or (None, -1)
        if supervisor.reason is not None and (signum == signal.SIGKILL or code is None):
            return code, signum, supervisor.reason
        return code, signum, ExitReason.EXITED if signum < 0 else ExitReason.SIGNALED

    def _make_result(self):
        supervisor = self._supervisor
        code, signum, reason = self._exit()
        error = supervisor.error
        if error is None and code is None:
            error = "the exit status was taken by another waiter of the host, or SIGCHLD is ignored"
        return Result(
            exit_code=code, signal=signum, reason=reason, error=error,
            stdout=bytes(self._pump.captured[1]), stderr=bytes(self._pump.captured[2]),
            duration=supervisor.ended - supervisor.begun, denials=tuple(supervisor.denials),
            audits=tuple(supervisor.audits), policy_errors=tuple(supervisor.faults),
            missing_paths=supervisor.launching.missing_paths, unenforced=supervisor.launching.unenforced,
            used=tuple(supervisor.used))

    def _follow_job_control(self):
        """On a terminal: when the program stops (Ctrl-Z), the host stops too, as one job."""
        try:
            stopped = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG)
        except ChildProcessError:
            return
        if stopped is None or stopped.si_code == os.CLD_TRAPPED or stopped.si_status == signal.SIGSTOP:
            return  # by its own hand: the host goes on, and its timeout
        self._signal_all(signal.SIGSTOP)
        terminal = self._supervisor.launching.terminal
        _set_foreground(terminal, os.getpgrp())
        os.kill(os.getpid(), signal.SIGTSTP)  # discarded where no shell could continue the host
        if os.tcgetpgrp(terminal) == os.getpgrp():
            _set_foreground(terminal, self.pid)
        self.resume()


_CONFINE_FIELDS = ("fs_readable", "fs_writable", "net_allow_bind", "extra_deny_syscalls",
                   "extra_allow_syscalls", "best_effort")


def confine(policy):
    """Puts Landlock and the block-list on the calling process, for good.

    There is no supervisor then: connect(2) is refused altogether (nothing could be allowed), listen(2) too unless
    net_allow_bind is "*", there are no datagram sockets, and forks are not counted. Besides that, fs_readable,
    fs_writable, extra_deny_syscalls, extra_allow_syscalls and best_effort are taken; every other field must have its
    default. What best_effort leaves out is a RuntimeWarning. The process must have a single thread, since both
    belong to threads.

    Returns the paths that do not exist. Raises PolicyError for a policy that needs a supervisor,
    UnsupportedError, and LaunchError with the stage that failed.
    """
    for name, default in Policy._fields.items():
        if name not in _CONFINE_FIELDS and getattr(policy, name) != default:
            raise PolicyError(name, getattr(policy, name), "needs a supervisor; use Sandbox")
    if policy.net_allow_bind not in ((), ("*",)):
        raise PolicyError("net_allow_bind", policy.net_allow_bind, "needs a supervisor (listen "
                          'without bind); confine takes none or "*"')
    try:
        _await_threads(*map(int, os.listdir("/proc/self/task")))  # the kernel lists one a moment longer than join()
        threads = len(os.listdir("/proc/self/task"))
    except OSError as e:
        raise UnsupportedError("confine", "proc(5) on /proc, to count the threads of this process", str(e)) from e
    if threads != 1:
        raise UnsupportedError("confine", "a process with one thread", "%d threads" % threads)
    abi = landlock_abi_version()
    lost = _require_enforceable(policy, abi, supervised=False)
    if lost:
        import warnings
        warnings.warn("sandlock: not enforced here: " + "; ".join(lost), RuntimeWarning, stacklevel=2)
    program = _static_filter(policy)
    ruleset, missing = _landlock_ruleset(_landlock_rules(policy, abi)) if abi else (None, ())
    try:
        fprog = _sock_fprog(program)
        _run_steps([("no_new_privs", "prctl", (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)),
                    _leave_capabilities(_capabilities()[1][1] & _KEPT_CAPABILITIES)]
                   + [("landlock_restrict_self", "landlock_restrict_self", (ruleset, 0))] * bool(abi)
                   + [("seccomp", "seccomp", (SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(fprog)))])
    finally:
        if ruleset is not None:
            os.close(ruleset)
    return missing


# ------------------------------------------------------------------------------------------------
# 16  Command line
# ------------------------------------------------------------------------------------------------

_RUN_OPTIONS = (  # flags, policy field (or None), what follows them (see _parser), help
    (("-r", "--readable"), "fs_readable", "PATH", "may be read and executed beneath, e.g. -r /opt/tool"),
    (("-w", "--writable"), "fs_writable", "PATH", "may be written beneath too, e.g. -w /tmp/work"),
    (("--deny",), "fs_denied", "PATH", "carved out of both, e.g. --deny ~/.ssh"),
    (("--net-allow",), "net_allow", "ENDPOINT", "may be connected to, e.g. --net-allow api.example.org:443"),
    (("--net-deny",), "net_deny", "ENDPOINT", "all but these may be connected to, e.g. --net-deny 10.0.0.0/8"),
    (("--bind",), "net_allow_bind", "PORT", 'TCP port that may be bound, e.g. --bind 8080, --bind 8000-8999, --bind "*"'),
    (("-m", "--max-memory"), "max_memory", "SIZE", "memory of all processes, e.g. -m 512M"),
    (("-P", "--max-processes"), "max_processes", "N", "processes at once, e.g. -P 20 (default 64)"),
    (("-t", "--timeout"), None, "SECONDS", "kill the sandbox then, exit status 124; e.g. -t 30"),
    (("--cwd",), "cwd", "DIR", "working directory, e.g. --cwd /tmp/work"),
    (("--env",), "env", "K=V", "set a variable, e.g. --env LANG=C"),
    (("--clean-env",), "clean_env", None, "start from PATH HOME USER TERM LANG alone, e.g. --clean-env --env TOKEN=x"),
    (("--user",), "user", "USER", 'name, uid or "uid:gid", e.g. --user nobody; needs root'),
    (("--system",), None, None,
     "make readable what an ordinary program needs, e.g. --system -- ls: " + " ".join(SYSTEM_PATHS)),
    (("--policy-fn",), "policy_fn", "FILE.py:NAME",
     "function (event, ctx) -> verdict that watches the program, e.g. --policy-fn watch.py:judge"),
    (("--events",), "policy_events", "A,B", "events that it and --trace get, e.g. --events network,execve"),
    (("--best-effort",), "best_effort", None,
     "run with the protections that this kernel has, and name the others, e.g. on Linux 5.10"),
    (("--profile",), None, "FILE", "begin with the policy of a JSON file; flags add to it, e.g. --profile build.json -m 1G"),
    (("--learn",), None, "FILE",
     "write the smallest policy that allows what the run used, e.g. --learn build.json -r / -w ."),
    (("--explain",), "explain", None,
     "end with what was refused, by the kernel too, and the flag that allows each, e.g. --explain -- make"),
    (("--trace",), None, None, "print events on standard error as they happen, e.g. --trace --events execve"),
    (("--trace-file",), None, "FILE", "append them to a file, e.g. --trace-file trace.log"),
    (("-v", "--verbose"), None, None,
     "end with what the supervisor denied, and the flag that allows each, e.g. -v -- make"),
)
_FIELD_FLAGS = {field: flags[0] for flags, field, *_ in _RUN_OPTIONS if field}
_REMEDIES = {"fs_denied": "--deny names it", "net_deny": "--net-deny names it", "policy_fn": "the callback says so"}


def _parser():
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            self.exit(125, "sandlock: %s\n" % message)

    parser = Parser(prog="sandlock", description="Run a program that you do not trust.")
    commands = parser.add_subparsers(dest="command", metavar="run|check")
    run = commands.add_parser("run", help="run a command in a sandbox, e.g. run --system -- ls",
                              usage="sandlock run [options] -- COMMAND...")
    kinds = {None: dict(action="store_true", default=None), "N": dict(type=int), "SECONDS": dict(type=float),
             **dict.fromkeys(("PATH", "ENDPOINT", "PORT", "K=V"), dict(action="append"))}
    for flags, field, metavar, text in _RUN_OPTIONS:
        run.add_argument(*flags, help=text, **{"dest": field} if field else {}, **{"metavar": metavar} if metavar else {},
                         **kinds.get(metavar, {}))
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    commands.add_parser("check", help="what this kernel can enforce; exit status 1 if not everything")
    return parser


def _run_policy(options, fail):
    """The Policy of parsed options; `fail` says what is wrong and exits."""
    fields = {field: getattr(options, field) for _, field, *_ in _RUN_OPTIONS if field}
    fields = {name: value for name, value in fields.items() if value is not None}
    if options.system:
        fields["fs_readable"] = list(SYSTEM_PATHS) + fields.get("fs_readable", [])
    for pair in fields.get("env", ()):
        if "=" not in pair:
            fail("--env: %r: expected NAME=VALUE" % pair)
    if "env" in fields:
        fields["env"] = dict(pair.split("=", 1) for pair in fields["env"])
    if "policy_events" in fields:
        fields["policy_events"] = fields["policy_events"].split(",")
    if "policy_fn" in fields:
        fields["policy_fn"] = _load_function(fields["policy_fn"], fail)
    try:
        profile = Policy.from_file(options.profile) if options.profile else Policy()
    except PolicyError as e:
        fail("--profile: %s" % e)
    for name, value in fields.items():
        if isinstance(value, list) and name != "policy_events":
            fields[name] = list(getattr(profile, name)) + value
        elif name == "env":
            fields[name] = {**profile.env, **value}
    try:
        return profile.replace(**fields)
    except PolicyError as e:
        fail("%s: %r: %s" % (_FIELD_FLAGS.get(e.field, e.field), e.value, e.reason))


def _load_function(text, fail):
    file, colon, name = text.rpartition(":")
    if not colon:
        fail("--policy-fn: %r: expected FILE.py:NAME" % text)
    import runpy
    try:
        return runpy.run_path(file)[name]
    except Exception as e:
        fail("--policy-fn: %r: %s: %s" % (text, type(e).__name__, e))


def _printable(text):
    """Nothing of a program's own choice moves the cursor or begins a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii")
                   for c in text)


def _as_word(text):
    """A path in a line of words: quoted where it could be taken for more than one."""
    return text if text.isprintable() and not set(text) & set(" '\"") else repr(text)


def _told(text):
    text = "sandlock: %s\n" % _printable(text)
    if sys.stderr is sys.__stderr__ and sys.stderr:
        sys.stderr.flush()
        _write_all(2, text.encode(sys.stderr.encoding, "backslashreplace"))
    elif sys.stderr:  # the host's own
        sys.stderr.write(text)


def _write_all(fd, data):
    """Waits if it has to: O_NONBLOCK is of the open file, which the program may share."""
    writable = select.poll()
    writable.register(fd, select.POLLOUT)
    while data:
        try:
            data = data[os.write(fd, data):]
        except BlockingIOError:
            writable.poll()


def _host_and_port(event):
    return ("[%s]:%d" if ":" in event.host else "%s:%d") % (event.host, event.port)


class _Trace:
    """A policy_fn around another one, or none: a line for each event, with what is decided of it, in one
    write, so that it never mixes with a line of the program."""
    _COLOURS = {"allow": "32", "audit": "33"}  # others are red

    def __init__(self, fd, function):
        self._fd, self._function, self.count = fd, function, 0
        self._colours = os.isatty(fd)

    def __call__(self, event, ctx):
        self.count += 1
        verdict, word = None, "error"
        try:
            verdict = self._function(event, ctx) if self._function else None
            error, audited = _verdict_errno(verdict)
            word = ("refused" if event.denied else errno.errorcode.get(error, str(error)) if error
                    else "audit" if audited else "allow")
            return verdict
        finally:
            self._write(event, word)

    def _write(self, event, word):
        what = _as_word(event.path) if event.path else "" if event.size is None else str(event.size)
        if event.argv is not None:
            what += " %s" % list(event.argv)
        elif event.host is not None:
            what = _host_and_port(event)
        now = time.time()
        stamp = "%s.%03d" % (time.strftime("%H:%M:%S", time.localtime(now)), now * 1000 % 1000)
        line = "%s %d %s %s" % (stamp, event.pid, event.syscall, _printable(what))
        end = " \33[%sm%s\33[0m\n" % (self._COLOURS.get(word, "31"), word) if self._colours else " %s\n" % word
        _write_all(self._fd, (line + end).encode())


class _LiveCount:
    """While a run takes long, how far it is in the title of the terminal: it cannot mix with output."""
    PATIENCE_S = 1.0

    def __init__(self, shown, what, count):
        self._shown, self._what, self._count = shown and os.isatty(2), what, count
        self._over, self._thread = _thread.allocate_lock(), None

    def __enter__(self):
        self._over.acquire()
        if self._shown:
            self._thread = threading.Thread(target=self._show, daemon=True)
            self._thread.start()

    def _show(self):
        begun, shown = time.monotonic(), False
        while not self._over.acquire(timeout=self.PATIENCE_S):
            shown = True
            text = "sandlock: %d %s, %d s" % (self._count(), self._what, time.monotonic() - begun)
            os.write(2, b"\33]0;%s\7" % text.encode())
        if shown:
            os.write(2, b"\33]0;\7")

    def __exit__(self, *exc):
        self._over.release()
        if self._thread:
            self._thread.join()


def _opened(flag, path, flags, fail):
    """What a flag names, now: later, a symbolic link of the program's could lead there."""
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o666)
    except OSError as e:
        fail("%s: %r: %s" % (flag, path, e.strerror))


def _command_run(options, fail):
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if not words:
        fail("run: no command given; write it behind --, e.g. run --system -- ls")
    given, trace = _run_policy(options, fail), None
    if options.learn:
        given = given.replace(explain=True)
        folder = os.path.dirname(os.path.abspath(options.learn))
        learn_fd = _opened("--learn", folder, O_PATH | os.O_DIRECTORY, fail)
        for number in (signal.SIGTERM, signal.SIGINT):  # the program's to obey: what it used is still written
            signal.signal(number, lambda signum, frame: [run.signal(signum) for run in list(_live)])
    if options.trace_file or options.trace:
        trace = _Trace(2 if not options.trace_file else _opened(
            "--trace-file", options.trace_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, fail), given.policy_fn)
    policy = given.replace(policy_fn=trace) if trace else given
    count = ("events", lambda: trace.count) if trace else (
        "grants used", lambda: max([0, *(len(supervisor.used) for supervisor in list(_live))]))
    try:
        with _LiveCount(options.learn or trace, *count):
            result = Sandbox(policy).run_interactive(words, timeout=options.timeout)
    except (SandlockError, ValueError) as e:
        fail(str(e))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    _tell(result, options)
    if options.learn:
        _learn(given, result, options.learn, learn_fd, fail)
    if result.reason == ExitReason.TIMEOUT:
        return 124
    if result.exit_code is None:
        return 125
    return 128 + result.signal if result.signal > 0 else result.exit_code


def _tell(result, options):
    for path in result.missing_paths:
        _told("%s does not exist and grants nothing" % path)
    for name in result.unenforced:
        _told("not enforced here: %s" % name)
    if result.error:
        _told(result.error)
    for line in result.policy_errors[:None if options.verbose else 3]:
        _told(line)
    if options.verbose or options.explain:
        _tell_denials(result.denials)
        if result.reason == ExitReason.TIMEOUT:
            _told("the time was up; allow more with -t")


def _tell_denials(denials):
    """Most frequent first; with the flag that would allow exactly that."""
    import shlex
    counts = {}
    for denial in denials:
        event = denial.event
        what = repr(event.path) if event.path else _host_and_port(event) if event.host else ""
        if denial.value is not None and denial.field in _FIELD_FLAGS:
            remedy = "; allow with %s %s" % (_FIELD_FLAGS[denial.field], shlex.quote(str(denial.value)))
        else:
            remedy = "; " + _REMEDIES.get(denial.field, "no flag allows it")
        key = (event.syscall or event.category.value, what, denial.reason, remedy)
        counts[key] = counts.get(key, 0) + 1
    for (call, what, reason, remedy), count in sorted(counts.items(), key=lambda row: -row[1]):
        _told("denied %s%s (%s)%s%s" % (call, what and " " + what, reason, " %d times" % count
                                        if count > 1 else "", remedy))


def _learn(policy, result, file, folder_fd, fail):
    if any(line.startswith("explain: more was used") for line in result.policy_errors):
        fail("--learn: the run used more than is kept of it; nothing is written")
    learned = policy.narrow(result.used)
    for path in Policy.left_out(result.used):
        _told("%s was listed or written to, and is left out: it would open too much; add it by hand" % path)
    try:
        learned.to_file("/proc/self/fd/%d/%s" % (folder_fd, os.path.basename(file)))
    except OSError as e:
        fail("--learn: %r: %s" % (file, e.strerror))
    _told("%s: %d readable and %d writable paths, %d endpoints, %d ports; run with --profile %s" % (
        file, len(learned.fs_readable), len(learned.fs_writable), len(learned.net_allow),
        len(learned.net_allow_bind), file))


def _command_check(options, fail):
    abi, rows, lacking = landlock_abi_version(), kernel_support(), []
    print("Linux %s on %s, Landlock ABI %s, Python %s" % (
        os.uname().release, os.uname().machine, abi or "none", sys.version.split()[0]))
    for name, (needed, found) in rows.items():
        print("%-60s %-4s %s" % (name, "yes" if found else "NO", "" if found else "needs " + needed))
        if not found and name in ("/proc", *(probe[0] for probe in _PROBES)):
            lacking.append(name)
    try:
        _require_enforceable(Policy(), abi)
    except UnsupportedError as e:
        lacking.append(str(e))
    print("a full policy can be enforced here" if not lacking else
          "a full policy can NOT be enforced here: " + "; ".join(lacking))
    return 1 if lacking else 0


def main(argv=None):
    """The command line; returns the exit status. 125: sandlock itself failed."""
    parser = _parser()
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    command = {"run": _command_run, "check": _command_check}.get(options.command)
    if command is None:
        parser.error("expected a command: run or check; see --help")
    return command(options, parser.error)


if __name__ == "__main__":
    sys.exit(main())
