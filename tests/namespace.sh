#!/bin/sh
# Proves: sae.h compiles as C++11 in two translation units that link, defines nothing but sae_* for the
# linker, needs no writable global but its caches, and calls neither exit, abort, printf nor the like.
# Oracle: the compilers at -Wall -Wextra -Werror, and nm. Tolerance: none.
# usage: sh tests/namespace.sh      (CC, CXX as the Makefile's)
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
CC=${CC:-cc}
CXX=${CXX:-c++}
passed=0
failed=0
good() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "$*"; }

printf '#define SAE_IMPLEMENTATION\n#include "%s/sae.h"\n' "$root" > "$tmp/one.c"
if $CC -std=c99 -O0 -c "$tmp/one.c" -o "$tmp/one.o" 2> "$tmp/log"; then
    good
    stray=$(nm -g --defined-only "$tmp/one.o" | awk 'NF == 3 {print $3}' | grep -v '^sae_')
    if [ -z "$stray" ]; then good; else bad "symbols outside sae_:" $stray; fi
    calls=$(nm -u "$tmp/one.o" | awk '{print $NF}' | sed 's/@.*//' | grep -xE \
        '_?(exit|_exit|abort|printf|vprintf|puts|putchar|fputs|perror|__assert_fail|__printf_chk|rand|srand|random|drand48|setlocale|signal|system|popen|stdout|stderr)')
    if [ -z "$calls" ]; then good; else bad "the header uses" $calls; fi
    maths=$(nm -u "$tmp/one.o" | awk '{print $NF}' | sed 's/@.*//' | grep -xE \
        '(exp|log|pow|sin|cos|tan|tanh|exp2|log2|log10|expm1|log1p|cbrt|hypot)f?')
    if [ -z "$maths" ]; then good; else bad "the header uses libm's" $maths; fi
    # writable data: only what is private to the file
    data=$(nm --defined-only "$tmp/one.o" | awk 'NF == 3 && $2 ~ /[BDC]/ {print $3}')
    if [ -z "$data" ]; then good; else bad "global variables:" $data; fi
else
    bad "one.c does not compile"
    cat "$tmp/log"
fi

for std in c++11 c++17; do
    if $CXX -std=$std -Wall -Wextra -Werror -DTEST_CPP_IMPLEMENTATION -I"$root" -c "$root/tests/test_cpp.cpp" \
           -o "$tmp/impl.o" 2> "$tmp/log" &&
       $CXX -std=$std -Wall -Wextra -Werror -I"$root" -c "$root/tests/test_cpp.cpp" -o "$tmp/use.o" 2>> "$tmp/log" &&
       $CXX "$tmp/use.o" "$tmp/impl.o" -lm -o "$tmp/cpp" 2>> "$tmp/log" && "$tmp/cpp" > /dev/null
    then good; else bad "$std:"; head -n 20 "$tmp/log"; fi
done
# C users of a C implementation, two units with the header each
printf '#include "%s/sae.h"\nconst char *other(void) { return sae_result_name(SAE_OK); }\n' "$root" > "$tmp/two.c"
printf '#include "%s/sae.h"\nint main(void) { return sae_result_name(SAE_OK)[0] != 83; }\n' "$root" > "$tmp/main.c"
if $CC -std=c99 -Wall -Wextra -Wpedantic -Werror "$tmp/main.c" "$tmp/two.c" "$tmp/one.o" -lm -o "$tmp/c" \
       2> "$tmp/log" && "$tmp/c"
then good; else bad "two C units:"; head -n 20 "$tmp/log"; fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
