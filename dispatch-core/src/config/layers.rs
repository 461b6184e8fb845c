//! `[layers]`: the settings of the built-in layers, written flat.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use smol_str::SmolStr;

use super::{
    ConfigError, Percent, Period, Switch,
    rate_limit::RateLimitConfig,
    shape::{Short, short_or_long},
};
use crate::{
    Backoff, Jitter, Selector,
    layer::{
        AdaptiveSettings, BreakerLayer, BreakerSettings, KeyFn, Limit, RetryBudget, RetryPolicy, RetryRule, Stack,
    },
};

/// What stands in `[layers]`. The order of the layers is fixed and right, whatever the order of the lines.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LayersConfig {
    /// How many messages are at the sink at once: a number (64), `"adaptive"`, or a table with `limit`, `key`, `limits`.
    pub concurrency: Option<ConcurrencyConfig>,
    /// How many attempts in how long: `"100/s"`, or a table with `rate`, `burst`, `key`, `rates`, `shared`. No limit by default.
    pub rate_limit: Option<RateLimitConfig>,
    /// How long one attempt may take, or `"off"`; `"30s"` by default.
    pub timeout: Option<Switch<Period>>,
    /// How long all attempts may take, from the first receipt; no bound by default.
    pub deadline: Option<Period>,
    /// How to try again, or `"off"`: then the source alone decides.
    pub retry: Option<Switch<RetryConfig>>,
    /// When to stop calling a sink that fails, or `"off"`.
    pub breaker: Option<Switch<BreakerConfig>>,
}

/// `concurrency = 64`, `"adaptive"` or a table.
#[derive(Debug, Clone)]
pub struct ConcurrencyConfig(ConcurrencyTable);

/// The long form of `concurrency`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ConcurrencyTable {
    /// At once in all, or for each key; 64.
    limit: Option<usize>,
    /// Counts by key, such as `"header:tenant"`.
    key: Option<Selector>,
    /// Other limits for some keys.
    limits: BTreeMap<String, usize>,
    /// In all, where there is a key; the sum of `limits` or four times `limit`, whichever is more.
    total: Option<usize>,
    /// Finds the limit by latency; not with `limit` or `key`.
    adaptive: Option<AdaptiveConfig>,
}

/// How fast an adaptive limit moves; the defaults are those that Vector publishes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct AdaptiveConfig {
    /// The limit at the start.
    initial: usize,
    /// The limit's own limit.
    max: usize,
    /// How much the newest mean latency weighs, from 0 to 1.
    ewma_alpha: f64,
    /// What the limit is multiplied by when the far side slows down.
    decrease_ratio: f64,
    /// How many deviations above the mean count as slowing down.
    deviation_scale: f64,
}

impl Default for AdaptiveConfig {
    fn default() -> Self {
        let AdaptiveSettings {
            initial,
            max,
            ewma_alpha,
            decrease_ratio,
            deviation_scale,
        } = AdaptiveSettings::default();
        Self {
            initial,
            max,
            ewma_alpha,
            decrease_ratio,
            deviation_scale,
        }
    }
}

impl From<ConcurrencyTable> for ConcurrencyConfig {
    fn from(table: ConcurrencyTable) -> Self {
        Self(table)
    }
}

impl Short for ConcurrencyConfig {
    const WANTED: &'static str = "a number of messages, \"adaptive\" or a table";
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "adaptive" => Ok(Self(ConcurrencyTable {
                adaptive: Some(AdaptiveConfig::default()),
                ..Default::default()
            })),
            // A number that came from a variable.
            _ => match text.trim().parse() {
                Ok(number) => Self::from_number(number),
                Err(_) => Err(format!("\"{text}\" where {} is wanted", Self::WANTED)),
            },
        }
    }
    fn from_number(number: i64) -> Result<Self, String> {
        match usize::try_from(number) {
            Ok(limit) if limit > 0 => Ok(Self(ConcurrencyTable {
                limit: Some(limit),
                ..Default::default()
            })),
            _ => Err(format!(
                "{number} messages at once move nothing: concurrency is at least 1"
            )),
        }
    }
}

/// Gives a value with a short form its serde and schema halves.
macro_rules! short_or_table {
    ($type:ident, $table:ident, $name:literal, $short:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                short_or_long::<D, Self, $table>(deserializer)
            }
        }
        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let table = generator.subschema_for::<$table>();
                let mut forms: Vec<serde_json::Value> = $short;
                forms.push(table.to_value());
                json_schema!({ "description": <$type as Short>::WANTED, "anyOf": forms })
            }
        }
    };
}

pub(super) use short_or_table;

short_or_table!(
    ConcurrencyConfig,
    ConcurrencyTable,
    "Concurrency",
    vec![
        serde_json::json!({ "type": "integer", "minimum": 1 }),
        serde_json::json!({ "const": "adaptive" })
    ]
);

