use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;

use super::Sink;
use crate::{Class, Error, HealthCheck, Later, Message, Reply};

/// All of several sinks at once; done when every one has taken the message.
///
/// The reply is the first sink's. If any failed, the message fails: as `Permanent` if every failure is, else by the
/// first failure that may pass. A further attempt goes to all of them again. Where one of them is gone for good
/// ([`Error::gone`]), so is the whole.
#[derive(Debug)]
pub struct Fanout(Vec<Arc<dyn Sink>>);

impl Fanout {
    /// These sinks.
    #[must_use]
    pub fn new(sinks: Vec<Arc<dyn Sink>>) -> Self {
        Self(sinks)
    }
}

#[async_trait]
impl Sink for Fanout {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        let results = join_all(self.0.iter().map(|sink| sink.send(message.clone()))).await;
        let (mut reply, mut failure) = (None, None::<Error>);
        for result in results {
            match result {
                Ok(own) => reply = reply.or(Some(own)),
                Err(error) if error.later() == Some(Later::Gone) => failure = Some(error),
                Err(error) if failure.as_ref().is_none_or(|before| before.class() == Class::Permanent) => {
                    failure = Some(error);
                }
                Err(_) => {}
            }
        }
        failure.map_or_else(|| Ok(reply.unwrap_or_default()), Err)
    }

    async fn open(&self) -> Result<(), Error> {
        super::open_all(&self.0).await
    }

    async fn probe(&self) -> Result<(), Error> {
        super::probe_all(&self.0).await
    }

    fn health(&self) -> Vec<HealthCheck> {
        self.0.iter().flat_map(|sink| sink.health()).collect()
    }

    async fn close(&self) -> Result<(), Error> {
        super::close_all(&self.0).await
    }
}
