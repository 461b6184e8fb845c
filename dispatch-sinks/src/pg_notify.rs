//! Publishes each message as a PostgreSQL notification.
//!
//! A message is done when the server has committed the notification. It reaches whoever listens to the channel in that
//! moment, and nobody else: what must not be lost belongs into a `queue`.
//!
//! A notification holds at most 7999 bytes (NOTIFY, Description). A larger message goes in pieces, as dispatcherd's
//! listeners put them together again, if its payload is a JSON object; any other one is `Permanent`.
//!
//! ```toml
//! [sink]
//! type = "pg_notify"
//! dsn = "postgres://dispatch@127.0.0.1/app"
//! channel = "{{ header:queue | default \"tasks\" }}"
//! ```
//!
//! ```
//! use dispatch_core::config::Secret;
//! use dispatch_sinks::pg_notify::{PgNotifySink, PgNotifySinkConfig};
//!
//! let channel = "tasks".parse()?;
//! let sink = PgNotifySink::new(PgNotifySinkConfig::new(Secret::new("host=127.0.0.1 dbname=app"), channel))?;
//! # let _connects_at_first_use = sink;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

use std::sync::Arc;

use async_trait::async_trait;
use dispatch_core::{
    Class, Classify, Error, Message, Reply, Sink,
    config::{BuildContext, ConfigError, Secret, SinkConfig, Stability, Template},
    random_id,
    tasks::{LONGEST_CHANNEL, chunks::split, json},
};
use dispatch_pg_client::{PgError, Server, SharedClient};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, types::Type};

/// A notification holds at most so many bytes.
const LIMIT: usize = 7_999;

/// Where to publish.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PgNotifySinkConfig {
    /// The server: `postgres://user:password@host:5432/database`, or libpq's `host=… dbname=…`. A pooler may stand
    /// between, in any mode.
    pub dsn: Secret,
    /// The channel, 1 to 63 bytes, taken as it is written; fields of the message may stand in it.
    pub channel: Template,
}

impl PgNotifySinkConfig {
    /// Publishes to `channel` at `dsn`.
    #[must_use]
    pub const fn new(dsn: Secret, channel: Template) -> Self {
        Self { dsn, channel }
    }
}

impl SinkConfig for PgNotifySinkConfig {
    const TYPE: &'static str = "pg_notify";
    const SUMMARY: &'static str = "publishes each message as a PostgreSQL notification";
    const STABILITY: Stability = Stability::Beta;

    fn build(self, _: &BuildContext) -> Result<Arc<dyn Sink>, ConfigError> {
        Ok(Arc::new(PgNotifySink::new(self)?))
    }
}

/// Why a message was not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PgNotifySinkError {
    /// PostgreSQL could not be reached, or refused.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// The channel is empty or too long.
    #[error("\"{0}\" is no channel: 1 to {LONGEST_CHANNEL} bytes")]
    Channel(String),
    /// The payload cannot be a notification.
    #[error("payload of {0} bytes: {1}")]
    Payload(usize, &'static str),
}

impl Classify for PgNotifySinkError {
    fn class(&self) -> Class {
        match self {
            Self::Postgres(error) => error.class(),
            Self::Channel(_) | Self::Payload(..) => Class::Permanent,
        }
    }
    fn code(&self) -> Option<smol_str::SmolStr> {
        match self {
            Self::Postgres(error) => error.code(),
            Self::Channel(_) | Self::Payload(..) => None,
        }
    }
}

/// Publishes messages; see the [module](self). Clones share one connection, on which statements are pipelined.
#[derive(Debug, Clone)]
pub struct PgNotifySink(Arc<Inner>);

struct Inner {
    channel: Template,
    client: SharedClient,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl PgNotifySink {
    /// Checks `config` and makes the sink. Connects at the first use, and again whenever the connection is lost.
    ///
    /// # Errors
    /// The DSN is none, or the channel never can be one.
    pub fn new(config: PgNotifySinkConfig) -> Result<Self, ConfigError> {
        let server = Server::parse(config.dsn.expose()).map_err(|error| ConfigError::at("dsn", error.to_string()))?;
        if let Some(channel) = config.channel.as_literal()
            && !fits(channel)
        {
            let error = PgNotifySinkError::Channel(channel.to_owned());
            return Err(ConfigError::at("channel", error.to_string()));
        }
        Ok(Self(Arc::new(Inner {
            channel: config.channel,
            client: SharedClient::new(server),
        })))
    }
}

fn fits(channel: &str) -> bool {
    (1..=LONGEST_CHANNEL).contains(&channel.len())
}

impl Inner {
    async fn notify(&self, client: &Client, channel: &str, payload: &str) -> Result<(), PgError> {
        // Unnamed and typed: one round trip, and nothing that a pooler would have to remember.
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&channel, Type::TEXT), (&payload, Type::TEXT)];
        let sent = client.query_typed("SELECT pg_notify($1, $2)", &parameters).await;
        sent.map(drop).map_err(|source| PgError::Work {
            what: "publish a notification",
            place: self.client.server().place().to_owned(),
            source,
        })
    }
}

/// The payload as one notification, or as the pieces of several.
fn notifications(payload: &[u8]) -> Result<Vec<String>, PgNotifySinkError> {
    let refuse = |why| Err(PgNotifySinkError::Payload(payload.len(), why));
    let Ok(text) = std::str::from_utf8(payload) else {
        return refuse("a notification is UTF-8");
    };
    if text.contains('\0') {
        return refuse("a notification holds no zero byte");
    }
    if text.len() > LIMIT && !matches!(json::members(text), Ok(Some(_))) {
        return refuse("more than the 7999 of a notification, and only a JSON object can go in pieces");
    }
    match split(text, LIMIT, &random_id()) {
        Ok(pieces) => Ok(pieces),
        Err(_) => refuse("it cannot be cut into pieces"),
    }
}

#[async_trait]
impl Sink for PgNotifySink {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        let channel = self.0.channel.render(&message)?;
        if !fits(&channel) {
            return Err(PgNotifySinkError::Channel(channel.into_owned()).into());
        }
        let notifications = notifications(&message.payload)?;
        let client = self.0.client.client().await?;
        for notification in notifications {
            self.0.notify(&client, &channel, &notification).await?;
        }
        Ok(Reply::default())
    }

    async fn probe(&self) -> Result<(), Error> {
        self.0.client.client().await?;
        Ok(())
    }
}
