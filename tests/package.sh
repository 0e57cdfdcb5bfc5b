#!/bin/sh
# Proves: make install puts header, tool, manual page, pkg-config and CMake files below PREFIX (and DESTDIR),
# and make uninstall takes all of them away; C and C++ programs build against them by pkg-config, by
# find_package and by add_subdirectory, with the version that sae.h has; CMake installs the same.
# Oracle: the compilers, pkg-config and CMake, those that are installed. Tolerance: none.
# usage: sh tests/package.sh      (CC, CXX)
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
CC=${CC:-cc}
CXX=${CXX:-c++}
export CC CXX
unset MAKEFLAGS MFLAGS MAKELEVEL
passed=0
failed=0
good() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED: $*"; head -n 20 "$tmp/log"; }
try() { # try WHAT COMMAND...
    what=$1; shift
    if "$@" > "$tmp/log" 2>&1; then good; else bad "$what"; fi
}
version=$(sed -n 's/^#define SAE_VERSION "\(.*\)"/\1/p' "$root/sae.h")

mkdir "$tmp/user"
cat > "$tmp/user/main.c" << 'END'
#include "sae.h"
#include <string.h>
int main(void) {
    sae_context *ctx;
    if (sae_context_create(NULL, &ctx) != SAE_OK) return 1;
    sae_context_destroy(ctx);
    return strcmp(SAE_VERSION, VERSION) != 0;
}
END
cp "$tmp/user/main.c" "$tmp/user/main_cpp.cpp"
printf '#define SAE_IMPLEMENTATION\n#include "sae.h"\n' > "$tmp/user/implementation.c"

# ---- make install, DESTDIR, uninstall ----
try "make install" make -C "$root" install PREFIX="$tmp/prefix"
for f in include/sae.h include/sae_cuda.cuh include/sae_lm.h bin/sae share/man/man1/sae.1 share/pkgconfig/sae.pc \
    share/cmake/sae/sae-config.cmake share/cmake/sae/sae-config-version.cmake; do
    echo "$f is not there" > "$tmp/log"
    if [ -s "$tmp/prefix/$f" ]; then good; else bad "make install"; fi
done
"$tmp/prefix/bin/sae" --version > "$tmp/log" 2>&1
if [ "$(cat "$tmp/log")" = "sae $version" ]; then good; else bad "the installed tool's version"; fi
grep -rl "@[A-Z]*@" "$tmp/prefix/share" > "$tmp/log"
if [ ! -s "$tmp/log" ]; then good; else bad "a name is not filled in"; fi
if command -v man > /dev/null && man --help 2> /dev/null | grep -q warnings; then
    LC_ALL=C.UTF-8 man --warnings -l "$tmp/prefix/share/man/man1/sae.1" > "$tmp/page" 2> "$tmp/log"
    if [ ! -s "$tmp/log" ] && grep -q 'dict-size' "$tmp/page"; then good; else bad "the manual page"; fi
else echo "SKIPPED: man is not installed: the manual page is not looked at"
fi
try "make install DESTDIR" make -C "$root" install PREFIX=/usr DESTDIR="$tmp/root"
grep prefix= "$tmp/root/usr/share/pkgconfig/sae.pc" > "$tmp/log"
if [ "$(cat "$tmp/log")" = prefix=/usr ]; then good; else bad "DESTDIR is in sae.pc"; fi
try "make uninstall" make -C "$root" uninstall PREFIX=/usr DESTDIR="$tmp/root"
find "$tmp/root" -type f > "$tmp/log"
if [ ! -s "$tmp/log" ]; then good; else bad "make uninstall leaves files"; fi

# ---- pkg-config ----
pkg=$(command -v pkg-config || command -v pkgconf)
if [ -n "$pkg" ]; then
    PKG_CONFIG_PATH=$tmp/prefix/share/pkgconfig
    export PKG_CONFIG_PATH
    flags=$("$pkg" --cflags sae) libs=$("$pkg" --libs sae)
    "$pkg" --modversion sae > "$tmp/log" 2>&1
    if [ "$(cat "$tmp/log")" = "$version" ]; then good; else bad "pkg-config --modversion"; fi
    try "pkg-config: the implementation" $CC -O0 $flags -c "$tmp/user/implementation.c" -o "$tmp/impl.o"
    define="-DVERSION=\"$version\""
    try "pkg-config: C" $CC "$define" $flags "$tmp/user/main.c" "$tmp/impl.o" $libs -o "$tmp/c"
    try "pkg-config: C runs" "$tmp/c"
    try "pkg-config: C++" $CXX "$define" $flags "$tmp/user/main_cpp.cpp" "$tmp/impl.o" $libs -o "$tmp/cpp"
    try "pkg-config: C++ runs" "$tmp/cpp"
else echo "SKIPPED: pkg-config is not installed: sae.pc is not tried"
fi

# ---- CMake ----
project() { # project FOLDER LINE...: a project of two programs that gets sae by the lines
    folder=$1; shift
    mkdir -p "$tmp/$folder"
    cp "$tmp/user"/* "$tmp/$folder"
    {
        echo 'cmake_minimum_required(VERSION 3.14)'
        echo 'project(user C CXX)'
        for line in "$@"; do echo "$line"; done
        echo "add_compile_definitions(VERSION=\"$version\")"
    } > "$tmp/$folder/CMakeLists.txt"
}
header='add_library(implementation STATIC implementation.c)
target_link_libraries(implementation PUBLIC sae::sae)
add_executable(in_c main.c)
target_link_libraries(in_c implementation)
add_executable(in_cpp main_cpp.cpp)
target_link_libraries(in_cpp implementation)'
static='add_executable(in_c main.c)
target_link_libraries(in_c sae::static)
add_executable(in_cpp main_cpp.cpp)
target_link_libraries(in_cpp sae::static)'
build() { # build FOLDER [OPTION...]
    folder=$1; shift
    try "$folder: cmake" cmake -S "$tmp/$folder" -B "$tmp/$folder/build" "$@"
    try "$folder: building" cmake --build "$tmp/$folder/build"
    try "$folder: C runs" "$tmp/$folder/build/in_c"
    try "$folder: C++ runs" "$tmp/$folder/build/in_cpp"
}
if command -v cmake > /dev/null; then
    series=${version%.*}
    project find "find_package(sae $series REQUIRED)" "$header"
    build find -DCMAKE_PREFIX_PATH="$tmp/prefix"
    project newer "find_package(sae 99.0 REQUIRED)"
    if cmake -S "$tmp/newer" -B "$tmp/newer/build" -DCMAKE_PREFIX_PATH="$tmp/prefix" > "$tmp/log" 2>&1
    then bad "find_package takes $version for 99.0"; else good; fi
    project subdirectory "add_subdirectory(\"$root\" sae)" "$header"
    build subdirectory
    # CMake's own install, with the library
    try "cmake of sae.h" cmake -S "$root" -B "$tmp/own" -DSAE_LIBRARY=ON -DCMAKE_INSTALL_PREFIX="$tmp/with"
    try "building sae::static" cmake --build "$tmp/own"
    try "cmake --install" cmake --install "$tmp/own"
    project static "find_package(sae $version REQUIRED)" "$static"
    build static -DCMAKE_PREFIX_PATH="$tmp/with"
    for f in include/sae.h include/sae_cuda.cuh include/sae_lm.h share/pkgconfig/sae.pc share/cmake/sae/sae-config.cmake; do
        if [ -s "$tmp/with/$f" ]; then good; else bad "cmake --install: $f"; fi
    done
else echo "SKIPPED: cmake is not installed: find_package and add_subdirectory are not tried"
fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
