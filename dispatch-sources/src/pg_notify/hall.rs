//! Where tasks wait: for their delay, for their like to be done, for their turn.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use dispatch_core::{
    Delivery, Disposition, Message, SettleError, Settlement, Settler, Store, Token,
    store::Item,
    tasks::{OnDuplicate, TaskMessage, json},
    telemetry::{Counter, Gauge, Meter},
};
use tokio::{sync::Notify, time::Instant};

/// What becomes of a task that finds the hall full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// It goes into the store, and comes back from there.
    #[default]
    Spill,
    /// It is dropped, counted and logged.
    Shed,
}

/// Every task that was received and is not done, each in one place.
pub(super) struct Hall {
    state: Mutex<State>,
    changed: Notify,
    settings: Settings,
    discarded: Counter,
    shed: Counter,
    spilled: Counter,
    waiting: Gauge,
}

pub(super) struct Settings {
    /// At most so many tasks wait here.
    pub(super) most: usize,
    pub(super) overflow: Overflow,
    pub(super) store: Arc<dyn Store>,
    /// The queue in the store that the pipeline reads too.
    pub(super) queue: String,
}

#[derive(Default)]
struct State {
    tasks: slab::Slab<Live>,
    ready: VecDeque<usize>,
    delayed: BTreeSet<(Instant, usize)>,
    blocked: usize,
    /// Who is whose like, once a task has come that asks for it; before that nobody pays for it.
    groups: Option<HashMap<Like, Group>>,
    /// Counts tasks in, and what is handed out.
    serial: u64,
    closed: bool,
}

/// The same for every task of the same name and arguments.
type Like = Arc<[u8]>;

/// Tasks that are each other's like.
#[derive(Default)]
struct Group {
    /// How many run, or are about to.
    running: usize,
    blocked: VecDeque<usize>,
}

struct Live {
    task: TaskMessage,
    place: Place,
    /// When it came, among all.
    came: u64,
    /// Which hand-over holds it.
    fence: u64,
    /// Its group, while there are groups.
    like: Option<Like>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Delayed(Instant),
    Blocked,
    Ready,
    Running,
}

/// Where a listed task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Where {
    Blocked,
    Queued,
    Delayed,
    /// With a worker, or on its way to one.
    Out,
}

impl Hall {
    pub(super) fn new(settings: Settings, meter: &Meter) -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            settings,
            discarded: meter.counter(
                "dispatch_tasks_discarded_total",
                "tasks dropped because their like ran or waited",
            ),
            shed: meter.counter("dispatch_tasks_shed_total", "tasks dropped because too many waited"),
            spilled: meter.counter(
                "dispatch_tasks_spilled_total",
                "tasks put into the store because too many waited",
            ),
            waiting: meter.gauge(
                "dispatch_tasks_waiting",
                "tasks that wait for their delay, their like or their turn",
            ),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No change is left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes tasks in; those that find no room are spilled or shed.
    pub(super) async fn admit(&self, tasks: Vec<TaskMessage>) {
        let rest = {
            let mut state = self.state();
            let room = self.settings.most.saturating_sub(state.waiting());
            let mut tasks = tasks.into_iter();
            for task in tasks.by_ref().take(if state.closed { 0 } else { room }) {
                if !state.admit(task) {
                    self.discarded.add(1);
                }
            }
            self.gauge(&state);
            tasks.collect::<Vec<_>>()
        };
        self.changed.notify_one();
        if !rest.is_empty() {
            self.put_away(rest, "too many wait").await;
        }
    }

    fn gauge(&self, state: &State) {
        self.waiting.set(i64::try_from(state.waiting()).unwrap_or(i64::MAX));
    }

    /// Into the store, or away.
    async fn put_away(&self, tasks: Vec<TaskMessage>, why: &'static str) {
        let count = tasks.len();
        if self.settings.overflow == Overflow::Shed {
            for task in &tasks {
                tracing::error!(task = %task.task, uuid = task.uuid.as_deref(), why, "task lost: overflow is shed");
            }
            return self.shed.add(count as u64);
        }
        let later = |task: &TaskMessage| {
            let mut item = Item::of(&message(task));
            item.run_at = task.delay.map(|delay| SystemTime::now() + delay);
            item
        };
        let items = tasks.iter().map(later).collect();
        match self.settings.store.queue().enqueue(&self.settings.queue, items).await {
            Ok(_) => self.spilled.add(count as u64),
            Err(error) => {
                self.shed.add(count as u64);
                tracing::error!(
                    tasks = count,
                    error = error.report(),
                    "tasks lost: the store did not take them"
                );
            }
        }
    }

