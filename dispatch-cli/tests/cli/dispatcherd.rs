//! The preset `dispatcherd` between the real package's publishers, workers and `dispatcherctl`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Signal;

use crate::support::{Done, Running, command, dir, done, until};

/// What a project of dispatcherd's users looks like.
const TASKS: &str = r#"
import os, time
from dispatcherd.publish import task

CHANNEL = os.environ["CHANNEL"]

def note(text):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(text + "\n")

@task(queue=CHANNEL)
def print_hello():
    note("hello world!!")

@task(queue=CHANNEL)
def add(a, b=0):
    note(str(a + b))

@task(queue=CHANNEL)
def sleep(seconds):
    note("sleeping")
    time.sleep(seconds)
    note("slept")

@task(queue=CHANNEL)
def fail():
    raise ValueError("of its own")

@task(queue=CHANNEL)
def publish_hello():
    print_hello.delay()

@task(queue=CHANNEL, bind=True)
def bound(dispatcher, next_value):
    note("bound " + dispatcher.uuid)
    dispatcher.control("run", data={"task": "my_tasks.add", "args": [next_value]})
"#;

pub(crate) struct Project {
    dir: tempfile::TempDir,
    python: PathBuf,
    pub(crate) channel: String,
}

impl Project {
    /// None where there is no server or no Python with dispatcherd; in CI that is a failure.
    pub(crate) fn new(test: &str, more: &str) -> Option<Self> {
        let mut found =
            ["DISPATCH_TEST_POSTGRES_URL", "DISPATCH_TEST_PYTHON"].map(|name| (name, std::env::var(name).ok()));
        for (name, value) in &found {
            if value.is_none() {
                assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{test}: CI must set {name}");
                let line = format!("skipped: {test}: {name} is not set\n");
                std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
                return None;
            }
        }
        let [url, python] = found.each_mut().map(|(_, value)| value.take().unwrap_or_default());
        let channel = format!("Project {}", dispatch_core::random_id());
        let config = format!(
            "version: 2
service:
  pool_kwargs: {{max_workers: 2}}
  main_kwargs: {{node_id: node-a}}
brokers:
  pg_notify:
    config: {{conninfo: \"{url}\"}}
    sync_connection_factory: dispatcherd.brokers.pg_notify.connection_saver
    channels: [\"{channel}\"]
    # Without it dispatcherctl asks its own reply channel.
    default_publish_channel: \"{channel}\"
{more}"
        );
        Some(Self {
            dir: dir(&[("my_tasks.py", TASKS), ("dispatcher.yml", &config)]),
            python: python.into(),
            channel,
        })
    }

    pub(crate) fn surroundings<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("CHANNEL", &self.channel)
            .env("NOTES", self.path().join("notes"))
            .env("PYTHONPATH", {
                let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dispatch-store/python");
                format!("{}:{}", self.path().display(), modules.display())
            })
            .env_remove("DISPATCHERD_CONFIG_FILE")
            .current_dir(self.path())
    }

    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) async fn start(&self, arguments: &[&str]) -> Running {
        self.start_and_hear(arguments, "\"listening\"").await
    }

    /// Until it says so.
    pub(crate) async fn start_and_hear(&self, arguments: &[&str], word: &str) -> Running {
        let python = self.python.display().to_string();
        let mut all = vec!["dispatcherd", "--log-level", "INFO", "--python", &python];
        all.extend(arguments);
        let running = Running::spawn(self.surroundings(&mut command(self.path(), &all)));
        running.says(word).await;
        running
    }

    /// As loud as that, and so perhaps without a word.
    pub(crate) fn quietly(&self, level: &str) -> Running {
        let python = self.python.display().to_string();
        let all = ["dispatcherd", "--log-level", level, "--python", &python];
        Running::spawn(self.surroundings(&mut command(self.path(), &all)))
    }

    /// Runs Python that has set dispatcherd up and knows the tasks.
    pub(crate) fn publish(&self, code: &str) {
        let code = format!(
            "from dispatcherd.config import setup\nsetup(file_path='dispatcher.yml')\nfrom my_tasks import *\n{code}"
        );
        let done = done(self.surroundings(Command::new(&self.python).args(["-c", &code])));
        assert_eq!(done.code, 0, "{done:?}");
    }

    pub(crate) fn ctl(&self, arguments: &[&str]) -> Done {
        let program = self.python.with_file_name("dispatcherctl");
        done(self.surroundings(Command::new(program).args(arguments).args(["--log-level", "CRITICAL"])))
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        let notes = std::fs::read_to_string(self.path().join("notes")).unwrap_or_default();
        notes.lines().map(str::to_owned).collect()
    }

    pub(crate) async fn noted(&self, wanted: &str) {
        until(&format!("the note {wanted}"), async || {
            self.notes().iter().any(|note| note == wanted)
        })
        .await;
    }
}

#[tokio::test]
async fn an_unchanged_project_runs_and_dispatcherctl_steers_it() {
    let producers = "producers:
  ScheduledProducer:
    task_schedule:
      my_tasks.add: {schedule: 0.3, args: [1000]}
  OnStartProducer:
    task_list:
      my_tasks.add: {args: [500], kwargs: {b: 1}}
  ControlProducer: null
";
    let Some(project) = Project::new("an_unchanged_project_runs_and_dispatcherctl_steers_it", producers) else {
        return;
    };
    let mut service = project.start(&[]).await;

    project
        .publish("print_hello.delay(); print_hello.apply_async(args=[], kwargs={}); add.delay(20, b=3); fail.delay()");
    project.publish("bound.apply_async(args=[77], uuid='the-bound-one'); sleep.apply_async(args=[60], uuid='long')");

    for wanted in ["501", "23", "bound the-bound-one", "77", "1000", "sleeping"] {
        project.noted(wanted).await;
    }
    assert_eq!(
        project.notes().iter().filter(|note| *note == "hello world!!").count(),
        2
    );
    service.says("ValueError: of its own").await;
    let alive = project.ctl(&["alive"]);
    assert!(alive.code == 0 && alive.out.contains("node_id: node-a"), "{alive:?}");
    let running = project.ctl(&["running", "--task", "my_tasks.sleep"]);
    assert!(running.code == 0 && running.out.contains("uuid: long"), "{running:?}");
    for command in [
        "workers",
        "producers",
        "main",
        "chunks",
        "metrics",
        "aio_tasks",
        "status",
    ] {
        let answer = project.ctl(&[command]);
        assert!(
            answer.code == 0 && answer.out.contains("node_id: node-a"),
            "{command}: {answer:?}"
        );
    }
    let level = project.ctl(&["set_log_level", "--level", "WARNING"]);
    assert!(
        level.out.contains("level: WARNING") && level.out.contains("previous_level: INFO"),
        "{level:?}"
    );
    let cancelled = project.ctl(&["cancel", "--uuid", "long"]);
    assert!(
        cancelled.code == 0 && cancelled.out.contains("uuid: long"),
        "{cancelled:?}"
    );
    service.says("was cancelled").await;

    // Ours asks by the same names, over the same file.
    let ours = done(project.surroundings(&mut command(project.path(), &["ctl", "--json", "main"])));
    assert_eq!(ours.code, 0, "{ours:?}");
    assert_eq!(ours.json()[0]["node_id"], "node-a");
    let nobody = done(project.surroundings(&mut command(
        project.path(),
        &["ctl", "alive", "--channel", "nobody", "--timeout", "100ms"],
    )));
    assert_eq!((nobody.code, nobody.out.trim()), (1, "[]"));

    service.signal(Signal::TERM);
    assert_eq!(service.ends().await, 0);
    assert!(!project.notes().iter().any(|note| note == "slept"));
}

/// One key switched: the queue in the database keeps what notifications would lose.
#[tokio::test]
async fn with_the_durable_broker_nothing_is_lost_when_the_service_is_killed() {
    let Some(project) = Project::new("with_the_durable_broker_nothing_is_lost_when_the_service_is_killed", "") else {
        return;
    };
    let file = project.path().join("dispatcher.yml");
    let durable = std::fs::read_to_string(&file)
        .unwrap()
        .replace("  pg_notify:\n", "  dispatch_py.broker:\n");
    std::fs::write(&file, durable).unwrap();
    // Nobody listens yet; the first start makes the tables.
    let mut service = project.start(&[]).await;
    project.publish("sleep.delay(60)\nfor number in range(300): add.delay(number)");
    project.noted("sleeping").await;
    service.kill();
    project.publish("for number in range(300, 600): add.delay(number)");

    let mut service = project.start(&[]).await;
    until("every task is done", async || {
        let notes = project.notes();
        (0..600).all(|number| notes.contains(&number.to_string()))
    })
    .await;
    // Leases of the killed one run out, and its long task begins again.
    let alive = project.ctl(&["alive"]);
    assert!(
        alive.code == 0 && alive.out.contains("node-a"),
        "commands go by notifications as before: {alive:?}"
    );
    let notes = project.notes();
    println!(
        "lost 0, duplicated {}",
        notes.iter().filter(|note| *note != "sleeping").count() - 600
    );
    service.signal(Signal::TERM);
    service.signal(Signal::TERM);
    service.ends().await;
}

#[tokio::test]
async fn a_pipeline_files_tasks_publish_by_the_file_that_the_variable_names() {
    let Some(project) = Project::new("a_pipeline_files_tasks_publish_by_the_file_that_the_variable_names", "") else {
        return;
    };
    let pipeline = format!(
        r#"
name = "demo"
source = {{ type = "pg_notify", dsn = "${{DATABASE_URL}}", channels = ["{}"] }}
layers = {{ timeout = "off", retry = "off", breaker = "off" }}
sink = {{ type = "process", shim = "dispatcherd", python = "{}" }}
store = {{ type = "memory" }}
admin = {{ listen = "off" }}
"#,
        project.channel,
        project.python.display()
    );
    std::fs::write(project.path().join("demo.toml"), pipeline).unwrap();
    let mut run = command(project.path(), &["run", "demo.toml"]);
    let run = project
        .surroundings(&mut run)
        .env("DATABASE_URL", std::env::var("DISPATCH_TEST_POSTGRES_URL").unwrap())
        .env("DISPATCHERD_CONFIG_FILE", "dispatcher.yml");
    let service = Running::spawn(run);
    service.says("\"listening\"").await;

    project.publish("publish_hello.delay()");

    project.noted("hello world!!").await;
}

#[tokio::test]
async fn running_tasks_are_finished_or_cancelled_at_the_end_as_told() {
    for (how, slept) in [("drain", true), ("cancel", false)] {
        let Some(project) = Project::new("running_tasks_are_finished_or_cancelled_at_the_end_as_told", "") else {
            return;
        };
        let mut service = project.start(&["--on-stop", how]).await;
        project.publish("sleep.delay(1.5)");
        project.noted("sleeping").await;

        service.signal(Signal::TERM);

        assert_eq!(service.ends().await, 0, "{how}");
        assert_eq!(project.notes().contains(&"slept".to_owned()), slept, "{how}");
    }
}

#[tokio::test]
async fn the_originals_names_file_and_metrics_are_ours() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let Some(project) = Project::new("the_originals_names_file_and_metrics_are_ours", "") else {
        return;
    };
    let file = project.path().join("dispatcher.yml");
    let with_metrics = std::fs::read_to_string(&file).unwrap().replace(
        "service:\n",
        &format!("service:\n  metrics_kwargs: {{port: {port}, host: 127.0.0.1}}\n"),
    );
    let elsewhere = project.path().join("elsewhere.yml");
    std::fs::write(&elsewhere, with_metrics).unwrap();
    std::fs::remove_file(&file).unwrap();
    let name = project.path().join("dispatcher-standalone");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_dispatch"), &name).unwrap();

