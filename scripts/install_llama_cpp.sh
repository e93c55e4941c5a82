#!/usr/bin/env bash
# Installs llama-cpp-python into a virtual environment: scripts/install_llama_cpp.sh VENV
#
# There is a source distribution only. Of it the library alone is built, without tools, server and image models, which
# takes half as long; the wheel is kept for the next environment on a processor of the same kind. Where it cannot be
# built, that is said and nothing else fails: the tests that need it are skipped.
set -uo pipefail

pip="$1/bin/pip"
version=$(sed -n 's/^llama-cpp-python==//p' constraints.txt)
if "$1/bin/python" -c "import llama_cpp, sys; sys.exit(llama_cpp.__version__ != '$version')" 2>/dev/null; then exit 0; fi

# The library is compiled for this processor.
processor=$( (uname -sm; grep -m 1 -E '^(flags|Features)' /proc/cpuinfo || sysctl -n machdep.cpu.brand_string) 2>/dev/null |
    cksum | cut -d ' ' -f 1)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/kv_memory/llama-cpp-python-$version-$processor"

build() {
    local work
    work=$(mktemp -d) || return 1
    trap 'rm -rf "$work"' RETURN
    "$pip" download --quiet --no-deps --no-binary llama-cpp-python --dest "$work" "llama-cpp-python==$version" &&
        tar -xzf "$work"/llama_cpp_python-*.tar.gz -C "$work" --strip-components 1 &&
        sed -i.before 's/set(LLAMA_BUILD_COMMON ON /set(LLAMA_BUILD_COMMON OFF /' "$work/CMakeLists.txt" &&
        CMAKE_BUILD_PARALLEL_LEVEL=$(getconf _NPROCESSORS_ONLN) \
            CMAKE_ARGS="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF \
                -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF -DGGML_NATIVE=ON" \
            "$pip" wheel --quiet --no-deps --wheel-dir "$work/built" "$work" &&
        mkdir -p "$cache" && mv "$work"/built/*.whl "$cache/"
}

if ! ls "$cache"/*.whl >/dev/null 2>&1; then
    echo "Building llama-cpp-python $version, once for this machine (about three minutes) ..."
    log=$(mktemp)
    if ! build >"$log" 2>&1; then
        tail -n 5 "$log"
        echo "llama-cpp-python cannot be built here: GGUF models are not available and their tests are skipped."
        exit 0
    fi
fi
"$pip" install --quiet --constraint constraints.txt "$cache"/*.whl ||
    echo "llama-cpp-python cannot be installed here: GGUF models are not available and their tests are skipped."
