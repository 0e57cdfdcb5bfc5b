#!/bin/sh
# Proves: sae.h compiles for Windows with mingw-w64, as C99 and as C++11, without a warning; an example links;
# its files are Windows' own, by UTF-8 paths, mapped and replaced whole (tests/windows.c, run by wine).
# Oracle: what was written. Tolerance: none.
# usage: sh tests/windows.sh      (MINGW: x86_64-w64-mingw32)
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
cc=${MINGW:-x86_64-w64-mingw32}-gcc
cxx=${MINGW:-x86_64-w64-mingw32}-g++
strict="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -I$root"
passed=0
failed=0
try() { # name, command
    name=$1
    shift
    if "$@" > "$tmp/log" 2>&1; then passed=$((passed + 1))
    else failed=$((failed + 1)); echo "$name:"; head -n 20 "$tmp/log"; fi
}
if ! command -v "$cc" > /dev/null; then
    echo "SKIPPED: $cc is not installed, nothing is compiled for Windows"
    echo "0 passed, 0 failed"
    exit 0
fi
printf '#define SAE_IMPLEMENTATION\n#include "sae.h"\n' > "$tmp/sae.c"
printf '#include "sae.h"\n' > "$tmp/use.c"
try "C99" "$cc" -std=c99 $strict -O1 -c "$tmp/sae.c" -o "$tmp/sae.o"
try "C99, declarations" "$cc" -std=c99 $strict -c "$tmp/use.c" -o "$tmp/use.o"
if command -v "$cxx" > /dev/null; then
    try "C++11" "$cxx" -x c++ -std=c++11 $strict -O1 -c "$tmp/sae.c" -o "$tmp/sae_cpp.o"
else
    echo "SKIPPED: $cxx is not installed"
fi
try "quickstart" "$cc" -std=c99 -I"$root" "$root/examples/quickstart.c" -o "$tmp/quickstart.exe"
try "windows.c" "$cc" -std=c99 -O1 -Wall -Wextra -Werror -I"$root" "$root/tests/windows.c" -o "$tmp/windows.exe"
wine=$(command -v wine64 || command -v wine)
if [ -z "$wine" ]; then
    echo "SKIPPED: wine is not installed, nothing is run on Windows"
elif [ -f "$tmp/windows.exe" ]; then
    mkdir "$tmp/run"
    WINEPREFIX=${WINEPREFIX:-$tmp/wine} WINEDEBUG=-all
    export WINEPREFIX WINEDEBUG
    line=$(cd "$tmp/run" && timeout 300 "$wine" ../windows.exe 2> /dev/null | tr -d '\r' | tee "$tmp/log" | tail -n 1)
    case $line in
    *" passed, 0 failed") passed=$((passed + ${line%% *})) ;;
    *) failed=$((failed + 1)); echo "under wine:"; cat "$tmp/log" ;;
    esac
fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
