//! How far a component may change.

use serde::{Deserialize, Serialize};

/// What a component promises to those who name it in their files; shown by `dispatch list`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stability {
    /// Anything of it may change, or it may go, with any release. What does not say is this.
    #[default]
    Experimental,
    /// It does what its page says and is tested as the stable ones are; its keys, defaults and names of metrics may still
    /// change with any release, and the changelog says what to write instead.
    Beta,
    /// Its keys, defaults, error codes and guarantees stay as its page says until a new major version, before 1.0 until a new
    /// minor one; the changelog says what to write instead.
    Stable,
}

impl Stability {
    /// `experimental`, `beta` or `stable`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Experimental => "experimental",
            Self::Beta => "beta",
            Self::Stable => "stable",
        }
    }
}
