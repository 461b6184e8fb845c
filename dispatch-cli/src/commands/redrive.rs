//! `dispatch dlq … --queue URL`: dead-letter queues of SQS.

use clap::Args;
use dispatch_core::config::Rate;
use dispatch_sources::sqs::{
    SqsError, SqsSourceConfig,
    redrive::{DeadLetters, Move},
};
use serde_json::{Value, json};

use crate::{
    failure::{Failure, Result},
    global::Global,
    output::{print, print_json, table},
    run::plural,
};

/// Move what is in a dead-letter queue of SQS back to where it came from
///
/// SQS moves by itself, for as long as it takes; `dlq list --queue URL` shows how far it is. Credentials come from the
/// environment, profiles or roles.
#[derive(Debug, Args)]
pub(crate) struct Redrive {
    #[command(flatten)]
    queue: Queue,
    /// The ARN of the queue to move to, instead of where each message came from
    #[arg(long, value_name = "ARN")]
    to: Option<String>,
    /// At most so many, 1/s to 500/s
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,
}

/// End a move out of a dead-letter queue of SQS; what has gone stays gone
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    #[command(flatten)]
    queue: Queue,
    /// The move, as `dlq list --queue URL` shows it; by default the one that runs
    #[arg(long, value_name = "HANDLE")]
    task: Option<String>,
}

/// Which dead-letter queue.
#[derive(Debug, Args)]
pub(crate) struct Queue {
    /// The dead-letter queue of SQS
    #[arg(long, value_name = "URL")]
    queue: String,
    #[command(flatten)]
    at: At,
}

/// A dead-letter queue of SQS instead of the store's.
#[derive(Debug, Args)]
pub(crate) struct Maybe {
    /// List a dead-letter queue of SQS instead: how much waits there, and what is being moved back
    #[arg(long, value_name = "URL", conflicts_with_all = ["config", "store"])]
    queue: Option<String>,
    #[command(flatten)]
    at: At,
}

/// Where SQS is.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The region of --queue; by default that of the environment, the profile or the URL
    #[arg(long, value_name = "NAME", requires = "queue")]
    region: Option<String>,
    /// Another server than Amazon's for --queue
    #[arg(long, value_name = "URL", requires = "queue")]
    endpoint_url: Option<String>,
}

async fn open(queue: &str, at: &At) -> Result<DeadLetters> {
    let mut config = SqsSourceConfig::new(queue);
    config.region.clone_from(&at.region);
    config.endpoint_url.clone_from(&at.endpoint_url);
    DeadLetters::open(&config).await.map_err(failure)
}

fn failure(error: SqsError) -> Failure {
    Failure::from(dispatch_core::Error::from(error))
}

impl Maybe {
    pub(super) const fn is_some(&self) -> bool {
        self.queue.is_some()
    }

    pub(super) async fn execute(self, global: &Global) -> Result {
        let letters = open(self.queue.as_deref().unwrap_or_default(), &self.at).await?;
        let (waiting, moves) = (letters.waiting(), letters.moves().await.map_err(failure)?);
        if global.json {
            let moves: Vec<_> = moves.iter().map(view).collect();
            print_json(&json!({ "waiting": waiting, "moves": moves }))?;
            return Ok(0);
        }
        print(&format!("{} waiting, about", plural(waiting, "message")))?;
        if !moves.is_empty() {
            let head = ["started", "status", "moved", "of", "to", "task"];
            let mut rows = vec![head.map(str::to_owned).to_vec()];
            rows.extend(moves.iter().map(row));
            print(&table(&rows))?;
        }
        Ok(0)
    }
}

fn started(one: &Move) -> Option<String> {
    one.started.map(|at| humantime::format_rfc3339_seconds(at).to_string())
}

fn view(one: &Move) -> Value {
    json!({
        "task": one.handle,
        "status": one.status,
        "destination": one.destination,
        "moved": one.moved,
        "total": one.total,
        "rate": one.rate,
        "started_at": started(one),
        "failure": one.failure,
    })
}

fn row(one: &Move) -> Vec<String> {
    let status = match &one.failure {
        Some(failure) => format!("{}: {failure}", one.status),
        None => one.status.clone(),
    };
    vec![
        started(one).unwrap_or_default(),
        status.to_lowercase(),
        one.moved.to_string(),
        one.total.map(|total| total.to_string()).unwrap_or_default(),
        one.destination
            .clone()
            .unwrap_or_else(|| "where each came from".to_owned()),
        one.handle.clone().unwrap_or_default(),
    ]
}

impl Redrive {
    pub(super) async fn execute(self, global: &Global) -> Result {
        let rate = match self.rate {
            Some(Rate { count, per }) => {
                let rate = f64::from(count) / per.as_secs_f64();
                let whole = (1..=500).find(|whole| (f64::from(*whole) - rate).abs() < 1e-9);
                Some(
                    whole
                        .ok_or_else(|| Failure::usage("--rate: SQS moves 1/s to 500/s, in whole messages a second"))?,
                )
            }
            None => None,
        };
        let letters = open(&self.queue.queue, &self.queue.at).await?;
        let task = letters.redrive(self.to.as_deref(), rate).await.map_err(failure)?;
        if global.json {
            print_json(&json!({ "task": task, "waiting": letters.waiting() }))?;
        } else {
            let count = plural(letters.waiting(), "message");
            print(&format!(
                "SQS moves {count}; see dispatch dlq list --queue {}",
                self.queue.queue
            ))?;
        }
        Ok(0)
    }
}

impl Cancel {
    pub(super) async fn execute(self, global: &Global) -> Result {
        let letters = open(&self.queue.queue, &self.queue.at).await?;
        let task = match self.task {
            Some(task) => task,
            None => {
                let moves = letters.moves().await.map_err(failure)?;
                let running = moves.into_iter().find(|one| one.status == "RUNNING");
                let running = running.and_then(|one| one.handle);
                running.ok_or_else(|| Failure::run(format!("nothing is being moved out of {}", self.queue.queue)))?
            }
        };
        let moved = letters.cancel(&task).await.map_err(failure)?;
        if global.json {
            print_json(&json!({ "task": task, "moved": moved }))?;
        } else {
            print(&format!("ended; {} went before, about", plural(moved, "message")))?;
        }
        Ok(0)
    }
}
