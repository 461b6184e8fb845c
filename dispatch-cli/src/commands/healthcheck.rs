//! `dispatch healthcheck`, for images without a shell.

use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::json;

use crate::{
    client::Ask,
    failure::{FAILED, Result},
    global::Global,
    output::{note, print_json},
};

/// Exit 0 if running pipelines are ready, else 1
#[derive(Debug, Args)]
pub(crate) struct Healthcheck {
    /// Where to ask; an address without a path is asked for /readyz
    #[arg(value_name = "URL", env = "DISPATCH_URL", default_value = "http://127.0.0.1:9090")]
    url: String,
    /// What the server wants to be shown, where the path needs it
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
}

impl Healthcheck {
    pub(super) async fn execute(self, global: &Global) -> Result {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        let bare = !rest.trim_end_matches('/').contains('/');
        let url = if bare {
            format!("{}/readyz", self.url.trim_end_matches('/'))
        } else {
            self.url.clone()
        };
        let ask = Ask {
            method: Method::GET,
            url: &url,
            token: self.token.as_deref(),
            headers: Vec::new(),
            body: Bytes::new(),
        };
        let (ready, words) = match ask.send().await {
            Ok(answer) => (answer.status.is_success(), answer.words()),
            Err(failure) if failure.code == FAILED => (false, failure.text),
            Err(failure) => return Err(failure),
        };
        if global.json {
            print_json(&json!({ "url": url, "ready": ready, "answer": words }))?;
        } else if !ready {
            note(&format!("{url}: {words}"));
        }
        Ok(if ready { 0 } else { FAILED })
    }
}
