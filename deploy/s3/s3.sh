#!/usr/bin/env bash
# One S3-compatible server (S3Proxy over a folder) on the loopback interface, for tests and local use.
#
#   s3.sh start DIR [--parent PID]   start; prints its URL, e.g. http://127.0.0.1:21234
#   s3.sh stop DIR                   stop; what it stores in DIR/data is kept
#   s3.sh fetch                      fetch the jars only
#
# --parent PID    it stops once process PID has gone, however it went.
#
# The bucket is `engram`, the access key `engram`, the secret `engram-secret`. Everything lies under DIR.
# INVARIANT: only a process whose command line names this DIR's s3proxy.conf is ever signalled.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
address=127.0.0.1

die() { echo "s3.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
need() { command -v "$1" >/dev/null 2>&1 || die "$1 not found: $2"; }

# Sets $classpath. Parallel test processes ask at the same time: one fetches, the others wait for it.
fetch() {
    local file=$here/target/classpath
    if [[ ! -s $file ]]; then
        need mvn "install Maven (Debian, Ubuntu: maven)"
        mkdir -p "$here/target"
        (
            flock 8
            [[ -s $file ]] && exit 0
            echo "s3.sh: fetching S3Proxy (about 60 MB, once)" >&2
            if ! mvn -q -B -Dstyle.color=never -f "$here/pom.xml" \
                dependency:build-classpath -Dmdep.outputFile="$file.new" >"$file.log" 2>&1; then
                sed -n '/ERROR/{p;q;}' "$file.log" >&2
                die "Maven could not fetch S3Proxy; its output is in $file.log"
            fi
            mv "$file.new" "$file"
        ) 8>"$here/target/lock"
    fi
    classpath=$(<"$file")
}

server_pid() { # prints the server's pid; fails when there is none
    local pid
    [[ -s $dir/pid ]] || return 1
    pid=$(<"$dir/pid")
    kill -0 "$pid" 2>/dev/null && [[ $(ps -o args= -p "$pid") == *"$dir/s3proxy.conf"* ]] && echo "$pid"
}

stop() {
    local pid tenth
    pid=$(server_pid) || return 0
    kill -TERM "$pid" 2>/dev/null || true
    for (( tenth = 0; tenth < 50; tenth++ )); do
        server_pid >/dev/null || break
        sleep 0.1
    done
    if server_pid >/dev/null; then kill -KILL "$pid" 2>/dev/null || true; fi
    rm -f "$dir/pid"
}

# SUBTLE: bash writes its own complaint about a refused connection, so the whole subshell is silenced.
is_open() { { (exec 3<>"/dev/tcp/$address/$1"); } 2>/dev/null; }

choose_port() {
    local port attempt
    for (( attempt = 0; attempt < 200; attempt++ )); do
        port=$(( 15000 + (RANDOM * 32768 + RANDOM) % 17000 ))
        if ! is_open "$port"; then echo "$port"; return; fi
    done
    die "no free port found between 15000 and 32000"
}

start() { # [PARENT]
    local port tenth pid
    need java "install a Java 17 runtime (Debian, Ubuntu: openjdk-17-jre-headless)"
    fetch
    if server_pid >/dev/null; then die "a server already runs in $dir"; fi
    mkdir -p "$dir/data/engram"
    port=$(choose_port)
    cat >"$dir/s3proxy.conf" <<PROPERTIES
s3proxy.endpoint=http://$address:$port
s3proxy.authorization=aws-v2-or-v4
s3proxy.identity=engram
s3proxy.credential=engram-secret
jclouds.provider=filesystem-nio2
jclouds.filesystem.basedir=$dir/data
jclouds.identity=local
jclouds.credential=local
PROPERTIES
    setsid java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dlogback.configurationFile="$here/logback.xml" \
        -cp "$classpath" org.gaul.s3proxy.Main --properties "$dir/s3proxy.conf" \
        >"$dir/console.log" 2>&1 </dev/null &
    pid=$!
    echo "$pid" >"$dir/pid"
    if [[ -n ${1:-} ]]; then
        setsid bash -c 'while kill -0 "$1" 2>/dev/null && kill -0 "$2" 2>/dev/null; do sleep 0.5; done; kill "$2" 2>/dev/null' \
            s3-watchdog "$1" "$pid" >/dev/null 2>&1 </dev/null &
    fi
    for (( tenth = 0; tenth < 600; tenth++ )); do
        if is_open "$port"; then echo "http://$address:$port"; return; fi
        kill -0 "$pid" 2>/dev/null || die "the server has ended: see $dir/console.log"
        sleep 0.1
    done
    stop
    die "the server does not answer: see $dir/console.log"
}

[[ $# -ge 1 ]] || usage
command=$1
shift
if [[ $command == fetch ]]; then
    [[ $# -eq 0 ]] || usage
    fetch
    exit 0
fi
[[ $# -ge 1 ]] || usage
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift
case $command in
    start)
        case $# in
            0) start ;;
            2) [[ $1 == --parent && $2 =~ ^[0-9]+$ ]] || usage; start "$2" ;;
            *) usage ;;
        esac
        ;;
    stop) [[ $# -eq 0 ]] || usage; stop ;;
    *) usage ;;
esac