    /// Waits for tasks whose turn it is, and hands out at most `max`.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub(super) async fn next(self: &Arc<Self>, max: usize) -> Vec<Delivery> {
        loop {
            let changed = self.changed.notified();
            let due = {
                let mut state = self.state();
                self.discarded.add(state.undelay(Instant::now()));
                let taken = state.take(max);
                if !taken.is_empty() {
                    self.gauge(&state);
                    let more = !state.ready.is_empty();
                    drop(state);
                    if more {
                        self.changed.notify_one();
                    }
                    return self.hand_out(taken);
                }
                state.delayed.first().map(|(at, _)| *at)
            };
            tokio::select! {
                () = changed => {}
                () = async { match due { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {}
            }
        }
    }

    pub(super) fn settler(self: &Arc<Self>) -> Arc<dyn Settler> {
        Arc::new(Settling(Arc::clone(self)))
    }

    fn hand_out(self: &Arc<Self>, taken: Vec<(usize, u64, Message)>) -> Vec<Delivery> {
        let settler = self.settler();
        let deliver = |(at, fence, message)| Delivery::new(message, Token::new(at as u64, fence), Arc::clone(&settler));
        taken.into_iter().map(deliver).collect()
    }

    /// Every task that `wanted` picks, with the place it is in, by places and then as they came.
    pub(super) fn list(&self, wanted: impl Fn(&TaskMessage) -> bool) -> Vec<(Where, String)> {
        let state = self.state();
        let mut found: Vec<_> = state.tasks.iter().filter(|(_, live)| wanted(&live.task)).collect();
        found.sort_by_key(|(_, live)| (live.place.shown(), live.came));
        found
            .into_iter()
            .map(|(_, live)| (live.place.shown(), live.task.text.clone()))
            .collect()
    }

    /// Takes out every waiting task that `wanted` picks; what has been handed out is its worker's to cancel.
    pub(super) fn cancel(&self, wanted: impl Fn(&TaskMessage) -> bool) -> Vec<(Where, String)> {
        let mut state = self.state();
        let mut chosen: Vec<_> = state
            .tasks
            .iter()
            .filter(|(_, live)| live.place != Place::Running && wanted(&live.task))
            .map(|(at, live)| (live.place.shown(), live.came, at))
            .collect();
        chosen.sort_unstable();
        let all: HashSet<usize> = chosen.iter().map(|(_, _, at)| *at).collect();
        state.ready.retain(|at| !all.contains(at));
        let cancelled = chosen
            .into_iter()
            .map(|(place, _, at)| (place, state.remove(at).task.text))
            .collect();
        self.gauge(&state);
        drop(state);
        self.changed.notify_one();
        cancelled
    }

    /// How many tasks wait for nothing but their turn.
    pub(super) fn queued(&self) -> usize {
        self.state().ready.len()
    }

    /// Hands out nothing more; what waits goes into the store, or is logged as lost.
    pub(super) async fn close(&self) {
        let waiting: Vec<_> = {
            let mut state = self.state();
            state.closed = true;
            (state.groups, state.blocked) = (None, 0);
            state.ready.clear();
            state.delayed.clear();
            let mut waiting: Vec<_> = state
                .tasks
                .iter()
                .filter(|(_, live)| live.place != Place::Running)
                .map(|(at, live)| (live.came, at))
                .collect();
            waiting.sort_unstable();
            let now = Instant::now();
            waiting
                .into_iter()
                .map(|(_, at)| state.tasks.remove(at).remaining(now))
                .collect()
        };
        self.waiting.set(0);
        if !waiting.is_empty() {
            self.put_away(waiting, "the service ends").await;
        }
    }
}

impl Live {
    /// The task as it is to go on elsewhere: with what is left of its delay.
    fn remaining(mut self, now: Instant) -> TaskMessage {
        self.task.delay = match self.place {
            Place::Delayed(at) => Some(at.saturating_duration_since(now)),
            Place::Blocked | Place::Ready | Place::Running => None,
        };
        self.task
    }
}

/// What makes a task the like of others: its name and its arguments, however they are written. An absent argument list is
/// not an empty one.
fn like(task: &TaskMessage) -> Like {
    let members = json::members(&task.text).ok().flatten().unwrap_or_default();
    let mut like = task.task.as_bytes().to_vec();
    for name in ["args", "kwargs"] {
        let raw = members.iter().rev().find(|(key, _)| key == name).map(|(_, raw)| *raw);
        // No canonical form begins so.
        like.push(0);
        if let Some(Ok(canonical)) = raw.map(json::canonical) {
            like.extend(canonical);
        }
    }
    like.into()
}

impl Place {
    const fn shown(self) -> Where {
        match self {
            Self::Delayed(_) => Where::Delayed,
            Self::Blocked => Where::Blocked,
            Self::Ready => Where::Queued,
            Self::Running => Where::Out,
        }
    }
}

/// As the rest of the pipeline knows a task.
fn message(task: &TaskMessage) -> Message {
    let message = match &task.uuid {
        Some(uuid) => Message::with_id(uuid.clone(), task.text.clone()),
        None => Message::new(task.text.clone()),
    };
    message.meta("task", task.task.as_str())
}

impl State {
    fn waiting(&self) -> usize {
        self.ready.len() + self.blocked + self.delayed.len()
    }

