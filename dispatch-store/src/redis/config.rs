use std::{sync::Arc, time::Duration};

use dispatch_core::{
    Store,
    config::{ConfigError, Period, Secret, Stability, StoreConfig, StoreContext},
};
use redis::{Client, aio::ConnectionManagerConfig};
use schemars::JsonSchema;
use serde::Deserialize;

use super::store::RedisStore;

/// What stands beside `type = "redis"`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RedisConfig {
    /// `redis://user:password@host:6379/0`, `rediss://` for TLS, `redis+unix:///run/redis.sock` for a socket file.
    pub url: Secret,
    /// What stands before each key, and before a colon.
    #[serde(default = "prefix")]
    pub prefix: String,
    /// How long to wait for a connection; as long again for each answer.
    #[serde(default = "connect_timeout")]
    pub connect_timeout: Period,
}

fn prefix() -> String {
    "dispatch".to_owned()
}

fn connect_timeout() -> Period {
    Period(Duration::from_secs(5))
}

impl RedisConfig {
    /// The server at `url`, everything else by default.
    #[must_use]
    pub fn new(url: Secret) -> Self {
        Self {
            url,
            prefix: prefix(),
            connect_timeout: connect_timeout(),
        }
    }
}

impl StoreConfig for RedisConfig {
    const TYPE: &'static str = "redis";
    const SUMMARY: &'static str = "a Redis server: reservations, schedule slots and positions, for [dedupe]";
    const STABILITY: Stability = Stability::Beta;
    const WHOLE: bool = false;

    fn build(self, _: &StoreContext) -> Result<Arc<dyn Store>, ConfigError> {
        if self.prefix.is_empty() {
            return Err(ConfigError::at("prefix", "the prefix is empty").help("leave it out for \"dispatch\""));
        }
        // The client's own words may hold the password.
        let client = Client::open(self.url.expose()).map_err(|error| {
            ConfigError::at("url", format!("this is no URL of a Redis server: {:?}", error.kind()))
                .help("redis://user:password@host:6379/0, rediss:// for TLS")
        })?;
        let Period(limit) = self.connect_timeout;
        if limit.is_zero() {
            return Err(ConfigError::at("connect_timeout", "nothing connects in no time").help("\"5s\""));
        }
        let manager = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(limit))
            .set_response_timeout(Some(limit))
            // The driver has its own patience: one quick second try hides a restarted server.
            .set_number_of_retries(1)
            .set_max_delay(Duration::from_millis(100));
        Ok(Arc::new(RedisStore::new(client, manager, self.prefix)))
    }
}
