//! Durable tasks while workers, connections and dispatchers are killed, and tasks that nobody can do.

use std::{collections::BTreeSet, path::PathBuf, process::Command, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    dispatcherd::Project,
    postgres::Schema,
    support::{Done, Running, command, dispatch, done, tell, until},
};

const TASKS: &str = r#"
import os, signal, sys, time
from dispatcherd.publish import task
from dispatcherd.worker.task import TaskWorker
from my_tasks import CHANNEL, note

class Noting(TaskWorker):
    def pre_task(self, message):
        if message["task"].endswith("kills_its_worker"):
            note("attempt %s of %s" % (message.get("attempt"), message["uuid"]))

@task(queue=CHANNEL)
def work(number):
    time.sleep(0.01)
    note("%d" % number)

@task(queue=CHANNEL)
def kills_its_worker():
    note("kills")
    os.kill(os.getpid(), signal.SIGKILL)

@task(queue=CHANNEL)
def leaves():
    sys.exit(3)

@task(queue=CHANNEL)
def prints_binary():
    os.write(1, b"\xff\x00\xfe binary\n")
    note("printed")

@task(queue=CHANNEL)
def answers(what):
    note("answers " + what)
    return {"object": object(), "set": {1}, "bytes": b"\xff", "nan": float("nan"), "surrogate": "\ud800",
            "nested": [object()], "huge": 10 ** 5000}[what]
"#;

/// A project whose tasks go into tables of its own.
pub(crate) struct Durable {
    pub(crate) project: Project,
    pub(crate) schema: Schema,
    pub(crate) url: String,
}

impl Durable {
    async fn new(test: &str) -> Option<Self> {
        Self::with(test, "").await
    }

    /// With more sections in its file.
    pub(crate) async fn with(test: &str, more: &str) -> Option<Self> {
        let project = Project::new(test, more)?;
        let url = std::env::var("DISPATCH_TEST_POSTGRES_URL").unwrap();
        let schema = Schema::new(&url).await;
        let file = project.path().join("dispatcher.yml");
        let text = std::fs::read_to_string(&file).unwrap();
        // So that the service's own connections can be told from all others.
        let (name, named) = (&schema.name, format!("{url}?application_name={}", schema.name));
        assert!(!url.contains('?'), "the tests' URL has options already");
        let durable = text.replace(&url, &named).replace(
            "  pg_notify:\n",
            // Who listens is told by its last statement, which a question after a silence is not.
            &format!("  dispatch_py.broker:\n    schema: {name}\n    max_connection_idle_seconds: null\n"),
        );
        std::fs::write(&file, durable).unwrap();
        std::fs::write(project.path().join("hard_tasks.py"), TASKS).unwrap();
        let store = format!(
            "name = \"letters\"\n[source]\ntype = \"stdin\"\n[sink]\ntype = \"stdout\"\n\
             [store]\ntype = \"postgres\"\nurl = \"{url}\"\nschema = \"{name}\"\n[admin]\nlisten = \"off\"\n"
        );
        std::fs::write(project.path().join("letters.toml"), store).unwrap();
        Some(Self { project, schema, url })
    }

    /// Replaces a part of its file.
    pub(crate) fn change(&self, from: &str, to: &str) {
        let file = self.project.path().join("dispatcher.yml");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{from}: {text}");
        std::fs::write(&file, text.replace(from, to)).unwrap();
    }

    /// As a node of that name.
    pub(crate) async fn start(&self, node: &str, more: &[&str]) -> Running {
        let file = self.project.path().join("dispatcher.yml");
        let text = std::fs::read_to_string(&file).unwrap();
        let config = format!("{node}.yml");
        std::fs::write(self.project.path().join(&config), text.replace("node-a", node)).unwrap();
        self.project
            .start(&[["--config", &config].as_slice(), more].concat())
            .await
    }

    pub(crate) fn publish(&self, code: &str) {
        self.project.publish(&format!("from hard_tasks import *\n{code}"));
    }

    /// Publishes tasks from now on, one after the other, until there is [`enough`](Load::enough).
    fn load(&self) -> Load {
        let code = "from dispatcherd.config import setup\nsetup(file_path='dispatcher.yml')\nfrom hard_tasks import *\n\
             number = 0\nwhile not os.path.exists('enough'):\n    work.delay(number)\n    number += 1\n    time.sleep(0.002)\n\
             print(number)";
        let mut python = Command::new(std::env::var("DISPATCH_TEST_PYTHON").unwrap());
        self.project.surroundings(python.args(["-c", code]));
        Load {
            enough: self.project.path().join("enough"),
            publisher: std::thread::spawn(move || done(&mut python)),
        }
    }

    fn worked(&self) -> Vec<usize> {
        self.project
            .notes()
            .iter()
            .filter_map(|note| note.parse().ok())
            .collect()
    }

