#!/bin/sh
# Makes the headers that users copy: sh src/make_headers.sh OUT   writes OUT/sae.h, OUT/sae_cuda.cuh and
# OUT/sae_lm.h.
# The masters, src/sae.h and so on, say what comes where: an #include "ROOM/FILE" of theirs becomes that file.
# In a file of a room, an #include says what it stands on, which by then is there: it is left out, and so is
# #pragma once. Only a *.inl is text to be put in, each time it is named.
src=$(dirname "$0")
out=${1:?usage: make_headers.sh OUT}
for name in sae.h sae_cuda.cuh sae_lm.h; do
    awk -v src="$src" '
        function put(line) { # never two empty lines
            if (line == "" && (empty || !written)) { empty = 1; return }
            if (empty && line != "") print ""
            empty = line == ""
            if (line != "") { print line; written = 1 }
        }
        function banner(line, path,    bar) { # says which file the section is of
            sub(/ =* *\*\/$/, "", line)
            path = " src/" path " ==== */"
            for (bar = " "; length(line bar path) < 100; ) bar = bar "="
            return line bar path
        }
        function room(path,    file, line, name, folder) {
            file = src "/" path
            folder = path
            sub(/[^\/]*$/, "", folder)
            put("")
            while ((status = (getline line < file)) > 0) {
                if (line ~ /^#pragma once/) continue
                if (line ~ /^\/\* ==== >>/) line = banner(line, path)
                if (line !~ /^#include "/) { put(line); continue }
                name = line
                gsub(/^#include "|".*$/, "", name)
                if (name !~ /\.inl$/) continue
                put("")
                put("/* ---- src/" folder name " ---- */")
                room(folder name)
            }
            if (status < 0) { print "make_headers.sh: cannot read " file > "/dev/stderr"; failed = 1; exit }
            close(file)
            put("")
        }
        /^#include "[^"]*\// { gsub(/^#include "|".*$/, ""); room($0); next }
        { put($0) }
        END { exit failed }' "$src/$name" > "$out/$name.made" && mv "$out/$name.made" "$out/$name" ||
        { rm -f "$out/$name.made"; exit 1; }
done
