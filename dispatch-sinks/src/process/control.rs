//! The commands that the pool answers, in dispatcherd's shapes.

use std::{fmt::Write as _, sync::Arc};

use dispatch_core::tasks::Filter;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    ProcessSinkError,
    cancel::Reason,
    job::Job,
    pool::{Effects, Pool},
};

/// How many levels `pool` shows.
const LEVELS_SHOWN: usize = 5;

/// Answers commands from now on, as long as the pool is there.
pub(super) fn register(pool: &Arc<Pool>) {
    let commands: [(&'static str, fn(&Pool, &str) -> String); 4] = [
        ("workers", workers),
        ("running", running),
        ("cancel", cancel),
        ("pool", pool_status),
    ];
    for (name, answer) in commands {
        let weak = Arc::downgrade(pool);
        pool.commands.on(name, move |data| {
            let answer = weak
                .upgrade()
                .map_or_else(|| "{}".to_owned(), |pool| answer(&pool, &data));
            async move { answer }
        });
    }
}

fn picks(filter: &Filter<'_>, job: &Job) -> bool {
    filter.picks(&job.task, &job.uuid, || job.text().into())
}

/// Tasks by worker, and those that no worker has begun.
#[derive(Default)]
struct Listed {
    at_work: Vec<(u64, String)>,
    queued: Vec<(u64, String)>,
}

impl Listed {
    fn text(mut self) -> String {
        let mut text = "{".to_owned();
        for (worker, task) in &self.at_work {
            let _infallible = write!(text, "\"worker-{worker}\": {task}, ");
        }
        text.push_str("\"queued\": {");
        self.queued.sort_by_key(|(number, _)| *number);
        for (place, (_, task)) in self.queued.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            let _infallible = write!(text, "{comma}\"{place}\": {task}");
        }
        text + "}}"
    }
}

fn running(pool: &Pool, data: &str) -> String {
    let filter = Filter::read(data);
    let state = pool.lock();
    let mut listed = Listed::default();
    for worker in &state.workers {
        for (place, (number, job)) in worker
            .tasks
            .iter()
            .enumerate()
            .filter(|(_, (_, job))| picks(&filter, job))
        {
            match place {
                0 => listed.at_work.push((worker.id, job.text())),
                _ => listed.queued.push((*number, job.text())),
            }
        }
    }
    let waiting = state.waiting.iter().filter(|(_, job)| picks(&filter, job));
    listed.queued.extend(waiting.map(|(number, job)| (*number, job.text())));
    drop(state);
    listed.text()
}

/// Those that wait are gone at once; those at work are told, and their outcome follows.
fn cancel(pool: &Pool, data: &str) -> String {
    let filter = Filter::read(data);
    let (mut listed, mut effects) = (Listed::default(), Effects::default());
    {
        let mut state = pool.lock();
        let waiting = state.waiting.iter().filter(|(_, job)| picks(&filter, job));
        let waiting: Vec<_> = waiting.map(|(number, _)| *number).collect();
        for number in waiting {
            let Some(job) = state.drop_waiting(number) else {
                continue;
            };
            listed.queued.push((number, job.text()));
            state.cancelled += 1;
            let error = ProcessSinkError::Cancelled {
                task: job.task,
                reason: Reason::Command,
            };
            effects.answers.push((job.answer, Err(error)));
        }
        let now = Instant::now();
        for worker in &mut state.workers {
            // Those behind first: none of them may begin in the place of one that is cancelled.
            for place in (0..worker.tasks.len()).rev() {
                let (number, job) = &worker.tasks[place];
                if !picks(&filter, job) {
                    continue;
                }
                match place {
                    0 => listed.at_work.push((worker.id, job.text())),
                    _ => listed.queued.push((*number, job.text())),
                }
                worker.cancel(place, Reason::Command, now);
            }
        }
    }
    effects.kick = true;
    pool.carry_out(&mut effects);
    listed.text()
}

fn workers(pool: &Pool, _: &str) -> String {
    let state = pool.lock();
    let mut all = Map::new();
    for worker in &state.workers {
        let task = worker.tasks.front().map(|(_, job)| job);
        let record = json!({
            "worker_id": worker.id,
            "pid": worker.process.as_ref().map(|process| process.pid()),
            "status": worker.status.name(),
            "finished_count": worker.finished,
            "current_task": task.map(|job| job.task.as_str()),
            "current_task_uuid": task.map(|job| job.uuid.as_str()),
            "active_cancel": task.is_some_and(|job| job.cancel.is_some()),
            "age": worker.made.elapsed().as_secs_f64(),
        });
        all.insert(format!("worker-{}", worker.id), record);
    }
    Value::Object(all).to_string()
}

fn pool_status(pool: &Pool, _: &str) -> String {
    let state = pool.lock();
    let now = Instant::now();
    let ages: Vec<_> = state.levels.ages(now).collect();
    let shown = |levels: &mut dyn Iterator<Item = &(usize, f64)>| -> Value {
        levels
            .map(|(level, age)| (level.to_string(), json!(age)))
            .collect::<Map<_, _>>()
            .into()
    };
    let records = state.workers.len();
    let near = ages.iter().filter(|(level, _)| level.abs_diff(records) <= 1);
    json!({
        "next_worker_id": state.next_worker,
        "finished_count": state.finished,
        "canceled_count": state.cancelled,
        "retirement_count": state.retired,
        "worker_ct": records,
        "running_ct": state.capacity(),
        "active_task_ct": state.active(),
        "usage": {
            "count": ages.len(),
            "top5": shown(&mut ages.iter().take(LEVELS_SHOWN)),
            "near_worker_ct": shown(&mut near.into_iter()),
        },
    })
    .to_string()
}
