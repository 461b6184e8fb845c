//! `dispatch nodes`: who claims from a store's queues.

use clap::Args;
use dispatch_core::{Registry, store::Node};
use serde_json::{Value, json};

use crate::{
    failure::{Failure, Result},
    global::Global,
    letters::time,
    output::{print, print_json, table},
    store::StoreArgs,
};

/// List the processes that claim from a store's queues
#[derive(Debug, Args)]
pub(crate) struct Nodes {
    #[command(flatten)]
    place: StoreArgs,
}

impl Nodes {
    pub(super) async fn execute(self, global: &Global, registry: &Registry) -> Result {
        let store = self.place.open(registry, global.color).await?;
        let nodes = store.nodes().await;
        store.close().await?;
        let Some(nodes) = nodes? else {
            return Err(Failure::run("this store does not tell who claims from it"));
        };
        if global.json {
            let all: Vec<_> = nodes.iter().map(view).collect();
            print_json(&json!({ "nodes": all }))?;
        } else if nodes.is_empty() {
            print("nobody claims")?;
        } else {
            let head = ["node", "host", "process", "since", "last seen", "is", "holds"];
            let mut rows = vec![head.map(str::to_owned).to_vec()];
            rows.extend(nodes.iter().map(row));
            print(&table(&rows))?;
        }
        Ok(0)
    }
}

fn view(node: &Node) -> Value {
    json!({
        "node": node.name, "host": node.host, "process": node.process, "since": time(node.started_at),
        "last_seen": time(node.last_seen), "alive": node.alive, "holds": node.held,
    })
}

fn row(node: &Node) -> Vec<String> {
    let seconds = |time| humantime::format_rfc3339_seconds(time).to_string();
    vec![
        node.name.to_string(),
        node.host.to_string(),
        node.process.to_string(),
        seconds(node.started_at),
        seconds(node.last_seen),
        if node.alive { "alive" } else { "silent" }.to_owned(),
        node.held.to_string(),
    ]
}
