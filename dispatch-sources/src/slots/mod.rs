//! Slots of a schedule, each fired once over all processes: what the sources `schedule` and `sqsd_cron` share.

mod plan;
mod ticker;

pub(crate) use plan::Plan;
#[cfg(feature = "schedule")]
pub(crate) use plan::time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
#[cfg(feature = "schedule")]
pub(crate) use ticker::SLOT;
pub(crate) use ticker::{Clock, Ticker};

/// What becomes of slots that nobody could fire in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Misfire {
    /// The latest fires, unless a slot that is in time does.
    #[default]
    Once,
    /// None fires, but for the latest up to 60 s.
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
    /// It takes the earlier one's place: what waits is dropped, and an attempt at work is cancelled first.
    Cancel,
}

impl Overlap {
    /// Whether one message of the schedule is at work at a time.
    pub(crate) const fn is_one_by_one(self) -> bool {
        matches!(self, Self::Queue | Self::Cancel)
    }
}
