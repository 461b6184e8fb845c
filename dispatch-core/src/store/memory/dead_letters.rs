use std::{collections::VecDeque, time::SystemTime};

use async_trait::async_trait;

use super::MemoryStore;
use crate::{
    Error,
    store::{DeadLetter, DeadLetterFilter, DeadLetters},
};

/// The dead letters, oldest first.
#[derive(Debug)]
pub(super) struct Letters {
    kept: VecDeque<DeadLetter>,
    last: u64,
    most: usize,
}

impl Default for Letters {
    fn default() -> Self {
        Self {
            kept: VecDeque::new(),
            last: 0,
            most: 10_000,
        }
    }
}

impl Letters {
    pub(super) fn limit(&mut self, most: usize) {
        self.most = most;
    }

    pub(super) fn bury(&mut self, mut letter: DeadLetter) {
        let same = |kept: &&mut DeadLetter| {
            kept.replayed_at.is_none()
                && (&kept.pipeline, &kept.source, &kept.id) == (&letter.pipeline, &letter.source, &letter.id)
                && kept.created_at == letter.created_at
        };
        if let Some(kept) = self.kept.iter_mut().find(same) {
            letter.number = kept.number;
            *kept = letter;
            return;
        }
        self.last += 1;
        letter.number = self.last;
        self.kept.push_back(letter);
        while self.kept.len() > self.most
            && let Some(lost) = self.kept.pop_front()
        {
            tracing::warn!(
                pipeline = %lost.pipeline, id = %lost.id, reason = %lost.reason,
                "dead letter forgotten: the memory store keeps {}; a store of another type keeps all", self.most
            );
        }
    }
}

#[async_trait]
impl DeadLetters for MemoryStore {
    async fn bury(&self, letters: Vec<DeadLetter>) -> Result<(), Error> {
        let mut state = self.state();
        for letter in letters {
            state.letters.bury(letter);
        }
        Ok(())
    }

    async fn list(&self, filter: &DeadLetterFilter, after: u64, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        Ok(self
            .state()
            .letters
            .kept
            .iter()
            .filter(|letter| letter.number > after && filter.matches(letter))
            .take(limit)
            .cloned()
            .collect())
    }

    async fn count(&self, filter: &DeadLetterFilter) -> Result<u64, Error> {
        Ok(self
            .state()
            .letters
            .kept
            .iter()
            .filter(|letter| filter.matches(letter))
            .count() as u64)
    }

    async fn replay(&self, numbers: &[u64], queue: &str) -> Result<u64, Error> {
        let mut state = self.state();
        let now = SystemTime::now();
        let mut items = Vec::new();
        for letter in &mut state.letters.kept {
            if letter.replayed_at.is_none() && numbers.contains(&letter.number) {
                letter.replayed_at = Some(now);
                items.push(letter.to_item());
            }
        }
        Ok(state.line(queue).enqueue(items).len() as u64)
    }

    async fn purge(&self, filter: &DeadLetterFilter) -> Result<u64, Error> {
        let mut state = self.state();
        let before = state.letters.kept.len();
        state.letters.kept.retain(|letter| !filter.matches(letter));
        Ok((before - state.letters.kept.len()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attempt, Message, Store as _};

    fn letter(id: &str) -> DeadLetter {
        let message = Message::with_id(id, "x");
        DeadLetter {
            number: 0,
            pipeline: "p".into(),
            source: "source".into(),
            id: id.into(),
            payload: message.payload.clone(),
            headers: message.headers().clone(),
            metadata: message.metadata().clone(),
            key: None,
            reason: "permanent".into(),
            attempts: Vec::<Attempt>::new(),
            trace_id: None,
            config_hash: "abc".into(),
            created_at: SystemTime::UNIX_EPOCH,
            died_at: SystemTime::UNIX_EPOCH,
            replayed_at: None,
        }
    }

    #[tokio::test]
    async fn the_oldest_gives_way_and_keeps_its_number_to_itself() {
        let store = MemoryStore::new().max_dead_letters(2);

        store
            .dead_letters()
            .bury(["a", "b", "c"].map(letter).into())
            .await
            .unwrap();

        let kept = store
            .dead_letters()
            .list(&DeadLetterFilter::default(), 0, 9)
            .await
            .unwrap();
        let kept: Vec<_> = kept.iter().map(|letter| (letter.number, letter.id.as_str())).collect();
        assert_eq!(kept, [(2, "b"), (3, "c")]);
    }
}
