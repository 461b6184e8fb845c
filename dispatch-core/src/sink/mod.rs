//! Where messages go.

mod fallback;
mod fanout;
mod route;
mod then;

use std::{fmt, future::Future, sync::Arc};

use async_trait::async_trait;
use tower::{Service, ServiceExt};

pub use fallback::Fallback;
pub use fanout::Fanout;
pub use route::Route;
pub use then::Then;

use crate::{Error, HealthCheck, Message, Reply};

/// Something that does the work.
///
/// Any `async fn(Message)` is a sink through [`sink_fn`], any `tower::Service<Message>` through [`ServiceSink`].
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// Does the work of one message and returns when it is done, durably where that means something.
    ///
    /// # Errors
    /// Classified; see [`Class`](crate::Class) for what follows from each.
    ///
    /// # Cancel safety
    /// The future is dropped when a timeout, a deadline or the end of a drain passes; the work may then have happened.
    async fn send(&self, message: Message) -> Result<Reply, Error>;

    /// Does the work of several messages and answers for each, in the same order.
    async fn send_batch(&self, messages: Vec<Message>) -> Vec<Result<Reply, Error>> {
        futures::future::join_all(messages.into_iter().map(|message| self.send(message))).await
    }

    /// Starts what the sink keeps running; called once, before the first message. Does not wait until it runs.
    ///
    /// # Errors
    /// Logged by the driver, which goes on.
    async fn open(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Connects, and says what is wrong if that fails; `dispatch check` calls it. Sends nothing.
    ///
    /// # Errors
    /// Any class, in words for a person.
    async fn probe(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Checks of the far side, each asked for as long as a pipeline runs; nothing is received while one fails. None by
    /// default.
    fn health(&self) -> Vec<HealthCheck> {
        Vec::new()
    }

    /// Ends what the sink keeps running, after the last message.
    ///
    /// # Errors
    /// Logged by the driver.
    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait]
impl<S: Sink + ?Sized> Sink for Arc<S> {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        (**self).send(message).await
    }
    async fn send_batch(&self, messages: Vec<Message>) -> Vec<Result<Reply, Error>> {
        (**self).send_batch(messages).await
    }
    async fn open(&self) -> Result<(), Error> {
        (**self).open().await
    }
    async fn probe(&self) -> Result<(), Error> {
        (**self).probe().await
    }
    fn health(&self) -> Vec<HealthCheck> {
        (**self).health()
    }
    async fn close(&self) -> Result<(), Error> {
        (**self).close().await
    }
}

/// Makes a sink of an async function.
///
/// ```
/// use dispatch_core::{BoxError, Message, sink_fn};
///
/// let sink = sink_fn(|message: Message| async move {
///     println!("{}", String::from_utf8_lossy(&message.payload));
///     Ok::<_, BoxError>(())
/// });
/// # let _ = sink;
/// ```
pub fn sink_fn<F, Fut, R, E>(function: F) -> FnSink<F>
where
    F: Fn(Message) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, E>> + Send,
    R: Into<Reply>,
    E: Into<Error>,
{
    FnSink(function)
}

/// An async function as a sink; made by [`sink_fn`].
#[derive(Clone, Copy)]
pub struct FnSink<F>(F);

impl<F> fmt::Debug for FnSink<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FnSink")
    }
}

#[async_trait]
impl<F, Fut, R, E> Sink for FnSink<F>
where
    F: Fn(Message) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, E>> + Send,
    R: Into<Reply>,
    E: Into<Error>,
{
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        match (self.0)(message).await {
            Ok(reply) => Ok(reply.into()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Any cloneable `tower::Service<Message>` as a sink; each message gets a clone that is first made ready.
#[derive(Debug, Clone)]
pub struct ServiceSink<S>(S);

impl<S> ServiceSink<S> {
    /// Wraps `service`. Its clones share what must be shared, as tower's services do.
    pub const fn new(service: S) -> Self {
        Self(service)
    }
}

#[async_trait]
impl<S> Sink for ServiceSink<S>
where
    S: Service<Message> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Response: Into<Reply>,
    S::Error: Into<Error>,
{
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        match self.0.clone().oneshot(message).await {
            Ok(reply) => Ok(reply.into()),
            Err(error) => Err(error.into()),
        }
    }
}

impl fmt::Debug for dyn Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sink")
    }
}

/// Opens every sink; the first trouble is the answer.
async fn open_all(sinks: impl IntoIterator<Item = &Arc<dyn Sink>>) -> Result<(), Error> {
    for sink in sinks {
        sink.open().await?;
    }
    Ok(())
}

/// Asks every sink; the first trouble is the answer.
async fn probe_all(sinks: impl IntoIterator<Item = &Arc<dyn Sink>>) -> Result<(), Error> {
    for sink in sinks {
        sink.probe().await?;
    }
    Ok(())
}

/// Closes every sink; the last trouble is the answer.
async fn close_all(sinks: impl IntoIterator<Item = &Arc<dyn Sink>>) -> Result<(), Error> {
    let mut result = Ok(());
    for sink in sinks {
        result = sink.close().await.and(result);
    }
    result
}
