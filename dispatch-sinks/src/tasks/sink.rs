//! The handlers, by name, as a sink.

use std::{any::TypeId, collections::HashMap, fmt, hash::BuildHasherDefault, sync::Arc, time::Duration};

use dispatch_core::{Class, Classify, Commands, Error, Message, Reply, Sink};
use futures::future::BoxFuture;
use tokio::time::timeout;

use super::{
    Handler, Task,
    control::Places,
    extract::{Context, Quick, States},
    wire::Incoming,
};

type Answer = Result<Reply, Error>;
/// Reads the arguments, and calls the handler with the context that is then made.
type Call = Box<dyn Fn(&Incoming<'_>, &dyn Fn() -> Context) -> Result<BoxFuture<'static, Answer>, Error> + Send + Sync>;

/// A handler for each task, as a sink; see the [module](super).
#[derive(Default)]
pub struct Tasks {
    calls: HashMap<&'static [u8], Call, BuildHasherDefault<Quick>>,
    states: Arc<States>,
    /// What is at work, where somebody may ask.
    places: Option<Arc<Places>>,
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
    /// It ran longer than its own `timeout`, and was dropped.
    #[error("the task `{task}` ran longer than its timeout of {after:?}")]
    TimedOut {
        /// The task.
        task: String,
        /// How long it might.
        after: Duration,
    },
    /// It was cancelled by a command, and dropped.
    #[error("the task `{0}` was cancelled by a command")]
    Cancelled(String),
}

impl Classify for TasksError {
    fn class(&self) -> Class {
        match self {
            Self::NoTask(_) | Self::Unknown(_) | Self::Arguments { .. } | Self::Cancelled(_) => Class::Permanent,
            Self::TimedOut { .. } => Class::Retry,
        }
    }

    fn code(&self) -> Option<smol_str::SmolStr> {
        Some(match self {
            Self::NoTask(_) => "no_task".into(),
            Self::Unknown(_) => "unknown_task".into(),
            Self::Arguments { .. } => "arguments".into(),
            Self::TimedOut { .. } => "timeout".into(),
            Self::Cancelled(_) => "cancelled".into(),
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
        let call = move |incoming: &Incoming<'_>, context: &dyn Fn() -> Context| match incoming.arguments::<T>() {
            Ok(task) => Ok(handler.call(task, context())),
            Err(source) => Err(Error::from(TasksError::Arguments { task: T::NAME, source })),
        };
        self.calls.insert(T::NAME.as_bytes(), Box::new(call));
        self
    }

    /// Has handlers find `state` by its type; a second one of the same type replaces the first.
    #[must_use]
    pub fn state<S: Clone + Send + Sync + 'static>(mut self, state: S) -> Self {
        Arc::make_mut(&mut self.states).insert(TypeId::of::<S>(), Arc::new(state));
        self
    }

    /// Answers `running`, `cancel`, `workers` and what `main` says of the pool, in the shapes that dispatcherd's clients
    /// know: each task at work is a worker of its own. `commands` are the source's that takes commands in
    /// (`PgNotifySource::commands`), or a component's [`BuildContext`](dispatch_core::config::BuildContext)'s.
    ///
    /// A task that is cancelled is dropped, which cancels its [`Cancellation`](super::Cancellation), and fails as
    /// `Permanent` with the code `cancelled`.
    #[must_use]
    pub fn answering(mut self, commands: &Commands) -> Self {
        self.places.get_or_insert_default().answer(commands);
        self
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.calls.keys().map(|name| String::from_utf8_lossy(name));
        f.debug_set().entries(names).finish()
    }
}

impl Tasks {
    /// The handler's own future: nothing else is to be kept beside it.
    fn start(&self, message: &Message) -> Result<BoxFuture<'static, Answer>, Error> {
        let incoming = Incoming::of(message).map_err(TasksError::NoTask)?;
        let Some(call) = self.calls.get(&*incoming.task) else {
            let name = String::from_utf8_lossy(&incoming.task).into_owned();
            return Err(TasksError::Unknown(name).into());
        };
        let mut running = call(&incoming, &|| Context::new(message.clone(), Arc::clone(&self.states)))?;
        let task = || String::from_utf8_lossy(&incoming.task).into_owned();
        if let Some(after) = incoming.timeout {
            let task = task();
            running = Box::pin(async move {
                let ended = timeout(after, running).await;
                ended.unwrap_or_else(|_| Err(TasksError::TimedOut { task, after }.into()))
            });
        }
        let Some(places) = &self.places else {
            return Ok(running);
        };
        let task = task();
        let held = places.begin(task.as_str().into(), message);
        Ok(Box::pin(async move {
            tokio::select! {
                biased;
                () = held.cancelled() => Err(TasksError::Cancelled(task).into()),
                answer = running => {
                    held.finish();
                    answer
                }
            }
        }))
    }
}

impl Sink for Tasks {
    // As `async_trait` writes it, but the handler's box is the only one.
    fn send<'s, 'f>(&'s self, message: Message) -> BoxFuture<'f, Answer>
    where
        's: 'f,
        Self: 'f,
    {
        self.start(&message)
            .unwrap_or_else(|error| Box::pin(std::future::ready(Err(error))))
    }
}
