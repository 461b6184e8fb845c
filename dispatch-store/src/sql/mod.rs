//! The Store in SQL: type `sqlite`, a file of our own, and type `postgres`, a server that many processes share.
//!
//! ```toml
//! [store]
//! type = "sqlite"
//! path = "dispatch.db"          # made if it is not there
//! synchronous = "full"          # or "normal": faster where fsync is slow, loses the last moments with the power
//! busy_timeout = "5s"           # how long to wait while another process writes
//! ```
//!
//! ```toml
//! [store]
//! type = "postgres"
//! url = "${DATABASE_URL}"       # postgres://user:password@host:5432/database?sslmode=verify-full
//! max_connections = 8
//! connect_timeout = "10s"
//! schema = "dispatch"           # made if it is not there; absent: the user's search path
//! wakeup = "notify"             # or "poll": no connection listens
//! ```
//!
//! # Guarantees
//!
//! * What is enqueued, buried, committed, taken or saved is on disk when the call returns. Claims, completions and
//!   what is taken of a rate are not waited for: if the machine dies in that moment, a message is delivered once more, or a
//!   moment of a rate given twice, and nothing else happens.
//! * A lease is drawn by chance and never twice; a stale one settles nothing.
//! * Both connect and migrate at first use or `probe()`; any number of processes may start at once. A schema that a
//!   later version has written is refused with words, not guessed at.
//! * SQLite: what many tasks write at the same time goes to disk in one commit. Several processes may share the file.
//! * PostgreSQL: a lost server is `Unavailable` until it is back. Other processes wake by NOTIFY, and by a poll every
//!   two seconds where a hint was lost; with `wakeup = "poll"` by a poll alone.
//! * Times are kept to the microsecond. Texts (ids, keys, names) must not hold a zero byte on PostgreSQL; payloads and
//!   headers may hold anything.
//!
//! ```
//! # #[cfg(feature = "sqlite")]
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use dispatch_core::{Message, config::{StoreConfig, StoreContext}, store::Item};
//! use dispatch_store::SqliteConfig;
//!
//! # let directory = tempfile::tempdir()?;
//! # let base_dir = directory.path().to_owned();
//! let config: SqliteConfig = toml::from_str(r#"path = "work.db""#)?;
//! let store = config.build(&StoreContext { base_dir })?;
//! store.queue().enqueue("jobs", vec![Item::of(&Message::new("hello"))]).await?;
//! assert_eq!(store.queue().depth("jobs").await?.ready, 1);
//! store.close().await?;
//! # Ok(()) }
//! # #[cfg(not(feature = "sqlite"))] fn main() {}
//! ```

mod bloat;
mod config;
mod conn;
#[cfg(feature = "postgres")]
mod connections;
mod database;
mod dead_letters;
mod error;
mod hints;
mod migrate;
mod nodes;
#[cfg(feature = "postgres")]
mod notify;
#[cfg(feature = "postgres")]
mod postgres;
mod queue;
mod rates;
#[cfg(feature = "postgres")]
mod ride;
mod roles;
mod rows;
#[cfg(feature = "postgres")]
mod servers;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "sqlite")]
mod writer;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
#[cfg(feature = "postgres")]
pub use config::{PostgresConfig, Wakeup};
#[cfg(feature = "sqlite")]
pub use config::{SqliteConfig, Synchronous};
use database::{Database, Target};
use dispatch_core::{
    Error, Store,
    store::{Bloat, DeadLetters, Node, Positions, Queue, Rates, Reservations, Slots},
};
pub use error::SqlStoreError;

/// A [`Store`] in an SQL database; made from a configuration.
#[derive(Debug)]
pub(crate) struct SqlStore {
    database: Arc<Database>,
    /// Who it is to others.
    node: nodes::Node,
    /// How long a waiter trusts that hints tell it everything.
    poll: Duration,
}

impl SqlStore {
    fn new(target: Target, me: nodes::Me, poll: Duration) -> Self {
        let database = Arc::new(Database::new(target));
        let node = nodes::Node::new(me);
        Self { database, node, poll }
    }
}

#[async_trait]
impl Store for SqlStore {
    fn dead_letters(&self) -> &dyn DeadLetters {
        self
    }
    fn reservations(&self) -> &dyn Reservations {
        self
    }
    fn slots(&self) -> &dyn Slots {
        self
    }
    fn queue(&self) -> &dyn Queue {
        self
    }
    fn positions(&self) -> &dyn Positions {
        self
    }
    fn rates(&self) -> &dyn Rates {
        self
    }

    async fn probe(&self) -> Result<(), Error> {
        self.database.connect().await?;
        // An engine that is open says nothing about the server behind it.
        self.positions().load("probe").await.map(drop)
    }

    async fn bloat(&self) -> Result<Option<Bloat>, Error> {
        Ok(self.database.perform(bloat::Look).await?)
    }

    async fn nodes(&self) -> Result<Option<Vec<Node>>, Error> {
        Ok(Some(self.database.perform(nodes::List).await?))
    }

    async fn close(&self) -> Result<(), Error> {
        self.node.leave(&self.database).await;
        self.database.close().await;
        Ok(())
    }
}
