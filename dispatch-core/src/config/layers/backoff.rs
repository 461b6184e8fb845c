//! `layers.retry.backoff`: the waits between attempts.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use crate::{
    Backoff, Jitter,
    config::{
        ConfigError, Period,
        shape::{Short, short_or_long},
    },
};

/// `backoff = { base = "1s", factor = 2, max = "5m", jitter = "full" }`, `"5s"` or `["1s", "10s", "1m"]`.
#[derive(Debug, Clone)]
pub struct BackoffConfig(BackoffLong);

impl From<BackoffLong> for BackoffConfig {
    fn from(long: BackoffLong) -> Self {
        Self(long)
    }
}

/// The long forms of `backoff`.
#[derive(Debug, Clone)]
enum BackoffLong {
    Table(BackoffTable),
    Schedule(Vec<Period>),
}

impl<'de> Deserialize<'de> for BackoffLong {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = BackoffLong;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(BackoffConfig::WANTED)
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<BackoffLong, A::Error> {
                BackoffTable::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(BackoffLong::Table)
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<BackoffLong, A::Error> {
                Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq)).map(BackoffLong::Schedule)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The table form of `backoff`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct BackoffTable {
    /// How the wait grows; exponential by default.
    kind: BackoffKind,
    /// The first wait; 1 s.
    base: Option<Period>,
    /// For `exponential`: what each wait is multiplied by; 2.
    factor: Option<f64>,
    /// For `linear`: what each wait is longer by; `base`.
    step: Option<Period>,
    /// No wait is shorter; 0.
    min: Option<Period>,
    /// No wait is longer; 5 min.
    max: Option<Period>,
    /// How chance spreads the waits; full by default.
    jitter: Option<JitterConfig>,
}

/// How the wait grows with the attempts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum BackoffKind {
    /// Always `base`.
    Constant,
    /// `base`, then `step` more each time.
    Linear,
    /// `base`, then `factor` times as long each time.
    #[default]
    Exponential,
    /// `base` times 1, 1, 2, 3, 5, 8, …
    Fibonacci,
    /// By chance between `base` and three times the wait before.
    Decorrelated,
}

/// How chance spreads the waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum JitterConfig {
    /// Not at all.
    None,
    /// From nothing up to the wait.
    Full,
    /// From half the wait up to the wait.
    Equal,
}

impl Short for BackoffConfig {
    const WANTED: &'static str = "a table with `base`, `factor`, …, a duration, or a list of durations";
    fn from_text(text: &str) -> Result<Self, String> {
        let base = Some(text.parse::<Period>()?);
        let table = BackoffTable {
            kind: BackoffKind::Constant,
            base,
            jitter: Some(JitterConfig::None),
            ..Default::default()
        };
        Ok(BackoffLong::Table(table).into())
    }
    fn from_number(number: i64) -> Result<Self, String> {
        Self::from_text(&number.to_string())
    }
}

impl<'de> Deserialize<'de> for BackoffConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        short_or_long::<D, Self, BackoffLong>(deserializer)
    }
}

impl JsonSchema for BackoffConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Backoff".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let forms = [
            generator.subschema_for::<BackoffTable>(),
            generator.subschema_for::<Period>(),
            generator.subschema_for::<Vec<Period>>(),
        ];
        json_schema!({ "description": Self::WANTED, "anyOf": forms })
    }
}

impl BackoffConfig {
    pub(super) fn backoff(&self) -> Result<Backoff, ConfigError> {
        let table = match &self.0 {
            BackoffLong::Schedule(waits) if waits.is_empty() => {
                return Err(ConfigError::at("retry.backoff", "an empty list of waits")
                    .help("at least one, such as [\"1s\", \"1m\"]"));
            }
            BackoffLong::Schedule(waits) => {
                let waits: Vec<Duration> = waits.iter().map(|Period(wait)| *wait).collect();
                let longest = waits.iter().copied().max().unwrap_or_default();
                return Ok(Backoff::schedule(waits).max(longest));
            }
            BackoffLong::Table(table) => table,
        };
        let base = table.base.map_or(Duration::from_secs(1), |Period(base)| base);
        let factor = table.factor.unwrap_or(2.0);
        if factor < 1.0 || !factor.is_finite() {
            return Err(ConfigError::at(
                "retry.backoff.factor",
                format!("a factor of {factor} makes waits shorter"),
            )
            .help("at least 1"));
        }
        let mut backoff = match table.kind {
            BackoffKind::Constant => Backoff::constant(base),
            BackoffKind::Linear => Backoff::linear(base, table.step.map_or(base, |Period(step)| step)),
            BackoffKind::Exponential => Backoff::exponential(base, factor),
            BackoffKind::Fibonacci => Backoff::fibonacci(base),
            BackoffKind::Decorrelated => Backoff::decorrelated(base),
        };
        if let Some(Period(min)) = table.min {
            backoff = backoff.min(min);
        }
        let max = table.max.map_or(Duration::from_secs(300).max(base), |Period(max)| max);
        if max < base {
            return Err(
                ConfigError::at("retry.backoff.max", "the longest wait is shorter than the first")
                    .help("at least `base`"),
            );
        }
        let jitter = match table.jitter {
            Some(JitterConfig::None) => Jitter::None,
            Some(JitterConfig::Equal) => Jitter::Equal,
            Some(JitterConfig::Full) | None => Jitter::Full,
        };
        Ok(backoff.max(max).jitter(jitter))
    }
}
