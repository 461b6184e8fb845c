use std::{collections::HashMap, time::Duration};

use dispatch_core::testing::Logs;
use dispatch_core::{
    Commands, MemoryStore,
    config::{Secret, SourceConfig},
};
use dispatch_sources::pg_notify::{OnStart, PgNotifySourceConfig, Scheduled};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::*;

/// The server, with channels of the test's own: notifications go to all of a database.
pub(crate) struct Server {
    pub(crate) dsn: String,
    client: Client,
    channel: String,
}

impl Server {
    /// None where there is no server; in CI that is a failure.
    pub(crate) async fn find(test: &str) -> Option<Self> {
        let Ok(dsn) = std::env::var("DISPATCH_TEST_POSTGRES_URL") else {
            assert_ne!(
                std::env::var("CI").as_deref(),
                Ok("true"),
                "{test}: CI must set DISPATCH_TEST_POSTGRES_URL"
            );
            let line = format!("skipped: {test}: DISPATCH_TEST_POSTGRES_URL is not set\n");
            // Not `eprintln`, which the harness keeps to itself when a test passes.
            std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
            return None;
        };
        let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
        tokio::spawn(connection);
        let channel = format!("Test \"{}\" é", dispatch_core::random_id());
        Some(Self { dsn, client, channel })
    }

    pub(crate) fn config(&self) -> PgNotifySourceConfig {
        let mut config = PgNotifySourceConfig::new(Secret::new(self.dsn.as_str()), [self.channel.as_str()]);
        config.control.node_id = Some("node".to_owned());
        config
    }

    pub(crate) async fn publish(&self, payload: &str) {
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&self.channel, &payload];
        self.client
            .execute("SELECT pg_notify($1, $2)", &parameters)
            .await
            .unwrap();
    }

    /// Of the same server, behind a port of this machine.
    pub(crate) fn dsn_at(&self, port: u16) -> String {
        let config: tokio_postgres::Config = self.dsn.parse().unwrap();
        let user = config.get_user().unwrap_or("postgres");
        let password = config
            .get_password()
            .map(|word| String::from_utf8_lossy(word).into_owned());
        let (password, name) = (password.unwrap_or_default(), config.get_dbname().unwrap_or(user));
        format!("host=127.0.0.1 port={port} user='{user}' password='{password}' dbname='{name}'")
    }

    /// In one transaction.
    pub(crate) async fn publish_together(&self, payloads: &[&str]) {
        let sql = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload";
        self.client.execute(sql, &[&self.channel, &payloads]).await.unwrap();
    }

    /// Asks the service as `dispatcherctl` does: listens to a channel of its own, then asks.
    pub(crate) async fn ask(&self, control: &str, data: Value) -> Value {
        self.ask_once(control, data).await.expect("an answer within 1 s")
    }

    /// None: nobody answers within the second that the client waits.
    pub(crate) async fn ask_once(&self, control: &str, data: Value) -> Option<Value> {
        let reply_to = format!(
            "reply_to_{}",
            dispatch_core::random_id().replace('-', "_").to_lowercase()
        );
        let (client, mut connection) = tokio_postgres::connect(&self.dsn, NoTls).await.unwrap();
        let (answers, mut answer) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(notification) = message {
                    answers.send(notification.payload().to_owned()).unwrap_or_default();
                }
            }
        });
        client.batch_execute(&format!("LISTEN {reply_to}")).await.unwrap();
        self.publish(&json!({ "control": control, "reply_to": reply_to, "control_data": data }).to_string())
            .await;
        let mut assembly = dispatch_core::tasks::chunks::Assembly::new(None);
        loop {
            let text = timeout(Duration::from_secs(1), answer.recv()).await.ok()?.unwrap();
            assert!(text.len() <= 7_999, "{}", text.len());
            match dispatch_core::tasks::Incoming::read(&text, dispatch_core::tasks::BarePayload::Reject) {
                dispatch_core::tasks::Incoming::Chunk(chunk) => {
                    if let Some(whole) = assembly.take(chunk) {
                        return Some(serde_json::from_str(&whole).unwrap());
                    }
                }
                _ => return Some(serde_json::from_str(&text).unwrap()),
            }
        }
    }
}

pub(crate) struct Running {
    pub(crate) source: Box<dyn Source>,
    commands: Commands,
    meter: dispatch_core::telemetry::Meter,
}

impl Running {
    pub(crate) fn counted(&self, name: &str) -> u64 {
        let readings = self.meter.read();
        let found = readings.iter().find(|reading| reading.name == name);
        match found.unwrap_or_else(|| panic!("{name}: {readings:?}")).measured {
            dispatch_core::telemetry::Measured::Counter(count) => count,
            ref other => panic!("{name}: {other:?}"),
        }
    }
}

