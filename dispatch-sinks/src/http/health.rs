//! Whether the worker is well: a URL that is asked now and then, and closes the source's gate while it does not answer.

use std::{path::Path, sync::Arc, time::Duration};

use dispatch_core::{
    HealthCheck, Message, Sink as _,
    config::{ConfigError, Period, Template, Verdict},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ForwardHeaders, HttpSink, HttpSinkConfig};

/// How long to wait while the worker is not well.
const AGAIN: Duration = Duration::from_secs(1);

/// Ask whether the worker is well, and receive nothing while it is not: before the first message, and from then on.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HealthConfig {
    /// What is asked, by GET: 2xx and 3xx are well.
    pub url: Template,
    /// How often, while the worker is well; each second while it is not. 10 s.
    #[serde(default = "defaults::every")]
    pub every: Period,
    /// How long an answer may take; 1 s.
    #[serde(default = "defaults::timeout")]
    pub timeout: Period,
    /// How many good answers in a row make it well; 1.
    #[serde(default = "defaults::healthy")]
    #[schemars(range(min = 1))]
    pub healthy: u32,
    /// How many bad answers in a row make it ill; 3.
    #[serde(default = "defaults::unhealthy")]
    #[schemars(range(min = 1))]
    pub unhealthy: u32,
}

mod defaults {
    use super::{Duration, Period};

    pub(super) fn every() -> Period {
        Period(Duration::from_secs(10))
    }
    pub(super) fn timeout() -> Period {
        Period(Duration::from_secs(1))
    }
    pub(super) fn healthy() -> u32 {
        1
    }
    pub(super) fn unhealthy() -> u32 {
        3
    }
}

impl HealthConfig {
    /// Asks `url`, everything else by default.
    #[must_use]
    pub fn new(url: Template) -> Self {
        Self {
            url,
            every: defaults::every(),
            timeout: defaults::timeout(),
            healthy: defaults::healthy(),
            unhealthy: defaults::unhealthy(),
        }
    }

    /// The check of the worker that `worker` describes, over the same kind of connection.
    pub(super) fn check(&self, worker: &HttpSinkConfig, base_dir: &Path) -> Result<HealthCheck, ConfigError> {
        let here = |error: ConfigError| ConfigError {
            field: error.field.map(|field| format!("health.{field}")),
            ..error
        };
        if self.url.as_literal().is_none() {
            return Err(ConfigError::at(
                "health.url",
                "the worker's health has no message: write a URL without fields",
            ));
        }
        if self.every.0.is_zero() || self.timeout.0.is_zero() {
            return Err(ConfigError::at(
                "health.every",
                "`every` and `timeout` are longer than nothing",
            ));
        }
        let mut config = HttpSinkConfig::new(self.url.clone());
        config.method = "GET".to_owned();
        config.timeout = Some(self.timeout);
        config.connect_timeout = self.timeout;
        config.forward_headers = ForwardHeaders::None;
        config.idempotency_header = "off".to_owned();
        config.http_version = worker.http_version;
        config.unix_socket.clone_from(&worker.unix_socket);
        config.tls = worker.tls.clone();
        config.statuses.insert("3xx".to_owned(), Verdict::Success);
        let asked = Arc::new(HttpSink::new(&config, base_dir).map_err(here)?);
        Ok(HealthCheck::new(move || {
            let asked = asked.clone();
            async move { asked.send(Message::with_id("health", "")).await.map(drop) }
        })
        .every(self.every.0)
        .again(AGAIN.min(self.every.0))
        .healthy(self.healthy)
        .unhealthy(self.unhealthy))
    }
}
