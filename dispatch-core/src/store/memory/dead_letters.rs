use std::time::SystemTime;

use async_trait::async_trait;

use super::MemoryStore;
use crate::{
    Error,
    store::{DeadLetter, DeadLetterFilter, DeadLetters},
};

#[async_trait]
impl DeadLetters for MemoryStore {
    async fn bury(&self, letters: Vec<DeadLetter>) -> Result<(), Error> {
        let mut state = self.state();
        for mut letter in letters {
            let same = |kept: &&mut DeadLetter| {
                kept.replayed_at.is_none()
                    && (&kept.pipeline, &kept.source, &kept.id) == (&letter.pipeline, &letter.source, &letter.id)
                    && kept.created_at == letter.created_at
            };
            if let Some(kept) = state.letters.iter_mut().find(same) {
                letter.number = kept.number;
                *kept = letter;
            } else {
                state.last_letter += 1;
                letter.number = state.last_letter;
                state.letters.push(letter);
            }
        }
        Ok(())
    }

    async fn list(&self, filter: &DeadLetterFilter, after: u64, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        Ok(self
            .state()
            .letters
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
            .iter()
            .filter(|letter| filter.matches(letter))
            .count() as u64)
    }

    async fn replay(&self, numbers: &[u64], queue: &str) -> Result<u64, Error> {
        let mut state = self.state();
        let now = SystemTime::now();
        let mut items = Vec::new();
        for letter in &mut state.letters {
            if letter.replayed_at.is_none() && numbers.contains(&letter.number) {
                letter.replayed_at = Some(now);
                items.push(letter.to_item());
            }
        }
        Ok(state.line(queue).enqueue(items).len() as u64)
    }

    async fn purge(&self, filter: &DeadLetterFilter) -> Result<u64, Error> {
        let mut state = self.state();
        let before = state.letters.len();
        state.letters.retain(|letter| !filter.matches(letter));
        Ok((before - state.letters.len()) as u64)
    }
}
