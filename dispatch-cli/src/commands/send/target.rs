//! Which queue or which address a pipeline file's source takes messages at.

use dispatch_core::Registry;
use serde_json::Value;

use super::Send;
use crate::{
    config::{ConfigArgs, mistaken, read_text},
    failure::{Failure, Result},
    global::Global,
    store::StoreArgs,
};

/// Where a file's source takes messages.
pub(super) enum Target {
    Queue(String),
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "this build posts nothing"))]
    Http {
        url: String,
        token: Option<String>,
    },
    #[cfg(feature = "sqs")]
    Sqs(Box<dispatch_sinks::sqs::SqsSinkConfig>),
    #[cfg(feature = "pg_notify")]
    PgNotify(Box<dispatch_sinks::pg_notify::PgNotifySinkConfig>),
}

impl Send {
    /// Where the source of the file takes messages.
    pub(super) fn target(&self, global: &Global, registry: &Registry) -> Result<(StoreArgs, Target)> {
        let args = ConfigArgs {
            files: self.file.iter().cloned().collect(),
            ..Default::default()
        };
        let path = args.paths()?.swap_remove(0);
        let text = read_text(&path)?;
        let loaded = self.over.loader(registry)?.load(&text.name, &text.text);
        let settings = loaded.map_err(|mistakes| mistaken([mistakes], global.color))?.settings;
        let source = self.source(&text.name, &settings)?;
        let kind = source.get("type").and_then(Value::as_str).unwrap_or_default();
        let target = match kind {
            "queue" => match source.get("queue").and_then(Value::as_str) {
                Some(queue) => Target::Queue(queue.to_owned()),
                None => return Err(Failure::config(format!("{}: the source names no queue", text.name))),
            },
            "http" => http_target(source)?,
            #[cfg(feature = "sqs")]
            "sqs" => Target::Sqs(Box::new(sqs_target(source)?)),
            #[cfg(feature = "pg_notify")]
            "pg_notify" => Target::PgNotify(Box::new(self.channel_of(source)?)),
            _ => {
                return Err(Failure::usage(format!(
                    "{}: a `{kind}` source takes no messages from here; `queue`, `http`, `sqs` and `pg_notify` sources do",
                    text.name
                )));
            }
        };
        if self.channel.is_some() && kind != "pg_notify" {
            return Err(Failure::usage("--channel is for `pg_notify` sources"));
        }
        let place = StoreArgs {
            config: Some(path),
            store: None,
            over: self.over.clone(),
        };
        Ok((place, target))
    }

    /// The sink for the channel that a `pg_notify` source listens to: the only one, or the one named.
    #[cfg(feature = "pg_notify")]
    fn channel_of(&self, source: &Value) -> Result<dispatch_sinks::pg_notify::PgNotifySinkConfig> {
        let mut table = source.clone();
        if let Value::Object(table) = &mut table {
            table.remove("type");
        }
        let from: dispatch_sources::pg_notify::PgNotifySourceConfig =
            serde_json::from_value(table).map_err(|error| Failure::config(format!("[source]: {error}")))?;
        let Some(dsn) = from.dsn else {
            return Err(Failure::usage(
                "the source has no `dsn`: it takes tasks by its socket alone",
            ));
        };
        let channel = match (&self.channel, from.channels.as_slice()) {
            (Some(named), all) if all.contains(named) => named,
            (None, [only]) => only,
            (_, all) => {
                let all = all.join(", ");
                return Err(Failure::usage(format!(
                    "choose one of the source's channels with --channel: {all}"
                )));
            }
        };
        let channel = dispatch_core::config::Template::literal(channel);
        Ok(dispatch_sinks::pg_notify::PgNotifySinkConfig::new(dsn, channel))
    }

    /// The source meant: the only one, or the one named.
    fn source<'v>(&self, file: &str, settings: &'v Value) -> Result<&'v Value> {
        let source = settings.get("source").unwrap_or(&Value::Null);
        if source.get("type").is_some_and(Value::is_string) {
            return Ok(source);
        }
        let all = source.as_object();
        let names = || {
            all.into_iter()
                .flat_map(|all| all.keys())
                .cloned()
                .collect::<Vec<_>>()
                .join(", ")
        };
        let chosen = match &self.source {
            Some(name) => source.get(name),
            None => all.filter(|all| all.len() == 1).and_then(|all| all.values().next()),
        };
        chosen.ok_or_else(|| Failure::usage(format!("{file}: choose one of its sources with --source: {}", names())))
    }
}

/// Where an `http` source listens, with its own defaults.
#[cfg(feature = "http")]
fn http_target(source: &Value) -> Result<Target> {
    let mut table = source.clone();
    if let Value::Object(table) = &mut table {
        table.remove("type");
    }
    let config: dispatch_sources::http::HttpSourceConfig =
        serde_json::from_value(table).map_err(|error| Failure::config(format!("[source]: {error}")))?;
    if config.listen.port() == 0 {
        return Err(Failure::usage(
            "the source listens on any free port: post to the one that its log names",
        ));
    }
    let mut address = config.listen;
    if address.ip().is_unspecified() {
        // What listens everywhere listens here.
        address.set_ip(match address.ip() {
            std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(Target::Http {
        url: format!("http://{address}{}", config.path),
        token: config.token.map(|token| token.expose().to_owned()),
    })
}

/// The sink for the queue that an `sqs` source reads.
#[cfg(feature = "sqs")]
fn sqs_target(source: &Value) -> Result<dispatch_sinks::sqs::SqsSinkConfig> {
    let mut table = source.clone();
    if let Value::Object(table) = &mut table {
        table.remove("type");
    }
    let from: dispatch_sources::sqs::SqsSourceConfig =
        serde_json::from_value(table).map_err(|error| Failure::config(format!("[source]: {error}")))?;
    let mut to = dispatch_sinks::sqs::SqsSinkConfig::default();
    to.queue_url = from.queue_url;
    to.queue_name = from.queue_name;
    to.region = from.region;
    to.endpoint_url = from.endpoint_url;
    to.access_key_id = from.access_key_id;
    to.secret_access_key = from.secret_access_key;
    Ok(to)
}

#[cfg(not(feature = "http"))]
fn http_target(_: &Value) -> Result<Target> {
    Err(Failure::usage(
        "this build has no `http`: build dispatch-cli with `--features http`",
    ))
}
