# NSQ: nsqd, registered with one nsqlookupd. Not in Debian; built from its Go module.
# shellcheck shell=bash disable=SC2034,SC2154 # read and set by scripts/services

version=v1.3.0
port=${DISPATCH_TEST_NSQD_PORT:-15450}
http_port=${DISPATCH_TEST_NSQD_HTTP_PORT:-15451}
lookup_port=${DISPATCH_TEST_NSQLOOKUPD_PORT:-15460}
lookup_http_port=${DISPATCH_TEST_NSQLOOKUPD_HTTP_PORT:-15461}
processes=(nsqlookupd nsqd)
ports=("$port" "$http_port" "$lookup_port" "$lookup_http_port")
bin=$state/bin

ensure_installed() {
    [[ ! -x $bin/nsqd || ! -x $bin/nsqlookupd ]] || return 0
    command -v go >/dev/null || apt_install golang-go
    say "building nsqd and nsqlookupd $version"
    mkdir -p "$bin"
    (
        # Not `go install`, which refuses a module whose go.mod replaces a dependency, as this one does.
        # Built inside its own source instead, where its go.mod and go.sum decide what goes in.
        # GOTOOLCHAIN=local: with the Go at hand, never with one that it fetches.
        export GOTOOLCHAIN=local
        source=$(timeout 300 go mod download -json "github.com/nsqio/nsq@$version" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p') &&
            cd "${source:?}" && timeout 900 go build -o "$bin/" ./apps/nsqd ./apps/nsqlookupd
    ) >>"$dir/install.log" 2>&1 ||
        die "building failed: $(tail -n 3 "$dir/install.log" | tr '\n' ' ')(all of it in $dir/install.log)"
}

start() {
    mkdir -p "$dir/data"
    spawn nsqlookupd "$bin/nsqlookupd" -broadcast-address 127.0.0.1 \
        -tcp-address "127.0.0.1:$lookup_port" -http-address "127.0.0.1:$lookup_http_port"
    spawn nsqd "$bin/nsqd" -broadcast-address 127.0.0.1 -data-path "$dir/data" \
        -tcp-address "127.0.0.1:$port" -http-address "127.0.0.1:$http_port" -lookupd-tcp-address "127.0.0.1:$lookup_port"
}

healthy() {
    http_ok "$http_port" /ping && http_ok "$lookup_http_port" /ping
}

urls() {
    echo "DISPATCH_TEST_NSQD_URL=nsq://127.0.0.1:$port"
    echo "DISPATCH_TEST_NSQD_HTTP_URL=http://127.0.0.1:$http_port"
    echo "DISPATCH_TEST_NSQLOOKUPD_URL=http://127.0.0.1:$lookup_http_port"
}
