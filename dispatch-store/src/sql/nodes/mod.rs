//! Who claims: a row for each open store, in which its heart beats, so that what a dead process held comes back before its
//! leases run out. No claim looks at these rows; the hearts do, at each beat.

mod heart;
mod list;
mod watch;
mod work;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dispatch_core::{
    config::{ConfigError, Period},
    process_id,
};
pub(super) use list::List;
use smol_str::{SmolStr, format_smolstr};
use tokio::{task::JoinHandle, time::timeout};

use super::{database::Database, error::SqlStoreError};

/// How often a heart beats in a period: two beats may be lost.
const BEATS: u32 = 3;
/// After so long without a beat a node is dead, unless told otherwise.
pub(super) const PERIOD: Duration = Duration::from_secs(30);
/// What may be told.
const PERIODS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3600)];
/// The longest name, in bytes.
const LONGEST: usize = 255;
/// How long the end of a store waits for its row to go: another one removes it otherwise.
const FAREWELL: Duration = Duration::from_secs(5);

/// The node that a store is.
#[derive(Debug)]
pub(super) struct Node {
    me: Me,
    heart: Mutex<Option<JoinHandle<()>>>,
    /// Held while entering, so that one claim does it for all.
    entering: tokio::sync::Mutex<()>,
}

/// What stands in a node's row.
#[derive(Debug, Clone)]
pub(super) struct Me {
    /// Drawn by chance; leases name it.
    id: i64,
    name: SmolStr,
    process: SmolStr,
    host: SmolStr,
    period: Duration,
}

impl Me {
    /// By what the configuration says; `process` only in tests, which are several in one.
    pub(super) fn of(node: Option<String>, heartbeat: Period, process: Option<String>) -> Result<Self, ConfigError> {
        let process = process.map_or_else(process_id, SmolStr::from);
        let host = SmolStr::from(rustix::system::uname().nodename().to_string_lossy());
        let is_name = |name: &String| !name.is_empty() && name.len() <= LONGEST && !name.contains(char::is_control);
        if node.as_ref().is_some_and(|name| !is_name(name)) {
            return Err(ConfigError::at("node", "this is no name")
                .help("write one of 1 to 255 bytes that no other process has, such as \"worker-1\", or leave it out"));
        }
        let [least, most] = PERIODS;
        if heartbeat.0 < least || heartbeat.0 > most {
            let message = format!("{heartbeat} is no time to be told dead by");
            return Err(ConfigError::at("heartbeat", message).help("from \"1s\" to \"1h\""));
        }
        Ok(Self {
            id: rand::random::<i64>() & i64::MAX,
            name: node.map_or_else(|| name_of_its_own(&host, &process), SmolStr::from),
            process,
            host,
            period: heartbeat.0,
        })
    }
}

/// A name that nobody else has.
fn name_of_its_own(host: &str, process: &str) -> SmolStr {
    format_smolstr!("{host}-{process}")
}

/// How many messages were given back in each queue.
type Back = BTreeMap<String, usize>;

impl Node {
    pub(super) fn new(me: Me) -> Self {
        Self {
            me,
            heart: Mutex::default(),
            entering: tokio::sync::Mutex::default(),
        }
    }

    /// What its leases name.
    pub(super) const fn number(&self) -> i64 {
        self.me.id
    }

    /// Writes the row at the first claim, and has its heart beat from then on.
    pub(super) async fn enter(&self, database: &Arc<Database>) -> Result<(), SqlStoreError> {
        if self.is_beating() {
            return Ok(());
        }
        let _one = self.entering.lock().await;
        if self.is_beating() {
            return Ok(());
        }
        let entered = database.perform(work::Enter(self.me.clone())).await?;
        let back = tell(database, &entered.back);
        if !entered.former.is_empty() {
            let (node, messages) = (self.me.name.as_str(), back);
            tracing::info!(
                node,
                messages,
                "took back what an earlier process of this node's name held"
            );
        }
        let heart = heart::beat(Arc::clone(database), self.me.clone(), entered);
        *self.heart() = Some(tokio::spawn(heart));
        Ok(())
    }

    /// Removes the row.
    pub(super) async fn leave(&self, database: &Database) {
        let Some(heart) = self.heart().take() else { return };
        heart.abort();
        // It may be at work on another thread, and would open what is about to be closed.
        drop(heart.await);
        match timeout(FAREWELL, database.perform(work::Leave(self.me.id))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the node's row stays until somebody finds it dead"),
            Err(_) => tracing::debug!("the node's row stays until somebody finds it dead"),
        }
    }

    /// A runtime that ended took the heart with it.
    fn is_beating(&self) -> bool {
        self.heart().as_ref().is_some_and(|heart| !heart.is_finished())
    }

    fn heart(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.heart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Node {
    /// As if killed: the row stays.
    fn drop(&mut self) {
        if let Some(heart) = self.heart().take() {
            heart.abort();
        }
    }
}

/// Wakes whoever waits for what was given back, and says how many messages there were.
fn tell(database: &Database, back: &Back) -> usize {
    back.keys().for_each(|queue| database.announce(queue));
    back.values().sum()
}
