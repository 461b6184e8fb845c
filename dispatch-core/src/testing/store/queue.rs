use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::*;
use crate::store::Enqueued;

pub(super) async fn battery(store: &dyn Store) {
    an_item_comes_out_as_it_went_in(store).await;
    a_leased_item_is_hidden_and_a_done_one_is_gone(store).await;
    answers_come_per_entry_and_in_order(store).await;
    an_expired_lease_is_lost_to_the_next_claim(store).await;
    an_extended_lease_lasts(store).await;
    an_extension_touches_no_other_lease_of_its_claim(store).await;
    higher_priorities_go_first_then_the_longest_due(store).await;
    a_delayed_item_waits_for_its_time(store).await;
    a_delayed_item_of_high_priority_holds_nobody_back(store).await;
    a_dedupe_key_waits_once(store).await;
    a_returning_item_survives_its_dedupe_key(store).await;
    an_item_that_is_to_be_alone_is_dropped_beside_another(store).await;
    items_under_one_key_go_one_at_a_time(store).await;
    a_delayed_head_holds_its_key_back(store).await;
    a_release_counts_nothing(store).await;
    a_retry_keeps_history_and_counts_what_counts(store).await;
    queues_do_not_see_each_other(store).await;
    a_purge_spares_leased_items(store).await;
    depth_tells_ready_delayed_and_leased_apart(store).await;
    every_key_is_known_while_it_has_items(store).await;
    concurrent_claims_share_nothing(store).await;
    a_new_item_wakes_who_waits(store).await;
    a_due_item_wakes_who_waits(store).await;
    an_expired_lease_wakes_who_waits(store).await;
}

async fn an_item_comes_out_as_it_went_in(store: &dyn Store) {
    let queue = name("whole");
    let mut sent = item("whole");
    sent.payload = (0..=255).cycle().take(5000).collect::<Vec<u8>>().into();
    sent.headers = raw_headers();
    sent.metadata = raw_headers();
    sent.key = Some("a key".into());
    sent.priority = -7;
    sent.dedupe = Some("once".into());
    sent.deadline = Some(whole_micros(SystemTime::now() + LONG));
    sent.attempts = 3;
    sent.history = vec![attempt(3, &Error::retry("no \u{1F980}\n").with_code("503"))];
    let mut bare = item("bare");
    bare.payload = Bytes::new();

    put(store, &queue, vec![sent.clone(), bare.clone()]).await;
    let mut claimed = take(store, &queue, 10).await;
    claimed.sort_by_key(|claimed| claimed.item.priority);

    same(claimed.len(), 2, "every item that was enqueued can be claimed");
    for (sent, claimed) in [sent, bare].iter_mut().zip(claimed) {
        sent.run_at = claimed.item.run_at;
        same(&claimed.item, sent, "an item comes out byte for byte as it went in");
    }
}

async fn a_leased_item_is_hidden_and_a_done_one_is_gone(store: &dyn Store) {
    let queue = name("done");
    put(store, &queue, vec![item("a")]).await;

    let claimed = take(store, &queue, 10).await;
    let hidden = take(store, &queue, 10).await;
    let settled = settle(store, &queue, claimed[0].lease, Outcome::Done).await;
    let again = settle(store, &queue, claimed[0].lease, Outcome::Done).await;

    same(hidden.len(), 0, "a leased item is given to nobody else");
    same(settled, Ok(()), "the holder of a lease can settle it");
    same(again, Err(Stale), "a lease can be settled only once");
    same(take(store, &queue, 10).await.len(), 0, "an item that is done is gone");
}

async fn answers_come_per_entry_and_in_order(store: &dyn Store) {
    let queue = name("answers");
    put(store, &queue, ["a", "b", "c"].map(item).into()).await;
    let leases: Vec<_> = take(store, &queue, 10)
        .await
        .iter()
        .map(|claimed| claimed.lease)
        .collect();
    same(
        settle(store, &queue, leases[1], Outcome::Done).await,
        Ok(()),
        "one of a claim can be settled alone",
    );
    let stranger = Lease {
        row: leases[0].row,
        fence: leases[0].fence ^ 1,
    };

    let extended = store
        .queue()
        .extend(&queue, vec![leases[2], leases[1], stranger], LONG)
        .await
        .expect("a working store extends");
    let batch = [stranger, leases[0], leases[1], leases[2]].map(|lease| Completion {
        lease,
        outcome: Outcome::Done,
    });
    let settled = store
        .queue()
        .settle(&queue, batch.into())
        .await
        .expect("a working store settles");

    same(
        extended,
        vec![Ok(()), Err(Stale), Err(Stale)],
        "each extension gets its own answer, in order",
    );
    same(
        settled,
        vec![Err(Stale), Ok(()), Err(Stale), Ok(())],
        "each settlement gets its own answer, in order",
    );
}

