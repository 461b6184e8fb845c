use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use dispatch_core::{
    Backoff, Jitter, Source,
    config::{BuildContext, ConfigError, Period, Secret, SourceConfig, Stability},
    pipeline::parked_queue,
    tasks::{BarePayload, LONGEST_CHANNEL},
};
use dispatch_pg_client::Server;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    PgNotifySource,
    hall::{Hall, Overflow, Settings},
    service::{Checks, Service},
};

/// Where to listen, and what to make of what is heard.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PgNotifySourceConfig {
    /// The server: `postgres://user:password@host:5432/database`, or libpq's `host=… dbname=…`. It must reach the server
    /// itself or a pooler in session mode. `sslmode=verify-full` checks the server's certificate. None only where
    /// `control.socket` alone brings tasks.
    #[serde(default)]
    pub dsn: Option<Secret>,
    /// The channels, each of 1 to 63 bytes, written as they are: any characters, upper case as it stands.
    #[serde(default)]
    pub channels: Vec<String>,
    /// A connection that has brought nothing for so long is asked whether it still hears; `"off"` for never.
    #[serde(default = "defaults::idle_check")]
    pub idle_check: Bound,
    /// A self-check that comes back later than this counts as lost; at most `idle_check`.
    #[serde(default = "defaults::self_check_max_age")]
    pub self_check_max_age: Period,
    /// How long the pieces of a large message may take; `"off"` for ever.
    #[serde(default = "defaults::chunk_timeout")]
    pub chunk_timeout: Bound,
    /// How to wait before connecting again; the first try is made at once.
    #[serde(default)]
    pub reconnect: Reconnect,
    /// What a payload that is no JSON is: a task's name (`"task"`), or nothing (`"reject"`).
    #[serde(default)]
    #[schemars(with = "String")]
    pub bare_payload: BarePayload,
    /// How many tasks wait here at most.
    #[serde(default = "defaults::max_waiting")]
    #[schemars(range(min = 1))]
    pub max_waiting: usize,
    /// What becomes of a task that finds no room, or still waits when the process ends: into the store (`"spill"`), or
    /// dropped and counted (`"shed"`).
    #[serde(default)]
    pub overflow: Overflow,
    /// Who may steer the service, and where.
    #[serde(default)]
    pub control: Control,
    /// Tasks to be run again and again, by name.
    #[serde(default)]
    pub schedule: BTreeMap<String, Scheduled>,
    /// Tasks to be run once at each start, in this order.
    #[serde(default)]
    pub on_start: Vec<OnStart>,
}

/// A duration, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound(pub Option<Duration>);

impl Serialize for Bound {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(period) => Period(period).serialize(serializer),
            None => serializer.serialize_str("off"),
        }
    }
}

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use dispatch_core::config::Switch;
        Ok(match Switch::<Period>::deserialize(deserializer)? {
            Switch::Off => Self(None),
            Switch::On(Period(period)) => Self(Some(period)),
        })
    }
}

impl JsonSchema for Bound {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bound".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        generator.subschema_for::<dispatch_core::config::Switch<Period>>()
    }
}

mod defaults {
    use super::{Bound, Duration, Period};

    pub(super) fn idle_check() -> Bound {
        Bound(Some(Duration::from_secs(30)))
    }
    pub(super) fn self_check_max_age() -> Period {
        Period(Duration::from_secs(2))
    }
    pub(super) fn chunk_timeout() -> Bound {
        Bound(Some(Duration::from_secs(1_800)))
    }
    pub(super) const fn max_waiting() -> usize {
        100_000
    }
}

/// How to wait before connecting again.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reconnect {
    /// The first wait, after the try that is made at once.
    pub base: Period,
    /// No wait is longer.
    pub max: Period,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            base: Period(Duration::from_millis(100)),
            max: Period(Duration::from_secs(30)),
        }
    }
}

/// `[source.control]`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// Whether commands are taken from the channels.
    pub pg_notify: bool,
    /// A unix socket for tasks and commands; none by default. It is made readable by this user alone.
    pub socket: Option<PathBuf>,
    /// The commands that are taken; all but `run` by default. `run` lets whoever may send commands start tasks.
    pub allow: Option<Vec<String>>,
    /// Who answers, in every answer; a random UUID by default.
    pub node_id: Option<String>,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            pg_notify: true,
            socket: None,
            allow: None,
            node_id: None,
        }
    }
}

/// A task to be run again and again.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scheduled {
    /// How often; at least 10 ms. The first run is one period after the start.
    pub every: Period,
    /// Whether a late run shifts those after it, as in dispatcherd; by default runs stay on a fixed grid.
    #[serde(default)]
    pub drift: bool,
    /// Further members of the task's message, as they go over the wire: `args`, `kwargs`, `timeout`, `on_duplicate`, …
    #[serde(default)]
    pub message: Members,
}

