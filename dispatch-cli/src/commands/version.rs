//! `dispatch --version`.

use crate::{
    about::{COMMIT, DATE, about, features},
    failure::Result,
    global::Global,
    output::{print, print_json},
};

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
