//! Messages in pieces, version 1: what a channel's limit does not let through whole.

mod assembly;

use serde_json::json;

pub use self::assembly::{Assembly, ChunkCounts, PartialMessage};
use super::json;

/// The key that marks a piece; its value is the version.
pub const MARKER: &str = "__dispatcherd_chunk__";
/// The version that is read and written here.
const VERSION: &str = "v1";

/// One piece of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    id: String,
    index: usize,
    total: usize,
    payload: String,
}

/// Cuts `text` into pieces of at most `limit` bytes each; one that fits stays whole.
///
/// No character is cut, and each piece carries `id`, its place and the number of pieces.
///
/// # Errors
/// `limit` leaves no room for a piece beside what is around it (about 150 bytes).
pub fn split(text: &str, limit: usize, id: &str) -> Result<Vec<String>, TooSmall> {
    if text.len() <= limit {
        return Ok(vec![text.to_owned()]);
    }
    let wrap = |index: usize, total: usize, payload: &str| {
        // Written by hand for its order, which readers do not need but people like.
        format!(
            r#"{{"{MARKER}":"{VERSION}","message_id":{},"index":{index},"total":{total},"payload":{}}}"#,
            json!(id),
            json!(payload)
        )
    };
    // As many digits as any piece of this text can have.
    let room = limit
        .checked_sub(wrap(text.len(), text.len(), "").len())
        .filter(|room| *room >= 12);
    let room = room.ok_or(TooSmall(limit))?;
    let (mut pieces, mut from, mut cost) = (Vec::new(), 0, 0);
    for (at, character) in text.char_indices() {
        let own = escaped(character);
        if cost + own > room {
            pieces.push(&text[from..at]);
            (from, cost) = (at, 0);
        }
        cost += own;
    }
    pieces.push(&text[from..]);
    let total = pieces.len();
    Ok(pieces
        .into_iter()
        .enumerate()
        .map(|(index, piece)| wrap(index, total, piece))
        .collect())
}

/// How many bytes a character takes inside a JSON string.
const fn escaped(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\x1f' => 6,
        _ => character.len_utf8(),
    }
}

/// No piece fits into this many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no piece of a message fits into {0} bytes")]
pub struct TooSmall(pub usize);

impl Chunk {
    /// Reads a piece from an object's members; none if it bears no marker.
    ///
    /// # Errors
    /// Another version, or a field of another type: the piece is to be dropped and counted.
    pub fn read(members: &[(std::borrow::Cow<'_, str>, &str)]) -> Option<Result<Self, &'static str>> {
        let field = |name: &str| members.iter().rev().find(|(key, _)| key == name).map(|(_, raw)| *raw);
        let version = field(MARKER)?;
        Some((|| {
            if json::string(version).as_deref() != Some(VERSION) {
                return Err("of another version than v1");
            }
            let text = |name| field(name).and_then(json::string);
            let number = |name| field(name).and_then(|raw| raw.parse::<usize>().ok());
            let id = text("message_id").ok_or("without a `message_id` that is a text")?;
            let index = number("index").ok_or("without an `index` that is a whole number")?;
            let total = number("total").ok_or("without a `total` that is a whole number")?;
            let payload = text("payload").ok_or("without a `payload` that is a text")?;
            if total == 0 || index >= total || total > MOST_PIECES {
                return Err("whose `index` and `total` do not fit");
            }
            Ok(Self {
                id: id.into_owned(),
                index,
                total,
                payload: payload.into_owned(),
            })
        })())
    }
}

/// More pieces than this are no message: at 8 kB each they would be 80 MB.
const MOST_PIECES: usize = 10_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Option<Result<Chunk, &'static str>> {
        Chunk::read(&json::members(text).unwrap().unwrap())
    }

    proptest! {
        #[test]
        fn a_text_survives_its_pieces_in_any_order(text in "\\PC{0,400}|[\\x00-\\x7f\"\\\\é😀]{0,400}", limit in 180_usize..400, seed in any::<prop::sample::Index>()) {
            let mut pieces = split(&text, limit, "82120946a72a4d5fae45b5e0eec93bad").unwrap();
            if pieces.len() == 1 {
                prop_assert_eq!(&pieces[0], &text);
                return Ok(());
            }
            let mut assembly = Assembly::new(None);
            let turn = seed.index(pieces.len());
            pieces.rotate_left(turn);

            let mut whole = None;
            for piece in &pieces {
                prop_assert!(piece.len() <= limit, "{} bytes: {piece}", piece.len());
                prop_assert!(whole.is_none());
                whole = assembly.take(read(piece).unwrap().unwrap());
            }

            prop_assert_eq!(whole, Some(text));
            prop_assert_eq!(assembly.counts.active_messages, 0);
        }
    }

    #[test]
    fn what_is_no_piece_is_refused_alone() {
        let good = r#"{"__dispatcherd_chunk__":"v1","message_id":"a","index":0,"total":2,"payload":"x"}"#;
        assert!(read(good).unwrap().is_ok());
        assert_eq!(read(r#"{"task":"a.b"}"#), None);
        for (from, to) in [
            (r#""v1""#, r#""v2""#),
            (r#""v1""#, "1"),
            (r#""a""#, "7"),
            (":0,", ":\"0\","),
            (":0,", ":0.5,"),
            (":0,", ":2,"),
            (":2,", ":0,"),
            (":2,", ":99999999,"),
            (r#""x""#, "null"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert!(read(&bad).unwrap().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_limit_without_room_is_said() {
        assert_eq!(split(&"x".repeat(200), 90, "id"), Err(TooSmall(90)));
    }
}
