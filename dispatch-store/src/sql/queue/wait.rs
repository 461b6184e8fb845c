use std::time::Duration;

use async_trait::async_trait;
use sea_orm::DbErr;
use tokio::time::sleep;

use crate::sql::{
    SqlStore,
    conn::{Conn, Needs, Work},
};

/// The least time between two wakes by what the database says rather than by a hint.
const BREATH: Duration = Duration::from_millis(5);
/// A wait up to this long asks the database for no reason to be shorter.
const SHORT: Duration = Duration::from_millis(16);

impl SqlStore {
    /// Waits for a hint, for time to make something claimable, or for the poll that finds what hints have missed.
    pub(super) async fn wait_for_change(&self, queue: &str) {
        let hint = self.database.hints.of(queue);
        self.database.listen(queue);
        let mut changed = std::pin::pin!(hint.changed());
        // Listening before looking: what comes in between is not missed.
        changed.as_mut().enable();
        if hint.has_news() {
            return;
        }
        // The poll, at first in quick succession.
        let poll = if self.database.has_silent_news() {
            hint.patience().min(self.poll)
        } else {
            self.poll
        };
        if poll <= SHORT {
            tokio::select! {
                () = changed => {}
                () = sleep(poll) => {}
            }
            return;
        }
        let queue = queue.to_owned();
        let wait = match self.database.perform(Next { queue }).await {
            // Due, yet the last claim did not get it: new from another process, or being taken just now.
            Ok(next) if next.expired || (next.ready && !hint.is_ordered()) => BREATH,
            Ok(next) => next.after.map_or(poll, |after| after.clamp(BREATH, poll)),
            Err(error) => {
                tracing::debug!(%error, "waiting without a look at the queue");
                poll
            }
        };
        tokio::select! {
            () = changed => {}
            () = sleep(apart(wait, poll)) => {}
        }
    }
}

/// A wait as long as the poll ends up to a quarter early: processes that became idle together do not look together for ever.
fn apart(wait: Duration, poll: Duration) -> Duration {
    if wait < poll {
        return wait;
    }
    wait.mul_f64(rand::random_range(0.75..=1.0))
}

/// Finds out when time alone will make something claimable.
struct Next {
    queue: String,
}

struct Due {
    /// Something is due, though perhaps held back by its key.
    ready: bool,
    /// A lease has run out.
    expired: bool,
    /// When the next delay or lease ends.
    after: Option<Duration>,
}

/// One look at the index for each priority there is.
const NEXT: &str = "
    WITH RECURSIVE level(priority) AS (
        SELECT max(priority) FROM dispatch_ready WHERE queue = $1
        UNION ALL
        SELECT (SELECT max(r.priority) FROM dispatch_ready r WHERE r.queue = $1 AND r.priority < level.priority)
        FROM level WHERE level.priority IS NOT NULL
    ), clock AS (SELECT {now} AS now)
    SELECT now,
        EXISTS (SELECT 1 FROM level WHERE EXISTS (SELECT 1 FROM dispatch_ready r
            WHERE r.queue = $1 AND r.priority = level.priority AND r.run_at <= now)),
        (SELECT min((SELECT r.run_at FROM dispatch_ready r
            WHERE r.queue = $1 AND r.priority = level.priority AND r.run_at > now ORDER BY r.run_at LIMIT 1)) FROM level),
        (SELECT min(l.until) FROM dispatch_lease l WHERE l.queue = $1)
    FROM clock";

#[async_trait]
impl Work for Next {
    type Answer = Due;

    fn what(&self) -> String {
        format!("watch `{}`", self.queue)
    }

    fn needs(&self) -> Needs {
        Needs::Read
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Due, DbErr> {
        let row = conn.one(NEXT, vec![self.queue.as_str().into()]).await?;
        let row = row.ok_or_else(|| DbErr::Custom("the clock has no row".to_owned()))?;
        let now: i64 = row.try_get_by_index(0)?;
        let ends: [Option<i64>; 2] = [row.try_get_by_index(2)?, row.try_get_by_index(3)?];
        let next = ends.into_iter().flatten().min();
        Ok(Due {
            ready: row.try_get_by_index(1)?,
            expired: ends[1].is_some_and(|end| end <= now),
            // SQLite's clock counts milliseconds: wake just after.
            after: next.map(|next| Duration::from_micros(next.saturating_sub(now).max(0).cast_unsigned() + 1000)),
        })
    }
}
