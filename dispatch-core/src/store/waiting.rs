//! What waits in a queue, for who wants to see it or take it out.

use bytes::Bytes;

use super::Item;

/// Where an item waits in its queue. Places are ordered as claims are: what is behind is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Higher goes first.
    pub priority: i16,
    /// Since when, or from when on, it may be claimed: in the store's own measure, from a start of its own.
    pub at: i64,
    /// The item's row.
    pub row: u64,
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let order = |place: &Self| (std::cmp::Reverse(place.priority), place.at, place.row);
        order(self).cmp(&order(other))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Which part of a queue to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Only what is behind this place; none for the beginning.
    pub after: Option<Place>,
    /// Look at so many items at most, whether they are shown or not.
    pub max: usize,
    /// Show only items that [may hold](Self::shows) each of these texts.
    pub holding: Vec<Bytes>,
}

impl Look {
    /// Whether an item is shown: each text stands in its payload or is its id. Where there is a backslash in the payload it is
    /// shown in any case, for JSON may write the text otherwise: who asks has the last word.
    #[must_use]
    pub fn shows(&self, item: &Item) -> bool {
        let stands = |text: &Bytes| text.is_empty() || item.payload.windows(text.len()).any(|part| part == text);
        self.holding
            .iter()
            .all(|text| item.id.as_bytes() == text || item.payload.contains(&b'\\') || stands(text))
    }
}

/// An item that nobody has leased.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// Where it waits.
    pub place: Place,
    /// Whether its time has come.
    pub due: bool,
    /// Whether an older one under its key is in the queue, leased or not: an ordered claim leaves it where it is.
    pub behind: bool,
    /// The item.
    pub item: Item,
}

/// What was seen of a queue at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// In the order of claims.
    pub items: Vec<Waiting>,
    /// Look on behind this place; none where the end was seen.
    pub next: Option<Place>,
}
