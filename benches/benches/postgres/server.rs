//! The server, and a database on it for one part.

use std::{sync::Arc, time::Duration};

use cpu_time::ProcessTime;
use dispatch_core::{
    Store,
    config::{StoreConfig, StoreContext},
    random_id,
};
use dispatch_store::PostgresConfig;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

/// A database that is dropped with this value.
pub(crate) struct Database {
    admin: String,
    name: String,
    pub(crate) url: String,
}

impl Database {
    pub(crate) fn create(admin: &str) -> Self {
        let name = format!("bench_{}", random_id().replace('-', "_").to_lowercase());
        let url = format!("{}/{name}", admin.rsplit_once('/').unwrap().0);
        let made = Self {
            admin: admin.to_owned(),
            name,
            url,
        };
        made.administer(&format!("CREATE DATABASE {}", made.name));
        made
    }

    fn administer(&self, statement: &str) {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async { connect(&self.admin).await.batch_execute(statement).await.unwrap() });
    }

    /// A store in it, with our tables.
    pub(crate) async fn store(&self) -> Arc<dyn Store> {
        let config: PostgresConfig = serde_json::from_value(serde_json::json!({ "url": self.url })).unwrap();
        let store = config.build(&StoreContext { base_dir: ".".into() }).unwrap();
        store.probe().await.unwrap();
        store
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.administer(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Processor time, of this process and of the server's for one database.
pub(crate) struct Meter {
    client: Client,
}

impl Meter {
    pub(crate) async fn open(url: &str) -> Self {
        Self {
            client: connect(url).await,
        }
    }

    /// Lets the server write what was stored so far, so that it does not do so in what is timed next.
    pub(crate) async fn flush(&self) {
        self.client.batch_execute("CHECKPOINT").await.unwrap();
    }

    /// What was used so far, by this process and by the server; read before and after, since backends come and go.
    pub(crate) async fn read(&self) -> (Duration, Duration) {
        let pids = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let rows = self.client.query(pids, &[]).await.unwrap();
        let server = rows.iter().map(|row| on_processor(row.get(0))).sum();
        (ProcessTime::now().as_duration(), server)
    }
}

/// How long a process of one thread has run; nothing where the system does not say, or it is on another machine.
fn on_processor(pid: i32) -> Duration {
    let schedstat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let nanos = schedstat.split(' ').next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// The number in a variable of the environment, or `default`.
pub(crate) fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// The middle one, and the part of all below which `share` of them are.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let at = (values.len() as f64 * share) as usize;
    values[at.min(values.len() - 1)]
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    quantile(&mut values, 0.5)
}
