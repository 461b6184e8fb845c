# ElasticMQ: Amazon SQS's interface, from Maven Central; for the source and the sink `sqs`.
# goaws was the other candidate: the Go proxy refused its module (403) when this was written, so the two were not compared.
# The conformance battery passes here on standard and FIFO queues, and so do the tests that move dead letters back.
# shellcheck shell=bash disable=SC2034,SC2154 # read and set by scripts/services

version=1.7.1
port=${DISPATCH_TEST_SQS_PORT:-15480}
processes=(elasticmq)
ports=("$port")
ready_within=60 # a JVM on a busy machine
lib=$state/lib/elasticmq-$version

ensure_installed() {
    command -v java >/dev/null || apt_install default-jre-headless
    [[ ! -e $lib/complete ]] || return 0
    command -v mvn >/dev/null || apt_install maven
    say "fetching ElasticMQ $version"
    mkdir -p "$lib"
    cat >"$lib/pom.xml" <<END
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>dispatch.test</groupId><artifactId>elasticmq</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.elasticmq</groupId><artifactId>elasticmq-server_2.13</artifactId><version>$version</version></dependency>
  </dependencies>
</project>
END
    (cd "$lib" && timeout 600 mvn -q -B dependency:copy-dependencies -DoutputDirectory="$lib/jars") >>"$dir/install.log" 2>&1 ||
        die "fetching failed: $(tail -n 3 "$dir/install.log" | tr '\n' ' ')(all of it in $dir/install.log)"
    : >"$lib/complete"
}

start() {
    cat >"$dir/elasticmq.conf" <<END
include classpath("application.conf")
node-address { protocol = http, host = "127.0.0.1", port = $port, context-path = "" }
rest-sqs { enabled = true, bind-hostname = "127.0.0.1", bind-port = $port, sqs-limits = strict }
rest-stats { enabled = false }
queues {}
END
    # One compiler thread and a small heap: it shares two cores with the tests.
    spawn elasticmq java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
        -Dconfig.file="$dir/elasticmq.conf" -cp "$lib/jars/*" org.elasticmq.server.Main
}

healthy() {
    http_ok "$port" '/?Action=ListQueues&Version=2012-11-05'
}

urls() {
    echo "DISPATCH_TEST_SQS_URL=http://127.0.0.1:$port"
}
