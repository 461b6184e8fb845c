//! The preset between a FIFO queue of a real SQS server and a worker.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    http::{HeaderMap, StatusCode},
};
use rustix::process::Signal;
use tokio::net::TcpListener;

use crate::{
    sqsd_server::Queue,
    support::{Running, command, dir, until},
};

const GROUPS: usize = 5;
const MESSAGES: usize = 100;

/// What came: the group, the number, and whether it was refused.
type Posts = Arc<Mutex<Vec<(String, usize, bool)>>>;

/// A worker that refuses each tenth number once.
async fn refusing(posts: Posts) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let work = async move |headers: HeaderMap, body: String| {
        let group = headers["x-aws-sqsd-message-group-id"].to_str().unwrap().to_owned();
        let number: usize = body.parse().unwrap();
        let mut posts = posts.lock().unwrap();
        let first = !posts.iter().any(|(_, other, _)| *other == number);
        let refuses = number.is_multiple_of(10) && first;
        posts.push((group, number, refuses));
        if refuses {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            StatusCode::OK
        }
    };
    let router = Router::new().fallback(work);
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn each_group_is_worked_on_in_order_while_one_in_ten_fails() {
    let Some(queue) = Queue::new("ordered.fifo").await else {
        return;
    };
    let posts = Posts::default();
    let worker = refusing(Arc::clone(&posts)).await;
    for number in 0..MESSAGES {
        queue
            .send_to(&format!("g{}", number % GROUPS), &number.to_string())
            .await;
    }
    let dir = dir(&[]);
    let mut preset = command(dir.path(), &["sqsd"]);
    preset
        .envs(queue.environment(&worker))
        .env("INVOKER_PARALLEL_COUNT", "16")
        .env("SQSD_ERROR_VISIBILITY_TIMEOUT", "1");

    let mut running = Running::spawn(&mut preset);
    until("all is deleted", async || {
        posts.lock().unwrap().len() >= MESSAGES + MESSAGES / 10 && queue.depth().await == (0, 0)
    })
    .await;
    running.signal(Signal::TERM);

    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    let posts = posts.lock().unwrap();
    let mut last = HashMap::new();
    let mut refused = HashSet::new();
    for (group, number, refuses) in posts.iter() {
        // One that was refused comes before any that is behind it.
        let least = last.get(group).copied();
        let again = refused.remove(number);
        assert!(
            least.is_none_or(|least| *number > least || (again && *number == least)),
            "{number} after {least:?} in {group}: {posts:?}"
        );
        last.insert(group.clone(), *number);
        if *refuses {
            refused.insert(*number);
        }
        assert!(
            refused
                .iter()
                .filter(|other| *other % GROUPS == *number % GROUPS)
                .all(|other| other == number),
            "{number} overtook {refused:?} in {group}"
        );
    }
    assert_eq!(
        (posts.len(), refused.len()),
        (MESSAGES + MESSAGES / 10, 0),
        "each once, or twice"
    );
}
