#!/bin/sh
# Proves the plan of the house: sh src/check.sh [PART...] runs these parts, without names all of them.
#   made       sae.h, sae_cuda.cuh and sae_lm.h at the top are what make_headers.sh makes
#   files      no file of src/ is over 600 lines; every one is named by a master or pasted by one that is
#   functions  no function is over 80 lines, in src/ tools/ examples/ bench/
#   includes   a file includes only files that the master names before it; a room's files stand together
#   text       100 columns, no tabs, no trailing blanks, ASCII alone
#   alone      each file of src/ compiles with nothing but what it includes; ONLY="ROOM/FILE ...": these
# Each fault is one line, "FAILED: FILE: fault"; a part without one says "clean: house, PART".
cd "$(dirname "$0")/.." || exit 1
LC_ALL=C
export LC_ALL
temp=$(mktemp -d) || exit 1
trap 'rm -rf "$temp"' EXIT
parts=${*:-made files functions includes text alone}

# The files of a header in its order: named by a master as ROOM/FILE.
order() { awk '/^#include "[^"]*\// { gsub(/^#include "|".*$/, ""); print }' "$@"; }
sources() { find src -name '*.h' -o -name '*.cuh' -o -name '*.inl' | sort; }
users() { find tools examples bench \( -name '*.c' -o -name '*.h' -o -name '*.cu' \) 2> /dev/null | sort; }

made() {
    sh src/make_headers.sh "$temp" || { echo "FAILED: src/make_headers.sh: cannot make the headers"; return; }
    for h in sae.h sae_cuda.cuh sae_lm.h; do
        cmp -s "$temp/$h" "$h" || echo "FAILED: $h: is not what src/ makes, run make headers"
    done
}

files() {
    order src/sae.h src/sae_cuda.cuh src/sae_lm.h > "$temp/order"
    sources | while read -r f; do
        n=$(wc -l < "$f")
        [ "$n" -le 600 ] || echo "FAILED: $f: $((n)) lines, at most 600 are allowed"
        case $f in
        src/sae.h | src/sae_cuda.cuh | src/sae_lm.h) continue ;;
        *.inl) grep -q "\"$(basename "$f")\"" "$(dirname "$f")"/*.h ;;
        *) grep -qx "${f#src/}" "$temp/order" ;;
        esac || echo "FAILED: $f: no header has it, name it in src/sae.h, src/sae_cuda.cuh or src/sae_lm.h"
    done
}

# A function starts with a line in column 0 that leads to a { at the end of a line, and ends with } in
# column 0. What has no ( before the { or a = in front of it is a type or a table.
functions() {
    awk '
        FNR == 1 { head = ""; inside = 0; comment = 0 }
        inside {
            if ($0 !~ /^}/) next
            lines = FNR - first + 1
            if (lines > 80) print "FAILED: " FILENAME ": " name "() has " lines " lines, at most 80 are allowed"
            inside = 0
            next
        }
        comment { if (/\*\//) comment = 0; next }
        /^\/\*/ { if (!/\*\//) comment = 1; next }
        /^[A-Za-z_]/ { head = ""; first = FNR }
        /^[#}\/]/ || /^$/ { head = ""; next }
        { sub(/[ \t]*\/\*.*\*\/[ \t]*$/, ""); sub(/[ \t]*\/\/.*$/, ""); sub(/[ \t]+$/, "") }
        head == "" && !/^[A-Za-z_]/ { next }
        { head = head " " $0 }
        /[;,\\]$/ && /;$/ { head = ""; next }
        /{$/ {
            if (head ~ /\(/ && head !~ /=[ \t]*\{$/ && head !~ /^ *(typedef|struct|enum|union|extern "C")[^(]*\{$/) {
                name = head
                sub(/(SAEI|LMI)_FN\(/, "", name)
                while (match(name, /__attribute__ *\(\([^)]*\)?[^)]*\)\)/))
                    name = substr(name, 1, RSTART - 1) substr(name, RSTART + RLENGTH)
                sub(/[) ]*\(.*$/, "", name)
                sub(/^.*[ *]/, "", name)
                inside = 1
            }
            head = ""
        }' $(sources) $(users)
}

includes() {
    order src/sae.h > "$temp/core"
    order src/sae.h src/sae_cuda.cuh src/sae_lm.h > "$temp/order"
    for list in core order; do # in the second, the files of sae_cuda.cuh and sae_lm.h too
        awk -v list=$list '
            FILENAME == ARGV[1] {
                place[$0] = ++files
                room = $0
                sub(/\/.*/, "", room)
                if (room != last && room in seen && list == "order")
                    print "FAILED: src/" $0 ": room " room " stands in two places of the master"
                seen[last = room] = 1
                next
            }
            FNR == 1 { file = substr(FILENAME, 5); folder = file; sub(/[^\/]*$/, "", folder) }
            (list == "core") == (file ~ /\.cuh$|^lm\//) { next }
            /^#[ \t]*include[ \t]*"/ {
                name = $0
                gsub(/^[^"]*"|".*$/, "", name)
                path = folder name
                while (match(path, /[^\/]+\/\.\.\//))
                    path = substr(path, 1, RSTART - 1) substr(path, RSTART + RLENGTH)
                if (file ~ /\.inl$/) fault = "is pasted and may include nothing"
                else if (path ~ /\.inl$/) fault = path ~ "^" folder ? "" : "pastes a text of another room"
                else if (!(path in place) || !(file in place)) fault = "is not a file of the master"
                else if (file ~ /^lm\// && path !~ /^(lm|api)\//) fault = "lm stands on api alone"
                else if (place[path] >= place[file]) fault = "an upward include, it comes later in the master"
                else fault = ""
                if (fault != "") print "FAILED: " FILENAME ": includes " name ": " fault
            }' "$temp/$list" $(sources | grep -v '^src/sae')
    done
}

text() {
    awk 'function bad(what) { print "FAILED: " FILENAME ": line " FNR ": " what }
        length > 100 { bad("over 100 columns") }
        /\t/ { bad("a tab") }
        / $/ { bad("trailing blanks") }
        /[^\t -~]/ { bad("not ASCII") }' $(sources) $(users)
}

alone() {
    strict="-fsyntax-only -Wall -Wextra -Wno-unused-function -Wno-unused-const-variable -Werror -I."
    for f in ${ONLY:-$(order src/sae.h src/sae_cuda.cuh src/sae_lm.h)}; do
        case $f in
        *.cuh) ${CXX:-c++} -std=c++17 $strict -Itests/emu -x c++ - ;;
        *) ${CC:-cc} -std=c99 -D_GNU_SOURCE $strict -x c - ;;
        esac > "$temp/log" 2>&1 << TEXT || {
#include "src/$f"
TEXT
            echo "FAILED: src/$f: does not compile alone: $(grep -E 'error' "$temp/log" | head -n 1)"
        }
    done
}

status=0
for part in $parts; do
    case $part in
    made | files | functions | includes | text | alone) "$part" > "$temp/faults" 2>&1 ;;
    *) echo "FAILED: src/check.sh: no part $part" > "$temp/faults" ;;
    esac
    if [ -s "$temp/faults" ]; then cat "$temp/faults"; status=1
    else echo "clean: house, $part"; fi
done
exit $status