/// A source that listens already: what is published from now on comes.
pub(crate) async fn listening(server: &Server, config: PgNotifySourceConfig) -> Running {
    let context = context(Path::new("."), memory());
    let commands = context.commands.clone();
    let mut source = config.build(&context).unwrap();
    server.publish("nobody hears this").await;
    // The first receive starts the listener; a probe task shows that it hears.
    let heard = timeout(Duration::from_secs(20), async {
        loop {
            server.publish(r#"{"task": "are.you.there", "uuid": "probe"}"#).await;
            if let Ok(Ok(Received::Batch(batch))) = timeout(Duration::from_millis(50), source.receive(10)).await {
                for delivery in batch {
                    assert_eq!(delivery.message.id(), "probe");
                    ack(delivery).await;
                }
                return;
            }
        }
    });
    heard.await.unwrap();
    // Those probes that came late.
    while let Ok(Ok(received)) = timeout(Duration::from_millis(100), source.receive(10)).await {
        let Received::Batch(batch) = received else { continue };
        for delivery in batch {
            ack(delivery).await;
        }
    }
    Running {
        source,
        commands,
        meter: context.meter,
    }
}

pub(crate) async fn next(source: &mut dyn Source) -> Delivery {
    timeout(Duration::from_secs(10), receive(source, 1))
        .await
        .expect("a task comes")
        .pop()
        .unwrap()
}

#[tokio::test]
async fn every_form_of_a_task_comes_in_order_and_unchanged() {
    let Some(server) = Server::find("every_form_of_a_task_comes_in_order_and_unchanged").await else {
        return;
    };
    let mut running = listening(&server, server.config()).await;
    let odd = r#"{"task": "a.b", "args": [NaN, 123456789012345678901234567890, "\ud800"], "uuid": "odd", "guid": "g"}"#;
    let large = json!({ "task": "a.large", "uuid": "large", "args": ["é\"".repeat(9_000)] }).to_string();

    server.publish(odd).await;
    for piece in dispatch_core::tasks::chunks::split(&large, 7_999, "0123456789abcdef").unwrap() {
        server.publish(&piece).await;
    }
    server.publish("lambda: 1").await;
    server.publish("").await;

    let odd_one = next(&mut *running.source).await;
    assert!(
        text(&odd_one).starts_with(odd.strip_suffix('}').unwrap()),
        "{}",
        text(&odd_one)
    );
    assert_eq!(
        (odd_one.message.id().as_str(), odd_one.message.metadata().get("task")),
        ("odd", Some("a.b"))
    );
    let large_one = next(&mut *running.source).await;
    let value: Value = serde_json::from_str(text(&large_one)).unwrap();
    assert_eq!(
        (value["args"][0].as_str().map(str::len), &value["channel"]),
        (Some(27_000), &json!(server.channel))
    );
    for bare in ["lambda: 1", ""] {
        let one = next(&mut *running.source).await;
        let value: Value = serde_json::from_str(text(&one)).unwrap();
        assert_eq!(value["task"], bare);
        assert!(one.message.id().starts_with("internal-"), "{}", one.message.id());
        ack(one).await;
    }
}

/// Each of these single messages made the original deaf for a second, or for good.
#[tokio::test]
async fn no_message_disturbs_another() {
    let Some(server) = Server::find("no_message_disturbs_another").await else {
        return;
    };
    let mut running = listening(&server, server.config()).await;
    let (logs, _guard) = Logs::gather();
    let long = "x".repeat(64);
    let bad = [
        r#"{"task": "a.b", "delay": "soon"}"#,
        r#"{"task": "a.b", "delay": {}}"#,
        r#"{"task": "a.b", "timeout": "1"}"#,
        r#"{"control": 7}"#,
        r#"{"control": "asyncio"}"#,
        r#"{"control": "_private"}"#,
        r#"{"control": "running", "control_data": [1]}"#,
        &format!(r#"{{"control": "alive", "reply_to": "{long}"}}"#),
        r#"{"self_check": true}"#,
        r#"{"self_check": true, "task": "lambda: \"broker_somebody\""}"#,
        "[1]",
        "null",
        r#"{"__dispatcherd_chunk__": "v1", "message_id": 7, "index": 0, "total": 1, "payload": "x"}"#,
        r#"{"__dispatcherd_chunk__": "v1", "message_id": "m", "index": 0, "total": 1, "payload": "no json"}"#,
    ];
    let before = server.ask("producers", json!({})).await["pg_notify-producer"]["recycle_count"].clone();

    for (number, bad) in bad.iter().enumerate() {
        server.publish(bad).await;
        server
            .publish(&format!(r#"{{"task": "a.b", "uuid": "{number}"}}"#))
            .await;
    }

    for (number, bad) in bad.iter().enumerate() {
        let one = next(&mut *running.source).await;
        assert_eq!(one.message.id(), &number.to_string(), "after {bad}");
        ack(one).await;
    }
    let producers = server.ask("producers", json!({})).await;
    assert_eq!(
        producers["pg_notify-producer"]["recycle_count"], before,
        "the connection was never given up"
    );
    // Each with what is wrong.
    for why in [
        "a self-check",
        "`delay` is \"soon\"",
        "`delay` is {}",
        "`timeout` is \"1\"",
        "`control` is 7",
        "`control_data` is [1]",
        "`reply_to` is 64 bytes long",
        "a piece of a message",
        "JSON, but not an object",
    ] {
        let line = format!(
            "message refused origin=Channel(\"{}\") error=",
            server.channel.replace('"', "\\\"")
        );
        assert!(
            logs.count("ERROR", &line) == 12 && logs.count("ERROR", why) >= 1,
            "{why}: {logs:#?}"
        );
    }
    for unknown in ["asyncio", "_private"] {
        assert_eq!(
            logs.count("WARN", &format!("command refused command=\"{unknown}\"")),
            1,
            "{logs:#?}"
        );
    }
    assert_eq!(running.counted("dispatch_tasks_rejected_total"), 14);
    let chunks = server.ask("chunks", json!({})).await;
    assert_eq!(
        (
            &chunks["status"]["total_chunks_received"],
            &chunks["status"]["errored_assemblies"]
        ),
        (&json!(2), &json!(2))
    );
}

#[tokio::test]
async fn every_command_answers_in_its_shape() {
    let Some(server) = Server::find("every_command_answers_in_its_shape").await else {
        return;
    };
    let mut config = server.config();
    config.schedule.insert(
        "a.scheduled".to_owned(),
        serde_json::from_value(json!({ "every": "1h" })).unwrap(),
    );
    let mut running = listening(&server, config).await;
    for (uuid, more) in [
        ("runs", ""),
        ("waits", r#", "on_duplicate": "serial""#),
        ("later", r#", "delay": 1000"#),
    ] {
        server
            .publish(&format!(r#"{{"task": "a.b", "args": [1], "uuid": "{uuid}"{more}}}"#))
            .await;
    }
    server
        .publish(&json!({ "task": "a.queued", "uuid": "queued", "args": ["x".repeat(3_000)] }).to_string())
        .await;
    let out = next(&mut *running.source).await;
    assert_eq!(out.message.id(), "runs");

    assert_eq!(server.ask("alive", json!({})).await, json!({ "node_id": "node" }));
    let all = server.ask("running", json!({})).await;
    let uuid = |key: &str| all[key]["uuid"].as_str().unwrap_or("none").to_owned();
    assert_eq!(
        ["worker-0", "blocked-0", "queued-0", "delayed-0"].map(uuid),
        ["runs", "waits", "queued", "later"]
    );
    assert_eq!(all["queued-0"]["channel"], json!(server.channel));
    let filtered = server
        .ask("running", json!({ "task": "a.b", "args": [1.0], "uuid": "waits" }))
        .await;
    assert_eq!(
        filtered.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["blocked-0", "node_id"]
    );
    let cancelled = server.ask("cancel", json!({ "uuid": "later" })).await;
    assert_eq!(cancelled["delayed-0"]["uuid"], "later");
    assert_eq!(
        server.ask("running", json!({ "uuid": "later" })).await,
        json!({ "node_id": "node" })
    );

    let main = server.ask("main", json!({})).await;
    assert!(
        main["received_count"].as_u64() >= Some(9) && main["control_count"].as_u64() >= Some(6),
        "{main}"
    );
    assert_eq!(main["pid"], std::process::id());
    let producers = server.ask("producers", json!({})).await;
    assert!(
        producers["pg_notify-producer"]["produced_count"].as_u64() >= Some(10),
        "{producers}"
    );
    assert_eq!(producers["scheduled-producer"]["produced_count"], 0);
    assert_eq!(server.ask("metrics", json!({})).await["enabled"], false);
    assert!(server.ask("aio_tasks", json!({ "limit": 0 })).await["listener"]["done"].is_boolean());
    let status = server.ask("status", json!({})).await;
    for part in [
        "running",
        "aio_tasks",
        "workers",
        "producers",
        "metrics",
        "main",
        "chunks",
    ] {
        assert!(status[part].is_object(), "{part}: {status}");
    }
    assert_eq!(
        server.ask("nonsense", json!({})).await["error"],
        "No control method nonsense"
    );
    assert!(
        server.ask("run", json!({ "task": "a.b" })).await["error"].is_string(),
        "off unless allowed"
    );
    assert_eq!(
        server.ask("set_log_level", json!({ "level": "loud" })).await["error"],
        "Unknown log level 'loud'."
    );
    assert!(
        server.ask("set_log_level", json!({ "level": true })).await["error"]
            .as_str()
            .unwrap()
            .starts_with("Log level must")
    );
    running
        .commands
        .on("set_log_level", |level| async move { format!("was not {level}") });
    assert_eq!(
        server.ask("set_log_level", json!({ "level": "debug" })).await["level"],
        "DEBUG"
    );

    // A large answer comes in pieces.
    for number in 0..10 {
        server
            .publish(
                &json!({ "task": "a.queued", "uuid": number.to_string(), "args": ["x".repeat(3_000)] }).to_string(),
            )
            .await;
    }
    let queued = server.ask("running", json!({ "task": "a.queued" })).await;
    assert_eq!(queued.as_object().unwrap().len(), 12);
}

#[tokio::test]
async fn a_task_may_start_another_where_that_is_allowed() {
    let Some(server) = Server::find("a_task_may_start_another_where_that_is_allowed").await else {
        return;
    };
    let mut config = server.config();
    config.control.allow = Some(vec!["run".to_owned(), "producers".to_owned()]);
    let mut running = listening(&server, config).await;

    let ack = server.ask("run", json!({ "task": "a.follower", "uuid": "f" })).await;

    assert_eq!(ack["ack"]["task"], "a.follower");
    assert_eq!(next(&mut *running.source).await.message.id(), "f");
    assert_eq!(server.ask("alive", json!({})).await["error"], "No control method alive");
    let producers = server.ask("producers", json!({})).await;
    assert_eq!(producers["control-producer"]["produced_count"], 1);
}

/// The figure is three numbers, but for NOTIFY, where what is sent meanwhile is lost: so the time is what counts.
#[tokio::test]
async fn a_killed_connection_is_made_anew_at_once() {
    let Some(server) = Server::find("a_killed_connection_is_made_anew_at_once").await else {
        return;
    };
    let mut config = server.config();
    let name = format!("victim {}", dispatch_core::random_id());
    config.dsn = Some(Secret::new(format!(
        "{}{}application_name={}",
        server.dsn,
        if server.dsn.contains('?') { '&' } else { '?' },
        name.replace(' ', "%20")
    )));
    let mut running = listening(&server, config).await;
    let mut gaps = Vec::new();

    for round in 0..5 {
        let began = Instant::now();
        let query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1 AND query LIKE 'LISTEN%'";
        let killed: i64 = server.client.query_one(query, &[&name]).await.unwrap().get(0);
        assert_eq!(killed, 1, "one connection listens");
        let own = format!("round {round}");
        let mut heard = false;
        while !heard {
            server.publish(&format!(r#"{{"task": "a.b", "uuid": "{own}"}}"#)).await;
            match timeout(Duration::from_millis(5), running.source.receive(10)).await {
                Ok(Ok(Received::Batch(batch))) => {
                    for delivery in batch {
                        // Not one that was left over from the round before.
                        heard |= delivery.message.id() == &own;
                        ack(delivery).await;
                    }
                }
                Ok(Ok(Received::Health(_))) | Err(_) => {}
                other => panic!("{other:?}"),
            }
            assert!(began.elapsed() < Duration::from_secs(10));
        }
        gaps.push(began.elapsed());
    }

    gaps.sort();
    println!("gaps, until a task came again: {gaps:?}");
    assert!(gaps[0] < Duration::from_secs(1), "{gaps:?}");
    let producers = server.ask("producers", json!({})).await;
    assert_eq!(producers["pg_notify-producer"]["recycle_count"], 5);
}

#[tokio::test]
async fn a_silent_connection_is_asked_and_a_deaf_one_given_up() {
    let Some(server) = Server::find("a_silent_connection_is_asked_and_a_deaf_one_given_up").await else {
        return;
    };
    let mut config = server.config();
    config.idle_check = dispatch_sources::pg_notify::Bound(Some(Duration::from_millis(200)));
    config.self_check_max_age = dispatch_core::config::Period(Duration::from_millis(200));
    let mut running = listening(&server, config).await;
    let checks = async || server.ask("producers", json!({})).await["pg_notify-producer"]["broker_self_check"].clone();

    let asked = timeout(Duration::from_secs(20), async {
        while checks().await["success_count"].as_u64() < Some(2) {
            // Questions are traffic, too: a check comes only after silence.
            tokio::time::sleep(Duration::from_millis(450)).await;
        }
    });
    asked.await.unwrap();

    let found = checks().await;
    assert_eq!(found["enabled"], true);
    assert!(found["max_time_seconds"].as_f64() < Some(0.2), "{found}");
    let nothing = timeout(Duration::from_millis(50), running.source.receive(1)).await;
    assert!(nothing.is_err(), "no check becomes a task: {nothing:?}");
}

/// Stands before the server, and can make the connections of now deaf: they stay, and nothing comes back through them.
struct Proxy {
    dsn: String,
    deaf: tokio::sync::watch::Sender<u64>,
}

impl Proxy {
    async fn before(server: &Server) -> Self {
        let config: tokio_postgres::Config = server.dsn.parse().unwrap();
        let [tokio_postgres::config::Host::Tcp(host)] = config.get_hosts() else {
            panic!("a host")
        };
        let to = (host.clone(), config.get_ports()[0]);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (deaf, heard) = tokio::sync::watch::channel(0_u64);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (to, mut heard) = (to.clone(), heard.clone());
                tokio::spawn(async move {
                    let own = *heard.borrow_and_update();
                    let server = tokio::net::TcpStream::connect((to.0.as_str(), to.1)).await.unwrap();
                    let ((mut client_reads, mut client_writes), (mut server_reads, mut server_writes)) =
                        (client.into_split(), server.into_split());
                    let there = tokio::io::copy(&mut client_reads, &mut server_writes);
                    let back = async {
                        let deaf = async { drop(heard.wait_for(|now| *now > own).await) };
                        tokio::select! {
                            _ = tokio::io::copy(&mut server_reads, &mut client_writes) => return,
                            () = deaf => {}
                        }
                        tokio::io::copy(&mut server_reads, &mut tokio::io::sink())
                            .await
                            .unwrap();
                    };
                    tokio::select! {
                        _ = there => {}
                        () = back => {}
                    }
                });
            }
        });
        Self {
            dsn: server.dsn_at(port),
            deaf,
        }
    }
}

#[tokio::test]
async fn a_deaf_connection_is_given_up_and_another_hears() {
    let Some(server) = Server::find("a_deaf_connection_is_given_up_and_another_hears").await else {
        return;
    };
    let proxy = Proxy::before(&server).await;
    let mut config = server.config();
    config.dsn = Some(Secret::new(proxy.dsn.as_str()));
    config.idle_check = dispatch_sources::pg_notify::Bound(Some(Duration::from_millis(200)));
    config.self_check_max_age = dispatch_core::config::Period(Duration::from_millis(200));
    let (logs, _guard) = Logs::gather();
    let mut running = listening(&server, config).await;
    assert_eq!(server.ask("alive", json!({})).await["node_id"], "node");

    for round in 1..=2 {
        proxy.deaf.send_modify(|now| *now += 1);
        let own = format!("after {round}");
        let began = Instant::now();
        let mut heard = false;
        while !heard {
            server.publish(&format!(r#"{{"task": "a.b", "uuid": "{own}"}}"#)).await;
            match timeout(Duration::from_millis(20), running.source.receive(10)).await {
                Ok(Ok(Received::Batch(batch))) => {
                    for delivery in batch {
                        heard |= delivery.message.id() == &own;
                        ack(delivery).await;
                    }
                }
                Ok(Ok(Received::Health(_))) | Err(_) => {}
                other => panic!("{other:?}"),
            }
            assert!(began.elapsed() < Duration::from_secs(20), "deaf for good");
        }
        // More, on a machine so slow that an answer comes late.
        assert!(running.counted("dispatch_pg_notify_gaps_total") >= round, "gaps");
        let length = running.counted("dispatch_pg_notify_gap_milliseconds_total");
        // From what was heard last: silence, and then a question without an answer.
        assert!(length >= 400 * round, "{length} ms");
    }
    assert!(logs.count("WARN", "listening again: what was sent meanwhile did not come gap=") >= 2);
    // Answers have a connection of their own, which is as deaf.
    let answered = timeout(Duration::from_secs(20), async {
        while server.ask_once("alive", json!({})).await.is_none() {}
    });
    answered.await.expect("answers come again");
}

#[tokio::test]
async fn the_socket_takes_tasks_and_answers_commands() {
    let Some(server) = Server::find("the_socket_takes_tasks_and_answers_commands").await else {
        return;
    };
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dispatch.sock");
    std::fs::write(&path, "stale").unwrap();
    let mut config = server.config();
    config.control.socket = Some(path.clone());
    let mut running = listening(&server, config).await;
    let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let (reading, mut writing) = stream.into_split();
    let mut lines = tokio::io::BufReader::new(reading).lines();

    writing
        .write_all(b"{\"task\": \"a.b\", \"uuid\": \"s\"}\n{\"control\": \"alive\", \"reply_to\": \"me\"}\nnonsense\n")
        .await
        .unwrap();

    assert_eq!(lines.next_line().await.unwrap().unwrap(), r#"{"node_id": "node"}"#);
    let one = next(&mut *running.source).await;
    let value: Value = serde_json::from_str(text(&one)).unwrap();
    assert_eq!((one.message.id().as_str(), &value["channel"]), ("s", &json!("0")));
    running.source.close().await.unwrap();
    assert!(!path.exists(), "the socket file goes with its source");
}

#[tokio::test]
async fn scheduled_tasks_and_those_of_the_start_come_by_themselves() {
    let Some(server) = Server::find("scheduled_tasks_and_those_of_the_start_come_by_themselves").await else {
        return;
    };
    let mut config = server.config();
    config.on_start = vec![
        serde_json::from_value::<OnStart>(json!({ "task": "a.first", "message": { "args": [1] } })).unwrap(),
        serde_json::from_value::<OnStart>(json!({ "task": "a.second" })).unwrap(),
    ];
    let every: Scheduled =
        serde_json::from_value(json!({ "every": "60ms", "message": { "kwargs": { "x": 1 } } })).unwrap();
    config.schedule.insert("a.tick".to_owned(), every);
    let began = Instant::now();
    let mut source = config.build(&context(Path::new("."), memory())).unwrap();

    let mut seen = Vec::new();
    while seen.len() < 5 {
        let one = next(&mut *source).await;
        let value: Value = serde_json::from_str(text(&one)).unwrap();
        assert!(value.get("channel").is_none(), "{value}");
        seen.push((one.message.id().to_string(), value["task"].as_str().unwrap().to_owned()));
        ack(one).await;
    }

    let tasks: HashMap<_, _> = seen.iter().cloned().collect();
    assert_eq!(
        (tasks["on-start-0"].as_str(), tasks["on-start-1"].as_str()),
        ("a.first", "a.second")
    );
    assert!(tasks.contains_key("sch-0") && tasks.contains_key("sch-2"), "{seen:?}");
    assert!(
        began.elapsed() >= Duration::from_millis(170),
        "the first run is one period after the start"
    );
}

#[tokio::test]
async fn what_waits_at_the_end_is_kept_in_the_store() {
    let Some(server) = Server::find("what_waits_at_the_end_is_kept_in_the_store").await else {
        return;
    };
    let store = Arc::new(MemoryStore::new());
    let mut source = server.config().build(&context(Path::new("."), store.clone())).unwrap();
    let heard = timeout(Duration::from_secs(20), async {
        loop {
            server.publish(r#"{"task": "a.b"}"#).await;
            if let Ok(Ok(Received::Batch(batch))) = timeout(Duration::from_millis(50), source.receive(1)).await {
                return batch;
            }
        }
    });
    let out = heard.await.unwrap();
    server.publish(r#"{"task": "a.later", "delay": 1000}"#).await;
    let ctl = timeout(Duration::from_secs(10), async {
        while server
            .ask("running", json!({ "task": "a.later" }))
            .await
            .get("delayed-0")
            .is_none()
        {}
    });
    ctl.await.unwrap();

    source.close().await.unwrap();
    drop(out);
    let kept = timeout(Duration::from_secs(10), async {
        loop {
            let depth = store.queue().depth("parked:p:source").await.unwrap();
            if depth.delayed == 1 && depth.ready >= 1 {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    kept.await.unwrap();
}

#[test]
fn what_cannot_be_meant_is_said_at_once() {
    let context = context(Path::new("."), memory());
    let long = "é".repeat(32);
    for (change, part) in [
        (json!({ "dsn": "nonsense c4n4ry" }), "no DSN"),
        (json!({ "channels": [] }), "nothing to listen to"),
        (json!({ "dsn": null }), "where to listen is not said"),
        (
            json!({ "dsn": null, "control": { "socket": "a" } }),
            "where to listen is not said",
        ),
        (json!({ "dsn": null, "channels": [] }), "where to listen is not said"),
        (json!({ "channels": [""] }), "0 bytes"),
        (json!({ "channels": [long] }), "64 bytes"),
        (json!({ "self_check_max_age": "31s" }), "does not fit `idle_check`"),
        (json!({ "max_waiting": 0 }), "no task could wait"),
        (json!({ "schedule": { "a.b": { "every": "1ms" } } }), "too often"),
    ] {
        let mut config = json!({ "dsn": "host=127.0.0.1", "channels": ["a"] });
        for (key, value) in change.as_object().unwrap() {
            config[key] = value.clone();
        }
        let config: PgNotifySourceConfig = serde_json::from_value(config).unwrap();

        let Err(error) = config.build(&context) else {
            panic!("{change}")
        };

        assert!(
            error.message.contains(part) && !error.to_string().contains("c4n4ry"),
            "{change}: {error}"
        );
    }
}

/// A connection to a socket: what is written, and the answers, put together.
pub(crate) struct Wire {
    lines: tokio::io::Lines<tokio::io::BufReader<tokio::net::unix::OwnedReadHalf>>,
    writing: tokio::net::unix::OwnedWriteHalf,
}

impl Wire {
    pub(crate) async fn to(path: &Path) -> Self {
        let connected = timeout(Duration::from_secs(20), async {
            loop {
                match tokio::net::UnixStream::connect(path).await {
                    Ok(stream) => return stream.into_split(),
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        });
        let (reading, writing) = connected.await.expect("a socket within 20 s");
        let lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(reading));
        Self { lines, writing }
    }

    pub(crate) async fn write(&mut self, messages: &[&str]) {
        let lines: String = messages
            .iter()
            .flat_map(|message| dispatch_sources::pg_notify::pieces(message))
            .collect();
        self.write_raw(&lines).await;
    }

    /// As it stands, line breaks and all.
    pub(crate) async fn write_raw(&mut self, lines: &str) {
        tokio::io::AsyncWriteExt::write_all(&mut self.writing, lines.as_bytes())
            .await
            .unwrap();
    }

    pub(crate) async fn answer(&mut self) -> Value {
        let mut assembly = dispatch_core::tasks::chunks::Assembly::new(None);
        loop {
            let line = timeout(Duration::from_secs(20), self.lines.next_line()).await;
            let line = line.expect("an answer within 20 s").unwrap().expect("an answer");
            match dispatch_core::tasks::Incoming::read(&line, dispatch_core::tasks::BarePayload::Reject) {
                dispatch_core::tasks::Incoming::Chunk(chunk) => {
                    if let Some(whole) = assembly.take(chunk) {
                        return serde_json::from_str(&whole).unwrap();
                    }
                }
                _ => return serde_json::from_str(&line).unwrap(),
            }
        }
    }
}

/// As where one route leads to worker processes and another to tasks in Rust.
#[tokio::test]
async fn workers_of_two_sinks_have_names_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dispatch.sock");
    let config = json!({ "control": { "socket": path, "node_id": "node" }, "on_start": [{ "task": "a.start" }] });
    let config: PgNotifySourceConfig = serde_json::from_value(config).unwrap();
    let context = context(directory.path(), memory());
    for sink in ["one", "other"] {
        context.commands.on("workers", move |_| async move {
            format!(r#"{{"worker-0": {{"of": "{sink}"}}, "worker-1": {{"of": "{sink}"}}}}"#)
        });
        for command in ["running", "cancel"] {
            context.commands.on(command, move |_| async move {
                format!(r#"{{"worker-1": {{"task": "a.b", "uuid": "{sink}"}}, "queued": {{}}}}"#)
            });
        }
    }
    let mut source = config.build(&context).unwrap();
    source.probe().await.unwrap();
    ack(next(&mut *source).await).await;
    let mut wire = Wire::to(&path).await;

    for command in ["workers", "running", "cancel"] {
        wire.write(&[&format!(r#"{{"control": "{command}", "reply_to": "me"}}"#)])
            .await;
    }
    let (workers, running, cancelled) = (wire.answer().await, wire.answer().await, wire.answer().await);

    let of = |name: &str| workers[name]["of"].clone();
    assert_eq!(
        ["worker-0", "worker-1", "worker-0-2", "worker-1-2"].map(of),
        ["one", "one", "other", "other"]
    );
    for answer in [running, cancelled] {
        let uuid = |name: &str| answer[name]["uuid"].clone();
        assert_eq!(["worker-1", "worker-1-2"].map(uuid), ["one", "other"], "{answer}");
    }
}

/// No server is there, nor asked for.
#[tokio::test]
async fn a_socket_alone_brings_tasks_and_answers_in_the_order_it_was_asked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dispatch.sock");
    let config = json!({ "control": { "socket": path, "node_id": "node" }, "on_start": [{ "task": "a.start" }] });
    let config: PgNotifySourceConfig = serde_json::from_value(config).unwrap();
    let context = context(directory.path(), memory());
    // As a pool of workers that is slow to say what it knows.
    let (go, waits) = tokio::sync::watch::channel(false);
    context.commands.on("workers", move |_| {
        let mut waits = waits.clone();
        async move {
            waits.wait_for(|go| *go).await.unwrap();
            r#"{"worker-0": {}}"#.to_owned()
        }
    });
    let mut source = config.build(&context).unwrap();
    source.probe().await.unwrap();
    let own = next(&mut *source).await;
    assert_eq!(own.message.id(), "on-start-0");
    ack(own).await;
    let (mut one, mut other) = (Wire::to(&path).await, Wire::to(&path).await);

    one.write(&[
        r#"{"control": "workers", "reply_to": "me"}"#,
        r#"{"control": "alive", "reply_to": "me", "delay": 0.001}"#,
        r#"{"control": "set_log_level"}"#,
        r#"{"control": "nothing", "reply_to": "me"}"#,
        &json!({ "task": "a.b", "uuid": "large", "args": ["x".repeat(5_000)] }).to_string(),
        r#"{"control": "producers", "reply_to": "me"}"#,
    ])
    .await;
    // Neither tasks nor other clients wait for that answer.
    let large = next(&mut *source).await;
    assert_eq!(large.message.id(), "large");
    other.write(&[r#"{"control": "running", "reply_to": "x"}"#]).await;
    let running = other.answer().await;
    assert_eq!(
        running["worker-0"]["args"][0].as_str().map(str::len),
        Some(5_000),
        "{running}"
    );
    go.send(true).unwrap();

    assert_eq!(one.answer().await["worker-0"], json!({}));
    assert_eq!(one.answer().await["error"], "No control method nothing");
    let producers = one.answer().await;
    assert!(producers.get("pg_notify-producer").is_none(), "{producers}");
    assert!(
        producers["socket-producer"]["produced_count"].as_u64() >= Some(7),
        "{producers}"
    );
    source.close().await.unwrap();
}

/// One service goes and the next comes, first into a place that is taken, then into one that is not there yet.
#[tokio::test]
async fn a_socket_that_cannot_be_opened_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let of = |path: &Path, node: &str| {
        let config = json!({
            "control": { "socket": path, "node_id": node },
            "reconnect": { "base": "5ms", "max": "20ms" },
        });
        let config: PgNotifySourceConfig = serde_json::from_value(config).unwrap();
        config.build(&context(directory.path(), memory())).unwrap()
    };
    let ill = async |source: &mut dyn Source| {
        timeout(Duration::from_secs(20), async {
            loop {
                if let Received::Health(Some(error)) = source.receive(1).await.unwrap() {
                    return error.report();
                }
            }
        })
        .await
        .expect("it says that it is not well")
    };
    let path = directory.path().join("dispatch.sock");
    let mut first = of(&path, "first");
    drop(timeout(Duration::from_millis(1), first.receive(1)).await);
    let mut wire = Wire::to(&path).await;
    let mut second = of(&path, "second");

    let why = ill(&mut *second).await;
    assert!(why.contains("another process answers there"), "{why}");
    wire.write(&[r#"{"control": "alive", "reply_to": "x"}"#]).await;
    assert_eq!(
        wire.answer().await["node_id"],
        "first",
        "the second has taken nothing from it"
    );
    first.close().await.unwrap();
    let mut well = Wire::to(&path).await;
    well.write(&[r#"{"control": "alive", "reply_to": "x"}"#]).await;
    assert_eq!(well.answer().await["node_id"], "second");
    second.close().await.unwrap();

    let later = directory.path().join("later");
    let path = later.join("dispatch.sock");
    let mut third = of(&path, "third");
    let why = ill(&mut *third).await;
    assert!(why.contains(&*path.to_string_lossy()), "{why}");
    std::fs::create_dir(&later).unwrap();
    let mut wire = Wire::to(&path).await;
    wire.write(&[r#"{"control": "alive", "reply_to": "x"}"#]).await;
    assert_eq!(wire.answer().await["node_id"], "third");
    third.close().await.unwrap();
}

#[tokio::test]
async fn what_a_client_asked_for_is_done_though_it_has_gone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dispatch.sock");
    let config = json!({ "control": { "socket": path, "node_id": "node" } });
    let config: PgNotifySourceConfig = serde_json::from_value(config).unwrap();
    let context = context(directory.path(), memory());
    let (go, waits) = tokio::sync::watch::channel(false);
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    context.commands.on("workers", move |_| {
        let mut waits = waits.clone();
        called.send(()).unwrap();
        async move {
            waits.wait_for(|go| *go).await.unwrap();
            "{}".to_owned()
        }
    });
    let mut source = config.build(&context).unwrap();
    source.probe().await.unwrap();
    // The socket is there once somebody receives.
    let receiving = tokio::spawn(async move { while source.receive(1).await.is_ok() {} });
    let mut client = Wire::to(&path).await;
    let (asked, told) = (
        r#"{"control": "workers", "reply_to": "me"}"#,
        r#"{"control": "workers"}"#,
    );
    client.write(&[asked, told]).await;
    timeout(Duration::from_secs(20), calls.recv()).await.unwrap().unwrap();

    drop(client);
    go.send(true).unwrap();

    timeout(Duration::from_secs(20), calls.recv())
        .await
        .expect("the second command is done, though the answer to the first reached nobody")
        .unwrap();
    receiving.abort();
}

/// When each of three runs came, the first two of which were due while everything stood still.
async fn late_runs(drift: bool) -> Vec<u128> {
    let directory = tempfile::tempdir().unwrap();
    let config = json!({
        "control": { "socket": directory.path().join("a.sock") },
        "schedule": { "a.tick": { "every": "1s", "drift": drift } },
    });
    let config: PgNotifySourceConfig = serde_json::from_value(config).unwrap();
    let mut source = config.build(&context(directory.path(), memory())).unwrap();
    let began = Instant::now();
    // The start, then nothing.
    let mut heard = Vec::new();
    while let Ok(received) = timeout(Duration::from_millis(100) - began.elapsed(), source.receive(1)).await {
        heard.push(received);
    }
    assert!(matches!(heard[..], [Ok(Received::Health(None))]), "{heard:?}");
    tokio::time::advance(Duration::from_millis(2_400)).await;
    let mut came = Vec::new();
    for number in 0..3 {
        let one = next(&mut *source).await;
        assert_eq!(one.message.id().as_str(), format!("sch-{number}"));
        came.push(began.elapsed().as_millis());
        ack(one).await;
    }
    came
}

#[tokio::test(start_paused = true)]
async fn a_late_run_shifts_those_after_it_only_where_that_is_wanted() {
    // One late run makes up for all that were missed; then the grid again, or a period from there.
    assert_eq!(late_runs(false).await, [2_500, 3_000, 4_000]);
    assert_eq!(late_runs(true).await, [2_500, 3_500, 4_500]);
}

#[tokio::test]
async fn where_channels_may_not_steer_commands_are_refused_and_tasks_come() {
    let Some(server) = Server::find("where_channels_may_not_steer_commands_are_refused_and_tasks_come").await else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dispatch.sock");
    let mut config = server.config();
    config.control.pg_notify = false;
    config.control.socket = Some(path.clone());
    let mut running = listening(&server, config).await;
    let (logs, _guard) = Logs::gather();

    server
        .publish_together(&[
            r#"{"control": "cancel", "reply_to": "nobody"}"#,
            r#"{"task": "a.b", "uuid": "beside"}"#,
        ])
        .await;

    let held = next(&mut *running.source).await;
    assert_eq!(held.message.id(), "beside");
    let refused = "command refused: control.pg_notify is off command=cancel";
    assert_eq!(logs.count("WARN", refused), 1, "{logs:#?}");
    assert!(server.ask_once("alive", json!({})).await.is_none(), "nobody answers");
    // The socket steers as before, and what was refused has cancelled nothing.
    let mut wire = Wire::to(&path).await;
    wire.write(&[r#"{"control": "running", "reply_to": "me"}"#]).await;
    assert_eq!(wire.answer().await["worker-0"]["uuid"], "beside");
    ack(held).await;
}
