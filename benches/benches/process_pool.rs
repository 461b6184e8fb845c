//! What the pool of worker processes costs: no-op tasks with 1 KB of arguments from the memory source through the driver
//! to four workers, against the same four workers fed by a bare loop that keeps eight tasks in each.
//!
//! `cargo bench -p dispatch-benches --bench process_pool` prints both for the Python worker that comes along, and for
//! one that answers without looking, which shows what the pipes alone allow. `PROCESS_POOL_TASKS` is how many; the
//! parent's CPU is that of this process, without the workers'.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that meets the unexpected should panic"
)]

use std::{
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use cpu_time::ProcessTime;
use dispatch_core::{
    Commands, Error, MemoryStore, Message, Pipeline, Reply, Sink, config::BuildContext, telemetry::Meter,
    testing::MemorySource,
};
use dispatch_sinks::process::{ProcessSink, ProcessSinkConfig};
use tokio::time::Instant;

const WORKERS: usize = 4;
const HELD: usize = 8;
/// Answers each line with the same event, without looking at it.
const BLIND: &str = r#"
import os, signal
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
DONE = b'{"worker":0,"event":"done","result":null,"uuid":"79688366-1b15-476a-9252-4be22647d52c","time_started":1795314018.300733,"time_finish":1795314018.300741}\n'
os.write(4, b'{"event":"ready","prefetch":64}\n')
while True:
    data = os.read(3, 65536)
    if not data or b'"stop"' in data:
        break
    # Not for a note that asks for a task back: its answer is the task's.
    os.write(4, DONE * (data.count(b"\n") - data.count(b'["revoke"')))
os.write(4, b'{"event":"shutdown"}\n')
"#;

/// A task as dispatcherd's publisher writes it.
fn task(number: usize) -> (String, String) {
    let uuid = format!("79688366-1b15-476a-9252-{number:012x}");
    let argument = "x".repeat(1024);
    let text = format!(
        r#"{{"task": "builtins.len", "time_pub": 1795314018.3007326, "uuid": "{uuid}", "args": ["{argument}"], "channel": "bench"}}"#
    );
    (uuid, text)
}

/// A worker fed by hand: its tasks on standard input, its events on standard output.
fn bare_worker(command: &[String], tasks: usize) -> impl FnOnce() + use<> {
    let mut child = Command::new("sh")
        .args(["-c", r#"exec "$@" 3<&0 4>&1 </dev/null >&2"#, "sh"])
        .args(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let lines: Vec<String> = (0..64).map(|number| task(number).1 + "\n").collect();
    let mut buffer = vec![0; 64 * 1024];
    let mut heard = move || {
        let count = from.read(&mut buffer).unwrap();
        assert!(count > 0, "the worker died");
        buffer[..count].iter().filter(|byte| **byte == b'\n').count()
    };
    heard(); // that it is ready
    move || {
        let (mut sent, mut done) = (0, 0);
        while done < tasks {
            while sent < tasks && sent < done + HELD {
                to.write_all(lines[sent % lines.len()].as_bytes()).unwrap();
                sent += 1;
            }
            done += heard();
        }
        to.write_all(b"\"stop\"\n").unwrap();
        child.wait().unwrap();
    }
}

fn bare(command: &[String], tasks: usize) -> (Duration, Duration) {
    let workers: Vec<_> = (0..WORKERS).map(|_| bare_worker(command, tasks / WORKERS)).collect();
    let (began, cpu) = (Instant::now(), ProcessTime::now());
    let threads: Vec<_> = workers.into_iter().map(std::thread::spawn).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    (began.elapsed(), cpu.elapsed())
}

/// The pool, left open by the pipeline's end.
struct Open(Arc<ProcessSink>);

#[async_trait::async_trait]
impl Sink for Open {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        self.0.send(message).await
    }
}

async fn pooled(command: &[String], tasks: usize) -> (Duration, Duration) {
    let mut config = ProcessSinkConfig::default();
    config.command = command.to_vec();
    (config.min, config.max) = (WORKERS, WORKERS);
    let context = BuildContext {
        pipeline: "bench".into(),
        component: "sink".into(),
        store: Arc::new(MemoryStore::new()),
        base_dir: ".".into(),
        concurrency: WORKERS * HELD,
        meter: Meter::default().of("sink"),
        commands: Commands::default(),
    };
    let sink = Arc::new(ProcessSink::new(config, &context).unwrap());
    sink.open().await.unwrap();
    let ready = "\"status\":\"ready\"";
    while context.commands.ask("workers", "{}").await[0].matches(ready).count() < WORKERS {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let messages = (0..tasks).map(task).map(|(uuid, text)| Message::with_id(uuid, text));
    let pipeline = Pipeline::builder("bench")
        .source(MemorySource::ending(messages.collect::<Vec<_>>()))
        .sink(Open(Arc::clone(&sink)))
        .concurrency(WORKERS * HELD)
        .build()
        .unwrap();

    let (began, cpu) = (Instant::now(), ProcessTime::now());
    let summary = pipeline.run().await.unwrap();
    let took = (began.elapsed(), cpu.elapsed());
    assert_eq!(summary.delivered, tasks as u64);
    sink.close().await.unwrap();
    took
}

fn show(name: &str, tasks: usize, (took, cpu): (Duration, Duration)) -> f64 {
    let rate = tasks as f64 / took.as_secs_f64();
    let cpu = cpu.as_secs_f64() * 1e6 / tasks as f64;
    println!("{name}: {rate:.0} tasks/s, parent's CPU {cpu:.1} µs a task");
    rate
}

fn main() {
    let tasks = std::env::var("PROCESS_POOL_TASKS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(60_000);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shim = here.join("../dispatch-sinks/src/process/python/dispatch_worker.py");
    let python = std::env::var("DISPATCH_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let commands = [
        ("blind worker", vec![python.clone(), "-c".to_owned(), BLIND.to_owned()]),
        ("python worker", vec![python, shim.to_string_lossy().into_owned()]),
    ];
    for (name, command) in commands {
        let mut ratios = Vec::new();
        for _ in 0..3 {
            let loose = show(&format!("{name}, bare loop"), tasks, bare(&command, tasks));
            for threads in [1, 2] {
                let mut runtime = match threads {
                    1 => tokio::runtime::Builder::new_current_thread(),
                    _ => tokio::runtime::Builder::new_multi_thread(),
                };
                let runtime = runtime.worker_threads(threads).enable_all().build().unwrap();
                let took =
                    runtime.block_on(async { tokio::spawn(pooled_owned(command.clone(), tasks)).await.unwrap() });
                let rate = show(&format!("{name}, pool, {threads} threads"), tasks, took);
                ratios.push(rate / loose);
            }
        }
        ratios.sort_by(f64::total_cmp);
        println!(
            "{name}: pool over bare loop {:.2} (median of {})",
            ratios[ratios.len() / 2],
            ratios.len()
        );
    }
}

async fn pooled_owned(command: Vec<String>, tasks: usize) -> (Duration, Duration) {
    pooled(&command, tasks).await
}
