//! The tasks that run or wait, wherever that is: in queues, in the hall, in the window, at the workers.

use std::{borrow::Cow, collections::HashSet, time::Duration};

use dispatch_core::tasks::{Filter, Listed, Space, json};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    control::object,
    hall::{Task, Where},
    service::Service,
};

/// How long tasks on their way into the store are waited for.
const PATIENCE: Duration = Duration::from_millis(500);

fn picks(filter: &Filter<'_>, task: &Task) -> bool {
    filter.picks(task.name(), task.uuid(), || task.text().into())
}

/// What the pool of workers answers: its tasks by worker, and those that wait for one; both as JSON text.
#[derive(Default)]
struct AtWork {
    workers: Vec<(String, String)>,
    queued: Vec<String>,
}

/// What a worker is called here: as its pool calls it, of the first that answers; those of the others have their pool's number
/// as well, or two workers would have one name. All answer each command in one order.
pub(super) fn worker_of(place: usize, name: String) -> String {
    match place {
        0 => name,
        _ => format!("{name}-{}", place + 1),
    }
}

async fn at_work(service: &Service, command: &str, data: &str) -> Option<AtWork> {
    let answers = service.commands.ask(command, data).await;
    if answers.is_empty() {
        return None;
    }
    let mut all = AtWork::default();
    for (place, answer) in answers.iter().enumerate() {
        for (key, raw) in json::members(answer).ok().flatten().unwrap_or_default() {
            if key == "queued" {
                all.queued.extend(items(raw));
            } else {
                all.workers.push((worker_of(place, key.into_owned()), raw.to_owned()));
            }
        }
    }
    Some(all)
}

/// The members of an object whose keys do not matter.
fn items(object: &str) -> impl Iterator<Item = String> {
    let members = json::members(object).ok().flatten().unwrap_or_default();
    let items: Vec<_> = members.into_iter().map(|(_, raw)| raw.to_owned()).collect();
    items.into_iter()
}

/// What those answer who know of tasks that no worker has.
async fn listed(service: &Service, command: &str, data: &str) -> Listed {
    let mut listed = Listed::default();
    for answer in service.commands.ask(command, data).await {
        listed.add(&answer);
    }
    listed
}

pub(super) async fn running(service: &Service, data: &str) -> String {
    let filter = Filter::read(data);
    // As tasks go, from one place to the next: none is missed on its way.
    let waiting = listed(service, "waiting", data).await;
    let mut shows = Shows::default();
    let hall = service.hall.list(|task| picks(&filter, task), |text| shows.take(text));
    let held = listed(service, "held", data).await;
    let at_work = at_work(service, "running", data).await;
    shown(shows.told_in(waiting), hall, held, at_work)
}

