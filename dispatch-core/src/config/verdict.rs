//! What users say an answer means.

use std::{str::FromStr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Class;

/// What an answer means for the message, as written in a table of statuses or exit codes: success, or a [`Class`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Done.
    Success,
    /// This message may work later.
    Retry,
    /// The far side asks for time.
    Throttled,
    /// The far side is down, or refuses us.
    Unavailable,
    /// This message never will.
    Permanent,
}

impl Verdict {
    /// The class of the failure, none for success. `after` is how much time the far side asked for, if it said so.
    #[must_use]
    pub const fn class(self, after: Option<Duration>) -> Option<Class> {
        match self {
            Self::Success => None,
            Self::Retry => Some(Class::Retry),
            Self::Throttled => Some(Class::Throttled(after)),
            Self::Unavailable => Some(Class::Unavailable),
            Self::Permanent => Some(Class::Permanent),
        }
    }
}

impl FromStr for Verdict {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "success" => Self::Success,
            "retry" => Self::Retry,
            "throttled" => Self::Throttled,
            "unavailable" => Self::Unavailable,
            "permanent" => Self::Permanent,
            _ => {
                return Err(format!(
                    "\"{text}\" is none of success, retry, throttled, unavailable and permanent"
                ));
            }
        })
    }
}
