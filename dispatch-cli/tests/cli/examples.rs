//! The pipelines of `examples/`, run: as they stand, but for ports, servers and where the work goes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use dispatch_core::config::{StoreConfig as _, StoreContext};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Done, Running, Worker, command, dispatch, done, fed, get, send, until};

/// A directory with the examples in it, as in a clone.
fn clone() -> TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples");
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("examples")).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), dir.path().join("examples").join(entry.file_name())).unwrap();
        }
    }
    dir
}

fn ledger(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("ledger.tsv")).unwrap_or_default();
    let mut orders: Vec<_> = text
        .lines()
        .filter_map(|line| line.split('\t').next())
        .map(str::to_owned)
        .collect();
    orders.sort();
    orders
}

async fn status(admin: &str) -> Value {
    let status: Value = serde_json::from_str(&get(&format!("{admin}/v1/status")).await.1).unwrap();
    status["pipelines"][0].clone()
}

/// How many messages wait in a queue of an SQLite file.
async fn waiting(file: PathBuf, queue: &str) -> u64 {
    let config = dispatch_store::SqliteConfig {
        path: file,
        ..Default::default()
    };
    let store = config.build(&StoreContext { base_dir: ".".into() }).unwrap();
    store.probe().await.unwrap();
    store.queue().depth(queue).await.unwrap().ready
}

/// A run of the quickstart with one variable set, and the numbers of its summary.
fn quickstart(dir: &Path, name: &str, value: &str, more: &[&str]) -> (Done, Value) {
    let args = [&["run", "examples/quickstart.toml", "--json"], more].concat();
    let done = done(command(dir, &args).env(name, value));
    let summary = done.json()["pipelines"][0].clone();
    (done, summary)
}

/// Every step of the README, with the numbers that it shows.
#[test]
fn the_quickstart_does_what_the_readme_shows() {
    let dir = clone();
    // One that is parked, as the draw of a wait may have it, is received again.
    let numbers = |summary: &Value| {
        let number = |name| summary[name].as_u64().unwrap();
        let received = number("received") - number("parked");
        [received, number("delivered"), number("failed"), number("dead_lettered")]
    };

    let (first, summary) = quickstart(dir.path(), "LC_ALL", "C", &[]);
    assert_eq!((first.code, numbers(&summary)), (0, [24, 23, 2, 1]), "{first:?}");
    assert_eq!(ledger(dir.path()).len(), 23);

    fs::remove_file(dir.path().join("ledger.tsv")).unwrap();
    let (broken, summary) = quickstart(dir.path(), "OUT_OF_STOCK", "teapot", &[]);
    assert_eq!((broken.code, numbers(&summary)), (0, [24, 20, 11, 4]), "{broken:?}");
    let letters = dispatch(
        dir.path(),
        &[
            "dlq",
            "list",
            "-c",
            "examples/quickstart.toml",
            "--json",
            "--reason",
            "exhausted",
        ],
    );
    assert_eq!(letters.json()["matched"], 3);

    let replay = [
        "dlq",
        "replay",
        "-c",
        "examples/quickstart.toml",
        "--reason",
        "exhausted",
    ];
    assert!(dispatch(dir.path(), &replay).out.contains("replayed 3 messages"));
    let (again, summary) = quickstart(dir.path(), "LC_ALL", "C", &["--set", "source.from=saved"]);
    assert_eq!((again.code, numbers(&summary)), (0, [3, 3, 0, 0]), "{again:?}");
    assert_eq!(ledger(dir.path()).len(), 23);
}

/// The README's last step: the worker is down, the run is stopped, and the next one does each order once.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_quickstart_left_undone_is_done_once_by_the_next_run() {
    let dir = clone();
    let mut closed = command(dir.path(), &["run", "examples/quickstart.toml"]);
    let mut closed = Running::spawn(closed.env("WAREHOUSE", "closed").stdin(std::process::Stdio::null()));
    let line = closed.says("breaker open").await;
    assert!(line.contains("exit code 69: the warehouse is closed"), "{line}");

    closed.signal(Signal::INT);

    assert_eq!(closed.ends().await, 0, "{:#?}", closed.log());
    assert!(ledger(dir.path()).is_empty());
    let (next, _) = quickstart(dir.path(), "LC_ALL", "C", &["--set", "source.from=saved"]);
    assert_eq!(next.code, 0, "{next:?}");
    let orders = ledger(dir.path());
    let mut once = orders.clone();
    once.dedup();
    assert_eq!((orders.len(), &once), (23, &orders));
}