async fn an_expired_lease_is_lost_to_the_next_claim(store: &dyn Store) {
    let queue = name("fence");
    put(store, &queue, vec![item("a")]).await;
    let claim = Claim {
        max: 1,
        lease: SHORT,
        ordered: false,
        below: None,
    };
    let old = store
        .queue()
        .claim(&queue, claim)
        .await
        .expect("a working store leases")[0]
        .clone();

    let new = take_eventually(store, &queue, "an item whose lease ran out can be claimed again").await;
    let failed = Outcome::Retry {
        delay: Duration::ZERO,
        attempts: vec![attempt(1, &Error::retry("late"))],
    };
    let stale = [
        settle(store, &queue, old.lease, Outcome::Done).await,
        settle(store, &queue, old.lease, failed).await,
        settle(store, &queue, old.lease, Outcome::Release).await,
        extend(store, &queue, old.lease, LONG).await,
    ];

    same(
        stale,
        [Err(Stale); 4],
        "whoever lost a lease can neither settle nor extend it",
    );
    same(
        &new[0].item.payload,
        &old.item.payload,
        "the next claim gets the same item",
    );
    same(new[0].item.attempts, 0, "a lease that ran out is no attempt");
    same(
        take(store, &queue, 1).await.len(),
        0,
        "a stale settlement leaves the item leased",
    );
    same(
        settle(store, &queue, new[0].lease, Outcome::Release).await,
        Ok(()),
        "the new lease holds",
    );
    let kept = take_eventually(store, &queue, "a released item comes back").await;
    same(
        &kept[0].item.history,
        &old.item.history,
        "a stale settlement leaves no trace",
    );
}

async fn an_extended_lease_lasts(store: &dyn Store) {
    let queue = name("extend");
    put(store, &queue, ["kept", "lost"].map(item).into()).await;
    let claim = Claim {
        max: 1,
        lease: SHORT,
        ordered: false,
        below: None,
    };
    let kept = store
        .queue()
        .claim(&queue, claim)
        .await
        .expect("a working store leases")[0]
        .clone();
    let lost = store
        .queue()
        .claim(&queue, claim)
        .await
        .expect("a working store leases")[0]
        .clone();

    same(
        extend(store, &queue, kept.lease, LONG).await,
        Ok(()),
        "a live lease can be extended",
    );
    let back = take_eventually(store, &queue, "a lease that nobody extends runs out").await;

    same(back.len(), 1, "an extended lease does not run out at its old end");
    same(
        &back[0].item.id,
        &lost.item.id,
        "the item that comes back is the one that was not extended",
    );
    same(
        settle(store, &queue, kept.lease, Outcome::Done).await,
        Ok(()),
        "an extended lease can be settled",
    );
}

async fn an_extension_touches_no_other_lease_of_its_claim(store: &dyn Store) {
    let queue = name("extend-one");
    put(store, &queue, ["kept", "lost"].map(item).into()).await;
    let claim = Claim {
        max: 2,
        lease: SHORT,
        ordered: false,
        below: None,
    };
    let claimed = store
        .queue()
        .claim(&queue, claim)
        .await
        .expect("a working store leases");

    same(
        extend(store, &queue, claimed[0].lease, LONG).await,
        Ok(()),
        "a live lease can be extended",
    );
    let back = take_eventually(
        store,
        &queue,
        "a lease runs out although another of its claim was extended",
    )
    .await;

    same(
        payloads(&back),
        payloads(&claimed[1..]),
        "only the lease that was named is extended",
    );
    same(
        settle(store, &queue, claimed[0].lease, Outcome::Done).await,
        Ok(()),
        "the extended lease still holds",
    );
    same(
        settle(store, &queue, claimed[1].lease, Outcome::Done).await,
        Err(Stale),
        "the other one is lost",
    );
}

