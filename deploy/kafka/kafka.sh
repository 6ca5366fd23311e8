#!/usr/bin/env bash
# One Apache Kafka node (KRaft, broker and controller in one JVM) on the loopback interface, for tests and local use.
#
#   kafka.sh start DIR [PORT] [--parent PID [--temporary]]   start; prints the broker's address, e.g. 127.0.0.1:21234
#   kafka.sh stop DIR                                        stop; data and port are kept for the next start
#   kafka.sh status DIR                                      print the address; exit 1 when it does not answer
#   kafka.sh wipe DIR                                        stop, then delete what `start` made in DIR
#   kafka.sh fetch                                           fetch the jars only
#
# --parent PID    a watchdog stops the broker once process PID has gone, however it went.
# --temporary     the watchdog also wipes DIR then.
#
# Environment: KAFKA_VERSION (default: the version of pom.xml; 3.9.x works too), KAFKA_HEAP (512m),
# KAFKA_START_SECONDS (60), KAFKA_JVM_FLAGS (added last), JAVA_HOME.
#
# Everything a node owns lies under DIR: server.properties, data/, kafka.log, console.log, port, version, pid. Only the
# jars are shared: Maven's own cache, and one class path file per version under target/.
# INVARIANT: only a process whose command line names this DIR's server.properties is ever signalled, and only a DIR
# that carries the marker line in its server.properties is ever wiped.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
marker='# Written by deploy/kafka/kafka.sh; the folder belongs to it.'
address=127.0.0.1

