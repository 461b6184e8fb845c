//! `layers.retry`: when to try again.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::BackoffConfig;
use crate::{
    config::{ConfigError, Percent, Period, shape::Short},
    layer::{RetryBudget, RetryPolicy, RetryRule},
};

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
    pub(super) fn policy(&self) -> Result<RetryPolicy, ConfigError> {
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