async fn higher_priorities_go_first_then_the_longest_due(store: &dyn Store) {
    let queue = name("priority");
    let now = SystemTime::now();
    let with = |payload, priority, ago| {
        let mut item = item(payload);
        item.priority = priority;
        item.run_at = Some(now - Duration::from_secs(ago));
        item
    };
    let items = vec![
        with("low", -1, 90),
        with("new", 0, 10),
        with("old", 0, 60),
        with("twin", 0, 60),
        with("high", 5, 1),
    ];

    put(store, &queue, items).await;
    let mut order = Vec::new();
    for max in [1, 2, 10] {
        order.extend(payloads(&take(store, &queue, max).await));
    }

    same(
        order,
        ["high", "old", "twin", "new", "low"].map(String::from).into(),
        "the highest priority goes first, then the longest due, then the oldest",
    );
}

async fn a_delayed_item_waits_for_its_time(store: &dyn Store) {
    let queue = name("delay");
    let mut later = item("later");
    later.run_at = Some(SystemTime::now() + SHORT * 2);
    put(store, &queue, vec![later, item("now")]).await;

    let first = take(store, &queue, 10).await;
    let second = take_eventually(store, &queue, "a delayed item can be claimed once it is due").await;

    same(
        payloads(&first),
        vec!["now".to_owned()],
        "a delayed item is not claimable before its time",
    );
    same(
        payloads(&second),
        vec!["later".to_owned()],
        "what comes later is the delayed item",
    );
}

async fn a_delayed_item_of_high_priority_holds_nobody_back(store: &dyn Store) {
    let queue = name("delay-priority");
    let mut later = item("later");
    later.priority = 9;
    later.run_at = Some(SystemTime::now() + LONG);
    put(store, &queue, vec![later, item("now")]).await;

    same(
        payloads(&take(store, &queue, 10).await),
        vec!["now".to_owned()],
        "an item that is not due does not hide due ones of lower priority",
    );
}

async fn a_dedupe_key_waits_once(store: &dyn Store) {
    let queue = name("dedupe");
    let keyed = |payload| Item {
        dedupe: Some("k".into()),
        ..item(payload)
    };
    let enqueue = async |items| {
        store
            .queue()
            .enqueue(&queue, items)
            .await
            .expect("a working store takes items")
    };

    let first = enqueue(vec![keyed("a"), keyed("b"), item("c")]).await;
    let second = enqueue(vec![keyed("d")]).await;
    let claimed = take(store, &queue, 10).await;
    let third = enqueue(vec![keyed("e")]).await;

    use Enqueued::{Duplicate, New};
    same(first, vec![New, Duplicate, New], "a dedupe key counts within one batch");
    same(second, vec![Duplicate], "a dedupe key that waits is not stored again");
    same(
        payloads(&claimed),
        vec!["a".to_owned(), "c".to_owned()],
        "a duplicate is not stored",
    );
    same(third, vec![New], "a dedupe key is free again once its item is leased");
    let other = name("dedupe-other");
    let elsewhere = store
        .queue()
        .enqueue(&other, vec![keyed("f")])
        .await
        .expect("a working store takes items");
    same(elsewhere, vec![New], "a dedupe key counts within its queue alone");
}

async fn a_returning_item_survives_its_dedupe_key(store: &dyn Store) {
    let queue = name("dedupe-return");
    let keyed = |payload| Item {
        dedupe: Some("k".into()),
        ..item(payload)
    };
    put(store, &queue, vec![keyed("a")]).await;
    let claimed = take(store, &queue, 10).await;
    put(store, &queue, vec![keyed("b")]).await;

    let released = settle(store, &queue, claimed[0].lease, Outcome::Release).await;
    let mut back = payloads(&take(store, &queue, 10).await);
    back.sort();

    same(
        released,
        Ok(()),
        "an item can come back although its dedupe key was taken meanwhile",
    );
    same(
        back,
        vec!["a".to_owned(), "b".to_owned()],
        "an item that comes back to a taken dedupe key is not lost",
    );
}