    /// Puts a task where it belongs; false: it is dropped, since its like runs or waits.
    fn admit(&mut self, task: TaskMessage) -> bool {
        let Some(delay) = task.delay else {
            return self.admit_now(task);
        };
        let due = Instant::now() + delay;
        let at = self.insert(task, Place::Delayed(due), None);
        self.delayed.insert((due, at));
        true
    }

    fn insert(&mut self, task: TaskMessage, place: Place, like: Option<Like>) -> usize {
        self.serial += 1;
        self.tasks.insert(Live {
            task,
            place,
            came: self.serial,
            fence: 0,
            like,
        })
    }

    /// The policy is the incoming task's own. Who runs, or is about to, counts as running.
    fn admit_now(&mut self, task: TaskMessage) -> bool {
        if task.on_duplicate == OnDuplicate::Parallel && self.groups.is_none() {
            let at = self.insert(task, Place::Ready, None);
            self.ready.push_back(at);
            return true;
        }
        let like = like(&task);
        let group = self.groups().entry(Arc::clone(&like)).or_default();
        let (running, blocked) = (group.running > 0, !group.blocked.is_empty());
        let wait = match task.on_duplicate {
            OnDuplicate::Parallel => false,
            OnDuplicate::Discard if running || blocked => return false,
            OnDuplicate::Discard => false,
            OnDuplicate::QueueOne if blocked => return false,
            OnDuplicate::Serial | OnDuplicate::QueueOne => running,
        };
        let place = if wait { Place::Blocked } else { Place::Ready };
        let at = self.insert(task, place, Some(Arc::clone(&like)));
        let group = self.groups().entry(like).or_default();
        if wait {
            group.blocked.push_back(at);
            self.blocked += 1;
        } else {
            group.running += 1;
            self.ready.push_back(at);
        }
        true
    }

    /// The groups; made of what is here when they are first asked for.
    fn groups(&mut self) -> &mut HashMap<Like, Group> {
        let tasks = &mut self.tasks;
        self.groups.get_or_insert_with(|| {
            let mut groups: HashMap<Like, Group> = HashMap::new();
            for (_, live) in tasks.iter_mut() {
                if let Place::Ready | Place::Running = live.place {
                    let like = live.like.insert(like(&live.task));
                    groups.entry(Arc::clone(like)).or_default().running += 1;
                }
            }
            groups
        })
    }

    /// Takes a task out of everything but `ready`, and lets its next like go.
    fn remove(&mut self, at: usize) -> Live {
        let live = self.tasks.remove(at);
        if let Place::Delayed(due) = live.place {
            self.delayed.remove(&(due, at));
        }
        if let (Some(groups), Some(like)) = (&mut self.groups, &live.like)
            && let Some(group) = groups.get_mut(like)
        {
            match live.place {
                Place::Blocked => {
                    group.blocked.retain(|other| *other != at);
                    self.blocked -= 1;
                }
                Place::Ready | Place::Running => group.running -= 1,
                Place::Delayed(_) => {}
            }
            if group.running == 0 {
                match group.blocked.pop_front() {
                    Some(next) => {
                        group.running = 1;
                        self.blocked -= 1;
                        self.tasks[next].place = Place::Ready;
                        self.ready.push_back(next);
                    }
                    None => {
                        groups.remove(like);
                    }
                }
            }
        }
        live
    }

    /// Admits every delayed task that is due; says how many were dropped.
    fn undelay(&mut self, now: Instant) -> u64 {
        let mut dropped = 0;
        while let Some((due, at)) = self.delayed.first().copied().filter(|(due, _)| *due <= now) {
            self.delayed.remove(&(due, at));
            let live = self.tasks.remove(at);
            dropped += u64::from(!self.admit_now(live.task));
        }
        dropped
    }

