//! What a handler can ask for beside its task.

use std::{
    any::{Any, TypeId, type_name},
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use dispatch_core::{Error, Message};
use smol_str::SmolStr;
use tokio_util::sync::CancellationToken;

/// What is known when a handler is called.
#[derive(Debug, Clone)]
pub struct Context {
    /// The message, whole.
    pub message: Message,
    pub(super) states: Arc<States>,
    pub(super) cancelled: Cancelled,
}

/// A token that is made for the handlers that ask for it: most do not.
#[derive(Debug, Clone, Default)]
pub(super) struct Cancelled(Arc<OnceLock<CancellationToken>>);

impl Cancelled {
    fn token(&self) -> &CancellationToken {
        self.0.get_or_init(CancellationToken::new)
    }
}

/// Cancels when it is dropped, whoever has asked for the token or still may.
pub(super) struct CancelOnDrop(pub(super) Cancelled);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if Arc::strong_count(&self.0.0) > 1 || self.0.0.get().is_some() {
            self.0.token().cancel();
        }
    }
}

pub(super) type States = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;

/// Something that a handler can take after its task.
pub trait FromContext: Sized + Send {
    /// Takes it.
    ///
    /// # Errors
    /// It is not there; the handler is not called.
    fn from_context(context: &Context) -> Result<Self, Error>;
}

/// A value that [`Tasks::state`](super::Tasks::state) was given, by its type; cloned for each call.
#[derive(Debug, Clone)]
pub struct State<T>(pub T);

impl<T: Clone + Send + Sync + 'static> FromContext for State<T> {
    fn from_context(context: &Context) -> Result<Self, Error> {
        let state = context
            .states
            .get(&TypeId::of::<T>())
            .and_then(|state| state.downcast_ref::<T>());
        // The same for every message: a mistake of the program, so no message is to be given up on for it.
        let missing = || Error::unavailable(format!("no state of type {}: add it by Tasks::state", type_name::<T>()));
        state.cloned().map(Self).ok_or_else(missing)
    }
}

/// The task's id: the same over all attempts, to do a thing once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskId(pub SmolStr);

impl FromContext for TaskId {
    fn from_context(context: &Context) -> Result<Self, Error> {
        Ok(Self(context.message.id().clone()))
    }
}

/// Which attempt this is, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt(pub u32);

impl FromContext for Attempt {
    fn from_context(context: &Context) -> Result<Self, Error> {
        Ok(Self(context.message.attempt))
    }
}

/// Cancelled when the attempt ends early, by a timeout, a drain or a lost lease: for work that the handler has given to
/// other tasks. What the handler itself awaits is dropped.
#[derive(Debug, Clone)]
pub struct Cancellation(pub CancellationToken);

impl FromContext for Cancellation {
    fn from_context(context: &Context) -> Result<Self, Error> {
        Ok(Self(context.cancelled.token().clone()))
    }
}

impl FromContext for Context {
    fn from_context(context: &Context) -> Result<Self, Error> {
        Ok(context.clone())
    }
}
