//! Answers to commands, on a connection of their own: they never wait behind tasks.

use std::{sync::Arc, time::Duration};

use dispatch_core::tasks::chunks::split;
use tokio::{sync::Mutex, time::timeout};
use tokio_postgres::Client;

use dispatch_pg_client::{PgError, Server};

/// PostgreSQL takes at most this many bytes in one notification (NOTIFY, Description: less than 8000).
pub(super) const LIMIT: usize = 7_999;

/// How long an answer may take to be sent, its connection included. Who asks waits for a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many pieces go in one statement: each trip, and each commit, costs as much as many of them. Between two of them go those
/// of other answers.
const AT_ONCE: usize = 64;

/// The connection for answers; made for the first, and again when it is lost.
pub(super) struct Replies {
    server: Server,
    client: Mutex<Option<Arc<Client>>>,
}

impl Replies {
    pub(super) fn new(server: Server) -> Self {
        Self {
            server,
            client: Mutex::new(None),
        }
    }

    /// Sends an answer, in pieces if it is large. One that cannot be sent is logged: who asked has a timeout. A connection
    /// through which nothing comes back is given up, and does not hold the answers after it up for good.
    pub(super) async fn send(&self, channel: &str, answer: &str) {
        let deaf = |_| {
            let place = self.server.place().to_owned();
            Err(PgError::Deaf { place })
        };
        let sent = timeout(PATIENCE, self.try_send(channel, answer)).await;
        if sent.is_err() {
            self.client.lock().await.take();
        }
        if let Err(error) = sent.unwrap_or_else(deaf) {
            tracing::warn!(
                channel,
                error = dispatch_core::Error::from(error).report(),
                "answer not sent"
            );
        }
    }

    async fn try_send(&self, channel: &str, answer: &str) -> Result<(), PgError> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let pieces = split(answer, LIMIT, &id).unwrap_or_default();
        let client = self.connected().await?;
        for pieces in pieces.chunks(AT_ONCE) {
            let notify = "SELECT count(pg_notify($1, piece)) FROM unnest($2::text[]) AS piece";
            let sent = client.execute(notify, &[&channel, &pieces]).await;
            sent.map_err(|source| PgError::Work {
                what: "send an answer",
                place: self.server.place().to_owned(),
                source,
            })?;
        }
        Ok(())
    }

    async fn connected(&self) -> Result<Arc<Client>, PgError> {
        let mut held = self.client.lock().await;
        if let Some(client) = held.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let (client, connection) = self.server.connect().await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection for answers lost");
            }
        });
        let client = Arc::new(client);
        *held = Some(Arc::clone(&client));
        Ok(client)
    }
}
