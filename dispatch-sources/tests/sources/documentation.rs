//! What the pages of the rooms show is read by the loader, with the lines that stand there as comments too.

use std::sync::Arc;

use dispatch_core::{
    Error, MemoryStore, Message, Registry, Reply, Sink, Store,
    config::{BuildContext, ConfigError, Loader, SinkConfig, StoreConfig, StoreContext},
};
use schemars::JsonSchema;
use serde::Deserialize;

/// A sink and a store that only stand where one must.
#[derive(Deserialize, JsonSchema)]
struct Nothing {}

impl SinkConfig for Nothing {
    const TYPE: &'static str = "nothing";
    const SUMMARY: &'static str = "nothing";

    fn build(self, _: &BuildContext) -> Result<Arc<dyn Sink>, ConfigError> {
        Ok(Arc::new(self))
    }
}

impl StoreConfig for Nothing {
    const TYPE: &'static str = "nothing";
    const SUMMARY: &'static str = "nothing";

    fn build(self, _: &StoreContext) -> Result<Arc<dyn Store>, ConfigError> {
        Ok(Arc::new(MemoryStore::new()))
    }
}

#[async_trait::async_trait]
impl Sink for Nothing {
    async fn send(&self, _: Message) -> Result<Reply, Error> {
        Ok(Reply::default())
    }
}

/// The TOML of a front page: as it stands, and with its comments taken at their word.
fn examples(page: &str) -> Vec<String> {
    let text: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    let text = text.join("\n");
    let block = text.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let whole: String = block
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line)))
        .collect();
    vec![block.to_owned(), whole]
}

#[test]
fn the_pages_show_what_the_loader_reads() {
    let mut registry = Registry::new();
    dispatch_sources::register(&mut registry);
    registry.sink::<Nothing>().store::<Nothing>();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());

    for (room, page) in [
        ("file", include_str!("../../src/file/mod.rs")),
        ("http", include_str!("../../src/http/mod.rs")),
        ("schedule", include_str!("../../src/schedule/mod.rs")),
        ("sqsd_cron", include_str!("../../src/sqsd_cron/mod.rs")),
        ("sqs", include_str!("../../src/sqs/mod.rs")),
        ("startup", include_str!("../../src/startup.rs")),
        ("stdin", include_str!("../../src/stdin/mod.rs")),
    ] {
        for example in examples(page) {
            let text = format!(
                "name = \"p\"
{example}\n[sink]\ntype = \"nothing\"\n[store]\ntype = \"nothing\"\n"
            );
            let loader = Loader::new(&registry).lenient(true);
            let loaded = loader
                .load("example.toml", &text)
                .and_then(|loaded| loaded.build(&store));
            assert!(
                loaded.is_ok(),
                "{room}:\n{text}\n{}",
                loaded.err().map(|mistakes| format!("{mistakes:?}")).unwrap_or_default()
            );
        }
    }
}
