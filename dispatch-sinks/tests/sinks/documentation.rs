//! What the pages of the rooms show is read by the loader, with the lines that stand there as comments too.

use std::sync::Arc;

use dispatch_core::{
    Capabilities, Error, MemoryStore, Received, Registry, Settler, Source, Store,
    config::{BuildContext, ConfigError, Loader, SourceConfig, StoreConfig, StoreContext},
};
use schemars::JsonSchema;
use serde::Deserialize;

/// A source and a store that only stand where one must.
#[derive(Deserialize, JsonSchema)]
struct Nothing {}

impl SourceConfig for Nothing {
    const TYPE: &'static str = "nothing";
    const SUMMARY: &'static str = "nothing";

    fn build(self, _: &BuildContext) -> Result<Box<dyn Source>, ConfigError> {
        Ok(Box::new(self))
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
impl Source for Nothing {
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
    fn settler(&self) -> Arc<dyn Settler> {
        unreachable!("nothing to settle")
    }
    async fn receive(&mut self, _: usize) -> Result<Received, Error> {
        Ok(Received::End)
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
    dispatch_sinks::register(&mut registry);
    registry.source::<Nothing>().store::<Nothing>();
    let environment = [("WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());

    for (room, page) in [
        ("command", include_str!("../../src/command/mod.rs")),
        #[cfg(unix)]
        ("process", include_str!("../../src/process/mod.rs")),
        ("http", include_str!("../../src/http/mod.rs")),
        ("sqs", include_str!("../../src/sqs/mod.rs")),
        ("stdout", include_str!("../../src/stdout.rs")),
    ] {
        for example in examples(page) {
            let text = format!("name = \"p\"\n[source]\ntype = \"nothing\"\n{example}\n[store]\ntype = \"nothing\"\n");
            let loader = Loader::new(&registry).lenient(true).environment(environment.clone());
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
