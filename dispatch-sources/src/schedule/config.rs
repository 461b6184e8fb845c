use std::{collections::BTreeMap, time::Duration};

use dispatch_core::{
    Message, Source,
    config::{BuildContext, ConfigError, Period, SourceConfig, Stability},
    store::Item,
    tasks::heed,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ScheduleSource;
use crate::slots::{Misfire, Overlap, Plan};

/// When to fire, and what.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ScheduleSourceConfig {
    /// An interval, at least one second; its slots are multiples of it since 1970-01-01T00:00Z.
    pub every: Option<Period>,
    /// A cron pattern: minute, hour, day of month, month, day of week; with a sixth field, seconds come first. `@daily`
    /// and its like work too.
    pub cron: Option<String>,
    /// The clock that `cron` follows, by its IANA name; `UTC` by default.
    pub timezone: String,
    /// The payload of every message.
    pub payload: String,
    /// The headers of every message.
    pub headers: BTreeMap<String, String>,
    /// Fire up to this much later, by an amount that differs from slot to slot but not between processes. At most
    /// `every`; none by default.
    pub jitter: Option<Period>,
    /// What becomes of slots that nobody could fire in time.
    pub misfire: Misfire,
    /// What becomes of a slot that comes while an earlier one's message is not done.
    pub overlap: Overlap,
    /// The queue of the Store that the messages go into, as named tasks whose own `delay` and `on_duplicate` are heeded;
    /// whoever reads it has them. None by default: this pipeline works on them itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
}

impl Default for ScheduleSourceConfig {
    /// No time yet: set `every` or `cron`.
    fn default() -> Self {
        Self {
            every: None,
            cron: None,
            timezone: "UTC".to_owned(),
            payload: String::new(),
            headers: BTreeMap::new(),
            jitter: None,
            misfire: Misfire::default(),
            overlap: Overlap::default(),
            queue: None,
        }
    }
}

impl ScheduleSourceConfig {
    /// Fires at every multiple of `interval`.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        Self {
            every: Some(Period(interval)),
            ..Self::default()
        }
    }

    /// Fires when the clock in UTC matches `pattern`.
    pub fn cron(pattern: impl Into<String>) -> Self {
        Self {
            cron: Some(pattern.into()),
            ..Self::default()
        }
    }

    /// Whether the payload is a task, where it must be one.
    pub(super) fn check_task(&self) -> Result<(), ConfigError> {
        let Some(queue) = &self.queue else { return Ok(()) };
        if queue.is_empty() {
            return Err(ConfigError::at("queue", "the queue has no name").help("write one, such as \"app_tasks\""));
        }
        if self.overlap != Overlap::default() {
            let error = ConfigError::at("overlap", "tasks that go into a queue have no overlap");
            return Err(error.help("remove it, and say `on_duplicate` in the payload"));
        }
        heed(&mut Item::of(&Message::new(self.payload.clone()))).map_err(|error| {
            ConfigError::at("payload", error.report())
                .help(r#"with `queue` the payload is a named task, such as '{"task": "app.tasks.sweep"}'"#)
        })
    }

    pub(super) fn plan(&self) -> Result<Plan, ConfigError> {
        let plan = match (&self.every, &self.cron) {
            (Some(every), None) if every.0 < Duration::from_secs(1) => {
                return Err(ConfigError::at("every", format!("{every} is too often")).help("write at least \"1s\""));
            }
            (Some(every), None) => Plan::every(every.0),
            (None, Some(cron)) => Plan::cron(cron, &self.timezone)?,
            (Some(_), Some(_)) => {
                return Err(
                    ConfigError::at("cron", "a schedule has every or cron, not both").help("remove one of them")
                );
            }
            (None, None) => {
                return Err(
                    ConfigError::new("the schedule says no time").help("add every = \"15m\" or cron = \"30 2 * * *\"")
                );
            }
        };
        match (&self.jitter, &self.every) {
            (Some(jitter), Some(every)) if jitter > every => Err(ConfigError::at(
                "jitter",
                format!("{jitter} is longer than the interval"),
            )
            .help(format!("write at most \"{every}\""))),
            _ => Ok(plan),
        }
    }
}

impl SourceConfig for ScheduleSourceConfig {
    const TYPE: &'static str = "schedule";
    const SUMMARY: &'static str = "makes a message at each slot of an interval or a cron pattern";
    const STABILITY: Stability = Stability::Stable;

    fn build(self, context: &BuildContext) -> Result<Box<dyn Source>, ConfigError> {
        Ok(Box::new(ScheduleSource::new(&self, context)?))
    }
}
