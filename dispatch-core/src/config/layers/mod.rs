//! `[layers]`: the settings of the built-in layers, written flat.

mod backoff;
mod breaker;
mod concurrency;
mod deadline;
mod rate_limit;
mod retry;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ConfigError, Period, Switch};
use crate::{
    Selector,
    layer::{KeyFn, Stack},
};

pub use self::{
    backoff::BackoffConfig, breaker::BreakerConfig, concurrency::ConcurrencyConfig, deadline::DeadlineConfig,
    rate_limit::RateLimitConfig, retry::RetryConfig,
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
    /// How long all attempts may take, from the first receipt: `"10m"`, or a table with `total`, `age`. No bound by default.
    pub deadline: Option<DeadlineConfig>,
    /// How to try again, or `"off"`: then the source alone decides.
    pub retry: Option<Switch<RetryConfig>>,
    /// When to stop calling a sink that fails, or `"off"`.
    pub breaker: Option<Switch<BreakerConfig>>,
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
        if let Some(deadline) = &self.deadline {
            [stack.deadline, stack.max_age] = deadline.bounds()?;
        }
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

/// Reads keys as `selector` says.
pub(in crate::config) fn key_fn(selector: &Selector) -> KeyFn {
    let selector = selector.clone();
    Arc::new(move |message| selector.select(message))
}
