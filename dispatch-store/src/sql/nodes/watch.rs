use std::{collections::HashMap, time::Duration};

use smol_str::SmolStr;
use tokio::time::Instant;

use super::BEATS;

/// Another node, as its row shows it.
#[derive(Debug, Clone)]
pub(super) struct Other {
    pub(super) id: i64,
    pub(super) name: SmolStr,
    pub(super) process: SmolStr,
    pub(super) host: SmolStr,
    pub(super) period: Duration,
    pub(super) last_seen: i64,
}

/// What one node has seen of the others. It believes nothing but this: neither the time in their rows, which stands still
/// with the database, jumps with its clock and goes back with a standby; nor what it saw before a gap in its own beats,
/// since what kept it from beating may have kept the others, too.
#[derive(Debug)]
pub(super) struct Watch {
    period: Duration,
    /// The latest look.
    last: Option<Instant>,
    /// What stood in each row, and since when nothing else did.
    seen: HashMap<i64, (i64, Instant)>,
}

impl Watch {
    pub(super) fn new(period: Duration) -> Self {
        Self {
            period,
            last: None,
            seen: HashMap::new(),
        }
    }

    /// Notes what was just seen after a beat of its own, and says who is dead: whose row has stood still for a whole
    /// period, its own or the watcher's if that is longer, while the watcher beat without a gap.
    pub(super) fn look(&mut self, now: Instant, others: Vec<Other>) -> Vec<Other> {
        let gap = self.period / BEATS * 2;
        if self.last.is_some_and(|last| now.duration_since(last) > gap) {
            self.seen.clear();
        }
        self.last = Some(now);
        let before = std::mem::take(&mut self.seen);
        let mut dead = Vec::new();
        for other in others {
            let since = match before.get(&other.id) {
                Some((last_seen, since)) if *last_seen == other.last_seen => *since,
                _ => now,
            };
            self.seen.insert(other.id, (other.last_seen, since));
            // Three thirds of a period are a little less than a period.
            if now.duration_since(since) >= self.period.max(other.period) / BEATS * BEATS {
                dead.push(other);
            }
        }
        dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(30);

    fn other(id: i64, last_seen: i64, period: u64) -> Other {
        Other {
            id,
            name: "other".into(),
            process: "1-x".into(),
            host: "host".into(),
            period: Duration::from_secs(period),
            last_seen,
        }
    }

    /// Looks at the seconds, each time at rows with what the node wrote last; says when each was first found dead.
    fn looks(at: &[(u64, &[Other])]) -> Vec<(u64, i64)> {
        let start = Instant::now();
        let mut watch = Watch::new(PERIOD);
        let mut dead = Vec::new();
        for (second, others) in at {
            let found = watch.look(start + Duration::from_secs(*second), others.to_vec());
            dead.extend(found.iter().map(|other| (*second, other.id)));
        }
        dead
    }

    #[test]
    fn who_stands_still_for_a_period_is_dead_and_who_beats_is_not() {
        let rows = |beat| [other(1, 7, 30), other(2, beat, 30)];

        let dead = looks(&[(0, &rows(0)), (10, &rows(1)), (20, &rows(2)), (30, &rows(3))]);

        assert_eq!(dead, [(30, 1)]);
    }

    #[test]
    fn who_beats_more_slowly_is_given_its_own_time() {
        let rows = [other(1, 7, 60)];
        let looked: Vec<_> = (0..=7).map(|look| (look * 10, &rows[..])).collect();

        assert_eq!(looks(&looked), [(60, 1), (70, 1)]);
    }

    #[test]
    fn who_beats_more_quickly_is_given_the_watchers_time() {
        let rows = [other(1, 7, 1)];
        let looked: Vec<_> = (0..=3).map(|look| (look * 10, &rows[..])).collect();

        assert_eq!(looks(&looked), [(30, 1)]);
    }

    #[test]
    fn after_a_gap_the_watch_begins_anew() {
        let rows = [other(1, 7, 30)];
        // The database stood still for an hour after the second look.
        let at = [0, 10, 3610, 3620, 3630, 3640];
        let looked: Vec<_> = at.iter().map(|second| (*second, &rows[..])).collect();

        assert_eq!(looks(&looked), [(3640, 1)]);
    }

    #[test]
    fn a_standby_that_goes_back_in_time_makes_nobody_dead() {
        let rows = |beat| [other(1, beat, 30)];

        let dead = looks(&[
            (0, &rows(5)),
            (10, &rows(6)),
            (20, &rows(2)),
            (30, &rows(2)),
            (40, &rows(3)),
        ]);

        assert_eq!(dead, []);
    }
}