async fn an_item_that_is_to_be_alone_is_dropped_beside_another(store: &dyn Store) {
    use Enqueued::{Duplicate, New};
    let queue = name("alone");
    let keyed = |payload, key: &'static str| Item {
        key: Some(key.into()),
        ..item(payload)
    };
    let alone = |payload, key| Item {
        alone: true,
        ..keyed(payload, key)
    };
    let enqueue = async |items| {
        let answers = store.queue().enqueue(&queue, items).await;
        answers.expect("a working store takes items")
    };
    let keyless = Item {
        alone: true,
        ..item("keyless")
    };
    let twice = Item {
        dedupe: Some("k".into()),
        ..keyed("dedupe", "d")
    };
    same(
        enqueue(vec![
            alone("a1", "a"),
            alone("a2", "a"),
            keyed("b1", "b"),
            alone("b2", "b"),
            keyed("a3", "a"),
            keyless.clone(),
            keyless,
            twice.clone(),
            twice,
        ])
        .await,
        vec![New, Duplicate, New, Duplicate, New, New, New, New, Duplicate],
        "an item that is to be alone is dropped beside one of its key that came before it in a batch",
    );
    same(
        enqueue(vec![alone("a4", "a"), alone("c1", "c")]).await,
        vec![Duplicate, New],
        "an item that is to be alone is dropped beside one of its key that waits",
    );
    let dropped = Item {
        dedupe: Some("k".into()),
        ..keyed("dropped", "e")
    };
    same(
        enqueue(vec![dropped, alone("e1", "e")]).await,
        vec![Duplicate, New],
        "what a dedupe key has dropped is no company",
    );

    let claimed = take(store, &queue, 10).await;
    same(claimed.len(), 8, "what was dropped is not there");
    same(
        claimed.iter().all(|claimed| !claimed.item.alone),
        true,
        "it is asked on the way in alone",
    );
    same(
        enqueue(vec![alone("c2", "c")]).await,
        vec![Duplicate],
        "an item that is to be alone is dropped beside one of its key that is leased",
    );
    for claimed in claimed {
        let done = settle(store, &queue, claimed.lease, Outcome::Done).await;
        same(done, Ok(()), "a lease holds");
    }
    same(
        enqueue(vec![alone("c3", "c")]).await,
        vec![New],
        "an item that is to be alone is stored once its like is done",
    );
}

async fn items_under_one_key_go_one_at_a_time(store: &dyn Store) {
    let queue = name("ordered");
    let keyed = |payload, key: &'static str| Item {
        key: Some(key.into()),
        ..item(payload)
    };
    let mut urgent = keyed("a2", "a");
    urgent.priority = 9;
    put(
        store,
        &queue,
        vec![keyed("a1", "a"), urgent, keyed("b1", "b"), item("free"), item("free")],
    )
    .await;

    let mut heads = take_ordered(store, &queue, 10).await;
    heads.sort_by_key(|claimed| claimed.item.id.clone());
    let none = take_ordered(store, &queue, 10).await;
    let retried = Outcome::Retry {
        delay: Duration::ZERO,
        attempts: vec![attempt(1, &Error::retry("no"))],
    };
    same(
        settle(store, &queue, heads[0].lease, retried).await,
        Ok(()),
        "a head can be retried",
    );
    let again = take_ordered(store, &queue, 10).await;
    same(
        settle(store, &queue, again[0].lease, Outcome::Done).await,
        Ok(()),
        "a head can be done",
    );
    let follower = take_ordered(store, &queue, 10).await;

    same(
        payloads(&heads),
        ["a1", "b1", "free", "free"].map(String::from).into(),
        "one item a key goes out, the oldest, and every one without a key",
    );
    same(none.len(), 0, "a leased head holds its followers back");
    same(
        payloads(&again),
        vec!["a1".to_owned()],
        "a failed head goes again before its followers",
    );
    same(
        payloads(&follower),
        vec!["a2".to_owned()],
        "the follower goes once its head is done",
    );
}

async fn a_delayed_head_holds_its_key_back(store: &dyn Store) {
    let queue = name("ordered-delay");
    let keyed = |payload, key: &'static str| Item {
        key: Some(key.into()),
        ..item(payload)
    };
    let mut head = keyed("a1", "a");
    head.run_at = Some(SystemTime::now() + LONG);
    put(store, &queue, vec![head, keyed("a2", "a"), keyed("b1", "b")]).await;

    same(
        payloads(&take_ordered(store, &queue, 10).await),
        vec!["b1".to_owned()],
        "a delayed head holds its own followers back and nobody else",
    );
    same(
        payloads(&take(store, &queue, 10).await),
        vec!["a2".to_owned()],
        "keys mean nothing to a claim that does not ask for order",
    );
}

async fn a_release_counts_nothing(store: &dyn Store) {
    let queue = name("release");
    put(store, &queue, vec![item("a")]).await;
    let first = take(store, &queue, 1).await;

    let released = settle(store, &queue, first[0].lease, Outcome::Release).await;
    let second = take(store, &queue, 1).await;

    same(released, Ok(()), "a lease can be released");
    same(
        payloads(&second),
        vec!["a".to_owned()],
        "a released item is claimable at once",
    );
    same(
        (second[0].item.attempts, second[0].item.history.len()),
        (0, 0),
        "a release is no attempt",
    );
    assert_ne!(
        first[0].lease, second[0].lease,
        "every lease of an item has a fence of its own"
    );
}

