# RabbitMQ, Debian's, with a node name, a cookie and an Erlang port mapper of its own beside any that the system runs.
# shellcheck shell=bash disable=SC2034,SC2154 # read and set by scripts/services

port=${DISPATCH_TEST_AMQP_PORT:-15472}
dist_port=${DISPATCH_TEST_AMQP_DIST_PORT:-15473}
epmd_port=${DISPATCH_TEST_AMQP_EPMD_PORT:-15474}
processes=(epmd rabbitmq)
ports=("$port" "$dist_port" "$epmd_port")
ready_within=90 # the Erlang VM and its database boot slowly on a busy machine
server=/usr/lib/rabbitmq/bin/rabbitmq-server # Debian's wrapper on the PATH runs as the user rabbitmq, in /var

ensure_installed() {
    [[ -x $server ]] || apt_install rabbitmq-server
}

start() {
    mkdir -p "$dir/home" "$dir/data"
    cat >"$dir/rabbitmq.conf" <<END
listeners.tcp.test = 127.0.0.1:$port
default_user = dispatch
default_pass = dispatch
log.console = true
log.file = false
END
    echo '[].' >"$dir/enabled_plugins"
    : >"$dir/rabbitmq-env.conf" # instead of the system's

    # Started here: the one that Erlang would start by itself listens everywhere and outlives the broker.
    spawn epmd epmd -address 127.0.0.1 -port "$epmd_port"

    # `sbwt none`: idle schedulers sleep instead of spinning on the cores that the tests need.
    local erl_args=(
        -kernel inet_dist_use_interface '{127,0,0,1}'
        +sbwt none +sbwtdcpu none +sbwtdio none
    )
    # RUNNING_UNDER_SYSTEMD: the script then execs the VM instead of waiting beside it, so the recorded pid is the broker.
    spawn rabbitmq env RUNNING_UNDER_SYSTEMD=true \
        HOME="$dir/home" ERL_CRASH_DUMP="$dir/erl_crash.dump" ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT="$epmd_port" \
        RABBITMQ_CONF_ENV_FILE="$dir/rabbitmq-env.conf" \
        RABBITMQ_CONFIG_FILE="$dir/rabbitmq.conf" \
        RABBITMQ_ENABLED_PLUGINS_FILE="$dir/enabled_plugins" \
        RABBITMQ_NODENAME=dispatch-test@localhost \
        RABBITMQ_DIST_PORT="$dist_port" \
        RABBITMQ_MNESIA_BASE="$dir/data" \
        RABBITMQ_LOG_BASE="$dir" RABBITMQ_LOGS=- \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="${erl_args[*]}" \
        "$server"
}

# The broker opens its port last, and answers the protocol header with a method frame (type 1).
healthy() {
    # shellcheck disable=SC2016 # the inner shell expands
    [[ $(timeout 3 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" && printf "AMQP\0\0\011\001" >&3 && head -c 1 <&3 | od -An -tu1' \
        "$port" 2>/dev/null) == *1 ]]
}

urls() {
    echo "DISPATCH_TEST_AMQP_URL=amqp://dispatch:dispatch@127.0.0.1:$port/%2f"
}