pub(super) async fn cancel(service: &Service, data: &str) -> String {
    let filter = Filter::read(data);
    // What is on its way into the store is found there.
    let _late = timeout(PATIENCE, service.hall.all_arrived()).await;
    // Those that wait first: none of them may start in the place of one that is cancelled.
    let waiting = listed(service, "withdraw", data).await;
    let mut hall = service.hall.cancel(|task| picks(&filter, task));
    let mut shows = Shows::default();
    hall.retain(|(_, text)| shows.take(text));
    let mut held = listed(service, "drop_held", data).await;
    let at_work = at_work(service, "cancel", data).await;
    if let Some(at_work) = &at_work {
        // What the pool does not know waits on its way there, as for its next attempt.
        let known: Vec<String> = at_work.texts().filter_map(|text| uuid(text)).collect();
        let data = format!(r#"{{"filter": {data}, "but": {}}}"#, json!(known));
        held.out = listed(service, "drop_out", &data).await.out;
    }
    shown(
        shows.told_in(waiting),
        hall,
        held,
        at_work.or_else(|| Some(AtWork::default())),
    )
}

/// What of the hall's waiting tasks an answer shows.
#[derive(Default)]
struct Shows {
    space: Space,
    left_out: usize,
}

impl Shows {
    fn take(&mut self, text: &str) -> bool {
        let fits = self.space.take(text);
        self.left_out += usize::from(!fits);
        fits
    }

    /// What is left out is said in the answer.
    fn told_in(self, mut listed: Listed) -> Listed {
        if self.left_out > 0 {
            let shown = self.space.tasks();
            let all = shown + self.left_out;
            let short = format!("only {shown} of the {all} tasks that wait at this service are shown");
            let before = listed.error.take().map_or_else(String::new, |error| error + "; ");
            listed.error = Some(before + &short);
        }
        listed
    }
}

impl AtWork {
    fn texts(&self) -> impl Iterator<Item = &String> {
        self.workers.iter().map(|(_, text)| text).chain(&self.queued)
    }
}

/// The id of a task that is shown.
fn uuid(text: &str) -> Option<String> {
    let members = json::members(text).ok().flatten()?;
    let (_, raw) = members.iter().rev().find(|(key, _)| key == "uuid")?;
    json::string(raw).map(Cow::into_owned)
}

/// One object of all tasks: `worker-<id>`, `blocked-<i>`, `queued-<i>`, `delayed-<i>`.
fn shown(waiting: Listed, hall: Vec<(Where, String)>, held: Listed, at_work: Option<AtWork>) -> String {
    let known = at_work.is_some();
    let AtWork { workers, queued } = at_work.unwrap_or_default();
    let error = waiting.error.clone();
    let (out, in_hall): (Vec<_>, Vec<_>) = hall.into_iter().partition(|(place, _)| *place == Where::Out);
    // Without a pool nobody else knows of them.
    let mut out: Vec<String> = out.into_iter().filter(|_| !known).map(|(_, text)| text).collect();
    if !known {
        let in_both: HashSet<_> = out.iter().filter_map(|text| uuid(text)).collect();
        let others = held
            .out
            .iter()
            .filter(|text| uuid(text).is_none_or(|uuid| !in_both.contains(&uuid)));
        out.extend(others.cloned());
    }
    // A task that goes on while it is asked for is found in two places, and is in the later one.
    let mut places = Places::default();
    let at_work: Vec<_> = workers.iter().map(|(_, text)| text).chain(&queued).collect();
    places.note(at_work);
    for text in queued {
        places.add(Where::Queued, text);
    }
    for found in [places_of(held, known), in_hall, places_of(waiting, false)] {
        places.add_new(found);
    }
    let mut members = workers;
    members.extend(places.members);
    let out = out.into_iter().enumerate();
    members.extend(out.map(|(number, text)| (format!("worker-{number}"), text)));
    members.extend(error.map(|error| ("error".to_owned(), Value::from(error).to_string())));
    object(members)
}

/// `out`: whether those that nobody at work has rest between two attempts.
fn places_of(listed: Listed, out: bool) -> Vec<(Where, String)> {
    let of = |place, texts: Vec<String>| texts.into_iter().map(move |text| (place, text));
    of(Where::Queued, listed.queued)
        .chain(of(Where::Blocked, listed.blocked))
        .chain(of(Where::Delayed, listed.delayed))
        .chain(of(Where::Delayed, if out { listed.out } else { Vec::new() }))
        .collect()
}

/// Tasks that wait, each numbered among those that wait for the same.
#[derive(Default)]
struct Places {
    members: Vec<(String, String)>,
    counts: [usize; 3],
    seen: HashSet<String>,
}

impl Places {
    fn note<'t>(&mut self, texts: impl IntoIterator<Item = &'t String>) {
        self.seen.extend(texts.into_iter().filter_map(|text| uuid(text)));
    }

    fn add(&mut self, place: Where, text: String) {
        let (kind, name) = match place {
            Where::Blocked => (0, "blocked"),
            Where::Queued | Where::Out => (1, "queued"),
            Where::Delayed => (2, "delayed"),
        };
        self.members.push((format!("{name}-{}", self.counts[kind]), text));
        self.counts[kind] += 1;
    }

    /// Adds those that were not found before. Several may have one id: that is for who publishes to say.
    fn add_new(&mut self, mut found: Vec<(Where, String)>) {
        found.retain(|(_, text)| uuid(text).is_none_or(|uuid| !self.seen.contains(&uuid)));
        self.note(found.iter().map(|(_, text)| text));
        for (place, text) in found {
            self.add(place, text);
        }
    }
}