#[test]
fn command_prints_a_checksum_for_each_line_that_names_a_file() {
    let dir = clone();

    let done = fed(
        dir.path(),
        &["run", "examples/command.toml"],
        b"examples/orders.ndjson\n/no/such\n",
    );

    assert_eq!(done.code, 0, "{done:?}");
    let printed: Vec<_> = done.out.lines().filter(|line| !line.is_empty()).collect();
    assert!(
        matches!(printed[..], [line] if line.ends_with(" examples/orders.ndjson")),
        "{done:?}"
    );
    assert!(done.err.contains("cksum: /no/such"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_enqueue_took_queue_hands_out() {
    let dir = clone();
    let orders = fs::read(dir.path().join("examples/orders.ndjson")).unwrap();
    // An order that waits already is not put there twice.
    for _ in 0..2 {
        let enqueued = fed(dir.path(), &["run", "examples/enqueue.toml", "--json"], &orders);
        assert_eq!(
            (enqueued.code, &enqueued.json()["pipelines"][0]["delivered"]),
            (0, &24.into()),
            "{enqueued:?}"
        );
    }

    let mut queue = Running::start(
        dir.path(),
        &["run", "examples/queue.toml", "--set", "admin.listen=127.0.0.1:0"],
    );
    let admin = queue.ready().await;
    let delivered = async || status(&admin).await["delivered"].clone();
    until("all orders", async || delivered().await == 24).await;
    queue.signal(Signal::TERM);

    assert_eq!(queue.ends().await, 0, "{:#?}", queue.log());
    assert_eq!(queue.out().lines().count(), 24);
}

#[tokio::test]
async fn routing_sends_each_order_where_its_item_goes() {
    let dir = clone();

    // No worker for kettles is there: they wait in a queue.
    let done = dispatch(dir.path(), &["run", "examples/routing.toml"]);

    assert_eq!(done.code, 0, "{done:?}");
    let orders = fs::read_to_string(dir.path().join("examples/orders.ndjson")).unwrap();
    let orders_for = |item: &str| {
        orders
            .lines()
            .filter(|line| line.contains(&format!("\"item\":\"{item}\"")))
            .count() as u64
    };
    let (teapots, kettles) = (orders_for("teapot"), orders_for("kettle"));
    let waiting = |queue| waiting(dir.path().join("routing.db"), queue);
    assert_eq!((waiting("fragile").await, waiting("kettles").await), (teapots, kettles));
    assert_eq!(
        done.out.lines().count(),
        24 - usize::try_from(kettles).unwrap(),
        "{done:?}"
    );
}

#[test]
fn startup_warms_each_shelf_once() {
    let done = dispatch(clone().path(), &["run", "examples/startup.toml"]);

    let mut lines: Vec<_> = done.out.lines().collect();
    lines.sort_unstable();
    let warm = |shelf: &str| format!("warming up {shelf}, attempt 1");
    assert_eq!(
        (done.code, lines),
        (
            0,
            ["prices", "products", "stock"]
                .map(warm)
                .iter()
                .map(String::as_str)
                .collect()
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn schedule_fires_its_pulse_with_the_slot_in_the_environment() {
    let dir = clone();
    let sooner = [
        "source.pulse.every=1s",
        "source.pulse.jitter=0s",
        "admin.listen=127.0.0.1:0",
    ];
    let sooner = sooner.iter().flat_map(|setting| ["--set", setting]);
    let args: Vec<_> = ["run", "examples/schedule.toml"].into_iter().chain(sooner).collect();
    let mut running = Running::start(dir.path(), &args);
    let admin = running.ready().await;

    until("a pulse", async || status(&admin).await["delivered"] != 0).await;

    running.signal(Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    let out = running.out();
    let (slot, payload) = out.lines().next().and_then(|line| line.split_once(' ')).unwrap();
    assert!(slot.ends_with('Z') && payload == r#"{"report":"pulse"}"#, "{out}");
}

/// The three that listen: a gateway, webhooks, and tenants with their own limits.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_posted_reaches_the_worker_or_comes_back() {
    let worker = Worker::start().await;
    let listening = async |example: &str, more: &[&str]| {
        let dir = clone();
        let free = [
            "--set",
            "source.listen=127.0.0.1:0",
            "--set",
            "admin.listen=127.0.0.1:0",
        ];
        let running = Running::start(dir.path(), &[&["run", example], &free[..], more].concat());
        running.ready().await;
        let line: Value = serde_json::from_str(&running.says("\"listening\"").await).unwrap();
        let address = line["address"].as_str().unwrap().to_owned();
        (dir, running, format!("http://{address}"))
    };
    let ends = async |mut running: Running| {
        running.signal(Signal::TERM);
        assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    };

    let (_dir, sync, url) = listening("examples/sync.toml", &[]).await;
    assert_eq!(
        send("POST", &format!("{url}/"), &[], "hello").await,
        (200, "HELLO".to_owned())
    );
    ends(sync).await;

    let hooks = format!("sink.url={}/hooks", worker.url);
    let (_dir, webhooks, url) = listening("examples/webhooks.toml", &["--set", &hooks]).await;
    assert_eq!(
        send("POST", &format!("{url}/orders"), &[], r#"{"shop":"s1"}"#).await.0,
        202
    );
    until("the hook", async || worker.count() == 1).await;
    ends(webhooks).await;
    let headers = worker.headers();
    assert!(
        headers[0].contains_key("webhook-signature") && headers[0].contains_key("webhook-id"),
        "{headers:?}"
    );

    let tenants = format!(
        "sink.url={}/work/{{{{ header:x-tenant | default \"nobody\" }}}}",
        worker.url
    );
    let (_dir, running, url) = listening("examples/tenants.toml", &["--set", &tenants]).await;
    for tenant in [&[("x-tenant", "acme")][..], &[]] {
        assert_eq!(send("POST", &format!("{url}/"), tenant, "{}").await.0, 202);
    }
    until("both", async || worker.count() == 3).await;
    ends(running).await;
    let mut paths = worker.paths();
    paths.sort();
    assert_eq!(paths, ["/hooks", "/work/acme", "/work/nobody"]);
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread")]
async fn postgres_shares_one_queue() {
    let Some(server) = crate::postgres::url("postgres_shares_one_queue") else {
        return;
    };
    let (schema, worker) = (crate::postgres::Schema::new(&server).await, Worker::start().await);
    let dir = clone();
    let settings = [
        format!("store.url={server}"),
        format!("store.schema={}", schema.name),
        format!("sink.url={}/work", worker.url),
    ];
    let set: Vec<_> = settings
        .iter()
        .flat_map(|setting| ["--set", setting.as_str()])
        .collect();
    let sooner = ["--set", "source.hourly.every=1s", "--set", "admin.listen=127.0.0.1:0"];
    let args = [&["run", "examples/postgres.toml"][..], &set, &sooner].concat();
    let (mut one, mut other) = (Running::start(dir.path(), &args), Running::start(dir.path(), &args));
    one.ready().await;
    other.ready().await;

    until("a sweep", async || worker.count() >= 1).await;

    for running in [&mut one, &mut other] {
        running.signal(Signal::TERM);
        assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    }
    assert!(worker.bodies().iter().all(|body| body == r#"{"job":"sweep"}"#));
    schema.drop().await;
}

/// None is left out: who adds an example runs it here, or where its servers are.
#[test]
fn every_example_is_run_by_a_test() {
    let elsewhere = ["dispatcherd.toml", "sqsd.toml"];
    let tests = include_str!("examples.rs");

    for entry in fs::read_dir(clone().path().join("examples")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".toml") && name != "Cargo.toml" && !elsewhere.contains(&name.as_str()) {
            assert!(tests.contains(&format!("\"examples/{name}\"")), "{name}");
        }
    }
}
