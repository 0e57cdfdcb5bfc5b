#!/bin/sh
# Proves: each program of examples/ compiles without a warning by the line its head gives, in a folder that
# holds nothing but sae.h and the program; runs there; prints the lines its head says, "..." standing for
# anything; and is shorter than 120 lines.
# Oracle: the heads. Tolerance: none but the "...". -O1 takes the place of -O2, the same bits sooner.
# usage: sh tests/examples.sh [NAME...]      (CC)
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
CC=${CC:-cc}
OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
export OMP_WAIT_POLICY
passed=0
failed=0
good() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED: $*"; }

openmp=-fopenmp
echo 'int main(void) { return 0; }' | $CC -fopenmp -x c - -o "$tmp/openmp" 2> /dev/null || openmp=

# llama_cpp.c needs llama.cpp: tests/llama.sh
[ $# -gt 0 ] || set -- $(cd "$root/examples" && ls ./*.c | sed 's/^..//; s/\.c$//' | grep -v llama_cpp)
for name in "$@"; do
    mkdir -p "$tmp/$name/examples"
    cp "$root/sae.h" "$tmp/$name"
    cp "$root/examples/$name".* "$tmp/$name/examples"
    cd "$tmp/$name" || exit 1
    [ "$(wc -l < "examples/$name.c")" -lt 120 ] && good || bad "$name.c has 120 lines or more"

    # "cc -O2 ... -o NAME && ./NAME [ARGUMENTS]"
    line=$(sed -n '/^ *cc /{s/^ *//; s/ \[.*//; p; q;}' "examples/$name.c")
    case $line in
    "cc -O2 "*" -o $name && ./$name") good;;
    *) bad "$name.c: no line says how to compile and run it: $line"; continue;;
    esac
    line=$(echo "$line" | sed "s/-O2/-O1 -Wall -Wextra -Werror/; s/ -fopenmp/ $openmp/")
    if eval "$CC${line#cc}" > output 2> errors && [ ! -s errors ]; then good
    else bad "$name: $line"; head -n 10 errors; continue; fi

    # what the head says after "Prints", in the same order
    awk '/\*\// {exit} said && /^        [^ ]/ {print substr($0, 9)} /Prints/ {said = 1}' \
        "examples/$name.c" > says
    [ -s says ] && good || bad "$name.c: the head does not say what it prints"
    wrong=$(awk '
        function matches(pattern, line,    parts, n, i, at) { # each part of it, one after the other
            n = split(pattern, parts, /\.\.\./)
            if (substr(line, 1, length(parts[1])) != parts[1]) return 0
            for (i = 1; i <= n; i++) {
                at = index(line, parts[i])
                if (!at && parts[i] != "") return 0
                if (parts[i] != "") line = substr(line, at + length(parts[i]))
            }
            return parts[n] == "" || line == ""
        }
        NR == FNR {want[++count] = $0; next}
        next_one < count {
            while (want[next_one + 1] == "...") next_one++
            if (next_one < count && matches(want[next_one + 1], $0)) next_one++
        }
        END {
            while (want[next_one + 1] == "...") next_one++
            if (next_one < count) print want[next_one + 1]
        }' says output)
    if [ -z "$wrong" ]; then good; else bad "$name does not print $wrong:"; head -n 20 output; fi
done

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
