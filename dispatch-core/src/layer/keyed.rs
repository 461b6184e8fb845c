//! State by key, forgotten once it says nothing any more.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

use smol_str::SmolStr;

use crate::{Message, lock::lock};

/// Reads a message's key; none where it has none.
pub type KeyFn = Arc<dyn Fn(&Message) -> Option<SmolStr> + Send + Sync>;

/// Values made at a key's first use and dropped again when idle, so that memory follows the keys in use.
pub(super) struct Keyed<V> {
    key: KeyFn,
    entries: Mutex<Entries<V>>,
}

struct Entries<V> {
    map: HashMap<SmolStr, Arc<V>>,
    sweep_at: usize,
}

impl<V> Keyed<V> {
    pub(super) fn new(key: KeyFn) -> Self {
        Self {
            key,
            entries: Mutex::new(Entries {
                map: HashMap::new(),
                sweep_at: 1_024,
            }),
        }
    }

    /// The key of `message`; messages without one share the empty key.
    pub(super) fn key(&self, message: &Message) -> SmolStr {
        (self.key)(message).unwrap_or_default()
    }

    /// The value of `key`, made if there is none. Idle ones go whenever the map has doubled.
    pub(super) fn get(&self, key: &SmolStr, make: impl FnOnce() -> V, idle: impl Fn(&V) -> bool) -> Arc<V> {
        let mut entries = lock(&self.entries);
        if let Some(value) = entries.map.get(key) {
            return Arc::clone(value);
        }
        if entries.map.len() >= entries.sweep_at {
            // Nobody else holds a value that is counted once: what waits for it would hold a clone.
            entries
                .map
                .retain(|_, value| Arc::strong_count(value) > 1 || !idle(value));
            entries.sweep_at = (entries.map.len() * 2).max(1_024);
            entries.map.shrink_to_fit();
        }
        let value = Arc::new(make());
        entries.map.insert(key.clone(), Arc::clone(&value));
        value
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.entries).map.len()
    }
}

impl<V> fmt::Debug for Keyed<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyed")
    }
}
