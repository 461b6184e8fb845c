//! Who goes first, and who waits for whom.

use super::super::*;

pub(super) async fn battery(store: &dyn Store) {
    higher_priorities_go_first_then_the_longest_due(store).await;
    a_delayed_item_waits_for_its_time(store).await;
    a_delayed_item_of_high_priority_holds_nobody_back(store).await;
    items_under_one_key_go_one_at_a_time(store).await;
    a_delayed_head_holds_its_key_back(store).await;
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
