use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use super::Chunk;

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
    use super::*;
    use crate::tasks::{chunks::split, json};

    #[tokio::test(start_paused = true)]
    async fn pieces_that_wait_too_long_are_dropped_and_counted() {
        let mut assembly = Assembly::new(Some(Duration::from_secs(1_800)));
        let pieces = split(&"x".repeat(500), 300, "id").unwrap();
        let first = Chunk::read(&json::members(&pieces[0]).unwrap().unwrap())
            .unwrap()
            .unwrap();
        assert_eq!(assembly.take(first), None);
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
