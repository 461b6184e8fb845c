# NATS with JetStream, Debian's.
# shellcheck shell=bash disable=SC2034,SC2154 # read and set by scripts/services

port=${DISPATCH_TEST_NATS_PORT:-15422}
processes=(nats)
ports=("$port")

ensure_installed() {
    command -v nats-server >/dev/null || apt_install nats-server
}

start() {
    spawn nats nats-server -n dispatch-test -a 127.0.0.1 -p "$port" -js -sd "$dir/data"
}

# The server speaks first: one INFO line, which says whether JetStream is on.
healthy() {
    # shellcheck disable=SC2016 # the inner shell expands
    timeout 3 bash -c 'read -r line <"/dev/tcp/127.0.0.1/$0" && [[ $line == "INFO "*\"jetstream\":true* ]]' "$port" 2>/dev/null
}

urls() {
    echo "DISPATCH_TEST_NATS_URL=nats://127.0.0.1:$port"
}
