//! `dispatch status`, `pause`, `resume` and `drain`: asking a running process.

use clap::Args;
use http::Method;
use serde_json::Value;

use crate::{
    client::{AdminArgs, escaped},
    failure::{Failure, Result},
    global::Global,
    output::{print, print_json, table},
};

/// Which pipelines of which process
#[derive(Debug, Args)]
pub(crate) struct Steer {
    /// Only this pipeline
    #[arg(value_name = "PIPELINE")]
    pipeline: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// What to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Status,
    Pause,
    Resume,
    Drain,
}

impl Steer {
    pub(super) async fn execute(self, wish: Wish, global: &Global) -> Result {
        let (method, verb) = match wish {
            Wish::Status => (Method::GET, "status"),
            Wish::Pause => (Method::POST, "pause"),
            Wish::Resume => (Method::POST, "resume"),
            Wish::Drain => (Method::POST, "drain"),
        };
        let query = self
            .pipeline
            .map(|name| format!("?pipeline={}", escaped(&name)))
            .unwrap_or_default();
        let body = self.admin.ask(method, &format!("/v1/{verb}{query}")).await?;
        let answer: Value = serde_json::from_slice(&body)
            .map_err(|_| Failure::run(format!("{} does not answer as dispatch does", self.admin.url)))?;
        if global.json {
            print_json(&answer)?;
        } else {
            print(&for_people(&answer))?;
        }
        Ok(0)
    }
}

fn for_people(answer: &Value) -> String {
    let mut rows = vec![
        [
            "pipeline",
            "phase",
            "breaker",
            "in flight",
            "received",
            "delivered",
            "retried",
            "parked",
            "dead",
            "lag",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let mut ills = String::new();
    for pipeline in answer.get("pipelines").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| match pipeline.get(key) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => "-".to_owned(),
        };
        let paused = pipeline.get("paused") == Some(&Value::Bool(true));
        let phase = if paused {
            format!("{}, paused", text("phase"))
        } else {
            text("phase")
        };
        let lag = pipeline.get("lag_seconds").and_then(Value::as_f64).unwrap_or_default();
        rows.push(vec![
            text("name"),
            phase,
            text("breaker"),
            text("in_flight"),
            text("received"),
            text("delivered"),
            text("retried"),
            text("parked"),
            text("dead_lettered"),
            format!("{lag:.1}s"),
        ]);
        for part in pipeline
            .get("components")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            if let (Some(label), Some(error)) = (
                part.get("label").and_then(Value::as_str),
                part.get("error").and_then(Value::as_str),
            ) {
                ills.push_str(&format!("\n{} {label}: {error}", text("name")));
            }
        }
    }
    format!("{}{ills}", table(&rows))
}