die() { echo "kafka.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
need() { command -v "$1" >/dev/null 2>&1 || die "$1 not found: $2"; }

# ---- Java and the jars ----------------------------------------------------------------------------------------------

pom_version() { sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$here/pom.xml"; }

find_java() {
    if [[ -n ${JAVA_HOME:-} ]]; then
        java=$JAVA_HOME/bin/java
        [[ -x $java ]] || die "JAVA_HOME is $JAVA_HOME, but $java cannot be run"
    else
        need java "install a Java 17 runtime (Debian, Ubuntu: openjdk-17-jre-headless)"
        java=java
    fi
    local wanted=17 have
    [[ $version == 3.* ]] && wanted=11
    have=$("$java" -version 2>&1 | sed -n 's/.* version "\(1\.\)\{0,1\}\([0-9]*\).*/\2/p' | head -n 1)
    [[ -n $have ]] || die "cannot tell the version of $java"
    (( have >= wanted )) || die "Kafka $version needs Java $wanted or later, $java is $have"
}

classpath_is_whole() {
    local jar
    [[ -s $1 ]] || return 1
    while IFS= read -r -d : jar; do [[ -f $jar ]] || return 1; done < <(cat "$1"; printf ':')
}

# Sets $classpath. Parallel test processes ask at the same time: one fetches, the others wait for it.
fetch() {
    local file=$here/target/classpath-$version profile=kafka-4
    [[ $version == 3.* ]] && profile=kafka-3
    if ! classpath_is_whole "$file"; then
        need mvn "install Maven (Debian, Ubuntu: maven)"
        mkdir -p "$here/target"
        (
            flock 8
            classpath_is_whole "$file" && exit 0
            echo "kafka.sh: fetching Apache Kafka $version (about 50 MB, once)" >&2
            if ! mvn -q -B -Dstyle.color=never -f "$here/pom.xml" -P "$profile" -Dkafka.version="$version" \
                dependency:build-classpath -Dmdep.outputFile="$file.new" >"$file.log" 2>&1; then
                sed -n '/ERROR/{p;q;}' "$file.log" >&2
                die "Maven could not fetch Apache Kafka $version; its output is in $file.log"
            fi
            mv "$file.new" "$file"
        ) 8>"$here/target/lock"
    fi
    classpath=$(<"$file")
}

# ---- Processes ------------------------------------------------------------------------------------------------------

alive() { # PID: it exists and is not a zombie
    local state
    kill -0 "$1" 2>/dev/null || return 1
    [[ -r /proc/$1/stat ]] || return 0
    state=$(<"/proc/$1/stat") 2>/dev/null || return 1
    state=${state##*) }
    [[ ${state%% *} != Z ]]
}

born() { # PID: something that tells a process from a later one with the same number
    if [[ -r /proc/$1/stat ]]; then
        local stat fields
        stat=$(<"/proc/$1/stat") 2>/dev/null || return 1
        read -ra fields <<<"${stat##*) }"
        echo "${fields[19]}"
    else
        ps -o lstart= -p "$1"
    fi
}

command_line() {
    if [[ -d /proc/self ]]; then tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline"; else ps -o command= -p "$1"; fi
}

broker_pid() { # prints the broker's pid; fails when there is none
    local pid
    [[ -s $dir/pid ]] || return 1
    pid=$(<"$dir/pid")
    alive "$pid" && [[ $(command_line "$pid") == *"$dir/server.properties"* ]] && echo "$pid"
}

stop_broker() {
    local pid tenth
    if pid=$(broker_pid); then
        kill -TERM "$pid" 2>/dev/null || true
        for (( tenth = 0; tenth < 150; tenth++ )); do
            alive "$pid" || break
            sleep 0.1
        done
        if alive "$pid"; then
            kill -KILL "$pid" 2>/dev/null || true
            while alive "$pid"; do sleep 0.05; done
        fi
    fi
    rm -f "$dir/pid"
}

# ---- Ports and readiness --------------------------------------------------------------------------------------------

# SUBTLE: bash writes its own complaint about a refused connection, so the whole subshell is silenced.
port_is_free() { ! { (exec 3<>"/dev/tcp/$address/$1"); } 2>/dev/null; }

# Below the range from which Linux takes the local ports of outgoing connections.
choose_port() {
    local port attempt
    for (( attempt = 0; attempt < 200; attempt++ )); do
        port=$(( 15000 + (RANDOM * 32768 + RANDOM) % 17000 ))
        if [[ $port != "${1:-}" ]] && port_is_free "$port"; then echo "$port"; return; fi
    done
    die "no free port found between 15000 and 32000"
}

# Asks for metadata (version 1, no topics) and looks whether a live broker is listed: the port is open long before.
#   request:  size:4 api-key:2=3 version:2=1 correlation:4 client-id:2=-1(null) topics:4=0
#   response: size:4 correlation:4 brokers:4 ..
answers() {
    local bytes
    { bytes=$(
        exec 3<>"/dev/tcp/$address/$1"
        printf '\0\0\0\016\0\003\0\001\0\0\0\007\377\377\0\0\0\0' >&3
        timeout 2 head -c 12 <&3 | od -An -v -tx1 | tr -d ' \n'
    ); } 2>/dev/null || return 1
    [[ ${bytes:8:8} == 00000007 && ${#bytes} == 24 && ${bytes:16:8} != 00000000 ]]
}

# ---- Commands -------------------------------------------------------------------------------------------------------

write_properties() { # PORT CONTROLLER_PORT
    cat >"$dir/server.properties" <<PROPERTIES
$marker
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@$address:$2
listeners=BROKER://$address:$1,CONTROLLER://$address:$2
advertised.listeners=BROKER://$address:$1
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
log.dirs=$dir/data

# One node: one replica of everything, few partitions of what the broker keeps for itself.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=2
auto.create.topics.enable=false

# History is the truth and may be years old by event time: nothing is deleted by age, nor cut into weekly segments.
log.retention.ms=-1
log.roll.hours=876000

# Large documents.
message.max.bytes=33554432
replica.fetch.max.bytes=33554432
replica.fetch.response.max.bytes=67108864
socket.request.max.bytes=104857600

# Groups form, and members and transactions are missed, within seconds.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000

# A small process that comes and goes quickly.
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
broker.heartbeat.interval.ms=500
# What a restart after a kill waits for. Shorter than a pause of a busy disk, it fences a broker that is alive.
broker.session.timeout.ms=6000
PROPERTIES
}

# 16 random bytes, as Kafka writes a UUID: URL-safe base64 without padding, and not starting with a dash.
random_uuid() {
    local uuid
    uuid=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n')
    echo "A${uuid:1}"
}

# Words before a command that outlives its caller: Ctrl-C in the caller's terminal is not for it.
# SUBTLE: `exec setsid` keeps the process id, because a background child of a script leads no process group.
new_session=(nohup)
command -v setsid >/dev/null 2>&1 && new_session=(setsid)

jvm() { # [setsid|nohup] MAIN_CLASS ARGUMENT..: becomes that program
    local before=() flags=(-Dengram.kafka.dir="$dir" -Djava.awt.headless=true -Xshare:auto -XX:+UseSerialGC)
    if [[ $version == 3.* ]]; then
        flags+=(-Dlog4j.configuration="file:$here/log4j.properties")
    else
        flags+=(-Dlog4j2.configurationFile="file:$here/log4j2.properties")
    fi
    if [[ $1 == "${new_session[0]}" ]]; then before=("$1"); shift; fi
    # shellcheck disable=SC2086
    exec ${before[@]+"${before[@]}"} "$java" "${flags[@]}" ${KAFKA_JVM_FLAGS:-} -cp "$classpath" "$@"
}

explain_failure() {
    local line
    line=$(grep -hE '(ERROR|FATAL|Exception|Error)' "$dir/console.log" "$dir/kafka.log" 2>/dev/null | tail -n 3) || true
    [[ -n $line ]] || line=$(tail -qn 3 "$dir/console.log" "$dir/kafka.log" 2>/dev/null) || true
    printf '%s\n' "$line" >&2
    die "$1; the log is $dir/kafka.log"
}

# Runs until the broker answers. Returns 3 when the broker found its port taken by someone who was quicker.
launch() { # PORT
    local heap=${KAFKA_HEAP:-512m} pid deadline
    if [[ -f $dir/kafka.log ]]; then mv "$dir/kafka.log" "$dir/kafka.log.before"; fi
    # 9>&-: the folder's lock is not for the broker to keep.
    (jvm "${new_session[0]}" -Xms"$heap" -Xmx"$heap" kafka.Kafka "$dir/server.properties") \
        </dev/null >"$dir/console.log" 2>&1 9>&- &
    pid=$!
    echo "$pid" >"$dir/pid"
    deadline=$(( SECONDS + ${KAFKA_START_SECONDS:-60} ))
    until answers "$1"; do
        if ! alive "$pid"; then
            rm -f "$dir/pid"
            grep -qsE 'Address already in use|BindException' "$dir/kafka.log" "$dir/console.log" && return 3
            explain_failure "the broker ended before it was ready"
        fi
        if (( SECONDS >= deadline )); then
            stop_broker
            explain_failure "the broker was not ready after ${KAFKA_START_SECONDS:-60} s"
        fi
        sleep 0.1
    done
    disown "$pid" 2>/dev/null || true
}

start() {
    local port=${1:-} chosen=${1:-} controller attempt fresh=yes
    [[ -d $dir/data ]] && fresh=no
    if broker_pid >/dev/null; then
        port=$(<"$dir/port")
        [[ -z $chosen || $chosen == "$port" ]] || die "a broker already runs in $dir, on port $port"
        answers "$port" || die "a broker runs in $dir but does not answer on port $port; stop it first"
        return
    fi
    find_java
    fetch
    for (( attempt = 1; ; attempt++ )); do
        if [[ -s $dir/port && -z $chosen ]]; then port=$(<"$dir/port"); fi
        [[ -n $port ]] || port=$(choose_port)
        controller=$(choose_port "$port") # nobody else connects to it: a new one each time
        port_is_free "$port" || die "port $port is taken"
        write_properties "$port" "$controller"
        if [[ -n $parent ]]; then watch "$parent" "$temporary"; fi
        if [[ ! -f $dir/data/meta.properties ]]; then
            (jvm kafka.tools.StorageTool format -t "$(random_uuid)" -c "$dir/server.properties") \
                >"$dir/console.log" 2>&1 9>&- || explain_failure "the data folder could not be formatted"
        fi
        echo "$port" >"$dir/port"
        echo "$version" >"$dir/version"
        if launch "$port"; then return; fi
        (( attempt < 3 )) && [[ $fresh == yes && -z $chosen ]] || die "port $port or $controller is taken"
        rm -rf "$dir/data" "$dir/port"
        port=
    done
}

wipe() {
    [[ -d $dir ]] || return 0
    if [[ ! -f $dir/server.properties ]] || [[ $(head -n 1 "$dir/server.properties") != "$marker" ]]; then
        die "$dir was not made by kafka.sh: nothing deleted"
    fi
    stop_broker
    rm -rf "$dir/data"
    rm -f "$dir"/{kafka.log,kafka.log.*,console.log,port,version,pid,watchdog,lock,server.properties}
    rmdir "$dir" 2>/dev/null || true
}

# One per folder and parent; ends with the parent or with the folder.
watch() { # PARENT yes|no
    local parent_born
    parent_born=$(born "$1") || return 0
    if [[ -s $dir/watchdog ]]; then
        local pid
        pid=$(<"$dir/watchdog")
        alive "$pid" && [[ $(command_line "$pid") == *"watch $dir $1 "* ]] && return 0
    fi
    "${new_session[@]}" "$here/kafka.sh" watch "$dir" "$1" "$parent_born" "$2" </dev/null >/dev/null 2>&1 9>&- &
    echo $! >"$dir/watchdog"
    disown
}

watchdog() { # PARENT BORN yes|no
    while [[ -f $dir/server.properties ]]; do
        if ! alive "$1" || [[ $(born "$1") != "$2" ]]; then
            lock
            if [[ $3 == yes ]]; then wipe; else stop_broker; fi
            return
        fi
        sleep 0.5
    done
}

lock() { # of the folder: start, stop and wipe take turns
    need flock "install util-linux"
    exec 9>"$dir/lock"
    flock 9
}

command=${1:-}
[[ -n $command ]] || usage
shift
version=${KAFKA_VERSION:-}
if [[ $command != fetch ]]; then
    [[ -n ${1:-} ]] || usage
    [[ $1 != *[,\\]* ]] || die "a folder's name may hold neither comma nor backslash: $1"
    if [[ $command == start ]]; then mkdir -p "$1"; fi
    if [[ ! -d $1 ]]; then
        case $command in
            status) die "no broker in $1" ;;
            *) exit 0 ;;
        esac
    fi
    dir=$(cd "$1" && pwd -P)
    shift
    # A folder keeps the version that made it.
    [[ -n $version ]] || version=$(cat "$dir/version" 2>/dev/null) || true
fi
[[ -n $version ]] || version=$(pom_version)

case $command in
    start)
        wanted='' parent='' temporary=no
        while (( $# > 0 )); do
            case $1 in
                --parent)
                    parent=${2:-}
                    [[ $parent =~ ^[0-9]+$ ]] || die "--parent takes a process id"
                    alive "$parent" || die "there is no process $parent"
                    shift
                    ;;
                --temporary) temporary=yes ;;
                *)
                    [[ $1 =~ ^[0-9]+$ ]] && (( $1 > 0 && $1 < 65536 )) || die "not a port: $1"
                    wanted=$1
                    ;;
            esac
            shift
        done
        [[ $temporary == no || -n $parent ]] || die "--temporary needs --parent"
        lock
        start "$wanted"
        echo "$address:$(<"$dir/port")"
        ;;
    stop) lock; stop_broker ;;
    wipe) lock; wipe ;;
    status)
        broker_pid >/dev/null || die "no broker runs in $dir"
        answers "$(<"$dir/port")" || die "the broker in $dir does not answer"
        echo "$address:$(<"$dir/port")"
        ;;
    fetch) find_java; fetch ;;
    watch) watchdog "$@" ;;
    *) usage ;;
esac
