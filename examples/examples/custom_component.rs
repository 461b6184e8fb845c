//! A source, a sink and a layer of one's own, named in TOML beside the built-in ones.
//!
//! `cargo run -p dispatch-examples --example custom_component`

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use dispatch_core::{
    BoxError, Capabilities, Delivery, Error, Message, Received, Registry, Reply, SettleError, Settlement, Settler,
    Sink, Source, Token,
    config::{BuildContext, ConfigError, LayerConfig, Loader, MessageLayer, SinkConfig, SourceConfig},
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Notify;
use tower::{ServiceExt, util::BoxCloneSyncService};

const FILE: &str = r#"
name = "custom"

[source]
type = "range"
from = 1
to = 5

[layers]
concurrency = 1
stamp = { header = "x-by", value = "custom" }    # ours; it stands inside the built-in ones

[sink]
type = "square"

[[then]]
type = "stdout"

[store]
type = "memory"
"#;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut registry = Registry::new();
    dispatch_sinks::register(&mut registry);
    dispatch_store::register(&mut registry);
    registry
        .source::<RangeConfig>()
        .sink::<SquareConfig>()
        .layer::<StampConfig>();

    let mut loaded = Loader::new(&registry).load("custom.toml", FILE)?;
    let store = loaded.build_store()?;
    let summary = loaded.build(&store)?.run().await?;

    assert_eq!(summary.delivered, 5);
    Ok(())
}

/// `type = "range"`: whole numbers, one a message.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RangeConfig {
    /// The first.
    from: u64,
    /// The last.
    to: u64,
}

impl SourceConfig for RangeConfig {
    const TYPE: &'static str = "range";
    const SUMMARY: &'static str = "whole numbers, one a message";

    fn build(self, _: &BuildContext) -> Result<Box<dyn Source>, ConfigError> {
        if self.to < self.from {
            return Err(
                ConfigError::at("to", "the range ends before it begins").help(format!("at least {}", self.from))
            );
        }
        let waiting = (self.from..=self.to).collect();
        Ok(Box::new(Range(Arc::new(Numbers {
            state: Mutex::new(State {
                waiting,
                out: HashMap::new(),
            }),
            changed: Notify::new(),
        }))))
    }
}

/// The source: its settler is the other half of the same state.
struct Range(Arc<Numbers>);

struct Numbers {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    waiting: VecDeque<u64>,
    /// What is handed out and not settled, by the number of its token.
    out: HashMap<u64, u64>,
}

impl Numbers {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Source for Range {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.bounded = true;
        capabilities
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::clone(&self.0) as Arc<dyn Settler>
    }

    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        loop {
            let changed = self.0.changed.notified();
            {
                let mut state = self.0.state();
                let now = max.max(1).min(state.waiting.len());
                let batch: Vec<u64> = state.waiting.drain(..now).collect();
                if !batch.is_empty() {
                    let settler = self.settler();
                    let deliver = |number: u64| {
                        state.out.insert(number, number);
                        let message = Message::with_id(format!("range:{number}"), number.to_string());
                        Delivery::new(message, Token::new(number, 0), Arc::clone(&settler))
                    };
                    return Ok(Received::Batch(batch.into_iter().map(deliver).collect()));
                }
                // The end is the end only when nothing can be given back any more.
                if state.out.is_empty() {
                    return Ok(Received::End);
                }
            }
            changed.await;
        }
    }
}

#[async_trait]
impl Settler for Numbers {
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
        let settle = |entry: Settlement| {
            let mut state = self.state();
            let number = state.out.remove(&entry.token.number).ok_or(SettleError::Stale)?;
            if !entry.disposition.is_final() {
                state.waiting.push_back(number);
            }
            Ok(())
        };
        let results = batch.into_iter().map(settle).collect();
        self.changed.notify_waiters();
        results
    }
}

/// `type = "square"`: answers with the square of the number in the payload.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SquareConfig {}

impl SinkConfig for SquareConfig {
    const TYPE: &'static str = "square";
    const SUMMARY: &'static str = "answers with the square of a number";

    fn build(self, _: &BuildContext) -> Result<Arc<dyn Sink>, ConfigError> {
        Ok(Arc::new(Square))
    }
}

struct Square;

#[async_trait]
impl Sink for Square {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        let text = std::str::from_utf8(&message.payload).map_err(Error::permanent)?;
        let number: u64 = text.parse().map_err(Error::permanent)?;
        let by = message.headers().get("x-by").unwrap_or("nobody");
        Ok(Reply::new(format!("{number} squared is {}, by {by}", number * number)))
    }
}

/// `[layers] stamp = { … }`: adds a header to every attempt.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StampConfig {
    /// Its name.
    header: String,
    /// Its value.
    value: String,
}

impl LayerConfig for StampConfig {
    const TYPE: &'static str = "stamp";
    const SUMMARY: &'static str = "adds a header to every attempt";

    fn build(self, _: &BuildContext) -> Result<MessageLayer, ConfigError> {
        let Self { header, value } = self;
        Ok(Arc::new(move |service| {
            let (header, value) = (header.clone(), value.clone());
            BoxCloneSyncService::new(
                service.map_request(move |message: Message| message.header(header.as_str(), value.as_str())),
            )
        }))
    }
}
