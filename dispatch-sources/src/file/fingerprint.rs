//! Whether a file is still the one that a position was saved for: by its first bytes.

use std::io::SeekFrom;

use dispatch_core::{Error, Store};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
};

/// How many bytes tell a file at most. What is only appended to keeps them.
const MOST: usize = 256;

/// How a file begins.
#[derive(Debug)]
pub(super) struct Fingerprint(Vec<u8>);

impl Fingerprint {
    /// Reads the first bytes of `file`.
    pub(super) async fn of(file: &mut File) -> std::io::Result<Self> {
        let mut start = Vec::new();
        file.seek(SeekFrom::Start(0)).await?;
        file.take(MOST as u64).read_to_end(&mut start).await?;
        Ok(Self(start))
    }

    /// Whether the position `name` was saved for another file than this one. From now on it is this one's: of another
    /// file's it is forgotten.
    pub(super) async fn take_over(&self, name: &str, store: &dyn Store) -> Result<bool, Error> {
        let own = format!("{name}#fingerprint");
        let saved = store.positions().load(&own).await?;
        let replaced = saved.is_some_and(|saved| !self.is(saved));
        let now = self.number(self.0.len());
        if saved != Some(now) {
            if replaced {
                // First: a crash in between must not leave the old position under the new fingerprint.
                store.positions().save(name, None).await?;
            }
            store.positions().save(&own, Some(now)).await?;
        }
        Ok(replaced)
    }

    /// Whether a file that began as `saved` says may have become this one.
    fn is(&self, saved: u64) -> bool {
        let length = usize::try_from(saved >> HASHED).unwrap_or(usize::MAX);
        length <= self.0.len() && self.number(length) == saved
    }

    /// The first `length` bytes as one number: their count, then their hash (FNV-1a), folded into what is left of the 63
    /// bits that every store keeps.
    fn number(&self, length: usize) -> u64 {
        let hash = self.0[..length].iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        (length as u64) << HASHED | (hash ^ hash >> HASHED) & ((1 << HASHED) - 1)
    }
}

/// How many bits of the number are the hash's; nine more hold a count up to [`MOST`].
const HASHED: u32 = 54;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_grew_is_the_same_and_any_other_is_not() {
        let print = |bytes: &[u8]| Fingerprint(bytes.to_vec());
        let number = |bytes: &[u8]| print(bytes).number(bytes.len());
        let long = [7; MOST];

        for (before, now, same) in [
            (&b""[..], &b"anything"[..], true),
            (b"a\n", b"a\nb\n", true),
            (b"a\n", b"a\n", true),
            (b"a\n", b"b\na\n", false),
            (b"a\nb\n", b"a\n", false),
            (&long, &long, true),
            (&long, &long[1..], false),
        ] {
            assert_eq!(print(now).is(number(before)), same, "{before:?} {now:?}");
        }
        assert!(number(&long) < 1 << 63, "stores keep 63 bits");
    }
}
