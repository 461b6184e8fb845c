//! How long nothing is heard when the listener's backend is killed, with 1,000 tasks published a second.
//!
//! The gap is from the last task before to the first one after. `GAP_KILLS` is how many times.

use std::{sync::Arc, time::Duration};

use dispatch_core::{BoxError, Message, Pipeline, config::Secret, random_id, sink_fn};
use dispatch_sources::pg_notify::{PgNotifySource, PgNotifySourceConfig};
use tokio::{
    runtime::Runtime,
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::server::{connect, number, quantile};

/// So long each listener is heard before it is killed.
const HEARD: usize = 300;
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(url: &str) {
    Runtime::new().unwrap().block_on(measure(url, number("GAP_KILLS", 20)));
}

async fn measure(url: &str, kills: usize) {
    let channel = format!("bench_{}", random_id().replace('-', "_").to_lowercase());
    let (arrive, mut arrivals) = mpsc::unbounded_channel();
    let config = PgNotifySourceConfig::new(Secret::new(url), [&channel]);
    let pipeline = Pipeline::builder("gap")
        .source(PgNotifySource::open(config).unwrap())
        .sink(sink_fn(move |message: Message| {
            let sent = arrive.send((message.id().parse::<u64>().unwrap(), Instant::now()));
            async move { sent.map_err(BoxError::from) }
        }))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    let (publisher, killer) = (connect(url).await, connect(url).await);
    let notified = Arc::<str>::from(channel.as_str());
    let publishing = tokio::spawn(async move {
        let mut tick = interval(Duration::from_millis(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let notify = publisher.prepare("SELECT pg_notify($1, $2)").await.unwrap();
        for number in 0_u64.. {
            tick.tick().await;
            let task = format!(r#"{{"task": "bench.nothing", "uuid": "{number}"}}"#);
            publisher.execute(&notify, &[&&*notified, &task]).await.unwrap();
        }
    });

    let mut gaps = Vec::with_capacity(kills);
    let mut next = async || {
        timeout(PATIENCE, arrivals.recv())
            .await
            .expect("it hears again")
            .unwrap()
    };
    let (first, mut at) = next().await;
    let (mut last, mut heard) = (first, 1);
    for _ in 0..kills {
        for _ in 0..HEARD {
            let (number, when) = next().await;
            (last, at, heard) = (last.max(number), when, heard + 1);
        }
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND strpos(query, $1) > 0";
        let killed: i64 = killer.query_one(kill, &[&channel]).await.unwrap().get(0);
        assert_eq!(killed, 1, "there is one listener");
        let mut longest = Duration::ZERO;
        for _ in 0..HEARD {
            let (number, when) = next().await;
            longest = longest.max(when - at);
            (last, at, heard) = (last.max(number), when, heard + 1);
        }
        gaps.push(longest.as_secs_f64() * 1e3);
    }
    publishing.abort();
    handle.drain();
    run.await.unwrap().unwrap();
    let longest = quantile(&mut gaps, 1.0);
    println!(
        "  {kills} kills at 1000 tasks a second: gap of {:.1} ms in the middle, {longest:.1} ms at most (bound 50), {:.1} tasks lost a kill",
        quantile(&mut gaps, 0.5),
        (last + 1 - first - heard) as f64 / kills as f64
    );
}
