import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# SANDLOCK_TEST_ABI=N: as if this kernel's Landlock were that old (what is newer is not asked for).
if os.environ.get("SANDLOCK_TEST_ABI"):
    import sandlock
    found = sandlock.landlock_abi_version()
    sandlock.landlock_abi_version = lambda: min(found, int(os.environ["SANDLOCK_TEST_ABI"]))