async fn a_retry_keeps_history_and_counts_what_counts(store: &dyn Store) {
    let queue = name("retry");
    put(store, &queue, vec![item("a")]).await;
    let first = take(store, &queue, 1).await;
    let attempts = vec![
        attempt(1, &Error::retry("refused \u{0}").with_code("500")),
        attempt(2, &Error::unavailable("down")),
        attempt(2, &Error::throttled(Some(LONG), "slow")),
        attempt(2, &Error::permanent("never")),
    ];
    let retry = Outcome::Retry {
        delay: SHORT,
        attempts: attempts.clone(),
    };

    same(
        settle(store, &queue, first[0].lease, retry).await,
        Ok(()),
        "a lease can end in a retry",
    );
    same(
        take(store, &queue, 1).await.len(),
        0,
        "a retried item waits for its delay",
    );
    let second = take_eventually(store, &queue, "a retried item comes back after its delay").await;

    same(
        second[0].item.attempts,
        2,
        "only attempts of a class that counts are counted",
    );
    same(&second[0].item.history, &attempts, "a retry keeps every attempt");
    same(
        &second[0].item.payload,
        &first[0].item.payload,
        "a retry keeps the payload",
    );
    let once_more = Outcome::Retry {
        delay: Duration::ZERO,
        attempts: attempts[..1].to_vec(),
    };
    same(
        settle(store, &queue, second[0].lease, once_more).await,
        Ok(()),
        "a retry can follow a retry",
    );
    let third = take_eventually(store, &queue, "a retry without delay comes back").await;
    same(
        (third[0].item.attempts, third[0].item.history.len()),
        (3, 5),
        "attempts add up over retries",
    );
}

async fn queues_do_not_see_each_other(store: &dyn Store) {
    let (one, two) = (name("one"), name("two"));
    put(store, &one, vec![item("a")]).await;

    same(
        take(store, &two, 10).await.len(),
        0,
        "an item is in its own queue alone",
    );
    let claimed = take(store, &one, 10).await;
    same(
        settle(store, &two, claimed[0].lease, Outcome::Done).await,
        Err(Stale),
        "a lease holds in its own queue",
    );
    same(
        settle(store, &one, claimed[0].lease, Outcome::Done).await,
        Ok(()),
        "a lease holds in its own queue",
    );
}

async fn a_purge_spares_leased_items(store: &dyn Store) {
    let queue = name("purge");
    let mut later = Item {
        dedupe: Some("k".into()),
        ..item("later")
    };
    later.run_at = Some(SystemTime::now() + LONG);
    put(store, &queue, vec![item("leased"), item("ready"), later]).await;
    let claimed = take(store, &queue, 1).await;

    let purged = store.queue().purge(&queue).await.expect("a working store purges");

    same(purged, 2, "a purge takes what waits, due or not");
    same(
        take(store, &queue, 10).await.len(),
        0,
        "nothing is left to claim after a purge",
    );
    same(
        settle(store, &queue, claimed[0].lease, Outcome::Done).await,
        Ok(()),
        "a purge spares leased items",
    );
    let again = store
        .queue()
        .enqueue(
            &queue,
            vec![Item {
                dedupe: Some("k".into()),
                ..item("new")
            }],
        )
        .await;
    same(
        again.expect("a working store takes items"),
        vec![Enqueued::New],
        "a purge frees dedupe keys",
    );
}

async fn depth_tells_ready_delayed_and_leased_apart(store: &dyn Store) {
    let queue = name("depth");
    let depth = async || {
        store
            .queue()
            .depth(&queue)
            .await
            .expect("a working store knows its depth")
    };
    let empty = depth().await;
    let mut oldest = item("ready");
    oldest.created_at = whole_micros(SystemTime::now() - LONG);
    let mut later = item("later");
    later.run_at = Some(SystemTime::now() + LONG);
    put(
        store,
        &queue,
        vec![item("leased"), oldest.clone(), item("ready"), later],
    )
    .await;
    take(store, &queue, 1).await;

    let depth = depth().await;

    same(
        (empty.ready, empty.delayed, empty.leased, empty.oldest),
        (0, 0, 0, None),
        "an unknown queue is empty",
    );
    same(
        (depth.ready, depth.delayed, depth.leased),
        (2, 1, 1),
        "depth tells ready, delayed and leased apart",
    );
    same(
        depth.oldest,
        Some(oldest.created_at),
        "depth knows how long the oldest ready item has waited",
    );
}

