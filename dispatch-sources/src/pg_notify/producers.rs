//! Tasks that the service starts by itself: again and again, or once at its start.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use dispatch_core::tasks::{BarePayload, Incoming};
use serde_json::{Map, Value};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{parts::keep, service::Service};

pub(super) fn start(service: &Arc<Service>, running: &mut JoinSet<()>) {
    let own = Arc::clone(service);
    if !own.config.on_start.is_empty() {
        running.spawn(keep(Arc::clone(service), "on-start".to_owned(), move || {
            on_start(Arc::clone(&own))
        }));
    }
    let fired = Arc::new(AtomicU64::new(0));
    for task in service.config.schedule.keys() {
        let (own, fired, task) = (Arc::clone(service), Arc::clone(&fired), task.clone());
        running.spawn(keep(Arc::clone(service), format!("schedule {task}"), move || {
            fire(Arc::clone(&own), task.clone(), Arc::clone(&fired))
        }));
    }
}

async fn on_start(service: Arc<Service>) {
    // Begun again, it goes on where it was.
    let done = usize::try_from(service.counts.on_start.load(Relaxed)).unwrap_or(usize::MAX);
    for (number, own) in service.config.on_start.iter().enumerate().skip(done) {
        submit(&service, &own.task, &own.message.0, &format!("on-start-{number}")).await;
        service.counts.on_start.fetch_add(1, Relaxed);
    }
}

async fn fire(service: Arc<Service>, task: String, fired: Arc<AtomicU64>) {
    let own = &service.config.schedule[&task];
    let mut ticks = interval_at(Instant::now() + own.every.0, own.every.0);
    // What is missed is not made up for.
    ticks.set_missed_tick_behavior(if own.drift {
        MissedTickBehavior::Delay
    } else {
        MissedTickBehavior::Skip
    });
    loop {
        ticks.tick().await;
        let number = fired.fetch_add(1, Relaxed);
        submit(&service, &task, &own.message.0, &format!("sch-{number}")).await;
        service.counts.scheduled.fetch_add(1, Relaxed);
    }
}

/// As if it had come over a channel, but from none. A panic of it ends this run alone.
async fn submit(service: &Arc<Service>, task: &str, members: &Map<String, Value>, uuid: &str) {
    let submitting = async {
        let mut message = members.clone();
        message.insert("task".to_owned(), task.into());
        message.insert("uuid".to_owned(), uuid.into());
        match Incoming::read(&Value::Object(message).to_string(), BarePayload::Reject) {
            Incoming::Task(task) => service.submit(task).await,
            other => tracing::error!(task, ?other, "this is no task: look at its `message`"),
        }
    };
    let _logged = service.parts.caught(task, submitting).await;
}
