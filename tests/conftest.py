import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# SANDLOCK_TEST_ABI=N: as if this kernel's Landlock were that old (what is newer is not asked for).
if os.environ.get("SANDLOCK_TEST_ABI"):
    import sandlock
    found = sandlock.landlock_abi_version()
    sandlock.landlock_abi_version = lambda: min(found, int(os.environ["SANDLOCK_TEST_ABI"]))
    if os.environ["SANDLOCK_TEST_ABI"] == "1":  # Linux 5.13 to 5.18: nor do held tasks ignore signals
        flags = {name: getattr(sandlock._kernel_flags(), name) for name in sandlock._KernelFlags._fields}
        sandlock._kernel_flags = lambda: sandlock._KernelFlags(**dict(flags, waits_killably=False))


def pytest_runtest_logreport(report):
    """On a slow machine a failure is told at once: the run may not come to its end."""
    if report.failed and int(os.environ.get("SANDLOCK_TEST_THIN") or 0) >= 100:
        print("\n%s\n%s" % (report.nodeid, report.longreprtext), flush=True)