/// Members of a task's message: a table, or, since TOML has no null, the text of a JSON object.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Members(pub Map<String, Value>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Table(Map<String, Value>),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Table(members) => Ok(Self(members)),
            Either::Text(text) => serde_json::from_str(&text).map(Self).map_err(serde::de::Error::custom),
        }
    }
}

impl JsonSchema for Members {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Members".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["object", "string"], "description": "members of a task's message: a table, or JSON as text" })
    }
}

/// A task to be run once at each start.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnStart {
    /// `module.function`.
    pub task: String,
    /// Further members of the task's message, as they go over the wire.
    #[serde(default)]
    pub message: Members,
}

impl PgNotifySourceConfig {
    /// Listens to `channels` at `dsn`, everything else by default.
    pub fn new(dsn: Secret, channels: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            dsn: Some(dsn),
            channels: channels.into_iter().map(Into::into).collect(),
            ..Self::of_socket()
        }
    }

    /// Listens to no server; `control.socket` is still to be said.
    pub(crate) fn of_socket() -> Self {
        Self {
            dsn: None,
            channels: Vec::new(),
            idle_check: defaults::idle_check(),
            self_check_max_age: defaults::self_check_max_age(),
            chunk_timeout: defaults::chunk_timeout(),
            reconnect: Reconnect::default(),
            bare_payload: BarePayload::default(),
            max_waiting: defaults::max_waiting(),
            overflow: Overflow::default(),
            control: Control::default(),
            schedule: BTreeMap::new(),
            on_start: Vec::new(),
        }
    }

    fn checks(&self) -> Result<Option<Checks>, ConfigError> {
        let Some(idle) = self.idle_check.0 else { return Ok(None) };
        let Period(max_age) = self.self_check_max_age;
        if idle.is_zero() || max_age.is_zero() || max_age > idle {
            return Err(ConfigError::at("self_check_max_age", "it does not fit `idle_check`")
                .help("more than 0, and at most idle_check; idle_check = \"off\" for no checks"));
        }
        Ok(Some(Checks { idle, max_age }))
    }
}

impl SourceConfig for PgNotifySourceConfig {
    const TYPE: &'static str = "pg_notify";
    const SUMMARY: &'static str = "named tasks from PostgreSQL notifications, as dispatcherd takes them";
    const STABILITY: Stability = Stability::Beta;

    fn build(self, context: &BuildContext) -> Result<Box<dyn Source>, ConfigError> {
        Ok(Box::new(PgNotifySource::new(self.service(context)?)))
    }
}

impl PgNotifySourceConfig {
    /// Checks everything; connects to nothing.
    pub(super) fn service(self, context: &BuildContext) -> Result<Service, ConfigError> {
        let server = self.dsn.as_ref().map(|dsn| Server::parse(dsn.expose()));
        let server = server
            .transpose()
            .map_err(|error| ConfigError::at("dsn", error.to_string()))?;
        if server.is_none() && (!self.channels.is_empty() || self.control.socket.is_none()) {
            return Err(ConfigError::at("dsn", "where to listen is not said")
                .help("dsn = \"postgres://…\"; without one, only control.socket can bring tasks"));
        }
        if self.channels.is_empty() && self.control.socket.is_none() {
            return Err(ConfigError::at("channels", "there is nothing to listen to").help("channels = [\"tasks\"]"));
        }
        for channel in &self.channels {
            if channel.is_empty() || channel.len() > LONGEST_CHANNEL {
                let message = format!("\"{channel}\" is no channel: {} bytes", channel.len());
                return Err(ConfigError::at("channels", message).help(format!("1 to {LONGEST_CHANNEL} bytes of UTF-8")));
            }
        }
        if self.max_waiting == 0 {
            return Err(ConfigError::at("max_waiting", "no task could wait").help("at least 1"));
        }
        for (task, scheduled) in &self.schedule {
            if scheduled.every.0 < Duration::from_millis(10) {
                return Err(
                    ConfigError::at(format!("schedule.{task}.every"), "this is too often").help("at least \"10ms\"")
                );
            }
        }
        let checks = self.checks()?;
        let Reconnect {
            base: Period(base),
            max: Period(max),
        } = self.reconnect;
        if base.is_zero() || max < base {
            return Err(ConfigError::at("reconnect", "these waits do not fit").help("0 < base <= max"));
        }
        let settings = Settings {
            most: self.max_waiting,
            overflow: self.overflow,
            store: Arc::clone(&context.store),
            queue: format!("{}:{}", parked_queue(&context.pipeline), context.component),
        };
        let hall = Arc::new(Hall::new(settings, &context.meter));
        let backoff = Backoff::exponential(base, 2.0).max(max).jitter(Jitter::Full);
        Ok(Service::new(self, server, hall, context, checks, backoff))
    }
}
