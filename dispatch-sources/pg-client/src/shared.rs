use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_postgres::Client;

use crate::{PgError, Server};

/// One connection for many callers, on which their statements are pipelined. It is made for the first, and again when it is
/// lost.
pub struct SharedClient {
    server: Server,
    client: Mutex<Option<Arc<Client>>>,
}

impl std::fmt::Debug for SharedClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SharedClient").field(&self.server).finish()
    }
}

impl SharedClient {
    /// Connects to nothing yet.
    #[must_use]
    pub const fn new(server: Server) -> Self {
        Self {
            server,
            client: Mutex::const_new(None),
        }
    }

    /// Where it connects to.
    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// The connection, made if there is none that stands.
    ///
    /// # Errors
    /// As [`Server::connect`].
    ///
    /// # Cancel safety
    /// Dropping it leaves connecting to the next caller.
    pub async fn client(&self) -> Result<Arc<Client>, PgError> {
        let mut held = self.client.lock().await;
        if let Some(client) = held.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let (client, connection) = self.server.connect().await?;
        let place = self.server.place().to_owned();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(place, %error, "connection to PostgreSQL lost");
            }
        });
        Ok(Arc::clone(held.insert(Arc::new(client))))
    }

    /// Gives up a connection through which nothing comes back; one made since stays.
    pub async fn forget(&self, client: &Arc<Client>) {
        let mut held = self.client.lock().await;
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, client)) {
            held.take();
        }
    }
}
