//! Fills a queue of apalis-postgres in DATABASE_URL with BENCH_ROWS jobs, empties it, and prints how many a second.
//!
//! The one argument is the size of a batch; all else is as it is by default.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use apalis::prelude::*;
use apalis_postgres::*;

type Count = Arc<AtomicUsize>;

async fn nothing(_: serde_json::Value, count: Data<Count>) -> Result<(), BoxDynError> {
    count.fetch_add(1, Relaxed);
    Ok(())
}

#[tokio::main]
async fn main() {
    let batch: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let rows: usize = std::env::var("BENCH_ROWS").unwrap().parse().unwrap();
    let payload: serde_json::Value = serde_json::from_str(&std::env::var("BENCH_PAYLOAD").unwrap()).unwrap();
    let pool = PgPool::connect(&std::env::var("DATABASE_URL").unwrap()).await.unwrap();
    PostgresStorage::setup(&pool).await.unwrap();
    let queue = format!("bench-{}", std::process::id());
    for _ in 0..rows.div_ceil(1_000) {
        let task = || TaskBuilder::new(serde_json::to_vec(&payload).unwrap()).build();
        let tasks: Vec<_> = (0..1_000.min(rows)).map(|_| task()).collect();
        queries::push_tasks(&mut *pool.acquire().await.unwrap(), &queue, tasks)
            .await
            .unwrap();
    }
    let config = Config::default().queue(&queue).batch_size(batch);
    let backend = PostgresStorage::<serde_json::Value>::new(&pool).with_config(config);
    let count = Count::default();
    let worker = WorkerBuilder::new(queue.as_str())
        .backend(backend)
        .data(Arc::clone(&count))
        .build(nothing);
    let began = Instant::now();
    tokio::spawn(worker.run());
    while count.load(Relaxed) < rows {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("{}", rows as f64 / began.elapsed().as_secs_f64());
    // It would wait for its worker; what is left is dropped with the database.
    std::process::exit(0);
}
