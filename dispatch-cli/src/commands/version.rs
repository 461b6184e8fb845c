//! `dispatch --version`.

use serde_json::{Value, json};

use crate::{
    args::Global,
    failure::Result,
    output::{print, print_json},
    register::FEATURES,
};

/// The commit this was built from, where the build said so in DISPATCH_COMMIT.
const COMMIT: Option<&str> = option_env!("DISPATCH_COMMIT");

fn features() -> Vec<&'static str> {
    let on = FEATURES.into_iter().filter(|(_, _, compiled_in)| *compiled_in);
    on.map(|(name, ..)| name).collect()
}

/// What this binary is.
pub(crate) fn about() -> Value {
    json!({ "name": "dispatch", "version": env!("CARGO_PKG_VERSION"), "commit": COMMIT, "features": features() })
}

pub(super) fn execute(global: &Global) -> Result {
    if global.json {
        print_json(&about())?;
    } else {
        let commit = COMMIT.map(|commit| format!(" ({commit})")).unwrap_or_default();
        let features = features().join(" ");
        print(&format!(
            "dispatch {}{commit}\nfeatures: {features}",
            env!("CARGO_PKG_VERSION")
        ))?;
    }
    Ok(0)
}
