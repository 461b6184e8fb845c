//! What waits can be taken out, and nothing else with it.

use super::super::*;
use super::waiting::{ids, keyed, places, see_all};
use crate::store::{Enqueued, Place};

pub(super) async fn battery(store: &dyn Store) {
    an_item_whose_lease_ran_out_waits(store).await;
    what_is_withdrawn_is_gone_and_nothing_else(store).await;
    a_leased_item_cannot_be_withdrawn(store).await;
    a_withdrawn_head_lets_its_followers_go(store).await;
    withdrawals_and_claims_share_nothing(store).await;
}

async fn withdraw(store: &dyn Store, queue: &str, places: &[Place]) -> Vec<u64> {
    let mut rows = store
        .queue()
        .withdraw(queue, places)
        .await
        .expect("a working store withdraws");
    rows.sort_unstable();
    rows
}

fn rows(places: &[Place]) -> Vec<u64> {
    let mut rows: Vec<_> = places.iter().map(|place| place.row).collect();
    rows.sort_unstable();
    rows
}

async fn an_item_whose_lease_ran_out_waits(store: &dyn Store) {
    let queue = name("see-expired");
    put(store, &queue, vec![item("a")]).await;
    let claimed = take_briefly(store, &queue, 1).await;
    same(
        see_all(store, &queue, 10).await.len(),
        0,
        "what is leased does not wait",
    );

    let end = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while seen.is_empty() {
        assert!(Instant::now() < end, "an item whose lease ran out is seen");
        sleep(Duration::from_millis(20)).await;
        seen = see_all(store, &queue, 10).await;
    }
    let withdrawn = withdraw(store, &queue, &places(&seen)).await;

    same(withdrawn, vec![claimed[0].lease.row], "it can be withdrawn");
    same(
        settle(store, &queue, claimed[0].lease, Outcome::Done).await,
        Err(Stale),
        "who held the lease has lost it",
    );
}

async fn what_is_withdrawn_is_gone_and_nothing_else(store: &dyn Store) {
    let queue = name("withdraw");
    let mut later = Item {
        dedupe: Some("k".into()),
        ..item("later")
    };
    later.run_at = Some(SystemTime::now() + LONG);
    put(store, &queue, vec![item("a"), item("b"), later.clone(), item("c")]).await;
    let seen = see_all(store, &queue, 10).await;
    let chosen: Vec<_> = seen
        .iter()
        .filter(|waiting| matches!(waiting.item.id.as_str(), "b" | "later"))
        .map(|waiting| waiting.place)
        .collect();

    let elsewhere = withdraw(store, &name("withdraw-other"), &chosen).await;
    let gone = withdraw(store, &queue, &chosen).await;
    let again = withdraw(store, &queue, &chosen).await;

    same(elsewhere, Vec::new(), "a place is one of its own queue");
    same(gone, rows(&chosen), "who withdraws learns what was removed");
    same(again, Vec::new(), "what is gone is not removed again");
    same(
        withdraw(store, &queue, &[]).await,
        Vec::new(),
        "nothing is asked for, nothing removed",
    );
    same(
        ids(&see_all(store, &queue, 10).await),
        vec!["a", "c"],
        "nothing else is removed",
    );
    let stored = store.queue().enqueue(&queue, vec![later]).await;
    same(
        stored.expect("a working store takes items"),
        vec![Enqueued::New],
        "a withdrawal frees the dedupe key",
    );
    let depth = store.queue().depth(&queue).await.expect("a working store counts");
    same((depth.ready, depth.delayed), (2, 1), "what is withdrawn is not counted");
}

async fn a_leased_item_cannot_be_withdrawn(store: &dyn Store) {
    let queue = name("withdraw-leased");
    put(store, &queue, vec![item("leased"), item("moved"), item("waits")]).await;
    let seen = see_all(store, &queue, 10).await;
    let claimed = take(store, &queue, 2).await;
    let later = Outcome::Retry {
        delay: LONG,
        attempts: Vec::new(),
    };
    let moved = settle(store, &queue, claimed[1].lease, later).await;

    let gone = withdraw(store, &queue, &places(&seen)).await;

    same(moved, Ok(()), "a lease can end in a retry");
    same(
        gone,
        vec![seen[2].place.row],
        "what was leased, or has another place since it was seen, is left alone",
    );
    same(
        settle(store, &queue, claimed[0].lease, Outcome::Done).await,
        Ok(()),
        "the lease holds",
    );
    same(
        ids(&see_all(store, &queue, 10).await),
        vec!["moved"],
        "what was moved is still there",
    );
}

async fn a_withdrawn_head_lets_its_followers_go(store: &dyn Store) {
    let queue = name("withdraw-head");
    let mut head = keyed("a1", "a");
    head.run_at = Some(SystemTime::now() + LONG);
    put(store, &queue, vec![head, keyed("a2", "a")]).await;
    same(
        take_ordered(store, &queue, 10).await.len(),
        0,
        "a delayed head holds its followers back",
    );
    let seen = see_all(store, &queue, 10).await;
    let head: Vec<_> = seen.iter().filter(|waiting| waiting.item.id == "a1").cloned().collect();
    let head = places(&head);
    let waits = async {
        loop {
            let claimed = take_ordered(store, &queue, 10).await;
            if !claimed.is_empty() {
                return payloads(&claimed);
            }
            store.queue().changed(&queue).await;
        }
    };

    let withdrawn = withdraw(store, &queue, &head);
    let (gone, claimed) = within("who waits for a follower is woken", async {
        tokio::join!(withdrawn, waits)
    })
    .await;

    same(gone.len(), 1, "a head can be withdrawn");
    same(claimed, vec!["a2".to_owned()], "its follower can be claimed");
    let keys = store
        .queue()
        .keys(&queue)
        .await
        .expect("a working store knows its keys");
    same(keys, vec![("a".into(), 1)], "what is withdrawn has no key any more");
}

async fn withdrawals_and_claims_share_nothing(store: &dyn Store) {
    let queue = name("withdraw-race");
    put(
        store,
        &queue,
        (0..200).map(|number| item(&number.to_string())).collect(),
    )
    .await;
    let seen = see_all(store, &queue, 1_000).await;
    let all = places(&seen);

    let withdrawals = futures::future::join_all(all.chunks(20).map(|part| withdraw(store, &queue, part)));
    let twice = futures::future::join_all(all.chunks(33).map(|part| withdraw(store, &queue, part)));
    let claims = futures::future::join_all((0..10).map(|_| take(store, &queue, 9)));
    let (withdrawn, twice, claimed) = tokio::join!(withdrawals, twice, claims);

    let mut known: Vec<u64> = withdrawn.into_iter().chain(twice).flatten().collect();
    known.extend(claimed.into_iter().flatten().map(|claimed| claimed.lease.row));
    let left = see_all(store, &queue, 1_000).await;
    known.extend(places(&left).iter().map(|place| place.row));
    known.sort_unstable();
    same(
        known,
        rows(&all),
        "an item is withdrawn by one, or leased by one, or still there; none is lost",
    );
}
