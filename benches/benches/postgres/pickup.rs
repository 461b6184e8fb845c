//! How soon a job is at work at a steady 500 a second, from just before it is published: the bare loop (LISTEN, then
//! delete under SKIP LOCKED, until nothing is left), and the source `queue` fed in three ways.
//!
//! `PICKUP_SECONDS` is how long each lasts, `PICKUP_RATE` how many a second, `PICKUP_ROUNDS` how often they take turns.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
    time::Duration,
};

use dispatch_core::{
    BoxError, Message, Pipeline, Store, random_id, sink_fn,
    store::{Item, QueueSource},
};
use tokio::{
    runtime::Runtime,
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::server::{Database, connect, median, number, quantile};

/// The times of arrival, with the job's number.
type Arrivals = mpsc::UnboundedReceiver<(usize, Instant)>;
type Arrived = mpsc::UnboundedSender<(usize, Instant)>;

/// Publishes at the steady rate, and says how long each job took; the first fifth is for warming up.
async fn steady<P: Future<Output = ()>>(mut arrivals: Arrivals, publish: impl Fn(usize) -> P) -> Vec<f64> {
    let (seconds, rate) = (number("PICKUP_SECONDS", 4), number("PICKUP_RATE", 500));
    let mut tick = interval(Duration::from_secs(1) / u32::try_from(rate).unwrap());
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut published = Vec::with_capacity(seconds * rate);
    for number in 0..seconds * rate {
        tick.tick().await;
        published.push(Instant::now());
        publish(number).await;
    }
    let mut took = Vec::with_capacity(published.len());
    while took.len() < published.len() {
        let (number, at) = arrivals.recv().await.unwrap();
        took.push((number, (at - published[number]).as_secs_f64() * 1e3));
    }
    let warm = published.len() / 5;
    took.into_iter()
        .filter(|(number, _)| *number >= warm)
        .map(|(_, took)| took)
        .collect()
}

async fn bare(url: &str) -> Vec<f64> {
    let client = connect(url).await;
    let table =
        "CREATE TABLE IF NOT EXISTS pickup (id bigserial PRIMARY KEY, run_at timestamptz NOT NULL DEFAULT now(),
            payload bytea NOT NULL);
        CREATE INDEX IF NOT EXISTS pickup_order ON pickup (run_at, id)";
    client.batch_execute(table).await.unwrap();
    let hints = Arc::new(Notify::new());
    let (listener, mut connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let hint = Arc::clone(&hints);
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(_) = message {
                hint.notify_one();
            }
        }
    });
    listener.batch_execute("LISTEN pickup").await.unwrap();
    let (arrived, arrivals) = mpsc::unbounded_channel();
    let worker = connect(url).await;
    let working = tokio::spawn(async move {
        let take = worker
            .prepare(
                "DELETE FROM pickup WHERE id = ANY (ARRAY(
                    SELECT id FROM pickup WHERE run_at <= now() ORDER BY run_at, id LIMIT 100 FOR UPDATE SKIP LOCKED))
                RETURNING payload",
            )
            .await
            .unwrap();
        loop {
            hints.notified().await;
            loop {
                // The listener's connection and this one end with the part.
                let Ok(rows) = worker.query(&take, &[]).await else {
                    return;
                };
                for row in &rows {
                    arrived.send((number_in(row.get(0)), Instant::now())).unwrap();
                }
                if rows.is_empty() {
                    break;
                }
            }
        }
    });
    let insert = "WITH job AS (INSERT INTO pickup (payload) VALUES ($1)) SELECT pg_notify('pickup', '')";
    let insert = client.prepare(insert).await.unwrap();
    let took = steady(arrivals, async |number| {
        client.query(&insert, &[&payload(number)]).await.unwrap();
    })
    .await;
    working.abort();
    drop(listener);
    took
}

fn payload(number: usize) -> Vec<u8> {
    format!("{number:08}{}", "x".repeat(900)).into_bytes()
}

fn number_in(payload: &[u8]) -> usize {
    std::str::from_utf8(&payload[..8]).unwrap().parse().unwrap()
}

fn arriving(arrived: Arrived) -> impl dispatch_core::Sink {
    sink_fn(move |message: Message| {
        let sent = arrived.send((number_in(&message.payload), Instant::now()));
        async move { sent.map_err(BoxError::from) }
    })
}

/// How a job comes into the queue.
enum Publisher {
    /// By the process that takes it.
    Own,
    /// By another process of ours.
    Other(Arc<dyn Store>),
    /// By the SQL function.
    Function(Client),
}

async fn ours(database: &Database, publisher: Publisher) -> Vec<f64> {
    let store = database.store().await;
    let queue = random_id();
    let (arrived, arrivals) = mpsc::unbounded_channel();
    let pipeline = Pipeline::builder("pickup")
        .source(QueueSource::new(Arc::clone(&store), queue.as_str()))
        .sink(arriving(arrived))
        .store(Arc::clone(&store))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    let enqueue = async |store: &Arc<dyn Store>, number| {
        let items = vec![Item::of(&Message::new(payload(number)))];
        store.queue().enqueue(&queue, items).await.unwrap();
    };
    let function = match &publisher {
        Publisher::Function(client) => Some(client.prepare("SELECT dispatch_enqueue($1, $2)").await.unwrap()),
        _ => None,
    };
    let took = steady(arrivals, async |number| match &publisher {
        Publisher::Own => enqueue(&store, number).await,
        Publisher::Other(other) => enqueue(other, number).await,
        Publisher::Function(client) => {
            let text = String::from_utf8(payload(number)).unwrap();
            let call = function.as_ref().unwrap();
            client.query(call, &[&queue.as_str(), &text]).await.unwrap();
        }
    })
    .await;
    handle.drain();
    run.await.unwrap().unwrap();
    store.close().await.unwrap();
    took
}

pub(crate) fn run(url: &str) {
    let database = Database::create(url);
    let runtime = Runtime::new().unwrap();
    let names = [
        "bare loop",
        "dispatch_enqueue()",
        "another process's store",
        "the same process's store",
    ];
    // In turn, so that what else the machine does meets all alike.
    let rounds: Vec<Vec<[f64; 2]>> = (0..number("PICKUP_ROUNDS", 5))
        .map(|_| {
            let took = runtime.block_on(async {
                let other = database.store().await;
                let function = connect(&database.url).await;
                vec![
                    bare(&database.url).await,
                    ours(&database, Publisher::Function(function)).await,
                    ours(&database, Publisher::Other(other)).await,
                    ours(&database, Publisher::Own).await,
                ]
            });
            let quantiles = |mut took: Vec<f64>| [0.5, 0.99].map(|share| quantile(&mut took, share));
            took.into_iter().map(quantiles).collect()
        })
        .collect();
    for (at, name) in names.iter().enumerate() {
        let middle = |which: usize| median(rounds.iter().map(|round| round[at][which]).collect());
        let ratio = |which: usize| median(rounds.iter().map(|round| round[at][which] / round[0][which]).collect());
        println!(
            "  {name:<26} p50 {:7.3} ms, {:5.2} of the bare loop's (bound 1.3); p99 {:7.3} ms, {:5.2} (bound 2)",
            middle(0),
            ratio(0),
            middle(1),
            ratio(1)
        );
    }
}
