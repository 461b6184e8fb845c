//! What becomes of what a process holds that is killed, restarted, closed, or only thought dead. Processes are stores of
//! their own over the same place; one that is dropped is one that was killed.

use std::{sync::Arc, time::Duration};

use dispatch_core::{
    Store,
    config::Period,
    store::{Claim, Claimed, Completion, Node, Outcome, Stale},
    testing::Logs,
};
use tokio::time::{Instant, timeout};

use crate::{item, next};

/// Far longer than any of these tests.
const LEASE: Duration = Duration::from_secs(3600);
pub(crate) const SHORT: Duration = Duration::from_secs(2);
/// By which nobody is found dead here.
const NEVER: Duration = Duration::from_secs(3600);
/// For a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

/// How one process opens the store.
#[derive(Clone, Copy)]
pub(crate) struct Process {
    pub(crate) id: &'static str,
    pub(crate) node: Option<&'static str>,
    pub(crate) heartbeat: Duration,
}

impl Process {
    pub(crate) const fn new(id: &'static str) -> Self {
        Self {
            id,
            node: None,
            heartbeat: SHORT,
        }
    }

    pub(crate) const fn named(id: &'static str, node: &'static str) -> Self {
        Self {
            id,
            node: Some(node),
            heartbeat: NEVER,
        }
    }

    pub(crate) fn beating(self, heartbeat: Duration) -> Self {
        Self { heartbeat, ..self }
    }
}

/// A place where processes open stores.
pub(crate) trait Place {
    fn start(&self, process: Process) -> Arc<dyn Store>;
}

pub(crate) async fn put(store: &Arc<dyn Store>, payloads: &[&str]) {
    let items = payloads.iter().map(|payload| item(payload)).collect();
    store.queue().enqueue("q", items).await.unwrap();
}

pub(crate) async fn claim(store: &Arc<dyn Store>) -> Vec<Claimed> {
    let claim = Claim {
        lease: LEASE,
        ..crate::claim(100)
    };
    store.queue().claim("q", claim).await.unwrap()
}

pub(crate) async fn settle(store: &Arc<dyn Store>, claimed: &Claimed) -> Result<(), Stale> {
    let done = Completion {
        lease: claimed.lease,
        outcome: Outcome::Done,
    };
    store.queue().settle("q", vec![done]).await.unwrap().remove(0)
}

async fn nodes(store: &Arc<dyn Store>) -> Vec<Node> {
    store.nodes().await.unwrap().unwrap()
}

