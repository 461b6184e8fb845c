//! The tasks at work: one ticker each, begun and ended as the file changes.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use dispatch_core::{Message, Store};
use jiff::Timestamp;
use smol_str::{SmolStr, format_smolstr};
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};

use super::{
    Misfire,
    file::{self, Task},
};
use crate::slots::{Clock, Overlap, Ticker};

/// What the daemon of Elastic Beanstalk puts into the message.
const PAYLOAD: &str = "elasticbeanstalk scheduled job";

/// What is needed to run the tasks of a file.
pub(super) struct Tasks {
    pub(super) path: PathBuf,
    /// What the file said last, if it was there.
    pub(super) text: Option<String>,
    pub(super) tasks: BTreeMap<String, Task>,
    pub(super) timezone: String,
    pub(super) misfire: Misfire,
    pub(super) reload: Duration,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    /// `<pipeline>:<source>`.
    pub(super) schedule: SmolStr,
    pub(super) queue: SmolStr,
}

/// A task at work.
struct Running {
    task: Task,
    stop: oneshot::Sender<()>,
    ticking: JoinHandle<()>,
}

impl Running {
    /// Ends it; a slot that is being fired is finished first.
    async fn end(self) {
        drop(self.stop);
        // It has been told, and ends by itself even where nobody waits.
        drop(self.ticking.await);
    }
}

/// The text of the file; none where there is none.
pub(super) fn text_of(path: &std::path::Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Tasks {
    /// Runs the tasks, and looks at the file again and again, until `stop` is dropped.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut running: HashMap<String, Running> = HashMap::new();
        let first = std::mem::take(&mut self.tasks);
        self.follow(&mut running, first, None).await;
        loop {
            tokio::select! {
                _ = &mut stop => break,
                () = sleep(self.reload) => {}
            }
            if let Some(tasks) = self.look().await {
                let now = (self.clock)();
                self.follow(&mut running, tasks, Some(now)).await;
            }
        }
        futures::future::join_all(running.into_values().map(Running::end)).await;
    }

    /// What the file says now, if that is something else and right.
    async fn look(&mut self) -> Option<BTreeMap<String, Task>> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || text_of(&path)).await.ok()?;
        let text = match read {
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(file = %self.path.display(), %error, "cannot look at the periodic tasks; they go on as they are");
                return None;
            }
        };
        if text == self.text {
            return None;
        }
        let tasks = file::read(text.as_deref().unwrap_or_default(), &self.timezone);
        self.text = text;
        match tasks {
            Ok(tasks) => Some(tasks),
            Err(mistakes) => {
                tracing::error!(file = %self.path.display(), %mistakes, "the periodic tasks have mistakes; those that ran go on");
                None
            }
        }
    }

    /// Ends what is there no more, begins what is new, and leaves the rest alone.
    async fn follow(
        &self,
        running: &mut HashMap<String, Running>,
        mut tasks: BTreeMap<String, Task>,
        since: Option<SystemTime>,
    ) {
        let same = |one: &Task, other: &Task| one.times == other.times && one.path == other.path;
        let gone: Vec<_> = running
            .iter()
            .filter(|(name, old)| !tasks.get(*name).is_some_and(|new| same(&old.task, new)))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Some(old) = running.remove(&name) {
                old.end().await;
                tracing::info!(task = name, "periodic task ended");
            }
        }
        tasks.retain(|name, _| !running.contains_key(name));
        for (name, task) in tasks {
            let (stop, stopped) = oneshot::channel();
            let ticking = tokio::spawn(self.ticker(&name, &task, since).run(stopped));
            tracing::info!(
                task = name,
                schedule = task.times.0,
                timezone = task.times.1,
                path = task.path,
                "periodic task"
            );
            running.insert(name, Running { task, stop, ticking });
        }
    }

    fn ticker(&self, name: &str, task: &Task, since: Option<SystemTime>) -> Ticker {
        let (name, path) = (SmolStr::from(name), SmolStr::from(task.path.as_str()));
        Ticker {
            plan: task.plan.clone(),
            schedule: format_smolstr!("{}:{name}", self.schedule),
            queue: self.queue.clone(),
            store: Arc::clone(&self.store),
            clock: Arc::clone(&self.clock),
            misfire: self.misfire,
            // The queue is that of all tasks.
            overlap: Overlap::Allow,
            jitter: Duration::ZERO,
            since,
            make: Box::new(move |id, slot| {
                Message::with_id_at(id, PAYLOAD, slot)
                    .header("beanstalk.sqsd.path", path.as_str())
                    .header("beanstalk.sqsd.task_name", name.as_str())
                    .header("beanstalk.sqsd.scheduled_time", scheduled_time(slot))
            }),
            heed: None,
            fired: Arc::default(),
        }
    }
}

/// `2026-11-22 07:00:00 UTC`.
fn scheduled_time(slot: SystemTime) -> String {
    match Timestamp::try_from(slot) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => format!("{slot:?}"),
    }
}
