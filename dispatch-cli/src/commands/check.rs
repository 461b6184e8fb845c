//! `dispatch check`: read, build, and connect to everything once.

use std::time::Duration;

use clap::Args;
use dispatch_core::{Registry, config::Period};
use serde_json::json;

use crate::{
    config::ConfigArgs,
    failure::{FAILED, Result},
    global::Global,
    output::{print, print_json, table},
    run::{Plan, Stores},
};

/// Lint pipeline files, then connect to every component
///
/// Nothing is received and nothing is sent. Unlike lint it takes the files together, as run does. Exit codes: 0 all
/// connected, 1 one did not, 78 a mistake in a file.
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    config: ConfigArgs,
    /// How long each component may take
    #[arg(long, value_name = "TIME", default_value = "10s")]
    timeout: Period,
    /// Read and build everything, and connect to nothing
    #[arg(long)]
    no_network: bool,
}

impl Check {
    pub(super) async fn execute(self, global: &Global, registry: &Registry) -> Result {
        let mut stores = Stores::default();
        let plan = Plan::read(&self.config, registry, &mut stores, global.color)?;
        let limit: Duration = self.timeout.0;
        let (mut rows, mut all, mut failed) = (Vec::new(), Vec::new(), false);
        for mut planned in plan.pipelines {
            let name = planned.pipeline.handle().name().clone();
            if self.no_network {
                rows.push(vec![name.to_string(), "right, not connected".to_owned()]);
                continue;
            }
            for (label, result) in planned.pipeline.probe(limit).await {
                let error = result.err().map(|error| error.report());
                failed |= error.is_some();
                let words = error.clone().unwrap_or_else(|| "ok".to_owned());
                rows.push(vec![name.to_string(), label.to_string(), words]);
                all.push(json!({ "file": planned.file, "pipeline": name, "label": label, "error": error }));
            }
        }
        stores.keep(&[]).await;
        if global.json {
            print_json(&json!({ "ok": !failed, "components": all }))?;
        } else {
            print(&table(&rows))?;
        }
        Ok(if failed { FAILED } else { 0 })
    }
}
