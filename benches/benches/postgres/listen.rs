//! LISTEN to tasks in Rust: the source `pg_notify` into the sink `tasks`, against a loop over tokio-postgres that reads
//! each notification's JSON into the same type and calls the same function.
//!
//! Statements of 100 tasks, each a transaction, publish them one after the other from a thread of its own: a publisher is
//! another process as a rule, and a busy consumer is not to hold it up. Fewer, and the server's commits are measured;
//! with 1,000 the server has nearly nothing to do and whoever reads is measured alone, so that is shown beside it. The clock
//! runs from the first statement to the last task's call.
//! Both are on a runtime of one thread, as `dispatch dispatcherd` is, and then on one of several. The processor time is that
//! from the first statement to the end, settling and draining included; connecting is not.
//! `LISTEN_TASKS` is how many, `LISTEN_ROUNDS` how often.

use std::{
    borrow::Cow,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use cpu_time::ProcessTime;
use dispatch_core::{Error, Pipeline, config::Secret, random_id};
use dispatch_sinks::tasks::{State, Task, Tasks};
use dispatch_sources::pg_notify::{PgNotifySource, PgNotifySourceConfig};
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_postgres::{AsyncMessage, NoTls};

use crate::server::{connect, median, number};

#[derive(Serialize, Deserialize)]
struct Nothing(u64, String);

impl Task for Nothing {
    const NAME: &'static str = "bench.nothing";
}

/// So many tasks are published by one statement.
const STATEMENTS: [usize; 2] = [100, 1_000];

/// Counts calls, and says when the last one has come.
struct Calls {
    most: usize,
    count: AtomicUsize,
    all: Notify,
}

impl Calls {
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            count: AtomicUsize::new(0),
            all: Notify::new(),
        })
    }

    fn one(&self) {
        if self.count.fetch_add(1, Relaxed) + 1 == self.most {
            self.all.notify_one();
        }
    }
}

async fn nothing(task: Nothing, State(calls): State<Arc<Calls>>) -> Result<(), Error> {
    std::hint::black_box(task);
    calls.one();
    Ok(())
}

/// What the bare loop reads of a notification.
#[derive(Deserialize)]
struct Published<'m> {
    #[serde(borrow)]
    task: Cow<'m, str>,
    args: Nothing,
}

async fn bare(url: &str, channel: &str, statement: usize, calls: &Arc<Calls>) -> (Duration, Duration) {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let heard = Arc::clone(calls);
    let listener = tokio::spawn(async move {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            let Ok(AsyncMessage::Notification(notification)) = message else {
                continue;
            };
            let published: Published<'_> = serde_json::from_str(notification.payload()).unwrap();
            assert_eq!(published.task, Nothing::NAME);
            nothing(published.args, State(Arc::clone(&heard))).await.unwrap();
        }
    });
    client.batch_execute(&format!("LISTEN {channel}")).await.unwrap();
    let (spent, took) = publish(url, channel, statement, calls).await;
    drop(client);
    listener.await.unwrap();
    (spent.elapsed(), took)
}

async fn ours(url: &str, channel: &str, statement: usize, calls: &Arc<Calls>) -> (Duration, Duration) {
    let mut config = PgNotifySourceConfig::new(Secret::new(url), [channel]);
    // What the publisher is ahead waits here, as the bare loop's waits in the server; none is to be shed.
    config.max_waiting = config.max_waiting.max(calls.most);
    let pipeline = Pipeline::builder("listen")
        .source(PgNotifySource::open(config).unwrap())
        .sink(Tasks::new().state(Arc::clone(calls)).handle(nothing))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    let client = connect(url).await;
    let listens =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND strpos(query, $1) > 0 AND state = 'idle'";
    while client.query_one(listens, &[&channel]).await.unwrap().get::<_, i64>(0) == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    let (spent, took) = publish(url, channel, statement, calls).await;
    handle.drain();
    run.await.unwrap().unwrap();
    (spent.elapsed(), took)
}

/// Publishes all tasks; the processor time at the first statement, and how long it was from there to the last one's call.
async fn publish(url: &str, channel: &str, statement: usize, calls: &Arc<Calls>) -> (ProcessTime, Duration) {
    let (url, channel, calls) = (url.to_owned(), channel.to_owned(), Arc::clone(calls));
    let publish = move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(publish_here(&url, &channel, statement, &calls))
    };
    tokio::task::spawn_blocking(publish).await.unwrap()
}

async fn publish_here(url: &str, channel: &str, statement: usize, calls: &Calls) -> (ProcessTime, Duration) {
    let client = connect(url).await;
    let publish = "SELECT count(pg_notify($1,
        '{\"task\": \"bench.nothing\", \"uuid\": \"79688366-1b15-476a-9252-' || lpad(n::text, 12, '0') || '\", \"args\": ['
        || n || ', \"' || repeat('x', 100) || '\"]}')) FROM generate_series($2::bigint, $3::bigint) n";
    let publish = client.prepare(publish).await.unwrap();
    let (spent, began) = (ProcessTime::now(), Instant::now());
    for first in (0..calls.most).step_by(statement) {
        let last = calls.most.min(first + statement) - 1;
        let range = [first, last].map(|number| i64::try_from(number).unwrap());
        client
            .execute(&publish, &[&channel, &range[0], &range[1]])
            .await
            .unwrap();
    }
    calls.all.notified().await;
    (spent, began.elapsed())
}

/// The rate and the processor time of the bare loop, and ours.
type Round = ((f64, f64), (f64, f64));

pub(crate) fn run(url: &str) {
    for statement in STATEMENTS {
        let one = Builder::new_current_thread().enable_all().build();
        compare("one thread", url, statement, &one.unwrap());
        compare("a thread for each processor", url, statement, &Runtime::new().unwrap());
    }
}

/// Both on the same runtime, in turn.
fn compare(name: &str, url: &str, statement: usize, runtime: &Runtime) {
    let (tasks, rounds) = (number("LISTEN_TASKS", 200_000), number("LISTEN_ROUNDS", 9));
    let round = |ours_: bool| {
        let channel = format!("bench_{}", random_id().replace('-', "_").to_lowercase());
        let calls = Calls::new(tasks);
        let (spent, took) = runtime.block_on(async {
            if ours_ {
                ours(url, &channel, statement, &calls).await
            } else {
                bare(url, &channel, statement, &calls).await
            }
        });
        let cpu = spent.as_secs_f64() / tasks as f64 * 1e6;
        (tasks as f64 / took.as_secs_f64(), cpu)
    };
    let rounds: Vec<Round> = (0..rounds).map(|_| (round(false), round(true))).collect();
    let middle = |value: &dyn Fn(&Round) -> f64| median(rounds.iter().map(value).collect());
    println!(
        "  {statement} a transaction, {name}: bare loop {:.0}/s, {:.2} us CPU each; pg_notify to tasks {:.0}/s, {:.2} us; rate {:.2} of it, CPU {:.2} of it",
        middle(&|round| round.0.0),
        middle(&|round| round.0.1),
        middle(&|round| round.1.0),
        middle(&|round| round.1.1),
        middle(&|round| round.1.0 / round.0.0),
        middle(&|round| round.1.1 / round.0.1),
    );
}
