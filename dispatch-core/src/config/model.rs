//! The keys at the top of a file that belong to no component.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use std::net::{Ipv4Addr, SocketAddr};

use super::{ConfigError, Period, Secret, Switch, layers::key_fn};
use crate::{
    Selector,
    pipeline::{LanePolicy, Lanes},
};

/// What may stand at the top of a file beside `source`, `layers`, `sink`, `then` and `store`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TopConfig {
    /// The pipeline's name, in metrics, dead letters and the store: lower-case letters, digits and `_`. The file's
    /// name by default.
    #[schemars(regex(pattern = r"^[a-z0-9_]+$"))]
    pub(super) name: Option<String>,
    /// How many deliveries are held beyond the concurrency; what the sources advise by default.
    pub(super) prefetch: Option<usize>,
    /// How long a drain waits for what is started; 25 s.
    pub(super) drain_timeout: Option<Period>,
    /// How long a message may be in work, waits for limits included, before it is logged and counted as stuck, or `"off"`; 10 min.
    pub(super) stuck_after: Option<Switch<Period>>,
    /// Drivers over the same sources, for pipelines that the engine itself limits; 1.
    #[schemars(range(min = 1, max = 256))]
    pub(super) shards: Option<usize>,
    /// Order or fairness by key; neither by default.
    pub(super) lanes: Option<LanesConfig>,
    /// What becomes of an attempt whose lease was lost; it may finish by default.
    pub(super) on_lost_lease: OnLostLease,
    /// What becomes at the end of what is at work; it has `drain_timeout` by default.
    pub(super) on_stop: OnStop,
    /// Health, metrics and control.
    pub(super) admin: AdminConfig,
    /// What is being worked on, over gRPC and as JSON; none by default.
    pub(super) monitoring: Option<MonitoringConfig>,
}

/// `[lanes]`, whose parts fit together.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(try_from = "LanesTable")]
#[schemars(with = "LanesTable")]
pub(super) struct LanesConfig(pub(super) LanesTable);

/// `[lanes]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(
    rename = "LanesConfig",
    extend("dependentSchemas" = { "policy": { "properties": { "order": { "const": true } }, "required": ["order"] } })
)]
pub(super) struct LanesTable {
    /// What messages are sorted by, such as `"header:tenant"`.
    pub(super) key: Selector,
    /// One at a time for each key, in order, a failing head holding its followers back; if not, keys only take turns.
    #[serde(default)]
    pub(super) order: bool,
    /// With `order`: where a key waits whose head has failed; in the window by default.
    pub(super) policy: Option<PolicyConfig>,
}

/// Where a key waits whose head has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum PolicyConfig {
    /// In the window, its followers with it.
    Block,
    /// In the store, its followers with it, in their order.
    ParkKey,
}

impl TryFrom<LanesTable> for LanesConfig {
    type Error = &'static str;

    fn try_from(table: LanesTable) -> Result<Self, &'static str> {
        if table.policy.is_some() && !table.order {
            return Err("`policy` says where an ordered key waits: it needs `order = true`");
        }
        Ok(Self(table))
    }
}

impl LanesConfig {
    pub(super) fn lanes(&self) -> Lanes {
        let LanesTable { key, order, policy } = &self.0;
        Lanes {
            key: key_fn(key),
            order: *order,
            policy: match policy {
                Some(PolicyConfig::ParkKey) => LanePolicy::ParkKey,
                Some(PolicyConfig::Block) | None => LanePolicy::Block,
            },
        }
    }
}

/// What becomes of an attempt whose lease was lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnLostLease {
    /// It goes on; its settlement changes nothing.
    #[default]
    Finish,
    /// It is cancelled.
    Cancel,
}

/// What becomes at the end of what is at work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnStop {
    /// It may finish within `drain_timeout`.
    #[default]
    Drain,
    /// It is cancelled at once and given back.
    Cancel,
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Where `/metrics`, `/livez`, `/readyz`, `/healthz`, `/version` and `/v1/` are: an address and port, or `"off"`.
    pub listen: String,
    /// What callers must send as a bearer token; needed where the address is not a loopback one.
    pub token: Option<Secret>,
    /// Whether `/debug/` is there too: what is at the sinks, the configuration, the runtime's tasks.
    pub debug: bool,
}

