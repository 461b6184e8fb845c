//! What a handler can ask for beside its task.

use std::{
    any::{Any, TypeId, type_name},
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{Arc, OnceLock},
};

use dispatch_core::{Error, Message};
use smol_str::SmolStr;
use tokio_util::sync::CancellationToken;

/// What is known when a handler is called. It lives as long as the attempt: when it is dropped, whatever its
/// [`Cancellation`] was given to is cancelled.
#[derive(Debug, Clone)]
pub struct Context {
    /// The message, whole.
    pub message: Message,
    pub(super) states: Arc<States>,
    cancelled: Cancelled,
}

impl Context {
    pub(super) fn new(message: Message, states: Arc<States>) -> Self {
        Self {
            message,
            states,
            cancelled: Cancelled {
                token: OnceLock::new(),
                is_first: true,
            },
        }
    }
}

/// A token that is made for the handlers that ask for it: most do not. The first one cancels it when it is dropped;
/// clones share the token and end nothing.
#[derive(Debug)]
struct Cancelled {
    token: OnceLock<CancellationToken>,
    is_first: bool,
}

impl Cancelled {
    fn token(&self) -> &CancellationToken {
        self.token.get_or_init(CancellationToken::new)
    }
}

impl Clone for Cancelled {
    fn clone(&self) -> Self {
        Self {
            token: self.token().clone().into(),
            is_first: false,
        }
    }
}

impl Drop for Cancelled {
    fn drop(&mut self) {
        if let (true, Some(token)) = (self.is_first, self.token.get()) {
            token.cancel();
        }
    }
}

/// Each by its type.
pub(super) type States = HashMap<TypeId, Arc<dyn Any + Send + Sync>, BuildHasherDefault<Quick>>;

/// A hash for maps whose keys are written in a program: nobody outside chooses them, so it need not withstand anybody.
#[derive(Debug, Default)]
pub(super) struct Quick(u64);

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write_u64(&mut self, value: u64) {
        // An odd number near 2^64 divided by the golden ratio spreads the bits; the top ones come down again.
        let spread = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }
    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }
    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
    fn write(&mut self, bytes: &[u8]) {
        let (whole, rest) = bytes.as_chunks::<8>();
        for eight in whole {
            self.write_u64(u64::from_le_bytes(*eight));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.write_u64(u64::from_le_bytes(last));
    }
}

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
