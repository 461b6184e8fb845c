//! Messages in pieces, version 1: what a channel's limit does not let through whole.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use serde_json::json;
use tokio::time::Instant;

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

/// Pieces that wait for others hold at most so many bytes, of all messages together.
const MOST_HELD: usize = 64 * 1024 * 1024;
/// What a piece, and a message, takes beside its text.
const BESIDE: usize = 128;

/// Messages of which some pieces are still to come. Beyond 64 MiB the oldest are dropped.
#[derive(Debug)]
pub struct Assembly {
    partial: HashMap<String, Partial>,
    /// Their ids, in the order in which they began.
    order: BTreeMap<u64, String>,
    begun: u64,
    /// How many bytes they hold, and may hold.
    held: usize,
    most: usize,
    /// How long the pieces of a message may take; none means for ever.
    limit: Option<Duration>,
    /// What was counted.
    pub counts: ChunkCounts,
}

#[derive(Debug)]
struct Partial {
    since: Instant,
    /// Its place in the order.
    turn: u64,
    held: usize,
    total: usize,
    pieces: HashMap<usize, String>,
}

/// What became of pieces, under dispatcherd's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct ChunkCounts {
    /// Pieces received.
    pub total_chunks_received: u64,
    /// Messages put together.
    pub successful_assemblies: u64,
    /// Pieces and messages that were none, and messages dropped because too much waited.
    pub errored_assemblies: u64,
    /// Messages whose pieces did not all come in time.
    pub timed_out_assemblies: u64,
    /// Messages of which some pieces are still to come.
    pub active_messages: u64,
}

/// One message of which some pieces are still to come, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct PartialMessage {
    /// What its pieces have in common.
    pub id: String,
    /// How long its first piece has been here.
    pub since: Duration,
    /// How many pieces it has.
    pub total: usize,
    /// The pieces that are here: place and length in characters.
    pub pieces: Vec<(usize, usize)>,
}

impl Assembly {
    /// `limit`: how long the pieces of a message may take; none means for ever.
    #[must_use]
    pub fn new(limit: Option<Duration>) -> Self {
        Self {
            partial: HashMap::new(),
            order: BTreeMap::new(),
            begun: 0,
            held: 0,
            most: MOST_HELD,
            limit,
            counts: ChunkCounts::default(),
        }
    }

    /// Takes a piece in; the whole text once it was the last one. What waits may be dropped for it: then
    /// `counts.errored_assemblies` grows.
    pub fn take(&mut self, chunk: Chunk) -> Option<String> {
        let Chunk {
            id,
            index,
            total,
            payload,
        } = chunk;
        self.counts.total_chunks_received += 1;
        let (order, begun, held) = (&mut self.order, &mut self.begun, &mut self.held);
        let partial = self.partial.entry(id.clone()).or_insert_with(|| {
            *begun += 1;
            order.insert(*begun, id.clone());
            // The id is kept twice.
            let own = 2 * id.len() + BESIDE;
            *held += own;
            Partial {
                since: Instant::now(),
                turn: *begun,
                held: own,
                total,
                pieces: HashMap::new(),
            }
        });
        if partial.total != total {
            tracing::warn!(%id, before = partial.total, now = total, "pieces of one message disagree about their number");
            partial.total = total;
        }
        let more = payload.len() + BESIDE;
        let less = partial.pieces.insert(index, payload);
        let less = less.map_or(0, |before| before.len() + BESIDE);
        partial.held = partial.held + more - less;
        self.held = self.held + more - less;
        let whole = (0..total).all(|index| partial.pieces.contains_key(&index));
        let text = whole.then(|| (0..total).filter_map(|index| partial.pieces.remove(&index)).collect());
        if whole {
            let turn = partial.turn;
            self.forget(turn);
        }
        while self.held > self.most
            && let Some((id, partial)) = self.oldest().and_then(|turn| self.forget(turn))
        {
            tracing::error!(%id, here = partial.pieces.len(), total = partial.total, most = self.most, "message dropped: too many bytes wait for pieces");
            self.counts.errored_assemblies += 1;
        }
        self.count_active();
        text
    }

    fn oldest(&self) -> Option<u64> {
        self.order.keys().next().copied()
    }

    fn forget(&mut self, turn: u64) -> Option<(String, Partial)> {
        let id = self.order.remove(&turn)?;
        let partial = self.partial.remove(&id)?;
        self.held -= partial.held;
        Some((id, partial))
    }

