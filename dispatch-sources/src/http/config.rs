use std::net::{Ipv4Addr, SocketAddr};

use dispatch_core::{
    Source,
    config::{BuildContext, ByteSize, ConfigError, Secret, SourceConfig, Stability},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::HttpSource;

/// Where to listen, and what to take.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct HttpSourceConfig {
    /// The address and port. Anything but a loopback address needs a `token`.
    pub listen: SocketAddr,
    /// The path to post to; every other is 404.
    pub path: String,
    /// When a request is answered.
    pub mode: Mode,
    /// The largest body.
    pub max_body: ByteSize,
    /// What callers must send as `Authorization: Bearer …`.
    pub token: Option<Secret>,
    /// Which of the request's headers go along; a name may end with `*`.
    pub headers: Vec<String>,
    /// How many requests may wait for a worker in `sync` mode; more are answered 503. At least 1.
    pub max_waiting: usize,
}

/// When a request is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// As soon as the message is durable.
    #[default]
    Async,
    /// When the sink has answered.
    Sync,
}

impl Default for HttpSourceConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 8080).into(),
            path: "/".to_owned(),
            mode: Mode::default(),
            max_body: ByteSize(1 << 20),
            token: None,
            headers: ["content-type", "traceparent", "tracestate", "x-*"]
                .map(str::to_owned)
                .into(),
            max_waiting: 256,
        }
    }
}

impl SourceConfig for HttpSourceConfig {
    const TYPE: &'static str = "http";
    const SUMMARY: &'static str = "takes messages from HTTP requests";
    const STABILITY: Stability = Stability::Stable;

    fn build(self, context: &BuildContext) -> Result<Box<dyn Source>, ConfigError> {
        Ok(Box::new(HttpSource::new(&self, context)?))
    }
}

impl HttpSourceConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !self.listen.ip().is_loopback() && self.token.is_none() {
            return Err(ConfigError::at(
                "listen",
                format!("{} is open to other machines, and no token is set", self.listen),
            )
            .help(format!(
                "add token = \"${{file:/run/secrets/token}}\", or listen = \"127.0.0.1:{}\"",
                self.listen.port()
            )));
        }
        if self.token.as_ref().is_some_and(|token| token.expose().is_empty()) {
            return Err(ConfigError::at("token", "the token is empty"));
        }
        if !self.path.starts_with('/') || self.path.contains(['{', '}', '*', '?', '#']) {
            return Err(
                ConfigError::at("path", format!("\"{}\" is not a fixed path", self.path))
                    .help("write one such as \"/\" or \"/messages\""),
            );
        }
        if self.max_waiting == 0 {
            return Err(ConfigError::at("max_waiting", "nobody could wait").help("write at least 1"));
        }
        for name in &self.headers {
            let fixed = name.strip_suffix('*').unwrap_or(name);
            if fixed.parse::<http::HeaderName>().is_err() && !(fixed.is_empty() && name == "*") {
                return Err(ConfigError::at("headers", format!("\"{name}\" is not a header's name")));
            }
        }
        Ok(())
    }
}
