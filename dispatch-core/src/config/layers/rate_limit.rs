//! `layers.rate_limit`: a rate, by key, or shared with other processes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::key_fn;
use crate::{
    Selector,
    config::{
        ConfigError, Percent, Rate,
        shape::{Short, short_or_table},
    },
    layer::{OnStoreError, RateLimitLayer, SharedRate},
};

/// `rate_limit = "100/s"` or a table.
#[derive(Debug, Clone)]
pub struct RateLimitConfig(RateLimitTable);

/// The long form of `rate_limit`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RateLimitTable {
    /// How many attempts in how long.
    rate: Rate,
    /// How many at once at most; 10 ms worth by default, at least 2.
    burst: Option<u32>,
    /// Counts by key, such as `"header:tenant"`.
    key: Option<Selector>,
    /// Other rates for some keys.
    #[serde(default)]
    rates: BTreeMap<String, Rate>,
    /// Shares the rate, under this name, with all pipelines and processes that have it in the same store; not with `key`.
    shared: Option<String>,
    /// With `shared`: what to do while the store fails; `"local_share"` by default.
    on_error: Option<OnError>,
    /// With `on_error = "local_share"`: how much of the rate this process keeps; `"25%"`.
    share: Option<Percent>,
}

/// What a shared rate does while its store fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum OnError {
    /// Limits nothing.
    Open,
    /// Lets nothing pass.
    Closed,
    /// Keeps `share` of the rate in each process.
    #[default]
    LocalShare,
}

impl From<RateLimitTable> for RateLimitConfig {
    fn from(table: RateLimitTable) -> Self {
        Self(table)
    }
}

impl Short for RateLimitConfig {
    const WANTED: &'static str = "a rate such as \"100/s\" or a table with `rate`, `burst`, `key`, `rates`, `shared`";
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self(RateLimitTable {
            rate: text.parse()?,
            burst: None,
            key: None,
            rates: BTreeMap::new(),
            shared: None,
            on_error: None,
            share: None,
        }))
    }
    fn from_number(number: i64) -> Result<Self, String> {
        Self::from_text(&number.to_string())
    }
}

short_or_table!(
    RateLimitConfig,
    RateLimitTable,
    "RateLimit",
    vec![serde_json::json!({ "type": "string", "examples": ["100/s"] })]
);

impl RateLimitConfig {
    pub(super) fn layer(&self) -> Result<RateLimitLayer, ConfigError> {
        let RateLimitTable {
            rate: Rate { count, per },
            burst,
            key,
            rates,
            shared,
            on_error,
            share,
        } = &self.0;
        if let Some(name) = shared {
            return self.shared(name);
        }
        for (field, set) in [("on_error", on_error.is_some()), ("share", share.is_some())] {
            if set {
                return Err(at(field, "only a shared rate can lose its store").help("add shared = \"NAME\""));
            }
        }
        match key {
            None if rates.is_empty() => Ok(RateLimitLayer::new(*count, *per, *burst)),
            None => Err(at("rates", "rates by key need a key").help("add key = \"header:…\"")),
            Some(key) => {
                let own = rates.iter().map(|(key, rate)| (key.into(), rate.count, rate.per));
                Ok(RateLimitLayer::keyed_with(*count, *per, *burst, own, key_fn(key)))
            }
        }
    }

    fn shared(&self, name: &str) -> Result<RateLimitLayer, ConfigError> {
        let RateLimitTable {
            rate: Rate { count, per },
            burst,
            key,
            rates,
            on_error,
            share,
            ..
        } = &self.0;
        if name.is_empty() {
            return Err(at("shared", "the name is empty").help("such as \"api.example.com\""));
        }
        if key.is_some() || !rates.is_empty() {
            return Err(
                at("shared", "a shared rate is one for all keys").help("leave out `key` and `rates`, or `shared`")
            );
        }
        let on_error = match (on_error.unwrap_or_default(), share) {
            (OnError::LocalShare, None) => OnStoreError::default(),
            (OnError::LocalShare, Some(Percent(share))) if *share > 0.0 => OnStoreError::LocalShare(*share),
            (OnError::LocalShare, Some(_)) => {
                return Err(at("share", "a share of nothing moves nothing").help("more, or on_error = \"closed\""));
            }
            (_, Some(_)) => {
                return Err(at("share", "only on_error = \"local_share\" keeps a share").help("leave it out"));
            }
            (OnError::Open, None) => OnStoreError::Open,
            (OnError::Closed, None) => OnStoreError::Closed,
        };
        let mut rate = SharedRate::new(name, *count, *per).on_error(on_error);
        if let Some(burst) = burst {
            rate = rate.burst(*burst);
        }
        Ok(RateLimitLayer::shared(rate))
    }
}

fn at(field: &str, what: &str) -> ConfigError {
    ConfigError::at(format!("rate_limit.{field}"), what)
}
