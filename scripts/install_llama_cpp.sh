#!/usr/bin/env bash
# Installs llama-cpp-python into a virtual environment: scripts/install_llama_cpp.sh VENV [CONSTRAINTS]
#
# There is a source distribution only. Of it the library alone is built, without tools, server and image models, which
# takes half as long. The wheel is kept in the user's cache for every other environment on a processor of the same kind:
# one build at a time, the others wait for it. Where it cannot be built, that is said and nothing else fails: the tests
# that need it are skipped.
set -uo pipefail

python="$1/bin/python"
constraints=${2:-constraints.txt}
version=$(sed -n 's/^llama-cpp-python==//p' constraints.txt)
if "$python" -c "import llama_cpp, sys; sys.exit(llama_cpp.__version__ != '$version')" 2>/dev/null; then exit 0; fi

# The library is compiled for this processor.
processor=$( (uname -sm; grep -m 1 -E '^(flags|Features)' /proc/cpuinfo || sysctl -n machdep.cpu.brand_string) 2>/dev/null |
    cksum | cut -d ' ' -f 1)
root="${XDG_CACHE_HOME:-$HOME/.cache}/kv_memory"
cache="$root/llama-cpp-python-$version-$processor"
log="$cache/build.log"

skip() {
    echo "llama-cpp-python cannot be $1 here: GGUF models are not available and their tests are skipped."
    exit 0
}

wheel() { find "$cache" -name '*.whl' | head -n 1; }

build() {
    local work=$1
    # pip's environment for the build is held to the same versions: by the one variable before pip 25.3, by the other since
    cp "$constraints" "$work/pins.txt"
    export PIP_CONSTRAINT="$work/pins.txt" PIP_BUILD_CONSTRAINT="$work/pins.txt"
    "$python" -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$work" "llama-cpp-python==$version" &&
        tar -xzf "$work"/llama_cpp_python-*.tar.gz -C "$work" --strip-components 1 &&
        sed -i.before 's/set(LLAMA_BUILD_COMMON ON /set(LLAMA_BUILD_COMMON OFF /' "$work/CMakeLists.txt" &&
        CMAKE_BUILD_PARALLEL_LEVEL=$(getconf _NPROCESSORS_ONLN) \
            CMAKE_ARGS="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF \
                -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF -DGGML_NATIVE=ON" \
            "$python" -m pip wheel --verbose --no-deps --wheel-dir "$work/built" "$work"
}

minutes() { echo "$(($1 / 60)) min $(($1 % 60)) s"; }

# A line each half minute, as long as this script runs
report() {
    local said=0
    while sleep 1 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
        if ((SECONDS - said >= 30)); then
            said=$SECONDS
            echo "  ... $(minutes "$said") $(grep -oE '\[ *[0-9]+(/[0-9]+|%)\]' "$log" | tail -n 1)"
        fi
    done
}

mkdir -p "$cache" || skip built
if [ -z "$(wheel)" ]; then
    # The lock is let go when the last process that holds the file ends, however it ends. Python has it on every system.
    exec 9>"$cache/lock"
    locked() { "$python" -c "import fcntl; fcntl.flock(9, fcntl.LOCK_EX | $1)" 2>/dev/null; }
    if ! locked fcntl.LOCK_NB; then
        echo "Waiting for llama-cpp-python $version, which another environment on this machine is building; log: $log"
        locked 0
    fi
    if [ -z "$(wheel)" ]; then
        echo "Building llama-cpp-python $version, once for this machine: 4 minutes on two idle cores, up to 15 on busy ones;" \
            "log: $log"
        SECONDS=0
        work=$(mktemp -d) || skip built
        report 9>&- &
        reporter=$!
        trap 'kill "$reporter" 2>/dev/null; rm -rf "$work"' EXIT
        build "$work" >"$log" 2>&1
        built=$?
        kill "$reporter"
        if [ "$built" != 0 ]; then
            tail -n 5 "$log"
            skip built
        fi
        # moved within the cache: another environment finds a whole wheel there or none
        file=$(basename "$work"/built/*.whl)
        if ! { cp "$work/built/$file" "$cache/.$file.part" && mv "$cache/.$file.part" "$cache/$file"; }; then skip built; fi
        echo "Built in $(minutes "$SECONDS"); kept as $cache/$file"
    fi
    exec 9>&-
fi
"$python" -m pip install --quiet --constraint "$constraints" "$(wheel)" || skip installed
