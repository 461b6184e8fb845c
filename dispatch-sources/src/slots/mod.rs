//! Slots of a schedule, each fired once over all processes: what the sources `schedule` and `sqsd_cron` share.

mod plan;
mod ticker;

pub(crate) use plan::Plan;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub(crate) use ticker::{Clock, Ticker};

/// What becomes of slots that nobody could fire in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Misfire {
    /// The latest fires.
    #[default]
    Once,
    /// None fires.
    Skip,
    /// All fire in order, the latest 1000 at most.
    All,
}

/// What becomes of a slot that comes while an earlier one's message is not done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It does not fire.
    #[default]
    Skip,
    /// It waits for its turn.
    Queue,
    /// Both are worked on at once.
    Allow,
}
