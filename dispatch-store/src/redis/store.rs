use async_trait::async_trait;
use dispatch_core::{
    Error, Store,
    store::{Absent, DeadLetters, Positions, Queue, Rates, Reservations, Slots},
};
use redis::{
    Client, FromRedisValue, RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::sync::OnceCell;

use super::error::RedisStoreError;

const ABSENT: Absent = Absent::of("redis");

/// One connection, which all calls share: commands are pipelined, and a lost connection is made anew.
pub(super) struct RedisStore {
    client: Client,
    settings: ConnectionManagerConfig,
    connection: OnceCell<ConnectionManager>,
    prefix: String,
    place: String,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore")
            .field("place", &self.place)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    pub(super) fn new(client: Client, settings: ConnectionManagerConfig, prefix: String) -> Self {
        let place = client.get_connection_info().addr().to_string();
        Self {
            client,
            settings,
            connection: OnceCell::new(),
            prefix,
            place,
        }
    }

    /// `PREFIX:KIND:NAME`.
    pub(super) fn key(&self, kind: &str, name: &str) -> String {
        format!("{}:{kind}:{name}", self.prefix)
    }

    /// Runs `call` on the connection, which is made at the first use.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        what: &'static str,
        call: impl AsyncFnOnce(&mut ConnectionManager) -> RedisResult<T>,
    ) -> Result<T, Error> {
        let asked = async {
            let connect = || ConnectionManager::new_with_config(self.client.clone(), self.settings.clone());
            let mut connection = self.connection.get_or_try_init(connect).await?.clone();
            call(&mut connection).await
        };
        asked.await.map_err(|source| {
            RedisStoreError::Work {
                what,
                place: self.place.clone(),
                source,
            }
            .into()
        })
    }
}

#[async_trait]
impl Store for RedisStore {
    fn dead_letters(&self) -> &dyn DeadLetters {
        &ABSENT
    }
    fn reservations(&self) -> &dyn Reservations {
        self
    }
    fn slots(&self) -> &dyn Slots {
        self
    }
    fn queue(&self) -> &dyn Queue {
        &ABSENT
    }
    fn positions(&self) -> &dyn Positions {
        self
    }
    fn rates(&self) -> &dyn Rates {
        self
    }
    async fn probe(&self) -> Result<(), Error> {
        self.ask("ping", async |redis| redis::cmd("PING").query_async::<()>(redis).await)
            .await
    }
}
