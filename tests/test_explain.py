"""Why was it refused, what would allow it, what has it used, what does it do: explain, learn, trace."""
import errno
import json
import os
import pty
import re
import select
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile

import pytest

import sandlock
from sandlock import Denial, Policy, PolicyError, Sandbox, SYSTEM_PATHS
from support import TESTS, as_command, eventually, free_port, requires_abi, requires_program

pytestmark = requires_abi(1)
REPO, FILE = os.path.dirname(TESTS), as_command()
PLAIN = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


def cli(*words, cwd=None, file=FILE, **options):
    options.setdefault("env", {name: value for name, value in os.environ.items() if name != "PYTHONPATH"})
    return subprocess.run([sys.executable, file, *map(str, words)], cwd=cwd and str(cwd), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=100, **options)


def flags(result):
    """The words behind "allow with" of each line."""
    return [shlex.split(text) for text in re.findall(r"allow with (.*)$", result.stderr.decode(), re.M)]


# -- explain ---------------------------------------------------------------------------------------

CONNECT = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])))"
BIND = "import socket, sys; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', int(sys.argv[1])))"
NEWCOMERS = {
    "a file": lambda folder, port: ["cat", folder / "secret"],
    "a directory to write": lambda folder, port: ["touch", folder / "made"],
    "a program": lambda folder, port: [folder / "tool"],
    "an endpoint": lambda folder, port: [PLAIN, "-c", CONNECT, port],
    "a port to bind": lambda folder, port: [PLAIN, "-c", BIND, free_port()],
    "processes": lambda folder, port: ["-P", 2, "--", "sh", "-ec", "true | cat | cat"],
    "memory": lambda folder, port: ["-m", "60M", "--", PLAIN, "-c", "bytearray(90 << 20)"],
    "time": lambda folder, port: ["-t", 0.3, "--", "sleep", 0.8],
}


@pytest.mark.parametrize("want", sorted(NEWCOMERS))
def test_a_newcomers_path(tmp_path, want):
    """The file alone in an empty folder: what fails, with the flag that is printed, works."""
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(os.path.join(REPO, "sandlock.py"), empty)
    (tmp_path / "secret").write_text("s")
    (tmp_path / "tool").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "tool").chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = NEWCOMERS[want](tmp_path, server.getsockname()[1])
        command = command if "--" in command else ["--", *command]
        found = []
        for _ in range(3):  # what was refused first may have hidden the next
            result = cli("run", "--system", "--explain", *command[:command.index("--")], *found, *command[command.index("--"):], cwd=empty, file=str(empty / "sandlock.py"))
            if result.returncode == 0:
                break
            found = found + flags(result)[0] if want != "time" else ["-t", 5]
            assert want != "time" or b"allow more with -t" in result.stderr
    assert result.returncode == 0 and found, (found, result)
    assert os.listdir(empty) in (["sandlock.py"], ["__pycache__", "sandlock.py"], ["sandlock.py", "__pycache__"])


