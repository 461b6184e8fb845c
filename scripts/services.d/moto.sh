# moto: Amazon's services in Python, from the Python index; a second opinion on the wire of SQS, and S3.
# Slow (tens of messages a second), and it deletes under stale handles: for correctness only.
# shellcheck shell=bash disable=SC2034,SC2154 # read and set by scripts/services

version=5.2.5
port=${DISPATCH_TEST_MOTO_PORT:-15485}
processes=(moto)
ports=("$port")
ready_within=60
venv=$state/lib/moto-$version

ensure_installed() {
    [[ ! -e $venv/complete ]] || return 0
    if ! command -v python3 >/dev/null || ! python3 -c 'import ensurepip' 2>/dev/null; then
        apt_install python3 python3-venv
    fi
    say "fetching moto $version"
    mkdir -p "$(dirname "$venv")"
    { python3 -m venv "$venv" && timeout 600 "$venv/bin/pip" install -q "moto[server,s3,sqs]==$version"; } >>"$dir/install.log" 2>&1 ||
        die "fetching failed: $(tail -n 3 "$dir/install.log" | tr '\n' ' ')(all of it in $dir/install.log)"
    : >"$venv/complete"
}

start() {
    spawn moto "$venv/bin/moto_server" -H 127.0.0.1 -p "$port"
}

healthy() {
    http_ok "$port" /moto-api/data.json
}

urls() {
    echo "DISPATCH_TEST_MOTO_URL=http://127.0.0.1:$port"
}
