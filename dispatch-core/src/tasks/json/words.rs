//! Eight bytes at a look.

/// Whether any byte is `wanted`. Looks to the end whatever it finds: so many bytes are looked at together.
pub(super) fn has(text: &str, wanted: impl Fn(u8) -> bool) -> bool {
    text.as_bytes().iter().fold(false, |found, byte| found | wanted(*byte))
}

/// A one in each of eight bytes.
const ONES: u64 = u64::MAX / 255;
pub(super) const QUOTES: u64 = ONES * b'"' as u64;
const BACKSLASHES: u64 = ONES * b'\\' as u64;

/// Has the top bit set of the first byte that is smaller than `least`, and perhaps of bytes behind it.
const fn below(eight: u64, least: u64) -> u64 {
    eight.wrapping_sub(ONES * least) & !eight & (ONES << 7)
}

pub(super) const fn zeros(eight: u64) -> u64 {
    below(eight, 1)
}

/// How many bytes of a string come before the next quote, backslash or control character.
pub(super) fn plain(text: &[u8]) -> usize {
    before(text, |eight| {
        below(eight, 0x20) | zeros(eight ^ QUOTES) | zeros(eight ^ BACKSLASHES)
    })
}

/// How many bytes come before the first one that `find` finds, eight at a look.
#[inline]
pub(super) fn before(text: &[u8], find: impl Fn(u64) -> u64) -> usize {
    let (whole, rest) = text.as_chunks::<8>();
    for (at, eight) in whole.iter().enumerate() {
        let found = find(u64::from_le_bytes(*eight));
        if found != 0 {
            return at * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    // What is missing is nothing that is ever looked for.
    let mut last = [0xff; 8];
    last[..rest.len()].copy_from_slice(rest);
    let found = find(u64::from_le_bytes(last)).trailing_zeros() as usize / 8;
    whole.len() * 8 + found.min(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_ends_where_its_quote_is_wherever_that_falls() {
        for length in 0..40 {
            for (special, plain_one) in [
                ('"', true),
                ('\\', true),
                ('\u{1f}', true),
                ('\0', true),
                (' ', false),
                ('é', false),
            ] {
                for at in 0..length {
                    let mut text: Vec<char> = "!é#[]~\u{7f}😀ab".chars().cycle().take(length).collect();
                    text[at] = special;
                    let text: String = text.into_iter().collect();
                    let bytewise = text.bytes().position(|byte| matches!(byte, b'"' | b'\\' | ..=0x1f));

                    assert_eq!(plain(text.as_bytes()), bytewise.unwrap_or(text.len()), "{text:?}");
                    assert_eq!(bytewise.is_some(), plain_one, "{text:?}");
                }
            }
        }
    }
}