def test_every_call_that_landlock_refuses_is_told_with_what_would_allow_it(tmp_path):
    here = str(tmp_path)
    for name in ("file", "other", "gone", "tool"):
        (tmp_path / name).write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "d").mkdir()
    code = ("import os, sys, socket\nos.chdir(sys.argv[1])\ndef attempt(f, *a):\n    try: f(*a)\n    except OSError as e: pass\n    else: print('worked', f.__name__, a)\n"
            "attempt(open, 'file'); attempt(open, 'file', 'r+'); attempt(open, 'new', 'w'); attempt(os.listdir, 'd'); attempt(os.unlink, 'gone'); attempt(os.mkdir, 'm'); attempt(os.rmdir, 'd')\n"
            "attempt(os.symlink, 'x', 'l'); attempt(os.mkfifo, 'p'); attempt(os.truncate, 'file', 0); attempt(os.rename, 'file', 'f2'); attempt(os.link, 'file', 'f3'); attempt(os.execv, 'tool', ['tool'])\n"
            "s = socket.socket(socket.AF_UNIX); attempt(s.bind, 'sock'); s = socket.socket(); attempt(s.bind, ('127.0.0.1', 7)); attempt(s.connect, ('127.0.0.1', 7))\n")
    result = Sandbox(fs_readable=SYSTEM_PATHS, explain=True, cwd="/usr").run([PLAIN, "-S", "-c", code, here])
    assert result.stdout == b"", result
    told = [(d.event.syscall, d.field, d.value) for d in result.denials if d.event.path is None or d.event.path.startswith(here)]
    f = lambda name: os.path.join(here, name)
    expected = [("openat", "fs_readable", f("file")), ("openat", "fs_writable", f("file")), ("openat", "fs_writable", here), ("openat", "fs_readable", f("d")), ("unlinkat", "fs_writable", here),
                ("mkdirat", "fs_writable", here), ("unlinkat", "fs_writable", here), ("symlinkat", "fs_writable", here), ("mknodat", "fs_writable", here), ("truncate", "fs_writable", f("file")),
                ("renameat", "fs_writable", here), ("linkat", "fs_writable", here), ("execve", "fs_readable", f("tool")), ("bind", "fs_writable", here), ("bind", "net_allow_bind", 7), ("connect", "net_allow", "tcp://127.0.0.1:7")]
    if sandlock.landlock_abi_version() < 3:
        expected.remove(("truncate", "fs_writable", f("file")))
        told = [row for row in told if row[0] != "truncate"]
    assert told == expected
    # The same calls under what would allow them: nothing is told, and what was used is.
    wide = Sandbox(cwd=here, env={"PYTHONPATH": ""}, fs_readable=SYSTEM_PATHS, fs_writable=[tmp_path], net_allow=["127.0.0.1"], net_allow_bind=["*"], explain=True)
    result = wide.run([PLAIN, "-S", "-c", code, here])
    assert [d for d in result.denials if d.field] == [] and result.stdout.count(b"worked") >= 11
    assert {(field, value) for field, value, _ in result.used} >= {("fs_writable", here), ("fs_readable", f("file")), ("fs_writable", f("file"))}


def test_ordinary_permissions_are_told_apart(tmp_path):
    for folder in [tmp_path, *tmp_path.parents]:
        if str(folder).startswith("/tmp/"):
            os.chmod(folder, 0o755)
    closed = tmp_path / "closed"
    closed.write_text("x")
    closed.chmod(0)
    user = {"user": "1234:1234"} if os.geteuid() == 0 else {}
    granted = Sandbox(fs_readable=SYSTEM_PATHS + (str(tmp_path),), explain=True, **user).run(["cat", str(closed)])
    denial, = granted.denials
    assert denial.field is None and denial.value is None and denial.reason.startswith("ordinary permissions") and denial.event.path == str(closed)
    refused = Sandbox(fs_readable=SYSTEM_PATHS, explain=True, **user).run(["cat", str(closed)])
    assert [(d.field, d.value) for d in refused.denials] == [("fs_readable", str(closed))]