    async fn worked_on(&self, count: usize) {
        until(&format!("{count} tasks are done"), async || {
            self.worked().len() >= count
        })
        .await;
    }

    /// Waits for them all, tells the three numbers, and says how many were done twice.
    async fn all_of(&self, count: usize, what: &str, recovered: impl FnOnce() -> Duration) -> usize {
        // As long as it goes on: a busy machine is slow, and not stuck.
        let distinct = || self.worked().into_iter().collect::<BTreeSet<_>>().len();
        let mut done = distinct();
        while done < count {
            until(&format!("more than {done} of {count}"), async || distinct() > done).await;
            done = distinct();
        }
        let (twice, recovered) = (self.worked().len() - count, recovered());
        tell(&format!(
            "{what}: lost {}, duplicated {twice}, recovered after {recovered:?}",
            count - done
        ));
        twice
    }

    pub(crate) fn ctl(&self, arguments: &[&str]) -> Done {
        let arguments = [&["ctl", "--json", "--timeout", "5s"], arguments].concat();
        done(self.project.surroundings(&mut command(self.project.path(), &arguments)))
    }

    /// The processes that are ready for tasks.
    fn workers(&self) -> Vec<i32> {
        let answer = self.ctl(&["workers"]).json();
        let workers = answer[0].as_object().unwrap().values();
        let ready = workers.filter(|worker| worker["status"] == "ready");
        ready
            .map(|worker| i32::try_from(worker["pid"].as_i64().unwrap()).unwrap())
            .collect()
    }

    pub(crate) fn letters(&self) -> Vec<Value> {
        let list = dispatch(self.project.path(), &["dlq", "list", "-c", "letters.toml", "--json"]);
        assert_eq!(list.code, 0, "{list:?}");
        list.json()["letters"].as_array().unwrap().clone()
    }

    pub(crate) async fn end(self, services: Vec<Running>) {
        drop(services);
        self.schema.drop().await;
    }
}

/// A program that publishes.
struct Load {
    enough: PathBuf,
    publisher: std::thread::JoinHandle<Done>,
}

