use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use smol_str::SmolStr;

use super::Sink;
use crate::{Error, HealthCheck, Message, Reply, Selector};

/// One of several sinks, chosen by a field of the message.
///
/// A message whose field names no route, or that has no such field, goes to the default; without one it fails as
/// `Permanent` with the code `route`.
#[derive(Debug)]
pub struct Route {
    by: Selector,
    routes: HashMap<SmolStr, Arc<dyn Sink>>,
    default: Option<Arc<dyn Sink>>,
}

impl Route {
    /// Chooses by the field `by`.
    #[must_use]
    pub fn new(by: Selector, routes: HashMap<SmolStr, Arc<dyn Sink>>, default: Option<Arc<dyn Sink>>) -> Self {
        Self { by, routes, default }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<dyn Sink>> {
        self.routes.values().chain(&self.default)
    }
}

#[async_trait]
impl Sink for Route {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        let value = self.by.select(&message);
        let route = value
            .as_ref()
            .and_then(|value| self.routes.get(value))
            .or(self.default.as_ref());
        match route {
            Some(sink) => sink.send(message).await,
            None => {
                let text = match value {
                    Some(value) => format!("no route for {} = \"{value}\"", self.by),
                    None => format!("no route for a message without {}", self.by),
                };
                Err(Error::permanent(text).with_code("route"))
            }
        }
    }

    async fn open(&self) -> Result<(), Error> {
        super::open_all(self.all()).await
    }

    async fn probe(&self) -> Result<(), Error> {
        super::probe_all(self.all()).await
    }

    fn health(&self) -> Vec<HealthCheck> {
        self.all().flat_map(|sink| sink.health()).collect()
    }

    async fn close(&self) -> Result<(), Error> {
        super::close_all(self.all()).await
    }
}