/// Waits until the node of a process has been seen anew so often.
pub(crate) async fn beats(store: &Arc<dyn Store>, process: &str, times: usize) -> Node {
    let count = async {
        let (mut last, mut left) = (None, times);
        loop {
            let node = nodes(store).await.into_iter().find(|node| node.process == process);
            if let Some(node) = node.filter(|node| last.replace(node.last_seen) != Some(node.last_seen)) {
                if left == 0 {
                    return node;
                }
                left -= 1;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, count).await.expect("the node beats")
}

pub(crate) async fn what_a_killed_process_held_comes_back_after_its_heartbeat(place: &impl Place) {
    let killed = place.start(Process::new("killed"));
    put(&killed, &["a", "b"]).await;
    let held = claim(&killed).await;
    let (other, begun) = (place.start(Process::new("other")), Instant::now());
    assert!(claim(&other).await.is_empty(), "it is held");
    drop(killed);

    let (logs, _guard) = Logs::gather();
    let back = next(&other, "q").await;

    let took = begun.elapsed();
    assert!(took >= SHORT * 9 / 10, "found dead after {took:?}");
    assert_eq!((held.len(), back.len()), (2, 2));
    assert_eq!(
        settle(&other, &held[0]).await,
        Err(Stale),
        "the dead one's lease is worth nothing"
    );
    assert_eq!(settle(&other, &back[0]).await, Ok(()));
    assert_eq!(logs.count("WARN", "a node is dead"), 1);
    let [node] = &nodes(&other).await[..] else {
        panic!("{:?}", nodes(&other).await)
    };
    assert_eq!((node.process.as_str(), node.alive, node.held), ("other", true, 1));
    assert!(node.name.ends_with("-other"), "{node:?}");
    other.close().await.unwrap();
}

pub(crate) async fn who_starts_again_under_its_name_takes_back_at_once(place: &impl Place) {
    let killed = place.start(Process::named("killed", "worker-1"));
    let bystander = place.start(Process::named("bystander", "worker-2"));
    put(&killed, &["a", "b"]).await;
    let held = claim(&killed).await;
    put(&bystander, &["theirs"]).await;
    let theirs = claim(&bystander).await;
    drop(killed);

    let again = place.start(Process::named("again", "worker-1"));
    let back = claim(&again).await;

    assert_eq!(
        (held.len(), theirs.len(), back.len()),
        (2, 1, 2),
        "and nothing of anybody else's"
    );
    assert_eq!(settle(&again, &held[0]).await, Err(Stale), "the former self is fenced");
    assert_eq!(settle(&again, &back[0]).await, Ok(()));
    assert_eq!(settle(&bystander, &theirs[0]).await, Ok(()));
    let found = nodes(&again).await;
    let found: Vec<_> = found
        .iter()
        .map(|node| (node.name.as_str(), node.process.as_str(), node.held))
        .collect();
    assert_eq!(found, [("worker-2", "bystander", 0), ("worker-1", "again", 1)]);
    bystander.close().await.unwrap();
    again.close().await.unwrap();
}

async fn two_stores_of_one_process_may_share_its_name(place: &impl Place) {
    let (one, two) = (
        place.start(Process::named("p", "worker-1")),
        place.start(Process::named("p", "worker-1")),
    );
    put(&one, &["a"]).await;
    let held = claim(&one).await;

    assert!(claim(&two).await.is_empty(), "it is held");

    assert_eq!(settle(&one, &held[0]).await, Ok(()));
    assert_eq!(nodes(&two).await.len(), 2);
    one.close().await.unwrap();
    two.close().await.unwrap();
}

async fn a_closed_store_is_gone_and_its_leases_are_not(place: &impl Place) {
    let (one, two) = (
        place.start(Process::named("one", "one")),
        place.start(Process::named("two", "two")),
    );
    put(&one, &["a"]).await;
    let held = claim(&one).await;
    assert!(claim(&two).await.is_empty(), "it is held");

    one.close().await.unwrap();

    let left = nodes(&two).await;
    assert_eq!((left.len(), left[0].name.as_str()), (1, "two"));
    assert!(claim(&two).await.is_empty(), "what was not given back is held");
    assert_eq!(settle(&two, &held[0]).await, Ok(()), "by whoever has the lease");
    two.close().await.unwrap();
    let reader = place.start(Process::new("reader"));
    assert_eq!(nodes(&reader).await, [], "who only looks is no node");
    reader.close().await.unwrap();
}

async fn who_beats_keeps_what_it_holds(place: &impl Place) {
    let (one, two) = (place.start(Process::new("one")), place.start(Process::new("two")));
    put(&one, &["a"]).await;
    let held = claim(&one).await;
    assert!(claim(&two).await.is_empty());

    // Two periods and more.
    beats(&one, "two", 7).await;

    assert!(claim(&two).await.is_empty());
    assert_eq!(settle(&one, &held[0]).await, Ok(()));
    one.close().await.unwrap();
    two.close().await.unwrap();
}

async fn of_two_under_one_name_the_older_notices_and_both_go_on(place: &impl Place) {
    let (logs, _guard) = Logs::gather();
    let older = place.start(Process::named("older", "worker-1").beating(SHORT));
    put(&older, &["a"]).await;
    let held = claim(&older).await;

    let younger = place.start(Process::named("younger", "worker-1").beating(SHORT));
    let taken = claim(&younger).await;
    assert_eq!(
        settle(&older, &held[0]).await,
        Err(Stale),
        "who is fenced settles nothing"
    );
    let renamed = beats(&younger, "older", 0).await;

    assert_eq!((taken.len(), settle(&younger, &taken[0]).await), (1, Ok(())));
    assert_eq!(logs.count("ERROR", "give each process its own `node` in [store]"), 1);
    assert_eq!(logs.count("ERROR", "process=\"younger\""), 1);
    assert!(renamed.name.ends_with("-older"), "{renamed:?}");
    // Once and for all: neither takes from the other any more.
    put(&older, &["b"]).await;
    let held = claim(&older).await;
    beats(&younger, "younger", 5).await;
    assert!(claim(&younger).await.is_empty());
    assert_eq!(settle(&older, &held[0]).await, Ok(()));
    assert_eq!(logs.count("ERROR", ""), 1);
    older.close().await.unwrap();
    younger.close().await.unwrap();
}

/// The same on SQLite and on PostgreSQL.
macro_rules! on_each_store {
    ($($statement:ident),+ $(,)?) => {
        #[cfg(feature = "sqlite")]
        mod sqlite {
            $(
                #[tokio::test]
                async fn $statement() {
                    super::$statement(&tempfile::tempdir().unwrap()).await;
                }
            )+
        }

        #[cfg(feature = "postgres")]
        mod postgres {
            $(
                #[tokio::test]
                async fn $statement() {
                    let Some(server) = crate::postgres::Server::find(stringify!($statement)).await else {
                        return;
                    };
                    super::$statement(&server).await;
                    server.drop().await;
                }
            )+
        }
    };
}

on_each_store!(
    what_a_killed_process_held_comes_back_after_its_heartbeat,
    who_starts_again_under_its_name_takes_back_at_once,
    two_stores_of_one_process_may_share_its_name,
    a_closed_store_is_gone_and_its_leases_are_not,
    who_beats_keeps_what_it_holds,
    of_two_under_one_name_the_older_notices_and_both_go_on,
);

#[cfg(feature = "sqlite")]
impl Place for tempfile::TempDir {
    fn start(&self, process: Process) -> Arc<dyn Store> {
        crate::sqlite::open_with(self.path(), |config| {
            config.process = Some(process.id.to_owned());
            config.node = process.node.map(str::to_owned);
            config.heartbeat = Period(process.heartbeat);
        })
    }
}
