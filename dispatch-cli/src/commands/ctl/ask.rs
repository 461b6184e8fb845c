//! Asking, and gathering what is answered.

use std::{io, path::Path, time::Duration};

use dispatch_core::{
    random_id,
    tasks::{BarePayload, Incoming, chunks::Assembly},
};
use dispatch_pg_client::{PgError, Server, quoted};
use dispatch_sources::pg_notify::pieces;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::{Instant, timeout_at},
};
use tokio_postgres::{AsyncMessage, types::Type};

/// A command, and how many answers to wait for.
pub(super) struct Wanted {
    pub(super) command: &'static str,
    pub(super) data: Map<String, Value>,
    pub(super) expected: usize,
    pub(super) timeout: Duration,
}

impl Wanted {
    fn message(&self, reply_to: &str) -> String {
        let mut message = json!({ "control": self.command, "reply_to": reply_to });
        if !self.data.is_empty() {
            message["control_data"] = self.data.clone().into();
        }
        message.to_string()
    }

    /// Listens to a channel of its own, asks, and gathers answers until there are enough or the time is up.
    pub(super) async fn of_channel(self, server: &Server, channel: &str) -> Result<Vec<Value>, PgError> {
        let failed = |source| PgError::Work {
            what: "ask",
            place: server.place().to_owned(),
            source,
        };
        let (client, mut connection) = server.connect().await?;
        let (heard, mut answers) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(notification) = message {
                    // Who has its answers listens no more.
                    let _enough = heard.send(notification.payload().to_owned());
                }
            }
        });
        let reply_to = format!("reply_to_{}", random_id().replace('-', "_").to_lowercase());
        client
            .batch_execute(&format!("LISTEN {}", quoted(&reply_to)))
            .await
            .map_err(failed)?;
        let message = self.message(&reply_to);
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&channel, Type::TEXT), (&message, Type::TEXT)];
        client
            .query_typed("SELECT pg_notify($1, $2)", &parameters)
            .await
            .map_err(failed)?;
        Ok(self.gather(async || answers.recv().await).await)
    }

    /// As [`of_channel`](Self::of_channel), of the one service that serves the socket.
    pub(super) async fn of_socket(self, path: &Path) -> io::Result<Vec<Value>> {
        let (reading, mut writing) = UnixStream::connect(path).await?.into_split();
        for piece in pieces(&self.message("ctl")) {
            writing.write_all(piece.as_bytes()).await?;
        }
        let mut lines = BufReader::new(reading).lines();
        let answers = self.gather(async || lines.next_line().await.ok().flatten()).await;
        // Until here: a service may take the end of what it reads for the end of its client.
        drop(writing);
        Ok(answers)
    }

    async fn gather(&self, mut next: impl AsyncFnMut() -> Option<String>) -> Vec<Value> {
        let (mut gathered, mut assembly) = (Vec::new(), Assembly::new(None));
        let until = Instant::now() + self.timeout;
        while gathered.len() < self.expected {
            let Ok(Some(text)) = timeout_at(until, next()).await else {
                break;
            };
            let piece = match Incoming::read(&text, BarePayload::Reject) {
                Incoming::Chunk(chunk) => Some(chunk),
                _ => None,
            };
            let whole = piece.map_or(Some(text), |chunk| assembly.take(chunk));
            // What Python calls JSON and nobody else does is shown as it came.
            gathered.extend(whole.map(|whole| serde_json::from_str(&whole).unwrap_or(Value::String(whole))));
        }
        gathered
    }
}
