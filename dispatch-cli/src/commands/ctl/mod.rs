//! `dispatch ctl`: commands to dispatcherd services, ours or the original's.

mod ask;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use dispatch_pg_client::Server;
use serde_json::{Map, Value};

use super::dispatcherd::{FILE, broken, pipeline::server, settings};
use crate::{
    failure::{FAILED, Failure, Result},
    global::Global,
    output,
};

/// Send a command to dispatcherd services over PostgreSQL or a unix socket, and print what they answer
///
/// Reads the connection and the channel from a dispatcher.yml, as dispatcherctl does, whose commands these are. Each
/// service that listens to the channel answers; the answers are printed as a list, in YAML, or in JSON with --json.
/// It asks over the socket where publish.default_control_broker names it, or no other broker is there.
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
    /// Ask the one service with this unix socket; no file is read
    #[arg(long, value_name = "PATH", conflicts_with = "channel", global = true)]
    socket: Option<PathBuf>,
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
        /// For dispatcherd's own services: how deep their stacks are shown
        #[arg(long)]
        limit: Option<u64>,
    },
    /// All of these
    Status,
    /// Set the level of the service's log
    #[command(name = "set_log_level")]
    SetLogLevel {
        /// How much
        #[arg(long, value_parser = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], ignore_case = true)]
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

/// Where to ask.
enum Way {
    /// Who listens to a channel of a server.
    Channel(Box<Server>, String),
    /// Who serves a socket.
    Socket(PathBuf),
}

impl Ctl {
    fn way(&self) -> std::result::Result<Way, Failure> {
        if let Some(socket) = &self.socket {
            return Ok(Way::Socket(socket.clone()));
        }
        let (settings, path) = settings(&self.config)?;
        if let (Some(socket), None) = (settings.control_socket(), &self.channel) {
            return Ok(Way::Socket(socket.socket_path.as_str().into()));
        }
        let of_file = || {
            let broker = settings.pg_notify()?;
            let server = server(&settings, broker)?;
            let channel = match &self.channel {
                Some(channel) => channel,
                None => broker.publish_channel()?,
            };
            Ok((server, channel))
        };
        let (server, channel) = of_file().map_err(|error| broken(&path, &error))?;
        Ok(Way::Channel(Box::new(server), channel.to_owned()))
    }

    pub(crate) async fn execute(self, global: &Global) -> Result {
        let way = self.way()?;
        let (command, data) = self.command.message();
        let wanted = ask::Wanted {
            command,
            data,
            expected: self.expected_replies,
            timeout: self.timeout,
        };
        let answers = match way {
            Way::Channel(server, channel) => wanted
                .of_channel(&server, &channel)
                .await
                .map_err(|error| Failure::run(dispatch_core::Error::from(error).report()))?,
            Way::Socket(path) => wanted.of_socket(&path).await.map_err(|error| {
                let at = path.display();
                Failure::run(format!("ask at {at}: {error}: does a service with this socket run?"))
            })?,
        };
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
