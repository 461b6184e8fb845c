//! The handlers, by name, as a sink.

use std::{any::TypeId, collections::HashMap, fmt, sync::Arc};

use async_trait::async_trait;
use dispatch_core::{Class, Classify, Error, Message, Reply, Sink};
use futures::future::BoxFuture;

use super::{
    Handler, Task,
    extract::{CancelOnDrop, Cancelled, Context, States},
    wire::Incoming,
};

type Call = Box<dyn Fn(&Incoming<'_>, Context) -> BoxFuture<'static, Result<Reply, Error>> + Send + Sync>;

/// A handler for each task, as a sink; see the [module](super).
#[derive(Default)]
pub struct Tasks {
    calls: HashMap<&'static str, Call>,
    states: Arc<States>,
}

/// Why a message reached no handler.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TasksError {
    /// The payload is no JSON object with a `task`.
    #[error("this is no task")]
    NoTask(#[source] serde_json::Error),
    /// No handler has this name.
    #[error("no handler for the task `{0}`")]
    Unknown(String),
    /// The arguments are not those that the task takes.
    #[error("arguments of the task `{task}`")]
    Arguments {
        /// The task.
        task: &'static str,
        /// Which, and why.
        #[source]
        source: serde_json::Error,
    },
}

impl Classify for TasksError {
    fn class(&self) -> Class {
        match self {
            Self::NoTask(_) | Self::Unknown(_) | Self::Arguments { .. } => Class::Permanent,
        }
    }

    fn code(&self) -> Option<smol_str::SmolStr> {
        Some(match self {
            Self::NoTask(_) => "no_task".into(),
            Self::Unknown(_) => "unknown_task".into(),
            Self::Arguments { .. } => "arguments".into(),
        })
    }
}

impl Tasks {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Has the task `T` done by `handler`; a second handler for the same name replaces the first.
    #[must_use]
    pub fn handle<T: Task, Arguments: 'static, H: Handler<T, Arguments>>(mut self, handler: H) -> Self {
        let call = move |incoming: &Incoming<'_>, context: Context| match incoming.arguments::<T>() {
            Ok(task) => handler.call(task, context),
            Err(source) => {
                let error = Error::from(TasksError::Arguments { task: T::NAME, source });
                Box::pin(std::future::ready(Err(error))) as BoxFuture<'static, _>
            }
        };
        self.calls.insert(T::NAME, Box::new(call));
        self
    }

    /// Has handlers find `state` by its type; a second one of the same type replaces the first.
    #[must_use]
    pub fn state<S: Clone + Send + Sync + 'static>(mut self, state: S) -> Self {
        Arc::make_mut(&mut self.states).insert(TypeId::of::<S>(), Arc::new(state));
        self
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.calls.keys()).finish()
    }
}

#[async_trait]
impl Sink for Tasks {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        let cancelled = Cancelled::default();
        // Dropped with this future, however it ends.
        let _guard = CancelOnDrop(cancelled.clone());
        let call = {
            let incoming: Incoming<'_> = serde_json::from_slice(&message.payload).map_err(TasksError::NoTask)?;
            let Some(call) = self.calls.get(&*incoming.task) else {
                return Err(TasksError::Unknown(incoming.task.into_owned()).into());
            };
            let context = Context {
                message: message.clone(),
                states: Arc::clone(&self.states),
                cancelled,
            };
            call(&incoming, context)
        };
        call.await
    }
}
