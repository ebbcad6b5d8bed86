import copy
import os
import pickle

import pytest

import sandlock
from sandlock import LaunchError, Policy, PolicyError, Sandbox, UnsupportedError


def test_policy_is_a_frozen_hashable_value():
    one, two = Policy(fs_readable=["/usr"], env={"A": "b"}), Policy(fs_readable=["/usr"], env={"A": "b"})
    assert one == two and hash(one) == hash(two) and one != Policy()
    with pytest.raises(AttributeError):
        one.cwd = "/"
    with pytest.raises(TypeError):
        one.env["A"] = "c"
    changed = one.replace(max_processes=3, env={"X": "y"})
    assert (changed.max_processes, dict(changed.env), one.max_processes) == (3, {"X": "y"}, 64)
    assert pickle.loads(pickle.dumps(one)) == one and copy.deepcopy(changed) == changed


def test_unknown_fields_are_type_errors():
    with pytest.raises(TypeError, match="fs_readible"):
        Policy(fs_readible=["/usr"])
    with pytest.raises(TypeError):
        Sandbox(nonsense=1)
    assert Sandbox(Policy(cwd="/")).policy == Sandbox(cwd="/").policy


BAD = [
    ("fs_readable", "/usr"), ("fs_readable", [""]), ("fs_readable", ["a\0b"]), ("fs_readable", [3]),
    ("fs_writable", b"/usr"), ("net_allow_bind", [70000]), ("net_allow_bind", ["9-3"]),
    ("net_allow_bind", ["x"]), ("net_allow_bind", [True]), ("net_allow_bind", [-1]),
    ("net_allow_bind", 80), ("max_memory", "512X"), ("max_memory", 0), ("max_memory", "M"),
    ("max_memory", "-1M"), ("max_memory", True), ("max_memory", 1.5), ("max_processes", 0),
    ("max_processes", None), ("max_processes", True), ("max_open_files", 0), ("max_cpu_seconds", "1"),
    ("max_file_size", "1Q"), ("cpu_cores", []), ("cpu_cores", [-1]), ("cpu_cores", 1),
    ("user", "no-such-user-here"), ("user", -1), ("user", "1:x"), ("cwd", ""), ("cwd", 3),
    ("env", {"": "x"}), ("env", {"A=B": "x"}), ("env", {"A": 1}), ("env", {"A": "\0"}), ("env", 3),
    ("clean_env", 1), ("policy_fn", 3), ("policy_events", ["opennat"]), ("policy_events", "file"),
    ("policy_timeout", 0), ("policy_timeout", float("nan")), ("best_effort", "yes"),
    ("extra_deny_syscalls", ["frobnicate"]), ("extra_deny_syscalls", "mkdir"),
    ("extra_allow_syscalls", ["frobnicate"]), ("extra_allow_syscalls", ["ptrace"]),
    ("extra_allow_syscalls", ["clone3"]), ("extra_allow_syscalls", ["mount"]),
]


@pytest.mark.parametrize("field,value", BAD, ids=repr)
def test_bad_values_name_field_and_value(field, value):
    with pytest.raises(PolicyError) as e:
        Policy(**{field: value})
    assert isinstance(e.value, ValueError) and e.value.field == field and field in str(e.value)


@pytest.mark.parametrize("text,size", [("512M", 512 << 20), ("1k", 1024), ("2G", 2 << 30),
                                       ("1T", 1 << 40), ("77", 77), (5, 5), (None, None)])
def test_sizes(text, size):
    policy = Policy(max_file_size=text)
    assert policy.max_file_size == size and policy.replace() == policy


def test_relative_paths_are_taken_from_the_callers_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy = Policy(fs_readable=["a", "/b", "a"], cwd="c")
    monkeypatch.chdir("/")
    assert policy.fs_readable == (str(tmp_path / "a"), "/b") and policy.cwd == str(tmp_path / "c")


def endpoint(text, field="net_allow"):
    e = sandlock._endpoint(field, text)
    return e.schemes, None if e.host is None else str(e.host), e.ports


TU = ("tcp", "udp")


@pytest.mark.parametrize("text,expected", [
    ("example.org", (TU, "example.org", None)),
    ("example.org:443", (TU, "example.org", ((443, 443),))),
    ("host:80,443", (TU, "host", ((80, 80), (443, 443)))),
    ("host:8000-8999", (TU, "host", ((8000, 8999),))),
    ("10.0.0.0/8", (TU, "10.0.0.0/8", None)),
    ("10.0.0.0/8:443", (TU, "10.0.0.0/8", ((443, 443),))),
    ("[2001:db8::/32]:443", (TU, "2001:db8::/32", ((443, 443),))),
    ("[::1]", (TU, "::1/128", None)),
    (":443", (TU, None, ((443, 443),))), ("*:443", (TU, None, ((443, 443),))), ("*", (TU, None, None)),
    ("tcp://a.b:1", (("tcp",), "a.b", ((1, 1),))), ("udp://[::1]:53", (("udp",), "::1/128", ((53, 53),))),
    ("unix://", (("unix",), None, None)), ("h:*", (TU, "h", None)),
    ("[::ffff:10.0.0.1]:80", (TU, "10.0.0.1/32", ((80, 80),))),
    ("[::ffff:10.0.0.0/104]", (TU, "10.0.0.0/8", None)),
    ("0.0.0.0:80", (TU, "127.0.0.1/32", ((80, 80),))), ("[::]:80", (TU, "::1/128", ((80, 80),))),
])
def test_endpoints(text, expected):
    assert endpoint(text) == expected
    assert Policy(net_allow=[text]).net_allow == (text,)


@pytest.mark.parametrize("text", [
    "", "host:", "host:0", "host:65536", "host:x", "host:80,", "ftp://x", "://x", "::1", "::1:443",
    "[::1", "[::1]443", "[host]:80", "10.0.0.300", "10.0.0.1/8", "10.0.0.0/33", "a b", "-a.b", "a..b",
    "x" * 64, "unix:///tmp/x", "h:9-3", "tcp://", 443, None, "\u00e4.de"])
def test_bad_endpoints_are_quoted(text):
    with pytest.raises(PolicyError) as e:
        Policy(net_allow=[text])
    assert repr(text) in str(e.value)


def test_net_deny_takes_addresses_only_and_excludes_net_allow():
    Policy(net_deny=["10.0.0.0/8", "[::1]:80", ":25"])
    for bad in ("example.org", "unix://"):
        with pytest.raises(PolicyError):
            Policy(net_deny=[bad])
    with pytest.raises(PolicyError, match="net_deny"):
        Policy(net_deny=["10.0.0.0/8"], net_allow=["*"])


def test_launch_error_says_what_a_shell_would():
    assert LaunchError("exec", 2, "x").exit_code == 127
    assert LaunchError("exec", 13, "x").exit_code == 126
    assert LaunchError("cwd", 2, "x").exit_code == 125
    assert "'x'" in str(LaunchError("cwd", 2, "x")) and os.strerror(2) in str(LaunchError("cwd", 2, "x"))


def test_public_names_exist():
    assert all(hasattr(sandlock, name) for name in sandlock.__all__)
