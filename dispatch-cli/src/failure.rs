//! Why a verb did not succeed, and the exit code that says so.

/// What did not work while running, a lint finding, a probe, a drain that took too long.
pub(crate) const FAILED: u8 = 1;
/// A command line that cannot be meant.
pub(crate) const USAGE: u8 = 2;
/// A configuration that cannot be used (`EX_CONFIG` of sysexits).
pub(crate) const CONFIG: u8 = 78;

/// What a verb did: the exit code, or why not.
pub(crate) type Result<T = u8> = std::result::Result<T, Failure>;

/// Words for a person, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// Ready to be printed; diagnostics are several lines with their own `error:`.
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn run(text: impl Into<String>) -> Self {
        Self {
            code: FAILED,
            text: text.into(),
        }
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self {
            code: USAGE,
            text: text.into(),
        }
    }

    pub(crate) fn config(text: impl Into<String>) -> Self {
        Self {
            code: CONFIG,
            text: text.into(),
        }
    }
}

impl From<dispatch_core::Error> for Failure {
    fn from(error: dispatch_core::Error) -> Self {
        Self::run(error.report())
    }
}