impl ConcurrencyConfig {
    fn limit(&self) -> Result<Limit, ConfigError> {
        let table = &self.0;
        if let Some(adaptive) = &table.adaptive {
            if table.limit.is_some() || table.key.is_some() {
                return Err(
                    ConfigError::at("concurrency", "an adaptive limit has no `limit` and no `key`")
                        .help("leave them out, or leave `adaptive` out"),
                );
            }
            let AdaptiveConfig {
                initial,
                max,
                ewma_alpha,
                decrease_ratio,
                deviation_scale,
            } = *adaptive;
            if !(0.0..=1.0).contains(&ewma_alpha)
                || !(0.0..1.0).contains(&decrease_ratio)
                || initial == 0
                || max < initial
            {
                return Err(ConfigError::at("concurrency.adaptive", "these numbers find no limit")
                    .help("1 <= initial <= max, 0 <= ewma_alpha <= 1, 0 <= decrease_ratio < 1"));
            }
            return Ok(Limit::Adaptive(AdaptiveSettings {
                initial,
                max,
                ewma_alpha,
                decrease_ratio,
                deviation_scale,
            }));
        }
        let limit = table.limit.unwrap_or(64);
        if limit == 0 || table.limits.values().any(|own| *own == 0) || table.total == Some(0) {
            return Err(ConfigError::at("concurrency", "0 messages at once move nothing").help("at least 1"));
        }
        match &table.key {
            None if table.limits.is_empty() => Ok(Limit::Fixed(limit)),
            None => {
                Err(ConfigError::at("concurrency.limits", "limits by key need a key").help("add key = \"header:…\""))
            }
            Some(key) => {
                let limits: std::collections::HashMap<SmolStr, usize> =
                    table.limits.iter().map(|(key, own)| (key.into(), *own)).collect();
                let total = table
                    .total
                    .unwrap_or_else(|| limits.values().sum::<usize>().max(limit.saturating_mul(4)));
                Ok(Limit::Keyed {
                    total,
                    limit,
                    limits,
                    key: key_fn(key),
                })
            }
        }
    }
}

/// Reads keys as `selector` says.
pub(super) fn key_fn(selector: &Selector) -> KeyFn {
    let selector = selector.clone();
    Arc::new(move |message| selector.select(message))
}

/// `[layers.retry]`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// So many attempts in all, over every delivery of a message; 10. 0 means without end.
    max_attempts: Option<u32>,
    /// No attempt starts later than this after the message was created.
    max_elapsed: Option<Period>,
    /// The wait before each further attempt: a table, one duration, or a list of them.
    backoff: Option<BackoffConfig>,
    /// The most a message waits in memory, all waits of one delivery together; longer ones go to the source or the
    /// store; 3 s.
    stay: Option<Period>,
    /// The longest wait that a sink can ask for; 5 min.
    retry_after_max: Option<Period>,
    /// At most such a share of retries, such as `"20%"`; beyond it messages leave the process. No budget by default.
    budget: Option<Percent>,
    /// Rules of their own for some classes (`retry`, `throttled`) or codes (`"503"`, `timeout`).
    rules: BTreeMap<String, RuleConfig>,
}

/// Classes whose attempts no number bounds.
const UNCOUNTED: [&str; 3] = ["throttled", "unavailable", "permanent"];

/// What is different for one class or code.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct RuleConfig {
    /// In the place of the general one.
    max_attempts: Option<u32>,
    /// In the place of the general one.
    backoff: Option<BackoffConfig>,
}

impl Short for RetryConfig {
    const WANTED: &'static str = "a table with `max_attempts`, `backoff`, …, or \"off\"";
    fn from_text(text: &str) -> Result<Self, String> {
        Err(format!("\"{text}\" where {} is wanted", Self::WANTED))
    }
}

impl RetryConfig {
    fn policy(&self) -> Result<RetryPolicy, ConfigError> {
        let default = RetryPolicy::default();
        let backoff = |config: &Option<BackoffConfig>| config.as_ref().map(BackoffConfig::backoff).transpose();
        let mut rules = Vec::new();
        for (name, rule) in &self.rules {
            if rule.max_attempts.is_some() && UNCOUNTED.contains(&name.as_str()) {
                let place = format!("rules.{name}.max_attempts");
                return Err(
                    ConfigError::at(place, format!("attempts that end as `{name}` are not counted"))
                        .help("bound them by `max_elapsed`, or by `layers.deadline`"),
                );
            }
            rules.push((
                name.into(),
                RetryRule {
                    max_attempts: rule.max_attempts,
                    backoff: backoff(&rule.backoff)?,
                },
            ));
        }
        #[expect(clippy::cast_possible_truncation, reason = "a share from 0 to 1")]
        let budget = self.budget.map(|Percent(share)| RetryBudget::new(share as f32, 10));
        Ok(RetryPolicy {
            backoff: backoff(&self.backoff)?.unwrap_or_default(),
            max_attempts: self.max_attempts.unwrap_or(default.max_attempts),
            max_elapsed: self.max_elapsed.map(|Period(most)| most),
            stay: self.stay.map_or(default.stay, |Period(stay)| stay),
            throttle_max: self.retry_after_max.map_or(default.throttle_max, |Period(most)| most),
            rules,
            budget,
            ..default
        })
    }
}

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
    fn backoff(&self) -> Result<Backoff, ConfigError> {
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
    fn layer(&self) -> BreakerLayer {
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

impl LayersConfig {
    /// The stack these settings make.
    ///
    /// # Errors
    /// Names the setting that cannot be meant, below `layers`.
    pub fn stack(&self) -> Result<Stack, ConfigError> {
        let mut stack = Stack::default();
        if let Some(concurrency) = &self.concurrency {
            stack.concurrency = concurrency.limit()?;
        }
        if let Some(rate_limit) = &self.rate_limit {
            stack.rate_limit = rate_limit.layer()?;
        }
        match &self.timeout {
            Some(Switch::On(Period(limit))) => stack.timeout = Some(*limit),
            Some(Switch::Off) => stack.timeout = None,
            None => {}
        }
        stack.deadline = self.deadline.map(|Period(total)| total);
        match &self.retry {
            Some(Switch::On(retry)) => stack.retry = Some(retry.policy()?),
            Some(Switch::Off) => stack.retry = None,
            None => {}
        }
        match &self.breaker {
            Some(Switch::On(breaker)) => stack.breaker = Some(breaker.layer()),
            Some(Switch::Off) => stack.breaker = None,
            None => {}
        }
        Ok(stack)
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
