use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use dispatch_core::{
    Capabilities, Error, Received, Settler, Source,
    testing::source::{Bench, source_battery},
};
use dispatch_sources::startup::{StartupSource, StartupSourceConfig};
use tokio::sync::Notify;

fn startup(payloads: Vec<Bytes>) -> StartupSource {
    let texts = payloads.iter().map(|payload| String::from_utf8_lossy(payload));
    StartupSource::new(&StartupSourceConfig::new(texts)).unwrap()
}

/// A source of which only the first words tell what it brings: it starts when something is published.
struct AtStart {
    source: StartupSource,
    published: Arc<(Mutex<Option<Vec<Bytes>>>, Notify)>,
    started: bool,
}

#[async_trait]
impl Source for AtStart {
    fn capabilities(&self) -> Capabilities {
        self.source.capabilities()
    }
    fn settler(&self) -> Arc<dyn Settler> {
        self.source.settler()
    }
    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        while !self.started {
            let published = self.published.0.lock().unwrap().take();
            match published {
                Some(payloads) => (self.source, self.started) = (startup(payloads), true),
                None => self.published.1.notified().await,
            }
        }
        self.source.receive(max).await
    }
    async fn close(&mut self) -> Result<(), Error> {
        self.source.close().await
    }
}

#[tokio::test(start_paused = true)]
async fn the_battery_holds() {
    source_battery(async || {
        let published = Arc::<(Mutex<Option<Vec<Bytes>>>, Notify)>::default();
        let source = AtStart {
            source: startup(vec![Bytes::new()]),
            published: published.clone(),
            started: false,
        };
        Bench::new(source, move |payloads| {
            *published.0.lock().unwrap() = Some(payloads);
            published.1.notify_one();
            Box::pin(async {})
        })
    })
    .await;
}
