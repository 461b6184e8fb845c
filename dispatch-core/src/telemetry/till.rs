//! What one thread counts in a driver's turn without telling the others, until the turn ends.

use std::cell::{Cell, RefCell};

use super::{Histogram, histogram::Tally};

thread_local! {
    /// The histogram that counts here for now, by its address; 0 for none.
    static WHOSE: Cell<usize> = const { Cell::new(0) };
    static TALLY: RefCell<Tally> = const { RefCell::new(Tally::new()) };
}

fn address(histogram: &Histogram) -> usize {
    std::ptr::from_ref(histogram).addr()
}

/// While it lives, what this thread [`record`]s for one histogram is gathered, and added when it is dropped. A turn ends
/// hundreds of attempts, and two atomic additions for each were a twentieth of what a message costs.
#[derive(Debug)]
pub(crate) struct Till<'a> {
    into: &'a Histogram,
    /// A driver may be driven by another's sink, in its turn.
    outer: Option<(usize, Tally)>,
}

impl<'a> Till<'a> {
    pub(crate) fn open(into: &'a Histogram) -> Self {
        let outer = WHOSE.replace(address(into));
        Self {
            into,
            outer: (outer != 0).then(|| (outer, TALLY.take())),
        }
    }
}

impl Drop for Till<'_> {
    fn drop(&mut self) {
        TALLY.with_borrow_mut(|tally| tally.flush(self.into));
        let (whose, tally) = self.outer.take().unwrap_or_default();
        WHOSE.set(whose);
        if whose != 0 {
            TALLY.set(tally);
        }
    }
}

/// Counts so many nanoseconds.
#[inline]
pub(crate) fn record(into: &Histogram, nanos: u64) {
    if WHOSE.get() == address(into) {
        TALLY.with_borrow_mut(|tally| tally.record(nanos));
    } else {
        into.record_nanos(nanos);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_counts_at_its_end_and_a_turn_within_it_counts_its_own() {
        let [one, two, three] = [(); 3].map(|()| Histogram::default());
        let counts = || [&one, &two, &three].map(|histogram| histogram.snapshot().buckets.iter().sum::<u64>());

        let outer = Till::open(&one);
        record(&one, 1);
        record(&three, 1);
        assert_eq!(counts(), [0, 0, 1]);
        let inner = Till::open(&two);
        record(&two, 1);
        // Not its own turn: counted at once.
        record(&one, 1);
        assert_eq!(counts(), [1, 0, 1]);
        drop(inner);
        record(&one, 1);
        assert_eq!(counts(), [1, 1, 1]);
        drop(outer);
        record(&one, 1);

        assert_eq!(counts(), [4, 1, 1]);
        assert_eq!(one.snapshot().sum.as_nanos(), 4);
    }
}
