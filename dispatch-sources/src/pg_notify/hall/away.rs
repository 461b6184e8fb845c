//! Of which tasks the store has some: a newcomer that asks for its turn goes behind its like there.

use std::collections::{HashMap, HashSet};

use smol_str::SmolStr;

/// How many lie in the store under each identity, as far as is known here.
#[derive(Debug, Default)]
pub(super) struct Away {
    counts: HashMap<SmolStr, u64>,
    /// Those whose count has changed since the store was asked.
    changed: Option<HashSet<SmolStr>>,
}

impl Away {
    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub(super) fn has(&self, identity: &str) -> bool {
        self.counts.contains_key(identity)
    }

    pub(super) fn leaves(&mut self, identity: SmolStr) {
        self.note(&identity);
        *self.counts.entry(identity).or_default() += 1;
    }

    /// One is here again, or was not stored after all.
    pub(super) fn back(&mut self, identity: &SmolStr) {
        self.note(identity);
        if let Some(count) = self.counts.get_mut(identity) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(identity);
            }
        }
    }

    fn note(&mut self, identity: &SmolStr) {
        if let Some(changed) = &mut self.changed {
            changed.insert(identity.clone());
        }
    }

    /// The store is asked now: what changes from here on is not in its answer, or may not be.
    pub(super) fn ask(&mut self) {
        self.changed = Some(HashSet::new());
    }

    /// The store's answer, without those that are `here` under a lease.
    pub(super) fn answered(&mut self, keys: Vec<(SmolStr, u64)>, here: &HashMap<SmolStr, u64>) {
        let changed = self.changed.take().unwrap_or_default();
        self.counts.retain(|identity, _| changed.contains(identity));
        for (identity, count) in keys {
            let count = count.saturating_sub(here.get(&identity).copied().unwrap_or_default());
            if count > 0 && !changed.contains(&identity) {
                self.counts.insert(identity, count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stores_answer_counts_where_nothing_has_changed_since_it_was_asked() {
        let (one, two) = (SmolStr::new("one"), SmolStr::new("two"));
        let mut away = Away::default();
        away.leaves(one.clone());
        away.leaves(one.clone());

        away.ask();
        away.back(&one);
        away.leaves(two.clone());
        away.answered(
            vec![(one.clone(), 7), ("three".into(), 2), ("here".into(), 1)],
            &[("here".into(), 1)].into(),
        );

        assert!(away.has("one") && away.has("two") && away.has("three") && !away.has("here"));
        away.back(&one);
        assert!(!away.has("one"), "as it was counted here");
        away.ask();
        away.answered(Vec::new(), &HashMap::new());
        assert!(away.is_empty());
    }
}