/// `[monitoring]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MonitoringConfig {
    /// Where the scoreboard of sqsd is: an address and port, or `"off"`. Nobody is asked for a password.
    pub listen: String,
}

impl MonitoringConfig {
    /// The address and port to listen on; none where it is off.
    ///
    /// # Errors
    /// No address.
    pub fn address(&self) -> Result<Option<SocketAddr>, ConfigError> {
        match self.listen.as_str() {
            "off" => Ok(None),
            listen => address_of("monitoring.listen", listen, 6969).map(Some),
        }
    }
}

/// Reads an address and port; `localhost` is the loopback address.
fn address_of(field: &str, listen: &str, example: u16) -> Result<SocketAddr, ConfigError> {
    let local = listen.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    match (local, listen.parse::<SocketAddr>()) {
        (Some(port), _) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        (None, Ok(address)) => Ok(address),
        (None, Err(_)) => Err(
            ConfigError::at(field, format!("\"{listen}\" is not an address and port")).help(format!(
                "write one such as \"127.0.0.1:{example}\" or \"[::1]:{example}\", or \"off\" for none"
            )),
        ),
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9090".to_owned(),
            token: None,
            debug: false,
        }
    }
}

impl AdminConfig {
    /// The address and port to listen on; none where it is off.
    ///
    /// # Errors
    /// No address, an empty token, or an address that other machines reach and no token.
    pub fn address(&self) -> Result<Option<SocketAddr>, ConfigError> {
        if self.token.as_ref().is_some_and(|token| token.expose().is_empty()) {
            return Err(ConfigError::at("admin.token", "the token is empty"));
        }
        if self.listen == "off" {
            return Ok(None);
        }
        let address = address_of("admin.listen", &self.listen, 9090)?;
        if !address.ip().is_loopback() && self.token.is_none() {
            return Err(ConfigError::at(
                "admin.listen",
                format!("{address} is open to other machines, and no token is set"),
            )
            .help(format!(
                "add token = \"${{file:/run/secrets/token}}\" under [admin], or listen = \"127.0.0.1:{}\"",
                address.port()
            )));
        }
        Ok(Some(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_address_needs_a_token() {
        let admin = |listen: &str, token: Option<&str>| AdminConfig {
            listen: listen.to_owned(),
            token: token.map(Secret::new),
            debug: false,
        };

        for (listen, token, expected) in [
            ("127.0.0.1:0", None, Ok(Some("127.0.0.1:0"))),
            ("localhost:9090", None, Ok(Some("127.0.0.1:9090"))),
            ("0.0.0.0:9090", Some("t"), Ok(Some("0.0.0.0:9090"))),
            ("off", None, Ok(None)),
            ("0.0.0.0:9090", None, Err("no token is set")),
            ("[::]:9090", None, Err("no token is set")),
            ("127.0.0.1:9090", Some(""), Err("the token is empty")),
            ("9090", None, Err("is not an address and port")),
        ] {
            match (admin(listen, token).address(), expected) {
                (Ok(address), Ok(expected)) => {
                    assert_eq!(
                        address.map(|address| address.to_string()).as_deref(),
                        expected,
                        "{listen}"
                    );
                }
                (Err(error), Err(part)) => assert!(error.message.contains(part), "{listen}: {error}"),
                (got, _) => panic!("{listen}: {got:?}"),
            }
        }
    }

    #[test]
    fn lanes_wait_where_their_policy_says() {
        let policy = |text: &str| {
            let lanes: LanesConfig = toml::from_str(text).unwrap();
            lanes.lanes().policy
        };

        for (text, expected) in [
            ("key = 'key'", LanePolicy::Block),
            ("key = 'key'\norder = true", LanePolicy::Block),
            ("key = 'key'\norder = true\npolicy = 'block'", LanePolicy::Block),
            ("key = 'key'\norder = true\npolicy = 'park_key'", LanePolicy::ParkKey),
        ] {
            assert_eq!(policy(text), expected, "{text}");
        }
    }
}
