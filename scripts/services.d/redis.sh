# Redis, Debian's, in memory alone: nothing is written to disk, and a stop forgets everything.
# shellcheck shell=bash disable=SC2034,SC2154 # read and set by scripts/services

port=${DISPATCH_TEST_REDIS_PORT:-15479}
processes=(redis)
ports=("$port")

ensure_installed() {
    command -v redis-server >/dev/null || apt_install redis-server
}

start() {
    mkdir -p "$dir/data"
    # `-` reads the configuration from standard input, which is empty: only what stands here holds, not /etc/redis.
    spawn redis redis-server - --bind 127.0.0.1 --port "$port" --save '' --appendonly no --dir "$dir/data"
}

# Redis answers commands sent as plain lines.
healthy() {
    # shellcheck disable=SC2016 # the inner shell expands
    timeout 3 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" && printf "PING\r\n" >&3 && read -r line <&3 && [[ $line == +PONG* ]]' \
        "$port" 2>/dev/null
}

urls() {
    echo "DISPATCH_TEST_REDIS_URL=redis://127.0.0.1:$port/"
}
