//! A breaker for each key.

use std::sync::Arc;

use super::{BreakerHandle, BreakerSettings};
use crate::{
    Message,
    layer::keyed::{KeyFn, Keyed},
};

/// Breakers made at a key's first message, and forgotten once they say nothing any more.
#[derive(Debug)]
pub(super) struct KeyedBreakers {
    breakers: Keyed<BreakerHandle>,
    settings: BreakerSettings,
}

impl KeyedBreakers {
    pub(super) fn new(settings: BreakerSettings, key: KeyFn) -> Self {
        Self {
            breakers: Keyed::new(key),
            settings,
        }
    }

    /// That of the message's key; messages without one share one.
    pub(super) fn of(&self, message: &Message) -> Arc<BreakerHandle> {
        let key = self.breakers.key(message);
        let make = || BreakerHandle::of(self.settings, Some(key.clone()));
        self.breakers.get(&key, make, BreakerHandle::is_idle)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::Error;
    use crate::layer::BreakerState;

    const SETTINGS: BreakerSettings = BreakerSettings {
        failures: 0.5,
        min_calls: 4,
        window: Duration::from_secs(30),
        open: Duration::from_secs(30),
        probes: 2,
    };

    fn breakers() -> KeyedBreakers {
        KeyedBreakers::new(SETTINGS, Arc::new(|message| message.key().cloned()))
    }

    fn of(key: usize) -> Message {
        Message::new("x").with_key(key.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn memory_follows_the_keys_in_use() {
        let breakers = breakers();
        // Some fail, some are down, some are being probed when their time is over: all are forgotten.
        for key in 0..10_000 {
            let breaker = breakers.of(&of(key));
            let error = if key % 3 == 0 {
                Error::unavailable("down")
            } else {
                Error::retry("no")
            };
            breaker.failed(None, &error);
            if key % 100 == 0 {
                tokio::time::advance(Duration::from_secs(5)).await;
                drop(breakers.of(&of(key)).admit());
            }
        }

        tokio::time::advance(Duration::from_secs(120)).await;
        for key in 10_000..20_000 {
            drop(breakers.of(&of(key)).admit());
        }

        assert!(breakers.breakers.len() <= 2_048, "{} breakers", breakers.breakers.len());
        let size = BreakerHandle::SIZE;
        assert!(size <= 320, "{size} bytes a key");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_open_or_in_use_is_kept() {
        let breakers = breakers();
        let open = breakers.of(&of(0));
        (0..4).for_each(|_| open.failed(None, &Error::retry("no")));
        let until = match open.state() {
            BreakerState::Open(until) => until,
            other => panic!("{other:?}"),
        };
        drop(open);

        for key in 1..5_000 {
            drop(breakers.of(&of(key)).admit());
        }

        assert_eq!(breakers.of(&of(0)).state(), BreakerState::Open(until));
        assert!(until > Instant::now());
    }
}
