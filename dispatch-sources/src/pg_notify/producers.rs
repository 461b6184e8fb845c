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

use super::service::Service;

pub(super) fn start(service: &Arc<Service>, running: &mut JoinSet<()>) {
    let on_start = Arc::clone(service);
    running.spawn(async move {
        for (number, own) in on_start.config.on_start.iter().enumerate() {
            submit(&on_start, &own.task, &own.message.0, &format!("on-start-{number}")).await;
            on_start.counts.on_start.fetch_add(1, Relaxed);
        }
    });
    let fired = Arc::new(AtomicU64::new(0));
    for task in service.config.schedule.keys() {
        let (service, fired, task) = (Arc::clone(service), Arc::clone(&fired), task.clone());
        running.spawn(async move {
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
        });
    }
}

/// As if it had come over a channel, but from none.
async fn submit(service: &Arc<Service>, task: &str, members: &Map<String, Value>, uuid: &str) {
    let mut message = members.clone();
    message.insert("task".to_owned(), task.into());
    message.insert("uuid".to_owned(), uuid.into());
    match Incoming::read(&Value::Object(message).to_string(), BarePayload::Reject) {
        Incoming::Task(task) => service.submit(task).await,
        other => tracing::error!(task, ?other, "this is no task: look at its `message`"),
    }
}
