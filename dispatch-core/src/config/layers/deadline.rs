//! `layers.deadline`: how long a message is worth working on.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{
    ConfigError, Period,
    shape::{Short, short_or_table},
};

/// `deadline = "10m"` or a table.
#[derive(Debug, Clone)]
pub struct DeadlineConfig(DeadlineTable);

/// The long form of `deadline`.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct DeadlineTable {
    /// How long all attempts may take, from the first receipt.
    total: Option<Period>,
    /// How old a message may be, from when it was made: what has waited longer in its queue is not tried.
    age: Option<Period>,
}

impl From<DeadlineTable> for DeadlineConfig {
    fn from(table: DeadlineTable) -> Self {
        Self(table)
    }
}

impl Short for DeadlineConfig {
    const WANTED: &'static str = "a duration with its unit, such as \"10m\", or a table with `total`, `age`";
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self(DeadlineTable {
            total: Some(Period::from_text(text)?),
            age: None,
        }))
    }
    fn from_number(number: i64) -> Result<Self, String> {
        Self::from_text(&number.to_string())
    }
}

short_or_table!(
    DeadlineConfig,
    DeadlineTable,
    "Deadline",
    vec![serde_json::json!({ "type": "string" })]
);

impl DeadlineConfig {
    /// The total and the age.
    pub(super) fn bounds(&self) -> Result<[Option<Duration>; 2], ConfigError> {
        match self.0 {
            DeadlineTable { total: None, age: None } => {
                Err(ConfigError::at("deadline", "it bounds nothing").help("add `total` or `age`, or leave it out"))
            }
            DeadlineTable { total, age } => Ok([total, age].map(|bound| bound.map(|Period(bound)| bound))),
        }
    }
}
