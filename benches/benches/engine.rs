//! What the whole driver costs per message: memory source to no-op sink with retry, rate limit, concurrency, timeout,
//! breaker and counters on, against one spawned task per message.
//!
//! `cargo bench -p dispatch-benches --bench engine` prints CPU time and allocations per message, then criterion's
//! wall times.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench that meets the unexpected should panic")]

use std::{sync::Arc, time::Duration};

use cpu_time::ProcessTime;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dispatch_core::{
    BoxError, Message, Pipeline,
    pipeline::{PipelineBuilder, Summary},
    sink_fn,
    testing::MemorySource,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::{runtime::Runtime, sync::Semaphore, task::JoinSet};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

const MESSAGES: u64 = 200_000;

fn one_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn two_threads() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn messages() -> Vec<Message> {
    (0..MESSAGES).map(|n| Message::with_id(n.to_string(), vec![b'x'; 256])).collect()
}

/// Every layer on, none in the way.
fn pipeline(source: MemorySource) -> PipelineBuilder {
    Pipeline::builder("bench")
        .source(source.without_record())
        .sink(sink_fn(|_: Message| async { Ok::<_, BoxError>(()) }))
        .concurrency(256)
        .prefetch(0)
        .rate_limit(1_000_000_000, Duration::from_secs(1))
        .timeout(Duration::from_secs(30))
        .deadline(Duration::from_secs(600))
}

/// The same work as people write it: a task for each message, so many at once.
async fn task_per_message(messages: Vec<Message>) -> u64 {
    let permits = Arc::new(Semaphore::new(256));
    let mut tasks = JoinSet::new();
    let mut done = 0;
    for message in messages {
        let permit = Arc::clone(&permits).acquire_owned().await.unwrap();
        tasks.spawn(async move {
            let _permit = permit;
            tokio::time::timeout(Duration::from_secs(30), async move { std::hint::black_box(message) }).await.unwrap();
        });
        while let Some(task) = tasks.try_join_next() {
            task.unwrap();
            done += 1;
        }
    }
    done + tasks.join_all().await.len() as u64
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
        let source = MemorySource::ending(messages());
        let (region, cpu) = (Region::new(ALLOCATOR), ProcessTime::now());
        drive(&runtime, source, 1);
        let (cpu, allocations) = (cpu.elapsed(), region.change().allocations);
        let input = messages();
        let tasks = ProcessTime::now();
        assert_eq!(runtime.block_on(task_per_message(input)), MESSAGES);
        let tasks = tasks.elapsed();
        println!(
            "round {round}: driver {:.3} us CPU and {:.2} allocations a message; a task per message {:.3} us; ratio {:.2}",
            cpu.as_secs_f64() * 1e6 / MESSAGES as f64,
            allocations as f64 / MESSAGES as f64,
            tasks.as_secs_f64() * 1e6 / MESSAGES as f64,
            tasks.as_secs_f64() / cpu.as_secs_f64(),
        );
    }
    let (one, two) = (two_threads(), two_threads());
    for round in 0..3 {
        let wall = |runtime: &Runtime, shards| {
            let source = MemorySource::ending(messages());
            drive(runtime, source, shards).seconds
        };
        let (single, double) = (wall(&one, 1), wall(&two, 2));
        println!("round {round}: one shard {single:.3} s, two shards {double:.3} s, ratio {:.2}", single / double);
    }
}

fn engine(criterion: &mut Criterion) {
    print_costs();
    let runtime = one_thread();
    let mut group = criterion.benchmark_group("engine");
    group.throughput(Throughput::Elements(MESSAGES)).sample_size(10);
    group.bench_function("driver", |bencher| {
        bencher.iter_batched(|| MemorySource::ending(messages()), |source| drive(&runtime, source, 1), BatchSize::PerIteration);
    });
    group.bench_function("task_per_message", |bencher| {
        bencher.iter_batched(messages, |messages| runtime.block_on(task_per_message(messages)), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, engine);
criterion_main!(benches);
