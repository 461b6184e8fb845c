//! What the whole driver costs per message: memory source to no-op sink with retry, rate limit, concurrency, timeout,
//! breaker and counters on, against one spawned task per message that does the same work: the same source, the same
//! layers, the same settling. What the layers alone cost in a task each, with neither source nor settling, stands beside it.
//!
//! On two threads, as a program has by default, the rates are compared: one shard, two shards, a task per message.
//!
//! `cargo bench -p dispatch-benches --bench engine` prints CPU time per message, then criterion's wall times. Allocations
//! are counted by `--bench memory`: counters that two threads share would be most of what two shards cost.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that meets the unexpected should panic"
)]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cpu_time::ProcessTime;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dispatch_core::{
    BoxError, Disposition, Error, Message, Pipeline, Received, Reply, Sink, Source as _,
    layer::{Limit, RateLimitLayer, Stack},
    pipeline::{PipelineBuilder, Summary},
    sink_fn,
    testing::MemorySource,
};
use tokio::{runtime::Runtime, task::JoinSet, time::Instant};
use tower::{Layer as _, Service, ServiceExt as _};

/// Enough that starting and ending do not count: with 20 000 they were a tenth of what two shards take.
const MESSAGES: u64 = 100_000;
/// So many runs make one figure.
const RUNS: u32 = 10;

fn one_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn two_threads() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn messages() -> Vec<Message> {
    let payload = Bytes::from_static(&[b'x'; 256]);
    (0..MESSAGES)
        .map(|n| Message::with_id(n.to_string(), payload.clone()))
        .collect()
}

/// Every layer on, none in the way.
fn pipeline(source: MemorySource) -> PipelineBuilder {
    Pipeline::builder("bench")
        .source(source.poor().without_record())
        .sink(sink_fn(|_: Message| async { Ok::<_, BoxError>(()) }))
        .concurrency(256)
        .prefetch(0)
        .rate_limit(1_000_000_000, Duration::from_secs(1))
        .timeout(Duration::from_secs(30))
        .deadline(Duration::from_secs(600))
}

/// The same layers around the same sink.
fn service() -> impl Service<Message, Response = Reply, Error = Error, Future: Send> + Clone + Send + 'static {
    let sink = Arc::new(sink_fn(|_: Message| async { Ok::<_, BoxError>(()) }));
    let stack = Stack {
        deadline: Some(Duration::from_secs(600)),
        rate_limit: RateLimitLayer::new(1_000_000_000, Duration::from_secs(1), None),
        concurrency: Limit::Fixed(256),
        ..Stack::default()
    };
    stack
        .layers(&Arc::default())
        .layer(tower::service_fn(move |message: Message| {
            let sink = Arc::clone(&sink);
            async move { Sink::send(&*sink, message).await }
        }))
}

/// Receives as the driver does, and lets a spawned task for each message call the layers and settle.
async fn task_per_message(source: MemorySource) -> u64 {
    let (mut source, service) = (source.poor().without_record(), service());
    let (mut tasks, mut done) = (JoinSet::<bool>::new(), 0);
    loop {
        while tasks.len() == 256 {
            done += u64::from(tasks.join_next().await.unwrap().unwrap());
        }
        match source.receive(256 - tasks.len()).await.unwrap() {
            Received::Batch(batch) => {
                for delivery in batch {
                    let mut service = service.clone();
                    tasks.spawn(async move {
                        let call = service.ready().await.unwrap().call(delivery.message.clone());
                        match call.await {
                            Ok(reply) => delivery.settle(Disposition::Ack(reply)).await.is_ok(),
                            Err(_) => false,
                        }
                    });
                }
            }
            Received::End => break,
            _ => {}
        }
    }
    done + tasks.join_all().await.into_iter().filter(|done| *done).count() as u64
}

/// A spawned task for each message that calls the layers and does nothing else.
async fn layers_in_tasks(messages: Vec<Message>) -> u64 {
    let service = service();
    let (mut tasks, mut done) = (JoinSet::<Result<Reply, Error>>::new(), 0);
    for message in messages {
        if tasks.len() == 256 {
            tasks.join_next().await.unwrap().unwrap().unwrap();
            done += 1;
        }
        let mut service = service.clone();
        tasks.spawn(async move { service.ready().await?.call(message).await });
    }
    done + tasks.join_all().await.into_iter().filter(Result::is_ok).count() as u64
}

fn drive(runtime: &Runtime, source: MemorySource, shards: usize) -> Summary {
    // In a task of its own on both kinds of runtime, so that shards really run beside each other.
    let run = pipeline(source).shards(shards).run();
    let summary = runtime.block_on(async { tokio::spawn(run).await.unwrap().unwrap() });
    assert_eq!(summary.delivered, MESSAGES);
    summary
}

fn print_costs() {
    let runtime = one_thread();
    for round in 0..3 {
        let (mut driver, mut tasks, mut layers) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        for _ in 0..RUNS {
            let source = MemorySource::ending(messages());
            let cpu = ProcessTime::now();
            drive(&runtime, source, 1);
            driver += cpu.elapsed();
            let source = MemorySource::ending(messages());
            let cpu = ProcessTime::now();
            assert_eq!(runtime.block_on(task_per_message(source)), MESSAGES);
            tasks += cpu.elapsed();
            let input = messages();
            let cpu = ProcessTime::now();
            assert_eq!(runtime.block_on(layers_in_tasks(input)), MESSAGES);
            layers += cpu.elapsed();
        }
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / (MESSAGES * u64::from(RUNS)) as f64;
        println!(
            "round {round}: driver {:.3} us CPU a message; a task per message {:.3} us, ratio {:.2}; \
             the layers alone in a task {:.3} us, ratio {:.2}",
            each(driver),
            each(tasks),
            tasks.as_secs_f64() / driver.as_secs_f64(),
            each(layers),
            layers.as_secs_f64() / driver.as_secs_f64(),
        );
    }
    let threads = two_threads();
    for round in 0..3 {
        let (mut single, mut double, mut tasks) = (0.0, 0.0, 0.0);
        for _ in 0..RUNS {
            single += drive(&threads, MemorySource::ending(messages()), 1).seconds;
            double += drive(&threads, MemorySource::ending(messages()), 2).seconds;
            let source = MemorySource::ending(messages());
            let began = Instant::now();
            let done = threads.block_on(async { tokio::spawn(task_per_message(source)).await.unwrap() });
            assert_eq!(done, MESSAGES);
            tasks += began.elapsed().as_secs_f64();
        }
        println!(
            "round {round}, two threads: one shard {single:.3} s, two shards {double:.3} s, ratio {:.2}; \
             a task per message {tasks:.3} s, ratio to one shard {:.2}, to two {:.2}",
            single / double,
            tasks / single,
            tasks / double,
        );
    }
}

fn engine(criterion: &mut Criterion) {
    print_costs();
    let runtime = one_thread();
    let mut group = criterion.benchmark_group("engine");
    group.throughput(Throughput::Elements(MESSAGES)).sample_size(10);
    group.bench_function("driver", |bencher| {
        bencher.iter_batched(
            || MemorySource::ending(messages()),
            |source| drive(&runtime, source, 1),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("task_per_message", |bencher| {
        bencher.iter_batched(
            || MemorySource::ending(messages()),
            |source| runtime.block_on(task_per_message(source)),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, engine);
criterion_main!(benches);
