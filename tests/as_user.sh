#!/bin/sh
# as_user.sh PYTHON [pytest arguments]: by root, the suite as an ordinary user (uid 65534), with a copy of
# that Python and of the tree where everybody may read them.
set -eu
python=$1; shift
there=$(mktemp -d /tmp/sandlock-user-XXXXXX)
trap 'rm -rf "$there"' EXIT INT TERM
chmod 755 "$there"
prefix=$("$python" -c 'import os, sys; print(os.path.realpath(sys.base_prefix))')
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $prefix in
/usr*) run=$prefix/bin/python$version ;;
*)
  mkdir -p "$there/py/bin" "$there/py/lib"
  cp "$prefix/bin/python$version" "$there/py/bin/"
  (cd "$prefix/lib" && tar -cf - --exclude=test --exclude=site-packages --exclude=__pycache__ "python$version" libpython* 2>/dev/null) | tar -xf - -C "$there/py/lib"
  run=$there/py/bin/python$version ;;
esac
export LD_LIBRARY_PATH="$there/py/lib"
"$python" -m venv "$there/pip" && "$there/pip/bin/python" -m pip -q install --target "$there/site" pytest
mkdir "$there/tree" "$there/home"
tar -cf - --exclude=.git --exclude='.venv*' --exclude=__pycache__ -C "$(dirname "$0")/.." . | tar -xf - -C "$there/tree"
chown 65534:65534 "$there" "$there/home"
chmod -R a+rX "$there"
cd "$there/tree"
setpriv --reuid 65534 --regid 65534 --clear-groups env PYTHONPATH="$there/site" HOME="$there/home" PATH=/usr/bin:/bin:/usr/sbin \
  "$run" -m pytest -q -ra -p no:cacheprovider --basetemp="$there/home/pytest" tests "$@"
