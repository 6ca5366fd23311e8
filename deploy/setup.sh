#!/usr/bin/env bash
# Installs what this machine lacks (Debian, Ubuntu), or says what to install (elsewhere).
#
#   setup.sh build    to build and run Engram: a C++ compiler, cmake, libclang, and the headers of curl, OpenSSL and zlib
#   setup.sh all      the tests too: Java and Maven (Apache Kafka), Python with venv (Confluent's client, and the libraries that
#                     models are compared with), Node 18 or later with npm (Yjs editors)
#
# Each need is looked for by what it provides, not by a package's name, so that any way of installing it will do.
set -euo pipefail

die() { echo "setup.sh: $*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }
has_header() { echo "#include <$1>" | c++ -E -x c++ - >/dev/null 2>&1; }
# The library itself (not libclang-cpp, which clang-format and the like bring) and the compiler's own headers.
has_libclang() {
    [[ -z ${LIBCLANG_PATH:-} ]] || return 0
    local dirs=(/usr/lib/llvm-*/lib)
    ! has llvm-config || dirs+=("$(llvm-config --libdir)")
    local dir
    for dir in "${dirs[@]}"; do
        compgen -G "$dir/libclang.*" >/dev/null || compgen -G "$dir/libclang-[0-9]*" >/dev/null || continue
        compgen -G "$dir/clang/*/include/stddef.h" >/dev/null && return 0
    done
    return 1
}
has_java_17() {
    local java=java major
    [[ -z ${JAVA_HOME:-} ]] || java=$JAVA_HOME/bin/java
    has "$java" || return 1
    major=$("$java" -version 2>&1 | sed -n 's/.* version "\(1\.\)\{0,1\}\([0-9]*\).*/\2/p' | head -n 1)
    [[ -n $major ]] && (( major >= 17 ))
}
has_node_18() {
    local version
    has node && has npm || return 1
    version=$(node --version)
    version=${version#v}
    (( ${version%%.*} >= 18 ))
}
# 17 is what Kafka 4 asks for; releases that no longer carry it carry a later one.
java_package() {
    if apt-cache show openjdk-17-jre-headless >/dev/null 2>&1; then
        echo openjdk-17-jre-headless
    else
        echo default-jre-headless
    fi
}

missing=()
find_missing() {
    missing=()
    has c++ || missing+=(g++)
    has cmake || missing+=(cmake)
    has pkg-config || missing+=(pkg-config)
    has_libclang || missing+=(libclang-dev)
    has_header curl/curl.h || missing+=(libcurl4-openssl-dev)
    has_header openssl/ssl.h || missing+=(libssl-dev)
    has_header zlib.h || missing+=(zlib1g-dev)
    [[ $1 == all ]] || return 0
    has_java_17 || missing+=("$(java_package)")
    has mvn || missing+=(maven)
    python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || missing+=(python3-venv)
    has_node_18 || missing+=(nodejs npm)
}

case ${1:-} in
    build | all) what=$1 ;;
    *) sed -n '2,/^$/{/^set/,$d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2 ;;
esac

has cargo || die "cargo not found: install Rust from https://rustup.rs"
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml" | head -n 1)
have=$(cargo --version | sed 's/cargo \([0-9]*\.[0-9]*\).*/\1/')
[[ $(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1) == "$wanted" ]] ||
    die "Rust $wanted or later is needed, this is $have: rustup update stable"

find_missing "$what"
(( ${#missing[@]} > 0 )) || exit 0

if ! has apt-get; then
    echo "setup.sh: not found on this machine (by the names of their Debian packages): ${missing[*]}" >&2
    if [[ $(uname -s) == Darwin ]]; then
        echo "setup.sh: xcode-select --install && brew install cmake pkg-config llvm curl openssl zlib openjdk@17 maven python node flock" >&2
    fi
    exit 1
fi
as_root=()
if [[ $(id -u) != 0 ]]; then
    has sudo || die "neither root nor sudo: have someone run  apt-get install ${missing[*]}"
    as_root=(sudo)
fi
echo "setup.sh: installing ${missing[*]}" >&2
${as_root[@]+"${as_root[@]}"} apt-get update -qq
# The lists are new: the choice of Java may be another, and headers could not be looked for without a compiler.
find_missing "$what"
${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
find_missing "$what"
(( ${#missing[@]} == 0 )) || die "still not found after installing: ${missing[*]}"