async fn every_key_is_known_while_it_has_items(store: &dyn Store) {
    let queue = name("keys");
    let keys = async || {
        let keys = store.queue().keys(&queue).await;
        let mut keys = keys.expect("a working store knows its keys");
        keys.sort();
        keys
    };
    let key = |key: &str, id: &str| Item {
        key: Some(key.into()),
        ..item(id)
    };
    let mut delayed = key("b", "delayed");
    delayed.run_at = Some(SystemTime::now() + LONG);
    let empty = keys().await;
    put(
        store,
        &queue,
        vec![key("a", "leased"), key("a", "ready"), delayed, item("none")],
    )
    .await;
    let claimed = take(store, &queue, 1).await;

    let before = keys().await;
    let settled = settle(store, &queue, claimed[0].lease, Outcome::Done).await;
    let after = keys().await;

    same(empty, Vec::new(), "an unknown queue has no keys");
    same(
        before,
        vec![("a".into(), 2), ("b".into(), 1)],
        "leased and delayed items count under their keys",
    );
    same(settled, Ok(()), "the holder of a lease can settle it");
    same(
        after,
        vec![("a".into(), 1), ("b".into(), 1)],
        "what is done counts no more",
    );
}

async fn concurrent_claims_share_nothing(store: &dyn Store) {
    let queue = name("concurrent");
    put(
        store,
        &queue,
        (0..100).map(|number| item(&number.to_string())).collect(),
    )
    .await;

    let end = Instant::now() + PATIENCE;
    let mut ids = Vec::new();
    while ids.len() < 100 {
        assert!(Instant::now() < end, "concurrent claims find every item in the end");
        let claims = futures::future::join_all((0..8).map(|_| take(store, &queue, 7))).await;
        ids.extend(claims.into_iter().flatten().map(|claimed| claimed.item.id));
    }
    ids.sort();
    ids.dedup();

    same(ids.len(), 100, "concurrent claims never get the same item");
}

async fn a_new_item_wakes_who_waits(store: &dyn Store) {
    let queue = name("wake");
    take(store, &queue, 1).await;

    // Polled first, `changed` is waiting by the time the item comes.
    let woken = async {
        while take(store, &queue, 1).await.is_empty() {
            store.queue().changed(&queue).await;
        }
        Instant::now()
    };
    let send = async {
        put(store, &queue, vec![item("a")]).await;
        Instant::now()
    };
    let (woken, sent) = within("a new item wakes who waits for it", async { tokio::join!(woken, send) }).await;

    let late = woken.saturating_duration_since(sent);
    assert!(
        late < Duration::from_secs(1),
        "a new item wakes promptly, not after {late:?}"
    );
}

async fn a_due_item_wakes_who_waits(store: &dyn Store) {
    let queue = name("wake-due");
    let mut later = item("later");
    later.run_at = Some(SystemTime::now() + SHORT);
    put(store, &queue, vec![later]).await;

    wakes_when_short_has_passed(store, &queue, "a delayed item wakes who waits once it is due").await;
}

async fn an_expired_lease_wakes_who_waits(store: &dyn Store) {
    let queue = name("wake-lease");
    put(store, &queue, vec![item("a")]).await;
    let claim = Claim {
        max: 1,
        lease: SHORT,
        ordered: false,
        below: None,
    };
    let claimed = store
        .queue()
        .claim(&queue, claim)
        .await
        .expect("a working store leases");
    same(claimed.len(), 1, "an item can be claimed");

    wakes_when_short_has_passed(store, &queue, "a lease that runs out wakes who waits").await;
}

async fn wakes_when_short_has_passed(store: &dyn Store, queue: &str, sentence: &str) {
    let start = Instant::now();
    let mut wakes = 0;
    within(sentence, async {
        while take(store, queue, 1).await.is_empty() {
            store.queue().changed(queue).await;
            wakes += 1;
        }
    })
    .await;

    let late = start.elapsed().saturating_sub(SHORT);
    assert!(late < Duration::from_secs(1), "{sentence} promptly, not {late:?} late");
    assert!(wakes < 50, "waiting is not spinning: {wakes} wakes for one item");
}
