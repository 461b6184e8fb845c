use std::sync::Arc;

use async_trait::async_trait;

use super::Sink;
use crate::{Error, HealthCheck, Message, Reply};

/// Several sinks in a row: each reply is the next one's payload, its headers are added, and only the last one's answer
/// counts as done.
///
/// A failure anywhere fails the message, and a further attempt begins at the first sink again; so the earlier ones
/// must bear being called twice.
///
/// ```
/// use dispatch_core::{BoxError, Message, Sink, Then, sink_fn};
/// use std::sync::Arc;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), dispatch_core::Error> {
/// let double = Arc::new(sink_fn(|message: Message| async move { Ok::<_, BoxError>([&message.payload[..]; 2].concat()) }));
/// let chain = Then::new(vec![double.clone(), double]);
/// assert_eq!(chain.send(Message::new("ab")).await?.payload, "abababab");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Then(Vec<Arc<dyn Sink>>);

impl Then {
    /// These sinks, in this order.
    #[must_use]
    pub fn new(sinks: Vec<Arc<dyn Sink>>) -> Self {
        Self(sinks)
    }
}

#[async_trait]
impl Sink for Then {
    async fn send(&self, mut message: Message) -> Result<Reply, Error> {
        let Some((last, first)) = self.0.split_last() else {
            return Ok(Reply::default());
        };
        for sink in first {
            let reply = sink.send(message.clone()).await?;
            for (name, value) in reply.headers.iter() {
                message.headers_mut().insert(name, value.clone());
            }
            message.payload = reply.into_answer().payload;
        }
        last.send(message).await
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