    /// Counts a whole that was a message after all, or none.
    pub fn assembled(&mut self, good: bool) {
        if good {
            self.counts.successful_assemblies += 1;
        } else {
            self.counts.errored_assemblies += 1;
        }
    }

    /// Drops what has waited too long; says how many messages that were.
    pub fn expire(&mut self) -> usize {
        let Some(limit) = self.limit else { return 0 };
        let mut expired = 0;
        while let Some((turn, id)) = self.order.first_key_value()
            && self
                .partial
                .get(id)
                .is_none_or(|partial| partial.since.elapsed() > limit)
            && let Some((id, partial)) = self.forget(*turn)
        {
            tracing::error!(%id, here = partial.pieces.len(), total = partial.total, "message dropped: its pieces did not all come in time");
            expired += 1;
        }
        self.counts.timed_out_assemblies += expired as u64;
        self.count_active();
        expired
    }

    fn count_active(&mut self) {
        self.counts.active_messages = self.partial.len() as u64;
    }

    /// The messages of which some pieces are still to come.
    #[must_use]
    pub fn partials(&self) -> Vec<PartialMessage> {
        let show = |(id, partial): (&String, &Partial)| {
            let mut pieces: Vec<_> = partial
                .pieces
                .iter()
                .map(|(index, payload)| (*index, payload.chars().count()))
                .collect();
            pieces.sort_unstable();
            PartialMessage {
                id: id.clone(),
                since: partial.since.elapsed(),
                total: partial.total,
                pieces,
            }
        };
        self.partial.iter().map(show).collect()
    }
}

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

    #[tokio::test(start_paused = true)]
    async fn pieces_that_wait_too_long_are_dropped_and_counted() {
        let mut assembly = Assembly::new(Some(Duration::from_secs(1_800)));
        let pieces = split(&"x".repeat(500), 300, "id").unwrap();
        assert_eq!(assembly.take(read(&pieces[0]).unwrap().unwrap()), None);
        assert_eq!(assembly.partials()[0].pieces.len(), 1);

        tokio::time::advance(Duration::from_secs(1_801)).await;

        assert_eq!(assembly.expire(), 1);
        assert_eq!(
            (assembly.counts.timed_out_assemblies, assembly.counts.active_messages),
            (1, 0)
        );
    }
    #[test]
    fn what_waits_is_bounded_and_the_oldest_goes_first() {
        let mut assembly = Assembly::new(None);
        assembly.most = 40_000;
        let piece = |id: &str, index: usize, payload: &str| Chunk {
            id: id.to_owned(),
            index,
            total: 3,
            payload: payload.to_owned(),
        };
        let large = "x".repeat(10_000);
        let ids = |assembly: &Assembly| {
            let mut ids: Vec<_> = assembly.partials().into_iter().map(|partial| partial.id).collect();
            ids.sort_unstable();
            ids.join(" ")
        };

        for id in ["old", "b", "c"] {
            assembly.take(piece(id, 0, &large));
        }
        // The same piece again costs nothing.
        for _ in 0..10 {
            assembly.take(piece("c", 0, &large));
        }
        assert_eq!(
            (ids(&assembly).as_str(), assembly.counts.errored_assemblies),
            ("b c old", 0)
        );

        assembly.take(piece("b", 1, &large));
        assert_eq!(
            (ids(&assembly).as_str(), assembly.counts.errored_assemblies),
            ("b c", 1)
        );
        assert_eq!(assembly.take(piece("b", 2, "end")), Some(format!("{large}{large}end")));

        // Small ones cost something as well, and each has its turn.
        for number in 0..1_000 {
            assembly.take(piece(&format!("{number}"), 0, ""));
        }
        let (waiting, dropped) = (assembly.partials().len(), assembly.counts.errored_assemblies);
        assert!(waiting < 40_000 / 256 && waiting > 100, "{waiting}");
        assert_eq!(waiting as u64, assembly.counts.active_messages);
        assert_eq!(waiting as u64 + dropped, 1_002, "`old`, `c` and a thousand");
        assert!(assembly.partials().iter().all(|partial| partial.id != "c"));
        let rest: usize = assembly.partial.values().map(|partial| partial.held).sum();
        assert_eq!((assembly.held, assembly.order.len()), (rest, waiting));
    }
}
