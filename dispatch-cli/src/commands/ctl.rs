//! `dispatch ctl`: commands to dispatcherd services, ours or the original's.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use dispatch_core::{
    random_id,
    tasks::{BarePayload, Incoming, chunks::Assembly},
};
use dispatch_pg_client::{Server, quoted};
use serde_json::{Map, Value, json};
use tokio_postgres::{AsyncMessage, types::Type};

use super::dispatcherd::{FILE, settings};
use crate::{
    args::Global,
    failure::{FAILED, Failure, Result},
    output,
};

/// Send a command to dispatcherd services over PostgreSQL, and print what they answer
///
/// Reads the connection and the channel from a dispatcher.yml, as dispatcherctl does, whose commands these are. Each
/// service that listens to the channel answers; the answers are printed as a list, in YAML, or in JSON with --json.
///
/// Exit codes: 0 as many answers as expected, 1 fewer.
#[derive(Debug, Args)]
pub(crate) struct Ctl {
    /// The file; where this is left at its default, DISPATCHERD_CONFIG_FILE goes before it
    #[arg(long, value_name = "PATH", default_value = FILE, global = true)]
    config: PathBuf,
    /// The channel; by default the one that publishers use
    #[arg(long, value_name = "CHANNEL", global = true)]
    channel: Option<String>,
    /// How many services are to answer
    #[arg(long, value_name = "N", default_value_t = 1, global = true)]
    expected_replies: usize,
    /// How long to wait for them
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration, global = true)]
    timeout: Duration,
    #[command(subcommand)]
    command: Command,
}

/// What to ask for.
#[derive(Debug, Subcommand)]
enum Command {
    /// Whether somebody is there
    Alive,
    /// The tasks that run or wait
    Running(Filter),
    /// End tasks; without a filter, all
    Cancel(Filter),
    /// The worker processes
    Workers,
    /// What brings tasks, and how many it has brought
    Producers,
    /// Whether metrics are served, and where
    Metrics,
    /// The service's own counters
    Main,
    /// Messages of which some pieces are still to come
    Chunks,
    /// What the service is made of
    #[command(name = "aio_tasks")]
    AioTasks {
        /// At most so many
        #[arg(long)]
        limit: Option<u64>,
    },
    /// All of these
    Status,
    /// Set the level of the service's log
    #[command(name = "set_log_level")]
    SetLogLevel {
        /// DEBUG, INFO, WARNING, ERROR or CRITICAL
        #[arg(long)]
        level: String,
    },
}

/// Which tasks.
#[derive(Debug, Args)]
struct Filter {
    /// Of this name
    #[arg(long)]
    task: Option<String>,
    /// Of this id
    #[arg(long)]
    uuid: Option<String>,
}

impl Filter {
    fn data(self) -> Map<String, Value> {
        let members = [("task", self.task), ("uuid", self.uuid)];
        members
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?.into())))
            .collect()
    }
}

impl Command {
    fn message(self) -> (&'static str, Map<String, Value>) {
        let nothing = Map::new();
        match self {
            Self::Alive => ("alive", nothing),
            Self::Running(filter) => ("running", filter.data()),
            Self::Cancel(filter) => ("cancel", filter.data()),
            Self::Workers => ("workers", nothing),
            Self::Producers => ("producers", nothing),
            Self::Metrics => ("metrics", nothing),
            Self::Main => ("main", nothing),
            Self::Chunks => ("chunks", nothing),
            Self::AioTasks { limit } => (
                "aio_tasks",
                limit
                    .map(|limit| ("limit".to_owned(), limit.into()))
                    .into_iter()
                    .collect(),
            ),
            Self::Status => ("status", nothing),
            Self::SetLogLevel { level } => ("set_log_level", Map::from_iter([("level".to_owned(), level.into())])),
        }
    }
}

impl Ctl {
    pub(crate) async fn execute(self, global: &Global) -> Result {
        let settings = settings(&self.config)?;
        let broken = |error: &dyn std::error::Error| Failure {
            code: FAILED,
            ..Failure::config(error.to_string())
        };
        let broker = settings.pg_notify().map_err(|error| broken(&error))?;
        let server =
            Server::parse(broker.dsn().map_err(|error| broken(&error))?.expose()).map_err(|error| broken(&error))?;
        let channel = match self.channel {
            Some(channel) => channel,
            None => broker.publish_channel().map_err(|error| broken(&error))?.to_owned(),
        };
        let (command, data) = self.command.message();
        let asking = ask(&server, &channel, command, data, self.expected_replies, self.timeout);
        let answers = asking
            .await
            .map_err(|error| Failure::run(dispatch_core::Error::from(error).report()))?;
        let enough = answers.len() >= self.expected_replies;
        if global.json {
            output::print_pretty(&Value::from(answers))?;
        } else {
            let text = serde_saphyr::to_string(&answers).map_err(|error| Failure::run(error.to_string()))?;
            output::print(&text)?;
        }
        Ok(if enough { 0 } else { FAILED })
    }
}

/// Listens to a channel of its own, asks, and gathers answers until there are enough or the time is up.
async fn ask(
    server: &Server,
    channel: &str,
    command: &str,
    data: Map<String, Value>,
    expected: usize,
    timeout: Duration,
) -> std::result::Result<Vec<Value>, dispatch_pg_client::PgError> {
    let failed = |source| dispatch_pg_client::PgError::Work {
        what: "ask",
        place: server.place().to_owned(),
        source,
    };
    let (client, mut connection) = server.connect().await?;
    let (heard, mut answers) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message {
                // Who has its answers listens no more.
                let _enough = heard.send(notification.payload().to_owned());
            }
        }
    });
    let reply_to = format!("reply_to_{}", random_id().replace('-', "_").to_lowercase());
    client
        .batch_execute(&format!("LISTEN {}", quoted(&reply_to)))
        .await
        .map_err(failed)?;
    let mut message = json!({ "control": command, "reply_to": reply_to });
    if !data.is_empty() {
        message["control_data"] = data.into();
    }
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&channel, Type::TEXT), (&message.to_string(), Type::TEXT)];
    client
        .query_typed("SELECT pg_notify($1, $2)", &parameters)
        .await
        .map_err(failed)?;
    let (mut gathered, mut assembly) = (Vec::new(), Assembly::new(None));
    let gather = async {
        while gathered.len() < expected {
            let Some(text) = answers.recv().await else { return };
            let piece = match Incoming::read(&text, BarePayload::Reject) {
                Incoming::Chunk(chunk) => Some(chunk),
                _ => None,
            };
            let whole = piece.map_or(Some(text), |chunk| assembly.take(chunk));
            // What Python calls JSON and nobody else does is shown as it came.
            gathered.extend(whole.map(|whole| serde_json::from_str(&whole).unwrap_or(Value::String(whole))));
        }
    };
    let _in_time = tokio::time::timeout(timeout, gather).await;
    Ok(gathered)
}