    let nothing = done(project.surroundings(&mut command(project.path(), &["dispatcherd"])));
    assert!(
        nothing.code == 1 && nothing.err.contains("DISPATCHERD_CONFIG_FILE"),
        "{nothing:?}"
    );
    let mut started = Command::new(&name);
    project
        .surroundings(&mut started)
        .env("DISPATCHERD_CONFIG_FILE", &elsewhere)
        .env("PATH", {
            let own = project.python.parent().unwrap().display().to_string();
            format!("{own}:{}", std::env::var("PATH").unwrap_or_default())
        });
    let mut service = Running::spawn(&mut started);
    service.says("\"listening\"").await;
    service.says("metrics are served").await;

    let (status, text) = crate::support::get(&format!("http://127.0.0.1:{port}/metrics")).await;
    assert_eq!(status, 200);
    for series in [
        "dispatcher_messages_received_total 0",
        "dispatcher_control_messages_count_total 0",
        "dispatcher_worker_count_total ",
        "dispatch_received_total{",
    ] {
        assert!(text.contains(series), "{series}: {text}");
    }
    assert_eq!(crate::support::get(&format!("http://127.0.0.1:{port}/")).await.0, 404);
    let mut stranger = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    std::io::Write::write_all(&mut stranger, b"\x01 no HTTP\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    drop(std::io::Read::read_to_end(&mut stranger, &mut answer));
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
    drop(std::net::TcpStream::connect(("127.0.0.1", port)).unwrap());
    let counted = async || {
        let arguments = ["ctl", "--json", "--config", "elsewhere.yml", "metrics"];
        let asked = done(project.surroundings(&mut command(project.path(), &arguments)));
        asked.json()[0]["status"]["http_server"].clone()
    };
    until("its own counts", async || {
        counted().await
            == serde_json::json!({
                "connections_total": 4, "metrics_requests_served": 1, "bad_requests": 1, "internal_errors": 0,
                "not_found_responses": 1, "client_disconnects": 1, "request_timeouts": 0, "is_running": true,
            })
    })
    .await;
    service.signal(Signal::INT);
    assert_eq!(service.ends().await, 0);
}

/// The original's demo, and what projects have beside it.
const DEMO: &str = r#"---
version: 2
service:
  pool_kwargs: {min_workers: 1, max_workers: 4, worker_max_lifetime_seconds: null}
  main_kwargs: {node_id: demo-server-a}
  process_manager_cls: ForkServerManager
  process_manager_kwargs: {preload_modules: [test_methods]}
  metrics_kwargs: {port: 8070}
brokers:
  pg_notify:
    config: {conninfo: "dbname=dispatch_db user=dispatch password=dispatching host=localhost port=55777"}
    sync_connection_factory: dispatcherd.brokers.pg_notify.connection_saver
    channels: [test_channel, test_channel2, test_channel3]
    default_publish_channel: test_channel
    max_connection_idle_seconds: null
producers:
  ScheduledProducer:
    task_schedule:
      "lambda: __import__('time').sleep(1)": {schedule: 3}
      "test_methods.print_hello": {schedule: 2.5, args: [1, null]}
  OnStartProducer:
    task_list:
      "test_methods.print_hello": {}
  ControlProducer: null
publish: {default_control_broker: pg_notify, default_broker: pg_notify}
worker: {worker_cls: my_app.AppWorker, worker_kwargs: {idle_timeout: 120}}
extra: {anything: 1}
"#;

#[test]
fn the_schema_takes_the_demo_and_refuses_what_the_preset_refuses() {
    let dir = dir(&[]);
    let schema = done(&mut command(dir.path(), &["schema", "dispatcherd"]));
    assert_eq!(schema.code, 0, "{schema:?}");
    let validator = jsonschema::validator_for(&schema.json()).unwrap();

    for (from, to, is_right) in [
        ("", "", true),
        ("ForkServerManager", "SpawnServerManager", true),
        ("  pg_notify:", "  dispatch_py.broker:\n    schema: jobs", true),
        (
            "  pg_notify:",
            "  my.own.broker: {any: thing}\n  socket: {socket_path: a.sock}\n  pg_notify:",
            true,
        ),
        (
            "OnStartProducer:\n    task_list:\n      \"test_methods.print_hello\": {}",
            "OnStartProducer: null",
            true,
        ),
        ("version: 2", "version: 3", false),
        ("version: 2\n", "", false),
        ("  pg_notify:", "  pg_notifi:", false),
        ("channels:", "chanels:", false),
        ("max_workers: 4", "max_worker: 4", false),
        ("max_workers: 4", "max_workers: many", false),
        ("ForkServerManager", "ForkManager", false),
        ("ControlProducer", "ControllProducer", false),
        ("worker_cls:", "worker_class:", false),
        ("default_control_broker:", "control_broker:", false),
        ("  pg_notify:", "  socket: {path: a.sock}\n  pg_notify:", false),
        (
            "  pg_notify:",
            "  dispatch_py.broker: {shema: jobs}\n  pg_notify:",
            false,
        ),
    ] {
        assert!(DEMO.contains(from), "{from}");
        let text = DEMO.replacen(from, to, 1);
        let value: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        std::fs::write(dir.path().join("dispatcher.yml"), &text).unwrap();

        let printed = done(&mut command(dir.path(), &["dispatcherd", "--print-config"]));

        assert_eq!(printed.code == 0, is_right, "{from} to {to}: {printed:?}");
        let mistakes: Vec<_> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert_eq!(mistakes.is_empty(), is_right, "{from} to {to}: {mistakes:?}");
    }
}

#[test]
fn a_file_that_cannot_be_used_is_told_and_no_secret_with_it() {
    let file = "version: 2\nbrokers: {pg_notify: {config: {conninfo: \"password=c4n4ry\"}, chanels: [a]}}\n";
    let dir = dir(&[("dispatcher.yml", file)]);

    let told = done(&mut command(dir.path(), &["dispatcherd"]));

    assert_eq!(told.code, 1, "{told:?}");
    assert!(
        told.err.contains("did you mean `channels`?") && !told.err.contains("c4n4ry"),
        "{told:?}"
    );
    std::fs::write(dir.path().join("dispatcher.yml"), file.replace("chanels", "channels")).unwrap();
    let printed = done(&mut command(dir.path(), &["dispatcherd", "--print-config"]));
    assert!(
        printed.code == 0 && printed.out.contains("type = \"process\"") && !printed.out.contains("c4n4ry"),
        "{printed:?}"
    );
}
