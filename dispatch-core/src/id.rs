//! Random names for messages, leases and processes.

use std::sync::OnceLock;

use rand::RngExt;
use smol_str::{SmolStr, format_smolstr};

/// A message's id, in the room of a text.
#[derive(Debug, Clone)]
pub(crate) enum Id {
    /// As its source gave it.
    Given(SmolStr),
    /// Made when somebody asks. Boxed: beside a text that is free for it every message would be larger.
    Later(OnceLock<Box<SmolStr>>),
}

impl Id {
    pub(crate) const fn later() -> Self {
        Self::Later(OnceLock::new())
    }

    /// The id; the first who asks has it made.
    pub(crate) fn get(&self, make: impl FnOnce() -> SmolStr) -> &SmolStr {
        match self {
            Self::Given(id) => id,
            Self::Later(id) => id.get_or_init(|| Box::new(make())),
        }
    }
}

/// A name of 128 random bits, written as 22 characters so that [`SmolStr`] holds it without the heap. The first is a letter,
/// since a name that begins with `-` is an option on a command line.
#[must_use]
pub fn random_id() -> SmolStr {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    let mut bits: u128 = rand::rng().random();
    let mut text = [0u8; 22];
    // From the end: two bits are left for the first.
    for place in text.iter_mut().rev() {
        *place = ALPHABET[(bits & 63) as usize];
        bits >>= 6;
    }
    SmolStr::new(str::from_utf8(&text).expect("the alphabet is ASCII"))
}

/// A name for this process that no other process has: host-independent, told apart by chance.
#[must_use]
pub fn process_id() -> SmolStr {
    static ID: OnceLock<SmolStr> = OnceLock::new();
    ID.get_or_init(|| format_smolstr!("{}-{}", std::process::id(), &random_id()[1..9]))
        .clone()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn random_ids_begin_with_a_letter_and_differ() {
        let ids: HashSet<SmolStr> = (0..1_000).map(|_| random_id()).collect();

        assert_eq!(ids.len(), 1_000);
        for id in ids {
            assert!(
                id.len() == 22 && id.starts_with(|first: char| first.is_ascii_alphabetic()),
                "{id}"
            );
        }
    }
}
