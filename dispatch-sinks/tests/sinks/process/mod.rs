//! The pool against real Python processes.

mod cancel;
mod control;
mod crash;
mod pool;
mod shims;
mod start;
mod tasks;

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dispatch_core::{
    Commands, Error, MemoryStore, Message, Reply, Sink as _,
    config::{BuildContext, Period},
    telemetry::{Measured, Meter},
};
use dispatch_sinks::process::{ProcessSink, ProcessSinkConfig, StartMethod};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::timeout};

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

fn period(millis: u64) -> Period {
    Period(Duration::from_millis(millis))
}

/// A pool, and what belongs to it.
struct Rig {
    sink: Arc<ProcessSink>,
    commands: Commands,
    meter: Meter,
    directory: tempfile::TempDir,
}

/// Where the tests' tasks are.
fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sinks/process")
}

impl Rig {
    fn new(change: impl FnOnce(&mut ProcessSinkConfig)) -> Self {
        Self::at(here(), change)
    }

    fn at(base_dir: PathBuf, change: impl FnOnce(&mut ProcessSinkConfig)) -> Self {
        let mut config = ProcessSinkConfig::default();
        config.max = 1;
        change(&mut config);
        let (commands, meter) = (Commands::default(), Meter::default().of("sink"));
        let context = BuildContext {
            pipeline: "p".into(),
            component: "sink".into(),
            store: Arc::new(MemoryStore::new()),
            base_dir,
            concurrency: 64,
            meter: meter.clone(),
            commands: commands.clone(),
        };
        Self {
            sink: Arc::new(ProcessSink::new(config, &context).unwrap()),
            commands,
            meter,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// Sends a task and waits for its end.
    async fn run(&self, task: &str, args: Value) -> Result<Value, Error> {
        self.send(json!({ "task": format!("work.{task}"), "args": args })).await
    }

    async fn send(&self, task: Value) -> Result<Value, Error> {
        let reply = within(self.sink.send(Message::new(task.to_string()))).await?;
        Ok(value(&reply))
    }

    /// Sends a task and goes on.
    fn start(&self, task: &str, args: Value) -> JoinHandle<Result<Value, Error>> {
        self.start_message(Message::new(
            json!({ "task": format!("work.{task}"), "args": args }).to_string(),
        ))
    }

    fn start_message(&self, message: Message) -> JoinHandle<Result<Value, Error>> {
        let sink = Arc::clone(&self.sink);
        tokio::spawn(async move { within(sink.send(message)).await.map(|reply| value(&reply)) })
    }

    /// A file's path that no other test uses.
    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_string_lossy().into_owned()
    }

    async fn ask(&self, command: &str, data: Value) -> Value {
        let answers = self.commands.ask(command, &data.to_string()).await;
        serde_json::from_str(&answers[0]).unwrap()
    }

    async fn workers(&self) -> Vec<Value> {
        let workers = self.ask("workers", json!({})).await;
        workers.as_object().unwrap().values().cloned().collect()
    }

    async fn with_status(&self, status: &str) -> usize {
        self.workers()
            .await
            .iter()
            .filter(|worker| worker["status"] == status)
            .count()
    }

    fn counted(&self, name: &str) -> u64 {
        let readings = self.meter.read();
        match readings.iter().find(|reading| reading.name == name).unwrap().measured {
            Measured::Counter(count) => count,
            ref other => panic!("{name} is {other:?}"),
        }
    }

    async fn close(&self) {
        within(self.sink.close()).await.unwrap();
    }
}

fn value(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.payload).unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it must happen in time")
}

/// Waits until it is so.
async fn until(so: impl AsyncFn() -> bool) {
    within(async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

async fn exists(path: &str) {
    until(async || Path::new(path).exists()).await;
}

fn touch(path: &str) {
    std::fs::write(path, "").unwrap();
}

/// Whether a process is there and no zombie.
fn runs(pid: i64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

fn kill(pid: i64, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn code(error: &Error) -> &str {
    error.code().unwrap()
}

fn spawned(config: &mut ProcessSinkConfig) {
    config.start_method = Some(StartMethod::Spawn);
}
