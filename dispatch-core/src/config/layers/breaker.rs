//! `layers.breaker`: when to stop calling a sink that fails.

use schemars::JsonSchema;
use serde::Deserialize;

use super::key_fn;
use crate::{
    Selector,
    config::{Percent, Period, shape::Short},
    layer::{BreakerLayer, BreakerSettings},
};

/// `[layers.breaker]`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// The share of failed calls that opens it; `"50%"`.
    failures: Option<Percent>,
    /// Fewer calls than this in the window say nothing; 20.
    min_calls: Option<u32>,
    /// How far back calls count; 30 s.
    window: Option<Period>,
    /// How long it stays open; 30 s.
    open: Option<Period>,
    /// How many calls must succeed, half open, to close it; 3.
    probes: Option<u32>,
    /// A breaker for each key, such as `"header:host"`; one for all messages by default.
    key: Option<Selector>,
}

impl Short for BreakerConfig {
    const WANTED: &'static str = "a table with `failures`, `min_calls`, `window`, `open`, `probes`, `key`, or \"off\"";
    fn from_text(text: &str) -> Result<Self, String> {
        Err(format!("\"{text}\" where {} is wanted", Self::WANTED))
    }
}

impl BreakerConfig {
    pub(super) fn layer(&self) -> BreakerLayer {
        let default = BreakerSettings::default();
        let settings = BreakerSettings {
            failures: self.failures.map_or(default.failures, |Percent(share)| share),
            min_calls: self.min_calls.unwrap_or(default.min_calls),
            window: self.window.map_or(default.window, |Period(window)| window),
            open: self.open.map_or(default.open, |Period(open)| open),
            probes: self.probes.unwrap_or(default.probes).max(1),
        };
        match &self.key {
            None => BreakerLayer::new(settings),
            Some(key) => BreakerLayer::keyed(settings, key_fn(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_with_a_key_leaves_the_gate_alone() {
        for (text, keyed) in [("failures = '30%'", false), ("key = 'header:host'", true)] {
            let config: BreakerConfig = toml::from_str(text).unwrap();

            let layer = config.layer();

            assert_eq!((layer.is_keyed(), layer.handle().is_none()), (keyed, keyed), "{text}");
        }
    }
}
