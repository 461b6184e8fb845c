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

/// When it was built, likewise.
const DATE: Option<&str> = option_env!("DISPATCH_DATE");

fn features() -> Vec<&'static str> {
    let on = FEATURES.into_iter().filter(|(_, _, compiled_in)| *compiled_in);
    on.map(|(name, ..)| name)
        .chain(cfg!(feature = "otel").then_some("otel"))
        .collect()
}

/// What this binary is.
pub(crate) fn about() -> Value {
    json!({ "name": "dispatch", "version": env!("CARGO_PKG_VERSION"), "commit": COMMIT, "date": DATE, "features": features() })
}

pub(super) fn execute(global: &Global) -> Result {
    if global.json {
        print_json(&about())?;
    } else {
        let build: Vec<_> = [COMMIT, DATE].into_iter().flatten().collect();
        let build = match build[..] {
            [] => String::new(),
            _ => format!(" ({})", build.join(" ")),
        };
        let features = features().join(" ");
        print(&format!(
            "dispatch {}{build}\nfeatures: {features}",
            env!("CARGO_PKG_VERSION")
        ))?;
    }
    Ok(0)
}