impl Load {
    /// Ends it, and says how many tasks it has published.
    fn enough(self) -> usize {
        std::fs::write(&self.enough, "").unwrap();
        let done = self.publisher.join().unwrap();
        assert_eq!(done.code, 0, "{done:?}");
        done.out.trim().parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_task_outlives_its_killed_worker() {
    let Some(durable) = Durable::new("a_durable_task_outlives_its_killed_worker").await else {
        return;
    };
    let retry = ["--set", "layers.retry.backoff=100ms", "--set", "sink.min=2"];
    let service = durable.start("node-a", &retry).await;
    let load = durable.load();
    durable.worked_on(20).await;
    let before = durable.workers();

    kill_process(Pid::from_raw(before[0]).unwrap(), Signal::KILL).unwrap();
    let killed = Instant::now();
    until("another worker", async || {
        let now = durable.workers();
        now.len() == 2 && !now.contains(&before[0])
    })
    .await;
    let recovered = killed.elapsed();

    let twice = durable.all_of(load.enough(), "worker killed", || recovered).await;
    assert!(twice <= 1, "only what was at work may be done twice, not {twice}");
    assert!(durable.letters().is_empty());
    durable.end(vec![service]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_tasks_outlive_the_backends_that_listen() {
    let Some(durable) = Durable::new("durable_tasks_outlive_the_backends_that_listen").await else {
        return;
    };
    let service = durable.start("node-a", &[]).await;
    let (client, connection) = tokio_postgres::connect(&durable.url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let listening = "FROM pg_stat_activity WHERE application_name = $1 AND query ILIKE 'listen%'";
    let count = async || {
        let sql = format!("SELECT pid {listening}");
        client.query(&sql, &[&durable.schema.name]).await.unwrap().len()
    };
    let load = durable.load();
    durable.worked_on(50).await;
    // One for commands, one for hints of the queue.
    until("both listen", async || count().await == 2).await;

    let sql = format!("SELECT pg_terminate_backend(pid) {listening}");
    let ended = client.query(&sql, &[&durable.schema.name]).await.unwrap().len();
    let killed = Instant::now();
    assert_eq!(ended, 2);
    service.says("listening again").await;
    let recovered = killed.elapsed();

    let more = durable.worked().len() + 50;
    durable.worked_on(more).await;
    let published = load.enough();
    durable
        .all_of(published, "backends that listen killed", || recovered)
        .await;
    until("both listen again", async || count().await == 2).await;
    assert_eq!(durable.ctl(&["alive"]).json()[0]["node_id"], "node-a");
    assert!(durable.letters().is_empty());
    durable.end(vec![service]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dispatchers_that_share_a_queue_take_over_from_a_killed_one() {
    let Some(durable) = Durable::new("dispatchers_that_share_a_queue_take_over_from_a_killed_one").await else {
        return;
    };
    let mut services = Vec::new();
    for node in ["node-a", "node-b", "node-c"] {
        // A killed one's leases are waited for.
        services.push(durable.start(node, &["--set", "source.queue_0.lease=2s"]).await);
    }
    let alive = durable.ctl(&["alive", "--expected-replies", "3"]);
    assert_eq!(alive.code, 0, "{alive:?}");
    let load = durable.load();
    durable.worked_on(100).await;

    services.remove(1).kill();
    let killed = Instant::now();
    let more = durable.worked().len() + 50;
    durable.worked_on(more).await;

    // The others went on at once; what the killed one held comes when its leases have run out.
    durable
        .all_of(load.enough(), "one dispatcher of three killed", || killed.elapsed())
        .await;
    let alive = durable.ctl(&["alive", "--expected-replies", "2"]).json();
    let mut nodes: Vec<_> = alive
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["node_id"].clone())
        .collect();
    nodes.sort_by_key(ToString::to_string);
    assert_eq!(nodes, ["node-a", "node-c"]);
    assert!(durable.letters().is_empty());
    durable.end(services).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_tasks_that_nobody_can_do_become_dead_letters() {
    let Some(durable) = Durable::new("durable_tasks_that_nobody_can_do_become_dead_letters").await else {
        return;
    };
    let retry = [
        "--set",
        "layers.retry.max_attempts=2",
        "--set",
        "layers.retry.backoff=50ms",
    ];
    let file = durable.project.path().join("dispatcher.yml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + "worker: {worker_cls: hard_tasks.Noting}\n").unwrap();
    let service = durable.start("node-a", &retry).await;
    durable.publish(
        "from dispatcherd.publish import submit_task\n\
         fail.apply_async(uuid='raises')\nkills_its_worker.apply_async(uuid='kills')\nleaves.apply_async(uuid='leaves')\n\
         prints_binary.apply_async(uuid='prints')\n\
         for what in ['object', 'set', 'bytes', 'nan', 'surrogate', 'nested', 'huge']: answers.apply_async(args=[what])\n\
         from dispatcherd.factories import get_publisher_from_settings\n\
         broker = get_publisher_from_settings()\n\
         def send(text): broker.publish_message(channel=CHANNEL, message=text)\n\
         send('{\"task\": \"no_such.module\", \"uuid\": \"imports\"}')\n\
         send('{\"task\": \"my_tasks.nothing\", \"uuid\": \"lacks\"}')\n\
         send('{\"task\": \"undotted\", \"uuid\": \"undotted\"}')\n\
         send('{\"task\": \"my_tasks.add\", \"uuid\": \"misfit\", \"args\": null}')\n\
         sleep.apply_async(args=[60], uuid='cancelled')",
    );

    durable.project.noted("sleeping").await;
    let cancelled = durable.ctl(&["cancel", "--uuid", "cancelled"]);
    assert_eq!(cancelled.code, 0, "{cancelled:?}");
    until("eight dead letters", async || durable.letters().len() == 8).await;
    for what in ["object", "set", "bytes", "nan", "surrogate", "nested", "huge"] {
        durable.project.noted(&format!("answers {what}")).await;
    }
    durable.project.noted("printed").await;
    service.says("binary").await;
    // All that is left is done: nothing waits to be tried again.
    let add = "add.apply_async(args=[4321])";
    durable.publish(add);
    durable.project.noted("4321").await;

    let mut found: Vec<_> = durable
        .letters()
        .iter()
        .map(|letter| {
            let last = &letter["attempts"].as_array().unwrap().last().unwrap();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (
                text(&letter["id"]),
                text(&letter["reason"]),
                text(&last["code"]),
                letter["attempts"].as_array().unwrap().len(),
            )
        })
        .collect();
    found.sort();
    let expected = [
        ("cancelled", "permanent", "cancelled", 1),
        ("imports", "permanent", "task_failed", 1),
        ("kills", "exhausted", "worker_lost", 2),
        ("lacks", "permanent", "task_failed", 1),
        ("leaves", "exhausted", "worker_lost", 2),
        ("misfit", "permanent", "task_failed", 1),
        ("raises", "permanent", "task_failed", 1),
        ("undotted", "permanent", "task_failed", 1),
    ]
    .map(|(id, reason, code, attempts)| (id.to_owned(), reason.to_owned(), code.to_owned(), attempts));
    assert_eq!(found, expected);
    assert_eq!(
        durable.project.notes().iter().filter(|note| *note == "kills").count(),
        2,
        "as often as it was tried"
    );
    let notes = durable.project.notes();
    let attempts: Vec<_> = notes.iter().filter(|note| note.starts_with("attempt")).collect();
    assert_eq!(attempts, ["attempt None of kills", "attempt 2 of kills"]);
    durable.end(vec![service]).await;
}
