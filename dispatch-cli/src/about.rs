//! What this binary is.

use serde_json::{Value, json};

use crate::register::FEATURES;

/// The commit this was built from, where the build said so in DISPATCH_COMMIT.
pub(crate) const COMMIT: Option<&str> = option_env!("DISPATCH_COMMIT");

/// When it was built, likewise.
pub(crate) const DATE: Option<&str> = option_env!("DISPATCH_DATE");

pub(crate) fn features() -> Vec<&'static str> {
    let on = FEATURES.into_iter().filter(|(_, _, compiled_in)| *compiled_in);
    on.map(|(name, ..)| name)
        .chain(cfg!(feature = "otel").then_some("otel"))
        .collect()
}

/// What this binary is.
pub(crate) fn about() -> Value {
    json!({ "name": "dispatch", "version": env!("CARGO_PKG_VERSION"), "commit": COMMIT, "date": DATE, "features": features() })
}
