# PostgreSQL, Debian's. The role `dispatch` is a superuser, so that tests may make databases and end each other's connections.
# shellcheck shell=bash disable=SC2034,SC2154 # read and set by scripts/services

port=${DISPATCH_TEST_POSTGRES_PORT:-15432}
password=dispatch
processes=(postgres)
ports=("$port")
stop_signal=INT # "fast": TERM would wait until every client has left

# Debian keeps each major version in a directory of its own and off the PATH; with the client alone there is no initdb.
bin=
for candidate in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V); do
    [[ ! -x $candidate/initdb ]] || bin=$candidate
done

# PostgreSQL refuses to run as root. setpriv, not runuser, because it execs: the recorded pid is then the server's own.
as_server=()
((EUID != 0)) || as_server=(setpriv --reuid=postgres --regid=postgres --init-groups)

ensure_installed() {
    if [[ -z $bin ]]; then
        apt_install postgresql
        # shellcheck source=/dev/null
        source "${BASH_SOURCE[0]}"
        [[ -n $bin ]] || die "Debian's postgresql is installed but has no initdb"
    fi
}

# Sets `home`, a directory that the server's user owns and can reach.
prepare_home() {
    if [[ ! -d $dir/home ]]; then
        rm -f "$dir/home" # a link to a directory that is gone
        mkdir "$dir/home"
    fi
    home=$(readlink -f "$dir/home")
    ((EUID == 0)) || return 0
    chown postgres: "$home"
    if ! "${as_server[@]}" test -w "$home"; then
        # Some parent is closed to other users (a private home directory, say). It is not ours to open: the data moves out.
        rmdir "$dir/home"
        home=$(mktemp -d /var/tmp/dispatch-postgres.XXXXXX)
        chown postgres: "$home"
        ln -s "$home" "$dir/home"
    fi
}

start() {
    local home data
    prepare_home
    # Data of another major version is of no use to this one.
    data=$home/data-$(basename "$(dirname "$bin")")
    if [[ ! -e $data/PG_VERSION ]]; then
        # Built aside and renamed, so that an interrupted initdb is not taken for a database.
        rm -rf "$data.new"
        # shellcheck disable=SC2016 # the inner shell expands
        "${as_server[@]}" sh -c 'umask 077; printf "%s" "$1" >"$0"' "$home/password" "$password"
        "${as_server[@]}" "$bin/initdb" --pgdata="$data.new" --username=dispatch --pwfile="$home/password" \
            --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 >>"$dir/log" 2>&1
        "${as_server[@]}" "$bin/postgres" --single -D "$data.new" postgres >>"$dir/log" 2>&1 <<<'CREATE DATABASE dispatch'
        mv "$data.new" "$data"
    fi
    # fsync and synchronous_commit stay on: tests of durability, and every figure taken here, would mean nothing without.
    spawn postgres "${as_server[@]}" "$bin/postgres" -D "$data" \
        -c listen_addresses=127.0.0.1 -c port="$port" -c unix_socket_directories= \
        -c max_connections=200 -c fsync=on -c synchronous_commit=on
}

healthy() {
    [[ -n $bin ]] && PGCONNECT_TIMEOUT=3 "$bin/psql" -X -Atq -c 'SELECT 1' "$(urls | cut -d= -f2-)" >/dev/null 2>&1
}

urls() {
    echo "DISPATCH_TEST_POSTGRES_URL=postgres://dispatch:$password@127.0.0.1:$port/dispatch"
}
