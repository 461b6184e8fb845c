//! Who waits is woken.

use super::super::*;

pub(super) async fn battery(store: &dyn Store) {
    a_new_item_wakes_who_waits(store).await;
    a_due_item_wakes_who_waits(store).await;
    an_expired_lease_wakes_who_waits(store).await;
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
    let claimed = take_briefly(store, &queue, 1).await;
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
