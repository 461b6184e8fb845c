//! From a file's text to a pipeline that runs, with types registered from outside the crates.

mod mistakes;
mod running;

use std::sync::{Arc, Mutex};

use dispatch_core::{
    Error, MemoryStore, Message, Registry, Sink, Source, Store,
    config::{
        BuildContext, ConfigError, LayerConfig, MessageLayer, Period, Secret, SinkConfig, SourceConfig, Stability,
        StoreConfig, StoreContext,
    },
    testing::{MemorySink, MemorySource},
};
use schemars::JsonSchema;
use serde::Deserialize;
use tower::{ServiceExt, util::BoxCloneSyncService};

/// `type = "words"`: the words of a text.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WordsConfig {
    text: String,
    #[serde(default)]
    limit: Option<u32>,
}

impl SourceConfig for WordsConfig {
    const TYPE: &'static str = "words";
    const SUMMARY: &'static str = "the words of a text";

    fn build(self, _: &BuildContext) -> Result<Box<dyn Source>, ConfigError> {
        if self.text.is_empty() {
            return Err(ConfigError::at("text", "there are no words in it").help("write some"));
        }
        let limit = self.limit.unwrap_or(u32::MAX) as usize;
        let words = self
            .text
            .split_whitespace()
            .take(limit)
            .map(|word| Message::new(word.to_owned()));
        Ok(Box::new(MemorySource::ending(words.collect::<Vec<_>>())))
    }
}

/// What sinks of the type `collect` took, by their `into`.
static COLLECTED: Mutex<Vec<(String, MemorySink)>> = Mutex::new(Vec::new());

/// `type = "collect"`: keeps what it takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CollectConfig {
    into: String,
    #[serde(default)]
    password: Option<Secret>,
    #[serde(default = "delay")]
    delay: Period,
}

fn delay() -> Period {
    Period(std::time::Duration::from_millis(1))
}

impl SinkConfig for CollectConfig {
    const TYPE: &'static str = "collect";
    const SUMMARY: &'static str = "keeps what it takes";

    fn build(self, _: &BuildContext) -> Result<Arc<dyn Sink>, ConfigError> {
        let _ = self.password;
        let sink = MemorySink::slow(self.delay.0, |message| {
            if message.payload == "bad" {
                Err(Error::permanent("bad word"))
            } else {
                Ok(())
            }
        });
        COLLECTED.lock().unwrap().push((self.into, sink.clone()));
        Ok(Arc::new(sink))
    }
}

fn collected(into: &str) -> Vec<String> {
    let all = COLLECTED.lock().unwrap();
    all.iter()
        .filter(|(name, _)| name == into)
        .flat_map(|(_, sink)| sink.texts())
        .collect()
}

/// `[layers.shout]`: makes payloads upper case.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ShoutConfig {
    times: usize,
}

impl LayerConfig for ShoutConfig {
    const TYPE: &'static str = "shout";
    const SUMMARY: &'static str = "makes payloads upper case";
    const STABILITY: Stability = Stability::Beta;

    fn build(self, _: &BuildContext) -> Result<MessageLayer, ConfigError> {
        let times = self.times;
        Ok(Arc::new(move |service| {
            BoxCloneSyncService::new(service.map_request(move |message: Message| {
                let louder = String::from_utf8_lossy(&message.payload).to_uppercase().repeat(times);
                message.with_payload(louder)
            }))
        }))
    }
}

/// `type = "ram"`: the memory store.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RamConfig {}

impl StoreConfig for RamConfig {
    const TYPE: &'static str = "ram";
    const SUMMARY: &'static str = "the memory store";

    fn build(self, _: &StoreContext) -> Result<Arc<dyn Store>, ConfigError> {
        Ok(Arc::new(MemoryStore::new()))
    }
}

/// `type = "notes"`: a store that keeps reservations alone, as far as files are concerned.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NotesConfig {}

impl StoreConfig for NotesConfig {
    const TYPE: &'static str = "notes";
    const SUMMARY: &'static str = "reservations only";
    const WHOLE: bool = false;

    fn build(self, context: &StoreContext) -> Result<Arc<dyn Store>, ConfigError> {
        RamConfig {}.build(context)
    }
}

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry
        .source::<WordsConfig>()
        .sink::<CollectConfig>()
        .store::<RamConfig>()
        .store::<NotesConfig>()
        .layer::<ShoutConfig>();
    registry.absent("amqp", "build with `--features amqp`");
    registry
}
