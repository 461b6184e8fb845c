//! Commands between the components of one pipeline: a source with a control channel asks, whoever knows answers.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex},
};

use futures::future::{BoxFuture, join_all};

use crate::lock::lock;

/// What answers one command: the command's data in, the answer out, both as JSON text.
type Handler = Arc<dyn Fn(String) -> BoxFuture<'static, String> + Send + Sync>;

/// The commands that a pipeline's components answer; one list for the pipeline, in every component's
/// [`BuildContext`](crate::config::BuildContext).
///
/// Sources and sinks know nothing of each other: a control channel asks for `workers`, and the pool of worker processes,
/// if the pipeline has one, answers. Data and answers are JSON text, because what Python calls JSON does not fit into
/// everybody's values.
///
/// ```
/// use dispatch_core::Commands;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let commands = Commands::default();
/// commands.on("alive", |_| async { "{}".to_owned() });
/// assert_eq!(commands.ask("alive", "{}").await, ["{}"]);
/// assert!(commands.ask("unknown", "{}").await.is_empty());
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Commands(Arc<Mutex<Vec<(&'static str, Handler)>>>);

impl Commands {
    /// Answers `command` from now on, beside others that do.
    pub fn on<F, A>(&self, command: &'static str, answer: F)
    where
        F: Fn(String) -> A + Send + Sync + 'static,
        A: Future<Output = String> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |data| Box::pin(answer(data)));
        lock(&self.0).push((command, handler));
    }

    /// Asks everybody who answers `command`, at the same time; none if nobody does.
    pub async fn ask(&self, command: &str, data: &str) -> Vec<String> {
        let handlers: Vec<_> = lock(&self.0)
            .iter()
            .filter(|(known, _)| *known == command)
            .map(|(_, handler)| Arc::clone(handler))
            .collect();
        join_all(handlers.into_iter().map(|handler| handler(data.to_owned()))).await
    }

    /// Forgets everybody who answers; for the end of a pipeline.
    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = lock(&self.0).iter().map(|(name, _)| *name).collect();
        f.debug_tuple("Commands").field(&names).finish()
    }
}