    fn take(&mut self, max: usize) -> Vec<(usize, u64, Message)> {
        if self.closed {
            return Vec::new();
        }
        let count = max.min(self.ready.len());
        let mut taken = Vec::with_capacity(count);
        for at in self.ready.drain(..count) {
            self.serial += 1;
            let live = &mut self.tasks[at];
            (live.place, live.fence) = (Place::Running, self.serial);
            taken.push((at, self.serial, message(&live.task)));
        }
        taken
    }
}

/// Takes outcomes back into the hall.
struct Settling(Arc<Hall>);

#[async_trait]
impl Settler for Settling {
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
        let hall = &self.0;
        let (mut results, mut homeless) = (Vec::with_capacity(batch.len()), Vec::new());
        {
            let mut state = hall.state();
            let mut back = Vec::new();
            for Settlement { token, disposition } in batch {
                let at = usize::try_from(token.number).unwrap_or(usize::MAX);
                let held = state
                    .tasks
                    .get(at)
                    .is_some_and(|live| live.fence == token.fence && live.place == Place::Running);
                if !held {
                    results.push(Err(SettleError::Stale));
                    continue;
                }
                results.push(Ok(()));
                match disposition {
                    Disposition::Ack(_) | Disposition::DeadLetter(_) | Disposition::Parked => {
                        state.remove(at);
                    }
                    Disposition::Release if !state.closed => back.push(at),
                    Disposition::Nack { delay, .. } if !state.closed => {
                        let mut task = state.remove(at).task;
                        task.delay = Some(delay.unwrap_or(Duration::from_secs(1)));
                        state.admit(task);
                    }
                    Disposition::Nack { delay, .. } => homeless.push(TaskMessage {
                        delay,
                        ..state.remove(at).task
                    }),
                    Disposition::Release => homeless.push(state.remove(at).remaining(Instant::now())),
                }
            }
            // First again, in their order.
            for at in back.into_iter().rev() {
                state.tasks[at].place = Place::Ready;
                state.ready.push_front(at);
            }
            hall.gauge(&state);
        }
        hall.changed.notify_one();
        if !homeless.is_empty() {
            hall.put_away(homeless, "the service ends").await;
        }
        results
    }
}

#[cfg(test)]
mod tests {
    use dispatch_core::{
        MemoryStore,
        tasks::{BarePayload, Incoming},
    };

    use super::*;

    fn hall_with(most: usize, overflow: Overflow) -> (Arc<Hall>, Arc<MemoryStore>) {
        let store = Arc::new(MemoryStore::new());
        let settings = Settings {
            most,
            overflow,
            store: store.clone(),
            queue: "parked".to_owned(),
        };
        (Arc::new(Hall::new(settings, &Meter::default())), store)
    }

    fn hall() -> Arc<Hall> {
        hall_with(1_000, Overflow::Spill).0
    }

    fn task(text: &str) -> TaskMessage {
        match Incoming::read(text, BarePayload::Task) {
            Incoming::Task(task) => task,
            other => panic!("{other:?}"),
        }
    }

    fn tasks(policy: &str, count: usize) -> Vec<TaskMessage> {
        (0..count)
            .map(|n| {
                task(&format!(
                    r#"{{"task": "a.b", "args": [1], "uuid": "{n}", "on_duplicate": "{policy}"}}"#
                ))
            })
            .collect()
    }

    /// How many there are in each place.
    fn places(hall: &Hall) -> [usize; 4] {
        let all = hall.list(|_| true);
        [Where::Blocked, Where::Queued, Where::Delayed, Where::Out]
            .map(|place| all.iter().filter(|(at, _)| *at == place).count())
    }

