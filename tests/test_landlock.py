"""Files and ports, as the kernel enforces them; older ABIs by masking."""
import os
import socket

import pytest

import sandlock
from sandlock import Policy, Sandbox, SYSTEM_PATHS, UnsupportedError
from support import box, free_port, python, requires_abi


@requires_abi(1)
def test_reads_and_writes_only_where_granted(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "file").write_text("secret")
    script = ("cat %s/file; echo new > %s/made; mkdir %s/d; mv %s/file %s/moved; rm %s/moved"
              .replace("%s", "{0}"))
    good = box(inside).run(["sh", "-ec", script.format(inside)])
    assert good.success and good.stdout == b"secret" and (inside / "d").is_dir()
    for verb in ("cat {0}/file", "echo x > {0}/made", "mkdir {0}/d", "mv {0}/file {0}/x", "rm {0}/file",
                 "ls {0}", ": > {0}/file", "ln {0}/file {1}/l", "mv {0}/file {1}/l"):
        result = box(inside).run(["sh", "-c", verb.format(outside, inside)])
        assert result.exit_code != 0 and b"secret" not in result.stdout, verb
    assert os.listdir(outside) == ["file"] and (outside / "file").read_text() == "secret"


@requires_abi(1)
def test_readable_is_not_writable_and_not_truncatable(tmp_path):
    (tmp_path / "f").write_text("secret")
    sandbox = Sandbox(fs_readable=SYSTEM_PATHS + (str(tmp_path),))
    code = "import os,sys\nfor f in (lambda: open(sys.argv[1], 'a'), lambda: os.truncate(sys.argv[1], 0)):\n" \
           "    try: f(); print('done')\n    except PermissionError: print('refused')"
    assert sandbox.run(python(code, str(tmp_path / "f"))).stdout == b"refused\nrefused\n"
    assert box(tmp_path).run(python(code, str(tmp_path / "f"))).stdout == b"done\ndone\n"


@requires_abi(1)
def test_a_grant_on_a_regular_file_is_that_file(tmp_path):
    (tmp_path / "a").write_text("A")
    (tmp_path / "b").write_text("B")
    sandbox = Sandbox(fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path / "a"])
    assert sandbox.run(["sh", "-c", "cat %s/a; echo x > %s/a" % (tmp_path, tmp_path)]).stdout == b"A"
    assert (tmp_path / "a").read_text() == "x\n"
    assert sandbox.run(["cat", str(tmp_path / "b")]).exit_code == 1


@requires_abi(1)
def test_a_missing_path_is_reported_and_voids_nothing(tmp_path):
    gone = str(tmp_path / "gone")
    result = Sandbox(fs_readable=(gone,) + SYSTEM_PATHS, fs_writable=[tmp_path]).run(
        ["sh", "-c", "echo x > %s/made" % tmp_path])
    assert result.success and result.missing_paths == (gone,) and (tmp_path / "made").exists()


@requires_abi(1)
def test_devices_that_reach_nothing_are_free():
    script = "echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c"
    result = box().run(["sh", "-c", script])
    assert result.stdout.split() == [b"3", b"3"] and not result.stderr
    assert box().run(["sh", "-c", "echo x > /dev/full"]).exit_code != 0
    assert b"denied" in box().run(["sh", "-c", ": < /dev/ptmx"]).stderr


BIND = """
import socket, sys
s = socket.socket()
try:
    s.bind(("127.0.0.1", int(sys.argv[1]))); s.listen(); print("bound")
except PermissionError: print("refused")
"""


@requires_abi(1)
def test_ports_that_may_be_bound():
    port = free_port()
    for ports, expected in (((), b"refused"), ((port,), b"bound"), (("%d-%d" % (port, port + 1),), b"bound"),
                            (("*",), b"bound"), ((port % 60000 + 1,), b"refused")):
        result = box(net_allow_bind=ports).run(python(BIND, str(port)))
        assert result.stdout.strip() == expected, ports
    assert box(net_allow_bind=["*"]).run(python(BIND, "0")).stdout == b"bound\n"


LISTEN = """
import socket
s = socket.socket()
try: s.listen(); print("listens", s.getsockname()[1] > 0)
except PermissionError: print("refused")
u = socket.socket(socket.AF_UNIX); u.bind("\\0" + "sandlock-test-listen"); u.listen(); print("unix")
"""


@requires_abi(1)
def test_listening_without_bind_is_a_bind():
    assert box().run(python(LISTEN)).stdout == b"refused\nunix\n"
    assert box(net_allow_bind=["*"]).run(python(LISTEN)).stdout == b"listens True\nunix\n"


@requires_abi(1)
def test_connecting_is_refused_and_recorded():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        code = "import socket,sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])))"
        result = box().run(python("import sys; sys.path.append(sys.base_prefix)\n" + code, str(port)))
        assert b"ConnectionRefusedError" in result.stderr
        denial, = result.denials
        assert (denial.event.syscall, denial.event.host, denial.event.port, denial.field) == (
            "connect", "127.0.0.1", port, "net_allow")
        server.settimeout(0.2)
        with pytest.raises(socket.timeout):
            server.accept()
        with socket.create_connection(("127.0.0.1", port)):  # the control
            server.accept()[0].close()


@pytest.mark.parametrize("abi", range(1, 12))
def test_rules_handle_just_what_an_abi_knows(abi):
    rules = sandlock._landlock_rules(Policy(fs_readable=["/usr"], fs_writable=["/tmp"], net_allow_bind=[80]), abi)
    assert rules.fs.bit_length() == {1: 13, 2: 14, 3: 15, 4: 15, 5: 16, 6: 16, 7: 16, 8: 16}.get(abi, 17)
    assert (rules.net, rules.scoped) == (11 if abi >= 10 else 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    assert bool(rules.ports) == (abi >= 4)
    assert all(rights and rights & ~rules.fs == 0 for _, rights in rules.paths)
    assert not dict(rules.paths)["/tmp"] & sandlock._bits("fs", "MAKE_CHAR MAKE_BLOCK")


def test_without_landlock_nothing_is_weakened_in_silence(monkeypatch, tmp_path):
    monkeypatch.setattr(sandlock, "landlock_abi_version", lambda: 0)
    with pytest.raises(UnsupportedError) as e:
        box(tmp_path).run(["touch", str(tmp_path / "ran")])
    assert "best_effort" in str(e.value) and not os.listdir(tmp_path)
    result = box(tmp_path, best_effort=True).run(["sh", "-c", "(sleep 100 &); echo ran"])
    assert len(result.unenforced) == 5 and b"ran" in result.stdout


@pytest.mark.parametrize("abi,lost", [(0, 4), (1, 3), (2, 3), (3, 2), (4, 1), (5, 1), (6, 0), (11, 0)])
def test_what_is_lost_without_a_supervisor(abi, lost):
    assert len(sandlock._lost_protections(abi, supervised=False)) == lost
    assert len(sandlock._lost_protections(abi)) == (0 if abi else 4)
