#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteConfig, Synchronous};

#[cfg(feature = "postgres")]
pub use postgres::{PostgresConfig, Wakeup};

#[cfg(feature = "sqlite")]
mod sqlite {
    use std::{path::PathBuf, sync::Arc, time::Duration};

    use dispatch_core::{
        Store,
        config::{ConfigError, Period, Stability, StoreConfig, StoreContext},
    };
    use schemars::JsonSchema;
    use serde::Deserialize;

    use crate::sql::{
        SqlStore,
        database::Target,
        nodes::{Me, PERIOD},
        sqlite,
    };

    /// What stands in `[store]` beside `type = "sqlite"`.
    #[derive(Debug, Clone, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields, default)]
    pub struct SqliteConfig {
        /// The file; made if it is not there. Default `dispatch.db`.
        pub path: PathBuf,
        /// Whether each commit waits for the disk. Default `full`.
        pub synchronous: Synchronous,
        /// How long to wait while another process writes. Default `5s`.
        pub busy_timeout: Period,
        /// The process's name, the same after a restart: then it takes back at once what it held before. No other process may
        /// have it. Default: one that is never the same.
        pub node: Option<String>,
        /// What a process holds that has not been heard of for so long is ready again, from `1s` to `1h`. Default `30s`.
        pub heartbeat: Period,
        /// Which process this is; for tests, which are several in one.
        #[serde(skip)]
        #[doc(hidden)]
        pub process: Option<String>,
        /// The most pages of 4 KiB that the file may have; for tests of a full disk.
        #[serde(skip)]
        #[doc(hidden)]
        pub max_pages: Option<u32>,
    }

