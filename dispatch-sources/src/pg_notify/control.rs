//! The commands of a dispatcherd service, and their answers.

use std::{
    fmt::Write as _,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
};

use dispatch_core::tasks::{BarePayload, ControlMessage, Incoming, json, with_members};
use serde_json::{Value, json};

use super::{
    listing::{cancel, running, worker_of},
    service::Service,
};

/// Every command that a service can answer, in the order of the documentation.
pub const COMMANDS: [&str; 12] = [
    "alive",
    "running",
    "cancel",
    "workers",
    "producers",
    "metrics",
    "main",
    "chunks",
    "aio_tasks",
    "status",
    "set_log_level",
    "run",
];

/// Answers one command: always an object, with the service's `node_id` in it.
pub(super) async fn answer(service: &Arc<Service>, message: &ControlMessage) -> String {
    let answer = answer_to(service, &message.command, &message.data).await;
    with_members(&answer, &[("node_id", &service.node_id)])
}

/// As [`answer`], for who is of this service and so is told the answer alone.
pub(super) async fn answer_to(service: &Arc<Service>, command: &str, data: &str) -> String {
    if !allowed(service, command) {
        let why = if COMMANDS.contains(&command) {
            "it is not allowed here"
        } else {
            "not known"
        };
        tracing::warn!(command, why, "command refused");
        service.rejected.add(1);
        return error(&format!("No control method {command}"));
    }
    match command {
        "alive" => "{}".to_owned(),
        "running" => running(service, data).await,
        "cancel" => cancel(service, data).await,
        "workers" => workers(&service.commands.ask("workers", data).await),
        "producers" => producers(service).await,
        "metrics" => one(service, "metrics", data, r#"{"enabled": false}"#).await,
        "main" => main(service).await,
        "chunks" => chunks(service),
        "aio_tasks" => aio_tasks(service),
        "status" => status(service).await,
        "set_log_level" => set_log_level(service, data).await,
        "run" => run(service, data).await,
        _ => error(&format!("No control method {command}")),
    }
}

/// All but `run`, unless told otherwise.
fn allowed(service: &Service, command: &str) -> bool {
    match &service.config.control.allow {
        Some(allow) => allow.iter().any(|allowed| allowed == command),
        None => COMMANDS.contains(&command) && command != "run",
    }
}

fn error(text: &str) -> String {
    json!({ "error": text }).to_string()
}

pub(super) fn object(members: impl IntoIterator<Item = (String, String)>) -> String {
    let mut text = "{".to_owned();
    for (key, raw) in members {
        if text.len() > 1 {
            text.push_str(", ");
        }
        let _infallible = write!(text, "{}: {raw}", Value::from(key));
    }
    text + "}"
}

/// The workers of all who have some.
fn workers(answers: &[String]) -> String {
    let members = answers.iter().enumerate().flat_map(|(place, answer)| {
        let members = json::members(answer).ok().flatten().unwrap_or_default();
        members
            .into_iter()
            .map(move |(key, raw)| (worker_of(place, key.into_owned()), raw.to_owned()))
    });
    object(members)
}

async fn one(service: &Service, command: &str, data: &str, otherwise: &str) -> String {
    let mut answers = service.commands.ask(command, data).await;
    answers.pop().unwrap_or_else(|| otherwise.to_owned())
}

async fn producers(service: &Service) -> String {
    let (counts, config) = (&service.counts, &service.config);
    let uptime = service.started.elapsed().as_secs_f64();
    let checks = *counts.checks.lock().unwrap_or_else(PoisonError::into_inner);
    let average = checks.total.as_secs_f64() / (checks.successes.max(1)) as f64;
    let plain = |produced: u64| json!({ "produced_count": produced, "uptime_seconds": uptime });
    let mut all = serde_json::Map::new();
    if service.server.is_some() {
        all.insert(
            "pg_notify-producer".to_owned(),
            json!({
                "produced_count": counts.broker.load(Relaxed),
                "uptime_seconds": uptime,
                "recycle_count": counts.recycled.load(Relaxed),
                "broker_self_check": {
                    "enabled": service.checks.is_some(),
                    "success_count": checks.successes,
                    "average_time_seconds": average,
                    "max_time_seconds": checks.longest.as_secs_f64(),
                },
            }),
        );
    }
    if config.control.socket.is_some() {
        let mut socket = plain(counts.socket.load(Relaxed));
        socket["recycle_count"] = 0.into();
        all.insert("socket-producer".to_owned(), socket);
    }
    // Schedules that go into a queue are sources of their own.
    let others = service.commands.ask("scheduled", "{}").await;
    if !(config.schedule.is_empty() && others.is_empty()) {
        let fired = others.iter().filter_map(|fired| fired.parse::<u64>().ok());
        let fired = counts.scheduled.load(Relaxed) + fired.sum::<u64>();
        all.insert("scheduled-producer".to_owned(), plain(fired));
    }
    if !config.on_start.is_empty() {
        all.insert("on-start-producer".to_owned(), plain(counts.on_start.load(Relaxed)));
    }
    if allowed(service, "run") {
        all.insert("control-producer".to_owned(), plain(counts.run.load(Relaxed)));
    }
    Value::Object(all).to_string()
}

pub(super) async fn main(service: &Service) -> String {
    let pool = one(service, "pool", "{}", "{}").await;
    // Queues are sources of their own.
    let others = service.commands.ask("received", "{}").await;
    let others: u64 = others.iter().filter_map(|count| count.parse::<u64>().ok()).sum();
    let received = service.counts.received.load(Relaxed) + others;
    object([
        ("received_count".to_owned(), received.to_string()),
        (
            "control_count".to_owned(),
            service.counts.control.load(Relaxed).to_string(),
        ),
        ("pid".to_owned(), std::process::id().to_string()),
        ("pool".to_owned(), pool),
    ])
}

fn chunks(service: &Service) -> String {
    let assembly = service.assembly();
    let mut partials = serde_json::Map::new();
    for partial in assembly.partials() {
        let pieces: Vec<_> = partial
            .pieces
            .iter()
            .map(|(index, length)| json!({ "chunk_id": index, "length": length }))
            .collect();
        partials.insert(
            partial.id,
            json!({ "seconds_since_start": partial.since.as_secs_f64(), "expected_total": partial.total, "chunks": pieces }),
        );
    }
    json!({ "status": assembly.counts, "partials": partials }).to_string()
}

/// The original lists its coroutines; ours are the parts. Where the stack of one would stand stands why it does not run; how
/// deep stacks are to be (`limit`) means nothing here.
fn aio_tasks(service: &Service) -> String {
    let parts = service.parts.list().into_iter();
    object(parts.map(|(name, part)| {
        let done = part.is_done || part.ill.is_some();
        let state = json!({ "done": done, "stack": part.ill.unwrap_or_default() });
        (name, state.to_string())
    }))
}

async fn status(service: &Arc<Service>) -> String {
    let mut all = Vec::new();
    for command in [
        "running",
        "aio_tasks",
        "workers",
        "producers",
        "metrics",
        "main",
        "chunks",
    ] {
        let answer = match command {
            "running" => running(service, "{}").await,
            "aio_tasks" => aio_tasks(service),
            "workers" => workers(&service.commands.ask("workers", "{}").await),
            "producers" => producers(service).await,
            "metrics" => one(service, "metrics", "{}", r#"{"enabled": false}"#).await,
            "main" => main(service).await,
            _ => chunks(service),
        };
        all.push((command.to_owned(), answer));
    }
    object(all)
}

async fn set_log_level(service: &Service, data: &str) -> String {
    const WANTED: &str = "Log level must be provided as a string or int via the \"level\" key.";
    let members = json::members(data).ok().flatten().unwrap_or_default();
    let raw = members
        .iter()
        .rev()
        .find(|(key, _)| key == "level")
        .map(|(_, raw)| *raw);
    let Some(raw) = raw else { return error(WANTED) };
    let level = match (json::string(raw), raw.parse::<i64>()) {
        (Some(text), _) => match text.to_ascii_uppercase().as_str() {
            known @ ("DEBUG" | "INFO" | "WARNING" | "ERROR" | "CRITICAL") => known.to_owned(),
            _ => return error(&format!("Unknown log level '{text}'.")),
        },
        // Python's numbers, and what lies between them.
        (None, Ok(number)) => match number {
            ..=10 => "DEBUG",
            11..=20 => "INFO",
            21..=30 => "WARNING",
            31..=40 => "ERROR",
            _ => "CRITICAL",
        }
        .to_owned(),
        (None, Err(_)) => return error(WANTED),
    };
    let answer = one(service, "set_log_level", &level, "").await;
    if answer.is_empty() {
        return error("The log level of this process cannot be set from here.");
    }
    json!({ "logger": "dispatcherd", "level": level, "previous_level": answer }).to_string()
}

/// Starts a task; what a task does with it is start its own follower.
async fn run(service: &Arc<Service>, data: &str) -> String {
    match Incoming::read(data, BarePayload::Reject) {
        Incoming::Task(task) => {
            service.submit(task).await;
            service.counts.run.fetch_add(1, Relaxed);
            object([("ack".to_owned(), data.to_owned())])
        }
        Incoming::Rejected(why) => error(&format!("No task to run: {why}")),
        Incoming::Control(_) | Incoming::Chunk(_) | Incoming::SelfCheck(_) => error("No task to run."),
    }
}
