//! References that one shard counts for itself.

use std::{ops::Deref, sync::Arc};

/// A shared value behind a count of its own: each message counts references, and shards that counted the same number
/// would wait for each other's cache lines. `Own::of` once for each service, then clones of that.
#[derive(Debug)]
pub(crate) struct Own<T: ?Sized>(Arc<Held<T>>);

#[derive(Debug)]
struct Held<T: ?Sized>(Arc<T>);

impl<T: ?Sized> Own<T> {
    pub(crate) fn of(shared: &Arc<T>) -> Self {
        Self(Arc::new(Held(Arc::clone(shared))))
    }
}

impl<T: ?Sized> Clone for Own<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: ?Sized> Deref for Own<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.0
    }
}
