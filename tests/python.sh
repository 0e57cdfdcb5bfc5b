#!/bin/sh
# Runs tests/python.py against build/libsae.so; says why where it cannot.
# usage: sh tests/python.sh      (PYTHON: another than python3; CC, for the layouts)
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
python=${PYTHON:-python3}
skip() { echo "SKIPPED: $*"; echo "0 passed, 0 failed"; exit 0; }
command -v "$python" > /dev/null 2>&1 || skip "$python is not installed: examples/sae.py is not tested"
"$python" -c 'import numpy' 2> /dev/null || skip "$python has no numpy: examples/sae.py is not tested"
[ -f "$root/build/libsae.so" ] || { echo "no build/libsae.so, run make lib"; echo "0 passed, 1 failed"; exit 1; }
if nm -D "$root/build/libsae.so" | grep -q __asan_; then
    skip "build/libsae.so is built with a sanitizer, which $python does not load"
fi
exec "$python" "$root/tests/python.py"
