# PgBouncer, Debian's, in transaction mode before the PostgreSQL of postgres.sh; that one is started by its own name.
# Debian 12's (1.18) knows no prepared statements in this mode.
# shellcheck shell=bash disable=SC2034,SC2154 # read and set by scripts/services

port=${DISPATCH_TEST_PGBOUNCER_PORT:-15433}
server_port=${DISPATCH_TEST_POSTGRES_PORT:-15432}
processes=(pgbouncer)
ports=("$port")
stop_signal=INT # lets transactions end; TERM ends them

# PgBouncer refuses to run as root. See postgres.sh for setpriv.
as_server=()
((EUID != 0)) || as_server=(setpriv --reuid=postgres --regid=postgres --init-groups)

ensure_installed() {
    command -v pgbouncer >/dev/null || apt_install pgbouncer
    # Debian's package of the server makes the user.
    ((EUID != 0)) || id postgres >/dev/null 2>&1 || apt_install postgresql
}

start() {
    # Any client is the role `dispatch`, whose password stands in the URL of postgres.sh anyway.
    cat >"$dir/pgbouncer.ini" <<END
[databases]
* = host=127.0.0.1 port=$server_port user=dispatch password=dispatch
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 10
max_client_conn = 500
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
END
    # By descriptor: the directories on the way to the file may be closed to that user.
    spawn pgbouncer "${as_server[@]}" pgbouncer /dev/fd/6 6<"$dir/pgbouncer.ini"
}

# Answers the request for TLS (length 8, code 80877103) with one letter. A server behind it is not needed for that.
healthy() {
    # shellcheck disable=SC2016 # the inner shell expands
    [[ $(timeout 3 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" && printf "\0\0\0\010\004\322\026\057" >&3 && head -c 1 <&3' \
        "$port" 2>/dev/null) == [NS] ]]
}

urls() {
    echo "DISPATCH_TEST_PGBOUNCER_URL=postgres://dispatch:dispatch@127.0.0.1:$port/dispatch"
}