    async fn done(deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            delivery
                .settle(Disposition::Ack(dispatch_core::Reply::default()))
                .await
                .unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ten_of_a_kind_run_wait_or_are_dropped_by_their_policy() {
        for (policy, blocked, queued, discarded) in [
            ("parallel", 0, 10, 0),
            ("serial", 9, 1, 0),
            ("queue_one", 1, 1, 8),
            ("discard", 0, 1, 9),
        ] {
            let hall = hall();

            hall.admit(tasks(policy, 10)).await;

            assert_eq!(places(&hall), [blocked, queued, 0, 0], "{policy}");
            assert_eq!(hall.discarded.get(), discarded, "{policy}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn serial_ones_run_one_after_the_other_in_order() {
        let hall = hall();
        hall.admit(tasks("serial", 3)).await;

        for number in ["0", "1", "2"] {
            let one = hall.next(10).await;
            assert_eq!((one.len(), one[0].message.id().as_str()), (1, number));
            done(one).await;
        }

        assert_eq!(places(&hall), [0; 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn likeness_is_of_task_and_arguments_and_the_policy_is_the_newcomers() {
        let hall = hall();
        let add = async |text: &str| hall.admit(vec![task(text)]).await;

        add(r#"{"task": "a.b", "args": [1, {"x": 1}]}"#).await;
        add(r#"{"task": "a.b", "args": [1.0, {"x": 1}], "uuid": "other", "timeout": 5, "on_duplicate": "discard"}"#)
            .await;
        assert_eq!(
            (places(&hall)[1], hall.discarded.get()),
            (1, 1),
            "a parallel one counts as running"
        );
        add(r#"{"task": "a.b", "args": [2], "on_duplicate": "discard"}"#).await;
        add(r#"{"task": "a.c", "args": [1, {"x": 1}], "on_duplicate": "discard"}"#).await;
        add(r#"{"task": "a.b", "on_duplicate": "discard"}"#).await;
        add(r#"{"task": "a.b", "args": [], "on_duplicate": "discard"}"#).await;
        add(r#"{"task": "a.b", "args": [1, {"x": 1}]}"#).await;

        assert_eq!(
            (places(&hall)[1], hall.discarded.get()),
            (6, 1),
            "absent is not empty; parallel runs beside its like"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_task_waits_and_is_judged_when_it_is_due() {
        let hall = hall();
        hall.admit(vec![
            task(r#"{"task": "a.b", "delay": 10, "uuid": "late", "on_duplicate": "discard"}"#),
            task(r#"{"task": "a.b", "delay": 5, "uuid": "early"}"#),
        ])
        .await;
        assert_eq!(places(&hall), [0, 0, 2, 0]);
        let began = Instant::now();

        let early = hall.next(9).await;
        assert_eq!(
            (early[0].message.id().as_str(), began.elapsed().as_secs()),
            ("early", 5)
        );
        let nothing = tokio::time::timeout(Duration::from_secs(60), hall.next(9)).await;

        assert!(nothing.is_err(), "its like runs, so it was dropped when it was due");
        assert_eq!(hall.discarded.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_room_is_spilled_or_shed() {
        let (hall, store) = hall_with(3, Overflow::Spill);
        hall.admit(tasks("parallel", 5)).await;
        assert_eq!(
            (places(&hall)[1], store.queue().depth("parked").await.unwrap().ready),
            (3, 2)
        );

        let (hall, store) = hall_with(3, Overflow::Shed);
        hall.admit(tasks("parallel", 5)).await;
        assert_eq!(
            (hall.shed.get(), store.queue().depth("parked").await.unwrap().ready),
            (2, 0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_keeps_what_waits_and_what_comes_back() {
        let (hall, store) = hall_with(100, Overflow::Spill);
        hall.admit(tasks("parallel", 2)).await;
        hall.admit(vec![task(r#"{"task": "a.b", "delay": 10}"#)]).await;
        let out = hall.next(1).await;

        hall.close().await;
        for delivery in out {
            delivery.settle(Disposition::Release).await.unwrap();
        }

        let depth = store.queue().depth("parked").await.unwrap();
        assert_eq!((depth.ready, depth.delayed, places(&hall)), (2, 1, [0; 4]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_task_is_next_again_and_a_stale_settlement_changes_nothing() {
        let hall = hall();
        hall.admit(tasks("parallel", 3)).await;
        let mut out = hall.next(2).await;
        let (second, first) = (out.pop().unwrap(), out.pop().unwrap());
        let stale = Delivery::new(
            first.message.clone(),
            first.receipt.token().clone(),
            Arc::new(Settling(Arc::clone(&hall))),
        );

        first.settle(Disposition::Release).await.unwrap();
        let again = hall.next(1).await;
        let answer = stale.settle(Disposition::Ack(dispatch_core::Reply::default())).await;

        assert_eq!(again[0].message.id(), "0");
        assert!(matches!(answer, Err(SettleError::Stale)));
        done(again.into_iter().chain([second]).collect()).await;
        assert_eq!(places(&hall), [0, 1, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancel_takes_out_what_waits_and_lets_followers_go() {
        let hall = hall();
        hall.admit(tasks("serial", 2)).await;
        hall.admit(vec![task(r#"{"task": "other.task", "delay": 10, "uuid": "d"}"#)])
            .await;

        let cancelled = hall.cancel(|task| task.uuid.as_deref() != Some("1"));

        assert_eq!(
            cancelled.iter().map(|(place, _)| *place).collect::<Vec<_>>(),
            [Where::Queued, Where::Delayed]
        );
        assert_eq!(hall.next(5).await[0].message.id(), "1");
    }
}