    /// When a commit counts as kept.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    pub enum Synchronous {
        /// Once it is on the disk: nothing is lost when the power fails.
        #[default]
        Full,
        /// Once the system has it: the last moments may be lost when the power fails, nothing when the process dies.
        Normal,
    }

    impl Default for SqliteConfig {
        fn default() -> Self {
            Self {
                path: "dispatch.db".into(),
                synchronous: Synchronous::Full,
                busy_timeout: Period(Duration::from_secs(5)),
                node: None,
                heartbeat: Period(PERIOD),
                process: None,
                max_pages: None,
            }
        }
    }

    impl StoreConfig for SqliteConfig {
        const TYPE: &'static str = "sqlite";
        const SUMMARY: &'static str = "a database file of our own; nothing to install, one machine";
        const STABILITY: Stability = Stability::Stable;

        fn build(self, context: &StoreContext) -> Result<Arc<dyn Store>, ConfigError> {
            if self.path.as_os_str().is_empty() {
                return Err(ConfigError::at("path", "the path is empty").help("name a file, such as \"dispatch.db\""));
            }
            let me = Me::of(self.node, self.heartbeat, self.process)?;
            let target = sqlite::Target {
                path: context.base_dir.join(self.path),
                full: self.synchronous == Synchronous::Full,
                busy_timeout: self.busy_timeout.0,
                max_pages: self.max_pages,
            };
            // Other processes on the same file send no hints, so the poll is their delay.
            Ok(Arc::new(SqlStore::new(
                Target::Sqlite(target),
                me,
                Duration::from_millis(500),
            )))
        }
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use std::{sync::Arc, time::Duration};

    use dispatch_core::{
        Store,
        config::{ConfigError, Period, Secret, Stability, StoreConfig, StoreContext},
    };
    use schemars::JsonSchema;
    use serde::Deserialize;

    use crate::sql::{
        SqlStore,
        database::Target,
        nodes::{Me, PERIOD},
        postgres,
    };

    /// How often a waiter looks by itself, unless told otherwise: where notifications wake it, and where nothing else does.
    const POLL: [Duration; 2] = [Duration::from_secs(2), Duration::from_millis(500)];
    /// What it may be told.
    const POLLS: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(60)];

    /// How readers of queues learn of what other processes put there.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    pub enum Wakeup {
        /// By LISTEN and NOTIFY, over a connection of its own; a poll stands behind it.
        #[default]
        Notify,
        /// By the poll alone: no connection listens, and this process sends no notification.
        Poll,
    }

    /// What stands in `[store]` beside `type = "postgres"`.
    #[derive(Debug, Clone, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct PostgresConfig {
        /// Where the server is: `postgres://user:password@host:5432/database?sslmode=verify-full`. Of several, as in
        /// `postgres://user@first:5432,second:5432/database`, the first that takes writes is used.
        pub url: Secret,
        /// Where to listen for hints, if `url` leads to a pooler in transaction mode, which cannot: the server itself.
        #[serde(default)]
        pub listen_url: Option<Secret>,
        /// The most connections at once, beside one that listens. Default 8, at least 1.
        #[serde(default = "max_connections")]
        pub max_connections: u32,
        /// How long to wait for a connection. Default `10s`.
        #[serde(default = "connect_timeout")]
        pub connect_timeout: Period,
        /// The schema for our tables; made if it is not there. Default: the first on the user's search path.
        #[serde(default)]
        pub schema: Option<String>,
        /// How readers of queues learn of what other processes put there. Default `notify`.
        #[serde(default)]
        pub wakeup: Wakeup,
        /// How often an idle reader looks by itself, from `10ms` to `1m`. Default `2s`, with `wakeup = "poll"` `500ms`.
        #[serde(default)]
        pub poll_interval: Option<Period>,
        /// The process's name, the same after a restart: then it takes back at once what it held before. No other process may
        /// have it. Default: one that is never the same.
        #[serde(default)]
        pub node: Option<String>,
        /// What a process holds that has not been heard of for so long is ready again, from `1s` to `1h`. Default `30s`.
        #[serde(default = "heartbeat")]
        pub heartbeat: Period,
        /// Which process this is; for tests, which are several in one.
        #[serde(skip)]
        #[doc(hidden)]
        pub process: Option<String>,
    }

    impl PostgresConfig {
        /// The server at `url`, all else by default.
        #[must_use]
        pub fn new(url: Secret) -> Self {
            Self {
                url,
                listen_url: None,
                max_connections: max_connections(),
                connect_timeout: connect_timeout(),
                schema: None,
                wakeup: Wakeup::default(),
                poll_interval: None,
                node: None,
                heartbeat: heartbeat(),
                process: None,
            }
        }
    }

    fn max_connections() -> u32 {
        8
    }

    fn connect_timeout() -> Period {
        Period(Duration::from_secs(10))
    }

    fn heartbeat() -> Period {
        Period(PERIOD)
    }

    impl StoreConfig for PostgresConfig {
        const TYPE: &'static str = "postgres";
        const SUMMARY: &'static str = "a PostgreSQL server, shared by many processes";
        const STABILITY: Stability = Stability::Stable;

        fn build(self, _: &StoreContext) -> Result<Arc<dyn Store>, ConfigError> {
            if self.max_connections == 0 {
                return Err(ConfigError::at("max_connections", "no connection is not enough").help("write 1 or more"));
            }
            let form = "write it as \"postgres://user:password@host:5432/database\"";
            if !["postgres://", "postgresql://"]
                .iter()
                .any(|scheme| self.url.expose().starts_with(scheme))
            {
                return Err(ConfigError::at("url", "this is not the URL of a PostgreSQL server").help(form));
            }
            let target = postgres::Target {
                url: self.url,
                listen_url: self.listen_url,
                schema: self.schema,
                max_connections: self.max_connections,
                connect_timeout: self.connect_timeout.0,
                listens: self.wakeup == Wakeup::Notify,
            };
            if target.servers().is_err() {
                return Err(ConfigError::at("url", "this URL cannot be read").help(form));
            }
            if target.listen_url_is_wrong() {
                return Err(ConfigError::at("listen_url", "this URL cannot be read").help(form));
            }
            let [listening, polling] = POLL;
            let poll = match self.poll_interval {
                Some(Period(poll)) => poll,
                None if target.listens => listening,
                None => polling,
            };
            let [least, most] = POLLS;
            if poll < least || poll > most {
                let message = format!("a look each {} is none", Period(poll));
                return Err(ConfigError::at("poll_interval", message).help("from \"10ms\" to \"1m\""));
            }
            let me = Me::of(self.node, self.heartbeat, self.process)?;
            Ok(Arc::new(SqlStore::new(Target::Postgres(Box::new(target)), me, poll)))
        }
    }
}
