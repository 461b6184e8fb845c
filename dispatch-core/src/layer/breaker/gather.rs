//! Successes that one thread counts in a driver's turn without telling the others, until the turn ends or a call fails.

use std::cell::Cell;

use super::window::Window;

thread_local! {
    /// The window whose successes are gathered here, by its address; 0 for none. And how many they are.
    static GATHERED: Cell<(usize, u32)> = const { Cell::new((0, 0)) };
}

fn address(window: &Window) -> usize {
    std::ptr::from_ref(window).addr()
}

/// While it lives, this thread gathers the successes of one breaker: nearly all calls are, and to count each in the window that
/// all shards share would have them wait for each other. What a failure is measured against may so miss what other threads
/// have gathered in the turn that they are in.
#[derive(Debug)]
pub(crate) struct Gathering<'a> {
    window: &'a Window,
    /// A driver may be driven by another's sink, in its turn.
    outer: (usize, u32),
}

impl<'a> Gathering<'a> {
    pub(super) fn of(window: &'a Window) -> Self {
        Self {
            window,
            outer: GATHERED.replace((address(window), 0)),
        }
    }
}

impl Drop for Gathering<'_> {
    fn drop(&mut self) {
        flush(self.window);
        GATHERED.set(self.outer);
    }
}

/// Counts one success.
#[inline]
pub(super) fn succeeded(window: &Window) {
    let (whose, count) = GATHERED.get();
    if whose == address(window) {
        GATHERED.set((whose, count + 1));
    } else {
        window.succeeded(1);
    }
}

/// Tells the window what was gathered for it here.
pub(super) fn flush(window: &Window) {
    let (whose, count) = GATHERED.get();
    if whose == address(window) && count > 0 {
        GATHERED.set((whose, 0));
        window.succeeded(count);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_tells_at_its_end_and_before_a_failure() {
        let [one, two] = [(); 2].map(|()| Window::new(Duration::from_secs(30)));
        // A failure tells how many calls there were, itself among them.
        let calls = |window: &Window| {
            flush(window);
            window.failed(Instant::now()).0
        };

        let outer = Gathering::of(&one);
        (0..5).for_each(|_| succeeded(&one));
        let inner = Gathering::of(&two);
        succeeded(&two);
        succeeded(&one);
        assert_eq!(
            (calls(&two), calls(&one)),
            (2, 2),
            "what the outer turn has gathered is not told yet"
        );
        drop(inner);
        succeeded(&one);
        assert_eq!(calls(&one), 9);
        succeeded(&one);
        drop(outer);

        assert_eq!((calls(&one), calls(&two)), (11, 3));
    }
}
