//! What handlers are at, and the commands that ask for it, in the shapes that pools of worker processes have.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dispatch_core::{
    Commands, Message,
    tasks::{Filter, json, with_members},
};
use serde_json::{Map, Value, json};
use smol_str::SmolStr;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Places for tasks at work, each a worker to those who ask: it does one task at a time, and there are as many as were
/// ever needed at once.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    places: Vec<Place>,
    free: BTreeSet<usize>,
    finished: u64,
    cancelled: u64,
}

#[derive(Debug)]
struct Place {
    made: Instant,
    finished: u64,
    at_work: Option<AtWork>,
}

#[derive(Debug)]
struct AtWork {
    task: SmolStr,
    message: Message,
    cancel: CancellationToken,
}

impl AtWork {
    /// The message's own uuid, and its text; one without has its id as such.
    fn shown(&self) -> (Cow<'_, str>, Cow<'_, str>) {
        let text = String::from_utf8_lossy(&self.message.payload);
        let mut uuid = None;
        let note = |key: Cow<'_, str>, raw: &str| {
            if key == "uuid" {
                uuid = json::string(raw).map(|uuid| uuid.into_owned().into());
            }
        };
        let _is_object = json::each_member(&text, note);
        match uuid.filter(|uuid: &Cow<'_, str>| !uuid.is_empty()) {
            Some(uuid) => (uuid, text),
            None => {
                let id = self.message.id().as_str();
                (id.into(), with_members(&text, &[("uuid", id)]).into())
            }
        }
    }
}

impl Places {
    fn state(&self) -> MutexGuard<'_, State> {
        // No change is left half done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a task is at work until the answer is dropped.
    pub(super) fn begin(self: &Arc<Self>, task: SmolStr, message: &Message) -> Held {
        let cancel = CancellationToken::new();
        let at_work = AtWork {
            task,
            message: message.clone(),
            cancel: cancel.clone(),
        };
        let mut state = self.state();
        let at = state.free.pop_first().unwrap_or_else(|| {
            let made = Instant::now();
            state.places.push(Place {
                made,
                finished: 0,
                at_work: None,
            });
            state.places.len() - 1
        });
        state.places[at].at_work = Some(at_work);
        drop(state);
        Held {
            places: Arc::clone(self),
            at,
            cancel,
            finished: false,
        }
    }

    /// Answers commands as long as it lives.
    pub(super) fn answer(self: &Arc<Self>, commands: &Commands) {
        let known: [(&'static str, fn(&Self, &str) -> String); 4] = [
            ("running", Self::running),
            ("cancel", Self::cancel),
            ("workers", Self::workers),
            ("pool", Self::pool),
        ];
        for (name, answer) in known {
            let weak = Arc::downgrade(self);
            commands.on(name, move |data| {
                let places = weak.upgrade();
                let answer = places.map_or_else(|| "{}".to_owned(), |places| answer(&places, &data));
                async move { answer }
            });
        }
    }

    fn running(&self, data: &str) -> String {
        self.picked(data, |_| {})
    }

    /// Each is told, and its outcome follows.
    fn cancel(&self, data: &str) -> String {
        self.picked(data, |at_work| at_work.cancel.cancel())
    }

    fn picked(&self, data: &str, each: impl Fn(&AtWork)) -> String {
        let filter = Filter::read(data);
        let mut text = "{".to_owned();
        for (number, place) in self.state().places.iter().enumerate() {
            let Some(at_work) = &place.at_work else { continue };
            let (uuid, shown) = at_work.shown();
            if filter.picks(&at_work.task, &uuid, || Cow::Borrowed(&shown)) {
                each(at_work);
                let comma = if text.len() > 1 { ", " } else { "" };
                let _infallible = write!(text, "{comma}\"worker-{number}\": {shown}");
            }
        }
        text + "}"
    }

    fn workers(&self, _: &str) -> String {
        let state = self.state();
        let record = |(number, place): (usize, &Place)| {
            let at_work = place.at_work.as_ref();
            let record = json!({
                "worker_id": number,
                "pid": std::process::id(),
                "status": "ready",
                "finished_count": place.finished,
                "current_task": at_work.map(|at_work| at_work.task.as_str()),
                "current_task_uuid": at_work.map(|at_work| at_work.shown().0),
                "active_cancel": at_work.is_some_and(|at_work| at_work.cancel.is_cancelled()),
                "age": place.made.elapsed().as_secs_f64(),
            });
            (format!("worker-{number}"), record)
        };
        let all: Map<_, _> = state.places.iter().enumerate().map(record).collect();
        Value::Object(all).to_string()
    }

    fn pool(&self, _: &str) -> String {
        let state = self.state();
        let places = state.places.len();
        json!({
            "next_worker_id": places,
            "finished_count": state.finished,
            "canceled_count": state.cancelled,
            "retirement_count": 0,
            "worker_ct": places,
            "running_ct": places,
            "active_task_ct": places - state.free.len(),
            // No worker is too many, so none is counted towards the end of any.
            "usage": { "count": 0, "top5": {}, "near_worker_ct": {} },
        })
        .to_string()
    }
}

/// A task that is at work.
#[derive(Debug)]
pub(super) struct Held {
    places: Arc<Places>,
    at: usize,
    cancel: CancellationToken,
    /// Whether the handler has answered; if not, it was ended.
    finished: bool,
}

impl Held {
    /// Waits until somebody cancels it.
    pub(super) async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// The handler has answered.
    pub(super) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.places.state();
        let place = &mut state.places[self.at];
        place.at_work = None;
        place.finished += u64::from(self.finished);
        state.finished += u64::from(self.finished);
        state.cancelled += u64::from(!self.finished);
        state.free.insert(self.at);
    }
}
