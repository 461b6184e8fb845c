//! Brokers, and connections as psycopg's keywords say them.

use dispatch_core::{config::Secret, tasks::LONGEST_CHANNEL};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::SettingsError;

/// `brokers.pg_notify`: notifications of a PostgreSQL server.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct PgBroker {
    /// Keywords of the driver's `connect`: `conninfo`, or `dbname`, `user`, `password`, `host`, `port`, ….
    pub config: Option<Map<String, Value>>,
    /// For Python alone: what makes the service's connection.
    pub async_connection_factory: Option<String>,
    /// For Python alone: what makes a publisher's connection.
    pub sync_connection_factory: Option<String>,
    /// The channels to listen to.
    pub channels: Vec<String>,
    /// Where a task goes that names no queue.
    pub default_publish_channel: Option<String>,
    /// Seconds of silence before a self-check; null for never. 30.
    #[serde(deserialize_with = "given")]
    pub max_connection_idle_seconds: Option<Option<f64>>,
    /// Seconds that a self-check may take. 2.
    #[serde(deserialize_with = "given")]
    pub max_self_check_message_age_seconds: Option<Option<f64>>,
    /// Of the durable broker alone: where its tables lie, if not where the user's search path begins.
    #[serde(skip)]
    pub schema: Option<String>,
}

impl std::fmt::Debug for PgBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PgBroker")
            .field("channels", &self.channels)
            .finish_non_exhaustive()
    }
}

/// Absent, null or a value: three different things to dispatcherd.
pub(super) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// `brokers.socket`: a unix socket.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SocketBroker {
    /// Where it is.
    pub socket_path: String,
}

impl PgBroker {
    /// The connection, as libpq writes it, with all keywords but those of the driver alone.
    ///
    /// # Errors
    /// There is no `config`, or a keyword that is no text, number or truth.
    pub fn dsn(&self) -> Result<Secret, SettingsError> {
        let wrong = |key: &str, message: &str| SettingsError::Value {
            at: format!("brokers.pg_notify.config{key}"),
            message: message.to_owned(),
        };
        let Some(config) = self.config.as_ref().filter(|config| !config.is_empty()) else {
            return Err(wrong(
                "",
                "a connection is needed here, such as {conninfo: \"dbname=app\"}; connection factories are for Python alone",
            ));
        };
        let (mut conninfo, mut pairs) = ("", Vec::new());
        for (key, value) in config {
            let text = match (key.as_str(), value) {
                (_, Value::Null) => continue,
                // Of the driver, not of the connection.
                ("autocommit" | "prepare_threshold" | "cursor_factory" | "row_factory" | "context", _) => continue,
                ("conninfo", Value::String(text)) => {
                    conninfo = text.trim();
                    continue;
                }
                (_, Value::String(text)) => text.clone(),
                (_, Value::Number(number)) => number.to_string(),
                (_, Value::Bool(truth)) => u8::from(*truth).to_string(),
                _ => return Err(wrong(&format!(".{key}"), "a text or a number is wanted")),
            };
            pairs.push((key, text));
        }
        // Keywords go before what `conninfo` says, as with the driver: in either form what stands last counts.
        let is_url = ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| conninfo.starts_with(scheme));
        let mut dsn = conninfo.to_owned();
        for (key, text) in pairs {
            let (between, pair) = if is_url {
                let first = if dsn.contains('?') { '&' } else { '?' };
                (first, format!("{key}={}", utf8_percent_encode(&text, NON_ALPHANUMERIC)))
            } else {
                (
                    ' ',
                    format!("{key}='{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
                )
            };
            if !dsn.is_empty() {
                dsn.push(between);
            }
            dsn.push_str(&pair);
        }
        Ok(Secret::new(dsn))
    }

    /// Where a task goes that names no queue: the default channel, or the only one.
    ///
    /// # Errors
    /// There is no default, and not exactly one channel.
    pub fn publish_channel(&self) -> Result<&str, SettingsError> {
        match (&self.default_publish_channel, self.channels.as_slice()) {
            (Some(channel), _) | (None, [channel]) => Ok(channel),
            (None, channels) => Err(SettingsError::Value {
                at: "brokers.pg_notify.default_publish_channel".to_owned(),
                message: format!("which of {} channels to publish to is not said", channels.len()),
            }),
        }
    }

    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let wrong = |key: &str, message: String| {
            Err(SettingsError::Value {
                at: format!("brokers.pg_notify.{key}"),
                message,
            })
        };
        let all = self.channels.iter().chain(&self.default_publish_channel);
        if let Some(channel) = all
            .into_iter()
            .find(|channel| !(1..=LONGEST_CHANNEL).contains(&channel.len()))
        {
            return wrong(
                "channels",
                format!("\"{channel}\" is no channel: 1 to {LONGEST_CHANNEL} bytes"),
            );
        }
        let (idle, age) = (self.idle(), self.max_age());
        match (idle, age) {
            (Some(idle), Some(age)) if !(idle.is_finite() && idle > 0.0 && age > 0.0 && age <= idle) => wrong(
                "max_self_check_message_age_seconds",
                format!("{age} does not fit max_connection_idle_seconds, {idle}: more than 0, and at most that"),
            ),
            (Some(_), None) => wrong(
                "max_self_check_message_age_seconds",
                "with self-checks on it cannot be null".to_owned(),
            ),
            _ => Ok(()),
        }
    }

    /// Seconds of silence before a self-check, if any.
    #[must_use]
    pub fn idle(&self) -> Option<f64> {
        self.max_connection_idle_seconds.unwrap_or(Some(30.0))
    }

    /// Seconds that a self-check may take.
    #[must_use]
    pub fn max_age(&self) -> Option<f64> {
        self.max_self_check_message_age_seconds.unwrap_or(Some(2.0))
    }
}