def test_most_frequent_first_and_nothing_else_is_printed(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    script = "cat %s/a; for i in 1 2 3; do cat %s/b; done; echo out" % (tmp_path, tmp_path)
    result = cli("run", "--system", "--explain", "--", "sh", "-c", "exec 2>/dev/null; " + script)
    lines = result.stderr.decode().splitlines()
    assert result.stdout == b"out\n" and len(lines) == 2 and all(line.startswith("sandlock: denied openat") for line in lines)
    assert "b' (not granted) 3 times; allow with -r %s/b" % tmp_path in lines[0]
    quiet = cli("run", "--system", "--", "sh", "-c", "exec 2>/dev/null; " + script)
    assert quiet.stderr == b"" and quiet.stdout == b"out\n"


def test_explain_changes_nothing_else():
    plain = Sandbox(fs_readable=SYSTEM_PATHS).run(["sh", "-c", "cat /proc/self/status | head -1; ls /nonexistent; (exit 7)"])
    told = Sandbox(fs_readable=SYSTEM_PATHS, explain=True).run(["sh", "-c", "cat /proc/self/status | head -1; ls /nonexistent; (exit 7)"])
    assert (plain.stdout, plain.stderr, plain.exit_code) == (told.stdout, told.stderr, told.exit_code)
    assert plain.used == () and plain.denials == () == told.denials and told.used
    with pytest.raises(PolicyError, match="explain"):
        sandlock.confine(Policy(explain=True))
    assert Denial() == Denial(field=None, value=None)


# -- profiles --------------------------------------------------------------------------------------

def test_a_profile_comes_back_as_it_was(tmp_path):
    policy = Policy(fs_readable=["/usr", "/bücher"], fs_writable=["/tmp/x"], net_allow=["127.0.0.1:80", "unix://"], net_allow_bind=[80, "90-95"], max_memory="1G", cpu_cores=[0],
                    env={"A": "b"}, clean_env=True, policy_events=["network"], explain=True, user=0, extra_deny_syscalls=["sync"])
    policy.to_file(tmp_path / "p.json")
    assert Policy.from_file(tmp_path / "p.json") == policy and Policy.from_file(str(tmp_path / "p.json")).max_memory == 1 << 30
    Policy().to_file(os.fsencode(tmp_path / "p.json"))
    assert json.loads((tmp_path / "p.json").read_text()) == {} and Policy.from_file(tmp_path / "p.json") == Policy()
    with pytest.raises(PolicyError, match="callback"):
        Policy(policy_fn=print).to_file(tmp_path / "p.json")
    with pytest.raises(OSError):
        Policy().to_file(tmp_path / "none" / "p.json")
    assert os.listdir(tmp_path) == ["p.json"]


BAD = {
    '{"fs_readible": []}': "fs_readible", '{"max_memory": "much"}': "max_memory", '{"fs_readable": "/usr"}': "fs_readable", '{"net_allow": ["a:b"]}': "net_allow",
    '{"policy_fn": "print"}': "policy_fn", '{"env": {"A": 1}}': "env", "[]": "object", "{": "line 1", "": "JSON", '{"user": "nobody-of-this-name"}': "user",
    '{"max_processes": 3, "max_processes": 4}': "twice", '{"net_allow": ["*"], "net_deny": ["10.0.0.1"]}': "net_deny", "[" * 100000: "JSON", '{"best_effort": 1}': "best_effort",
    '{"max_processes": NaN}': "max_processes", '{"cwd": "a\\u0000b"}': "cwd", '{"fs_readable": {"/": false}}': "fs_readable", '{"env": ["AB"]}': "env",
    '{"extra_deny_syscalls": [["sync"]]}': "extra_deny_syscalls", '{"policy_events": [["file"]]}': "policy_events", '{"net_allow": ["[fe80::1%eth0]:80"]}': "net_allow",
    '{"user": "\\u00b2"}': "user", '{"max_memory": "' + "9" * 5000 + '"}': "max_memory", '{"fs_readable": ["/\\ud800"]}': "fs_readable",
}


@pytest.mark.parametrize("text", sorted(BAD), ids=lambda text: text[:20])
def test_a_bad_profile_is_refused_with_file_key_and_reason(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(PolicyError) as caught:
        Policy.from_file(tmp_path / "p.json")
    assert BAD[text] in str(caught.value) and "p.json" in str(caught.value), str(caught.value)
    result = cli("run", "--profile", tmp_path / "p.json", "--", "echo", "ran")
    assert result.returncode == 125 and result.stdout == b"" and result.stderr.count(b"\n") == 1 and BAD[text].encode() in result.stderr


def test_a_profile_that_is_not_there_or_not_text(tmp_path):
    (tmp_path / "p.json").write_bytes(b"\xff\xfe{}")
    for name in ("p.json", "none.json", "."):
        with pytest.raises(PolicyError, match="JSON"):
            Policy.from_file(tmp_path / name)


def test_flags_add_to_a_profile(tmp_path):
    Policy(fs_readable=SYSTEM_PATHS, env={"A": "a", "B": "b"}, max_processes=5).to_file(tmp_path / "p.json")
    (tmp_path / "f").write_text("read\n")
    command = ["--", "sh", "-c", 'cat %s; echo $A$B' % (tmp_path / "f")]
    assert cli("run", "--profile", tmp_path / "p.json", *command).stdout == b"ab\n"
    assert cli("run", "--profile", tmp_path / "p.json", "-r", tmp_path, "--env", "B=c", *command).stdout == b"read\nac\n"


# -- learn -----------------------------------------------------------------------------------------

@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with a secret, in which nothing of the system is."""
    folder = tmp_path / "home"
    (folder / ".ssh").mkdir(parents=True)
    (folder / ".ssh" / "id_rsa").write_text("the key\n")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return folder


def learned(tmp_path, home, *command, cwd, outer=(), again=None, env=None):
    """Learns, runs again, and runs with a look at the secret before: that fails."""
    profile = tmp_path / "profile.json"
    first = cli("run", "--learn", profile, "-r", "/", "-w", cwd, "-w", "/tmp", *outer, "--", *command, cwd=cwd)
    assert first.returncode == 0, (first.stdout[-2000:], first.stderr[-2000:])
    if again:
        again()
    second = cli("run", "--profile", profile, "--explain", "--", *command, cwd=cwd)
    assert second.returncode == 0, (json.loads(profile.read_text()), second.stdout[-2000:], second.stderr[-2000:])
    text = json.loads(profile.read_text())
    wider = tmp_path / "wider.json"
    Policy.from_file(profile).replace(fs_readable=text["fs_readable"] + ["/usr/bin", "/lib64", "/usr/lib", "/bin", "/lib"]).to_file(wider)
    thief = ["sh", "-c", 'cat "%s/.ssh/id_rsa" && exit 9; exit 5' % home]
    assert cli("run", "-r", "/", "--", *thief).returncode == 9
    assert cli("run", "--profile", wider, "--", *thief, cwd=cwd).returncode == 5, text
    return text


@requires_program("git")
def test_learned_from_git_commit(tmp_path, home):
    project = home / "project"
    project.mkdir()

    def change():
        with open(str(project / "file"), "a") as file:
            file.write("line\n")
        subprocess.run(["git", "add", "file"], cwd=str(project), check=True)
    subprocess.run(["git", "init", "-q", "."], cwd=str(project), check=True)
    for name, value in (("user.email", "a@b"), ("user.name", "n")):
        subprocess.run(["git", "config", name, value], cwd=str(project), check=True)
    change()
    text = learned(tmp_path, home, "git", "commit", "-qm", "one", cwd=project, again=change)
    assert text["fs_writable"] == [os.path.realpath(project / ".git")] and len(text["fs_readable"]) < 20 and text.keys() == {"fs_readable", "fs_writable"}
    assert len(subprocess.run(["git", "log", "--oneline"], cwd=str(project), stdout=subprocess.PIPE).stdout.splitlines()) == 2


def wheel(folder):
    name = folder / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(name, "w") as archive:
        archive.writestr("thing/__init__.py", "word = 'installed'\n")
        for n in range(20):
            archive.writestr("thing/part%d.py" % n, "")
        archive.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        archive.writestr("thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("thing-1.0.dist-info/RECORD", "")
    return name


def test_learned_from_pip_install(tmp_path, home):
    if subprocess.run([sys.executable, "-m", "pip", "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("not installed: pip")
    work = home / "work"
    work.mkdir()
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--disable-pip-version-check", "--target", work / "site", wheel(work)]
    text = learned(tmp_path, home, *command, cwd=work, again=lambda: shutil.rmtree(work / "site"))
    assert len(text["fs_readable"]) < 60 and "net_allow" not in text
    assert subprocess.run([sys.executable, "-c", "import thing; print(thing.word)"], env={**os.environ, "PYTHONPATH": str(work / "site")}, stdout=subprocess.PIPE).stdout == b"installed\n"


SERVER = """
import http.server, sys, urllib.request
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/elsewhere":
            with urllib.request.urlopen("http://127.0.0.1:%s/" % sys.argv[2]) as answer: body = answer.read()
            self.send_response(200); self.end_headers(); self.wfile.write(body)
        else: super().do_GET()
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
server.serve_forever()
"""


def visit(port, path):
    with urllib.request.urlopen("http://127.0.0.1:%d%s" % (port, path), timeout=10) as answer:
        return answer.read()


def served(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_learned_from_a_web_server_that_a_client_visits(tmp_path, home):
    site = home / "site"
    site.mkdir()
    (site / "index.html").write_text("hello")
    (site / "server.py").write_text(SERVER)
    profile, port, elsewhere = tmp_path / "profile.json", free_port(), free_port()

    def server(*options, visits):
        command = [sys.executable, FILE, "run", *map(str, options), "--", PLAIN, "-S", "-c", SERVER, str(port), str(elsewhere)]
        process = subprocess.Popen(command, cwd=str(site), stderr=subprocess.PIPE)
        try:
            assert eventually(lambda: served(port) or process.poll() is not None, 30) and process.poll() is None, process.stderr.read()
            return visits()
        finally:
            process.terminate()
            process.wait(timeout=30)
            process.stderr.close()
    assert server("--learn", profile, "-r", "/", "--net-allow", "127.0.0.1", "--bind", port, visits=lambda: visit(port, "/")) == b"hello"
    text = json.loads(profile.read_text())
    assert text["net_allow_bind"] == [port] and "net_allow" not in text and "fs_writable" not in text and len(text["fs_readable"]) < 40
    assert server("--profile", profile, visits=lambda: visit(port, "/")) == b"hello"
    other = Sandbox(fs_readable=["/"], net_allow_bind=[elsewhere]).popen([PLAIN, "-S", "-c", SERVER, str(elsewhere), "1"], stdout=2, stderr=2)
    try:
        assert eventually(lambda: served(elsewhere), 30)
        assert b"Directory" in server("-r", "/", "--bind", port, "--net-allow", "127.0.0.1", visits=lambda: visit(port, "/elsewhere"))
        with pytest.raises(OSError):
            server("--profile", profile, visits=lambda: visit(port, "/elsewhere"))
    finally:
        other.kill()
        other.wait()


def test_nothing_is_learned_that_was_not_granted(tmp_path):
    for number in range(15):
        (tmp_path / str(number)).write_text("x")
    files = [str(tmp_path / str(number)) for number in range(15)]
    used = [("fs_readable", file, None) for file in files]
    assert set(files) <= set(Policy(fs_readable=list(SYSTEM_PATHS) + files).narrow(used).fs_readable)  # not all of the directory
    assert Policy(fs_readable=[tmp_path]).narrow(used).fs_readable == (str(tmp_path),)


def test_a_connect_that_does_not_wait_is_learned(tmp_path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        code = "import socket\ns = socket.socket()\ns.setblocking(False)\nprint(s.connect_ex(('127.0.0.1', %d)))" % port
        result = Sandbox(fs_readable=SYSTEM_PATHS, net_allow=["*"], explain=True).run([sys.executable, "-S", "-c", code])
    assert int(result.stdout) in (0, errno.EINPROGRESS)
    assert [value for field, value, _ in result.used if field == "net_allow"] == ["tcp://127.0.0.1:%d" % port]


def test_a_report_waits_for_whoever_reads_it(tmp_path):
    """O_NONBLOCK is of the open file, and so the program's to set on what is ours too."""
    code = "import os\nos.set_blocking(2, False)\ntry:\n    while True: os.write(2, b'x' * 4096)\nexcept BlockingIOError: pass\ntry: open(%r)\nexcept OSError: pass\nraise SystemExit(3)" % str(tmp_path / 'shut')
    (tmp_path / "shut").write_text("x")
    for option in ("--explain", "--trace"):
        process = subprocess.Popen([sys.executable, FILE, "run", "--system", option, "--", sys.executable, "-S", "-c", code], stderr=subprocess.PIPE)
        time.sleep(0.5)  # the pipe is full
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 3 and b"shut" in said, said[-500:]


def test_what_would_open_too_much_is_left_out_and_said(tmp_path, home):
    profile = tmp_path / "p.json"
    (home / ".config").mkdir()
    result = cli("run", "--learn", profile, "-r", "/", "-w", home, "--", "sh", "-c", "ls / ~ ~/.config; echo > ~/.history; echo > ~/.config/x; cat /proc/self/stat")
    assert result.returncode == 0 and result.stderr.count(b"is left out") == 2
    text = json.loads(profile.read_text())
    assert text["fs_writable"] == [str(home / ".config"), str(home / ".history")] and "/proc" in text["fs_readable"]
    assert not {"/", str(home)} & {*text["fs_readable"], *text["fs_writable"]}
    bad = cli("run", "--learn", tmp_path / "none" / "p.json", "--system", "--", "echo", "ran")
    assert bad.returncode == 125 and bad.stdout == b"" and b"--learn" in bad.stderr


def test_a_profile_follows_no_link_that_the_program_has_laid(tmp_path, home):
    """Neither into the profile, nor to where it is written."""
    (home / "profiles").mkdir()
    (tmp_path / "victim").mkdir()
    script = "mkdir build; echo > build/x; rm -r build; ln -s / build; mv profiles gone; ln -s %s profiles" % (tmp_path / "victim")
    result = cli("run", "--learn", "profiles/p.json", "--system", "-w", home, "--", "sh", "-c", script, cwd=home)
    assert result.returncode == 0 and os.listdir(str(tmp_path / "victim")) == [], result.stderr
    text = json.loads((home / "gone" / "p.json").read_text())
    assert not any(os.path.realpath(path) == "/" for path in text["fs_readable"] + text.get("fs_writable", [])) and b"build was listed or written to" in result.stderr


# -- trace -----------------------------------------------------------------------------------------

LINE = re.compile(r"^\d\d:\d\d:\d\d\.\d{3} \d+ ([a-z]+) ?(.*) (allow|audit|refused|error|E[A-Z0-9]+)$")
JUDGE = "def judge(event, ctx):\n    if event.path_contains('secret'): return 13\n    if event.path_contains('group'): return 'audit'\n"


def test_trace_prints_a_line_for_each_event(tmp_path):
    (tmp_path / "judge.py").write_text(JUDGE)
    (tmp_path / "secret").write_text("x")
    script = "cat /etc/passwd >/dev/null; cat /etc/group >/dev/null; cat %s/secret; exec true 'a b'" % tmp_path
    traced = cli("run", "--system", "--deny", "/etc/hostname", "-r", tmp_path, "--trace", "--events", "openat,execve", "--policy-fn", "%s:judge" % (tmp_path / "judge.py"), "--", "sh", "-c",
                 "exec 2>/dev/null; echo out; cat /etc/hostname; " + script)
    assert traced.stdout == b"out\n" and b"\33" not in traced.stderr
    rows = [LINE.match(line) for line in traced.stderr.decode().splitlines()]
    assert all(rows), traced.stderr
    found = [row.groups() for row in rows]
    assert ("openat", "/etc/passwd", "allow") in found and ("openat", "/etc/group", "audit") in found and ("openat", "%s/secret" % tmp_path, "EACCES") in found
    assert ("openat", "/etc/hostname", "refused") in found and ("execve", "%s ['true', 'a b']" % os.path.realpath(shutil.which("true", path="/usr/bin:/bin")), "allow") in found
    assert not [row for row in found if row[0] not in ("openat", "execve")]


def test_trace_to_a_file_leaves_the_program_alone(tmp_path):
    log = tmp_path / "trace.log"
    result = cli("run", "--system", "--trace-file", log, "--", "sh", "-c", "echo out; echo err >&2; cat /etc/passwd >/dev/null")
    assert result.stdout == b"out\n" and result.stderr == b"err\n"
    lines = log.read_text().splitlines()
    assert all(map(LINE.match, lines)) and [line for line in lines if " openat /etc/passwd allow" in line] and [line for line in lines if " clone  allow" in line or " clone allow" in line]
    cli("run", "--system", "--trace-file", log, "--", "true")
    assert log.read_text().splitlines()[:len(lines)] == lines  # it is added to
    bad = cli("run", "--system", "--trace-file", tmp_path / "none" / "x", "--", "echo", "ran")
    assert bad.returncode == 125 and bad.stdout == b"" and b"--trace-file" in bad.stderr


def test_a_program_cannot_forge_lines(tmp_path):
    name = "x\n00:00:00.000 1 openat /etc/shadow allow\33[2J\x9b\u202e"
    code = "import sys\ntry: open(sys.argv[1])\nexcept OSError: pass"
    for options in (["--trace", "--events", "openat"], ["--explain"]):
        result = cli("run", "--system", "-r", tmp_path, *options, "--", PLAIN, "-S", "-c", code, str(tmp_path / name))
        assert b"\n00:00:00" not in result.stderr and b"\33" not in result.stderr and "\x9b" not in result.stderr.decode() and "\u202e" not in result.stderr.decode()
    assert b"\\n00:00:00" in cli("run", "--system", "-r", tmp_path, "--trace", "--events", "openat", "--", PLAIN, "-S", "-c", code, str(tmp_path / name)).stderr
    for name in ("a b", "a allow", "it's", 'say "x"'):  # a path is one word, and is told from what follows
        shown = cli("run", "--system", "-r", tmp_path, "--trace", "--events", "openat", "--", PLAIN, "-S", "-c", code, str(tmp_path / name)).stderr
        assert (" openat %r allow\n" % str(tmp_path / name)).encode() in shown, shown


def on_a_terminal(*words):
    """What appears on it."""
    master, slave = pty.openpty()
    process = subprocess.Popen([sys.executable, FILE, *map(str, words)], stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    shown, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline and select.select([master], [], [], 60)[0]:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(master)
    return process.wait(timeout=30), shown


def test_on_a_terminal_it_is_coloured_and_long_runs_are_counted(tmp_path):
    script = "cat /etc/passwd >/dev/null; cat /nonexistent; sleep 1.5; echo end"
    code, shown = on_a_terminal("run", "--system", "--trace", "--", "sh", "-c", script)
    assert code == 0 and b"/etc/passwd \33[32mallow\33[0m" in shown
    assert re.search(rb"\x1b\]0;sandlock: \d+ events, [12] s\x07", shown) and shown.endswith(b"\33]0;\7")
    code, shown = on_a_terminal("run", "-r", "/", "--learn", tmp_path / "p.json", "--", "sh", "-c", script)
    assert re.search(rb"\x1b\]0;sandlock: [1-9]\d* grants used, [12] s\x07", shown)
    code, shown = on_a_terminal("run", "-r", "/", "--", "sh", "-c", script)
    assert b"\33" not in shown


# -- help and check --------------------------------------------------------------------------------

def test_every_flag_has_a_line_of_help_with_an_example():
    for names, *_, shown in sandlock._RUN_OPTIONS:
        assert "e.g. " in shown and any(name in shown.split("e.g. ")[1] for name in names) or "--best-effort" in names, names
    text = cli("run", "--help").stdout.decode()
    assert all(name in text for names, *_ in sandlock._RUN_OPTIONS for name in names)


def test_check_tells_what_a_container_took_away():
    code = ("import ctypes, sys; sys.path.insert(0, %r); import sandlock\n"
            "program = sandlock._assemble_filter(sandlock._FilterPlan(arch=sandlock._ARCH, actions=(('pidfd_getfd', 'errno:1'),)))\n"
            "buffer = ctypes.create_string_buffer(program, len(program))\n"
            "sandlock._call('prctl', 38, 1, 0, 0, 0); sandlock._call('seccomp', 1, 0, ctypes.addressof(sandlock.sock_fprog(len(program) // 8, ctypes.addressof(buffer))))\n"
            "sys.exit(sandlock.main(['check']))" % REPO)
    result = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE)
    lines = result.stdout.decode().splitlines()
    assert result.returncode == 1 and "can NOT be enforced here: pidfd_getfd" in lines[-1]
    assert any(line.startswith("pidfd_getfd") and "NO" in line and "seccomp profile of this container" in line for line in lines)
