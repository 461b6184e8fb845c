//! Answers to commands, on a connection of their own: they never wait behind tasks.

use std::time::Duration;

use dispatch_core::tasks::chunks::split;
use dispatch_pg_client::{PgError, Server, SharedClient};
use tokio::time::timeout;

/// PostgreSQL takes at most this many bytes in one notification (NOTIFY, Description: less than 8000).
pub(super) const LIMIT: usize = 7_999;

/// How long an answer may take to be sent, its connection included. Who asks waits for a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many pieces go in one statement: each trip, and each commit, costs as much as many of them. Between two of them go those
/// of other answers.
const AT_ONCE: usize = 64;

/// The connection for answers.
pub(super) struct Replies(SharedClient);

impl Replies {
    pub(super) const fn new(server: Server) -> Self {
        Self(SharedClient::new(server))
    }

    /// Sends an answer, in pieces if it is large. One that cannot be sent is logged: who asked has a timeout. A connection
    /// through which nothing comes back is given up, and does not hold the answers after it up for good.
    pub(super) async fn send(&self, channel: &str, answer: &str) {
        let place = || self.0.server().place().to_owned();
        let mut used = None;
        let sent = timeout(PATIENCE, async {
            let client = used.insert(self.0.client().await?);
            let id = uuid::Uuid::new_v4().simple().to_string();
            for pieces in split(answer, LIMIT, &id).unwrap_or_default().chunks(AT_ONCE) {
                let notify = "SELECT count(pg_notify($1, piece)) FROM unnest($2::text[]) AS piece";
                let sent = client.execute(notify, &[&channel, &pieces]).await;
                sent.map_err(|source| PgError::Work {
                    what: "send an answer",
                    place: place(),
                    source,
                })?;
            }
            Ok(())
        })
        .await;
        if let (Err(_), Some(deaf)) = (&sent, &used) {
            self.0.forget(deaf).await;
        }
        if let Err(error) = sent.unwrap_or_else(|_| Err(PgError::Deaf { place: place() })) {
            tracing::warn!(
                channel,
                error = dispatch_core::Error::from(error).report(),
                "answer not sent"
            );
        }
    }
}
